"""Balls cut by the range of the data, against SciPy, sampling and the balls they are without a range."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from scipy.optimize import minimize
from test_sandwich import random_network

from simulator import attacks, bounds, networks, threats, train
from simulator.losses import around_attack, attacked, certified

DIM = 7
BALLS = {"l2": (threats.L2InBox, threats.L2), "linf": (threats.LInfInBox, threats.LInf)}
every_ball = pytest.mark.parametrize("name", BALLS)


def example(seed):
    """x in [0, 1], at its ends here and there, and a direction."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.uniform(-0.3, 1.3, DIM), 0, 1), rng.normal(size=DIM) * (rng.uniform(size=DIM) > 0.2)


def in_set(name, radius, x, delta, slack):
    size = np.linalg.norm(delta, axis=-1) if name == "l2" else np.abs(delta).max(-1)
    return np.all(size <= radius + slack) and np.all(x + delta >= -slack) and np.all(x + delta <= 1 + slack)


def by_scipy(name, radius, x, w):
    """max <w, delta> over the set, and nearest point to w, by a general solver."""
    a, b = np.maximum(-radius, -x), np.minimum(radius, 1 - x)
    ball = [{"type": "ineq", "fun": lambda d: radius**2 - d @ d, "jac": lambda d: -2 * d}] if name == "l2" else []
    options = {"ftol": 1e-14, "maxiter": 500}
    start = np.clip(w * 1e-2, a, b)
    most = minimize(
        lambda d: -w @ d,
        start,
        jac=lambda d: -w,
        bounds=list(zip(a, b, strict=True)),
        constraints=ball,
        options=options,
        method="SLSQP",
    )
    near = minimize(
        lambda d: (d - w) @ (d - w),
        start,
        jac=lambda d: 2 * (d - w),
        bounds=list(zip(a, b, strict=True)),
        constraints=ball,
        options=options,
        method="SLSQP",
    )
    return -most.fun, near.x


@functools.cache
def operations(name):
    """(x, w, radius) -> support with its slopes by w and radius, worst and project."""

    def support(w, radius, x):
        return BALLS[name][0](radius, 0.0, 1.0).at(x).support(w)

    def run(x, w, radius):
        here = BALLS[name][0](radius, 0.0, 1.0).at(x)
        return *jax.value_and_grad(support, (0, 1))(w, radius, x), here.worst(w), here.project(w)

    return quick_jit(run)


@every_ball
@pytest.mark.parametrize("radius", [0.1, 0.6, 1.5, 5.0])
def test_support_and_projection_are_scipys(name, radius, float64):
    for seed in range(8):
        x, w = example(seed)
        support, _, worst, nearest = operations(name)(jnp.asarray(x), jnp.asarray(w), radius)
        most, near = by_scipy(name, radius, x, w)
        np.testing.assert_allclose(support, most, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(w @ worst, support, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(nearest, near, atol=1e-5)
        assert in_set(name, radius, x, np.asarray(worst), 1e-12)
        assert in_set(name, radius, x, np.asarray(nearest), 1e-12)


@every_ball
def test_far_from_the_ends_it_is_the_ball(name, float64):
    cut, ball = (kind(0.3, *ends) for kind, ends in zip(BALLS[name], ((-50.0, 50.0), ()), strict=True))
    both = quick_jit(lambda w: [(one.support(w), one.project(w)) for one in (cut.at(jnp.zeros(DIM)), ball)])
    for ours, expected in zip(*both(jr.normal(jr.key(0), (DIM,))), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


@every_ball
@pytest.mark.parametrize("radius", [0.0, 1e-30, 0.5, 1e6])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e6])
def test_nothing_is_nan_at_the_ends(name, radius, size):
    x, w = (jnp.asarray(value, jnp.float32) for value in example(1))
    value, slopes, worst, nearest = operations(name)(x, w * size, jnp.asarray(radius, jnp.float32))
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    assert in_set(name, radius, np.asarray(x), np.asarray(worst), 1e-6 * max(radius, 1))
    assert in_set(name, radius, np.asarray(x), np.asarray(nearest), 1e-6 * max(radius, 1))


@every_ball
def test_the_slope_of_the_support_is_its_worst_member(name, float64):
    x, w = (jnp.asarray(value) for value in example(2))
    _, (slope, _), worst, _ = operations(name)(x, w, 0.6)
    np.testing.assert_allclose(slope, worst, atol=1e-12)


BOUNDS = ("ibp", "coap", "crown")


@functools.cache
def attack_and_bounds(name):
    """What PGD finds, and by every method the bounds of the set and of the ball it is cut from."""
    network, ball = random_network(np.random.default_rng(0), DIM, (12,), 3), BALLS[name][1](0.6)
    rows = networks.contrast(network, jnp.array(0), networks.others(network, jnp.array(0)))

    def run(x):
        here = BALLS[name][0](0.6, 0.0, 1.0).at(x)
        found = attacks.pgd(network, here, x, jnp.array(0), steps=30, objective="margin")
        return found, {
            method: [jnp.min(bounds.lower(network, threat, x, rows, method)) for threat in (here, ball)]
            for method in BOUNDS
        }

    return jax.tree.map(np.asarray, quick_jit(run)(jnp.asarray(example(3)[0])))


@every_ball
@pytest.mark.parametrize("method", BOUNDS)
def test_attacks_stay_inside_and_above_the_bounds(name, method, float64):
    x = example(3)[0]
    found, lower = attack_and_bounds(name)
    cut, whole = lower[method]
    assert in_set(name, 0.6, x, found.delta, 1e-9)
    assert found.margin >= cut - 1e-9
    if method == "ibp":
        # The smaller set has the better boxes; a backward bound with them need not be better.
        assert cut >= whole - 1e-12


def test_training_places_the_box_at_every_example():
    x = jr.uniform(jr.key(0), (20, DIM))
    y = (x[:, 0] > 0.5).astype(jnp.int32)
    start = networks.mlp(jr.key(1), DIM, (8,), 2)
    threat = threats.LInfInBox(0.05, 0.0, 1.0)
    for loss in (certified("ibp"), attacked(lambda *e: attacks.pgd(*e, steps=3))):
        recipe = train.Recipe(0.5, epochs=5)
        fit = quick_jit(lambda loss=loss, recipe=recipe: train.fit(jr.key(2), start, x, y, threat, loss, recipe))()
        assert not fit.diverged
        assert fit.history["loss"][-1] < fit.history["loss"][0]


@every_ball
def test_the_small_set_about_an_adversarial_point_stays_inside(name, float64):
    network, x = random_network(np.random.default_rng(0), DIM, (12,), 1), jnp.asarray(example(4)[0])
    loss = around_attack(attacks.fgsm, 0.4, lambda network, threat, point, y: (threat, point))

    @quick_jit
    def centre_and_members(x, ways):
        threat, point = loss(network, BALLS[name][0](0.6, 0.0, 1.0).at(x), x, jnp.array(1))
        return point, jax.vmap(threat.worst)(ways)

    point, members = centre_and_members(x, jr.normal(jr.key(0), (500, DIM)))
    assert np.linalg.norm(point - x) > 0.1
    moved = np.asarray(point - x)[None] + np.asarray(members)
    assert in_set(name, 0.6, np.asarray(x), moved, 1e-9)


def test_a_box_without_an_example_is_refused():
    with pytest.raises(ValueError, match="call at"):
        threats.LInfInBox(0.1, 0.0, 1.0).support(jnp.ones(DIM))
