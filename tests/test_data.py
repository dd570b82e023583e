"""Tasks: the geometry their docstrings promise, the law of their noise, and purity."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from simulator import data

DIM, N = 5, 20000


def unit(key, dim=DIM):
    z = jr.normal(key, (dim,))
    return z / jnp.linalg.norm(z)


def linear(**numbers):
    return data.LinearlySeparable(DIM, **{"margin": 2.0, "noise": 0.5, "direction": unit(jr.key(3)), **numbers})


def spheres(**numbers):
    return data.ConcentricSpheres(DIM, **{"inner": 1.0, "outer": 4.0, **numbers})


def features():
    return data.GaussianFeatures(DIM, unit(jr.key(3)))


TASKS = {"linear": linear, "spheres": spheres, "features": features}
every_task = pytest.mark.parametrize("name", TASKS)


@every_task
def test_shapes_dtypes_and_labels(name):
    x, y = TASKS[name]().sample(jr.key(0), 7)
    assert x.shape == (7, DIM)
    assert y.shape == (7,)
    assert x.dtype == jnp.float32
    assert set(np.unique(TASKS[name]().sample(jr.key(0), 100)[1])) == {-1, 1}


@every_task
def test_double_precision_when_asked(name, float64):
    x, _ = TASKS[name]().sample(jr.key(0), 7)
    assert x.dtype == jnp.float64


@every_task
def test_both_classes_are_equally_likely_and_examples_independent(name):
    """Mean and lag-1 product of the labels are 0 within 5 standard errors, 1/sqrt(n) each."""
    y = np.asarray(TASKS[name]().sample(jr.key(1), N)[1], float)
    assert abs(y.mean()) < 5 / N**0.5
    assert abs((y[1:] * y[:-1]).mean()) < 5 / N**0.5


@every_task
def test_the_same_key_gives_the_same_data_and_another_key_others(name):
    first, again, other = (TASKS[name]().sample(jr.key(k), 20)[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.any(np.isclose(first, other))


@every_task
def test_moving_along_the_signal_by_the_distance_lands_on_the_boundary(name):
    task = TASKS[name]()
    x, y = task.sample(jr.key(2), 50)
    signal = jax.vmap(task.signal)(x, y)
    np.testing.assert_allclose(np.linalg.norm(signal, axis=1), 1, rtol=1e-5)
    if name == "linear":
        np.testing.assert_allclose((x + task.margin * signal) @ task.direction, 0, atol=1e-5)
    elif name == "features":
        distance = np.abs(x @ task.direction)
        np.testing.assert_allclose((x + distance[:, None] * signal) @ task.direction, 0, atol=1e-5)
    else:
        boundary = (task.inner + task.outer) / 2
        np.testing.assert_allclose(np.linalg.norm(x + task.margin / 2 * signal, axis=1), boundary, rtol=1e-5)


def test_the_projection_on_the_signal_is_the_margin_without_noise():
    task = linear()
    x, y = task.sample(jr.key(4), 200)
    np.testing.assert_allclose(x @ task.direction, 2.0 * np.asarray(y), atol=1e-5)


def test_noise_is_gaussian_across_the_signal():
    """Along each direction orthogonal to s: mean 0, variance sigma^2, fourth moment 3 sigma^4, no correlation."""
    x, _ = data.LinearlySeparable(DIM, margin=2.0, noise=0.5).sample(jr.key(5), N)
    z = np.asarray(x)[:, 1:] / 0.5
    assert np.all(np.abs(z.mean(0)) < 5 / N**0.5)
    assert np.all(np.abs((z**2).mean(0) - 1) < 5 * (2 / N) ** 0.5)
    assert np.all(np.abs((z**4).mean(0) - 3) < 5 * (96 / N) ** 0.5)
    correlation = z.T @ z / N - np.diag((z**2).mean(0))
    assert np.all(np.abs(correlation) < 5 / N**0.5)


def test_noise_does_not_depend_on_the_label():
    x, y = data.LinearlySeparable(DIM, margin=2.0, noise=1.0).sample(jr.key(6), N)
    assert np.all(np.abs((np.asarray(x)[:, 1:] * np.asarray(y)[:, None]).mean(0)) < 5 / N**0.5)


def test_a_random_direction_turns_the_law():
    """Variance of the noise along any unit v: sigma^2 (1 - <v, s>^2)."""
    task, v = linear(), np.asarray(unit(jr.key(8)))
    x, y = task.sample(jr.key(7), N)
    along = (np.asarray(x) - 2.0 * np.outer(y, task.direction)) @ v
    variance = 0.25 * (1 - (v @ np.asarray(task.direction)) ** 2)
    assert abs(along.mean()) < 5 * (variance / N) ** 0.5
    assert abs((along**2).mean() / variance - 1) < 5 * (2 / N) ** 0.5


def test_features_are_gaussian_and_labelled_without_noise():
    task = features()
    x, y = task.sample(jr.key(11), N)
    x = np.asarray(x)
    assert np.all(np.abs(x.mean(0)) < 5 / N**0.5)
    assert np.all(np.abs(x.T @ x / N - np.eye(DIM)) < 5 * (np.eye(DIM) * 2 + 1 - np.eye(DIM)) ** 0.5 / N**0.5)
    np.testing.assert_array_equal(y, np.sign(x @ np.asarray(task.direction)))


def test_examples_lie_on_their_spheres_and_the_inner_one_is_positive():
    x, y = spheres().sample(jr.key(9), 200)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), np.where(np.asarray(y) > 0, 1.0, 4.0), rtol=1e-5)
    assert spheres().margin == 3.0


def test_directions_on_the_spheres_are_uniform():
    """u uniform on the sphere: E u = 0, E u_i^2 = 1/d with variance 2 (d-1) / (d^2 (d+2))."""
    x, _ = spheres().sample(jr.key(10), N)
    u = np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.all(np.abs(u.mean(0)) < 5 * (1 / DIM / N) ** 0.5)
    variance = 2 * (DIM - 1) / (DIM**2 * (DIM + 2))
    assert np.all(np.abs((u**2).mean(0) - 1 / DIM) < 5 * (variance / N) ** 0.5)


def test_the_signal_at_the_origin_is_undefined_and_says_so_by_0():
    np.testing.assert_array_equal(spheres().signal(jnp.zeros(DIM), jnp.array(1)), 0)


def test_numbers_are_leaves_that_vmap_and_jit():
    numbers = jnp.array([0.5, 1.0, 3.0])

    def sample(margin, noise):
        return data.LinearlySeparable(DIM, margin, noise).sample(jr.key(0), 6)[0]

    together = jax.jit(jax.vmap(sample))(numbers, numbers)
    for x, number in zip(together, numbers, strict=True):
        np.testing.assert_allclose(x, sample(float(number), float(number)), rtol=1e-6, atol=1e-7)
    radii = jax.jit(jax.vmap(lambda outer: spheres(outer=outer).sample(jr.key(0), 6)[0]))(numbers + 2)
    largest = np.linalg.norm(radii, axis=2).max(axis=1)
    np.testing.assert_allclose(largest, numbers + 2, rtol=1e-5)


def test_cells_with_one_key_share_their_noise():
    """Common random numbers: margin and noise rescale the same draw, so differences along an axis are paired."""
    first, second = (data.LinearlySeparable(DIM, 1.0, noise).sample(jr.key(0), 9) for noise in (0.5, 1.0))
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_allclose(2 * first[0][:, 1:], second[0][:, 1:], rtol=1e-6)


@pytest.mark.parametrize("task", [data.LinearlySeparable, data.ConcentricSpheres, data.GaussianFeatures])
def test_a_dimension_below_1_is_refused(task):
    with pytest.raises(ValueError, match="dim is 0, but data need at least one dimension: give dim >= 1"):
        task(0)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("make", "name"), [(linear, "margin"), (linear, "noise"), (spheres, "inner"), (spheres, "outer")]
)
def test_numbers_must_be_finite_and_not_negative(make, name, value):
    with pytest.raises(ValueError, match=rf"{name} is {value}, but must be finite and not negative"):
        make(**{name: value})


def test_a_direction_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"direction has shape \(3,\), but dim is 5: give a unit vector \[5\]"):
        linear(direction=jnp.eye(3)[0])
    with pytest.raises(ValueError, match=r"direction has shape \(3,\), but dim is 5: give a unit vector \[5\]"):
        data.GaussianFeatures(DIM, jnp.eye(3)[0])


@pytest.mark.parametrize("outer", [1.0, 0.5])
def test_spheres_must_be_in_order(outer):
    with pytest.raises(ValueError, match=rf"inner is 1.0 and outer is {outer}: the inner radius must be the smaller"):
        spheres(outer=outer)


@pytest.mark.parametrize("index", [0, 1])
def test_one_of_several_tasks_is_the_member(index):
    members = (data.ConcentricSpheres(3, 1.0, 3.0), data.LinearlySeparable(3, 2.0))
    one = data.OneOf(members, index)
    x, y = one.sample(jr.key(0), 7)
    expected_x, expected_y = members[index].sample(jr.key(0), 7)
    np.testing.assert_array_equal(x, expected_x)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(one.signal(x[0], y[0]), members[index].signal(x[0], y[0]))
    assert (one.dim, one.folded) == (3, 0)


def test_one_of_several_tasks_has_one_dimension_and_no_subspace():
    with pytest.raises(ValueError, match="give one dim"):
        data.OneOf((data.LinearlySeparable(3), data.LinearlySeparable(4)), 0)
    one = data.OneOf((data.LinearlySeparable(3), data.ConcentricSpheres(3)), 0)
    with pytest.raises(ValueError, match="ask it"):
        one.axes()
    with pytest.raises(ValueError, match="fold it"):
        one.folded_to(jnp.eye(2))
