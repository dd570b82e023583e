"""One of several sets, chosen by a number."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.threats.threat import Threat, checked_radius


class OneOf(Threat):
    """The member at an `index`, which is a leaf: one program serves every member, whichever is asked for.

    All members are evaluated, at this set's own radius instead of theirs, and one result is kept, which costs little
    beside a network.  Raises `ValueError` without members, or for one that is a union or not symmetric.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
    members: tuple[Threat, ...]
    index: Int[Array, ""] | int
    symmetric = True

    def __check_init__(self):
        if not self.members:
            raise ValueError("there are no members: give at least one threat to choose from")
        unfit = [type(one).__name__ for one in self.members if one.pieces() is not None or not one.symmetric]
        if unfit:
            raise ValueError(f"{', '.join(unfit)} is a union or not symmetric: give convex, symmetric members only")

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._chosen([member.support(w) for member in self._placed()])

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._chosen([member.worst(w) for member in self._placed()])

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._chosen([member.project(delta) for member in self._placed()])

    def uphill(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._chosen([member.uphill(w) for member in self._placed()])

    def nearest(self, point: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._chosen([member.nearest(point) for member in self._placed()])

    def at(self, x: Float[Array, " d"], signal: Float[Array, " d"] | None = None) -> "OneOf":
        return OneOf(self.radius, tuple(member.at(x, signal) for member in self.members), self.index)

    def _placed(self) -> list[Threat]:
        return [member.with_radius(jnp.asarray(self.radius)) for member in self.members]

    def _chosen(self, values: list[Array]) -> Array:
        return jnp.stack(values)[self.index]
