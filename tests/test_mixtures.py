"""Mixtures of attacks and bounds, latent attacks, TRADES and FAST-IBP: their ends, order, gradients and twins."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from test_losses import DIM, examples, over_examples, random_network
from test_threats import THREATS, frame, members, outside

from simulator import attacks, bounds, losses, networks, threats
from simulator.defences import DEFENCES, TABLE, loss_of

pytestmark = pytest.mark.usefixtures("float64")

SHARES, RADII = np.array([0.0, 0.25, 0.5, 0.75, 1.0]), np.array([0.0, 0.3, 2.0])
MIXTURES = {"cc": losses.cc_ibp, "mtl": losses.mtl_ibp, "exp": losses.exp_ibp, "sabr": losses.sabr}
every_threat = pytest.mark.parametrize("threat", THREATS)
some_threats = pytest.mark.parametrize(
    "threat",
    [pytest.param(name, marks=[] if name in ("linf", "signal", "segments") else pytest.mark.slow) for name in THREATS],
)
every_shape = pytest.mark.parametrize("outputs", [1, pytest.param(3, marks=pytest.mark.slow)])


@functools.cache
def table(threat, outputs):
    """Losses [radii, examples] of the parts, [shares, radii, examples] of the mixtures, in one program."""
    network, (x, y) = random_network((6, 5), outputs, seed=4), examples()
    parts = {
        "standard": losses.standard,
        "attacked": losses.attacked(attacks.fgsm),
        "certified": losses.certified("ibp"),
        "latent": losses.latent_attacked(1),
        "deeper": losses.latent_attacked(2),
        "trades": losses.trades(1.0, steps=3),
    }

    def one(radius, x, y):
        here = THREATS[threat](radius, DIM)
        ways = {name: jax.vmap(lambda a, f=f: f(attacks.fgsm, a)(network, here, x, y)) for name, f in MIXTURES.items()}
        values = {name: loss(network, here, x, y) for name, loss in parts.items()}
        return values, {name: way(jnp.asarray(SHARES)) for name, way in ways.items()}

    over = jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))
    values, mixed = jax.tree.map(np.asarray, quick_jit(over)(jnp.asarray(RADII), x, y))
    return {**values, **{name: np.moveaxis(found, -1, 0) for name, found in mixed.items()}}


def assert_at_most(low, high):
    """Up to the rounding of a few hundred operations in double precision."""
    assert np.all(np.isfinite(low))
    assert np.all(low <= high + 1e-12 * np.maximum(1, np.abs(high)))


@some_threats
@every_shape
def test_every_mixture_leads_from_the_attack_to_the_bound(threat, outputs):
    found = table(threat, outputs)
    for name in MIXTURES:
        np.testing.assert_allclose(found[name][0], found["attacked"], rtol=1e-11)
        np.testing.assert_allclose(found[name][-1], found["certified"], rtol=1e-11)
    assert np.any(found["attacked"] < found["certified"] - 1e-3)


@some_threats
@every_shape
def test_expressive_losses_do_not_fall_with_their_coefficient_and_keep_their_order(threat, outputs):
    found = table(threat, outputs)
    for name in ("cc", "mtl", "exp"):
        assert_at_most(found[name][:-1], found[name][1:])
    assert_at_most(found["exp"], found["mtl"])
    assert_at_most(found["cc"], found["mtl"])
    between = slice(1, -1)
    assert np.any(found["cc"][between] < found["mtl"][between] - 1e-3)
    if outputs == 1:
        assert_at_most(found["exp"], found["cc"])
        assert np.any(found["exp"][between] < found["cc"][between] - 1e-3)


@some_threats
@every_shape
def test_small_sets_and_latent_attacks_stay_below_interval_bounds(threat, outputs):
    found = table(threat, outputs)
    for name in ("sabr", "latent", "deeper"):
        assert_at_most(found[name], np.broadcast_to(found["certified"], found[name].shape))
    # With one ReLU behind the box its worst point is where the signs of the last weights say, if the network has one
    # rival or an attack for each.
    np.testing.assert_allclose(found["latent"], found["certified"], rtol=1e-11)
    assert np.any(found["deeper"] < found["certified"] - 1e-3)


@some_threats
@every_shape
def test_at_radius_0_every_loss_is_the_standard_one(threat, outputs):
    found = table(threat, outputs)
    for values in found.values():
        at_0 = values[..., 0, :]
        np.testing.assert_allclose(at_0, np.broadcast_to(found["standard"][0], at_0.shape), rtol=1e-11)
    assert np.all(found["trades"] >= found["standard"])
    assert np.any(found["trades"][1:] > found["standard"][1:] + 1e-3)


def outside_hull(name, radius, delta):
    """`outside` of the convex hull."""
    if name != "segments":
        return outside(name, radius, delta)
    along = delta @ frame(DIM).T
    return np.maximum(np.abs(along[..., :3]).sum(-1) - radius, np.abs(along[..., 3:]).max(-1))


@functools.cache
def small_sets(threat, radius):
    """share -> centres and radii of the small sets about the examples."""

    def where(network, threat, x, y):
        return x, threat.radius

    def placed(share):
        loss = losses.around_attack(attacks.fgsm, share, where)
        return jax.vmap(lambda x, y: loss(random_network((6,), 1), THREATS[threat](radius, DIM), x, y))(*examples())

    return quick_jit(placed)


@every_threat
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_small_set_is_inside_the_threat(threat, share):
    radius, (x, _) = 0.7, examples()
    centres, radii = small_sets(threat, radius)(jnp.array(share))
    np.testing.assert_allclose(radii, share * radius, rtol=1e-12)
    reached = np.asarray(centres - x)[:, None] + share * radius * members(threat, DIM, 200)[None]
    assert outside_hull(threat, radius, reached).max() <= 1e-12
    # The set is as large as it can be: somewhere it touches the edge, which some attack reached.
    assert outside_hull(threat, (1 - share) * radius, np.asarray(centres - x)).max() > -1e-9


@functools.cache
def scheduled(threat):
    """share -> the exact losses of the examples, and those of every schedule of bounds."""

    def values(share):
        ways = [losses.exact, *(schedule.at(share) for schedule in (losses.crown_ibp(), losses.fast_ibp()))]
        here = THREATS[threat](0.4, DIM)
        return jax.vmap(lambda x, y: [way(random_network((6,), 1), here, x, y) for way in ways])(*examples())

    return quick_jit(values)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("threat", ["signal", "segments"])
def test_schedules_of_bounds_are_sound_throughout(threat, share):
    exact, *bounded = map(np.asarray, scheduled(threat)(jnp.array(share)))
    for found in bounded:
        assert_at_most(exact, found)


def test_a_schedule_has_its_two_ends_and_what_lies_between():
    network, here = random_network((6, 5), 3), threats.LInf(0.2)
    ibp, crown = (over_examples(losses.certified(name), network, here) for name in ("ibp", "crown-ibp"))
    half = over_examples(losses.certified("crown-ibp", 0.5), network, here)
    assert np.all(ibp != crown)

    def along(schedule, shares):
        at = jax.vmap(lambda share, x, y: schedule.at(share)(network, here, x, y), (None, 0, 0))
        return np.asarray(quick_jit(jax.vmap(at, (0, None, None)))(jnp.array(shares), *examples()))

    for ours, expected in zip(along(losses.crown_ibp(), [0.0, 0.5, 1.0]), (crown, half, ibp), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    fast = along(losses.fast_ibp(0.8), [0.0, 0.75, 1.0])
    np.testing.assert_allclose(fast[2], ibp, rtol=1e-12)
    np.testing.assert_allclose(fast[1] - ibp, (fast[0] - ibp) / 4, rtol=1e-9, atol=1e-12)
    assert np.any(fast[0] > ibp + 0.1)


def test_the_logarithm_of_the_cross_entropy_does_not_underflow():
    margins = np.array([-1e6, -3.0, 0.0, 30.0, 39.9, 40.1, 1e6])
    both = jax.vmap(jax.value_and_grad(lambda m: networks.log_cross_entropy(m[None])))
    found, slopes = quick_jit(both)(jnp.asarray(margins))
    np.testing.assert_allclose(found[:3], np.log(np.logaddexp(0, -margins[:3])), rtol=1e-13)
    # log(log(1 + e)) = log(e) + log(1 - e / 2 + ...) for small e = exp(-margin).
    np.testing.assert_allclose(found[3:], -margins[3:] + np.log1p(-np.exp(-margins[3:]) / 2), rtol=1e-13)
    np.testing.assert_allclose(slopes[3:], -1, rtol=1e-12)


NETWORKS = ("random", "dead", "zero")


def strange_networks(dtype):
    """A network, one of which all neurons are dead, and one whose weights are 0, stacked."""
    network = jax.tree.map(lambda leaf: leaf.astype(dtype), random_network((6, 5), 2, seed=4))
    dead = jax.tree.map(lambda leaf: leaf if leaf.ndim == 2 else jnp.full_like(leaf, -1e3), network)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), network, dead, jax.tree.map(jnp.zeros_like, network))


@pytest.mark.parametrize(
    ("dtype", "threat"),
    [
        ("float32", "l2"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("float64", "linf"), ("float32", "signal")]),
    ],
)
def test_losses_and_gradients_of_every_modern_defence_are_finite(dtype, threat):
    """At radius 0 and 1e6, on dead neurons, zero weights and examples right by so much that a loss underflows."""
    with jax.enable_x64(dtype == "float64"):
        x, y = (leaf[:3] for leaf in examples())
        x = jnp.concatenate([x, 1e4 * x]).astype(dtype)
        y = jnp.concatenate([y, y])

        def one(network, radius, x, y):
            here = jax.tree.map(lambda leaf: leaf.astype(dtype), THREATS[threat](radius, DIM))
            ways = {name: loss_of(name, attacks.fgsm) for name in TABLE if name not in DEFENCES}
            early = {
                f"{name} at first": way.at(jnp.zeros((), dtype)) for name, way in ways.items() if TABLE[name].warmup
            }
            late = {name: way.at(jnp.ones((), dtype)) if TABLE[name].warmup else way for name, way in ways.items()}
            return {
                name: jax.value_and_grad(loss, (0, 1, 2))(network, here, x, y)
                for name, loss in {**late, **early}.items()
            }

        over = jax.vmap(jax.vmap(jax.vmap(one, (None, None, 0, 0)), (None, 0, None, None)), (0, None, None, None))
        found = quick_jit(over)(strange_networks(dtype), jnp.asarray([0.0, 0.3, 1e6], dtype), x, y)
    for name, tree in found.items():
        for leaf in jax.tree.leaves(tree):
            assert leaf.dtype == dtype
            assert np.all(np.isfinite(leaf)), name


def pushed(network, threat, x, label):
    """An attack that does not depend on the network, so that nothing moves that a gradient holds fixed."""
    delta = threat.worst(jnp.arange(1.0, DIM + 1))
    return attacks.Attack(delta, jnp.min(networks.margins(network, x + delta, label)))


SMOOTH = {
    **{name: way(pushed, 0.3) for name, way in MIXTURES.items()},
    "fast": lambda *example: losses.fast_ibp().at(jnp.array(0.3))(*example),
    "crown": lambda *example: losses.crown_ibp().at(jnp.array(0.3))(*example),
}


@every_shape
def test_gradients_are_those_of_central_differences(outputs):
    step = 1e-6
    network, here, rng = random_network((6, 5), outputs, seed=4), threats.L2(0.2), np.random.default_rng(3)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), network)

    def slopes(x, y):
        def along(loss, t):
            return loss(jax.tree.map(lambda w, v: w + t * v, network, direction), here, x, y)

        return {
            name: (jax.grad(lambda t, f=f: along(f, t))(0.0), (along(f, step) - along(f, -step)) / (2 * step))
            for name, f in SMOOTH.items()
        }

    x, y = (leaf[:8] for leaf in examples())
    for name, (ours, differences) in quick_jit(jax.vmap(slopes))(x, y).items():
        np.testing.assert_allclose(ours, differences, rtol=1e-6, atol=1e-7, err_msg=name)


@every_shape
def test_with_one_relu_behind_the_box_the_gradient_is_that_of_interval_bounds(outputs):
    """Every coordinate that counts is then at an end of the box, where the connector has slope 1 and 0."""
    network, here = random_network((6, 5), outputs, seed=4), threats.LInf(0.2)

    def gradients(x, y):
        return [jax.grad(loss)(network, here, x, y) for loss in (losses.latent_attacked(1), losses.certified("ibp"))]

    ours, expected = quick_jit(jax.vmap(gradients))(*examples())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, expected)


def test_the_connector_gives_each_end_of_a_box_its_share():
    box = bounds.Box(jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 5.0]), jnp.array([2.0, 2.0, 2.0, 2.0, 2.0, 0.0]))
    point = jnp.array([-1.0, 0.0, 1.0, 2.0, 3.0, 5.0])
    np.testing.assert_array_equal(losses.connected(box, point), point)
    slopes = jax.jacobian(lambda lower, upper: losses.connected(bounds.Box.between(lower, upper), point), (0, 1))
    to_lower, to_upper = slopes(box.lower, box.upper)
    np.testing.assert_allclose(to_lower, np.diag([1, 0.5, 0, 0, 0, 0]), atol=1e-15)
    np.testing.assert_allclose(to_upper, np.diag([0, 0, 0, 0.5, 1, 0]), atol=1e-15)


def test_taps_is_the_product_of_its_two_losses_and_staps_looks_around_the_attack():
    network, here = random_network((6, 5), 3), threats.L2(0.3)
    found, latent, ibp = (
        over_examples(loss, network, here)
        for loss in (losses.taps(2), losses.latent_attacked(2), losses.certified("ibp"))
    )
    np.testing.assert_allclose(found, latent * ibp, rtol=1e-12)
    np.testing.assert_allclose(over_examples(losses.staps(attacks.fgsm, 1.0, 2), network, here), found, rtol=1e-11)
    smaller = over_examples(losses.staps(attacks.fgsm, 0.2, 2), network, here)
    assert np.mean(smaller) < np.mean(found)


@pytest.mark.parametrize("relus", [0, 3])
def test_a_box_that_is_not_in_the_network_is_refused(relus):
    x, y = (leaf[0] for leaf in examples())
    with pytest.raises(ValueError, match=f"relus is {relus}, but the network has 2 ReLUs: give 1 to 2"):
        losses.taps(relus)(random_network((6, 5), 3), threats.L2(0.3), x, y)


def binary_kl(margin, moved):
    """KL of two classes from the margins of the first, from its definition."""
    p, q = 1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(-moved))
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def linear_margins():
    network = random_network((), 1)
    weight, bias = np.asarray(network.last.weight)[0], np.asarray(network.last.bias)[0]
    return network, weight, np.asarray(examples()[0]) @ weight + bias


@quick_jit
def kl_terms(network, threat):
    """KL(f(x) || f(x + delta)) that TRADES finds."""

    def at(x, y):
        without, some = jax.vmap(lambda c: losses.trades(c)(network, threat, x, y))(jnp.array([0.0, 2.5]))
        return (some - without) / 2.5

    return jax.vmap(at)(*examples())


def test_on_a_linear_network_trades_finds_the_largest_kl():
    """It is at an end of the interval that the output covers: of L2 at +-radius |w|, of segments at +-radius <w, u>."""
    network, weight, f = linear_margins()
    for threat, reaches in (
        (threats.L2(0.4), [0.4 * np.linalg.norm(weight)]),
        (THREATS["segments"](0.4, DIM), list(0.4 * frame(DIM)[:3] @ weight)),
        (THREATS["linf"](0.4, DIM), [0.4 * np.abs(weight).sum()]),
    ):
        largest = np.max([binary_kl(f, f + sign * reach) for reach in reaches for sign in (1, -1)], axis=0)
        np.testing.assert_allclose(kl_terms(network, threat), largest, rtol=1e-9, atol=1e-12)


def test_of_a_union_trades_takes_the_member_with_the_largest_kl():
    """For three classes that need not be the one with the smallest margin."""
    network, u = random_network((), 3), jnp.asarray(frame(DIM)[:3])
    apart = [kl_terms(network, threats.SignalDirected(2.0, direction)) for direction in u]
    np.testing.assert_allclose(
        kl_terms(network, threats.Segments(2.0, u)), np.max(apart, axis=0), rtol=1e-9, atol=1e-12
    )


def test_the_gradient_of_trades_is_that_of_the_largest_kl():
    """Danskin, as the worst point of the linear network is the only one; f(x) is differentiated as well."""
    (network, _, _), threat, step = linear_margins(), threats.L2(0.4), 1e-6
    direction = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(3).normal(size=leaf.shape)), network)

    def slopes(x, y):
        def along(t):
            moved = jax.tree.map(lambda w, v: w + t * v, network, direction)
            return losses.trades(2.0)(moved, threat, x, y)

        return jax.grad(along)(0.0), (along(step) - along(-step)) / (2 * step)

    ours, differences = quick_jit(jax.vmap(slopes))(*examples())
    np.testing.assert_allclose(ours, differences, rtol=1e-6, atol=1e-7)


def test_kl_is_that_of_the_softmax():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4)) * 3
    p, q = (np.exp(np.append(0, -m)) / np.exp(np.append(0, -m)).sum() for m in (a, b))
    expected = np.sum(p * np.log(p / q))
    np.testing.assert_allclose(losses.kl_divergence(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-12)
    assert losses.kl_divergence(jnp.asarray(a), jnp.asarray(a)) == 0


def written_out(boxes, tau):
    """Both regularisers of FAST-IBP, neuron by neuron."""
    loose = unlike = 0.0
    for middle, reach in boxes:
        loose += max(0, tau - np.mean(boxes[0][1]) / np.mean(reach)) / tau
        mean = np.mean(middle)
        active, inactive = middle - reach > 0, middle + reach < 0
        for a, b in (
            (middle[active].sum(), -middle[inactive].sum()),
            (((middle[active] - mean) ** 2).sum(), ((middle[inactive] - mean) ** 2).sum()),
        ):
            unlike += max(0, tau - min(a / b, b / a)) / tau
    return loose / len(boxes), unlike / len(boxes)


def test_regularisers_are_those_written_out():
    rng, positive = np.random.default_rng(2), 0
    for _ in range(20):
        boxes = [(rng.normal(size=9) + rng.uniform(-0.3, 0.3), rng.uniform(0, s, size=9)) for s in (0.1, 0.5, 0.2)]
        if any(not ((m - r > 0).any() and (m + r < 0).any()) for m, r in boxes):
            continue
        ours = [bounds.Box(jnp.asarray(m), jnp.asarray(r)) for m, r in boxes]
        expected = written_out(boxes, 0.5)
        found = losses.looseness(ours), losses.imbalance(ours)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        positive += min(expected) > 0
    assert positive >= 5


def test_regularisers_where_a_kind_of_neuron_is_missing():
    def imbalance(middle, reach=0.5):
        middle = jnp.asarray(middle)
        return float(losses.imbalance([bounds.Box(middle, jnp.full_like(middle, reach))]))

    assert imbalance([1.0, 2.0, 3.0]) == 2  # active ones only: both ratios are 0
    assert imbalance([-1.0, -2.0]) == 2
    assert imbalance([0.1, -0.2]) == 0  # all unstable: nothing to balance
    assert imbalance([1.0, -1.0]) == 0
    point = bounds.Box(jnp.ones(3), jnp.zeros(3))
    assert losses.looseness([point, point]) == 0


def test_at_the_ibp_initialisation_boxes_neither_grow_nor_shrink():
    """The mean reach of a layer varies by about 1/sqrt(width) around that of the layer before it, through the ReLUs;
    over 3 layers and 20 networks by sqrt(3 / 100 / 20) = 4 %, of which 5 are allowed.  With "he" it grows by
    sqrt(width / pi) = 5.6 a layer, to 180."""

    def growth(key, init):
        network = networks.mlp(key, 50, (100,) * 4, init=init)
        boxes = bounds.preactivations(network, threats.LInf(0.01), jr.normal(jr.fold_in(key, 1), (50,)), "ibp")
        return jnp.mean(boxes[3].reach) / jnp.mean(boxes[0].reach)

    keys = jr.split(jr.key(0), 20)
    ibp, he = (np.asarray(quick_jit(jax.vmap(lambda k, i=i: growth(k, i)))(keys)) for i in ("ibp", "he"))
    np.testing.assert_allclose(ibp.mean(), 1, atol=0.2)
    assert 100 < he.mean() < 300
