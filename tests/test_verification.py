"""Exact verification against brute force over all activation patterns, and honest about what it could not prove."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from programs import quick_jit
from test_threats import SHARE, THREATS, frame, outside

from simulator import attacks, bounds, data, losses, networks, threats, train, verification
from simulator.verification import Status, branch_and_bound, leaf, milp, polytopes, problem, relaxation, robust

POLYTOPES = ("linf", "l1", "consistent", "signal", "segments")
ROUND = ("l2", "orthogonal", "spheroid")
SHAPES = {"two layers": (2, (3, 2), 3), "one logit": (2, (5,), 1), "two logits": (2, (4, 2), 2)}
QUICK = "two layers"
RADII = (0.0, 0.4, 1.5, 40.0)
"""At the last one every neuron of the first layer is unstable."""

every_threat = pytest.mark.parametrize(
    "threat",
    [pytest.param(one, marks=[] if one in ("linf", "l2", "segments") else pytest.mark.slow) for one in THREATS],
)
every_shape = pytest.mark.parametrize(
    "shape", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in SHAPES]
)


def random_weights(rng, dim, widths, outputs):
    sizes = (dim, *widths, outputs)
    return [(rng.normal(size=(b, a)) / a**0.5, 0.3 * rng.normal(size=b)) for a, b in itertools.pairwise(sizes)]


def margin_at(weights, points, label):
    """The smallest margin at each point [n, d], in plain NumPy."""
    h = points
    for weight, bias in weights[:-1]:
        h = np.maximum(h @ weight.T + bias, 0)
    out = h @ weights[-1][0].T + weights[-1][1]
    logits = np.column_stack([np.zeros(len(out)), out]) if out.shape[1] == 1 else out
    return (logits[:, [label]] - np.delete(logits, label, axis=1)).min(axis=1)


def patterns(weights, x, basis):
    """Of every sign pattern: signs s, pre-activations G u + g and outputs C u + c, where the input is x + basis u."""
    widths = [len(bias) for _, bias in weights[:-1]]
    for signs in itertools.product((1.0, 0.0), repeat=sum(widths)):
        slope, offset, left = basis, x, list(signs)
        slopes, offsets = [], []
        for (weight, bias), width in zip(weights[:-1], widths, strict=True):
            slope, offset = weight @ slope, weight @ offset + bias
            slopes.append(slope)
            offsets.append(offset)
            on, left = np.array(left[:width]), left[width:]
            slope, offset = on[:, None] * slope, on * offset
        weight, bias = weights[-1]
        yield np.array(signs), np.concatenate(slopes), np.concatenate(offsets), weight @ slope, weight @ offset + bias


def contrasts(outputs, label):
    logits = np.array([[0.0], [1.0]]) if outputs == 1 else np.eye(outputs)
    return [logits[label] - logits[k] for k in range(len(logits)) if k != label]


def pieces_of(threat, radius, dim):
    """(basis, A, b) with the set the union of {basis u : A u <= b}, or of {basis u : |u| <= 1} where A is None."""
    u, cube = frame(dim), np.concatenate([np.eye(dim), -np.eye(dim)])
    ends = np.array([[1.0], [-1.0]])
    corners = np.array(list(itertools.product((1.0, -1.0), repeat=dim)))
    across = u[1:].T
    return {
        "linf": lambda: [(np.eye(dim), cube, np.full(2 * dim, radius))],
        "consistent": lambda: [(np.eye(dim), cube, radius * (np.arange(2 * dim) % dim > 0))],
        "l1": lambda: [(np.eye(dim), corners, np.full(len(corners), radius))],
        "signal": lambda: [(u[:1].T, ends, np.full(2, radius))],
        "segments": lambda: [(u[[j]].T, ends, np.full(2, radius)) for j in range(min(3, dim))],
        "l2": lambda: [(radius * np.eye(dim), None, None)],
        "orthogonal": lambda: [(radius * across, None, None)],
        "spheroid": lambda: [(radius * (np.outer(u[0], u[0]) * SHARE + (1 - SHARE) * np.eye(dim)), None, None)],
    }[threat]()


def least_of_programs(weights, x, label, basis, left, right):
    """The least value of the linear programs of all patterns and rivals."""
    least = np.inf
    for signs, slope, offset, top, constant in patterns(weights, x, basis):
        flip = np.where(signs > 0, -1.0, 1.0)[:, None]
        rows, limits = np.concatenate([left, flip * slope]), np.concatenate([right, -flip[:, 0] * offset])
        for row in contrasts(len(constant), label):
            found = scipy.optimize.linprog(row @ top, A_ub=rows, b_ub=limits, bounds=(None, None))
            if found.status == 0:
                least = min(least, found.fun + row @ constant)
    return least


def least_in_disc(weights, x, label, basis):
    """The least margin over |u| <= 1, u in one or two dimensions, exactly.

    On the region of a pattern the margin is linear: its minimum is where the gradient points out of the disc, where
    a border z_j = 0 crosses the circle, or where two borders cross.  All these points inside the disc are tried.
    """
    points = [np.zeros((1, basis.shape[1]))]
    for _, slope, offset, top, constant in patterns(weights, x, basis):
        gradients = np.array([row @ top for row in contrasts(len(constant), label)])
        moving = np.linalg.norm(slope, axis=1) > 1e-12
        normal = slope[moving] / np.linalg.norm(slope[moving], axis=1, keepdims=True)
        foot = -(offset[moving] / np.linalg.norm(slope[moving], axis=1))[:, None] * normal
        points += [-gradients / np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1e-300), foot]
        if basis.shape[1] == 2:
            along = normal[:, ::-1] * [1, -1]
            half = np.sqrt(np.maximum(1 - (foot**2).sum(axis=1), 0))[:, None]
            points += [foot + half * along, foot - half * along]
            for i, j in itertools.combinations(range(len(normal)), 2):
                pair = normal[[i, j]]
                if abs(np.linalg.det(pair)) > 1e-9:
                    points.append(np.linalg.solve(pair, (pair * foot[[i, j]]).sum(axis=1))[None])
    tried = np.concatenate(points)
    inside = tried[np.linalg.norm(tried, axis=1) <= 1 + 1e-12]
    return margin_at(weights, x + inside @ basis.T, label).min()


def brute_force(threat, weights, x, label, radius):
    """The exact smallest margin, without anything of the package."""
    return min(
        least_in_disc(weights, x, label, basis)
        if left is None
        else least_of_programs(weights, x, label, basis, left, right)
        for basis, left, right in pieces_of(threat, radius, len(x))
    )


def assert_holds(verdict, truth, tolerance, scale):
    """An exact verdict, its bracket around the truth; brute force itself is good to 1e-7 of the scale (HiGHS)."""
    assert verdict.status == Status.EXACT
    assert verdict.upper - verdict.lower <= tolerance
    assert verdict.lower <= truth + 1e-7 * scale
    assert verdict.upper >= truth - 1e-7 * scale


@every_shape
@every_threat
def test_verdicts_hold_the_minimum_over_all_activation_patterns(threat, shape, float64):
    rng = np.random.default_rng(0)
    dim, widths, outputs = SHAPES[shape]
    for radius, _ in itertools.product(RADII, range(2)):
        weights, x, label = random_weights(rng, dim, widths, outputs), rng.normal(size=dim), int(rng.integers(2))
        network, here = networks.from_weights(weights), THREATS[threat](radius, dim)
        truth, scale = brute_force(threat, weights, x, label, radius), max(1.0, radius)
        found = [branch_and_bound(network, here, x, label, tolerance=1e-4 * scale)]
        if threat in POLYTOPES:
            found.append(milp(network, here, x, label, tolerance=1e-3 * scale))
        for verdict, tolerance in zip(found, (1e-4 * scale, 1e-3 * scale), strict=False):
            assert_holds(verdict, truth, tolerance, scale)
            assert np.all(outside(threat, radius, verdict.delta) <= 1e-12 * scale)
            attained = margin_at(weights, (x + verdict.delta)[None], label)[0]
            np.testing.assert_allclose(verdict.upper, attained, atol=1e-12 * scale)
        if radius == RADII[-1] and threat in ("linf", "l2"):
            one = problem.problems(network, here, x, label)[0]
            assert np.all(one.lower[0] < 0)
            assert all(np.all(high > 0) for high in one.upper)


@functools.cache
def sandwich(threat):
    """A verdict, all bounds and an attack at one example of a network with two hidden layers in four dimensions."""
    rng, dim = np.random.default_rng(7), 4
    with jax.enable_x64(True):
        network = networks.from_weights(random_weights(rng, dim, (6, 5), 3))
        x, label, here = jnp.asarray(rng.normal(size=dim)), jnp.array(1), THREATS[threat](0.7, dim)

        def around():
            rows = networks.contrast(network, label, networks.others(network, label))
            below = {method: bounds.lower(network, here, x, rows, method).min() for method in bounds.METHODS}
            return below, attacks.pgd(network, here, x, label).margin, networks.margins(network, x, label).min()

        below, attack, clean = jax.tree.map(float, quick_jit(around)())
        verdict = verification.smallest_margin(network, here, x, 1, tolerance=1e-3)
    return below, attack, verdict, clean


@pytest.mark.parametrize(
    "threat", [pytest.param(name, marks=[] if name == "l2" else pytest.mark.slow) for name in THREATS]
)
def test_bounds_are_below_the_exact_margin_and_attacks_above(threat):
    below, attack, verdict, clean = sandwich(threat)
    assert verdict.status == Status.EXACT
    assert max(below.values()) <= verdict.upper + 1e-9
    assert below["ibp"] < verdict.lower - 1e-3
    assert verdict.lower - 1e-9 <= verdict.upper <= min(attack, clean) + 1e-9


@pytest.mark.parametrize("threat", ["signal", "segments"])
def test_along_segments_verdicts_hold_the_exact_line_search(threat, float64):
    rng, dim = np.random.default_rng(2), 5
    for radius, _ in itertools.product((0.0, 0.5, 20.0), range(2)):
        network = networks.from_weights(random_weights(rng, dim, (9,), 3))
        x, here, scale = rng.normal(size=dim), THREATS[threat](radius, dim), max(1.0, radius)
        exact = float(jax.jit(attacks.exact)(network, here, jnp.asarray(x), jnp.array(2)).margin)
        picked = verification.smallest_margin(network, here, x, 2)
        assert picked.nodes == 0
        assert_holds(picked, exact, 1e-9 * scale, 1e-4)
        assert_holds(milp(network, here, x, 2, tolerance=1e-3 * scale), exact, 1e-3 * scale, 1e-4 * scale)
        assert_holds(branch_and_bound(network, here, x, 2), exact, 1e-3, 1e-4 * scale)


def test_linear_networks_have_a_closed_form(float64):
    weight, x = np.array([[3.0, -4.0]]), np.array([1.0, 1.0])
    network = networks.from_weights([(weight, np.array([2.0]))])
    for verdict in (
        verification.smallest_margin(network, threats.L2(0.5), x, 1),
        branch_and_bound(network, threats.L2(0.5), x, 1, tolerance=1e-9),
    ):
        assert verdict.status == Status.EXACT
        np.testing.assert_allclose([verdict.lower, verdict.upper], 1 - 5 * 0.5, rtol=1e-12)
    np.testing.assert_allclose(milp(network, threats.LInf(0.5), x, 1).upper, 1 - 7 * 0.5, rtol=1e-12)


def test_degenerate_networks_are_exact(float64):
    """Zero weights, dead and always active neurons, and a network of one input whose only threat is 0."""
    rng = np.random.default_rng(3)
    (w, b), last = random_weights(rng, 2, (3,), 2)
    x, cases = np.array([0.5, -1.0]), {}
    cases["zero"] = [(0 * w, 0 * b), (0 * last[0], last[1])]
    cases["dead"] = [(w, b - 100), last]
    cases["active"] = [(w, b + 100), last]
    cases["one of each"] = [(w, b + np.array([100, -100, 0])), last]
    for weights in cases.values():
        network, truth = networks.from_weights(weights), brute_force("l1", weights, x, 0, 1.0)
        assert_holds(milp(network, threats.L1(1.0), x, 0), truth, 1e-3, 100)
        truth = brute_force("l2", weights, x, 0, 1.0)
        assert_holds(branch_and_bound(network, threats.L2(1.0), x, 0), truth, 1e-3, 100)
    deep = networks.from_weights(random_weights(rng, 1, (2, 2), 2))
    found = milp(deep, threats.ConsistentLInf(3.0), np.ones(1), 0)
    np.testing.assert_allclose(
        [found.lower, found.upper], networks.margins(deep, jnp.ones(1), jnp.array(0))[0], atol=1e-5
    )


class HalfDisc(threats.Threat):
    """{|delta| <= radius, delta_1 >= 0}: not symmetric, and of no shape the solvers know."""

    radius: jax.Array

    def support(self, w):
        return self.radius * jnp.linalg.norm(w.at[0].max(0))

    def worst(self, w):
        w = w.at[0].max(0)
        norm = jnp.linalg.norm(w)
        return self.radius * w / jnp.where(norm > 0, norm, 1)

    def project(self, delta):
        delta = delta.at[0].max(0)
        return delta * jnp.minimum(1, self.radius / jnp.maximum(jnp.linalg.norm(delta), 1e-30))


def test_an_unknown_convex_set_is_bracketed(float64):
    """Its leaves have only the ascent: the bracket holds, whether or not it closes."""
    rng = np.random.default_rng(4)
    weights, x, angles = random_weights(rng, 2, (4,), 2), rng.normal(size=2), np.linspace(-np.pi / 2, np.pi / 2, 2001)
    found = branch_and_bound(networks.from_weights(weights), HalfDisc(jnp.asarray(1.0)), x, 0, tolerance=1e-2)
    disc = np.stack([np.cos(angles), np.sin(angles)], 1)[None] * np.linspace(0, 1, 501)[:, None, None]
    truth = margin_at(weights, x + disc.reshape(-1, 2), 0).min()
    # Between grid points, at most 2e-3 apart, the margin moves by at most that times its Lipschitz constant.
    steep = 2e-3 * 2 * np.prod([np.linalg.norm(weight, 2) for weight, _ in weights])
    assert found.lower <= truth
    assert found.upper >= truth - steep
    assert found.upper - found.lower <= 1e-2


def hard(radius=1.0):
    """A network with many unstable neurons, and an example."""
    rng = np.random.default_rng(5)
    return networks.from_weights(random_weights(rng, 4, (16,), 2)), rng.normal(size=4), radius


def test_limits_leave_a_bracket_that_holds(float64):
    network, x, radius = hard()
    exact = branch_and_bound(network, threats.L2(radius), x, 0, tolerance=1e-6)
    assert exact.status == Status.EXACT
    for options in ({"max_nodes": 1}, {"time_limit": 0.0}):
        found = branch_and_bound(network, threats.L2(radius), x, 0, tolerance=1e-6, **options)
        assert found.status == Status.UNDECIDED
        assert found.lower < exact.lower - 1e-3
        assert found.upper >= exact.lower
        assert found.nodes < exact.nodes
    box = milp(network, threats.LInf(radius), x, 0)
    assert box.status == Status.EXACT
    hurried = milp(network, threats.LInf(radius), x, 0, time_limit=0.0)
    assert hurried.status == Status.UNDECIDED
    assert hurried.lower < box.lower - 1e-3 < hurried.upper


def test_a_threshold_stops_the_search_once_the_side_is_known(float64):
    network, x, radius = hard()
    exact = branch_and_bound(network, threats.L2(radius), x, 0, tolerance=1e-6)
    for threshold in (exact.lower - 0.02, exact.upper + 0.02):
        found = branch_and_bound(network, threats.L2(radius), x, 0, tolerance=1e-6, threshold=threshold)
        assert found.status == Status.DECIDED
        assert (found.lower > threshold) == (exact.lower > threshold)
        assert found.nodes < exact.nodes


def test_a_failing_solver_is_named(float64, monkeypatch):
    network, x, radius = hard()
    exact = milp(network, threats.LInf(radius), x, 0)
    broken = scipy.optimize.OptimizeResult(status=4, x=None, mip_dual_bound=7.0, mip_node_count=None)
    # The package exports a function of the same name as the module.
    monkeypatch.setattr(sys.modules["simulator.verification.milp"], "_highs", lambda program, time_limit: broken)
    found = milp(network, threats.LInf(radius), x, 0)
    assert found.status == Status.FAILED
    assert found.lower <= exact.upper
    assert found.upper >= exact.lower


def test_convex_programs_in_a_ball_have_no_gap():
    """Value of the minimiser = value of the multipliers; of an empty program the multipliers prove anything."""
    rng, empty = np.random.default_rng(6), 0
    for _ in range(300):
        dim, rows = int(rng.integers(1, 5)), int(rng.integers(0, 9))
        c, left, right = rng.normal(size=dim), rng.normal(size=(rows, dim)), rng.normal(size=rows) + 0.3
        beta, v = leaf._in_ball(c, left, right)
        assert np.all(beta >= 0)
        dual = -np.linalg.norm(c + left.T @ beta) - right @ beta
        if v is None:
            empty += 1
            assert dual > 1e3
        else:
            assert np.linalg.norm(v) <= 1 + 1e-7
            assert np.all(left @ v <= right + 1e-7)
            np.testing.assert_allclose(c @ v, dual, atol=1e-6)
    assert 10 < empty < 200


def test_bounds_under_splits_hold_for_all_multipliers(float64):
    """At every point of the subproblem, for random alpha and beta."""
    rng, dim, widths = np.random.default_rng(8), 3, (4, 3)
    weights = random_weights(rng, dim, widths, 2)
    one = problem.problems(networks.from_weights(weights), threats.L2(1.2), rng.normal(size=dim), 0)[0]
    deltas = rng.normal(size=(4000, dim))
    deltas *= 1.2 * rng.uniform(size=(4000, 1)) ** (1 / dim) / np.linalg.norm(deltas, axis=1, keepdims=True)
    first = (one.x + deltas) @ weights[0][0].T + weights[0][1]
    z = np.concatenate([first, np.maximum(first, 0) @ weights[1][0].T + weights[1][1]], axis=1)
    values = margin_at(weights, one.x + deltas, 0)
    box = np.concatenate(one.lower), np.concatenate(one.upper)
    box, point, unit = jax.tree.map(jnp.asarray, (box, one.x, one.unit))
    bound = jax.jit(lambda node: relaxation._bound(one.network, one.threat, point, box, unit, node)[0])
    close = []
    for _ in range(200):
        split = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.6, 0.2], size=sum(widths))
        beta, alpha = rng.exponential(0.3, size=sum(widths)), rng.uniform(size=sum(widths))
        lower = float(bound(relaxation.Node(one.rows[0], split, alpha, beta)))
        within = np.all(split * z >= 0, axis=1)
        if within.any():
            close.append(values[within].min() - lower)
    assert len(close) > 100
    assert min(close) >= 0


def test_what_cannot_be_verified_is_refused(float64):
    network, x, _ = hard()
    with pytest.raises(ValueError, match="use branch_and_bound"):
        milp(network, threats.L2(1.0), x, 0)
    wrong = networks.Network((*network.layers, networks.ReLU()))
    with pytest.raises(ValueError, match="only Affine, ReLU"):
        branch_and_bound(wrong, threats.L2(1.0), x, 0)
    with pytest.raises(ValueError, match="one example"):
        verification.smallest_margin(network, threats.L2(1.0), x[None], 0)
    with pytest.raises(ValueError, match="one example"):
        verification.smallest_margin(network, threats.L2(np.ones(3)), x, 0)
    with pytest.raises(ValueError, match="takes"):
        milp(network, threats.LInf(1.0), x[:2], 0)
    with pytest.raises(ValueError, match="class index"):
        milp(network, threats.LInf(1.0), x, 2)
    with pytest.raises(ValueError, match="not finite"):
        milp(network, threats.LInf(1.0), x * np.nan, 0)
    with pytest.raises(ValueError, match="tolerance"):
        branch_and_bound(network, threats.L2(1.0), x, 0, tolerance=0.0)
    with pytest.raises(ValueError, match="n >= 1"):
        verification.robust_error(network, threats.L2(1.0), x[None], np.zeros(2, int))
    assert polytopes.polytope(threats.L2(1.0), 4) is None


N = 30


@functools.cache
def spheres():
    """A network with six neurons trained on spheres in the plane, in single precision, and fresh examples."""
    task = data.ConcentricSpheres(2, inner=1.0, outer=3.0)
    x, y = task.sample(jr.key(1), 60)
    network = networks.mlp(jr.key(2), 2, (6,), 1)
    recipe = train.Recipe(0.3, momentum=0.9, epochs=150)
    fit = quick_jit(lambda: train.fit(jr.key(0), network, x, y, threats.L2(0.1), losses.standard, recipe))()
    xs, ys = task.sample(jr.key(3), N)
    return fit.network, np.asarray(xs), np.asarray(ys), np.asarray(jax.vmap(task.signal)(xs, ys))


@pytest.mark.parametrize(("threat", "radius"), [("l2", 0.8), ("linf", 0.8), ("orthogonal", 1.5)])
def test_robust_error_counts_the_exact_margins(threat, radius):
    network, xs, ys, signals = spheres()
    weights = [
        (np.asarray(w, float), np.asarray(b, float)) for w, b in ((l.weight, l.bias) for l in network.layers[::2])
    ]
    wrong = []
    for x, y, s in zip(xs.astype(float), ys, signals.astype(float), strict=True):
        label, across = int(y > 0), np.array([[-s[1]], [s[0]]])
        if threat == "linf":
            truth = brute_force_box(weights, x, label, float(np.float32(radius)))
        else:
            truth = least_in_disc(
                weights, x, label, float(np.float32(radius)) * (np.eye(2) if threat == "l2" else across)
            )
        assert abs(truth) > 1e-3  # far from what the tolerances leave open
        wrong.append(truth <= 0)
    here = {"l2": threats.L2, "linf": threats.LInf, "orthogonal": threats.Orthogonal}[threat](radius)
    found = verification.robust_error(network, here, xs, ys, signals if threat == "orthogonal" else None)
    assert 0.05 < np.mean(wrong) < 0.95
    assert found == (pytest.approx(np.mean(wrong)), pytest.approx(np.mean(wrong)), 0)


def brute_force_box(weights, x, label, radius):
    """The least margin of one hidden layer over a square: at a corner, where a border cuts a side, or two cross."""
    weight, bias = weights[0]
    normal, offset = np.concatenate([weight, np.eye(2), np.eye(2)]), np.concatenate([weight @ x + bias, [radius] * 2])
    offset = np.concatenate([offset, [-radius] * 2])
    points = [
        np.linalg.solve(normal[[i, j]], -offset[[i, j]])
        for i, j in itertools.combinations(range(len(normal)), 2)
        if abs(np.linalg.det(normal[[i, j]])) > 1e-9
    ]
    inside = [point for point in points if np.abs(point).max() <= radius * (1 + 1e-12)]
    return margin_at(weights, x + np.array(inside), label).min()


def test_undecided_examples_widen_the_robust_error(monkeypatch):
    network, xs, ys, _ = spheres()
    exact = verification.robust_error(network, threats.L2(0.8), xs, ys)
    found = verification.robust_error(network, threats.L2(0.8), xs, ys, max_nodes=1)
    assert found.undecided > 0
    assert found.upper == pytest.approx(found.lower + found.undecided)
    assert found.lower <= exact.lower <= found.upper
    # Examples that the screening settles are never searched.
    monkeypatch.setattr(robust, "smallest_margin", None)
    still = verification.robust_error(network, threats.L2(0.0), xs, ys)
    assert (still.lower, still.undecided) == (np.mean([m <= 0 for m in clean_margins(network, xs, ys)]), 0)


def clean_margins(network, xs, ys):
    labels = networks.label(jnp.asarray(ys))
    return np.asarray(jax.vmap(lambda x, label: networks.margins(network, x, label).min())(jnp.asarray(xs), labels))
