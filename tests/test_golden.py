"""Bounds against values computed by independent public libraries in float64 (tests/data/golden_bounds.npz).

The file comes from auto_LiRPA 0.7 (IBP, CROWN family) and convex_adversarial 0.4 (COAP), checked by an independent
NumPy derivation to about 1e-12, and from a mixed-integer program for the exact minima; nothing here regenerates it.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import quick_jit

from simulator import attacks, bounds, networks, threats

GOLDEN = np.load(Path(__file__).parent / "data" / "golden_bounds.npz")
NETWORKS = ("mlp_10_32_2", "mlp_100_50_50_2")
NORMS = {"l2": threats.L2, "linf": threats.LInf}
METHODS = {
    "IBP": "ibp",
    "CROWN_adaptive": "crown",
    "CROWN_same_slope": "coap",
    "COAP": "coap",
    "CROWN_zero_lb": "crown-zero",
    "CROWN_IBP_adaptive": "crown-ibp",
    "CROWN_IBP_same_slope": "crown-ibp-same",
    "CROWN_IBP_zero_lb": "crown-ibp-zero",
}

pytestmark = pytest.mark.usefixtures("float64")


def load(name):
    depth = sum(key.startswith(f"{name}/W") for key in GOLDEN)
    network = networks.from_weights([(GOLDEN[f"{name}/W{i}"], GOLDEN[f"{name}/b{i}"]) for i in range(depth)])
    return network, jnp.asarray(GOLDEN[f"{name}/X"]), jnp.asarray(GOLDEN[f"{name}/y"])


def over_radii_and_examples(function, radii, *examples):
    inner = jax.vmap(function, (None, *(0 for _ in examples)))
    return quick_jit(jax.vmap(inner, (0, *(None for _ in examples))))(jnp.asarray(radii), *examples)


def assert_close(ours, golden, tolerance=1e-9):
    np.testing.assert_allclose(np.asarray(ours), golden, rtol=tolerance, atol=tolerance * np.abs(golden).max())


@functools.cache
def margins(name, norm):
    """Lower bounds [radii, examples, classes] by every method, in one program."""
    network, x, y = load(name)

    def lower(radius, x, label):
        here = NORMS[norm](radius)
        return {method: bounds.margin(network, here, x, label, method).lower for method in set(METHODS.values())}

    return over_radii_and_examples(lower, GOLDEN[f"{name}/{norm}/eps"], x, y)


@pytest.mark.parametrize("theirs", METHODS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_margins(name, norm, theirs):
    assert_close(margins(name, norm)[METHODS[theirs]], GOLDEN[f"{name}/{norm}/{theirs}"])


@functools.cache
def boxes(name, norm):
    """Pre-activation bounds of every layer by the two methods whose golden values are kept, in one program."""
    network, x, _ = load(name)

    def each(radius, x):
        here = NORMS[norm](radius)
        return {theirs: bounds.preactivations(network, here, x, METHODS[theirs]) for theirs in ("COAP", "IBP")}

    return over_radii_and_examples(each, GOLDEN[f"{name}/{norm}/eps"], x)


@pytest.mark.parametrize("theirs", ["COAP", "IBP"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_preactivations(name, norm, theirs):
    found = boxes(name, norm)[theirs]
    assert len(found) == sum(key.startswith(f"{name}/{norm}/{theirs}_l") for key in GOLDEN)
    for layer, box in enumerate(found):
        assert_close(box.lower, GOLDEN[f"{name}/{norm}/{theirs}_l{layer}"])
        assert_close(box.upper, GOLDEN[f"{name}/{norm}/{theirs}_u{layer}"])


def test_exact_minima_lie_between_bounds_and_attacks():
    """The mixed-integer minima, good to about 1e-5, on four examples of the small network."""
    name, scale = "mlp_10_32_2", 1e-5
    network, x, y = load(name)
    radii, exact = GOLDEN[f"{name}/linf/eps"], GOLDEN[f"{name}/linf/exact"]
    k = jnp.asarray(GOLDEN[f"{name}/linf/exact_k"])

    def at_minimiser(point, label, rival):
        logits = network(point)
        return logits[label] - logits[rival]

    minimisers = jnp.asarray(GOLDEN[f"{name}/linf/exact_x"])
    ours = jax.vmap(jax.vmap(at_minimiser, (0, 0, 0)), (0, None, None))(minimisers, y[:4], k)
    assert_close(ours, exact, scale)

    def attacked(radius, x, label):
        return attacks.apgd(network, threats.LInf(radius), x, label, steps=100, objective="margin").margin

    found = over_radii_and_examples(attacked, radii, x[:4], y[:4])
    assert np.all(np.asarray(found) >= exact - scale * np.abs(exact).max())
    for method, lower in margins(name, "linf").items():
        below = np.take_along_axis(np.asarray(lower)[:, :4], np.asarray(k)[None, :, None], axis=2)[..., 0]
        assert np.all(below <= exact + scale * np.abs(exact).max()), method


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_attack_is_as_strong_as_theirs(name, norm):
    """Against an independent strong attack: no weaker on average, nowhere by more than 5 % of the largest margin.

    The margin of a random network has many local minima, so either attack wins on some examples.
    """
    network, x, y = load(name)
    theirs = GOLDEN[f"{name}/{norm}/attack"]
    rival = np.broadcast_to(np.asarray(1 - y)[None, :, None], (*theirs.shape[:2], 1))

    def attacked(radius, x, label):
        key = jax.random.key(0)
        return attacks.strongest(key, network, NORMS[norm](radius), x, label, steps=100, count=30).margin

    found = np.asarray(over_radii_and_examples(attacked, GOLDEN[f"{name}/{norm}/eps"], x, y))
    best = np.take_along_axis(theirs, rival, 2)[..., 0]
    scale = np.abs(best).max()
    assert np.mean(found - best) <= 0.01 * scale
    assert np.max(found - best) <= 0.05 * scale
