r"""Proportional limits of robust maximum-margin classification: what n, d -> infinity with d/n fixed leave of it.

Each limit is a few scalars that solve a fixed-point system (a convex Gaussian min-max problem), found by a root finder
and returned with how far the equations are from holding; where they cannot be solved the numbers are nan.  These are
functions of Python numbers, not of arrays: a grid is a loop, a point takes milliseconds.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.optimize
from scipy.special import ndtr, owens_t

_TOLERANCE = 1e-9
"""Residual of the equations, relative to their terms, below which they count as solved."""


class FeatureLimit(NamedTuple):
    """The robust maximum-margin classifier on noiseless Gaussian features, scaled to the robust margin 1."""

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
    tail, density = ndtr(-zeta / m), math.exp(-((zeta / m) ** 2) / 2) / math.sqrt(2 * math.pi)
    first = 2 * (m * density - zeta * tail)
    second = 2 * ((m**2 + zeta**2) * tail - m * zeta * density)
    share = 2 * (1 + kappa)
    return np.array(
        [first / (share * c) - 1, 2 * math.sqrt(ratio) * m * tail / (share * root) - 1, second / (share * a) ** 2 - 1]
    )


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
