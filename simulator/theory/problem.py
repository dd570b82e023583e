"""What both solvers read off the points and the threat at every step: residuals, margins and curvature."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.threats import Threat


class Place(NamedTuple):
    """Where a dual candidate a is."""

    u: Float[Array, " d"]
    """sum_i a_i z_i"""
    q: Float[Array, " d"]
    """u - P(u)"""
    along: Float[Array, " n"]
    """<q, z_i> - h(q): the worst-case margins of the classifier q."""


def residual(threat: Threat, u: Float[Array, " d"], scale: Float[Array, ""]) -> Float[Array, " d"]:
    """u - P(u), P the projection onto the hull of `scale` times the threat."""
    return u - threat.with_radius(scale * threat.radius).nearest(u)


class Problem(NamedTuple):
    """The points, the threat, and what both solvers read off them at every step."""

    points: Float[Array, "n d"]
    threat: Threat
    axes: Float[Array, "k d"] | None
    """Of a threat that is the same in every orthonormal basis which keeps them."""
    products: Float[Array, "n n"] | None
    """Of such a threat: the inner products of the points."""

    @staticmethod
    def of(points: Float[Array, "n d"], threat: Threat) -> "Problem":
        """With what pays to compute once.  Raises `ValueError` unless the threat is symmetric."""
        if not threat.symmetric:
            raise ValueError(f"{type(threat).__name__} is not symmetric: the solvers need -B = B")
        try:
            axes = threat.axes(points.shape[1]).astype(points.dtype)
        except ValueError:
            axes = None
        # Axes that fill the space leave nothing to turn.
        turns = axes is not None and len(axes) < points.shape[1]
        return Problem(points, threat, axes, points @ points.T if turns else None)

    def place(self, a: Float[Array, " n"], scale: Float[Array, ""]) -> Place:
        """Where the candidate a is, against `scale` times the threat."""
        u = a @ self.points
        q = residual(self.threat, u, scale)
        return Place(u, q, self.points @ q - self.threat.support(q))

    def curvature(self, place: Place, scale: Float[Array, ""], shift: Float[Array, " d"]) -> Float[Array, "n n"]:
        """<z_i - shift, J (z_j - shift)>, J the derivative of u - P(u), which is symmetric.

        It is the derivative of <q, z_i> - h(q) by a_j: with the shift 0 where c stays, and with the shift P(u)/c where
        c grows with every a_j, since P(u)/c attains the support at q, so that dh(q) = <dq, P(u)>/c, and q changes with
        c by -J P(u)/c, both being second derivatives of |q|^2/2.

        Where rotations about the axes leave the threat as it is, those about the axes and u leave J as it is: it is a
        multiple of the identity but for the span of these, and n^2 d becomes n^2.
        """
        if self.axes is None or self.products is None:
            moved = self.points - shift[None]
            return self._change(place, scale)(moved) @ moved.T
        share, frame, excess = self._in_frame(self.axes, place, scale)
        seen = self.points @ jnp.concatenate([frame, shift[None]]).T
        inside, along = seen[:, :-1] - (frame @ shift)[None], seen[:, -1]
        moved = self.products - along[:, None] - along[None] + shift @ shift
        return share * moved + inside @ excess @ inside.T

    def root(self, place: Place, scale: Float[Array, ""], shift: Float[Array, " d"]) -> Float[Array, "n d"] | None:
        """M with M M^T the `curvature`, where that is cheap and makes systems smaller; else None."""
        if self.axes is None or self.products is None or len(self.points) <= self.points.shape[1]:
            return None
        share, frame, excess = self._in_frame(self.axes, place, scale)
        values, vectors = _eigen(share * jnp.eye(len(frame), dtype=frame.dtype) + excess)
        within = (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]) @ vectors.T
        moved, even = self.points - shift[None], jnp.sqrt(jnp.maximum(share, 0))
        inside = moved @ frame.T
        return even * moved + inside @ within @ frame - even * inside @ frame

    def _change(self, place: Place, scale: Float[Array, ""]) -> Callable[[Float[Array, "m d"]], Float[Array, "m d"]]:
        """J, of rows."""
        return jax.vmap(jax.linearize(lambda u: residual(self.threat, u, scale), place.u)[1])

    def _in_frame(self, axes: Array, place: Place, scale: Float[Array, ""]) -> tuple[Array, Array, Array]:
        """(share, F, E) with J = share I + F^T E F, the rows of F the axes and the direction of u across them."""
        frame = jnp.concatenate([axes, _across(axes, place.u)[None]])
        probe = _outside(frame)
        changes = self._change(place, scale)(jnp.concatenate([frame, probe[None]]))
        share = changes[-1] @ probe / jnp.maximum(probe @ probe, jnp.finfo(probe.dtype).tiny)
        return share, frame, (changes[:-1] - share * frame) @ frame.T


def _across(axes: Float[Array, "k d"], u: Float[Array, " d"]) -> Float[Array, " d"]:
    """The direction of u across orthonormal axes; 0 where there is none."""
    # Twice: where u almost lies along the axes, what is left after once is rounding, not orthogonal to them.
    for _ in range(2):
        u = u - (axes @ u) @ axes
        length = jnp.linalg.norm(u)
        u = u / jnp.where(length > 0, length, 1)
    return u


def _outside(frame: Float[Array, "k d"]) -> Float[Array, " d"]:
    """A vector orthogonal to the frame: what is left of the unit vector that it covers least."""
    least = jnp.argmin(jnp.sum(frame**2, axis=0))
    return jnp.zeros_like(frame[0]).at[least].set(1) - frame[:, least] @ frame


# One matrix at a time: a batch of them is given to the thread pool of the backend by a thread of the same pool, which
# then waits for it; two programs at once on a machine of two cores wait for ever (jaxlib 0.10).
@jax.custom_batching.sequential_vmap
def factor_of(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The lower Cholesky factor."""
    return jnp.linalg.cholesky(matrix, symmetrize_input=False)


@jax.custom_batching.sequential_vmap
def _eigen(matrix: Float[Array, "k k"]) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """Values and vectors."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@jax.custom_batching.sequential_vmap
def solve(factor: Float[Array, "n n"], right: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Of the system whose Cholesky factor this is."""
    return jax.scipy.linalg.cho_solve((factor, True), right)
