"""Planted images and their signal direction; the direction to the nearest image of another class."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from simulator import images

SHAPE = (3, 8, 8)


@pytest.mark.parametrize("with_backgrounds", [False, True])
def test_planted_images_have_their_margin_along_the_pattern_and_nothing_else_of_it(with_backgrounds):
    backgrounds = jr.uniform(jr.key(5), (20, 192)) if with_backgrounds else None
    x, y, signal = images.planted(jr.key(0), SHAPE, 400, 0.6, 0.1, backgrounds)
    assert x.shape == (400, *SHAPE)
    p = np.asarray(images.pattern(SHAPE))
    np.testing.assert_allclose(np.linalg.norm(p), 1, rtol=1e-6)
    sign = 2 * np.asarray(y) - 1
    along = (np.asarray(x).reshape(400, -1) - 0.5) @ p
    np.testing.assert_allclose(along, 0.6 * sign, atol=1e-5)
    np.testing.assert_allclose(signal, -np.outer(sign, p), atol=1e-7)
    # Walking the margin along the signal ends on the true boundary.
    np.testing.assert_allclose((np.asarray(x).reshape(400, -1) + 0.6 * np.asarray(signal) - 0.5) @ p, 0, atol=1e-5)
    assert 0.35 < np.mean(y) < 0.65


def test_noise_across_the_pattern_has_its_deviation():
    x, y, _ = images.planted(jr.key(0), SHAPE, 2000, 0.6, 0.1)
    p = np.asarray(images.pattern(SHAPE))
    rest = np.asarray(x).reshape(2000, -1) - 0.5 - np.outer(0.6 * (2 * np.asarray(y) - 1), p)
    # 2000 x 191 numbers with variance 0.01: the mean square is within 5 standard errors sqrt(2 / 382,000).
    assert np.sum(rest**2) / (2000 * 191) == pytest.approx(0.01, rel=5 * (2 / 382_000) ** 0.5)


def test_the_nearest_image_of_another_class_is_that_of_a_search():
    x, others = jr.normal(jr.key(0), (230, 5)), jr.normal(jr.key(1), (40, 5))
    y, labels = jnp.arange(230) % 3, jnp.arange(40) % 3
    found = images.towards_other_classes(x, others, y, labels)
    for at in (0, 57, 229):
        rivals = np.asarray(others)[np.asarray(labels) != int(y[at])]
        steps = rivals - np.asarray(x[at])
        step = steps[np.argmin(np.linalg.norm(steps, axis=1))]
        np.testing.assert_allclose(found[at], step / np.linalg.norm(step), rtol=1e-4)
    same = images.towards_other_classes(x[:1], x[:1], y[:1], y[:1] + 1)
    assert (same == 0).all()
    assert jax.numpy.isfinite(found).all()
