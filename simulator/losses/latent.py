"""Interval bounds through the first layers, then an attack inside the box of latent values: TAPS."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator import attacks, bounds
from simulator.losses.basic import Loss, certified
from simulator.losses.mixtures import Coefficient, around_attack, product
from simulator.networks import Network, ReLU, cross_entropy, label, margins, others
from simulator.threats import Threat

LATENT_STEPS = 8
"""Of the attack in the box, of a quarter of its reach each: enough to cross it."""


class _LatentBox(Threat):
    """The box |delta_i| <= radius * reach_i around the middle of latent values."""

    radius: Float[Array, "..."] | float
    reach: Float[Array, " width"]
    symmetric: ClassVar[bool] = True

    def support(self, w: Float[Array, " width"]) -> Float[Array, ""]:
        return self._r(w) * jnp.sum(self.reach * jnp.abs(w))

    def worst(self, w: Float[Array, " width"]) -> Float[Array, " width"]:
        return self._r(w) * self.reach * jnp.sign(w)

    def project(self, delta: Float[Array, " width"]) -> Float[Array, " width"]:
        return jnp.clip(delta, -self._r(delta) * self.reach, self._r(delta) * self.reach)


def connected(box: bounds.Box, point: Float[Array, " width"]) -> Float[Array, " width"]:
    """The point, with a gradient to the box that holds it: the rectified linear connector.

    An adversarial point has no gradient of its own with respect to the box.  With t = (z - l) / (u - l) in [0, 1] its
    slope is taken to be max(0, 2 t - 1) with respect to u, and max(0, 1 - 2 t) with respect to l: 1 at that end of the
    box, 0 from the middle on.  Where the box is a point, t = 1/2 and there is none.

    **Source:** Mao et al. (2023), section 3.3, with c = 0.5.
    """
    fixed, point = jax.lax.stop_gradient((box, point))
    wide = fixed.reach > 0
    offset = jnp.where(wide, (point - fixed.middle) / jnp.where(wide, fixed.reach, 1), 0)  # 2 t - 1
    to_upper, to_lower = jnp.clip(offset, 0, 1), jnp.clip(-offset, 0, 1)
    # Differences that are 0 in value, not in gradient.
    return point + to_upper * (box.upper - fixed.upper) + to_lower * (box.lower - fixed.lower)


def _split(network: Network, boxes: list[bounds.Box], relus: int) -> Network:
    """The part of the network from the last `relus` ReLUs on."""
    positions = [index for index, layer in enumerate(network.layers) if isinstance(layer, ReLU)]
    if len(positions) != len(boxes):
        raise ValueError(
            f"the network has bounds before {len(boxes)} ReLUs, but only {len(positions)} of them are layers of their "
            "own: give a network whose layers follow one another"
        )
    if not 1 <= relus <= len(positions):
        raise ValueError(f"relus is {relus}, but the network has {len(positions)} ReLUs: give 1 to {len(positions)}")
    return Network(network.layers[positions[-relus] :])


def latent_attacked(relus: int = 1, steps: int = LATENT_STEPS) -> Loss:
    """Cross-entropy of margins at adversarial points of the box of values before the last `relus` ReLUs.

    An estimate: the box holds more than the values of x + B, and the attack finds less than its worst point.  The
    margin against every other class has a point of its own, by `attacks.pgd` from the upper corner of the box, since no
    gradient leads out of where a ReLU is 0.  Every margin is at least that of interval bounds; with one ReLU left the
    attack finds the worst point of the box, and the two are equal.

    The gradient with respect to the weights behind the box is that at the fixed point; with respect to those before it,
    it goes through `connected`.  Raises `ValueError` where the network does not have so many ReLUs.
    """

    def loss(network, threat, x, y):
        boxes = bounds.preactivations(network, threat, x, "ibp")
        rest, k = _split(network, boxes, relus), label(y)
        box = boxes[-relus]
        fixed_rest, fixed = jax.lax.stop_gradient((rest, box))
        latent = _LatentBox(jnp.ones((), x.dtype), fixed.reach)

        def against(rival):
            found = attacks.pgd(
                fixed_rest, latent, fixed.middle, k, steps=steps, start=fixed.reach, objective=lambda m: -m[rival]
            )
            return margins(rest, connected(box, fixed.middle + found.delta), k)[rival]

        return cross_entropy(jax.vmap(against)(jnp.arange(others(network, k).size)))

    return loss


def taps(relus: int = 1, steps: int = LATENT_STEPS) -> Loss:
    """(the loss of `latent_attacked`) * (the loss of interval bounds): TAPS training, an estimate.

    The product is the paper's, which keeps interval bounds from growing where the attack is blind; both factors count
    alike in its gradient, each times the value of the other.  At first that is about 2 log(K) times the gradient of one
    loss alone, for which a learning rate that suits the others can be too large.  Raises `ValueError` where the network
    does not have so many ReLUs.

    **Source:** Mao et al. (2023), "Connecting certified and adversarial training".
    """
    return product(latent_attacked(relus, steps), certified("ibp"))


def staps(attack: attacks.Method, share: Coefficient, relus: int = 1, steps: int = LATENT_STEPS) -> Loss:
    """`taps` over share * B about an adversarial point, as in `sabr`.  **Source:** Mao et al. (2023)."""
    return around_attack(attack, share, taps(relus, steps))
