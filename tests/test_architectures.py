"""Image networks by name: their sizes counted by hand, their values by NumPy, and bounds below attacks."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from test_sandwich import quick_jit

from simulator import attacks, bounds, networks, threats
from simulator.networks import ARCHITECTURES, Affine, AveragePool, BatchNorm, Convolution, Residual

# weights + biases of every convolution and matrix, then scales and shifts of batch normalisations
SIZES = {
    ("tiny-cnn", (1, 8, 8), 10): (8 * 16 + 8) + (16 * 8 * 16 + 16) + (4 * 16 * 50 + 50) + (50 * 10 + 10),
    ("small-cnn", (1, 28, 28), 10): 272 + 8_224 + 156_900 + 1_010,
    ("small-cnn", (3, 32, 32), 10): (3 * 256 + 16) + 8_224 + (2_048 * 100 + 100) + 1_010,
    ("large-cnn", (1, 28, 28), 10): 320 + 16_416 + 18_496 + 65_600 + 1_606_144 + 262_656 + 5_130,
    ("large-cnn", (3, 32, 32), 10): (27 * 32 + 32) + 16_416 + 18_496 + 65_600 + (4_096 * 512 + 512) + 262_656 + 5_130,
    ("cnn7", (3, 32, 32), 10): (
        (1_792 + 36_928 + 73_856 + 147_584 + 147_584 + 16_777_728 + 5_130) + 2 * (64 + 64 + 128 + 128 + 128 + 512)
    ),
    ("narrow-resnet", (3, 32, 32), 10): (
        448  # the first convolution
        + 2 * (2_320 + 2_320 + 272)  # two blocks of 16: 3x3, 3x3, and 1x1 beside
        + (16 * 32 * 16 + 32 + 9_248 + 16 * 32 * 4 + 32)  # 32: 4x4, 3x3, and 2x2 beside
        + (32 * 64 * 16 + 64 + 36_928 + 32 * 64 * 4 + 64)
        + (4_096 * 1_000 + 1_000 + 10_010)
    ),
    ("wide-resnet", (3, 56, 56), 200): (
        448
        + (2 * 16 + 16 * 160 * 9 + 160 + 2 * 160 + 160 * 160 * 9 + 160 + 16 * 160 + 160)
        + (2 * 160 + 160 * 320 * 9 + 320 + 2 * 320 + 320 * 320 * 9 + 320 + 160 * 320 + 320)
        + (2 * 320 + 320 * 640 * 9 + 640 + 2 * 640 + 640 * 640 * 9 + 640 + 320 * 640 + 640)
        + (2 * 640 + 640 * 2 * 2 * 200 + 200)
    ),
}


def is_layer(node):
    return isinstance(node, (Affine, Convolution, BatchNorm, AveragePool))


def trained_layers(network):
    """Those with numbers, in the order in which they were drawn: a branch before its shortcut."""
    return [layer for layer in jax.tree.leaves(network, is_leaf=is_layer) if is_layer(layer)]


def trained_numbers(layer):
    if isinstance(layer, BatchNorm):
        return layer.scale.size + layer.shift.size
    return sum(leaf.size for leaf in jax.tree.leaves(layer))


@pytest.mark.parametrize(("name", "shape", "classes"), SIZES)
def test_parameters_are_as_many_as_counted_by_hand(name, shape, classes):
    network = jax.eval_shape(lambda key: networks.architecture(name, key, shape, classes), jr.key(0))
    assert sum(map(trained_numbers, trained_layers(network))) == SIZES[name, shape, classes]
    image = jax.ShapeDtypeStruct((math.prod(shape),), jnp.float32)
    assert jax.eval_shape(lambda net, x: net(x), network, image).shape == (classes,)


def test_the_sizes_cover_all_architectures():
    assert {name for name, _, _ in SIZES} == set(ARCHITECTURES)


class Twin:
    """The same computations by NumPy, given the layers in order; every one is used once."""

    def __init__(self, network):
        self.layers = iter(trained_layers(network))

    def conv(self, image, stride, padding):
        layer = next(self.layers)
        kernel, bias = np.asarray(layer.kernel), np.asarray(layer.bias)
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        windows = sliding_window_view(padded, kernel.shape[2:], (1, 2))[:, ::stride, ::stride]
        return np.einsum("cijkl,ockl->oij", windows, kernel) + bias[:, None, None]

    def dense(self, values):
        layer = next(self.layers)
        return np.asarray(layer.weight) @ values.reshape(-1) + np.asarray(layer.bias)

    def norm(self, values):
        layer = next(self.layers)
        scale, shift, mean, variance = (
            np.asarray(leaf).reshape(-1, *[1] * (values.ndim - 1))
            for leaf in (layer.scale, layer.shift, layer.mean, layer.variance)
        )
        return scale * (values - mean) / np.sqrt(variance + 1e-5) + shift


def relu(values):
    return np.maximum(values, 0)


def plain(strides, hidden, normed=False):
    def value(twin, image):
        def norm(values):
            return twin.norm(values) if normed else values

        for stride in strides:
            image = relu(norm(twin.conv(image, stride, 1)))
        for _ in range(hidden):
            image = relu(norm(twin.dense(image)))
        return twin.dense(image)

    return value


def narrow(twin, image):
    image = relu(twin.conv(image, 1, 1))
    for stride in (1, 1, 2, 2):
        along = twin.conv(relu(twin.conv(image, stride, 1)), 1, 1)
        image = relu(along + twin.conv(image, stride, 0))
    return twin.dense(relu(twin.dense(image)))


def wide(twin, image):
    image = twin.conv(image, 1, 1)
    for stride in (1, 2, 2):
        along = twin.conv(relu(twin.norm(image)), 1, 1)
        along = twin.conv(relu(twin.norm(along)), stride, 1)
        image = along + twin.conv(image, stride, 0)
    image = relu(twin.norm(image))
    half = image.shape[1] // 2
    assert isinstance(next(twin.layers), AveragePool)
    return twin.dense(image.reshape(image.shape[0], 2, half, 2, half).mean((2, 4)))


SMALL = {
    "tiny-cnn": (plain((2, 2), 1), {}),
    "small-cnn": (plain((2, 2), 1), {}),
    "large-cnn": (plain((1, 2, 1, 2), 2), {}),
    "cnn7": (plain((1, 1, 2, 1, 1), 1, normed=True), {"width": 4, "hidden": 16}),
    "narrow-resnet": (narrow, {"hidden": 20}),
    "wide-resnet": (wide, {"widen": 1}),
}
SHAPE, MEANS, DEVIATIONS = (2, 8, 8), (0.3, 0.6), (0.5, 2.0)


def small(name, shape=SHAPE):
    """A narrow form whose batch normalisations do something."""
    network = networks.architecture(
        name, jr.key(0), shape, 3, normalisation=(MEANS[: shape[0]], DEVIATIONS[: shape[0]]), **SMALL[name][1]
    )
    numbers = np.random.default_rng(0)

    def disturbed(layer):
        if not isinstance(layer, BatchNorm):
            return layer
        drawn = [jnp.asarray(numbers.uniform(0.5, 1.5, layer.scale.shape), layer.scale.dtype) for _ in range(4)]
        return eqx.tree_at(lambda one: (one.scale, one.shift, one.mean, one.variance), layer, drawn)

    return jax.tree.map(disturbed, network, is_leaf=is_layer)


@pytest.mark.parametrize("name", SMALL)
def test_values_are_those_of_numpy(name, float64):
    network = small(name)
    image = np.random.default_rng(1).uniform(size=SHAPE)
    twin = Twin(network)
    normal = (image - np.reshape(MEANS, (2, 1, 1))) / np.reshape(DEVIATIONS, (2, 1, 1))
    wanted = SMALL[name][0](twin, normal)
    assert next(twin.layers, None) is None
    # Rounding: 10 layers of at most 3,000 terms in double precision.
    np.testing.assert_allclose(quick_jit(network.__call__)(jnp.ravel(image)), wanted, rtol=1e-11, atol=1e-12)


METHODS = ("ibp", "crown-ibp")


@pytest.mark.parametrize("name", ["tiny-cnn", *[pytest.param(n, marks=pytest.mark.slow) for n in SMALL][1:]])
def test_no_attack_gets_below_a_bound(name, float64):
    network = small(name, (1, 8, 8))
    x = jnp.ravel(jr.uniform(jr.key(2), (64,)))
    threat, label = threats.L2(0.3), jnp.argmax(network(x))

    rows = networks.contrast(network, label, networks.others(network, label))

    def both(x):
        found = attacks.pgd(network, threat, x, label, objective="margin").margin
        return found, [jnp.min(bounds.lower(network, threat, x, rows, method)) for method in METHODS]

    found, lower = quick_jit(both)(x)
    assert all(np.isfinite(lower))
    assert max(lower) <= found + 1e-12
    clean = jnp.min(networks.margins(network, x, label))
    assert found < clean
    assert max(lower) < clean


def test_options_reach_every_layer(float64):
    network = networks.tiny_cnn(jr.key(0), (1, 8, 8), 3, init="ibp", dtype=jnp.float32)
    convolution = network.layers[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(network)} == {jnp.dtype("float32")}
    assert not jnp.any(convolution.bias)
    deviation = (2 * math.pi) ** 0.5 / 16
    assert abs(float(jnp.std(convolution.kernel)) - deviation) < 5 * deviation / (2 * 128) ** 0.5


def test_residual_networks_have_residual_layers_and_others_none():
    for name in SMALL:
        network = jax.eval_shape(lambda key, name=name: networks.architecture(name, key, (1, 8, 8), 3), jr.key(0))
        count = sum(isinstance(layer, Residual) for layer in network.layers)
        assert count == {"narrow-resnet": 4, "wide-resnet": 3}.get(name, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.architecture("cnn8", jr.key(0), SHAPE, 3), "no architecture 'cnn8'; the architectures are"),
        (lambda: networks.small_cnn(jr.key(0), (1, 0, 8), 3), "all at least 1"),
        (lambda: networks.small_cnn(jr.key(0), SHAPE, 0), "there are 0 classes"),
        (lambda: networks.cnn7(jr.key(0), SHAPE, 3, init="zeros"), "the initialisations are"),
        (lambda: networks.small_cnn(jr.key(0), (1, 3, 3), 3), "does not fit"),
        (lambda: networks.tiny_cnn(jr.key(0), SHAPE, 3, normalisation=((0.1,), (1.0,))), "one mean and one deviation"),
    ],
)
def test_what_cannot_be_built_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
