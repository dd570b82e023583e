"""Optimal classifiers against a conic solver, and against what is known of them in closed form."""

import cvxpy
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from test_threats import THREATS, frame

from simulator import theory, threats
from simulator.data import LinearlySeparable

every_threat = pytest.mark.parametrize("name", THREATS)
PENALTIES = (1.0, 1e-2, 1e-4)
max_margin = quick_jit(theory.max_margin, static_argnums=2)
ridge_logistic = quick_jit(theory.ridge_logistic, static_argnums=3)
"""One program for every kind of threat, number of points and dimension: the tests share sizes where they can."""


def points(n, dim, shift=1.5, seed=0):
    """z_i = y_i x_i of Gaussian features with a signal along the first coordinate."""
    z = np.random.default_rng(seed).normal(size=(n, dim))
    z[:, 0] = np.abs(z[:, 0]) + shift
    return jnp.asarray(z)


def reach(threat, w):
    """h(w) as the conic solver writes it."""
    radius = float(threat.radius)
    match threat:
        case threats.L2():
            return radius * cvxpy.norm(w, 2)
        case threats.LInf():
            return radius * cvxpy.norm(w, 1)
        case threats.ConsistentLInf():
            return radius * cvxpy.norm(w[1:], 1)
        case threats.L1():
            return radius * cvxpy.norm(w, "inf")
        case threats.SignalDirected(direction=s):
            return radius * cvxpy.abs(np.asarray(s) @ w)
        case threats.Orthogonal(direction=s):
            s = np.asarray(s)
            return radius * cvxpy.norm((np.eye(len(s)) - np.outer(s, s)) @ w, 2)
        case threats.Spheroid(direction=s, share=share):
            s = np.asarray(s)
            flat = np.outer(s, s) * float(share) + np.eye(len(s)) * (1 - float(share))
            return radius * cvxpy.norm(flat @ w, 2)
        case threats.Segments(directions=directions):
            return radius * cvxpy.norm(np.asarray(directions) @ w, "inf")
    raise AssertionError(threat)


def conic(problem):
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-8, tol_gap_rel=1e-8, tol_feas=1e-8)
    assert problem.status == "optimal"
    return problem.value


def conic_max_margin(z, threat):
    w, margin = cvxpy.Variable(z.shape[1]), cvxpy.Variable()
    limits = [np.asarray(z) @ w - reach(threat, w) >= margin, cvxpy.norm(w, 2) <= 1]
    return conic(cvxpy.Problem(cvxpy.Maximize(margin), limits))


def conic_ridge_logistic(z, threat, penalty):
    w = cvxpy.Variable(z.shape[1])
    losses = cvxpy.logistic(-(np.asarray(z) @ w - reach(threat, w)))
    return conic(cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(losses) / z.shape[0] + penalty * cvxpy.sum_squares(w))))


@every_threat
@pytest.mark.parametrize(("n", "dim"), [(20, 50), (30, 12)])
@pytest.mark.parametrize("radius", [0.0, 0.3, 0.8])
def test_the_largest_margin_is_the_conic_solvers(name, n, dim, radius, float64):
    z, threat = points(n, dim), THREATS[name](radius, dim)
    found = max_margin(z, threat)
    assert found.outcome == theory.Outcome.SOLVED
    assert 0 <= found.gap <= 1e-8
    assert found.value == pytest.approx(conic_max_margin(z, threat), rel=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(found.weight), 1, rtol=1e-12)
    # The certificate holds by the definition of the margin, not by the solver's word.
    np.testing.assert_allclose(jnp.min(z @ found.weight) - threat.support(found.weight), found.value, rtol=1e-9)


@every_threat
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("n", "dim", "radius"), [(20, 50, 0.3), (30, 12, 0.8), (30, 12, 3.0)])
def test_the_least_loss_is_the_conic_solvers(name, penalty, n, dim, radius, float64):
    z, threat = points(n, dim), THREATS[name](radius, dim)
    found = ridge_logistic(z, threat, penalty)
    assert found.outcome == theory.Outcome.SOLVED
    assert 0 <= found.gap <= 1e-8
    assert found.value == pytest.approx(conic_ridge_logistic(z, threat, penalty), rel=1e-6)
    margins = z @ found.weight - threat.support(found.weight)
    loss = jnp.mean(jnp.log1p(jnp.exp(-margins))) + penalty * found.weight @ found.weight
    np.testing.assert_allclose(loss, found.value, rtol=1e-12)


@every_threat
def test_a_bound_holds_for_every_direction(name, float64):
    z, threat = points(15, 6), THREATS[name](0.4, 6)
    found = max_margin(z, threat)
    directions = jr.normal(jr.key(0), (20_000, 6))
    directions = jnp.concatenate([directions, found.weight[None] + 0.05 * directions])
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    margins = jax.vmap(lambda w: jnp.min(z @ w) - threat.support(w))(directions)
    assert found.bound >= margins.max()
    assert margins.max() > 0.9 * found.value, "directions that come close"


@every_threat
def test_points_that_meet_the_threat_have_no_classifier(name, float64):
    z = jnp.concatenate([points(5, 6), -points(5, 6), points(5, 6, seed=1)])
    found = max_margin(z, THREATS[name](0.3, 6))
    assert found.outcome == theory.Outcome.NOT_SEPARABLE
    np.testing.assert_array_equal(found.weight, 0)
    assert found.value == 0


class _Unturned:
    """Of a threat, one that does not say about which axes it may be turned."""

    def axes(self, dim):
        raise ValueError("in the coordinates of the data")


@pytest.mark.parametrize(("n", "dim"), [(20, 50), (60, 20)])
@pytest.mark.parametrize("kind", [threats.L2, threats.SignalDirected, threats.Orthogonal, threats.Segments])
def test_a_threat_that_may_be_turned_has_the_same_steps_for_less(kind, n, dim, float64):
    """n^2 d once a solve or at every step, or n d^2: after the first few steps the multipliers are the same."""
    z, rows = points(n, dim), jnp.asarray(frame(dim))[:3]
    arguments = {threats.L2: (), threats.Segments: (rows,)}.get(kind, (rows[0],))
    unturned = type(kind)("Unturned", (_Unturned, kind), {})
    turned, plain = (ridge_logistic(z, threat(0.8, *arguments), 1e-4, 1e-3) for threat in (kind, unturned))
    assert turned.steps == plain.steps >= 2
    np.testing.assert_allclose(turned.multipliers, plain.multipliers, rtol=1e-8)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["l2", "signal", "orthogonal", "spheroid", "segments"])
def test_more_points_than_dimensions_are_solved_with_small_penalties(name, dtype, float64):
    """Where the curvature is large a step in the coordinates [d, d] is a small difference of large numbers."""
    z = points(60, 12, shift=0.0).astype(dtype)
    threat = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), THREATS[name](0.4, 12))
    for penalty in (1.0, 1e-3, 1e-6):
        assert ridge_logistic(z, threat, jnp.asarray(penalty, dtype)).outcome == theory.Outcome.SOLVED


def test_a_solve_that_stops_early_says_so(float64):
    found = max_margin(points(20, 50), threats.L2(0.3), 0.0)
    assert found.outcome == theory.Outcome.NOT_CONVERGED
    assert found.gap > 0


@pytest.mark.parametrize("name", ["l2", "signal", "orthogonal", "segments"])
def test_the_span_has_the_same_solution(name, float64):
    n, dim = 12, 300
    z, threat, axis = points(n, dim), THREATS[name](0.5, dim), jnp.asarray(frame(dim)[2])[None]
    inside, there, axes = theory.in_span(z, threat, axis)
    assert inside.shape[1] <= n + 1 + 3
    full, reduced = max_margin(z, threat, 1e-11), max_margin(inside, there, 1e-11)
    np.testing.assert_allclose(reduced.value, full.value, rtol=1e-9)
    np.testing.assert_allclose(axes[0] @ reduced.weight, axis[0] @ full.weight, rtol=1e-4)


@pytest.mark.parametrize("apart", [1.0, 1e-6, 1e-10, 0.0])
def test_the_span_keeps_inner_products_however_dependent_the_points_are(apart, float64):
    # By Cholesky or by QR, rounding is relative to the longest point.
    z = points(12, 300)
    z = z.at[1].set(z[0] + apart * z[1])
    inside, _, _ = theory.in_span(z, threats.L2(0.5))
    size = float(jnp.max(jnp.linalg.norm(z, axis=1)))
    np.testing.assert_allclose(inside @ inside.T, z @ z.T, atol=100 * np.finfo(float).eps * size**2, rtol=0)


@pytest.mark.parametrize("threat", [threats.LInf(0.1), threats.L1(0.1)])
def test_the_span_is_refused_where_coordinates_matter(threat):
    with pytest.raises(ValueError, match="in the coordinates of the data"):
        theory.in_span(jnp.ones((3, 9)), threat)


def test_a_grid_of_radii_and_trials_is_one_program(float64):
    z = jnp.stack([points(12, 20, seed=seed) for seed in range(3)])
    radii = jnp.array([0.0, 0.2, 0.9])

    def solve(one, radius):
        return theory.max_margin(one, threats.LInf(radius))

    grid, alone_there = quick_jit(jax.vmap(jax.vmap(solve, (None, 0)), (0, None)))(z, radii), quick_jit(solve)
    for i, j in np.ndindex(3, 3):
        alone = alone_there(z[i], radii[j])
        np.testing.assert_allclose(grid.value[i, j], alone.value, rtol=1e-8)
        assert grid.steps[i, j] == alone.steps


def test_a_ball_leaves_the_direction_and_a_segment_turns_it(float64):
    """The mechanism in closed form: only what points along the signal moves the classifier off it."""
    dim = 40
    z = points(15, dim)
    plain = max_margin(z, threats.L2(0.0), 1e-11)
    ball = max_margin(z, threats.L2(0.9), 1e-11)
    segment = max_margin(z, threats.SignalDirected(0.9, jnp.zeros(dim).at[0].set(1)), 1e-11)
    np.testing.assert_allclose(ball.weight, plain.weight, atol=1e-5)
    np.testing.assert_allclose(ball.value, plain.value - 0.9, rtol=1e-9)
    assert segment.weight[0] < plain.weight[0] - 0.05


REGIMES = {
    "the signal is kept": (1.5, 60, [0.0, 0.7, 1.4]),
    "the direction is pure noise": (1.5, 60, [1.5, 2.0]),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_the_closed_form_of_signal_directed_sets_is_a_direct_solve(regime, float64):
    """Every radius from one margin of the noise alone, sigma included."""
    gamma, dim, radii = REGIMES[regime]
    task = LinearlySeparable(dim, gamma, 0.7)
    x, y = task.sample(jr.key(0), 30)
    z = x * y.astype(x.dtype)[:, None]
    noise = max_margin(z.at[:, 0].set(0), threats.L2(0.0), 1e-13)
    for radius in radii:
        found = max_margin(z, threats.SignalDirected(radius, task.direction), 1e-13)
        expected = (noise.value * noise.weight).at[0].set(max(gamma - radius, 0))
        np.testing.assert_allclose(found.value, jnp.linalg.norm(expected), rtol=1e-9)
        cosine = found.weight @ expected / jnp.linalg.norm(expected)
        assert 1 - cosine < 1e-9
        predicted = theory.maximum_margin_errors(
            noise.value, task, threats.SignalDirected(radius), threats.SignalDirected(0.3)
        )
        solved = theory.separable_errors(found.weight, jnp.zeros(()), task, threats.SignalDirected(0.3))
        np.testing.assert_allclose(predicted, solved, atol=1e-5)


@pytest.mark.parametrize("kind", ["l2", "orthogonal", "spheroid"])
@pytest.mark.parametrize("radius", [0.4, 1.2])
def test_the_closed_form_of_round_threats_is_a_direct_solve(kind, radius, float64):
    """Errors of the solved classifier, from the margin of the noise alone."""
    gamma, dim = 1.5, 60
    signal = jnp.asarray(frame(dim)[0])
    task, threat = LinearlySeparable(dim, gamma, 0.7, signal), THREATS[kind](radius, dim)
    x, y = task.sample(jr.key(0), 30)
    z = x * y.astype(x.dtype)[:, None]
    noise = max_margin(z - jnp.outer(z @ signal, signal), threats.L2(0.0), 1e-13)
    found = max_margin(z, threat, 1e-13)
    predicted = theory.maximum_margin_errors(noise.value, task, threat, threats.L2(0.2))
    solved = theory.separable_errors(found.weight, jnp.zeros(()), task, threats.L2(0.2))
    np.testing.assert_allclose(predicted, solved, atol=1e-5)


def test_noise_that_is_not_separable_leaves_the_signal_alone(float64):
    """n = 60 points of noise in 12 dimensions: no margin of their own, and the optimum is the signal with error 0."""
    task = LinearlySeparable(13, 1.5, 0.7)
    x, y = task.sample(jr.key(0), 60)
    z = x * y.astype(x.dtype)[:, None]
    assert max_margin(z[:, 1:], threats.L2(0.0)).outcome == theory.Outcome.NOT_SEPARABLE
    found = max_margin(z, threats.SignalDirected(0.4, task.direction))
    np.testing.assert_allclose(found.weight, task.direction, atol=1e-6)
    np.testing.assert_allclose(found.value, 1.1, rtol=1e-7)
    errors = theory.separable_errors(task.direction, jnp.zeros(()), task, threats.SignalDirected(0.4))
    np.testing.assert_array_equal(errors, [0, 0])


def test_single_precision_is_good_to_its_tolerance():
    z = jnp.asarray(points(20, 50), jnp.float32)
    for threat in (threats.L2(0.3), threats.LInf(0.1), threats.SignalDirected(0.3, jnp.zeros(50).at[0].set(1))):
        found = max_margin(z, threat)
        assert found.outcome == theory.Outcome.SOLVED
        assert found.gap <= 1e-4
        assert ridge_logistic(z, threat, 0.01).gap <= 1e-4


def shapes_of(jaxpr, primitive):
    """Shapes of the results of every use of a primitive, however deep."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield equation.outvars[0].aval.shape
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(inner, "eqns"):
                yield from shapes_of(inner, primitive)


@pytest.mark.parametrize("solve", [theory.max_margin, lambda z, threat: theory.ridge_logistic(z, threat, 0.1)])
@pytest.mark.parametrize("dim", [20, 8])
def test_a_batch_is_factored_one_matrix_at_a_time(solve, dim):
    """A batched factorisation waits in the thread pool that is to do it: for ever, if there are as many as threads."""
    z = jnp.stack([points(12, dim), points(12, dim, seed=1)])

    def both(z):
        return jax.vmap(lambda radius: jax.vmap(lambda one: solve(one, threats.L2(radius)))(z))(jnp.array([0.1, 0.2]))

    jaxpr = jax.make_jaxpr(both)(z).jaxpr
    # Logistic steps have the smaller of two matrices, and take the root of one of the size of the frame.
    smaller = solve is not theory.max_margin and dim < 12
    assert set(shapes_of(jaxpr, "cholesky")) == {(dim, dim) if smaller else (12, 12)}
    assert set(shapes_of(jaxpr, "eigh")) <= ({(1, 1), (1,)} if smaller else set())
    together = quick_jit(both)(z)
    alone = quick_jit(solve)(z[1], threats.L2(0.2))
    np.testing.assert_allclose(together.value[1, 1], alone.value, rtol=1e-4)
