"""Losses: `(network, threat, x, y) -> scalar` for one example, and mixtures of them, which are losses too.

`y` is -1, +1 or a class index; `threat` is the set at this example.  What they are made of are margins
m_k = logit[y] - logit[k] and their cross-entropy log(1 + sum over k != y of exp(-m_k)), taken at x, at a worst point,
or at lower bounds.

| loss | at most the worst loss over the threat, at least it, or neither |
|---|---|
| `standard`, `attacked` | at most |
| `exact` | equal for two classes; at most for more |
| `certified`, `fast_ibp` at its end | at least |
| `estimated`, `mtl_ibp`, `cc_ibp`, `exp_ibp`, `sabr`, `taps`, `staps`, `trades` | neither: estimates, no guarantee |

A `Schedule` is a loss that changes along the warm-up of `train.fit`.
"""

from simulator.losses.basic import Loss, attacked, certified, estimated, exact, mix, standard
from simulator.losses.latent import connected, latent_attacked, staps, taps
from simulator.losses.mixtures import around_attack, cc_ibp, exp_ibp, mtl_ibp, product, sabr
from simulator.losses.schedule import Schedule, crown_ibp
from simulator.losses.smoothness import kl_divergence, trades
from simulator.losses.warmup import fast_ibp, imbalance, looseness

__all__ = [
    "Loss",
    "Schedule",
    "around_attack",
    "attacked",
    "cc_ibp",
    "certified",
    "connected",
    "crown_ibp",
    "estimated",
    "exact",
    "exp_ibp",
    "fast_ibp",
    "imbalance",
    "kl_divergence",
    "latent_attacked",
    "looseness",
    "mix",
    "mtl_ibp",
    "product",
    "sabr",
    "standard",
    "staps",
    "taps",
    "trades",
]
