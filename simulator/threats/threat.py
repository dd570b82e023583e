"""What a threat is, and the numbers that describe one."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def checked_radius(value) -> Float[Array, "..."]:
    """A radius as an array; one that is traced already stays as it is.  Raises `ValueError` if it is no radius."""
    if isinstance(value, (int, float, np.ndarray, np.number)):
        if not np.all(np.isfinite(value) & (np.asarray(value) >= 0)):
            raise ValueError(f"radius is {value}, but a threat needs a finite radius >= 0, in the units of the data")
        return jnp.asarray(value, jnp.result_type(float) if isinstance(value, int) else None)
    return value


def checked_share(value) -> Float[Array, "..."]:
    """The same of a part of the radius.  Raises `ValueError` unless 0 <= share <= 1."""
    if isinstance(value, (int, float, np.ndarray, np.number)):
        if not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
            raise ValueError(f"share is {value}, but it is a part of the radius: give 0 <= share <= 1")
        return jnp.asarray(value, jnp.result_type(float) if isinstance(value, int) else None)
    return value


class Threat(eqx.Module):
    """A set B of perturbations that contains 0; all vectors are [d], in the units of the data."""

    radius: eqx.AbstractVar[Float[Array, "..."] | float]
    symmetric: ClassVar[bool] = False
    """Whether -B = B, so that h(-w) = h(w) and nobody computes both."""

    @abc.abstractmethod
    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        """h(w) = max of <w, delta> over the convex hull of B: for a ball, the radius times the dual norm of w."""

    @abc.abstractmethod
    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """A member of B at which <w, delta> = h(w); the zero vector where w leaves it undefined (w = 0)."""

    @abc.abstractmethod
    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        """The member of B nearest to delta in the Euclidean norm (of a union, ties go to the lowest index)."""

    def uphill(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """A step that increases <w, .>, such that steps and projections in turn come to rest at `worst` only."""
        return self.worst(w)

    def nearest(self, point: Float[Array, " d"]) -> Float[Array, " d"]:
        """The member of the convex hull of B nearest to a point in the Euclidean norm."""
        return self.project(point)

    def at(self, x: Float[Array, " d"], signal: Float[Array, " d"] | None = None) -> "Threat":
        """The set at one example; the same everywhere unless it is tied to the example or its signal direction."""
        return self

    def with_radius(self, radius: Float[Array, "..."]) -> "Threat":
        """The same kind of set at another radius; several of them if both are stacked."""
        return eqx.tree_at(lambda threat: threat.radius, self, radius)

    def scaled(self, share: Float[Array, ""]) -> "Threat":
        """The same kind of set at a share of the radius: share * B, unless the set is cut by the range of the data."""
        radius = jnp.asarray(self.radius)
        return self.with_radius(radius * share.astype(radius.dtype))

    def axes(self, dim: int) -> Float[Array, "k dim"]:
        """Directions that fix the set: every rotation that leaves them in place leaves the set as it is.

        Raises `ValueError` if there are none, because the set depends on the coordinates or is not placed yet.
        """
        raise ValueError(f"{type(self).__name__} depends on the coordinates: use it in the coordinates of the data")

    def with_axes(self, axes: Float[Array, "k r"]) -> "Threat":
        """The same set in a space in which its axes are these."""
        return self

    def least_through(self, weight: Float[Array, "h d"], row: Float[Array, " h"]) -> Float[Array, ""]:
        """The least of <weight^T row, delta> over B, -h(-weight^T row).

        A threat with few directions pushes those through `weight` instead of pulling the row back to d dimensions.
        """
        # Negated behind the product, where that costs a batch nothing.
        return -self.support(-(row @ weight))

    def worst_through(self, weight: Float[Array, "h d"], row: Float[Array, " h"]) -> Float[Array, " d"]:
        """The `worst` of weight^T row."""
        return self.worst(row @ weight)

    def pieces(self) -> "Threat | None":
        """The convex members of a union, stacked along a leading axis; None if the set is convex itself."""
        return None

    def _r(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.asarray(self.radius, w.dtype)
