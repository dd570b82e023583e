"""Closed forms: what the simulations should find, derived without simulating.

Everything is a pure function of arrays, so that `vmap` puts a whole grid of predictions under a curve.  An error is the
probability that the margin is not positive; a margin of exactly 0 is an error, as it is in `metrics`.
"""

import enum
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float, Int

from simulator.data import LinearlySeparable
from simulator.threats import Threat


class Errors(NamedTuple):
    """Probabilities of a wrong prediction at a fresh example."""

    standard: Float[Array, ""]
    robust: Float[Array, ""]
    """Of a wrong prediction at the worst member of the threat."""


def _not_positive(mean: Float[Array, "..."], deviation: Float[Array, "..."]) -> Float[Array, "..."]:
    """P(M <= 0) of a margin M ~ N(mean, deviation^2), which may be a constant; nan if either is."""
    spread = deviation > 0
    known = jnp.where(spread, norm.cdf(-mean / jnp.where(spread, deviation, 1)), (mean <= 0).astype(mean.dtype))
    return jnp.where(jnp.isnan(mean + deviation), jnp.nan, known)


def _over_labels(centre, deviation, weight, bias, placed: Callable[[Array], Threat]) -> Errors:
    """Errors of margins N(centre + y bias, deviation^2) that the set `placed(y)` lowers by h(-y w), y = +-1."""

    def side(y):
        mean = centre + y * bias
        reach = placed(y).support(-y * weight)
        return Errors(_not_positive(mean, deviation), _not_positive(mean - reach, deviation))

    return jax.tree.map(jnp.mean, jax.vmap(side)(jnp.array([1, -1], weight.dtype)))


def mixture_errors(
    weight: Float[Array, " d"],
    bias: Float[Array, ""],
    mean: Float[Array, " d"],
    covariance: Float[Array, "d d"],
    threat: Threat,
) -> Errors:
    r"""Errors of sign(<w, x> + b) on the mixture x = y mean + N(0, covariance), y = +-1 equally likely.

    The margin y(<w, x> + b) is Gaussian with mean <w, mean> + y b and variance w^T covariance w, and the worst
    perturbation lowers it by h(-y w), whatever x is.
    """
    return _over_labels(weight @ mean, jnp.sqrt(weight @ covariance @ weight), weight, bias, lambda y: threat)


def mixture_optimum(mean: Float[Array, " d"], threat: Threat) -> Float[Array, " d"]:
    r"""The classifier with the least robust error on x = y mean + N(0, sigma^2 I), without a bias, whatever sigma is.

    The robust error of a unit vector w is Phi(-(<w, mean> - h(w)) / sigma), and <w, mean> - h(w) is at most the
    distance of the mean to the hull of a symmetric threat, attained at w = mean - P(mean) over its norm, P the
    projection onto the hull: the mean itself for an l2 ball, its soft threshold for l_inf.  So the least robust error
    is Phi(-|w| / sigma) with the w returned.  It is 0 where the mean is in the hull: no w errs on less than a half.
    Raises `ValueError` unless the threat is symmetric.

    **Source:** for l2 and l_inf Dobriban et al. (2023), "Provable tradeoffs in adversarially robust classification";
    in this form derived here.
    """
    if not threat.symmetric:
        raise ValueError(f"{type(threat).__name__} is not symmetric: the optimum here needs -B = B")
    return mean - threat.nearest(mean)


def separable_errors(
    weight: Float[Array, " d"], bias: Float[Array, ""], task: LinearlySeparable, threat: Threat
) -> Errors:
    r"""Errors of sign(<w, x> + b) on the linearly separable data.

    That is the mixture with mean gamma s and covariance sigma^2 (I - s s^T), at a cost of d instead of d^2:
    y(<w, x> + b) ~ N(gamma <w, s> + y b, sigma^2 |w - <w, s> s|^2).  A threat tied to the signal is placed along -y s.
    Raises `ValueError` if the task is folded, where w has coordinates that are no dimensions of the data.
    """
    if task.folded:
        raise ValueError("the task is folded: give the task in the coordinates of the data, and the lifted weights")
    s = task.direction
    along = weight @ s
    deviation = task.noise * jnp.linalg.norm(weight - along * s)
    return _over_labels(task.margin * along, deviation, weight, bias, lambda y: threat.at(s, -y * s))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def _wedge(height: Float[Array, ""], angle: Float[Array, ""]) -> Float[Array, ""]:
    """Owen's T(height, tan angle): the integral of exp(-height^2 / (2 cos^2 t)) over t in [0, angle], over 2 pi.

    By Gauss-Legendre on 64 points; the integrand is smooth and between 0 and 1.  (SciPy's function cannot be traced.)
    """
    t = angle * (jnp.asarray(_NODES, angle.dtype) + 1) / 2
    values = jnp.exp(-(height**2) / (2 * jnp.cos(t) ** 2))
    return angle / 2 * jnp.sum(jnp.asarray(_WEIGHTS, angle.dtype) * values) / (2 * math.pi)


def feature_errors(weight: Float[Array, " d"], truth: Float[Array, " d"], threat: Threat) -> Errors:
    r"""Errors of sign(<w, x>) on noiseless Gaussian features x ~ N(0, I), y = sign(<truth, x>).

    With c the cosine of the angle between w and the truth, U = <w, x>/|w| and T = <truth, x>/|truth| are standard
    normal with correlation c.  The robust error is P(y U <= v), v = h(w)/|w|, for a threat that keeps the label; by
    symmetry it is 2 P(T > 0, U <= v) = Phi(v) - 2 T_Owen(v, tan arcsin c), and arccos(c)/pi at v = 0.  The label is
    that of the unperturbed x, so a threat across the truth is *consistent* (it changes no label).

    **Source:** Donhauser et al. (2021), lemma A.1, which has the same risk as arccos(c)/pi + erf(v/sqrt 2)/2 + I(v, c);
    the form here was derived anew, and the tests compare the two.
    """
    size = jnp.linalg.norm(weight)
    angle = jnp.arcsin(jnp.clip(weight @ truth / (size * jnp.linalg.norm(truth)), -1, 1))
    reach = jnp.stack([threat.support(-weight), threat.support(weight)]) / size
    robust = jax.vmap(lambda v: norm.cdf(v) - 2 * _wedge(v, angle))(reach)
    return Errors((math.pi / 2 - angle) / math.pi, jnp.mean(robust))


def one_neuron_errors(
    along: Float[Array, ""],
    across: Float[Array, ""],
    a: Float[Array, ""],
    b: Float[Array, ""],
    task: LinearlySeparable,
    epsilon: Float[Array, ""],
) -> Errors:
    r"""Errors of f(x) = a ReLU(<theta, x>) + b with a > 0 > b under the signal-directed set of radius epsilon.

    f > 0 where <theta, x> > -b/a.  With theta_1 = `along` >= 0 and N = `across`, the norm of the rest, <theta, x> is
    y gamma theta_1 + sigma N Z, and the worst perturbation moves it by epsilon theta_1 towards the other side:
    R = (Phi((-(gamma - eps) theta_1 - b/a) / (sigma N)) + Phi((-(gamma - eps) theta_1 + b/a) / (sigma N))) / 2.

    **Source:** thesis, lemma 4.5.
    """
    thresholds, deviation = jnp.stack([-b / a, b / a]), task.noise * across

    def error(radius):
        return jnp.mean(jax.vmap(_not_positive, (0, None))((task.margin - radius) * along - thresholds, deviation))

    return Errors(error(jnp.zeros_like(epsilon)), error(epsilon))


def plane_optimum(noise_margin: Float[Array, ""], task: LinearlySeparable, threat: Threat) -> Float[Array, "2"]:
    r"""The robust maximum-margin classifier on the linearly separable data, as (<w, s>, |w~|), w~ the rest of w.

    The threat is round about the signal s: `L2`, `SignalDirected`, `Orthogonal` or `Spheroid` along it.  Then h depends
    on <w, s> and |w~| alone, and of all w with these two the best on the training points has the worst-case margin
    gamma <w, s> + gamma~ |w~| - h(w), gamma~ = `noise_margin` the maximum margin of the noise part alone, in units of x
    (0 where the noise is not separable).  So the classifier lies in the plane of s and the noise's own maximum-margin
    direction, and is there what `mixture_optimum` is for the mean (gamma, gamma~), that point minus its projection:

    - l2 ball: along (gamma, gamma~), whatever the radius;
    - along the signal: ((gamma - eps)_+, gamma~); beyond eps = gamma the signal is given up;
    - across it: (gamma, (gamma~ - eps)_+); the noise is given up.

    Its norm is the worst-case margin; 0 where (gamma, gamma~) is in the threat: no classifier has a positive one.

    **Source:** derived here; along the signal Clarysse et al. (2023) have the same data with r = 2 gamma.
    """
    return mixture_optimum(jnp.stack([task.margin, noise_margin]), threat.with_axes(_in_plane(task).axes()))


class Regime(enum.IntEnum):
    """What a robust maximum-margin classifier on the linearly separable data looks at."""

    BOTH = 0
    """Signal and noise: the noise is separable and the threat takes neither away (along the signal: eps < gamma)."""
    NOISE = 1
    """Noise alone: the threat takes the signal away (along it: eps >= gamma)."""
    SIGNAL = 2
    """Signal alone: the noise is not separable, or the threat takes it away; no errors on fresh examples."""
    NEITHER = 3
    """No classifier has a positive worst-case margin on the training points."""


def regime(optimum: Float[Array, "2"]) -> Int[Array, ""]:
    """The `Regime` of a `plane_optimum`."""
    signal, noise = optimum > 0
    only_one = jnp.where(noise, Regime.NOISE, jnp.where(signal, Regime.SIGNAL, Regime.NEITHER))
    return jnp.where(signal & noise, Regime.BOTH, only_one)


def maximum_margin_errors(
    noise_margin: Float[Array, ""], task: LinearlySeparable, trained: Threat, tested: Threat
) -> Errors:
    r"""Errors of `plane_optimum` for the threat `trained` under the threat `tested`, both round about the signal.

    With (p, q) the optimum a fresh example has the margin gamma p + sigma q Z, Z ~ N(0, 1):
    robust = Phi(-(gamma p - h(p, q)) / (sigma q)), standard = the same at h = 0.  Where no classifier has a positive
    margin, (p, q) = 0 errs everywhere.
    """
    plane = _in_plane(task)
    weight = plane_optimum(noise_margin, task, trained)
    return separable_errors(weight, jnp.zeros_like(noise_margin), plane, tested.with_axes(plane.axes()))


def _in_plane(task: LinearlySeparable) -> LinearlySeparable:
    return LinearlySeparable(2, task.margin, task.noise)


class NoiseMargin(NamedTuple):
    """The proportional limit of the margin of pure noise."""

    margin: Float[Array, ""]
    """kappa, in units of the noise's standard deviation; 0 where the noise is not separable."""
    separable: Bool[Array, ""]
    """Whether a direction separates the noise in the limit: ratio > 1/2."""
    residual: Float[Array, ""]
    """How far the equation is from holding, relative to the ratio; 0 where the noise is not separable."""


def noise_margin(ratio: Float[Array, ""]) -> NoiseMargin:
    r"""The maximum margin kappa of n labelled points of N(0, I_d) as n, d -> infinity with d/n -> `ratio`.

    kappa is the root of E[(kappa + Z)_+^2] = (kappa^2 + 1) Phi(kappa) + kappa phi(kappa) = ratio, whose left side
    increases from 1/2 at kappa = 0: noise is separable exactly where ratio > 1/2 (Cover, 1965; Gardner, 1988).
    Since it is at least kappa^2 for kappa >= 0, the root is at most sqrt(ratio): bisected to the last bit.
    """

    def excess(kappa):
        return (kappa**2 + 1) * norm.cdf(kappa) + kappa * norm.pdf(kappa) - ratio

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = excess(middle) < 0
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    separable = ratio > 0.5
    steps = jnp.finfo(ratio.dtype).nmant + 6
    kappa = jax.lax.fori_loop(0, steps, halve, (jnp.zeros_like(ratio), jnp.sqrt(ratio)))[0]
    kappa = jnp.where(separable, kappa, 0)
    return NoiseMargin(kappa, separable, jnp.where(separable, excess(kappa) / ratio, 0))
