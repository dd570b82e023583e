"""Proportional limits: the equations by other quadratures, published solutions, and solved samples."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats

from simulator import theory, threats

density = scipy.stats.norm.pdf
max_margin = jax.jit(theory.max_margin)

# d/n, radius at n = 1000, then |w - <w, s> s|, <w, s>, |w - <w, s> s|_1 at d = 1000 d/n, standard and robust error.
SOLVED = (
    (1.5, 0.05, 1.0840, 2.8818, 19.45, 0.1145, 0.2774),
    (2, 0.05, 1.0453, 2.4611, 20.48, 0.1278, 0.3267),
    (4, 0.05, 0.9533, 1.7021, 22.96, 0.1625, 0.4675),
    (6, 0.05, 0.9007, 1.3736, 24.49, 0.1847, 0.5637),
    (7, 0.05, 0.8809, 1.2647, 25.10, 0.1937, 0.6026),
    (8, 0.05, 0.8637, 1.1762, 25.65, 0.2016, 0.6371),
    (2, 0.02, 0.9195, 0.9516, 25.68, 0.2445, 0.4191),
    (4, 0.02, 0.7268, 0.5225, 27.49, 0.3016, 0.5708),
    (8, 0.02, 0.5560, 0.2806, 28.85, 0.3512, 0.7292),
)
"""The system of Donhauser et al. (2021) solved elsewhere, with another quadrature."""


@pytest.mark.parametrize("row", SOLVED)
def test_the_system_of_donhauser_is_solved(row):
    """Errors to 3 digits; norms to 0.2 %, by which the other quadrature scales all three of them."""
    ratio, radius, *norms, standard, robust = row
    dim = 1000 * ratio
    found = theory.feature_limit(ratio, radius * dim**0.5)
    assert found.solved
    np.testing.assert_allclose(found.errors(radius * dim**0.5), [standard, robust], atol=5e-4)
    np.testing.assert_allclose([found.across, found.along, found.spread * dim**0.5], norms, rtol=2e-3)


def objective(a, b, c, r, zeta, kappa, ratio, budget):
    """The saddle function by adaptive quadrature over both Gaussians."""
    moment, _ = scipy.integrate.dblquad(
        lambda z2, z1: max(1 + budget * c - abs(z1) * b + a * z2, 0) ** 2 * density(z1) * density(z2), 0, 9, -9, 9
    )
    m = r * ratio**0.5
    # From where the soft threshold begins: its square is smooth there.
    soft, _ = scipy.integrate.quad(lambda z: 2 * (m * z - zeta) ** 2 * density(z), zeta / m, zeta / m + 12)
    return b**2 - kappa * a**2 - zeta * c + r * (2 * moment) ** 0.5 - soft / (4 * (1 + kappa))


@pytest.mark.slow
def test_the_solution_is_a_saddle_of_the_function_it_comes_from():
    """Its six partial derivatives vanish, those of the multipliers at the values the conditions give them."""
    ratio, budget = 2.0, 0.9
    a, b, c, residual = theory.feature_limit(ratio, budget)
    assert residual < 1e-9
    start = _multipliers(a, b, c, ratio, budget)
    place, step = np.array([a, b, c, *start]), 1e-3
    for axis in range(6):
        move = step * np.eye(6)[axis]
        slope = objective(*(place + move), ratio, budget) - objective(*(place - move), ratio, budget)
        assert abs(slope / (2 * step)) < 1e-5


def _multipliers(a, b, c, ratio, budget):
    """r from the condition for b, then zeta and kappa from those for zeta and kappa: other ones than the code uses."""

    def hinge(power, weight):
        return scipy.integrate.dblquad(
            lambda z2, z1: (
                2 * weight(z1) * max(1 + budget * c - z1 * b + a * z2, 0) ** power * density(z1) * density(z2)
            ),
            *(0, 9, -9, 9),
        )[0]

    def soft(power, level):
        return scipy.integrate.quad(lambda z: 2 * (z - level) ** power * density(z), level, level + 12)[0]

    r = 2 * b * hinge(2, lambda z: 1) ** 0.5 / hinge(1, lambda z: z)
    level = scipy.optimize.brentq(lambda level: soft(2, level) - (a / c * soft(1, level)) ** 2, 0, 5, xtol=1e-14)
    m = r * ratio**0.5
    return r, level * m, m * soft(1, level) / (2 * c) - 1


SIZES, TRIALS = (60, 120), (160, 80)
"""Training examples of the samples that are solved, the second twice the first, and how many of each."""


def assert_extrapolates_to(solve, expected):
    """Values of `solve(key, n)` [k] at n and 2 n, extrapolated to their limit: within 5 standard errors of it.

    A bias of order 1/n cancels in 2 m(2n) - m(n); what is left is of the order of its square, far below the errors.
    """
    values = [
        np.array([np.asarray(solve(jr.fold_in(jr.key(n), trial), n)) for trial in range(trials)])
        for n, trials in zip(SIZES, TRIALS, strict=True)
    ]
    (few, few_square), (many, many_square) = ((one.mean(0), one.var(0, ddof=1) / len(one)) for one in values)
    error = np.sqrt(few_square + 4 * many_square)
    assert (abs(2 * many - few - np.asarray(expected)) < 5 * error).all()
    # The test says something: its errors are small against what is predicted.
    assert (error < 0.07 * np.abs(expected)).all()


def of_features(solve, ratio, budget):
    """Errors and norms of what `solve(points, threat)` finds on noiseless Gaussian features."""

    def sample(key, n):
        dim = int(ratio * n)
        threat, truth = threats.ConsistentLInf(budget / dim**0.5), jnp.zeros(dim).at[0].set(1)
        x = jr.normal(key, (n, dim))
        found = solve(x * jnp.sign(x[:, :1]), threat)
        across = found.weight[1:]
        sizes = [jnp.linalg.norm(across), found.weight[0], jnp.sum(jnp.abs(across)) / dim**0.5]
        return [*theory.feature_errors(found.weight, truth, threat), *sizes], found.value

    return sample


@pytest.mark.slow
def test_solved_samples_come_to_the_feature_limit(float64):
    ratio, budget = 2.0, 0.05 * 2000**0.5
    sample, limit = of_features(max_margin, ratio, budget), theory.feature_limit(ratio, budget)

    def solve(key, n):
        (standard, robust, *sizes), margin = sample(key, n)
        # The solver's weight has norm 1, the limit's the robust margin 1.
        return [standard, robust, *(size / margin for size in sizes)]

    assert_extrapolates_to(solve, [*limit.errors(budget), *limit[:3]])


@pytest.mark.parametrize(
    ("n", "dim", "strength", "margin", "cosine"), [(200, 400, 2.0, 1.885, 0.695), (200, 800, 1.0, 1.943, 0.394)]
)
@pytest.mark.slow
def test_solved_samples_come_to_the_mixture_limit(n, dim, strength, margin, cosine, float64):
    strength = float(strength)
    found = theory.mixture_limit(dim / n, strength)
    assert found.solved
    np.testing.assert_allclose([found.margin, found.cosine], [margin, cosine], atol=6e-4)
    assert_extrapolates_to(lambda key, n: sample(key, n, int(dim / 200 * n), strength), found[:2])


def sample(key, n, dim, strength):
    z = jr.normal(key, (n, dim)).at[:, 0].add(strength)
    inside, _, axes = theory.in_span(z, threats.L2(0.0), jnp.zeros((1, dim)).at[0, 0].set(1))
    solved = max_margin(inside, threats.L2(0.0))
    return float(solved.value), float(axes[0] @ solved.weight)


@pytest.mark.parametrize("ratio", [0.6, 2.0, 20.0])
def test_a_mixture_without_a_signal_is_noise(ratio, float64):
    found = theory.mixture_limit(ratio, 0.0)
    np.testing.assert_allclose(found.margin, theory.noise_margin(jnp.asarray(ratio)).margin, rtol=1e-10)
    assert found.cosine == 0
    np.testing.assert_allclose(found.errors(0.0, 0.7), [0.5, scipy.stats.norm.cdf(0.7)], rtol=1e-12)


def test_what_is_not_separable_is_not_solved():
    assert not theory.mixture_limit(0.3, 0.1).solved


@pytest.mark.parametrize("ask", [lambda: theory.feature_limit(0.0, 1.0), lambda: theory.mixture_limit(1.0, -1.0)])
def test_impossible_limits_are_refused(ask):
    with pytest.raises(ValueError, match="give ratio > 0"):
        ask()


# ---- ridge ----


def ridge_objective(place, ratio, budget, penalty):
    """The saddle function over a, b, c, tau, r and mu, with the envelope by fixed-point steps."""
    a, b, c, tau, r, mu = place
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    # |Z1| on a half line of its own: a rule over the whole line would see the kink at 0.
    half, half_weights = np.polynomial.legendre.leggauss(60)
    half, half_weights = 4.5 * (half + 1), 4.5 * half_weights * 2 * density(4.5 * (half + 1))
    z1, z2 = np.meshgrid(half, nodes)
    at, t = z1 * b + z2 * a - budget * c, tau / r
    p = at.copy()
    for _ in range(200):
        p = at + t * scipy.special.expit(-p) if t < 1 else p - (p - at - t * scipy.special.expit(-p)) / (1 + t / 4)
    envelope = np.logaddexp(0, -p) + (at - p) ** 2 / (2 * t)
    m = r * ratio**0.5
    soft = scipy.integrate.quad(lambda z: 2 * (m * z - mu) ** 2 * density(z), mu / m, mu / m + 12)[0]
    mean = weights @ envelope @ half_weights / weights.sum()
    return mean - c * mu + r * tau / 2 + penalty * (a**2 + b**2) - a * soft**0.5


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.3, 0.02])
def test_the_ridge_solution_is_a_saddle_of_the_function_it_comes_from(penalty):
    """Its six partial derivatives vanish at a, b, c and at the tau, r, mu that the scalar conditions give."""
    ratio, budget = 2.0, 1.2
    a, b, c, residual = theory.ridge_limit(ratio, budget, penalty)
    assert residual < 1e-9

    def slopes(inner):
        place, step = np.array([a, b, c, *np.exp(inner)]), 1e-4
        moves = step * np.eye(6)
        return [
            (
                ridge_objective(place + move, ratio, budget, penalty)
                - ridge_objective(place - move, ratio, budget, penalty)
            )
            / (2 * step)
            for move in moves
        ]

    # Three of the six conditions find the multipliers, the other three are then a test of a, b and c.
    inner = scipy.optimize.least_squares(lambda inner: slopes(inner)[3:], np.log([0.8, 0.4, 0.4]), xtol=1e-14).x
    np.testing.assert_allclose(slopes(inner), 0, atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [1.0, 0.05])
def test_solved_samples_come_to_the_ridge_limit(penalty, float64):
    ratio, budget = 2.0, 0.05 * 2000**0.5
    solve = jax.jit(lambda z, threat: theory.ridge_logistic(z, threat, penalty))
    sample, limit = of_features(solve, ratio, budget), theory.ridge_limit(ratio, budget, penalty)
    assert_extrapolates_to(lambda key, n: sample(key, n)[0], [*limit.errors(budget), *limit[:3]])


def test_a_weak_penalty_has_the_direction_of_the_maximum_margin():
    """Its errors approach those of the maximum margin as the penalty vanishes, and they are below it before that."""
    ratio, budget = 2.0, 0.9
    limit = theory.feature_limit(ratio, budget).errors(budget)[1]
    errors = [theory.ridge_limit(ratio, budget, penalty).errors(budget)[1] for penalty in (1e-1, 1e-3, 1e-5)]
    assert errors[0] < errors[1] < errors[2] < limit


@pytest.mark.parametrize(("n", "dim", "expected"), [(3, 3, 1.0), (8, 4, 0.5), (3, 1, 0.25), (4, 2, 0.5), (3, 2, 0.75)])
def test_separability_counts_labellings(n, dim, expected):
    """3 points on a line are separable through 0 in 2 of their 8 labellings, 4 in the plane in 8 of 16."""
    assert theory.separability(n, dim) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("penalty", [0.0, -1.0])
def test_a_ridge_without_a_penalty_is_refused(penalty):
    with pytest.raises(ValueError, match="penalty > 0"):
        theory.ridge_limit(1.0, 1.0, penalty)
