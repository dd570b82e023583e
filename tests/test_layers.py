"""Layers of images, and the bounds of networks made of them, against the same networks written out as matrices."""

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from programs import quick_jit
from scipy.signal import correlate2d

from simulator import attacks, bounds, data, losses, networks, threats, train
from simulator.networks import AveragePool, Network, Normalisation, ReLU, Residual

SHAPE = (2, 5, 6)
SIZE = math.prod(SHAPE)


def convolutional(seed=0, residual=True):
    """Normalisation, a strided convolution padded unevenly, a residual block with batch normalisation, pooling."""
    keys = iter(jr.split(jr.key(seed), 9))
    first = networks.convolution(next(keys), SHAPE, 3, 3, 2, ((1, 0), (2, 1)))
    inner = networks.convolution(next(keys), first.out_shape, 4, 3, 1, 1)
    norm = networks.batch_norm(inner.out_shape)
    norm = eqx.tree_at(lambda n: (n.scale, n.shift, n.mean), norm, (*jr.normal(next(keys), (2, 4)), jnp.ones(4)))
    outer = networks.convolution(next(keys), inner.out_shape, 3, 1)
    narrow = networks.convolution(next(keys), first.out_shape, 3, 1)
    pool = AveragePool(outer.out_shape, (2, 2), (1, 1))
    block = Residual((inner, norm, ReLU(), outer), (narrow,) if residual == "both" else ())
    last = networks.affine(next(keys), math.prod(pool.out_shape), 3)
    normalisation = Normalisation(SHAPE, (0.3, -0.2), (0.5, 2.0))
    return Network((normalisation, first, ReLU(), *([block] if residual else []), ReLU(), pool, last))


def matrix(layer, size):
    """The affine layer that does the same as a linear one of inputs of that size, and the size of its outputs."""
    offset = layer(jnp.zeros(size))
    return networks.Affine(jax.vmap(layer.linear, 1, 1)(jnp.eye(size)), offset), offset.size


def dense(layers, size):
    """The layers with every linear one as a matrix, and the size of their output."""
    made = []
    for layer in layers:
        if isinstance(layer, Residual):
            branch, after = dense(layer.branch, size)
            made.append(Residual(branch, dense(layer.shortcut, size)[0]))
            size = after
        elif isinstance(layer, ReLU):
            made.append(layer)
        else:
            as_matrix, size = matrix(layer, size)
            made.append(as_matrix)
    return tuple(made), size


def threat_of(name, radius, dim=SIZE):
    direction = jnp.ones(dim) / dim**0.5
    return {
        "l2": lambda: threats.L2(radius),
        "linf": lambda: threats.LInf(radius / dim**0.5),
        "l1": lambda: threats.L1(radius),
        "consistent-linf": lambda: threats.ConsistentLInf(radius / dim**0.5),
        "signal": lambda: threats.SignalDirected(radius, direction),
        "orthogonal": lambda: threats.Orthogonal(radius, direction),
        "spheroid": lambda: threats.Spheroid(radius, 0.5, direction),
        "segments": lambda: threats.Segments.random(jr.key(3), dim, 4, radius),
    }[name]()


NAMES = ("l2", "linf", "l1", "consistent-linf", "signal", "orthogonal", "spheroid", "segments")
QUICK = ("ibp", "crown", "forward")


def quick(names, few):
    """Parameters of which all but a few are slow: every one is a program to compile."""
    return [pytest.param(name, marks=[] if name in few else pytest.mark.slow) for name in names]


every_method = pytest.mark.parametrize("method", quick(bounds.METHODS, QUICK))


def test_a_convolution_is_scipys(float64):
    layer = networks.convolution(jr.key(0), SHAPE, 3, 3, 2, ((1, 0), (2, 1)))
    x = np.asarray(jr.normal(jr.key(1), SHAPE))
    padded = np.pad(x, ((0, 0), (1, 0), (2, 1)))
    wanted = [
        sum(correlate2d(padded[i], layer.kernel[o, i], "valid") for i in range(2))[::2, ::2] + layer.bias[o]
        for o in range(3)
    ]
    assert layer.out_shape == np.shape(wanted)
    np.testing.assert_allclose(layer(jnp.ravel(x)), np.ravel(wanted), rtol=1e-12, atol=1e-12)


def test_pooling_takes_means_of_windows(float64):
    x = np.asarray(jr.normal(jr.key(0), SHAPE))
    wanted = x[:, :4].reshape(2, 2, 2, 3, 2).mean((2, 4))
    np.testing.assert_allclose(AveragePool(SHAPE, (2, 2))(jnp.ravel(x)), wanted.reshape(-1), rtol=1e-12)


@pytest.mark.parametrize("at", range(6))
def test_a_linear_layer_says_what_its_matrix_would(at, float64):
    network = convolutional()
    block = network.layers[3]
    layer, size = [
        (network.layers[0], SIZE),
        (network.layers[1], SIZE),
        (block.branch[0], block.branch[0].kernel.shape[1] * math.prod(block.branch[0].shape[1:])),
        (block.branch[1], math.prod(block.branch[1].shape)),
        (network.layers[-2], math.prod(network.layers[-2].shape)),
        (network.layers[-1], network.layers[-1].weight.shape[1]),
    ][at]
    weight = matrix(layer, size)[0].weight
    z, row = jr.normal(jr.key(1), (size,)), jr.normal(jr.key(2), (weight.shape[0],))
    np.testing.assert_allclose(layer.linear(z), weight @ z, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(layer.transposed(row), row @ weight, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(layer.absolute(z), jnp.abs(weight) @ z, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(layer.squared(z), weight**2 @ z, rtol=1e-12, atol=1e-13)


@every_method
@pytest.mark.parametrize("name", quick(NAMES, ("l2", "segments")))
def test_bounds_are_those_of_the_matrices(name, method, float64):
    network = convolutional(residual="both")
    written_out = Network(dense(network.layers, SIZE)[0])
    x = jr.normal(jr.key(1), (3, SIZE))

    @quick_jit
    def both(radius, x):
        here = threat_of(name, radius)
        return [bounds.margin(net, here, x, jnp.array(1), method) for net in (network, written_out)]

    for radius in (0.0, 0.1, 2.0):
        ours, twin = jax.vmap(both, (None, 0))(jnp.asarray(radius), x)
        np.testing.assert_allclose(ours.lower, twin.lower, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.unstable, twin.unstable)


@pytest.mark.parametrize("method", quick(("ibp", "crown", "coap", "crown-ibp", "hbox"), ("ibp", "coap")))
def test_a_residual_block_is_a_wider_dense_network(method, float64):
    # The shortcut x as a hidden neuron x + c, active for a large c, whose lines are exact.
    dim, width, c = 6, 5, 50.0
    rng = np.random.default_rng(0)
    w1, b1, w2, b2, w3, b3 = (rng.normal(size=s) for s in ((width, dim), width, (dim, width), dim, (2, dim), 2))
    w0, b0 = rng.normal(size=(dim, dim)), rng.normal(size=dim)
    first, inner, outer, last = networks.from_weights([(w0, b0), (w1, b1), (w2, b2), (w3, b3)]).layers[::2]
    network = Network((first, ReLU(), Residual((inner, ReLU(), outer)), ReLU(), last))
    twin = networks.from_weights(
        [
            (w0, b0),
            (np.concatenate([w1, np.eye(dim)]), np.concatenate([b1, np.full(dim, c)])),
            (np.concatenate([w2, np.eye(dim)], 1), b2 - c),
            (w3, b3),
        ]
    )
    x = jnp.asarray(rng.normal(size=dim))

    @quick_jit
    def both(radius):
        return [bounds.margin(net, threats.L2(radius), x, jnp.array(0), method) for net in (network, twin)]

    for radius in (0.05, 0.5):
        mine, wide = both(jnp.asarray(radius))
        np.testing.assert_allclose(mine.lower, wide.lower, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(mine.worst[1], wide.worst[1], atol=1e-9)


def plain():
    return networks.mlp(jr.key(0), SIZE, (12, 9), 3)


KINDS = {"dense": plain, "convolutional": lambda: convolutional(residual=False), "residual": convolutional}


@pytest.mark.parametrize("name", quick(NAMES, ("linf",)))
@pytest.mark.parametrize("kind", quick(KINDS, ("residual",)))
def test_no_member_gets_below_any_bound(kind, name, float64):
    # 100,000 random members each: extreme points in random directions, shrunk by random factors.
    network, x = KINDS[kind](), jr.normal(jr.key(1), (SIZE,))
    rows = networks.contrast(network, jnp.array(1), jnp.arange(3))

    @quick_jit
    def least(radius):
        here = threat_of(name, radius)

        def of_part(key):
            direction, shrink = jr.split(key)
            members = jax.vmap(here.worst)(jr.normal(direction, (1000, SIZE)))
            members = members * jr.uniform(shrink, (1000, 1)) ** (1 / 8)
            return jnp.min(jax.vmap(lambda delta: rows @ network.outputs(x + delta))(members), 0)

        return jnp.min(jax.lax.map(of_part, jr.split(jr.key(2), 100)), 0)

    @quick_jit
    def lower(radius):
        return [bounds.lower(network, threat_of(name, radius), x, rows, method) for method in bounds.METHODS]

    for radius in (0.0, 0.3, 3.0):
        found = least(jnp.asarray(radius))
        for method, bound in zip(bounds.METHODS, lower(jnp.asarray(radius)), strict=True):
            assert np.all(found >= bound - 1e-9), method
            if radius == 0:
                np.testing.assert_allclose(bound, found, atol=1e-9, err_msg=method)


@every_method
def test_slopes_of_bounds_of_images_are_those_of_differences(method, float64):
    network, x = convolutional(), jr.normal(jr.key(1), (SIZE,))
    rows = networks.contrast(network, jnp.array(1), jnp.array([0, 2]))
    kernel = network.layers[1].kernel
    step = jr.normal(jr.key(2), kernel.shape), jr.normal(jr.key(3), (SIZE,)), jnp.array(0.1)

    def value(share):
        moved = eqx.tree_at(lambda n: n.layers[1].kernel, network, kernel + share * step[0])
        # One slope of every kind at once; lines of "adaptive" slopes jump, so the step is small.
        threat = threats.L2(0.3 + share * step[2])
        return jnp.sum(bounds.lower(moved, threat, x + share * step[1], rows, method))

    slope, ends = quick_jit(jax.grad(value))(0.0), quick_jit(jax.vmap(value))(jnp.array([-1e-6, 1e-6]))
    # No gradient passes through the search for slopes, at whose end it is 0 only where the search has converged.
    tolerance = 0.05 if method == "alpha-crown" else 1e-5
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 2e-6, rtol=tolerance)


@functools.cache
def value_and_slopes(method):
    """(network, x, radius) -> the sum of two bounds and its slopes by all three."""

    def value(network, x, radius):
        rows = networks.contrast(network, jnp.array(1), jnp.array([0, 2]))
        return jnp.sum(bounds.lower(network, threats.L2(radius), x, rows, method))

    return quick_jit(jax.value_and_grad(value, (0, 1, 2)))


@pytest.mark.parametrize("case", ["dead", "unstable", "zero weights", "zero reach", "subnormal"])
@pytest.mark.parametrize("method", quick(bounds.METHODS, ("ibp", "coap", "crown")))
def test_extremes_of_images_give_numbers(case, method):
    network = convolutional()
    if case == "dead":
        network = eqx.tree_at(lambda n: n.layers[1].bias, network, network.layers[1].bias - 1e4)
    x = jnp.zeros(SIZE, jnp.float32)
    if case == "zero weights":
        network = jax.tree.map(jnp.zeros_like, network)
    if case == "subnormal":
        x = jnp.full(SIZE, 1e-40, jnp.float32)

    for radius in {"zero reach": (0.0,), "unstable": (1e3, 1e6), "subnormal": (1e-40,)}.get(case, (0.0, 1.0, 1e6)):
        found, slopes = value_and_slopes(method)(network, x, jnp.asarray(radius, jnp.float32))
        assert np.isfinite(found)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("name", quick(("l2", "linf", "signal", "segments"), ("l2",)))
def test_attacks_work_on_images_and_stay_above_the_bounds(name, float64):
    network, x = convolutional(residual="both"), jr.normal(jr.key(1), (SIZE,))

    @quick_jit
    def run(radius):
        here = threat_of(name, radius)
        found = attacks.strongest(jr.key(0), network, here, x, jnp.array(1), steps=20, count=2)
        rows = networks.contrast(network, jnp.array(1), networks.others(network, jnp.array(1)))
        lower = [jnp.min(bounds.lower(network, here, x, rows, method)) for method in bounds.METHODS]
        each = attacks.search(jr.key(1), network, here, x, jnp.array(1), steps=5, count=2).smallest
        reached = jnp.stack([found.margin, *each.values()])
        return found.margin, reached, jnp.stack(lower), jnp.min(networks.margins(network, x, jnp.array(1)))

    for radius in (0.0, 0.3, 1.0):
        margin, reached, lower, clean = run(jnp.asarray(radius))
        assert np.all(reached[:, None] >= lower[None] - 1e-9)
        if radius == 0:
            np.testing.assert_allclose(margin, clean, rtol=1e-12)
        else:
            assert margin < clean - 1e-5


def test_rows_in_chunks_are_rows_at_once(monkeypatch, float64):
    network, x = convolutional(residual="both"), jr.normal(jr.key(1), (SIZE,))

    def lower():
        rows = networks.contrast(network, jnp.array(1), jnp.arange(3))
        return quick_jit(lambda x: bounds.lower(network, threats.L1(0.3), x, rows, "coap"))(x)

    whole = lower()
    monkeypatch.setattr("simulator.bounds.head.AT_ONCE", 4 * SIZE * 8)
    np.testing.assert_allclose(lower(), whole, rtol=1e-12)


@pytest.mark.parametrize("kind", ["lower", "margin", "estimate"])
def test_gradients_in_blocks_of_rows_are_those_at_once(kind, monkeypatch, float64):
    network, x, threat = convolutional(residual="both"), jr.normal(jr.key(1), (SIZE,)), threats.L2(0.3)
    rows = networks.contrast(network, jnp.array(1), jnp.arange(3))

    def values(network):
        if kind == "lower":
            return bounds.lower(network, threat, x, rows, "coap")
        if kind == "margin":
            return bounds.margin(network, threat, x, jnp.array(1), "crown").lower
        return bounds.estimate(jr.key(2), network, threat, x, jnp.array(1), 7).margins

    def found(at_once):
        monkeypatch.setattr("simulator.bounds.head.AT_ONCE", at_once)
        run = quick_jit(lambda network: (values(network), jax.grad(lambda n: jnp.sum(values(n) ** 2))(network)))
        return jax.tree.leaves(run(network))

    whole = found(1 << 24)
    # Two at once, and the one that is left; vectors have 60 numbers of 8 bytes.
    for chunked, expected in zip(found(2 * SIZE * 8), whole, strict=True):
        np.testing.assert_allclose(chunked, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["bound", pytest.param("estimate", marks=pytest.mark.slow)])
def test_gradients_of_many_rows_keep_one_block_of_them(kind, monkeypatch):
    loss = losses.certified("crown-ibp") if kind == "bound" else losses.estimated(jr.key(3), 200)
    conv = networks.convolution(jr.key(0), (1, 8, 8), 8, 3, 1, 1)
    more = networks.convolution(jr.key(1), conv.out_shape, 8, 3, 1, 1)
    network = Network((conv, ReLU(), more, ReLU(), networks.affine(jr.key(2), math.prod(more.out_shape), 200)))
    x, zero = jnp.zeros(64), jnp.array(0)

    def peak():
        gradient = jax.jit(jax.grad(lambda network: loss(network, threats.L2(0.1), x, zero)))
        return gradient.lower(network).compile().memory_analysis().temp_size_in_bytes

    whole = peak()
    # 200 rows of 512 numbers, in blocks of 8.
    monkeypatch.setattr("simulator.bounds.head.AT_ONCE", 8 * 512 * 4)
    assert peak() < whole / 2


def test_chunks_of_rows_bound_the_memory(monkeypatch):
    conv = networks.convolution(jr.key(0), (1, 8, 8), 8, 3, 1, 1)
    more = networks.convolution(jr.key(1), conv.out_shape, 8, 3, 1, 1)
    last = networks.affine(jr.key(2), math.prod(more.out_shape), 2)
    network, x = Network((conv, ReLU(), more, ReLU(), last)), jnp.zeros((2, 64))
    # A ball whose rows are carried back whole.
    ball = threats.ConsistentLInf(0.1)
    whole = bounds.peak_bytes(network, ball, x, "crown")
    monkeypatch.setattr("simulator.bounds.head.AT_ONCE", 1 << 16)
    chunked = bounds.peak_bytes(network, ball, x, "crown")
    # 512 rows, two signs, of 512 numbers, of four bytes, for two examples: 4 MiB of rows at least.
    assert whole > 2 * 512 * 2 * 512 * 4
    assert chunked < whole / 4
    monkeypatch.undo()
    # Within windows of 25 pixels of 64 the same rows take less without any chunks.
    assert bounds.peak_bytes(network, threats.LInf(0.1), x, "crown") < whole / 2


def test_normalisation_leaves_the_radius_in_units_of_the_data(float64):
    network = convolutional(residual=False)
    plain = Network(network.layers[1:])
    x, mean, deviation = jr.normal(jr.key(1), (SIZE,)), np.repeat((0.3, -0.2), 30), np.repeat((0.5, 2.0), 30)
    radius = 0.2
    for corner in itertools.islice(itertools.product((-1, 1), repeat=SIZE), 4):
        moved = x + radius * np.array(corner)
        np.testing.assert_allclose(network.outputs(moved), plain.outputs((moved - mean) / deviation), rtol=1e-12)


def test_statistics_are_those_of_the_inputs_of_each_layer(float64):
    network, x = convolutional(), jr.normal(jr.key(1), (20, SIZE))
    fitted = Network(networks.with_statistics(network.layers, x))
    norm = fitted.layers[3].branch[1]
    before = jax.vmap(lambda x: networks.through((*fitted.layers[:3], fitted.layers[3].branch[0]), x))(x)
    images = np.asarray(before).reshape(20, 4, -1)
    np.testing.assert_allclose(norm.mean, images.mean((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(norm.variance, images.var((0, 2)), rtol=1e-12)
    assert not networks.has_statistics(convolutional(residual=False).layers)


def test_training_keeps_clean_statistics_and_leaves_constants_alone():
    task = data.ConcentricSpheres(9)
    x, y = task.sample(jr.key(0), 40)
    conv = networks.convolution(jr.key(1), (1, 3, 3), 4, 2)
    network = Network(
        (
            Normalisation((1, 3, 3), (0.5,), (2.0,)),
            conv,
            networks.batch_norm(conv.out_shape),
            ReLU(),
            networks.affine(jr.key(2), math.prod(conv.out_shape), 2),
        )
    )
    recipe = train.Recipe(0.05, epochs=20, weight_decay=0.01)
    fit = quick_jit(lambda: train.fit(jr.key(3), network, x, y, threats.L2(0.1), losses.certified("coap"), recipe))()
    assert not fit.diverged
    assert fit.history["loss"][-1] < fit.history["loss"][0]
    assert fit.network.layers[0] == network.layers[0]
    before = np.asarray(jax.vmap(lambda x: networks.through(fit.network.layers[:2], x))(x)).reshape(40, 4, -1)
    np.testing.assert_allclose(fit.network.layers[2].mean, before.mean((0, 2)), rtol=1e-4, atol=1e-5)


def test_statistics_carry_gradients(float64):
    network, x = convolutional(), jr.normal(jr.key(1), (6, SIZE))

    def loss(kernel):
        moved = eqx.tree_at(lambda n: n.layers[1].kernel, network, kernel)
        fitted = Network(networks.with_statistics(moved.layers, x))
        return jnp.sum(jax.vmap(fitted.outputs)(x) ** 2)

    kernel, value = network.layers[1].kernel, quick_jit(loss)
    step = jr.normal(jr.key(2), kernel.shape) * 1e-6
    slope = (value(kernel + step) - value(kernel - step)) / 2
    np.testing.assert_allclose(optax.tree.vdot(quick_jit(jax.grad(loss))(kernel), step), slope, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.convolution(jr.key(0), (1, 2, 2), 3, 5), "does not fit"),
        (lambda: networks.Convolution(jnp.ones((1, 2, 1, 1)), jnp.ones(1), (3, 4, 4)), "reads 2 channels"),
        (lambda: networks.convolution(jr.key(0), (1, 2, 2), 3, 1, init="zeros"), "the initialisations are"),
        (lambda: AveragePool((1, 2, 2), (3, 3)), "does not fit"),
        (lambda: Normalisation((2, 3, 3), (0.0,), (1.0,)), "one deviation > 0"),
        (lambda: Normalisation((1, 3, 3), (0.0,), (0.0,)), "one deviation > 0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
