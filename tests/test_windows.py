"""Boxes place by place, against the same networks whose layers are written out as matrices, which have no places."""

import math
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from test_layers import dense

from simulator import bounds, networks, threats
from simulator.bounds.windows import view_of
from simulator.networks import AveragePool, Network, Normalisation, ReLU, Residual

SHAPE = (2, 7, 9)
SIZE = math.prod(SHAPE)
THREATS = (threats.L2(0.4), threats.LInf(0.05), threats.L1(0.7))


def convolutions(case, dtype=None):
    """Up to three convolutions of every kind of kernel, stride and padding; layers per channel before and behind."""
    keys, shape = iter(jr.split(jr.key(7), 12)), SHAPE
    layers = [Normalisation(shape, (0.3, -0.2), (0.5, 2.0))]
    for channels, kernel, stride, padding in case:
        layer = networks.convolution(next(keys), shape, channels, kernel, 1, padding, dtype=dtype)
        layers.append(replace(layer, stride=stride))
        shape = layers[-1].out_shape
        norm = networks.batch_norm(shape, dtype)
        drawn = jr.normal(next(keys), (2, channels), dtype)
        layers += [eqx.tree_at(lambda n: (n.scale, n.shift), norm, tuple(drawn)), ReLU()]
    network = Network((*layers, networks.affine(next(keys), math.prod(shape), 3, dtype=dtype)))
    return quick_jit(networks.fitted)(network, jr.normal(jr.key(3), (20, SIZE), dtype))


EVEN = ((1, 1), (1, 1))
CASES = {
    "strides": ((3, 3, (2, 2), EVEN), (4, 3, (1, 1), EVEN)),
    "uneven": ((3, 2, (1, 2), ((2, 0), (0, 1))), (2, 3, (2, 1), ((0, 2), (1, 0)))),
    "points": ((2, 1, (1, 1), 0), (3, 3, (3, 3), 0)),
    "far-out": ((2, 2, (1, 1), ((3, 3), (3, 3))), (2, 2, (2, 2), ((2, 1), (0, 3)))),
    "three": ((2, 2, (1, 1), EVEN), (3, 2, (2, 2), 0), (2, 2, (1, 1), EVEN)),
}


def views(network, threat):
    """What each ReLU behind the first sees, None where rows are carried back whole."""
    head, layers = bounds.head.split(network.layers)
    steps = tuple(bounds.backward.Step(layer) for layer in layers)
    at = [number for number, layer in enumerate(layers) if isinstance(layer, ReLU) and number]
    return [view_of(head, steps[:number], threat) for number in at]


@pytest.mark.parametrize(("method", "threat"), list(zip(("coap", "crown", "hbox"), THREATS, strict=True)))
@pytest.mark.parametrize("case", CASES)
def test_windows_give_the_boxes_of_matrices(case, method, threat, float64):
    network, x = convolutions(CASES[case], jnp.float64), jr.normal(jr.key(1), (SIZE,), jnp.float64)
    weights = jr.normal(jr.key(2), (2, 1000), jnp.float64)

    @quick_jit
    def boxes_and_slope(network):
        def total(x):
            boxes = bounds.preactivations(network, threat, x, method)
            sides = [(box.lower, box.upper) for box in boxes]
            return sum(weights[0, : a.size] @ a + weights[1, : b.size] @ b for a, b in sides), boxes

        slope, boxes = jax.grad(total, has_aux=True)(x)
        return boxes, slope

    plain = quick_jit(lambda network: Network(dense(network.layers, SIZE)[0]))(network)
    assert None not in views(network, threat)
    assert views(plain, threat) == [None] * (len(CASES[case]) - 1)
    boxes, slope = boxes_and_slope(network)
    expected, expected_slope = boxes_and_slope(plain)
    for seen, whole in zip(boxes, expected, strict=True):
        assert whole.unstable.any()
        np.testing.assert_allclose(seen.lower, whole.lower, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(seen.upper, whole.upper, rtol=1e-12, atol=1e-13)
    assert not expected[0].unstable.all()
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-9, atol=1e-11)


def test_gradients_of_weights_are_those_of_rows_carried_back_whole(monkeypatch, float64):
    network, x = convolutions(CASES["uneven"], jnp.float64), jr.normal(jr.key(1), (SIZE,), jnp.float64)

    def slope():
        def loss(network):
            return jnp.sum(bounds.margin(network, threats.L2(0.4), x, jnp.array(1), "coap").lower)

        return quick_jit(jax.grad(loss))(network)

    seen = slope()
    monkeypatch.setattr("simulator.bounds.boxes.view_of", lambda *given: None)
    for own, whole in zip(*map(jax.tree.leaves, (seen, slope())), strict=True):
        np.testing.assert_allclose(own, whole, rtol=1e-9, atol=1e-11)


def test_places_in_chunks_are_places_at_once(monkeypatch, float64):
    network, x = convolutions(CASES["three"], jnp.float64), jr.normal(jr.key(1), (SIZE,), jnp.float64)

    def boxes():
        return quick_jit(lambda x: bounds.preactivations(network, threats.L1(0.3), x, "crown"))(x)

    whole = boxes()
    monkeypatch.setattr("simulator.bounds.head.AT_ONCE", 5 * 3 * 32 * 8)
    for chunked, once in zip(boxes(), whole, strict=True):
        np.testing.assert_allclose(chunked.lower, once.lower, rtol=1e-12, atol=1e-13)


def test_rows_are_carried_back_whole_where_windows_do_not_apply():
    keys = jr.split(jr.key(0), 4)
    first = networks.convolution(keys[0], SHAPE, 3, 3, 1, 1)
    second = networks.convolution(keys[1], first.out_shape, 3, 3, 1, 1)
    last = networks.affine(keys[2], math.prod(second.out_shape), 2)
    pool, ball = AveragePool(second.out_shape, (1, 1)), threats.L2(0.1)
    fits = Network((first, ReLU(), second, ReLU(), last))
    assert views(fits, ball)[0] is not None
    signal = jnp.zeros(SIZE).at[0].set(1)
    for threat in (threats.SignalDirected(0.1, signal), threats.Orthogonal(0.1, signal), threats.ConsistentLInf(0.1)):
        assert views(fits, threat) == [None]
    for layers in (
        (first, ReLU(), second, pool, ReLU(), last),
        (first, ReLU(), second, second, ReLU(), last),
        (first, second, ReLU(), second, ReLU(), last),
        (first, ReLU(), networks.batch_norm(first.out_shape), second, ReLU(), last),
        (first, ReLU(), second, networks.batch_norm(second.out_shape), second, ReLU(), last),
        (first, ReLU(), Residual((second,)), ReLU(), last),
    ):
        assert views(Network(layers), ball) == [None]
    wide = networks.convolution(keys[3], first.out_shape, 2, 7, 1, 3)
    assert views(Network((first, ReLU(), wide, ReLU(), last)), ball) == [None]


def test_boxes_in_windows_hold_at_the_edges_and_everywhere(float64):
    network, radius = convolutions(CASES["far-out"], jnp.float64), 0.3
    x = jr.normal(jr.key(1), (SIZE,), jnp.float64)
    box = quick_jit(lambda x: bounds.preactivations(network, threats.LInf(radius), x, "coap"))(x)[1]
    second = [number for number, layer in enumerate(network.layers) if isinstance(layer, ReLU)][1]
    layers = network.layers[:second]
    before = quick_jit(jax.vmap(lambda x: networks.through(layers, x)))
    corners = jr.rademacher(jr.key(2), (4000, SIZE), jnp.float64)
    values = before(x[None] + radius * corners)
    assert np.all(values >= box.lower[None] - 1e-9)
    assert np.all(values <= box.upper[None] + 1e-9)
