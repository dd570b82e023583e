"""TRADES: standard loss, and how much the threat can change what the network says."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator import attacks
from simulator.losses.basic import Loss, standard, weight_of
from simulator.losses.mixtures import Coefficient
from simulator.networks import Network, margins
from simulator.threats import Threat


def kl_divergence(first: Float[Array, " rivals"], second: Float[Array, " rivals"]) -> Float[Array, ""]:
    """KL(p || q) = sum of p_k log(p_k / q_k), where p and q are the softmax that belongs to margins against one class.

    Logits count up to a constant only, and up to that they are 0 for the class itself and minus the margins.
    """
    log_p, log_q = (jax.nn.log_softmax(jnp.concatenate([jnp.zeros(1, m.dtype), -m])) for m in (first, second))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def _furthest(network: Network, threat: Threat, x: Float[Array, " d"], steps: int) -> Float[Array, " d"]:
    """A perturbation with a large KL(f(x) || f(x + delta)), by projected gradient steps; of a union, on each member.

    At x the KL is 0 and has no gradient.  The steps start where the class the network predicts loses most to first
    order: the KL grows without limit as that class gets less likely.
    """
    predicted = jnp.argmax(network(x))
    here = margins(network, x, predicted)

    def on_piece(piece: Threat):
        start = attacks.fgsm(network, piece, x, predicted, objective="margin").delta
        found = attacks.pgd(
            network, piece, x, predicted, steps=steps, start=start, objective=lambda there: kl_divergence(here, there)
        )
        return found.delta, kl_divergence(here, margins(network, x + found.delta, predicted))

    pieces = threat.pieces()
    if pieces is None:
        return on_piece(threat)[0]
    deltas, values = jax.vmap(on_piece)(pieces)
    return deltas[jnp.argmax(values)]


def trades(coefficient: Coefficient, steps: int = 10) -> Loss:
    """standard + coefficient * KL(f(x) || f(x + delta)), where f is the softmax and delta maximises the KL over B.

    The maximum is the best of `steps` gradient steps: an estimate.  delta is held fixed when differentiating, f(x) and
    f(x + delta) are not.  The coefficient is the 1/lambda of the paper, 6 there.

    **Source:** Zhang et al. (2019), "Theoretically principled trade-off between robustness and accuracy".
    """

    def loss(network, threat, x, y):
        fixed = jax.lax.stop_gradient((network, threat, x))
        delta = _furthest(*fixed, steps)
        # Margins against any class give the same softmax.
        zero = jnp.zeros((), jnp.int32)
        spread = kl_divergence(margins(network, x, zero), margins(network, x + delta, zero))
        return standard(network, threat, x, y) + weight_of(coefficient, x) * spread

    return loss
