"""Balls cut by the range of the data, against SciPy, sampling and the balls they are without a range."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.optimize import minimize
from test_sandwich import quick_jit, random_network

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


@every_ball
@pytest.mark.parametrize("radius", [0.1, 0.6, 1.5, 5.0])
def test_support_and_projection_are_scipys(name, radius, float64):
    threat = BALLS[name][0](radius, 0.0, 1.0)
    run = quick_jit(lambda x, w: (threat.at(x).support(w), threat.at(x).worst(w), threat.at(x).project(w)))
    for seed in range(8):
        x, w = example(seed)
        support, worst, nearest = run(jnp.asarray(x), jnp.asarray(w))
        most, near = by_scipy(name, radius, x, w)
        np.testing.assert_allclose(support, most, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(w @ worst, support, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(nearest, near, atol=1e-5)
        assert in_set(name, radius, x, np.asarray(worst), 1e-12)
        assert in_set(name, radius, x, np.asarray(nearest), 1e-12)


@every_ball
def test_far_from_the_ends_it_is_the_ball(name, float64):
    cut, ball = (kind(0.3, *ends) for kind, ends in zip(BALLS[name], ((-50.0, 50.0), ()), strict=True))
    w = jr.normal(jr.key(0), (DIM,))
    np.testing.assert_allclose(cut.at(jnp.zeros(DIM)).support(w), ball.support(w), rtol=1e-12)
    np.testing.assert_allclose(cut.at(jnp.zeros(DIM)).project(w), ball.project(w), rtol=1e-12)


@every_ball
@pytest.mark.parametrize("radius", [0.0, 1e-30, 0.5, 1e6])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e6])
def test_nothing_is_nan_at_the_ends(name, radius, size):
    x, w = (jnp.asarray(value, jnp.float32) for value in example(1))

    def support(w, radius):
        return BALLS[name][0](radius, 0.0, 1.0).at(x).support(w)

    value, slopes = quick_jit(jax.value_and_grad(support, (0, 1)))(w * size, jnp.asarray(radius, jnp.float32))
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    here = BALLS[name][0](radius, 0.0, 1.0).at(x)
    assert in_set(name, radius, np.asarray(x), np.asarray(here.worst(w * size)), 1e-6 * max(radius, 1))
    assert in_set(name, radius, np.asarray(x), np.asarray(here.project(w * size)), 1e-6 * max(radius, 1))


@every_ball
def test_the_slope_of_the_support_is_its_worst_member(name, float64):
    x, w = (jnp.asarray(value) for value in example(2))
    here = BALLS[name][0](0.6, 0.0, 1.0).at(x)
    np.testing.assert_allclose(jax.grad(here.support)(w), here.worst(w), atol=1e-12)


@every_ball
@pytest.mark.parametrize("method", ["ibp", "coap", "crown"])
def test_attacks_stay_inside_and_above_the_bounds(name, method, float64):
    network = random_network(np.random.default_rng(0), DIM, (12,), 3)
    x, ball = jnp.asarray(example(3)[0]), BALLS[name][1](0.6)

    @quick_jit
    def run():
        here = BALLS[name][0](0.6, 0.0, 1.0).at(x)
        rows = networks.contrast(network, jnp.array(0), networks.others(network, jnp.array(0)))
        lower = [jnp.min(bounds.lower(network, threat, x, rows, method)) for threat in (here, ball)]
        return attacks.pgd(network, here, x, jnp.array(0), steps=30, objective="margin"), lower

    found, (cut, whole) = run()
    assert in_set(name, 0.6, np.asarray(x), np.asarray(found.delta), 1e-9)
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
        fit = train.fit(jr.key(2), start, x, y, threat, loss, train.Recipe(0.5, epochs=5))
        assert not fit.diverged
        assert fit.history["loss"][-1] < fit.history["loss"][0]


@every_ball
def test_the_small_set_about_an_adversarial_point_stays_inside(name, float64):
    network, x = random_network(np.random.default_rng(0), DIM, (12,), 1), jnp.asarray(example(4)[0])
    seen = []
    loss = around_attack(attacks.fgsm, 0.4, lambda network, threat, point, y: seen.append((threat, point)))
    loss(network, BALLS[name][0](0.6, 0.0, 1.0).at(x), x, jnp.array(1))
    ((threat, point),) = seen
    assert np.linalg.norm(point - x) > 0.1
    members = jax.vmap(threat.worst)(jr.normal(jr.key(0), (500, DIM)))
    moved = np.asarray(point - x)[None] + np.asarray(members)
    assert in_set(name, 0.6, np.asarray(x), moved, 1e-9)


def test_a_box_without_an_example_is_refused():
    with pytest.raises(ValueError, match="call at"):
        threats.LInfInBox(0.1, 0.0, 1.0).support(jnp.ones(DIM))
