"""Losses: identities of the cross-entropy, the order certified >= exact >= standard, and Danskin's gradient."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import quick_jit
from test_threats import THREATS, frame

from simulator import attacks, bounds, losses, networks, threats

DIM, EXAMPLES = 4, 60

pytestmark = pytest.mark.usefixtures("float64")


def random_network(widths, outputs, seed=0):
    rng, sizes = np.random.default_rng(seed), (DIM, *widths, outputs)
    weights = [rng.normal(size=(outer, inner)) for inner, outer in itertools.pairwise(sizes)]
    return networks.from_weights([(weight, rng.normal(size=len(weight))) for weight in weights])


def examples():
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(EXAMPLES, DIM))), jnp.asarray(rng.choice([-1, 1], EXAMPLES), jnp.int32)


def over_examples(loss, network, threat):
    return np.asarray(quick_jit(lambda: jax.vmap(lambda x, y: loss(network, threat, x, y))(*examples()))())


def test_standard_loss_is_the_softmax_cross_entropy():
    network, threat = random_network((5,), 3), threats.L2(1.0)
    x = examples()[0][0]
    logits = np.asarray(network(x))
    for y in range(3):
        expected = np.log(np.sum(np.exp(logits))) - logits[y]
        np.testing.assert_allclose(losses.standard(network, threat, x, jnp.array(y)), expected, rtol=1e-12)


def test_one_output_is_the_logistic_loss():
    network = random_network((5,), 1)
    x, y = examples()
    f = np.asarray(jax.vmap(network.outputs)(x))[:, 0]
    np.testing.assert_allclose(
        over_examples(losses.standard, network, threats.L2(1.0)), np.log1p(np.exp(-np.asarray(y) * f)), rtol=1e-12
    )


def test_cross_entropy_neither_overflows_nor_underflows():
    for margin, expected in ((-1e5, 1e5), (0.0, np.log(2)), (20.0, np.log1p(np.exp(-20)))):
        np.testing.assert_allclose(networks.cross_entropy(jnp.array([margin])), expected, rtol=1e-12, atol=1e-15)
    assert networks.cross_entropy(jnp.array([1e5])) == 0
    np.testing.assert_allclose(jax.grad(lambda m: networks.cross_entropy(m[None]))(jnp.array(-1e5)), -1, rtol=1e-12)


BOUNDS = ("ibp", "coap", "crown")


@functools.cache
def ordered(threat):
    """Standard, exact and certified losses of the examples, in one program."""
    ways = {"standard": losses.standard, "exact": losses.exact, **{name: losses.certified(name) for name in BOUNDS}}
    network, set_there = random_network((6,), 1), THREATS[threat](0.4, DIM)
    each = jax.vmap(lambda x, y: {name: loss(network, set_there, x, y) for name, loss in ways.items()})
    return jax.tree.map(np.asarray, quick_jit(each)(*examples()))


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("threat", ["signal", "segments"])
def test_certified_is_above_exact_is_above_standard(threat, method):
    standard, exact, certified = (ordered(threat)[name] for name in ("standard", "exact", method))
    assert np.all(standard <= exact + 1e-12)
    assert np.all(exact <= certified + 1e-12)
    assert np.any(standard < exact - 1e-3)
    assert np.any(exact < certified - 1e-3)


def test_an_attacked_loss_is_between_standard_and_exact():
    network, threat = random_network((6,), 1), THREATS["signal"](0.4, DIM)
    standard, attacked, exact = (
        over_examples(loss, network, threat) for loss in (losses.standard, losses.attacked(attacks.pgd), losses.exact)
    )
    assert np.all(standard <= attacked + 1e-12)
    assert np.all(attacked <= exact + 1e-12)


def test_a_mixture_mixes_and_is_a_loss_too():
    network, threat = random_network((6,), 1), threats.L2(0.3)
    parts = [over_examples(loss, network, threat) for loss in (losses.standard, losses.certified("ibp"))]
    once = losses.mix(losses.standard, losses.certified("ibp"), 0.25)
    twice = losses.mix(once, losses.standard, jnp.array(0.5))
    np.testing.assert_allclose(over_examples(once, network, threat), 0.75 * parts[0] + 0.25 * parts[1], rtol=1e-12)
    np.testing.assert_allclose(over_examples(twice, network, threat), 0.875 * parts[0] + 0.125 * parts[1], rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_beta_mixes_the_bounds_before_the_cross_entropy(beta):
    network, threat = random_network((6,), 1), threats.LInf(0.3)
    x, y = (leaf[0] for leaf in examples())
    row = jnp.where(y > 0, 1.0, -1.0)[None, None]
    crown, ibp = (bounds.lower(network, threat, x, row, name)[0] for name in ("crown-ibp", "ibp"))
    expected = np.log1p(np.exp(-(beta * crown + (1 - beta) * ibp)))
    assert abs(crown - ibp) > 1e-3
    for given in (beta, jnp.array(beta)):
        np.testing.assert_allclose(losses.certified("crown-ibp", given)(network, threat, x, y), expected, rtol=1e-12)


def test_bounding_the_logits_apart_gives_the_larger_loss():
    network, threat = random_network((6,), 2), threats.LInf(0.3)
    merged, apart = (over_examples(losses.certified("ibp", merged=m), network, threat) for m in (True, False))
    assert np.all(merged < apart)


def robust_loss_and_slopes(network, direction, step=1e-6):
    """Derivatives of the exact robust loss along a direction in weight space: ours, and by central differences."""
    threat = threats.SignalDirected(0.8, jnp.asarray(frame(DIM)[0]))

    def loss(t, x, y):
        moved = jax.tree.map(lambda w, v: w + t * v, network, direction)
        return losses.exact(moved, threat, x, y)

    def where(x, y):
        reach = jnp.abs(attacks.exact(network, threat, x, networks.label(y)).delta @ threat.direction)
        return reach, jax.grad(loss)(0.0, x, y), (loss(step, x, y) - loss(-step, x, y)) / (2 * step)

    return (np.asarray(leaf) for leaf in quick_jit(jax.vmap(where))(*examples()))


@pytest.mark.parametrize("minimum", ["at an end", "at a breakpoint"])
def test_the_gradient_of_the_exact_loss_is_that_of_the_worst_case(minimum):
    """Danskin where the worst point is an end of the segment; at a breakpoint that point moves with the weights."""
    network, rng = random_network((12,), 1, seed=2), np.random.default_rng(3)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), network)
    reach, slope, difference = robust_loss_and_slopes(network, direction)
    chosen = reach > 0.8 - 1e-9 if minimum == "at an end" else reach < 0.8 - 1e-9
    assert chosen.sum() >= 3
    np.testing.assert_allclose(slope[chosen], difference[chosen], rtol=1e-6, atol=1e-7)


def test_gradients_do_not_flow_through_the_search_of_an_attack():
    """The perturbation of PGD is held fixed: the gradient is that of the loss at a constant point."""
    network, threat = random_network((6,), 1), threats.L2(0.3)
    x, y = (leaf[0] for leaf in examples())
    fixed = x + quick_jit(attacks.pgd)(network, threat, x, networks.label(y)).delta
    ours = quick_jit(jax.grad(losses.attacked(attacks.pgd)))(network, threat, x, y)
    expected = quick_jit(jax.grad(losses.standard))(network, threat, fixed, y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), ours, expected)


def test_an_unknown_bound_is_named_when_the_loss_is_made():
    with pytest.raises(ValueError, match="there is no bound 'crwon'; the bounds are ibp, crown-ibp, crown, coap"):
        losses.certified("crwon")
