"""Optimised slopes, worse lines and random projections: what each promises, and what it does not."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from test_sandwich import random_network
from test_threats import THREATS

from simulator import attacks, bounds, losses, networks, threats, train
from simulator.bounds import LOWER_SLOPES, UPPER_LINES

DIM = 6


def deep(seed=0, outputs=3):
    return random_network(np.random.default_rng(seed), DIM, (10, 9), outputs)


def points(n, seed=1):
    return jr.normal(jr.key(seed), (n, DIM))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("l2", "segments") else pytest.mark.slow) for n in THREATS]
)
def test_optimised_slopes_are_never_worse_and_sometimes_better(name, float64):
    network = deep()
    rows = networks.contrast(network, jnp.array(0), jnp.array([1, 2]))

    @quick_jit
    def run(x, radius):
        here = THREATS[name](radius, DIM)
        found = attacks.strongest(jr.key(0), network, here, x, jnp.array(0), steps=20, count=2)
        lower = [bounds.lower(network, here, x, rows, method) for method in ("crown", "alpha-crown")]
        return found.margin, *lower

    for radius in (0.0, 0.3, 1.0):
        margin, crown, alpha = jax.vmap(run, (0, None))(points(8), jnp.asarray(radius))
        assert np.all(alpha >= crown - 1e-12)
        assert np.all(margin >= alpha.min(-1) - 1e-9)
    assert np.any(alpha > crown + 1e-3)


def test_the_optimum_of_one_hidden_layer_is_found(float64):
    # Two unstable neurons: the best of a fine grid of slopes.
    network, x = random_network(np.random.default_rng(3), 2, (2,), 1), jnp.array([0.1, -0.2])
    threat = threats.L2(2.0)
    row = networks.contrast(network, jnp.array(0), jnp.array([1]))
    (hidden, _, last), grid = network.layers, np.linspace(0, 1, 101)
    z, reach = np.asarray(hidden(x)), 2.0 * np.linalg.norm(hidden.weight, axis=1)
    assert np.all(np.abs(z) < reach)
    chord, out = (z + reach) / (2 * reach), np.asarray(row @ last.weight)[0]
    values = []
    for first in grid:
        for second in grid:
            slopes = np.where(out < 0, chord, (first, second))
            intercept = np.sum(np.where(out < 0, out * chord * (reach - z), 0))
            values.append(out * slopes @ z + intercept - 2.0 * np.linalg.norm(out * slopes @ hidden.weight))
    best = max(values) + float((row @ last.bias)[0])
    found = quick_jit(lambda x: bounds.lower(network, threat, x, row, "alpha-crown"))(x)[0]
    # The grid is within 0.005 of the best slopes, and the bound's slope in each is at most |out| (|z| + reach).
    assert found == pytest.approx(best, abs=0.005 * float(np.abs(out) @ (np.abs(z) + reach)))


@pytest.mark.parametrize("slope", LOWER_SLOPES)
@pytest.mark.parametrize("upper", UPPER_LINES)
def test_lines_hold_on_their_box(slope, upper, float64):
    rng = np.random.default_rng(0)
    middle, reach = jnp.asarray(rng.normal(size=200)), jnp.asarray(np.abs(rng.normal(size=200)))
    box = bounds.Box(middle, reach.at[:5].set(0))
    lines = bounds.relu_lines(box, slope, upper)
    for share in np.linspace(-1, 1, 21):
        z = box.middle + share * box.reach
        assert np.all(lines.below * z <= jax.nn.relu(z) + 1e-12)
        assert np.all(lines.above * z + lines.intercept >= jax.nn.relu(z) - 1e-12)


def test_steep_is_continuous_and_adaptive_is_not():
    box = bounds.Box(jnp.array([-1e-4, 1e-4]), jnp.ones(2))
    jumps = {name: float(jnp.ptp(bounds.relu_lines(box, name).below)) for name in ("steep", "adaptive", "same")}
    assert jumps["adaptive"] == 1
    assert max(jumps["steep"], jumps["same"]) < 1e-3


def residual(first):
    """Two residual blocks, one of them with ReLUs on both of its paths; `first` is what comes before them."""
    rng = np.random.default_rng(3)

    def affine(outputs, inputs):
        return networks.Affine(jnp.asarray(rng.normal(size=(outputs, inputs)) / inputs**0.5), jnp.zeros(outputs))

    relu = networks.ReLU()
    outer = networks.Residual((affine(7, 6), relu, affine(6, 7)))
    inner = networks.Residual((relu, affine(6, 6), relu, affine(6, 6)), (affine(6, 6), relu))
    return networks.Network((affine(6, DIM), *first, outer, inner, relu, affine(3, 6)))


BUILT = {
    "in a row": lambda: deep(),
    "blocks behind a ReLU": lambda: residual((networks.ReLU(),)),
    "blocks at once": lambda: residual(()),
}


@pytest.mark.parametrize("built", BUILT)
@pytest.mark.parametrize("threat", [threats.L2(0.3), threats.LInf(0.1)])
def test_many_projections_come_close_to_coap(threat, built, float64):
    # With p projections an l2 length is off by about 1/sqrt(2 p), a median of Cauchys by pi/(2 sqrt(p)), of itself.
    network, p = BUILT[built](), 20_000
    estimates = quick_jit(lambda x: bounds.estimate(jr.key(0), network, threat, x, jnp.array(0), p).margins)
    exact = quick_jit(lambda x: bounds.margin(network, threat, x, jnp.array(0), "coap").lower)
    for x in points(4):
        drop = float(jnp.max(networks.margins(network, x, jnp.array(0)) - exact(x)[1:]))
        np.testing.assert_allclose(estimates(x), exact(x), atol=5 * np.pi / 2 / p**0.5 * drop)


def test_few_projections_are_wrong_on_both_sides(float64):
    network = deep()

    @quick_jit
    def off(key, x):
        here = threats.L2(0.5)
        guess = bounds.estimate(key, network, here, x, jnp.array(0), 5).margins
        return guess - bounds.margin(network, here, x, jnp.array(0), "coap").lower

    errors = np.asarray(jax.vmap(off)(jr.split(jr.key(0), 40), points(40)))[:, 1:]
    assert errors.max() > 1e-3
    assert errors.min() < -1e-3


def test_one_hidden_layer_needs_no_estimate(float64):
    network = random_network(np.random.default_rng(0), DIM, (10,), 3)

    @quick_jit
    def both(x):
        guess = bounds.estimate(jr.key(0), network, threats.L2(0.3), x, jnp.array(0), 3)
        return guess, bounds.margin(network, threats.L2(0.3), x, jnp.array(0), "coap")

    for x in points(3):
        guess, exact = both(x)
        np.testing.assert_allclose(guess.margins, exact.lower, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(guess.unstable, exact.unstable)


def test_training_on_an_estimate_is_training_on_coap_where_it_is_exact():
    x, y = points(30), jnp.arange(30) % 3
    start = networks.mlp(jr.key(0), DIM, (8,), 3)

    def fit(loss):
        run = quick_jit(lambda: train.fit(jr.key(1), start, x, y, threats.L2(0.1), loss, train.Recipe(0.1, epochs=5)))
        return run().history["loss"]

    np.testing.assert_allclose(fit(losses.estimated(jr.key(2), 3)), fit(losses.certified("coap")), rtol=1e-5)


def test_an_estimate_is_no_bound():
    assert not issubclass(bounds.Estimate, bounds.Bound)
    assert not {"lower", "worst"} & set(bounds.Estimate.__dataclass_fields__)
    assert "estimate" not in bounds.METHODS


@pytest.mark.parametrize(
    ("threat", "network", "count", "message"),
    [
        (threats.L1(0.1), deep(), 5, "use L2 or LInf"),
        (threats.L2(0.1), deep(), 0, "at least 1"),
    ],
)
def test_what_projections_cannot_do_is_refused(threat, network, count, message):
    with pytest.raises(ValueError, match=message):
        bounds.estimate(jr.key(0), network, threat, jnp.zeros(DIM), jnp.array(0), count)


@functools.cache
def value_and_slopes(method):
    """(network, x, radius) -> the sum of two bounds and its slopes by all three."""

    def total(network, x, radius):
        rows = networks.contrast(network, jnp.array(0), jnp.array([1, 2]))
        return jnp.sum(bounds.lower(network, threats.L2(radius), x, rows, method))

    return quick_jit(jax.value_and_grad(total, (0, 1, 2)))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0])
@pytest.mark.parametrize("method", ["alpha-crown", "forward", "hbox"])
def test_extremes_give_numbers(method, size):
    network = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), deep())
    scaled = jax.tree.map(lambda leaf: leaf * size, network)
    for radius in (0.0, 1e-30, 1.0, 1e6):
        value, slopes = value_and_slopes(method)(scaled, jnp.zeros(DIM, jnp.float32), jnp.asarray(radius, jnp.float32))
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))
