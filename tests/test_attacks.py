"""Attacks: members of their threat, honest about the margin, and exact where an exact value is known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from test_threats import THREATS, dual_norm, frame, members, outside

from simulator import attacks, networks, threats
from simulator.attacks import walk
from simulator.attacks.auto_pgd import _checkpoints

DIM, RADIUS, EXAMPLES = 5, 0.6, 6
ATTACKS = {
    "fgsm": attacks.fgsm,
    "pgd": attacks.pgd,
    "apgd": functools.partial(attacks.apgd, steps=30),
    "apgd on the margin": functools.partial(attacks.apgd, objective="margin", steps=30),
    "pgd, restarts": lambda *example: attacks.restarts(jr.key(7), attacks.pgd, *example, count=3),
    "strongest": lambda *example: attacks.strongest(jr.key(8), *example, steps=30, count=2),
}

pytestmark = pytest.mark.usefixtures("float64")
every_threat = pytest.mark.parametrize("threat", THREATS)
some_threats = pytest.mark.parametrize(
    "threat", [pytest.param(name, marks=[] if name in ("l2", "segments") else pytest.mark.slow) for name in THREATS]
)


def random_network(widths, outputs, seed=0):
    rng, sizes = np.random.default_rng(seed), (DIM, *widths, outputs)
    return networks.from_weights(
        [(rng.normal(size=(b, a)) / a**0.5, rng.normal(size=b)) for a, b in itertools.pairwise(sizes)]
    )


def examples(outputs=2):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(EXAMPLES, DIM))), jnp.asarray(rng.integers(outputs, size=EXAMPLES), jnp.int32)


def smallest_margin(network, x, label):
    return jnp.min(networks.margins(network, x, label))


def attack_all(attack, network, threat, outputs=2):
    """The attacks on all examples and the margins at the points they return."""
    set_there = THREATS[threat](RADIUS, DIM)

    def one(x, label):
        found = attack(network, set_there, x, label)
        return found, smallest_margin(network, x + found.delta, label)

    return jax.vmap(one)(*examples(outputs))


def over_examples(attack, network, threat, outputs=2):
    """`attack_all` as NumPy arrays."""
    return jax.tree.map(np.asarray, quick_jit(lambda: attack_all(attack, network, threat, outputs))())


@functools.cache
def exact(widths, outputs, threat, classes=2):
    """What `attacks.exact` finds on a random network, and the margins at the points it returns."""
    return over_examples(attacks.exact, random_network(widths, outputs), threat, classes)


@quick_jit
def smallest_among(network, deltas, x, y):
    """The smallest margin at any of the perturbations, per example."""
    return jax.vmap(lambda x, y: jnp.min(jax.vmap(lambda delta: smallest_margin(network, x + delta, y))(deltas)))(x, y)


def sampled_margins(network, threat, outputs=2, n=4000):
    """The smallest margin at any of n random members, per example."""
    inside = RADIUS * jnp.asarray(members(threat, DIM, n))
    return np.asarray(smallest_among(network, inside, *examples(outputs)))


@functools.cache
def all_attacks(threat):
    """What every attack finds on one network, in one program."""
    with jax.enable_x64(True):
        network = random_network((7, 6), 3)
        found = quick_jit(lambda: {name: attack_all(a, network, threat, 3) for name, a in ATTACKS.items()})()
        return jax.tree.map(np.asarray, found)


@some_threats
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_a_member_and_reports_the_margin_there(name, threat):
    found, at_delta = all_attacks(threat)[name]
    assert np.all(outside(threat, RADIUS, found.delta) <= 1e-12)
    np.testing.assert_allclose(found.margin, at_delta, rtol=1e-12, atol=1e-12)


@some_threats
def test_restarts_are_never_weaker(threat):
    found = {name: attack.margin for name, (attack, _) in all_attacks(threat).items()}
    assert np.all(found["strongest"] <= found["apgd"] + 1e-12)
    assert np.all(found["strongest"] <= found["apgd on the margin"] + 1e-12)
    assert np.all(found["pgd, restarts"] <= found["pgd"] + 1e-12)


@pytest.mark.parametrize("from_start", [False, True])
@pytest.mark.parametrize("attack", [attacks.pgd, attacks.apgd])
def test_l2_attacks_in_hidden_coordinates_take_the_same_steps(monkeypatch, float64, attack, from_start):
    """The cheaper walk and the plain one: the same perturbations after 20 steps, from x and from a random start."""
    network, (x, y) = random_network((3, 6), 3), examples(3)
    starts = 2 * jr.normal(jr.key(3), x.shape)

    def run():
        def one(x, y, start):
            return attack(network, threats.L2(RADIUS), x, y, steps=20, start=start if from_start else None)

        return quick_jit(jax.vmap(one))(x, y, starts)

    cheap = run()
    monkeypatch.setattr(walk, "L2", type("None of them", (), {}))
    plain = run()
    np.testing.assert_allclose(cheap.delta, plain.delta, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(cheap.margin, plain.margin, rtol=1e-9, atol=1e-9)
    lengths = np.linalg.norm(cheap.delta, axis=1)
    assert lengths.max() == pytest.approx(RADIUS, rel=1e-9)
    assert lengths.min() < RADIUS - 0.01


def test_l2_attack_stays_in_the_ball_where_rows_cancel():
    """Rows that nearly cancel make the length in hidden coordinates wrong in single precision; the attack is not."""
    rows = jnp.array([[1.0, 0.0, 0.0], [-1.0, 1e-4, 0.0]], jnp.float32)
    network = networks.from_weights(
        [(rows, jnp.ones(2, jnp.float32)), (jnp.array([[1.0, 1.0]], jnp.float32), jnp.zeros(1, jnp.float32))]
    )
    for label in (0, 1):
        found = attacks.pgd(network, threats.L2(0.5), jnp.zeros(3, jnp.float32), jnp.array(label), steps=10)
        assert float(jnp.linalg.norm(found.delta)) <= 0.5 * (1 + 1e-6)
        assert float(found.margin) == float(smallest_margin(network, found.delta, jnp.array(label)))


@some_threats
def test_attacks_help(threat):
    """All lower the margin somewhere, so none of them can have stayed at x."""
    network = random_network((7, 6), 3)
    clean = quick_jit(jax.vmap(lambda x, y: smallest_margin(network, x, y)))(*examples(3))
    for name, (found, _) in all_attacks(threat).items():
        assert np.any(found.margin < clean - 1e-3), name


@every_threat
@pytest.mark.parametrize("outputs", [1, 2])
def test_exact_on_linear_networks_is_the_closed_form(threat, outputs):
    network = random_network((), outputs)
    x, label = examples()
    weight, bias = np.asarray(network.last.weight), np.asarray(network.last.bias)
    w, b = (weight[0], bias[0]) if outputs == 1 else (weight[1] - weight[0], bias[1] - bias[0])
    sign = np.where(label == 1, 1, -1)
    # min over the set of sign (<w, x + delta> + b); all six sets are symmetric, so h(-w) = h(w)
    closed = sign * (np.asarray(x) @ w + b) - RADIUS * dual_norm(threat, w)
    found, at_delta = exact((), outputs, threat)
    np.testing.assert_allclose(found.margin, closed, rtol=1e-12)
    np.testing.assert_allclose(at_delta, closed, rtol=1e-12)
    assert np.all(outside(threat, RADIUS, found.delta) <= 1e-12)


@every_threat
def test_exact_on_linear_networks_of_three_classes_is_the_smallest_rival(threat):
    network = random_network((), 3)
    found, at_delta = exact((), 3, threat, 3)
    for x, label, margin in zip(*examples(3), found.margin, strict=True):
        differences = [network.last.weight[label] - network.last.weight[k] for k in range(3) if k != label]
        offsets = [network.last.bias[label] - network.last.bias[k] for k in range(3) if k != label]
        each = [
            w @ x + b - RADIUS * dual_norm(threat, np.asarray(w)) for w, b in zip(differences, offsets, strict=True)
        ]
        np.testing.assert_allclose(margin, min(each), rtol=1e-12)
    np.testing.assert_allclose(found.margin, at_delta, rtol=1e-12)


@every_threat
@pytest.mark.parametrize("outputs", [1, 3])
def test_exact_on_one_neuron_is_the_smallest_of_many(threat, outputs):
    """The pre-activation covers [z - h, z + h], or for a union its members' ranges; a dense grid over it."""
    network = random_network((1,), outputs)
    theta = np.asarray(network.layers[0].weight[0])
    reach = RADIUS * dual_norm(threat, theta)
    found, at_delta = exact((1,), outputs, threat, max(2, outputs))
    x, label = examples(max(2, outputs))
    z = np.asarray(jax.vmap(network.layers[0])(x))[:, 0]
    grid = np.maximum(z[:, None] + np.linspace(-reach, reach, 1001), 0)
    logits = grid[..., None] * np.asarray(network.last.weight[:, 0]) + np.asarray(network.last.bias)
    logits = logits if outputs > 1 else np.concatenate([np.zeros_like(logits), logits], axis=-1)
    own = np.take_along_axis(logits, np.asarray(label)[:, None, None], axis=2)
    rivals = np.where(np.arange(logits.shape[2]) == np.asarray(label)[:, None, None], np.inf, own - logits)
    np.testing.assert_allclose(found.margin, rivals.min(axis=(1, 2)), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.margin, at_delta, rtol=1e-10, atol=1e-12)
    assert np.all(outside(threat, RADIUS, found.delta) <= 1e-12)


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("threat", ["signal", "segments"])
def test_exact_on_one_hidden_layer_is_the_smallest_along_the_lines(threat, outputs):
    """Against a dense grid: no grid point is lower, and the nearest is higher by at most slope times half a step."""
    network = random_network((30,), outputs)
    directions = frame(DIM)[: 1 if threat == "signal" else 3]
    betas = np.linspace(-RADIUS, RADIUS, 4001)
    deltas = jnp.asarray((betas[:, None, None] * directions).reshape(-1, DIM))
    x, label = examples(max(2, outputs))
    dense = np.asarray(smallest_among(network, deltas, x, label))
    found, at_delta = over_examples(attacks.exact, network, threat, max(2, outputs))
    slope = 2 * np.abs(network.last.weight).sum(axis=0).max() * np.abs(network.layers[0].weight @ directions.T).sum()
    assert np.all(found.margin <= dense + 1e-12)
    assert np.all(dense - found.margin <= slope * (betas[1] - betas[0]) / 2)
    np.testing.assert_allclose(found.margin, at_delta, rtol=1e-10, atol=1e-12)
    assert np.all(outside(threat, RADIUS, found.delta) <= 1e-12)


def test_exact_finds_a_minimum_between_the_ends():
    """|t - 0.3| as two neurons: the minimum is at a breakpoint, and a neuron the line never moves is ignored."""
    hidden = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.array([-0.3, 0.3, -1.0])
    network = networks.from_weights([hidden, (np.array([[1.0, 1.0, 1.0]]), np.array([-0.1]))])
    line = threats.SignalDirected(1.0, jnp.array([1.0, 0.0]))
    found = attacks.exact(network, line, jnp.zeros(2), jnp.array(1))
    np.testing.assert_allclose(found.delta, [0.3, 0], atol=1e-12)
    np.testing.assert_allclose(found.margin, -0.1, atol=1e-12)


@every_threat
def test_exact_is_not_above_any_member(threat):
    for widths in [(), (1,), *([(9,)] if threat in ("signal", "segments") else [])]:
        found, _ = exact(widths, 2, threat)
        assert np.all(found.margin <= sampled_margins(random_network(widths, 2), threat) + 1e-12)


@every_threat
def test_apgd_is_exact_on_linear_networks(threat):
    """Within 1e-4 of the change the threat can make. A corner of the cross-polytope takes L1 more steps to reach."""
    network = random_network((), 2)
    best, _ = exact((), 2, threat)
    steps = 200 if threat == "l1" else 50
    found, _ = over_examples(functools.partial(attacks.apgd, steps=steps), network, threat)
    w = np.asarray(network.last.weight[1] - network.last.weight[0])
    np.testing.assert_allclose(found.margin, best.margin, atol=1e-4 * RADIUS * dual_norm(threat, w))


def test_strongest_is_exact_where_exact_exists():
    network = random_network((9,), 1)
    strongest, _ = over_examples(ATTACKS["strongest"], network, "segments")
    np.testing.assert_array_equal(strongest.margin, exact((9,), 1, "segments")[0].margin)
    assert attacks.describe(network, THREATS["segments"](1.0, DIM), steps=3, count=2) == "exact worst case"
    for classes, words in {1: "apgd-margin", 2: "apgd-margin", 3: "apgd-cross-entropy + apgd-margin"}.items():
        found = attacks.describe(random_network((9,), classes), THREATS["l2"](1.0, DIM), steps=3, count=2)
        assert found == f"{words}, 3 steps, 2 starts{' each' if classes == 3 else ''}"


@pytest.mark.parametrize("threat", ["l2", "linf", "l1"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_of_two_classes_both_objectives_walk_through_the_same_points(threat, outputs, float64):
    """Why `strongest` leaves one out there."""
    found = {
        name: over_examples(functools.partial(attacks.apgd, steps=20, objective=name), network, threat)[0].delta
        for network in [random_network((3, 6), outputs)]
        for name in ("cross-entropy", "margin")
    }
    np.testing.assert_allclose(found["cross-entropy"], found["margin"], rtol=1e-6, atol=1e-9)


def test_of_three_classes_the_objectives_differ(float64):
    ways = [functools.partial(attacks.apgd, steps=20, objective=name) for name in ("cross-entropy", "margin")]
    first, second = (over_examples(way, random_network((3, 6), 3), "l2")[0].delta for way in ways)
    assert np.max(np.abs(first - second)) > 1e-3


@every_threat
def test_has_exact_says_what_exact_can_do(threat):
    line = threat in ("signal", "segments")
    set_there = THREATS[threat](1.0, DIM)
    known = {(): True, (1,): True, (4,): line, (1, 1): False, (4, 4): False}
    for widths, expected in known.items():
        assert attacks.has_exact(random_network(widths, 2), set_there) == expected


@pytest.mark.parametrize(("threat", "widths"), [("linf", (4,)), ("signal", (4, 4)), ("orthogonal", (3,))])
def test_exact_refuses_what_it_cannot_do(threat, widths):
    x, label = (leaf[0] for leaf in examples())
    with pytest.raises(
        ValueError, match=r"no exact worst case is known for .* layers: use a linear network, one hidden"
    ):
        attacks.exact(random_network(widths, 2), THREATS[threat](1.0, DIM), x, label)


def test_an_unknown_objective_is_named():
    x, label = (leaf[0] for leaf in examples())
    with pytest.raises(
        ValueError, match="there is no objective 'hinge'; the objectives are cross-entropy, margin, dlr"
    ):
        attacks.pgd(random_network((), 2), threats.L2(1.0), x, label, objective="hinge")


def test_at_radius_0_attacks_stay_at_x():
    network = random_network((4,), 2)
    x, label = (leaf[0] for leaf in examples())
    for attack in (attacks.fgsm, attacks.pgd, functools.partial(attacks.apgd, start=x)):
        found = quick_jit(lambda attack=attack: attack(network, threats.L2(0.0), x, label))()
        np.testing.assert_array_equal(found.delta, 0)
        np.testing.assert_allclose(found.margin, smallest_margin(network, x, label), rtol=1e-12)


def test_apgd_reconsiders_its_step_at_the_published_shares():
    """Croce & Hein (2020), section 3: p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), here of 100."""
    marks = [step + 1 for step, mark in enumerate(_checkpoints(100)) if mark]
    assert marks[:6] == [22, 41, 57, 70, 80, 87]


@pytest.mark.parametrize("size", [1e-14, 1.0, 1e10])
@pytest.mark.parametrize("width", [8, 40], ids=["through the first layer", "in the input"])
@pytest.mark.parametrize("attack", [attacks.fgsm, attacks.pgd, attacks.apgd])
def test_attacks_of_networks_that_blew_up_move_as_far(attack, width, size):
    # Weights whose gradients have squares that are no numbers in single precision, or too small to be any.
    with jax.enable_x64(False):
        network = networks.mlp(jr.key(0), 6, (width,), 1)
        scaled = jax.tree.map(lambda leaf: leaf * size, network)
        x, threat = jr.normal(jr.key(1), (6,)), threats.L2(0.5)
        bias_free = [jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else leaf * 0, net) for net in (network, scaled)]
        deltas = [attack(net, threat, x, jnp.array(1), objective="margin").delta for net in bias_free]
        assert np.linalg.norm(deltas[1]) == pytest.approx(0.5, rel=1e-5)
        np.testing.assert_allclose(deltas[1], deltas[0], atol=1e-3)
