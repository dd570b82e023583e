"""Tasks with a known signal: where the data come from and which way the truth changes.

A task is a pytree whose numbers (margin, noise, radii) are array leaves, so that a grid over them is one program, and
whose dimension is static.  Every task offers

- `sample(key, n) -> x [n, d], y [n]` with y in {-1, +1}, pure and keyed;
- `signal(x, y) -> [d]`, the unit vector from `x` along the shortest path to the ground-truth boundary;
- `axes()` and `folded_to(axes)`: the same law in the coordinates of a subspace (see `span`).

A *folded* task has the coordinates of a subspace of a larger space, and two more for the `folded` dimensions across
it, in which only lengths matter: the next to last is the component along the example's own part there, the last the
length of the rest.  So an example has (its norm there, 0) in these two.

```python
import jax.numpy as jnp, jax.random as jr
from simulator import data

task = data.LinearlySeparable(dim=3, margin=6.0)
x, y = task.sample(jr.key(0), 100)
assert jnp.allclose(x[:, 0], jnp.where(y > 0, 6.0, -6.0))  # the signal is the first coordinate
```

Source of both tasks: De Bartolomeis, "Certified defences hurt generalisation" (master thesis behind the ICBINB 2022
talk), sections 3.2 and 4.1.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray


def _check_dim(dim: int) -> None:
    if dim < 1:
        raise ValueError(f"dim is {dim}, but data need at least one dimension: give dim >= 1")


def _unit_vector(dim: int, dtype) -> Float[Array, " dim"]:
    return jnp.zeros(dim, dtype).at[0].set(1)


def _check_direction(direction: Float[Array, " d"], dim: int) -> None:
    if direction.shape != (dim,):
        raise ValueError(f"direction has shape {direction.shape}, but dim is {dim}: give a unit vector [{dim}]")


def _number(name: str):
    """A converter to an array leaf; concrete values must be finite and non-negative."""

    def convert(value):
        concrete = isinstance(value, (int, float, np.ndarray, np.number))
        if concrete and not np.all(np.isfinite(value) & (np.asarray(value) >= 0)):
            raise ValueError(f"{name} is {value}, but must be finite and not negative")
        return jnp.asarray(value, dtype=jnp.result_type(float) if isinstance(value, int) else None)

    return convert


def _labels(key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
    return 2 * jr.bernoulli(key, shape=(n,)).astype(jnp.int32) - 1


class Task(eqx.Module):
    """A distribution of labelled examples whose ground-truth boundary is known."""

    dim: eqx.AbstractVar[int]
    """Coordinates of an example."""
    folded: eqx.AbstractVar[int]
    """Dimensions the last two coordinates stand for; 0 if every coordinate is one dimension."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        """Draw n independent examples x [n, d] and labels y [n] in {-1, +1}, both classes equally likely."""

    @abc.abstractmethod
    def signal(self, x: Float[Array, " d"], y: Int[Array, ""]) -> Float[Array, " d"]:
        """The unit vector from x along the shortest path to the ground-truth boundary, given the true label y."""

    @abc.abstractmethod
    def axes(self) -> Float[Array, "k d"]:
        """Directions that every rotation which leaves the law of the data as it is leaves in place."""

    @abc.abstractmethod
    def folded_to(self, axes: Float[Array, "k m"]) -> "Task":
        """The law of the same examples in m - 2 coordinates of a subspace that holds `axes`, and two for the rest.

        `axes` are given in these m coordinates.  Raises `ValueError` unless m is less than the dimensions there are.
        """

    def isotropic(self, key: PRNGKeyArray, *lead: int) -> Float[Array, "*lead d"]:
        """Draws from N(0, I) of the whole space, in the coordinates of the task."""
        return _isotropic(key, (*lead, self.dim), self.folded)


def _isotropic(key: PRNGKeyArray, shape: tuple[int, ...], folded: int, dtype=None) -> Float[Array, "..."]:
    z = jr.normal(key, shape, jnp.result_type(float) if dtype is None else dtype)
    if not folded:
        return z
    rest = jnp.sqrt(jr.chisquare(jr.fold_in(key, 1), jnp.asarray(folded - 1, z.dtype), shape[:-1], z.dtype))
    return z.at[..., -1].set(rest)


def _examples(key: PRNGKeyArray, n: int, dim: int, folded: int, dtype) -> Float[Array, "n d"]:
    """Draws from N(0, I) of the whole space that are to be examples: of what is folded, all along the first of two."""
    z = _isotropic(key, (n, dim), folded, dtype)
    return z if not folded else z.at[:, -2].set(jnp.linalg.norm(z[:, -2:], axis=1)).at[:, -1].set(0)


def _folded(task: "Task", coordinates: int) -> int:
    """How many dimensions are left across all coordinates but the last two."""
    if task.folded:
        raise ValueError("the task is folded already: fold the one it came from")
    if coordinates >= task.dim:
        raise ValueError(f"{coordinates} coordinates are not fewer than the {task.dim} dimensions of the data")
    return task.dim - (coordinates - 2)


class LinearlySeparable(Task):
    r"""A noiseless signal along one direction, Gaussian noise in all others.

    x = margin * y * s + noise * (I - s s^T) z with z ~ N(0, I_d); the truth is sign(<s, x>), its boundary the
    hyperplane <s, x> = 0 at distance `margin` from every example, so the signal direction at (x, y) is -y s.

    Fields: `margin` (gamma, in units of x), `noise` (sigma, in units of x), `direction` (s, a unit vector [d]).

    **Source:** thesis section 3.2; the same law with r = 2 gamma in Clarysse et al. (2023), "Why adversarial training
    can hurt robust accuracy".
    """

    dim: int = eqx.field(static=True)
    margin: Float[Array, ""]
    noise: Float[Array, ""]
    direction: Float[Array, " d"]
    folded: int = eqx.field(static=True)

    def __init__(self, dim: int, margin=6.0, noise=1.0, direction=None, folded: int = 0):
        """`direction` defaults to the first coordinate; any other must be a unit vector of length `dim`.

        Raises `ValueError` if dim < 1, a number is negative or not finite, or `direction` has another length.
        """
        _check_dim(dim)
        self.dim = dim
        self.margin = _number("margin")(margin)
        self.noise = _number("noise")(noise)
        self.direction = _unit_vector(dim, self.margin.dtype) if direction is None else direction
        _check_direction(self.direction, dim)
        self.folded = folded

    def sample(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        label_key, noise_key = jr.split(key)
        y = _labels(label_key, n)
        s = self.direction
        z = _examples(noise_key, n, self.dim, self.folded, s.dtype)
        across = z - jnp.outer(z @ s, s)
        return self.margin * jnp.outer(y.astype(s.dtype), s) + self.noise * across, y

    def signal(self, x: Float[Array, " d"], y: Int[Array, ""]) -> Float[Array, " d"]:
        return -y.astype(self.direction.dtype) * self.direction

    def axes(self) -> Float[Array, "1 d"]:
        return self.direction[None]

    def folded_to(self, axes: Float[Array, "1 m"]) -> "LinearlySeparable":
        coordinates = axes.shape[1]
        return LinearlySeparable(coordinates, self.margin, self.noise, axes[0], _folded(self, coordinates))


class GaussianFeatures(Task):
    r"""Gaussian features without a margin, labelled without noise: x ~ N(0, I_d), y = sign(<s, x>).

    The signal direction at (x, y) is -y s, and the boundary <s, x> = 0 is at the distance |<s, x>| from an example.

    Field: `direction` (s, a unit vector [d]).

    **Source:** Donhauser et al. (2021), "Interpolation can hurt robust generalization even when there is no noise".
    """

    dim: int = eqx.field(static=True)
    direction: Float[Array, " d"]
    folded: int = eqx.field(static=True)

    def __init__(self, dim: int, direction=None, folded: int = 0):
        """`direction` defaults to the first coordinate; any other must be a unit vector of length `dim`.

        Raises `ValueError` if dim < 1 or `direction` has another length.
        """
        _check_dim(dim)
        self.dim = dim
        self.direction = _unit_vector(dim, jnp.result_type(float)) if direction is None else direction
        _check_direction(self.direction, dim)
        self.folded = folded

    def sample(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        x = _examples(key, n, self.dim, self.folded, self.direction.dtype)
        return x, jnp.where(x @ self.direction > 0, 1, -1)

    def signal(self, x: Float[Array, " d"], y: Int[Array, ""]) -> Float[Array, " d"]:
        return -y.astype(self.direction.dtype) * self.direction

    def axes(self) -> Float[Array, "1 d"]:
        return self.direction[None]

    def folded_to(self, axes: Float[Array, "1 m"]) -> "GaussianFeatures":
        coordinates = axes.shape[1]
        return GaussianFeatures(coordinates, axes[0], _folded(self, coordinates))


class ConcentricSpheres(Task):
    r"""Two classes uniform on two concentric spheres; **y = +1 is the inner sphere** (the thesis' convention).

    x = R_y z/|z| with z ~ N(0, I_d), R_{+1} = `inner` < R_{-1} = `outer`.  The truth is the sphere half way between,
    so the signal direction at (x, y) is y x/|x|: outward from the inner sphere, inward from the outer one.

    Fields: `inner` and `outer`, in units of x; `margin` = outer - inner (the papers' gamma).

    **Source:** thesis section 3.2.1.  Paper 2306.06995 (appendix) uses the opposite labels.
    """

    dim: int = eqx.field(static=True)
    inner: Float[Array, ""]
    outer: Float[Array, ""]
    folded: int = eqx.field(static=True)

    def __init__(self, dim: int, inner=1.0, outer=12.0, folded: int = 0):
        """Raises `ValueError` if dim < 1 or the radii are negative, not finite or not in order."""
        _check_dim(dim)
        self.dim = dim
        self.inner = _number("inner")(inner)
        self.outer = _number("outer")(outer)
        self.folded = folded
        concrete = not any(isinstance(radius, jax.core.Tracer) for radius in (self.inner, self.outer))
        if concrete and not bool(jnp.all(self.inner < self.outer)):
            raise ValueError(f"inner is {inner} and outer is {outer}: the inner radius must be the smaller one")

    @property
    def margin(self) -> Float[Array, ""]:
        """The papers' gamma: the gap between the two radii."""
        return self.outer - self.inner

    def sample(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        label_key, place_key = jr.split(key)
        y = _labels(label_key, n)
        z = _examples(place_key, n, self.dim, self.folded, self.inner.dtype)
        radius = jnp.where(y > 0, self.inner, self.outer)
        return (radius / jnp.linalg.norm(z, axis=1))[:, None] * z, y

    def signal(self, x: Float[Array, " d"], y: Int[Array, ""]) -> Float[Array, " d"]:
        norm = jnp.linalg.norm(x)
        # At the origin every direction is a shortest path; the zero vector says "undefined" to the alignment.
        return jnp.where(norm > 0, y.astype(x.dtype) * x / jnp.where(norm > 0, norm, 1), jnp.zeros_like(x))

    def axes(self) -> Float[Array, "0 d"]:
        return jnp.zeros((0, self.dim), self.inner.dtype)

    def folded_to(self, axes: Float[Array, "0 m"]) -> "ConcentricSpheres":
        coordinates = axes.shape[1]
        return ConcentricSpheres(coordinates, self.inner, self.outer, _folded(self, coordinates))


class OneOf(Task):
    """The member at an `index`, which is a leaf: one program serves every member.  It stays in its coordinates.

    Raises `ValueError` unless all members have the same dimension, none of it folded.
    """

    dim: int = eqx.field(static=True)
    members: tuple[Task, ...]
    index: Int[Array, ""] | int
    folded: int = eqx.field(static=True)

    def __init__(self, members: tuple[Task, ...], index: Int[Array, ""] | int):
        sizes = {(member.dim, member.folded) for member in members}
        if len(sizes) != 1 or max(sizes)[1]:
            raise ValueError(f"the members have (dim, folded) {sorted(sizes)}: give one dim, and nothing folded")
        self.dim, self.folded = sizes.pop()
        self.members, self.index = members, index

    def sample(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        x, y = zip(*(member.sample(key, n) for member in self.members), strict=True)
        return jnp.stack(x)[self.index], jnp.stack(y)[self.index]

    def signal(self, x: Float[Array, " d"], y: Int[Array, ""]) -> Float[Array, " d"]:
        return jnp.stack([member.signal(x, y) for member in self.members])[self.index]

    def axes(self) -> Float[Array, "k d"]:
        raise ValueError("which directions stay in place depends on the member: ask it")

    def folded_to(self, axes: Float[Array, "k m"]) -> "Task":
        raise ValueError("what a subspace holds depends on the member: fold it")
