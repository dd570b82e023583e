r"""Proportional limits of robust maximum-margin classification: what n, d -> infinity with d/n fixed leave of it.

Each limit is a few scalars that solve a fixed-point system (a convex Gaussian min-max problem), found by a root finder
and returned with how far the equations are from holding; where they cannot be solved the numbers are nan.  These are
functions of Python numbers, not of arrays: a grid is a loop, a point takes milliseconds.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.optimize
from scipy.special import bdtr, expit, ndtr, owens_t

_TOLERANCE = 1e-9
"""Residual of the equations, relative to their terms, below which they count as solved."""


class FeatureLimit(NamedTuple):
    """A classifier w of noiseless Gaussian features; the maximum-margin one is scaled to the robust margin 1."""

    across: float
    """|w - <w, s> s|, s the unit truth."""
    along: float
    """<w, s>."""
    spread: float
    """|w - <w, s> s|_1 / sqrt(d)."""
    residual: float
    """The largest relative residual of the stationarity conditions."""

    @property
    def solved(self) -> bool:
        """Whether the conditions hold; if not, the numbers are nan."""
        return bool(self.residual < _TOLERANCE)

    @property
    def cosine(self) -> float:
        """Of w with s."""
        return self.along / math.hypot(self.along, self.across)

    def errors(self, budget: float) -> tuple[float, float]:
        """Standard error, and robust error under consistent l_inf perturbations of radius budget / sqrt(d).

        As in `feature_errors`, with the tangent along / across and v = budget spread / |w|.
        """
        v = budget * self.spread / math.hypot(self.along, self.across)
        robust = ndtr(v) - 2 * owens_t(v, self.along / self.across)
        return math.atan2(self.across, self.along) / math.pi, float(robust)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_REACH = 12.0
"""Standard deviations of a Gaussian beyond which its density is below rounding."""


def _half_normal(values) -> float:
    """E[f(|Z|)] for Z ~ N(0, 1), of values at `_HALF`."""
    return float(_HALF_WEIGHTS @ values)


_HALF = (_NODES + 1) * _REACH / 2
_HALF_WEIGHTS = _WEIGHTS * _REACH / 2 * np.sqrt(2 / np.pi) * np.exp(-(_HALF**2) / 2)


class _Moments(NamedTuple):
    """E[(1 + budget spread - |Z1| along + Z2 across)_+^2] and its derivatives."""

    value: float
    by_along: float
    by_across: float
    by_spread: float


def _hinge(across: float, along: float, spread: float, budget: float) -> _Moments:
    """By the Gaussian moments of Z2 given Z1: E[(c + s Z)_+] = c Phi(c/s) + s phi(c/s), E[(c + s Z)_+^2] besides."""
    centre = 1 + budget * spread - _HALF * along
    ratio = centre / across
    below, density = ndtr(ratio), np.exp(-(ratio**2) / 2) / np.sqrt(2 * np.pi)
    first = centre * below + across * density
    return _Moments(
        _half_normal(centre * first + across**2 * below),
        _half_normal(-2 * _HALF * first),
        _half_normal(2 * across * below),
        _half_normal(2 * budget * first),
    )


def feature_limit(ratio: float, budget: float) -> FeatureLimit:
    r"""Limit of the robust maximum-margin classifier on x ~ N(0, I_d), y = sign(<s, x>), d/n -> `ratio`.

    Perturbations are consistent l_inf ones of radius budget / sqrt(d), which leave <s, x> alone.  With P the projection
    across s, the limits a = |P w|, b = <w, s>, c = |P w|_1 / sqrt(d) are those of the stationary point of

        b^2 - kappa a^2 - zeta c + r sqrt(T) - S / (4 (1 + kappa)),
        T = E[(1 + budget c - |Z1| b + Z2 a)_+^2],  S = E[(m |Z| - zeta)_+^2],  m = r sqrt(ratio),

    in all six: by Gordon's comparison the points act through Z1 and Z2 of each, and coordinate j of P w is the soft
    threshold of m Z_j at zeta, over 2 (1 + kappa) sqrt(d).  Where the conditions for b, a and c hold, they give r,
    kappa and zeta; a root finder solves the other three.
    Raises `ValueError` unless ratio > 0 and budget >= 0.
    **Source:** Donhauser et al. (2021), arXiv 2108.02883, whose stored tables do not solve these equations.
    """
    if not (ratio > 0 and budget >= 0):
        raise ValueError(f"ratio is {ratio} and budget is {budget}: give ratio > 0 and budget >= 0")
    least = math.inf
    for along in _STARTS:
        found = scipy.optimize.root(_conditions, np.log([1.0, along, 0.7]), (ratio, budget), tol=1e-13)
        residual = float(np.max(np.abs(found.fun)))
        if residual < _TOLERANCE:
            across, parallel, spread = map(float, np.exp(found.x))
            return FeatureLimit(across, parallel, spread, residual)
        least = min(least, residual)
    return FeatureLimit(math.nan, math.nan, math.nan, least)


_STARTS = (1.0, 3.0, 0.3, 10.0, 0.1)
"""Of <w, s>, where |P w| is of the order of 1."""


def _conditions(logs, ratio: float, budget: float):
    """How far the conditions for zeta, r and kappa are from holding, relative to their terms."""
    a, b, c = np.exp(np.clip(logs, -20, 20))
    moments = _hinge(a, b, c, budget)
    root = math.sqrt(moments.value)
    r = -4 * b * root / moments.by_along
    kappa = r * moments.by_across / (4 * a * root)
    zeta = r * moments.by_spread / (2 * root)
    m = r * math.sqrt(ratio)
    first, second, tail = _soft_moments(m, zeta)
    share = 2 * (1 + kappa)
    return np.array(
        [first / (share * c) - 1, 2 * math.sqrt(ratio) * m * tail / (share * root) - 1, second / (share * a) ** 2 - 1]
    )


def ridge_limit(ratio: float, budget: float, penalty: float) -> FeatureLimit:
    r"""Limit of robust ridge logistic regression where `feature_limit` has the maximum margin.

    The minimiser of mean log(1 + exp(-m_i(w))) + penalty |w|^2, m_i its worst-case margins.  With the same a, b, c,
    T = |Z1| b + Z2 a - budget c, p the proximal point of the logistic loss at T with parameter t and
    g = sigmoid(-p) minus its slope there,

        E[g |Z1|] = 2 penalty b,      2 penalty a - E[g Z2] = sqrt(S),      c = a S' / sqrt(S),
        t = 2 a ratio P(m Z > mu) / sqrt(S),

    where r^2 = E[g^2], mu = budget E[g], m = r sqrt(ratio), S = E[(m |Z| - mu)_+^2] and S' = E[(m |Z| - mu)_+]: the
    stationary point of Gordon's comparison, coordinate j of P w being a/sqrt(S d) times the soft threshold of m Z_j
    at mu.  Followed from a large penalty, where g = 1/2 gives all four, down to the one asked for.
    Raises `ValueError` unless ratio > 0, budget >= 0 and penalty > 0.
    **Source:** the saddle function of Donhauser et al. (2021), arXiv 2108.02883; its conditions are derived here.
    """
    if not (ratio > 0 and budget >= 0 and penalty > 0):
        raise ValueError(
            f"ratio is {ratio}, budget is {budget} and penalty is {penalty}: give ratio > 0, budget >= 0, penalty > 0"
        )
    strong = max(penalty, 1.0)
    place = _strongly_regularised(ratio, budget, strong)
    steps = math.ceil(math.log(strong / penalty, 4)) + 1
    for level in np.geomspace(strong, penalty, steps):
        found = scipy.optimize.root(_ridge_conditions, np.log(place), (ratio, budget, level), tol=1e-13)
        residual = float(np.max(np.abs(found.fun)))
        if not residual < _TOLERANCE:
            return FeatureLimit(math.nan, math.nan, math.nan, residual)
        place = np.exp(found.x)
    across, along, spread, _ = map(float, place)
    return FeatureLimit(across, along, spread, residual)


def _strongly_regularised(ratio: float, budget: float, penalty: float) -> np.ndarray:
    """a, b, c and t to first order in 1/penalty."""
    first, second, tail = _soft_moments(math.sqrt(ratio) / 2, budget / 2)
    root = math.sqrt(second)
    return np.array([root, math.sqrt(1 / (2 * math.pi)), first, ratio * 2 * tail]) / (2 * penalty)


def _soft_moments(m: float, level: float) -> tuple[float, float, float]:
    """E[(m |Z| - level)_+], E[(m |Z| - level)_+^2] and P(m Z > level)."""
    tail, density = ndtr(-level / m), math.exp(-((level / m) ** 2) / 2) / math.sqrt(2 * math.pi)
    return 2 * (m * density - level * tail), 2 * ((m**2 + level**2) * tail - m * level * density), tail


def _ridge_conditions(logs, ratio: float, budget: float, penalty: float):
    """How far the four conditions are from holding, relative to their terms."""
    a, b, c, t = np.exp(np.clip(logs, -30, 30))
    pull = _pull(_HALF_GRID * b + _GRID * a - budget * c, t)
    mean, square = (float(_GRID_WEIGHTS @ pull**power) for power in (1, 2))
    along, across = (float(_GRID_WEIGHTS @ (pull * z)) for z in (_HALF_GRID, _GRID))
    first, second, tail = _soft_moments(math.sqrt(ratio * square), budget * mean)
    root = math.sqrt(second)
    return np.array(
        [
            2 * penalty * b / along - 1,
            (2 * penalty * a - across) / root - 1,
            a * first / (c * root) - 1,
            2 * a * ratio * tail / (t * root) - 1,
        ]
    )


def _pull(place: np.ndarray, t: float) -> np.ndarray:
    """sigmoid(-p) at the proximal point p = place + t sigmoid(-p): Newton's steps kept in [place, place + t]."""
    low, high = place, place + t
    p = place + t * expit(-place) / (1 + t / 4)
    for _ in range(_PROXIMAL_STEPS):
        g = expit(-p)
        excess = p - place - t * g
        low, high = np.where(excess < 0, p, low), np.where(excess > 0, p, high)
        newton = p - excess / (1 + t * g * (1 - g))
        p = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return expit(-p)


_PROXIMAL_STEPS = 30


def _product_rule(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places |Z1|, Z2 and weights of a rule for E[f(|Z1|, Z2)]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    half, whole = (nodes + 1) * _REACH / 2, nodes * _REACH
    half_weights = weights * _REACH / 2 * np.sqrt(2 / np.pi) * np.exp(-(half**2) / 2)
    whole_weights = weights * _REACH / np.sqrt(2 * np.pi) * np.exp(-(whole**2) / 2)
    return np.repeat(half, count), np.tile(whole, count), np.outer(half_weights, whole_weights).ravel()


_HALF_GRID, _GRID, _GRID_WEIGHTS = _product_rule(100)


class MixtureLimit(NamedTuple):
    """The maximum-margin classifier of a Gaussian mixture, in units of the noise's standard deviation."""

    margin: float
    """Negative where the points are not separable: then it is no limit of a classifier."""
    cosine: float
    """With the mean of the class."""
    residual: float

    @property
    def solved(self) -> bool:
        """Whether the equations hold and the points are separable."""
        return bool(self.residual < _TOLERANCE and self.margin > 0)

    def errors(self, strength: float, radius: float) -> tuple[float, float]:
        """Standard error, and robust error under an l2 ball: Phi(-cosine strength), Phi(radius - cosine strength)."""
        return float(ndtr(-self.cosine * strength)), float(ndtr(radius - self.cosine * strength))


def mixture_limit(ratio: float, strength: float) -> MixtureLimit:
    r"""Limit of the maximum margin, and of l2 adversarial training, on x = y mu + N(0, I_d) as d/n -> `ratio`.

    A ball |delta|_2 <= eps lowers every margin of a unit vector by eps, so the direction is that of the maximum margin
    for every eps below it.  With `strength` = |mu|, rho the cosine and t = kappa - rho |mu|, a margin kappa is reached
    with cosine rho exactly where E[(t + Z)_+^2] <= ratio (1 - rho^2) (Gordon).  The largest kappa has

        rho = |mu| E[(t + Z)_+] / ratio,    E[(t + Z)_+^2] / ratio + rho^2 = 1,

    whose left side increases with t.  Raises `ValueError` unless ratio > 0 and strength >= 0.
    **Source:** derived here; with mu = 0 it is `noise_margin`.
    """
    if not (ratio > 0 and strength >= 0):
        raise ValueError(f"ratio is {ratio} and strength is {strength}: give ratio > 0 and strength >= 0")

    def excess(t: float) -> tuple[float, float]:
        first = t * ndtr(t) + math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
        cosine = strength * first / ratio
        return ((t**2 + 1) * ndtr(t) + t * (first - t * ndtr(t))) / ratio + cosine**2 - 1, cosine

    # E[(t + Z)_+^2] is at least t^2 for t >= 0, and vanishes for t -> -infinity.
    t = scipy.optimize.brentq(lambda t: excess(t)[0], -40.0, math.sqrt(ratio) + 1, xtol=1e-15)
    residual, cosine = excess(t)
    return MixtureLimit(float(cosine * strength + t), float(cosine), abs(float(residual)))


def separability(n: int, dim: int) -> float:
    r"""The probability that n points of N(0, I) in `dim` dimensions with fair random labels are linearly separable.

    2^(1-n) sum over k < dim of binom(n - 1, k), for hyperplanes through the origin: exact, not a limit.
    **Source:** Cover (1965), "Geometrical and statistical properties of systems of linear inequalities".
    """
    return float(bdtr(min(dim, n) - 1, n - 1, 0.5))
