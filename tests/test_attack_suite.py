"""The ensemble and its parts: optimal where the optimum is known, members of the threat, honest records."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from test_threats import SHARE, THREATS, dual_norm, frame, outside

from simulator import attacks, networks, threats
from simulator.attacks.minimum_norm import _boundary, gauge

DIM, RADIUS, DRAWS = 6, 0.5, 6
CORNERS = ("linf", "consistent", "l1", "signal", "segments")
"""Threats that are polytopes: a linear objective is largest at a corner, where random search ends up exactly."""

every_threat = pytest.mark.parametrize("threat", THREATS)
some_threats = pytest.mark.parametrize(
    ("threat", "outputs"),
    [
        pytest.param(name, outputs, marks=[] if (name, outputs) == ("l2", 3) else pytest.mark.slow)
        for name in THREATS
        for outputs in (1, 3, 5)
    ],
)


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


class Linear:
    """Random linear classifiers, one example of each on its right side, and what the threat can do to them."""

    def __init__(self, threat, outputs):
        rng = np.random.default_rng(outputs)
        self.weight, self.bias = rng.normal(size=(DRAWS, outputs, DIM)), rng.normal(size=(DRAWS, outputs)) / 3
        self.x = rng.normal(size=(DRAWS, DIM))
        weight, bias = self.weight, self.bias
        if outputs == 1:
            weight, bias = np.concatenate([0 * weight, weight], 1), np.concatenate([0 * bias, bias], 1)
        logits = np.einsum("nkd,nd->nk", weight, self.x) + bias
        self.label = logits.argmax(axis=1)
        rows = np.arange(DRAWS)
        rival = np.arange(logits.shape[1]) != self.label[:, None]
        margins = logits[rows, self.label][:, None] - logits
        reach = dual_norm(threat, weight[rows, self.label][:, None] - weight)
        self.change = np.where(rival, RADIUS * reach, 0).max(axis=1)
        self.margin = np.where(rival, margins - RADIUS * reach, np.inf).min(axis=1)
        self.radius = np.where(rival, margins / np.where(rival, reach, 1), np.inf).min(axis=1)

    def each(self, attack):
        """attack(key, network, x, label) on every one, in double precision."""

        def one(key, weight, bias, x, label):
            return attack(key, networks.from_weights([(weight, bias)]), x, label)

        cases = [jnp.asarray(part) for part in (self.weight, self.bias, self.x)]
        keys, label = jr.split(jr.key(0), DRAWS), jnp.asarray(self.label, jnp.int32)
        return as_numpy(quick_jit(jax.vmap(one))(keys, *cases, label))

    def gap(self, margin):
        """How far margins are above the smallest possible, as a share of what the threat can change."""
        return (margin - self.margin) / self.change


@some_threats
def test_ensemble_finds_the_optimum_of_linear_networks(threat, outputs, float64):
    """The search without the closed form."""
    linear, set_there = Linear(threat, outputs), THREATS[threat](RADIUS, DIM)
    found = linear.each(lambda *case: attacks.search(case[0], case[1], set_there, *case[2:], steps=100, count=2))
    assert np.all(linear.gap(found.best.margin) < 1e-4)
    for name, margin in found.smallest.items():
        assert np.all(linear.gap(margin) > -1e-12), name
    assert np.all(outside(threat, RADIUS, found.best.delta) <= 1e-12)
    np.testing.assert_array_equal(found.best.margin, np.min(list(found.smallest.values()), axis=0))
    np.testing.assert_array_equal(found.smallest["fab"] <= 0, linear.margin <= 0)
    targeted = "apgd-margin" if outputs == 1 else "apgd-margin-targeted"
    assert np.all(linear.gap(found.smallest[targeted]) < 1e-4)


@every_threat
@pytest.mark.parametrize(
    "outputs", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_minimum_norm_is_the_closed_form_on_linear_networks(threat, outputs, float64):
    """The smallest over the rivals of margin / h_1(slope), from x and from a random member."""
    linear, set_there = Linear(threat, outputs), THREATS[threat](RADIUS, DIM)

    def attack(key, network, x, label):
        starts = jnp.stack([jnp.zeros(DIM), set_there.worst(jr.normal(key, (DIM,)))])
        runs = jax.vmap(lambda one: attacks.fab(network, set_there, x, label, steps=3, starts=one[None]))(starts)
        found, other = (jax.tree.map(lambda leaf, run=run: leaf[run], runs) for run in range(2))
        return found, other, attacks.within(found, network, set_there, x, label)

    found, other, fixed = linear.each(attack)
    np.testing.assert_allclose(found.radius, linear.radius, rtol=1e-12)
    assert np.all(other.radius >= linear.radius * (1 - 1e-12))
    if outputs == 1:
        np.testing.assert_allclose(other.radius, linear.radius, rtol=1e-12)
    assert np.all(found.margin <= 0)
    np.testing.assert_allclose(found.margin, 0, atol=1e-12)
    assert np.all(outside(threat, found.radius, found.delta) <= 1e-12)
    np.testing.assert_array_equal(fixed.margin <= 0, found.radius <= RADIUS)
    np.testing.assert_array_equal(fixed.delta, np.where((found.radius <= RADIUS)[:, None], found.delta, 0))


@every_threat
def test_random_search_on_linear_networks(threat, float64):
    """Exact on polytopes; on round sets 1000 steps leave up to 1 % of the change, since corners are the easy part."""
    linear, set_there = Linear(threat, 1), THREATS[threat](RADIUS, DIM)

    def attack(key, network, x, label):
        return [attacks.square(key, network, set_there, x, label, steps=steps) for steps in (30, 1000)]

    few, many = linear.each(attack)
    for found in (few, many):
        assert np.all(linear.gap(found.margin) > -1e-12)
        assert np.all(outside(threat, RADIUS, found.delta) <= 1e-12)
    assert np.all(many.margin <= few.margin)
    assert np.all(linear.gap(many.margin) < (1e-12 if threat in CORNERS else 1e-2))


class OneSided(threats.Threat):
    """{beta s : 0 <= beta <= radius}: not symmetric, unlike every threat of the package."""

    radius: jax.Array
    direction: jax.Array

    def support(self, w):
        return self.radius * jnp.maximum(w @ self.direction, 0)

    def worst(self, w):
        return self.radius * jnp.where(w @ self.direction > 0, 1.0, 0.0) * self.direction

    def project(self, delta):
        return jnp.clip(delta @ self.direction, 0, self.radius) * self.direction


def test_a_threat_may_be_one_sided(float64):
    """Where the boundary lies behind x there is nothing to find; else the closed form."""
    linear, s = Linear("signal", 1), jnp.asarray(frame(DIM)[0])
    set_there = OneSided(jnp.asarray(RADIUS), s)

    def attack(key, network, x, label):
        starts = jnp.stack([jnp.zeros(DIM), set_there.worst(s)])
        near = jax.vmap(lambda start: attacks.fab(network, set_there, x, label, steps=10, starts=start[None]))(starts)
        return near, attacks.square(key, network, set_there, x, label, steps=50)

    near, tried = linear.each(attack)
    # f falls along s for label 1 where <w, s> < 0, and rises along it for label 0 where <w, s> > 0.
    slope = np.where(linear.label == 1, -1, 1) * (linear.weight[:, 0] @ np.asarray(s))
    expected = np.where(slope > 0, linear.radius, np.inf)
    assert 0 < np.sum(slope > 0) < DRAWS
    np.testing.assert_allclose(near.radius, np.stack([expected] * 2, axis=1), rtol=1e-12)
    clean = linear.margin + linear.change
    np.testing.assert_allclose(tried.margin, np.where(slope > 0, linear.margin, clean), rtol=1e-12)


@pytest.mark.parametrize("threat", ["l2", "segments"])
def test_boundary_steps_end_on_the_boundary_from_either_side(threat, float64):
    linear, set_there = Linear(threat, 1), THREATS[threat](1.0, DIM)

    def attack(key, network, x, label):
        def margin(delta):
            return jnp.min(networks.margins(network, x + delta, label))

        near = attacks.fab(network, set_there, x, label, steps=1).delta
        steps = [(delta, *_boundary(network, set_there, x, label, delta)) for delta in (near / 2, 3 * near)]
        return [(margin(delta), margin(delta + step.delta), margin(back.delta)) for delta, step, back in steps]

    (before, *hit), (beyond, *hit_too) = linear.each(attack)
    assert np.all(before > 0)
    assert np.all(beyond < 0)
    np.testing.assert_allclose([*hit, *hit_too], 0, atol=1e-12)


def test_a_flat_start_drifts_back(float64):
    """Margin 1 up to t = 1, down to -1 at 2, up to 1 at 3, flat again: found from 3.5, though x itself is flat too."""
    kinks = np.array([1.0, 2.0, 3.0])
    network = networks.from_weights([(np.ones((3, 1)), -kinks), (np.array([[-2.0, 4.0, -2.0]]), np.ones(1))])

    def from_start(start):
        return attacks.fab(network, threats.L2(4.0), jnp.zeros(1), jnp.array(1), steps=30, starts=start[None, None])

    found = quick_jit(jax.vmap(from_start))(jnp.array([0.0, 3.5]))
    np.testing.assert_allclose(found.radius, [np.inf, 1.5], rtol=1e-12)


def norm_of(threat, delta):
    """The smallest radius of a threat that delta [n, dim] in its span belongs to, from the definition of each."""
    along = delta @ frame(delta.shape[1]).T
    thin = np.where(np.arange(delta.shape[1]) == 0, 1, 1 - SHARE)
    return {
        "linf": lambda: np.abs(delta).max(1),
        "consistent": lambda: np.abs(delta).max(1),
        "l1": lambda: np.abs(delta).sum(1),
        "signal": lambda: np.abs(along[:, 0]),
        "spheroid": lambda: np.linalg.norm(along / thin, axis=1),
    }.get(threat, lambda: np.linalg.norm(delta, axis=1))()


@every_threat
@pytest.mark.parametrize("precision", [pytest.param(32, marks=pytest.mark.slow), 64])
def test_gauge_is_the_norm_of_each_threat(threat, precision):
    with jax.enable_x64(precision == 64):
        dtype = jnp.dtype(f"float{precision}")
        unit = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), THREATS[threat](1.0, DIM))
        unit = unit if unit.pieces() is None else jax.tree.map(lambda leaf: leaf[1], unit.pieces())
        z = np.random.default_rng(0).normal(size=(40, DIM)) * np.geomspace(1e-12, 1e12, 40)[:, None]
        z = np.concatenate([z, np.zeros((1, DIM))])
        inside = jax.vmap(eqx.tree_at(lambda one: one.radius, unit, jnp.asarray(1e15, dtype)).project)
        delta = jnp.where(jnp.any(jnp.asarray(z) != 0, axis=1, keepdims=True), inside(jnp.asarray(z, dtype)), 0)
        found = np.asarray(quick_jit(jax.vmap(lambda one: gauge(unit, one)))(delta))
        tolerance = 200 * np.finfo(dtype).eps
        np.testing.assert_allclose(found, norm_of(threat, np.asarray(delta, float)), rtol=tolerance, atol=0)


def two_layers(rng, dim, width, outputs):
    sizes = (dim, width, outputs)
    return [(rng.normal(size=(b, a)) / a**0.5, rng.normal(size=b) / 2) for a, b in itertools.pairwise(sizes)]


def right_examples(rng, network, dim, n, scale=1.0):
    """Inputs and the classes a network gives them, so that all of them are right."""
    x = jnp.asarray(rng.normal(size=(n, dim)) * scale)
    return x, jnp.argmax(jax.vmap(network)(x), axis=1).astype(jnp.int32)


def searched(network, set_there, x, label, steps=50, count=3):
    def one(key, x, label):
        return attacks.search(key, network, set_there, x, label, steps=steps, count=count)

    return as_numpy(quick_jit(jax.vmap(one))(jr.split(jr.key(1), x.shape[0]), x, label))


@pytest.mark.parametrize(
    ("threat", "outputs"),
    [("signal", 1), *(pytest.param(name, 3, marks=pytest.mark.slow) for name in ("signal", "segments"))],
)
def test_search_reaches_the_exact_robust_error_of_small_networks(threat, outputs, float64):
    """Without the exact search: never below the exact margin, and its robust error less by at most 1 %."""
    rng, set_there = np.random.default_rng(4), THREATS[threat](1.0, DIM)
    network = networks.from_weights(two_layers(rng, DIM, 12, outputs))
    x, label = right_examples(rng, network, DIM, 300)
    exact = as_numpy(quick_jit(jax.vmap(lambda x, y: attacks.exact(network, set_there, x, y)))(x, label))
    found = searched(network, set_there, x, label)
    assert 0.15 < np.mean(exact.margin <= 0) < 0.85
    assert np.all(found.best.margin >= exact.margin - 1e-12)
    assert np.mean(exact.margin <= 0) - np.mean(found.best.margin <= 0) <= 0.01
    assert np.mean(found.best.margin <= exact.margin + 1e-2) >= 0.9
    assert np.all(outside(threat, 1.0, found.best.delta) <= 1e-12)


def test_minimum_norm_along_a_line_is_the_first_crossing(float64):
    """Networks with one hidden layer on a segment: a dense grid knows the smallest radius to within its spacing."""
    rng, line = np.random.default_rng(5), THREATS["signal"](1.0, DIM)
    network = networks.from_weights(two_layers(rng, DIM, 12, 2))
    x, label = right_examples(rng, network, DIM, 100)
    betas = np.linspace(0, 4, 4001)
    signed = jnp.asarray(np.stack([betas, -betas], axis=1)[..., None] * frame(DIM)[0])

    def one(x, label):
        starts = jnp.stack([jnp.zeros(DIM), *(line.worst(sign * line.direction) / 2 for sign in (1.0, -1.0))])
        found = attacks.fab(network, line, x, label, steps=50, starts=starts)
        return found, jax.vmap(jax.vmap(lambda delta: jnp.min(networks.margins(network, x + delta, label))))(signed)

    found, along = as_numpy(quick_jit(jax.vmap(one))(x, label))
    wrong = along.min(axis=2) <= 0
    crossed = wrong.any(axis=1)
    first = np.where(crossed, betas[wrong.argmax(axis=1)], betas[-1])
    assert np.all(found.radius >= first - betas[1] - 1e-9)
    assert crossed.mean() > 0.3
    assert np.mean(found.radius[crossed] <= first[crossed] + 1e-9) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("threat", ["l2", "linf"])
def test_search_reaches_the_grid_in_two_dimensions(threat, float64):
    """A grid of 200 x 200 members: its smallest margin is at most a Lipschitz constant times its spacing too large."""
    rng, set_there = np.random.default_rng(6), THREATS[threat](1.0, 2)
    weights = two_layers(rng, 2, 20, 3)
    network = networks.from_weights(weights)
    x, label = right_examples(rng, network, 2, 200, 2.0)
    side = np.linspace(-1, 1, 201)
    members = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    members = members[outside(threat, 1.0, members) <= 1e-12]
    size, dense, smallest = norm_of(threat, members), [], []
    # In NumPy, apart from the networks of the package.
    (inner, shift), (outer, offset) = weights
    for point, own in zip(np.asarray(x), np.asarray(label), strict=True):
        logits = np.maximum((point + members) @ inner.T + shift, 0) @ outer.T + offset
        margin = logits[:, own] - np.delete(logits, own, axis=1).max(axis=1)
        dense.append(margin.min())
        smallest.append(np.min(size, where=margin <= 0, initial=np.inf))
    dense, smallest = np.array(dense), np.array(smallest)
    found = searched(network, set_there, x, label)
    assert 0.15 < np.mean(dense <= 0) < 0.85
    assert np.mean(dense <= 0) - np.mean(found.best.margin <= 0) <= 0.01
    lipschitz = 2 * np.prod([np.linalg.norm(weight, 2) for weight, _ in weights])
    # In the disc a grid point is within two half diagonals of every member: one to a corner inside, one beyond.
    assert np.all(found.best.margin >= dense - lipschitz * 2 * 0.01 * 2**0.5)
    assert np.mean(found.best.margin <= dense + 1e-3) >= 0.97

    def near(key, x, label):
        starts = jax.vmap(set_there.worst)(jr.normal(key, (5, 2))).at[0].set(0) / 2
        return attacks.fab(network, set_there, x, label, steps=50, starts=starts)

    radius = as_numpy(quick_jit(jax.vmap(near))(jr.split(jr.key(0), 200), x, label)).radius
    reached = np.isfinite(smallest)
    # To the resolution of the grid, which is behind by its spacing, and by more in a thin corner.
    assert np.mean(radius[reached] <= smallest[reached] + 0.01) >= 0.9
    assert np.mean(radius[reached] >= smallest[reached] - 0.02) >= 0.98


CASES = ("plain", "radius 0", "constant", "confident", "dead", "overflow", "diverged")


@functools.cache
def hard_cases():
    """Networks of four classes that are hard in single precision, with a radius each, in one program."""
    rng = np.random.default_rng(7)
    plain = [tuple(jnp.asarray(part, jnp.float32) for part in pair) for pair in two_layers(rng, 3, 8, 4)]
    (inner, shift), (outer, offset) = plain
    x = jnp.asarray(rng.normal(size=3), jnp.float32)
    label = jnp.argmax(networks.from_weights(plain)(x)).astype(jnp.int32)
    ahead = offset.at[label].add(1)
    # Dead at x; where the first input grows by 0.1 all logits are infinite, and their differences no numbers.
    cliff = 1e25 * jnp.eye(3, dtype=jnp.float32)[jnp.zeros(8, jnp.int32)]
    weights = {
        "plain": plain,
        "radius 0": plain,
        "constant": [(inner, shift), (0 * outer, ahead)],
        "confident": [(inner, shift), (2e3 * outer, 2e3 * offset)],
        "dead": [(inner, shift - 100), (outer, ahead)],
        "overflow": [(cliff, -cliff @ x - 1e24), (jnp.full_like(outer, 1e25), ahead)],
        "diverged": [(inner, shift), (outer, jnp.nan * offset)],
    }
    every = stacked([networks.from_weights(weights[case]) for case in CASES])
    radii = jnp.array([0.0 if case == "radius 0" else 2.0 for case in CASES], jnp.float32)

    def one(key, network, radius):
        here = threats.L2(radius), x, label
        clean = jnp.min(networks.margins(network, x, label))
        return clean, attacks.ensemble(key, network, *here, steps=20, count=2), attacks.fab(network, *here, steps=20)

    run = quick_jit(jax.vmap(one, in_axes=(None, 0, 0)))
    return [as_numpy(run(jr.key(seed), every, radii)) for seed in (0, 0, 1)]


def healthy(tree):
    """All cases but the two whose margins are no numbers somewhere."""
    return jax.tree.map(lambda leaf: leaf[:-2], tree)


def test_records_are_complete_and_the_best_is_their_smallest():
    clean, found, _ = hard_cases()[0]
    assert list(found.smallest) == [
        "apgd-cross-entropy",
        "apgd-dlr-targeted",
        "apgd-margin",
        "apgd-margin-targeted",
        "fab",
        "square",
    ]
    np.testing.assert_array_equal(found.best.margin, np.min(list(found.smallest.values()), axis=0))
    assert np.all(healthy(found.best.margin <= clean * (1 + 1e-5)))
    plain = {name: margin[0] for name, margin in found.smallest.items()}
    assert max(plain.values()) <= 0 < clean[0]


def test_the_key_alone_decides():
    first, again, other = (found for _, found, _ in hard_cases())
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first.smallest["square"][0] != other.smallest["square"][0]


def test_nothing_is_nan_and_nothing_moves_where_nothing_can():
    clean, found, near = healthy(hard_cases()[0])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    assert not any(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(near))
    assert np.all(np.linalg.norm(found.best.delta, axis=1) <= 2 * (1 + 1e-6))
    still = CASES.index("radius 0")
    np.testing.assert_array_equal(found.best.delta[still], 0)
    for case in ("radius 0", "constant", "dead"):
        position = CASES.index(case)
        for name, margin in found.smallest.items():
            np.testing.assert_allclose(margin[position], clean[position], rtol=1e-5, err_msg=f"{case}, {name}")
    # Radius 0 does not matter to a minimum-norm attack, and a constant network has no adversarial example at all.
    assert np.isfinite(near.radius[still])
    assert near.radius[CASES.index("constant")] == np.inf


def test_a_network_that_diverged_is_not_called_robust():
    """Its margins are no numbers, and no attack hides that."""
    _, found, near = hard_cases()[0]
    assert all(np.isnan(margin[-1]) for margin in (found.best.margin, near.margin, *found.smallest.values()))
    assert near.radius[-1] == np.inf
    assert any(np.isnan(found.best.margin[CASES.index("overflow")]) for _, found, _ in hard_cases())


def test_confident_networks_are_attacked_by_the_margin_though_the_cross_entropy_vanishes():
    clean, found, near = hard_cases()[0]
    position = CASES.index("confident")
    assert clean[position] > 150
    assert np.exp(np.float32(-clean[position])) == 0
    for name in ("apgd-margin", "apgd-margin-targeted", "apgd-dlr-targeted", "fab", "square"):
        assert found.smallest[name][position] <= 0, name
    np.testing.assert_allclose(near.radius[position], near.radius[CASES.index("plain")], rtol=1e-3)


def logits_to_margins(logits, label):
    """In the order of `networks.others`."""
    return jnp.asarray([logits[label] - logits[(label + step) % len(logits)] for step in range(1, len(logits))])


@pytest.mark.parametrize("label", [0, 2, 4])
def test_ratios_are_the_published_formulas(label, float64):
    logits = np.array([0.3, -1.0, 2.0, 0.9, 1.4])
    z1, _, z3, z4, _ = np.sort(logits)[::-1]
    margins = logits_to_margins(logits, label)
    rest = np.delete(logits, label).max()
    np.testing.assert_allclose(attacks.dlr(margins), -(logits[label] - rest) / (z1 - z3), rtol=1e-14)
    for rival in range(4):
        target = (label + 1 + rival) % 5
        expected = -(logits[label] - logits[target]) / (z1 - (z3 + z4) / 2)
        np.testing.assert_allclose(attacks.dlr_targeted(rival)(margins), expected, rtol=1e-14)
        np.testing.assert_allclose(attacks.dlr_targeted(rival)(1e6 * margins), expected, rtol=1e-12)
        np.testing.assert_allclose(attacks.margin_targeted(rival)(margins), logits[target] - logits[label], rtol=1e-14)


def test_ratios_are_finite_where_logits_are_equal(float64):
    for objective in (attacks.dlr, attacks.dlr_targeted(1)):
        value, gradient = jax.jit(jax.value_and_grad(objective))(jnp.zeros(4))
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(("outputs", "classes"), [(1, 2), (2, 2), (3, 3)])
def test_ratios_are_refused_where_they_are_not_defined(outputs, classes):
    network = networks.from_weights([(np.zeros((outputs, 3)), np.zeros(outputs))])
    here = network, threats.L2(1.0), jnp.zeros(3), jnp.array(0)
    wanted = rf"the targeted difference of logits ratio needs 4 classes, but there are {classes}: use the objective 'ma"
    with pytest.raises(ValueError, match=wanted):
        attacks.apgd(*here, objective=attacks.dlr_targeted(0))
    if classes == 2:
        with pytest.raises(
            ValueError, match="the difference of logits ratio needs 3 classes, but there are 2: use the"
        ):
            attacks.apgd(*here, objective="dlr")


def test_the_words_say_what_runs_and_what_is_left_out():
    def words(outputs, threat="l2"):
        network = networks.from_weights(
            [(np.zeros((4, DIM)), np.zeros(4)), (np.zeros((outputs, 4)), np.zeros(outputs))]
        )
        return attacks.describe_ensemble(network, THREATS[threat](1.0, DIM), steps=7, count=2)

    rest = "fab, 7 steps; square, 70 steps; 2 starts each"
    assert words(2, "segments") == "exact worst case"
    assert (
        words(1)
        == words(2)
        == (
            f"apgd-margin + {rest}; no apgd-dlr-targeted, which needs 4 classes and here are 2: apgd-margin instead; "
            "no apgd-cross-entropy, which for 2 classes takes the steps of apgd-margin"
        )
    )
    both = "apgd-cross-entropy + apgd-margin + apgd-margin-targeted"
    assert words(3) == (
        f"{both} (2 rivals) + {rest}; "
        "no apgd-dlr-targeted, which needs 4 classes and here are 3: apgd-margin-targeted instead"
    )
    assert words(12) == f"{both} (9 rivals) + apgd-dlr-targeted (9 rivals) + {rest}"


def test_the_ensemble_is_exact_where_exact_exists(float64):
    line, x, label = THREATS["signal"](1.0, DIM), jnp.ones(DIM), jnp.array(0)
    network = networks.from_weights(two_layers(np.random.default_rng(0), DIM, 4, 2))
    found = quick_jit(lambda: attacks.ensemble(jr.key(1), network, line, x, label))()
    exact = quick_jit(lambda: attacks.exact(network, line, x, label))()
    assert found.smallest == {"exact": found.best.margin}
    jax.tree.map(np.testing.assert_array_equal, found.best, exact)
