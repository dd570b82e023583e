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
Both are solved by Newton's method with a matrix [n, n] a step.  It costs n^2 d, or that once a solve and n^2 + n d a
step where the threat is the same in every orthonormal basis that keeps its axes; there `in_span` makes d about n, which
pays for several solves of the same points, and the logistic steps have a matrix [d, d] if that is smaller.

**Source:** derived here; the first for l_inf in Donhauser et al. (2021), arXiv 2108.02883, appendix.
"""

import enum
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simulator.theory.problem import Place, Problem, factor_of, residual, solve
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
    factor, one = factor_of(rows @ rows.T), jnp.eye(len(rows), dtype=rows.dtype)
    inverse = jax.lax.linalg.triangular_solve(factor, one, left_side=True, lower=True)
    error = jnp.finfo(rows.dtype).eps * jnp.sum(factor**2) * jnp.sum(inverse**2)
    # Not "above": a factor that does not exist is no number.
    return jax.lax.cond(error < _tolerance(rows.dtype) / 100, lambda: factor, lambda: jnp.linalg.qr(rows.T, mode="r").T)


def max_margin(points: Float[Array, "n d"], threat: Threat, tolerance: float | None = None) -> Classifier:
    r"""The unit vector with the largest worst-case margin min_i <w, z_i> - h(w), the limit of adversarial training.

    A primal-dual interior-point method on the dual over the simplex, to a relative gap of `tolerance`, by default 1e-8
    in float64 and 1e-4 in float32.  The radius may be traced: `vmap` over radii and trials.
    Raises `ValueError` unless the threat is symmetric.
    """
    n, dtype = points.shape[0], points.dtype
    length = jnp.max(jnp.linalg.norm(points, axis=1))
    hull = _Hull(Problem.of(points, threat), _tolerance(dtype) if tolerance is None else tolerance, length)
    start = jnp.full(n, 1 / n, dtype)
    place = hull.place(start)
    slack = place.along - jnp.min(place.along) + jnp.maximum(hull.distance(place), hull.touching) ** 2
    a, _, place, steps = jax.lax.while_loop(
        lambda state: (state[3] < _MAX_STEPS) & ~hull.finished(state[2]),
        hull.step,
        (start, slack, place, jnp.zeros((), int)),
    )
    bound, value = hull.distance(place), hull.margin(place)
    touches = bound <= hull.touching
    solved = ~touches & hull.finished(place)
    outcome = jnp.where(touches, Outcome.NOT_SEPARABLE, jnp.where(solved, Outcome.SOLVED, Outcome.NOT_CONVERGED))
    weight = place.q / jnp.where(bound > 0, bound, 1)
    return Classifier(jnp.where(touches, 0, weight), jnp.where(touches, 0, value), bound, a, steps, outcome)


class _Hull(NamedTuple):
    """How far the hull of the points is from the threat: half the squared distance over multipliers in the simplex."""

    problem: Problem
    tolerance: float
    length: Float[Array, ""]
    """Of the longest point: the scale of what is 0."""

    @property
    def touching(self) -> Float[Array, ""]:
        """A distance that is 0 up to the tolerance."""
        return self.tolerance * self.length

    def place(self, a: Float[Array, " n"]) -> Place:
        return self.problem.place(a, jnp.ones((), a.dtype))

    def distance(self, place: Place) -> Float[Array, ""]:
        """A bound on every margin."""
        return jnp.linalg.norm(place.q)

    def margin(self, place: Place) -> Float[Array, ""]:
        """Of the classifier q."""
        bound = self.distance(place)
        return jnp.min(place.along) / jnp.where(bound > 0, bound, 1)

    def finished(self, place: Place) -> Bool[Array, ""]:
        bound = self.distance(place)
        return (bound - self.margin(place) <= self.tolerance * bound) | (bound <= self.touching)

    def step(self, state):
        """Mehrotra's: predict along Newton's step to a_i s_i = 0, then aim at the centre that leaves, and correct."""
        a, s, place, count = state
        newton = self._newton(a, s, place)
        toward, slack = newton(jnp.zeros_like(a))
        size = jnp.minimum(1, _to_boundary(a, toward, s, slack))
        mu = jnp.mean(a * s)
        ahead = jnp.mean((a + size * toward) * (s + size * slack))
        # No further than the gap that is asked for: beyond it multipliers only vanish in rounding.
        enough = self.tolerance * jnp.maximum(self.distance(place), self.touching) ** 2 / (10 * a.size)
        centre = jnp.maximum(mu * (ahead / mu) ** 3, enough)
        move, change = newton(centre - toward * slack)
        sizes = jnp.minimum(1, 0.99 * _to_boundary(a, move, s, change)) * 0.5 ** jnp.arange(10, dtype=a.dtype)
        size = sizes[_first_largest(-self._barriers(a, place, move, centre, sizes))]
        a = a + size * move
        a = a / jnp.sum(a)
        return a, s + size * change, self.place(a), count + 1

    def _barriers(self, a, place: Place, move, centre, sizes: Float[Array, " k"]) -> Float[Array, " k"]:
        """|q|^2/2 - centre sum_i log(a_i) after every step size along the move."""
        one, along = jnp.ones((), a.dtype), move @ self.problem.points

        def barrier(size):
            q = residual(self.problem.threat, place.u + size * along, one)
            return q @ q / 2 - centre * jnp.sum(jnp.log(a + size * move))

        return jax.vmap(barrier)(sizes)

    def _newton(self, a, s, place: Place):
        """target -> the changes of a and s in Newton's step to a_i s_i = target_i, sum(a) = 1, s = gradient - nu."""
        gradient = place.along + self.problem.threat.support(place.q)
        # In these units the matrix is the identity and something positive: it has a factor whatever the rounding.
        unit = jnp.sqrt(a / s)
        still = jnp.zeros_like(place.u)
        curvature = jnp.outer(unit, unit) * self.problem.curvature(place, jnp.ones((), a.dtype), still)
        floor = 1 + 4 * a.size * jnp.finfo(a.dtype).eps * jnp.max(jnp.diag(curvature))
        factor = factor_of(curvature + floor * jnp.eye(a.size, dtype=a.dtype))

        def toward(target):
            right = jnp.stack([target / a - gradient, jnp.ones_like(a)], 1)
            free, level = (unit[:, None] * solve(factor, unit[:, None] * right)).T
            move = free - level * jnp.sum(free) / jnp.sum(level)
            return move, (target - s * move) / a - s

        return toward


def ridge_logistic(
    points: Float[Array, "n d"], threat: Threat, penalty: Float[Array, ""] | float, tolerance: float | None = None
) -> Classifier:
    r"""The minimiser of mean_i log(1 + exp(-m_i(w))) + penalty |w|^2, robust logistic regression.

    Newton's method on the dual, inside by its entropies, with the best of several steps; to a relative gap of
    `tolerance`, by default 1e-8 in float64 and 1e-4 in float32.  Radius and penalty may be traced.
    Raises `ValueError` unless the threat is symmetric.
    """
    n, dtype = points.shape[0], points.dtype
    tolerance = _tolerance(dtype) if tolerance is None else tolerance
    dual = _Entropies(Problem.of(points, threat), jnp.asarray(penalty, dtype), tolerance)
    start = dual.start()
    logits, place, steps = jax.lax.while_loop(
        lambda state: (state[2] < _MAX_STEPS) & ~dual.finished(*state[:2]),
        dual.step,
        (start, dual.place(start), jnp.zeros((), int)),
    )
    value, bound = dual.certify(logits, place)
    outcome = jnp.where(dual.finished(logits, place), Outcome.SOLVED, Outcome.NOT_CONVERGED)
    return Classifier(place.q / (2 * dual.penalty), value, bound, jax.nn.sigmoid(logits) / n, steps, outcome)


class _Entropies(NamedTuple):
    """The dual of logistic regression, over the logits l of p_i = n a_i: at the optimum l_i = -m_i."""

    problem: Problem
    penalty: Float[Array, ""]
    tolerance: float

    def start(self) -> Float[Array, " n"]:
        """The best p with all entries equal, to half a logit: then |q|^2 is p^2 times what it is at p = 1."""
        points = self.problem.points
        mean = jnp.mean(points, axis=0)
        q = residual(self.problem.threat, mean, jnp.ones((), points.dtype))
        logits = -0.5 * jnp.arange(64, dtype=points.dtype)
        values = _entropy(logits) - jax.nn.sigmoid(logits) ** 2 * (q @ q) / (4 * self.penalty)
        return jnp.full(len(points), logits[jnp.argmax(values)])

    def place(self, logits: Float[Array, " n"]) -> Place:
        p = jax.nn.sigmoid(logits)
        return self.problem.place(p / p.size, jnp.mean(p))

    def margins(self, place: Place) -> Float[Array, " n"]:
        return place.along / (2 * self.penalty)

    def certify(self, logits, place: Place) -> tuple[Array, Array]:
        """The loss of the classifier q / (2 penalty), and what the dual says no classifier surpasses."""
        ridge = place.q @ place.q / (4 * self.penalty)
        return jnp.mean(jax.nn.softplus(-self.margins(place))) + ridge, jnp.mean(_entropy(logits)) - ridge

    def finished(self, logits, place: Place) -> Bool[Array, ""]:
        value, bound = self.certify(logits, place)
        return value - bound <= self.tolerance * bound

    def step(self, state):
        """Newton's, the better of moving p and moving the logits: where some p is far too large, the logits go on."""
        logits, place, count = state
        p, rest = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)
        scale, missing = jnp.mean(p), -self.margins(place) - logits
        move, bent = self._newton(place, scale, jnp.sqrt(p * rest), missing)
        turn = missing - bent
        shares, tiny = 0.25 ** jnp.arange(6, dtype=p.dtype)[:, None], jnp.finfo(p.dtype).tiny
        step = shares * jnp.minimum(1, 0.99 * _to_boundary(p, move, rest, -move)) * move[None]
        straight = jnp.log(jnp.maximum(p[None] + step, tiny)) - jnp.log(jnp.maximum(rest[None] - step, tiny))
        candidates = jnp.concatenate([logits[None] + shares * turn[None], straight])
        logits = candidates[_first_largest(self._duals(candidates))]
        return logits, self.place(logits), count + 1

    def _newton(self, place: Place, scale, unit: Float[Array, " n"], missing: Float[Array, " n"]):
        """Newton's move of p, (1 / unit^2 + C) move = missing with C the curvature, and C move."""
        shift, weight, one = (
            (place.u - place.q) / scale,
            2 * unit.size * self.penalty,
            partial(jnp.eye, dtype=unit.dtype),
        )
        # In these units the matrix is the identity and something positive, however small p is.
        root = self.problem.root(place, scale, shift)
        if root is None:
            curvature = self.problem.curvature(place, scale, shift) / weight
            factor = factor_of(jnp.outer(unit, unit) * curvature + one(unit.size))
            move = unit * solve(factor, (unit * missing)[:, None])[:, 0]
            return move, curvature @ move
        root = root / jnp.sqrt(weight)
        tall = unit[:, None] * root
        factor = factor_of(tall.T @ tall + one(tall.shape[1]))

        def solved(right):
            return right - tall @ solve(factor, (right @ tall)[:, None])[:, 0]

        right = unit * missing
        first = solved(right)
        # What is left where the curvature is large is a small difference of large numbers: once more with the error.
        move = unit * (first + solved(right - first - tall @ (first @ tall)))
        return move, root @ (move @ root)

    def _duals(self, candidates: Float[Array, "k n"]) -> Float[Array, " k"]:
        p = jax.nn.sigmoid(candidates)
        q = jax.vmap(partial(residual, self.problem.threat))(p @ self.problem.points / p.shape[1], jnp.mean(p, 1))
        return jnp.mean(_entropy(candidates), 1) - jnp.sum(q**2, 1) / (4 * self.penalty)


def _entropy(logits: Array) -> Array:
    """H(p) at the logits of p, which is that of -logits: a sum of positive terms."""
    size = jnp.abs(logits)
    odds = jnp.exp(-size)
    return jnp.log1p(odds) + size * odds / (1 + odds)


def _to_boundary(*pairs: Array) -> Float[Array, ""]:
    """The largest step along which values stay non-negative; values and changes alternate."""
    room = [
        jnp.min(jnp.where(change < 0, -value / jnp.where(change < 0, change, -1), jnp.inf))
        for value, change in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return jnp.min(jnp.stack(room))


def _first_largest(values: Float[Array, " k"]) -> Int[Array, ""]:
    """The index of the first of the values that is the largest, up to rounding."""
    largest = jnp.max(values)
    return jnp.argmax(values >= largest - 8 * jnp.finfo(values.dtype).eps * jnp.abs(largest))
