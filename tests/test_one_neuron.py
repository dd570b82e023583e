"""One neuron: population slopes against samples and other quadratures, and the regions against published thresholds."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from programs import quick_jit

from simulator import losses, networks, theory
from simulator.data import LinearlySeparable
from simulator.threats import SignalDirected

GAMMA, SIGMA = 1.5, 0.8
TASK = LinearlySeparable(4, GAMMA, SIGMA)
CASES = (
    (0.7, 0.6, 1.3, -0.4, 0.5),
    (0.7, 2.5, 1.3, -0.4, 1.2),
    (0.3, 1.0, 6.0, -1.0, 0.9),
    (1.0, 0.3, 0.2, -0.1, 1.4),
)
"""along, across, a, b, epsilon."""
DRAWS = 400_000


def array(*values):
    return [jnp.asarray(value) for value in values]


def slopes(along, across, a, b, epsilon):
    return theory.one_neuron_slopes(*array(along, across, a, b), TASK, jnp.asarray(epsilon))


REST = (0, 0.6, 0, 0.8)
"""The direction of the weights across the signal."""
LOSSES = {"adversarial": losses.exact, "coap": losses.certified("coap")}


@functools.cache
def slopes_at_examples(name):
    """(case, x, y) -> the slope of a loss by the weight along the signal, at every example."""

    def at(case, x, y):
        along, across, a, b, epsilon = case

        def loss(weight):
            network = networks.one_neuron((across * jnp.array(REST)).at[0].set(weight), a, b)
            return LOSSES[name](network, SignalDirected(epsilon, jnp.eye(4)[0]), x, y)

        return jax.grad(loss)(along)

    return jax.jit(jax.vmap(at, (None, 0, 0)))


@functools.cache
def draws():
    """Examples of the task, which has its signal along the first axis."""
    return quick_jit(lambda key: LinearlySeparable(4, GAMMA, SIGMA).sample(key, DRAWS))(jr.key(0))


@pytest.mark.parametrize("case", CASES)
def test_slopes_are_means_over_samples(case, float64):
    """Against automatic differentiation of the losses on drawn examples, to 5 standard errors."""
    along, across, *_, epsilon = case
    x, y = draws()
    predicted = slopes(*case)
    for name in LOSSES:
        found = np.asarray(slopes_at_examples(name)(array(*case), x, y))
        mean, deviation = getattr(predicted, name)
        assert abs(found.mean() - mean) < 5 * deviation / DRAWS**0.5
        # The variance of a sample variance, from the sample's own fourth moment.
        spread = np.std((found - found.mean()) ** 2) / DRAWS**0.5
        assert abs(found.var() - deviation**2) < 5 * spread
    at_x = np.asarray(x) @ np.append(along, across * np.asarray(REST)[1:])
    unstable = (np.asarray(y) > 0) & (np.abs(at_x) < epsilon * along)
    expected = float(predicted.unstable)
    assert abs(unstable.mean() - expected) < 5 * (expected * (1 - expected) / DRAWS) ** 0.5


@pytest.mark.parametrize("case", CASES)
def test_slopes_are_derivatives_of_the_objectives(case, float64):
    """The objectives by adaptive quadrature, from the definition of both margins; central differences of them."""
    along, across, a, b, epsilon = case
    deviation = SIGMA * across

    def objective(weight, bound):
        def loss(z, y):
            s = y * GAMMA * weight + z
            low, high = s - epsilon * weight, s + epsilon * weight
            if y < 0:
                margin = -(b + a * max(0, high))
            elif bound and low < 0 < high:
                margin = b + a * low * high / (high - low)
            else:
                margin = b + a * max(0, low)
            return np.logaddexp(0, -margin) * scipy.stats.norm.pdf(z, scale=deviation)

        total = 0.0
        for y in (1, -1):
            ends = [-y * GAMMA * weight + side * epsilon * weight for side in (1, -1)]
            edges = sorted({-12 * deviation, *np.clip(ends, -12 * deviation, 12 * deviation), 12 * deviation})
            for low, high in itertools.pairwise(edges):
                total += scipy.integrate.quad(loss, low, high, (y,), epsabs=1e-13, epsrel=1e-12)[0] / 2
        return total

    found, step = slopes(*case), 1e-4
    for name, bound in (("adversarial", False), ("coap", True)):
        expected = (objective(along + step, bound) - objective(along - step, bound)) / (2 * step)
        np.testing.assert_allclose(getattr(found, name).mean, expected, rtol=1e-5, atol=1e-7)


THRESHOLDS = {
    "sharp": ((0.001, 0.707), (0.2, 0.698), (0.4, 0.671), (0.6, 0.616), (0.7, 0.571), (0.8, 0.504), (0.9, 0.39)),
    "proof": ((0.65, 2.51), (0.7, 1.81), (0.8, 1.31), (0.9, 1.06), (0.95, 0.97)),
}
"""(eps / gamma, the smallest sigma r / gamma of the region), found elsewhere to so many digits."""


@pytest.mark.parametrize(
    ("region", "epsilon", "threshold"), [(name, *pair) for name, pairs in THRESHOLDS.items() for pair in pairs]
)
def test_regions_begin_at_their_thresholds(region, epsilon, threshold, float64):
    def inside(spread):
        return bool(getattr(theory.one_neuron_regions(*array(epsilon, spread, 6.0, 1.0)), region))

    assert not inside(threshold - 0.006)
    assert inside(threshold + 0.006)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 0.9])
def test_the_sharp_region_is_the_sign_of_the_difference_for_a_flat_neuron(epsilon, float64):
    """As a -> 0 the sigmoid is a half everywhere, and the two slopes cross where the region begins."""
    along = 1 / GAMMA

    def difference(spread):
        found = slopes(along, spread * GAMMA * along / SIGMA, 1e-7, -1e-8, epsilon * GAMMA)
        return float((found.coap.mean - found.adversarial.mean) / 1e-7)

    crossing = scipy.optimize.brentq(difference, 0.3, 1.0, xtol=1e-10)
    for spread, wanted in ((crossing - 1e-5, False), (crossing + 1e-5, True)):
        assert bool(theory.one_neuron_regions(*array(epsilon, spread, GAMMA, SIGMA)).sharp) == wanted


@pytest.mark.parametrize(
    ("epsilon", "ratio", "covered"), [(0.7, 73, True), (0.7, 71, False), (0.6, 100, False), (0.67, 73, True)]
)
def test_the_theorem_as_it_is_stated(epsilon, ratio, covered, float64):
    """|rest| / along > sqrt(24 gamma^3 / sigma^2) = 72 at gamma = 6 and sigma = 1, and eps > 2 gamma / 3."""
    found = theory.one_neuron_regions(*array(epsilon, ratio / 6, 6.0, 1.0))
    assert bool(found.theorem) == covered
    # What the theorem covers its proof covers, and so does the sharp argument.
    assert bool(found.sharp)
    assert bool(found.proof) or not covered


def test_a_step_of_coap_loses_signal_where_the_theorem_says_so(float64):
    """In the region of the theorem, from the same weights, R after COAP's step is the larger one."""
    task, along, across, epsilon = LinearlySeparable(4, 6.0, 1.0), 0.1, 8.0, jnp.asarray(4.5)
    a, b = array(1.0, -0.3)
    assert theory.one_neuron_regions(*array(0.75, across / along / 6, 6.0, 1.0)).theorem
    found = theory.one_neuron_slopes(*array(along, across), a, b, task, epsilon)
    risks = [
        theory.one_neuron_errors(along - 0.01 * slope.mean, jnp.asarray(across), a, b, task, epsilon).robust
        for slope in (found.coap, found.adversarial)
    ]
    assert risks[0] > risks[1]
