"""Closed forms against simulation within 5 standard errors, and against other derivations to rounding."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
from programs import quick_jit
from test_threats import THREATS, frame

from simulator import networks, theory, threats
from simulator.data import LinearlySeparable

DRAWS, DIM = 1_000_000, 6
every_threat = pytest.mark.parametrize("name", THREATS)


def assert_within_5_standard_errors(predicted, wrong):
    """`wrong` [draws] are outcomes of which `predicted` is the probability."""
    predicted = float(predicted)
    deviation = np.sqrt(predicted * (1 - predicted) / len(wrong))
    assert 0.02 < predicted < 0.98, "a probability that says little"
    assert abs(np.asarray(wrong).mean() - predicted) < 5 * deviation


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=DIM)) + jnp.zeros(DIM).at[0].set(0.6), jnp.asarray(0.4)


def margins(weight, bias, x, y):
    return np.asarray(y) * (np.asarray(x) @ np.asarray(weight) + float(bias))


@functools.cache
def separable_draws():
    """A task in double precision and a million examples of it."""
    task = LinearlySeparable(DIM, 1.0, 0.9, jnp.asarray(frame(DIM)[1]))
    return task, *(np.asarray(part) for part in quick_jit(lambda key: task.sample(key, DRAWS))(jr.key(0)))


@every_threat
def test_errors_on_separable_data(name, float64):
    weight, bias = weights()
    (task, x, y), threat = separable_draws(), THREATS[name](0.3, DIM)
    found = theory.separable_errors(weight, bias, task, threat)
    margin = margins(weight, bias, x, y)
    reach = np.where(y > 0, threat.support(-weight), threat.support(weight))
    assert_within_5_standard_errors(found.standard, margin <= 0)
    assert_within_5_standard_errors(found.robust, margin <= reach)


def test_a_threat_tied_to_the_signal_lies_along_it(float64):
    weight, bias = weights()
    task = LinearlySeparable(DIM, 1.0, 0.9)
    tied, fixed = (
        theory.separable_errors(weight, bias, task, threats.SignalDirected(0.5, direction))
        for direction in (None, task.direction)
    )
    np.testing.assert_array_equal(tied, fixed)
    blind = theory.separable_errors(weight.at[0].set(0), bias, task, threats.SignalDirected(0.5))
    np.testing.assert_array_equal(blind.standard, blind.robust)


def test_separable_data_are_a_mixture(float64):
    weight, bias = weights(1)
    task, threat = LinearlySeparable(DIM, 1.3, 0.7), threats.L2(0.4)
    covariance = task.noise**2 * (jnp.eye(DIM) - jnp.outer(task.direction, task.direction))
    as_mixture = theory.mixture_errors(weight, bias, task.margin * task.direction, covariance, threat)
    np.testing.assert_allclose(theory.separable_errors(weight, bias, task, threat), as_mixture, rtol=1e-12)


@every_threat
def test_errors_on_a_mixture_with_any_covariance(name, float64):
    rng = np.random.default_rng(2)
    (weight, bias), threat = weights(2), THREATS[name](0.2, DIM)
    root, mean = jnp.asarray(rng.normal(size=(DIM, DIM))) / 2, jnp.asarray(rng.normal(size=DIM)) / 2
    y = rng.choice([-1.0, 1.0], DRAWS)
    x = np.outer(y, mean) + rng.normal(size=(DRAWS, DIM)) @ np.asarray(root).T
    found = theory.mixture_errors(weight, bias, mean, root @ root.T, threat)
    assert_within_5_standard_errors(found.standard, margins(weight, bias, x, y) <= 0)
    assert_within_5_standard_errors(found.robust, margins(weight, bias, x, y) <= threat.support(weight))


@every_threat
@pytest.mark.parametrize("radius", [0.2, 0.6])
def test_no_classifier_beats_the_optimum_of_a_mixture(name, radius, float64):
    mean, threat, sigma = jnp.asarray(np.random.default_rng(4).normal(size=DIM)), THREATS[name](radius, DIM), 0.8
    best = theory.mixture_optimum(mean, threat)

    def robust(w):
        return theory.mixture_errors(w, jnp.zeros(()), mean, sigma**2 * jnp.eye(DIM), threat).robust

    np.testing.assert_allclose(robust(best), scipy.stats.norm.cdf(-jnp.linalg.norm(best) / sigma), rtol=1e-12)
    others = jr.normal(jr.key(0), (5000, DIM))
    others = jnp.concatenate([others, best[None] + 0.1 * others])
    assert robust(best) <= jax.vmap(robust)(others).min()


def test_the_optima_of_balls_are_shrunk_means(float64):
    mean = jnp.array([3.0, -1.0, 0.2])
    np.testing.assert_allclose(theory.mixture_optimum(mean, threats.LInf(0.5)), [2.5, -0.5, 0])
    shrunk = theory.mixture_optimum(mean, threats.L2(0.5))
    np.testing.assert_allclose(shrunk, mean * (1 - 0.5 / jnp.linalg.norm(mean)), rtol=1e-12)
    np.testing.assert_array_equal(theory.mixture_optimum(mean, threats.L2(4.0)), 0)


def test_a_classifier_without_noise_is_right_or_wrong(float64):
    task = LinearlySeparable(DIM, 2.0)
    signal, none = task.direction, jnp.asarray(0.0)
    np.testing.assert_array_equal(theory.separable_errors(signal, none, task, threats.L2(1.9)), [0, 0])
    np.testing.assert_array_equal(theory.separable_errors(signal, none, task, threats.L2(2.0)), [0, 1])
    np.testing.assert_array_equal(theory.separable_errors(0 * signal, none, task, threats.L2(1.0)), [1, 1])
    one_sided = theory.separable_errors(0 * signal, jnp.asarray(1.0), task, threats.L2(1.0))
    np.testing.assert_array_equal(one_sided, [0.5, 0.5])


def test_a_folded_task_is_refused():
    folded = LinearlySeparable(10).folded_to(jnp.zeros((1, 5)).at[0, 0].set(1))
    with pytest.raises(ValueError, match="folded"):
        theory.separable_errors(jnp.ones(5), jnp.zeros(()), folded, threats.L2(1.0))


# ---- Gaussian features ----


@functools.cache
def feature_draws():
    """A million inputs."""
    return np.asarray(jr.normal(jr.key(0), (DRAWS, DIM)))


@every_threat
def test_errors_on_gaussian_features(name, float64):
    weight, truth, threat = weights(3)[0], jnp.asarray(frame(DIM)[0]), THREATS[name](0.3, DIM)
    x = feature_draws()
    y = np.sign(x @ np.asarray(truth))
    found = theory.feature_errors(weight, truth, threat)
    assert_within_5_standard_errors(found.standard, margins(weight, 0, x, y) <= 0)
    assert_within_5_standard_errors(found.robust, margins(weight, 0, x, y) <= threat.support(weight))


def published_feature_error(cosine, v):
    """Donhauser et al. (2021), lemma A.1, by adaptive quadrature."""
    inner = cosine / np.sqrt(2 * (1 - cosine**2))
    integral, _ = scipy.integrate.quad(lambda x: scipy.stats.norm.pdf(x) * scipy.special.erf(x * inner), 0, v)
    return np.arccos(cosine) / np.pi + scipy.special.erf(v / 2**0.5) / 2 + integral


@pytest.mark.parametrize("cosine", [-0.5, 0.1, 0.7, 0.99])
@pytest.mark.parametrize("v", [0.0, 0.2, 1.5, 4.0])
def test_the_published_form_of_the_feature_error(cosine, v, float64):
    weight = jnp.array([cosine, (1 - cosine**2) ** 0.5, 0])
    found = theory.feature_errors(3 * weight, jnp.array([2.0, 0, 0]), threats.L2(v))
    owen = scipy.special.ndtr(v) - 2 * scipy.special.owens_t(v, cosine / (1 - cosine**2) ** 0.5)
    np.testing.assert_allclose(found.robust, owen, rtol=1e-12)
    np.testing.assert_allclose(found.robust, published_feature_error(cosine, v), rtol=1e-9)


# ---- signal-directed sets ----


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 1.6])
def test_errors_of_one_neuron(epsilon, float64):
    task = LinearlySeparable(DIM, 1.2, 0.8)
    theta, a, b = jnp.array([0.8, 0.3, -0.5, 0.2, 0.7, -0.1]), jnp.asarray(1.5), jnp.asarray(-0.6)
    network = networks.one_neuron(theta, a, b)
    x, y = task.sample(jr.key(0), DRAWS)

    def worst(radius):
        # One neuron is monotone along the signal, so the worst point is an end of the segment.
        moves = [side * radius * task.direction for side in (1, -1)]
        ends = [jax.vmap(lambda one, move=move: network.outputs(one + move))(x)[:, 0] for move in moves]
        return np.minimum(*(np.asarray(y) * np.asarray(end) for end in ends))

    found = theory.one_neuron_errors(theta[0], jnp.linalg.norm(theta[1:]), a, b, task, jnp.asarray(epsilon))
    assert_within_5_standard_errors(found.standard, worst(0.0) <= 0)
    assert_within_5_standard_errors(found.robust, worst(epsilon) <= 0)


@pytest.mark.parametrize("epsilon", [0.0, 0.7])
def test_errors_of_one_neuron_are_where_its_margin_vanishes(epsilon, float64):
    """The noise at which the worst-case margin of the network itself is 0, found by a root finder, and its tail."""
    gamma, sigma, along, across = 1.2, 0.8, 0.8, 0.9
    a, b = 1.5, -0.6
    network = networks.one_neuron(jnp.array([along, across]), jnp.asarray(a), jnp.asarray(b))

    def worst(z, y):
        ends = [float(network.outputs(jnp.array([y * gamma + side * epsilon, z]))[0]) for side in (1, -1)]
        return min(y * end for end in ends)

    at = {y: scipy.optimize.brentq(lambda z, y=y: worst(z, y), -y * 2.0, y * 6.0, xtol=1e-13) for y in (1, -1)}
    expected = (scipy.stats.norm.cdf(at[1], scale=sigma) + scipy.stats.norm.sf(at[-1], scale=sigma)) / 2
    task = LinearlySeparable(2, gamma, sigma)
    arguments = [jnp.asarray(value) for value in (along, across, a, b)]
    found = theory.one_neuron_errors(*arguments, task, jnp.asarray(epsilon))
    np.testing.assert_allclose(found.robust, expected, rtol=1e-9)


ROUND = {
    "ball": threats.L2,
    "signal": threats.SignalDirected,
    "orthogonal": threats.Orthogonal,
    "spheroid": lambda radius: threats.Spheroid(radius, 0.6),
}
"""Threats that are round about the signal, by radius."""


def in_the_plane(gamma, noise_margin, threat):
    """The best (p, q) by search over the angles of the half-plane q >= 0."""

    def margin(angle):
        p, q = np.cos(angle), np.sin(angle)
        return gamma * p + noise_margin * q - float(threat.support(jnp.array([p, q])))

    found = scipy.optimize.minimize_scalar(lambda a: -margin(a), (0, np.pi), (0, np.pi), method="bounded")
    return np.cos(found.x), np.sin(found.x)


@pytest.mark.parametrize("trained", ROUND)
@pytest.mark.parametrize("tested", ROUND)
@pytest.mark.parametrize("radius", [0.4, 1.1])
def test_errors_of_the_maximum_margin(trained, tested, radius, float64):
    task, margin = LinearlySeparable(DIM, 2.0, 0.8), jnp.asarray(1.4)
    learnt, faced = ROUND[trained](radius), ROUND[tested](0.7)
    p, q = in_the_plane(2.0, 1.4, learnt.with_axes(jnp.eye(2)[:1]))
    weight = p * task.direction + q * jnp.array([0, 0.6, 0, 0.8, 0, 0])
    expected = theory.separable_errors(weight, jnp.asarray(0.0), task, faced.with_axes(task.axes()))
    found = theory.maximum_margin_errors(margin, task, learnt, faced)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("trained", "tested"), [(0.0, 0.5), (0.6, 0.9), (1.1, 1.1), (3.0, 1.0)])
def test_errors_of_signal_directed_training_as_published(trained, tested, float64):
    """Phi(-(gamma - tested) (gamma - min(trained, gamma)) / (sigma gamma~)); a half where the signal is given up."""
    task, margin = LinearlySeparable(DIM, 2.0, 0.8), jnp.asarray(1.4)
    found = theory.maximum_margin_errors(margin, task, threats.SignalDirected(trained), threats.SignalDirected(tested))
    kept = 2.0 - min(trained, 2.0)
    expected = [scipy.stats.norm.cdf(-(2.0 - radius) * kept / (0.8 * 1.4)) for radius in (0, tested)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


REGIMES = (
    ("signal", 1.4, 1.9, theory.Regime.BOTH),
    ("signal", 1.4, 2.0, theory.Regime.NOISE),
    ("signal", 1.4, 5.0, theory.Regime.NOISE),
    ("signal", 0.0, 1.9, theory.Regime.SIGNAL),
    ("signal", 0.0, 2.0, theory.Regime.NEITHER),
    ("orthogonal", 1.4, 1.5, theory.Regime.SIGNAL),
    ("ball", 1.4, 2.4, theory.Regime.BOTH),
    ("ball", 1.4, 2.5, theory.Regime.NEITHER),
)


@pytest.mark.parametrize(("kind", "noise_margin", "radius", "expected"), REGIMES)
def test_regimes_are_named(kind, noise_margin, radius, expected, float64):
    """gamma = 2, and |(2, 1.4)| = 2.44."""
    task = LinearlySeparable(DIM, 2.0, 0.8)
    optimum = theory.plane_optimum(jnp.asarray(noise_margin), task, ROUND[kind](radius))
    assert theory.regime(optimum) == expected


def test_a_margin_that_is_not_known_predicts_nothing():
    task, unknown = LinearlySeparable(DIM, 2.0, 0.8), jnp.asarray(jnp.nan)
    for kind in ROUND.values():
        assert np.isnan(theory.maximum_margin_errors(unknown, task, kind(0.5), kind(0.5))).all()


def test_noise_without_a_margin_leaves_the_signal(float64):
    task = LinearlySeparable(DIM, 2.0, 0.8)
    for kind in ROUND.values():
        found = theory.maximum_margin_errors(jnp.asarray(0.0), task, kind(1.9), kind(1.9))
        np.testing.assert_array_equal(found, [0, 0])
    nothing = theory.maximum_margin_errors(jnp.asarray(0.0), task, threats.L2(2.1), threats.L2(1.0))
    np.testing.assert_array_equal(nothing, [1, 1])


def test_no_other_direction_has_a_larger_worst_case_margin(float64):
    """The classifier of signal-directed training, among unit vectors of the plane its derivation leaves."""
    gamma, noise_margin = 2.0, 1.4
    angle = np.linspace(-np.pi, np.pi, 100_001)
    for epsilon in (0.0, 0.9, 1.8, 2.5):
        along, across = np.cos(angle), np.sin(angle)
        # |w~| >= 0: a negative multiple of the best noise direction has minus its margin at best.
        worst = along * gamma - epsilon * np.abs(along) + across * noise_margin
        best = angle[np.argmax(worst)]
        expected = np.arctan2(noise_margin, max(gamma - epsilon, 0))
        assert abs(best - expected) < 1e-4


@pytest.mark.parametrize("ratio", [0.5001, 0.6, 1.0, 4.0, 19.98, 1e4])
def test_the_limit_of_the_noise_margin_solves_its_equation(ratio, float64):
    found = theory.noise_margin(jnp.asarray(ratio))
    kappa = float(found.margin)
    moment, _ = scipy.integrate.quad(lambda z: (kappa + z) ** 2 * scipy.stats.norm.pdf(z), max(-kappa, -40), 40)
    np.testing.assert_allclose(moment, ratio, rtol=1e-8)
    assert found.separable
    assert abs(found.residual) < 1e-12


def test_noise_that_is_not_separable_has_no_margin():
    found = jax.vmap(theory.noise_margin)(jnp.array([0.1, 0.5]))
    np.testing.assert_array_equal(found.margin, 0)
    assert not found.separable.any()
