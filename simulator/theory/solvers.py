"""Optimal linear classifiers without training: convex programs solved to a certified duality gap.

Points are z_i = y_i x_i, so that a classifier w (without a bias) has the worst-case margin

    m_i(w) = <w, z_i> - h(w)

at the i-th, h the support function of a symmetric threat B.  With `nearest` the Euclidean projection P onto the hull of
c B and u = sum_i a_i z_i, both duals measure how far u is from that hull,

    max over |w| <= 1 of min_i m_i(w)                      =  min over a in the simplex of |u - P(u)|,       c = 1,
    min over w of mean_i log(1 + exp(-m_i(w))) + lam |w|^2 =  max over 0 <= n a_i <= 1 of
                                       mean_i H(n a_i) - |u - P(u)|^2 / (4 lam),                c = sum_i a_i,

H(p) = -p log p - (1 - p) log(1 - p), since the maximum of <w, u> - c h(w) over |w| <= 1 is the distance of u to c B.
The optimal w points along u - P(u): from a dual candidate follow a classifier, its value, and a bound on the best one.
Both are solved by Newton's method with a matrix [n, n] a step, at a cost of n^2 d; `in_span` first makes d about n
where the threat is the same in every orthonormal basis.

**Source:** derived here; the first for l_inf in Donhauser et al. (2021), arXiv 2108.02883, appendix.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simulator.threats import Threat

_MAX_STEPS = 80


class Outcome(enum.IntEnum):
    """How a solve ended; the values of `Classifier.outcome`."""

    SOLVED = 0
    NOT_SEPARABLE = 1
    """The hull of the points meets the threat: no classifier has a positive worst-case margin."""
    NOT_CONVERGED = 2
    """The gap is still above the tolerance after the last step."""


class Classifier(NamedTuple):
    """A linear classifier and how good it provably is."""

    weight: Float[Array, " d"]
    """Maximum margin: a unit vector; logistic: the minimiser.  0 where nothing was found."""
    value: Float[Array, ""]
    """What `weight` attains: the smallest worst-case margin, or the regularised loss."""
    bound: Float[Array, ""]
    """What no classifier surpasses."""
    multipliers: Float[Array, " n"]
    """The dual candidate a behind both."""
    steps: Int[Array, ""]
    outcome: Int[Array, ""]
    """An `Outcome`."""

    @property
    def gap(self) -> Float[Array, ""]:
        """|bound - value| / bound: the certified relative error of the value; nan where both are 0."""
        return jnp.abs(self.bound - self.value) / jnp.abs(self.bound)


def _tolerance(dtype) -> float:
    return 1e-8 if dtype == jnp.float64 else 1e-4


def in_span(
    points: Float[Array, "n d"], threat: Threat, axes: Float[Array, "k d"] | None = None
) -> tuple[Float[Array, "n r"], Threat, Float[Array, "k r"]]:
    """The points, the threat and some further `axes` in an orthonormal basis of all of them, r <= n + k + directions.

    Optimal classifiers lie in that span: whatever of w is orthogonal to it changes no margin of the points, and does
    not lower h.  One reduction, O(d r^2); inner products with `axes` say all about the solution that a task with these
    axes asks for.  Raises `ValueError` for a threat that depends on the coordinates (`LInf`, `L1`).
    """
    own = threat.axes(points.shape[1]).astype(points.dtype)
    given = jnp.zeros((0, points.shape[1]), points.dtype) if axes is None else axes
    rows = jnp.concatenate([own, given, points])
    inside = rows if rows.shape[0] >= rows.shape[1] else _coordinates(rows)
    own_inside, axes_inside, points_inside = jnp.split(inside, [len(own), len(own) + len(given)])
    return points_inside, threat.with_axes(own_inside), axes_inside


def _coordinates(rows: Float[Array, "r d"]) -> Float[Array, "r r"]:
    """The rows in an orthonormal basis of their span: lower triangular.

    The Cholesky factor L of their inner products, which is one product of matrices, where the rows are so independent
    that squaring them costs digits nobody asks for: the relative error of a length in their hull is at most about
    eps |L|^2 |L^-1|^2.  Else by QR.
    """
    factor, one = _factor(rows @ rows.T), jnp.eye(len(rows), dtype=rows.dtype)
    inverse = jax.lax.linalg.triangular_solve(factor, one, left_side=True, lower=True)
    error = jnp.finfo(rows.dtype).eps * jnp.sum(factor**2) * jnp.sum(inverse**2)
    # Not "above": a factor that does not exist is no number.
    return jax.lax.cond(error < _tolerance(rows.dtype) / 100, lambda: factor, lambda: jnp.linalg.qr(rows.T, mode="r").T)


class _Place(NamedTuple):
    """Where a dual candidate a is."""

    q: Float[Array, " d"]
    """u - P(u)"""
    along: Float[Array, " n"]
    """<q, z_i> - h(q): the worst-case margins of the classifier q."""


def _residual(threat: Threat, u: Float[Array, " d"], scale: Float[Array, ""]) -> Float[Array, " d"]:
    """u - P(u), P the projection onto the hull of `scale` times the threat."""
    return u - threat.with_radius(scale * threat.radius).nearest(u)


def _place(points, threat, a, scale) -> _Place:
    q = _residual(threat, a @ points, scale)
    return _Place(q, points @ q - threat.support(q))


def _curvature(points, threat, a, scale, moves: Float[Array, ""]) -> Float[Array, "n n"]:
    """The derivative of <q, z_i> - h(q) by a_j, where c changes at the rate `moves` with every a_j; symmetric.

    h(q) = <q, P(u)>/c and P(u)/c attains the support at q, hence dh(q) = <dq, P(u)>/c.
    """
    u = a @ points
    q = _residual(threat, u, scale)
    worst = (u - q) / scale

    def change(z):
        return jax.jvp(lambda *where: _residual(threat, *where), (u, scale), (z, moves))[1]

    changes = jax.vmap(change)(points)
    return changes @ points.T - moves * (changes @ worst)[:, None]


# One matrix at a time: a batch of them is given to the thread pool of the backend by a thread of the same pool, which
# then waits for it; two programs at once on a machine of two cores wait for ever (jaxlib 0.10).
@jax.custom_batching.sequential_vmap
def _factor(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The lower Cholesky factor."""
    return jnp.linalg.cholesky(matrix, symmetrize_input=False)


@jax.custom_batching.sequential_vmap
def _solve(factor: Float[Array, "n n"], right: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Of the system whose Cholesky factor this is."""
    return jax.scipy.linalg.cho_solve((factor, True), right)


def max_margin(points: Float[Array, "n d"], threat: Threat, tolerance: float | None = None) -> Classifier:
    r"""The unit vector with the largest worst-case margin min_i <w, z_i> - h(w), the limit of adversarial training.

    A primal-dual interior-point method on the dual over the simplex, to a relative gap of `tolerance`, by default 1e-8
    in float64 and 1e-4 in float32.  The radius may be traced: `vmap` over radii and trials.
    Raises `ValueError` unless the threat is symmetric.
    """
    _check(threat)
    n, dtype = points.shape[0], points.dtype
    length = jnp.max(jnp.linalg.norm(points, axis=1))
    hull = _Hull(points, threat, _tolerance(dtype) if tolerance is None else tolerance, length)
    start = jnp.full(n, 1 / n, dtype)
    place, bound, _ = hull.certify(start)
    slack = place.along - jnp.min(place.along) + jnp.maximum(bound, hull.touching) ** 2
    a, _, steps = jax.lax.while_loop(
        lambda state: (state[2] < _MAX_STEPS) & ~hull.finished(state[0]),
        hull.step,
        (start, slack, jnp.zeros((), int)),
    )
    place, bound, value = hull.certify(a)
    touches = bound <= hull.touching
    solved = ~touches & hull.finished(a)
    outcome = jnp.where(touches, Outcome.NOT_SEPARABLE, jnp.where(solved, Outcome.SOLVED, Outcome.NOT_CONVERGED))
    weight = place.q / jnp.where(bound > 0, bound, 1)
    return Classifier(jnp.where(touches, 0, weight), jnp.where(touches, 0, value), bound, a, steps, outcome)


class _Hull(NamedTuple):
    """How far the hull of the points is from the threat: half the squared distance over multipliers in the simplex."""

    points: Float[Array, "n d"]
    threat: Threat
    tolerance: float
    length: Float[Array, ""]
    """Of the longest point: the scale of what is 0."""

    @property
    def touching(self) -> Float[Array, ""]:
        """A distance that is 0 up to the tolerance."""
        return self.tolerance * self.length

    def certify(self, a) -> tuple[_Place, Array, Array]:
        """Where a leads: the distance, a bound on every margin, and the margin of the classifier q."""
        place = _place(self.points, self.threat, a, jnp.ones((), a.dtype))
        bound = jnp.linalg.norm(place.q)
        return place, bound, jnp.min(place.along) / jnp.where(bound > 0, bound, 1)

    def finished(self, a) -> Bool[Array, ""]:
        _, bound, value = self.certify(a)
        return (bound - value <= self.tolerance * bound) | (bound <= self.touching)

    def barrier(self, a, mu) -> Float[Array, ""]:
        q = _residual(self.threat, a @ self.points, jnp.ones((), a.dtype))
        return q @ q / 2 - mu * jnp.sum(jnp.log(a))

    def step(self, state):
        """Mehrotra's: predict along Newton's step to a_i s_i = 0, then aim at the centre that leaves, and correct."""
        a, s, count = state
        place, bound, _ = self.certify(a)
        newton = self._newton(a, s, place)
        toward, slack = newton(jnp.zeros_like(a))
        size = _to_boundary(a, toward, s, slack)
        mu = jnp.mean(a * s)
        ahead = jnp.mean((a + size * toward) * (s + size * slack))
        # No further than the gap that is asked for: beyond it multipliers only vanish in rounding.
        enough = self.tolerance * jnp.maximum(bound, self.touching) ** 2 / (10 * a.size)
        centre = jnp.maximum(mu * (ahead / mu) ** 3, enough)
        move, change = newton(centre - toward * slack)
        sizes = 0.99 * _to_boundary(a, move, s, change) * 0.5 ** jnp.arange(10, dtype=a.dtype)
        size = _best(sizes, jax.vmap(lambda size: self.barrier(a + size * move, centre))(sizes))
        a = a + size * move
        return a / jnp.sum(a), s + size * change, count + 1

    def _newton(self, a, s, place: _Place):
        """target -> the changes of a and s in Newton's step to a_i s_i = target_i, sum(a) = 1, s = gradient - nu."""
        one, still = jnp.ones((), a.dtype), jnp.zeros((), a.dtype)
        gradient = place.along + self.threat.support(place.q)
        # In these units the matrix is the identity and something positive: it has a factor whatever the rounding.
        unit = jnp.sqrt(a / s)
        curvature = jnp.outer(unit, unit) * _curvature(self.points, self.threat, a, one, still)
        floor = 1 + 4 * a.size * jnp.finfo(a.dtype).eps * jnp.max(jnp.diag(curvature))
        factor = _factor(curvature + floor * jnp.eye(a.size, dtype=a.dtype))

        def toward(target):
            right = jnp.stack([target / a - gradient, jnp.ones_like(a)], 1)
            free, level = (unit[:, None] * _solve(factor, unit[:, None] * right)).T
            move = free - level * jnp.sum(free) / jnp.sum(level)
            return move, (target - s * move) / a - s

        return toward


def ridge_logistic(
    points: Float[Array, "n d"], threat: Threat, penalty: Float[Array, ""] | float, tolerance: float | None = None
) -> Classifier:
    r"""The minimiser of mean_i log(1 + exp(-m_i(w))) + penalty |w|^2, robust logistic regression.

    Newton's method on the dual, whose entropies keep it inside, with the best of several step sizes; to a relative gap
    of `tolerance`, by default 1e-8 in float64 and 1e-4 in float32.  Radius and penalty may be traced.
    Raises `ValueError` unless the threat is symmetric.
    """
    _check(threat)
    n, dtype = points.shape[0], points.dtype
    tolerance = _tolerance(dtype) if tolerance is None else tolerance
    penalty = jnp.asarray(penalty, dtype)

    def dual(p):
        q = _residual(threat, p @ points / n, jnp.mean(p))
        return -jnp.mean(jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlog1py(1 - p, -p)) - q @ q / (4 * penalty)

    def certify(p):
        place = _place(points, threat, p / n, jnp.mean(p))
        margins = place.along / (2 * penalty)
        value = jnp.mean(jax.nn.softplus(-margins)) + place.q @ place.q / (4 * penalty)
        return place, margins, value, dual(p)

    def finished(p):
        *_, value, bound = certify(p)
        return value - bound <= tolerance * bound

    def step(state):
        p, count = state
        _, margins, _, _ = certify(p)
        curvature = _curvature(points, threat, p / n, jnp.mean(p), jnp.ones((), dtype)) / (2 * n * penalty)
        factor = _factor(curvature + jnp.diag(1 / (p * (1 - p))))
        move = _solve(factor, (-margins - jax.scipy.special.logit(p))[:, None])[:, 0]
        sizes = 0.99 * _to_boundary(p, move, 1 - p, -move) * 0.5 ** jnp.arange(12, dtype=dtype)
        return p + _best(sizes, -jax.vmap(lambda size: dual(p + size * move))(sizes)) * move, count + 1

    p, steps = jax.lax.while_loop(
        lambda state: (state[1] < _MAX_STEPS) & ~finished(state[0]),
        step,
        (jnp.full(n, 0.5, dtype), jnp.zeros((), int)),
    )
    place, _, value, bound = certify(p)
    solved = value - bound <= tolerance * bound
    outcome = jnp.where(solved, Outcome.SOLVED, Outcome.NOT_CONVERGED)
    return Classifier(place.q / (2 * penalty), value, bound, p / n, steps, outcome)


def _to_boundary(*pairs: Array) -> Float[Array, ""]:
    """The largest step in [0, 1] along which values stay non-negative; values and changes alternate."""
    room = [
        jnp.min(jnp.where(change < 0, -value / jnp.where(change < 0, change, -1), jnp.inf))
        for value, change in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return jnp.minimum(1, jnp.min(jnp.stack(room)))


def _best(sizes: Float[Array, " k"], values: Float[Array, " k"]) -> Float[Array, ""]:
    """The first of the sizes whose value is the least, up to rounding."""
    least = jnp.min(values)
    return sizes[jnp.argmax(values <= least + 8 * jnp.finfo(values.dtype).eps * jnp.abs(least))]


def _check(threat: Threat) -> None:
    if not threat.symmetric:
        raise ValueError(f"{type(threat).__name__} is not symmetric: the solvers need -B = B")
