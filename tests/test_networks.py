"""Networks: their construction, labels and margins, and the laws they are initialised by."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from simulator import networks


def random_pairs(sizes, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(outer, inner)).astype(dtype), rng.normal(size=outer).astype(dtype))
        for inner, outer in itertools.pairwise(sizes)
    ]


def by_hand(pairs, x):
    for weight, bias in pairs[:-1]:
        x = np.maximum(weight @ x + bias, 0)
    return pairs[-1][0] @ x + pairs[-1][1]


@pytest.mark.parametrize("sizes", [(4, 2), (4, 1), (4, 6, 3), (4, 6, 5, 2)])
def test_a_network_is_its_formula(sizes, float64):
    pairs = random_pairs(sizes, np.float64)
    network, x = networks.from_weights(pairs), np.linspace(-1, 1, 4)
    outputs = by_hand(pairs, x)
    np.testing.assert_allclose(network.outputs(jnp.asarray(x)), outputs, rtol=1e-12)
    logits = np.concatenate([[0], outputs]) if sizes[-1] == 1 else outputs
    np.testing.assert_allclose(network(jnp.asarray(x)), logits, rtol=1e-12)
    assert network.classes == logits.size
    assert len(network.layers) == 2 * len(pairs) - 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_from_weights_keeps_the_dtype(dtype, float64):
    network = networks.from_weights(random_pairs((3, 2), dtype))
    assert network(jnp.ones(3, dtype)).dtype == dtype


def test_from_weights_names_the_layer_that_does_not_fit():
    (first, bias), (second, _) = random_pairs((4, 6, 2))
    with pytest.raises(ValueError, match=r"layer 1 has weight \(2, 6\) and bias \(6,\): give weight \[out, 6\]"):
        networks.from_weights([(first, bias), (second, bias)])
    with pytest.raises(ValueError, match=r"layer 1 has weight \(6, 4\) and bias \(6,\): give weight \[out, 6\]"):
        networks.from_weights([(first, bias), (first, bias)])
    with pytest.raises(ValueError, match=r"layer 0 has weight \(6,\) and bias \(6,\): give weight \[out, any\]"):
        networks.from_weights([(bias, bias)])
    with pytest.raises(ValueError, match="no weights given: a network needs at least one"):
        networks.from_weights([])


def test_labels_become_class_indices():
    np.testing.assert_array_equal(networks.label(jnp.array([-1, 1, 0, 1, 2, 9])), [0, 1, 0, 1, 2, 9])


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_margins_others_and_contrast_agree(outputs, float64):
    network, x = networks.from_weights(random_pairs((3, 5, outputs), np.float64)), jnp.array([0.3, -0.2, 1.0])
    logits = np.asarray(network(x))
    for label in range(network.classes):
        rivals = networks.others(network, jnp.array(label))
        assert sorted([label, *np.asarray(rivals).tolist()]) == list(range(network.classes))
        expected = logits[label] - logits[np.asarray(rivals)]
        np.testing.assert_allclose(networks.margins(network, x, jnp.array(label)), expected, rtol=1e-12)
        rows = networks.contrast(network, jnp.array(label), rivals)
        np.testing.assert_allclose(rows @ network.outputs(x), expected, rtol=1e-12)
        own = networks.contrast(network, jnp.array(label), jnp.array([label]))
        np.testing.assert_array_equal(own, np.zeros((1, outputs)))


def test_margins_take_the_labels_of_the_data_in_double_precision(float64):
    """Tasks give int32 labels, whatever the precision of x."""
    network = networks.from_weights(random_pairs((3, 3), np.float64))
    assert networks.margins(network, jnp.ones(3), jnp.array(1, jnp.int32)).shape == (2,)


def test_cross_entropy_is_minus_the_log_softmax(float64):
    network, x = networks.from_weights(random_pairs((3, 5, 4), np.float64)), jnp.array([0.3, -0.2, 1.0])
    found = [networks.cross_entropy(networks.margins(network, x, jnp.array(label))) for label in range(4)]
    np.testing.assert_allclose(found, -jax.nn.log_softmax(network(x)), rtol=1e-12)


@pytest.mark.parametrize("dim", [1, 9, 400])
def test_torch_initialisation_is_uniform_in_the_inverse_root_of_the_fan_in(dim):
    """Range exactly; mean and variance r^2/3 within 5 standard errors (variance of u^2: 4 r^4/45)."""
    width, reach = 2000, dim**-0.5
    network = networks.mlp(jr.key(1), dim, (width,))
    for layer, fan_in in ((network.layers[0], dim), (network.last, width)):
        reach = fan_in**-0.5
        for leaf in (np.asarray(layer.weight).ravel(), np.asarray(layer.bias)):
            assert np.all(np.abs(leaf) <= reach)
            assert abs(leaf.mean()) < 5 * reach / (3 * leaf.size) ** 0.5
            assert abs((leaf**2).mean() - reach**2 / 3) < 5 * reach**2 * (4 / 45 / leaf.size) ** 0.5
        assert np.abs(layer.weight).max() > 0.98 * reach


def test_he_initialisation_is_gaussian_with_variance_2_over_the_fan_in():
    network = networks.mlp(jr.key(2), 50, (400,), init="he")
    for layer, fan_in in ((network.layers[0], 50), (network.last, 400)):
        z = np.asarray(layer.weight).ravel() * (fan_in / 2) ** 0.5
        assert abs(z.mean()) < 5 / z.size**0.5
        assert abs((z**2).mean() - 1) < 5 * (2 / z.size) ** 0.5
        assert abs((z**4).mean() - 3) < 5 * (96 / z.size) ** 0.5
        np.testing.assert_array_equal(layer.bias, 0)


def test_initialisation_is_pure_and_layers_are_independent():
    first, again, other = (networks.mlp(jr.key(k), 6, (6, 6), 6) for k in (0, 0, 1))
    np.testing.assert_array_equal(first.layers[0].weight, again.layers[0].weight)
    assert not np.any(first.layers[0].weight == other.layers[0].weight)
    assert not np.any(first.layers[0].weight == first.layers[2].weight)


def test_initialisation_in_a_given_dtype(float64):
    assert networks.mlp(jr.key(0), 3).last.weight.dtype == jnp.float64
    assert networks.mlp(jr.key(0), 3, dtype=jnp.float32).last.weight.dtype == jnp.float32


def test_linear_is_a_network_without_hidden_layers():
    network = networks.linear(jr.key(0), 3)
    assert len(network.layers) == 1
    assert network.last.weight.shape == (1, 3)
    assert network(jnp.zeros(3))[0] == 0


def test_mlp_names_what_is_wrong():
    with pytest.raises(ValueError, match="init is 'xavier', but the initialisations are torch, he"):
        networks.mlp(jr.key(0), 3, init="xavier")
    for sizes in ({"dim": 0}, {"dim": 3, "widths": (0,)}, {"dim": 3, "outputs": 0}):
        with pytest.raises(ValueError, match=r"the layer sizes are .*, but every size must be at least 1"):
            networks.mlp(jr.key(0), **sizes)


@pytest.mark.parametrize(("x", "value"), [([1.0, 2.0], 2 * 0.5 + 0.25), ([1.0, 1.0], 0.25)])
def test_one_neuron_is_a_relu_b(x, value):
    """theta = (-1.5, 1), a = 2, b = 0.25: on at <theta, x> = 0.5 and off at -0.5."""
    network = networks.one_neuron(jnp.array([-1.5, 1.0]), jnp.array(2.0), jnp.array(0.25))
    np.testing.assert_allclose(network.outputs(jnp.array(x)), [value])
    np.testing.assert_allclose(network(jnp.array(x)), [0, value])
