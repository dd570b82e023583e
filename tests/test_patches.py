"""Convolutions as products of patches, against XLA's convolution."""

import math
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from test_sandwich import quick_jit

from simulator import networks
from simulator.networks import layers

# shape, kernel, stride, padding: even and odd sizes, sizes that the stride leaves a rest of, kernels below the stride
CASES = {
    "stride 1": ((2, 6, 5), 3, 1, 1),
    "no padding": ((2, 6, 5), 3, 1, 0),
    "stride 2": ((3, 6, 8), 4, 2, 1),
    "stride 2, odd": ((2, 7, 9), 4, 2, 1),
    "odd kernel, stride 2": ((2, 7, 6), 3, 2, 1),
    "kernel below stride": ((2, 7, 6), 1, 2, 0),
    "kernel of the stride": ((2, 7, 6), 2, 2, 0),
    "stride 3 with a rest": ((1, 9, 11), 4, 3, 0),
    "uneven padding": ((2, 5, 6), 3, 2, ((1, 0), (2, 1))),
    "cropped": ((2, 8, 8), 3, 2, ((-1, 0), (0, -2))),
    "all of the image": ((2, 4, 4), 4, 1, 0),
}


def everything(form, monkeypatch, layer, z, row):
    """Values of all four operations and derivatives of them by all they depend on."""
    monkeypatch.setattr(layers, "as_product", lambda: form == "product")

    def values(kernel, z, row):
        here = networks.Convolution(kernel, layer.bias, layer.shape, layer.stride, layer.padding)
        return here.linear(z), here.transposed(row), here.absolute(z), here.squared(z)

    def weighted(*arguments):
        return sum(jnp.sum(jnp.sin(value)) for value in values(*arguments))

    return jax.jit(lambda *a: (values(*a), jax.grad(weighted, (0, 1, 2))(*a)))(layer.kernel, z, row)


@pytest.mark.parametrize("case", CASES)
def test_both_forms_are_equal(case, monkeypatch, float64):
    shape, kernel, stride, padding = CASES[case]
    layer = networks.convolution(jr.key(0), shape, 4, kernel, stride, padding)
    z, row = jr.normal(jr.key(1), (math.prod(shape),)), jr.normal(jr.key(2), (math.prod(layer.out_shape),))
    ours, theirs = (everything(form, monkeypatch, layer, z, row) for form in ("product", "convolution"))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        # Sums of at most 64 products of order 1, in another order.
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_a_batch_of_rows_is_one_product(monkeypatch):
    layer = networks.convolution(jr.key(0), (3, 8, 8), 5, 4, 2, 1)
    rows, z = jnp.ones((7, 6, math.prod(layer.out_shape))), jnp.ones((7, math.prod(layer.shape)))

    def loss(layer, rows, z):
        pulled = jax.vmap(jax.vmap(layer.transposed))(rows)
        return jnp.sum(pulled**2) + jnp.sum(jax.vmap(layer.linear)(z) ** 2)

    for form, products in ((True, 6), (False, 0)):
        monkeypatch.setattr(layers, "as_product", lambda form=form: form)
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(layer, rows, z).as_text()
        # Values, derivatives by kernels and by rows or examples, of each of the two operations.
        assert len(re.findall("stablehlo.dot_general", lowered)) == products
        assert ("stablehlo.convolution" in lowered) != form
        assert "batching_dims" not in lowered or not form


def test_forward_derivatives_work(float64):
    layer = networks.convolution(jr.key(0), (2, 6, 6), 3, 4, 2, 1)
    z = jr.normal(jr.key(1), (72,))
    columns = quick_jit(jax.jacfwd(layer.linear))(z)
    rows = quick_jit(jax.jacrev(layer.linear))(z)
    np.testing.assert_allclose(columns, rows, atol=1e-14)


@pytest.mark.parametrize(("backend", "wanted"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_products_are_for_processors(backend, wanted, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert layers.as_product() is wanted
