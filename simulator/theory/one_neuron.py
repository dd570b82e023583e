r"""One neuron under the signal-directed set: what one gradient step of each defence does, in closed form.

f(x) = a ReLU(<theta, x>) + b on the linearly separable data, a > 0 > b, theta = (`along` > 0, rest of norm `across`);
only `along` is trained.  With s = <theta, x> and the interval [l, u] = s -+ eps along that the set makes of it, the
worst-case margin is J = b + a max(0, l) where y = +1 and -(b + a max(0, u)) where y = -1.  COAP's bound of it is the
same, except on the unstable positives I* = {y = +1, l < 0 < u}: there it is the line

    J~ = b + a l u / (u - l) = b + a (s^2 - eps^2 along^2) / (2 eps along),

while J = b does not depend on the weights.  So the two population gradients differ by one term,

    G(COAP) - G(AT) = -(a / (4 eps)) E[sigmoid(-J~) (gamma^2 - eps^2 - Z^2 / along^2); I*],  Z = s - y gamma along.

**Source:** De Bartolomeis, master thesis, sections 4.2 and 4.3; derived anew here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float

from simulator.data import LinearlySeparable


class Slope(NamedTuple):
    """The derivative of a loss by the signal weight, at a random example."""

    mean: Float[Array, ""]
    """That of the population's objective."""
    deviation: Float[Array, ""]


class Slopes(NamedTuple):
    """Of both objectives."""

    adversarial: Slope
    coap: Slope
    unstable: Float[Array, ""]
    """The probability of I*."""


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_REACH = 9.0
"""Standard deviations beyond which a Gaussian's mass, 1e-19, is below rounding."""


def _expected(function, low: Float[Array, ""], high: Float[Array, ""], deviation: Float[Array, ""]):
    """E[f(Z); low < Z < high] for Z ~ N(0, deviation^2), f smooth there: Gauss-Legendre on what is within reach."""
    low, high = (jnp.clip(end / deviation, -_REACH, _REACH) for end in (low, high))
    z = low + (high - low) * (jnp.asarray(_NODES, low.dtype) + 1) / 2
    values = function(deviation * z) * norm.pdf(z)
    return (high - low) / 2 * jnp.sum(jnp.asarray(_WEIGHTS, low.dtype) * values)


def one_neuron_slopes(
    along: Float[Array, ""],
    across: Float[Array, ""],
    a: Float[Array, ""],
    b: Float[Array, ""],
    task: LinearlySeparable,
    epsilon: Float[Array, ""],
) -> Slopes:
    r"""d/d along of log(1 + exp(-J)) and of log(1 + exp(-J~)); 0 < epsilon, 0 < along, 0 < across.

    With kept = gamma - eps, l = kept along + Z of a positive and u = -kept along + Z of a negative example,

    G(AT) = -(a kept / 2) (E[sigmoid(-(b + a l)); l > 0] + E[sigmoid(b + a u); u > 0]).

    By Gauss-Legendre quadrature between the kinks.
    """
    gamma, deviation = task.margin, task.noise * across
    kept, end = gamma - epsilon, jnp.asarray(jnp.inf, along.dtype)

    def active(sign, power):
        """E of a power of the sigmoid where the neuron is active: +1 positives at l, -1 negatives at u."""
        centre = sign * kept * along
        return _expected(lambda z: jax.nn.sigmoid(-sign * (b + a * (centre + z))) ** power, -centre, end, deviation)

    def unstable(z):
        """sigmoid(-J~) (gamma^2 - eps^2 - Z^2 / along^2) of an unstable positive."""
        line = b + a * ((gamma * along + z) ** 2 / along - epsilon**2 * along) / (2 * epsilon)
        return jax.nn.sigmoid(-line) * (gamma**2 - epsilon**2 - (z / along) ** 2)

    def over_unstable(function):
        return _expected(function, -along * (gamma + epsilon), -along * kept, deviation) / 2

    mean, square = (((-a * kept) ** power * (active(1, power) + active(-1, power)) / 2) for power in (1, 2))
    # The adversarial derivative is 0 where COAP's line is.
    extra, extra_square = (
        (-a / (2 * epsilon)) ** power * over_unstable(lambda z, p=power: unstable(z) ** p) for power in (1, 2)
    )
    return Slopes(
        _slope(mean, square), _slope(mean + extra, square + extra_square), over_unstable(lambda z: jnp.ones_like(z))
    )


def _slope(mean, square) -> Slope:
    return Slope(mean, jnp.sqrt(jnp.maximum(square - mean**2, 0)))


class Regions(NamedTuple):
    """Where one COAP step is worse than one adversarial step, by three arguments."""

    theorem: Bool[Array, ""]
    """The thesis' theorem 4.6: eps > 2 gamma / 3 and |rest| / along > sqrt(24 gamma^3 / sigma^2)."""
    proof: Bool[Array, ""]
    """What its proof needs, with the sigmoid bounded by 1/2 and 1."""
    sharp: Bool[Array, ""]
    """Whether the derivative of R by the step differs in sign, with the sigmoid the same everywhere."""


def one_neuron_regions(
    epsilon: Float[Array, ""], spread: Float[Array, ""], margin: Float[Array, ""], noise: Float[Array, ""]
) -> Regions:
    r"""The three regions at e = `epsilon` = eps/gamma and `spread` = sigma |rest| / (gamma along), 0 < e < 1.

    With T = Z/(gamma along) ~ N(0, spread^2) restricted to (-(1 + e), -(1 - e)), I* in these units: the robust error
    falls with `along`, so COAP's step is the worse one where its slope is the larger, that is where
    E[sigmoid (T^2 - (1 - e^2))] > 0.  With the sigmoid a constant that is E[T^2] > 1 - e^2 (sharp, the limit a -> 0);
    the proof asks for -(1 - e^2) + (1 + e) E[T] + 2 E[T^2] > 0.  The theorem's condition on the ratio compares gamma^3
    with sigma^2, which have different units: it depends on the unit of x, and so on `margin` and `noise` separately.

    **Source:** thesis theorem 4.6 and its proof; the sharp condition is derived here.
    """
    alpha, beta = -(1 + epsilon) / spread, -(1 - epsilon) / spread
    mass = norm.cdf(beta) - norm.cdf(alpha)
    first = spread * (norm.pdf(alpha) - norm.pdf(beta)) / mass
    second = spread**2 * (1 + (alpha * norm.pdf(alpha) - beta * norm.pdf(beta)) / mass)
    limit = 1 - epsilon**2
    ratio = spread * margin / noise
    theorem = (epsilon > 2 / 3) & (epsilon < 1) & (ratio > jnp.sqrt(24 * margin**3) / noise)
    return Regions(theorem, (1 + epsilon) * first + 2 * second > limit, second > limit)
