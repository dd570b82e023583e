"""Defences by name: how each one trains.  A new defence is a new row."""

from collections.abc import Callable
from dataclasses import dataclass

from simulator import attacks, losses
from simulator.catalogue import DEFENCES
from simulator.losses import Loss, Schedule

__all__ = ["DEFENCES", "MIXTURES", "TABLE", "Defence", "loss_of", "without_warmup"]


@dataclass(frozen=True)
class Defence:
    """A row of the table of defences."""

    loss: Callable[[attacks.Method], Loss | Schedule]
    """From the attack in training, which a defence without one ignores."""
    source: str
    """The paper, and which of its settings the default coefficient is."""
    init: str | None = None
    """The initialisation of `networks.mlp` that belongs to the defence; None: any."""
    warmup: bool = False
    """Whether the defence is what it is by a warm-up of the radius (`Recipe.warmup`)."""


MIXTURES = {"sabr": losses.sabr, "cc-ibp": losses.cc_ibp, "mtl-ibp": losses.mtl_ibp, "exp-ibp": losses.exp_ibp}
"""(attack, coefficient) -> loss: at 0 adversarial training, at 1 interval bounds."""


def _certified(method: str) -> Callable[[attacks.Method], Loss]:
    return lambda attack: losses.certified(method)


def _mixture(name: str, coefficient: float) -> Callable[[attacks.Method], Loss]:
    return lambda attack: MIXTURES[name](attack, coefficient)


TABLE = {
    "standard": Defence(lambda attack: losses.standard, "cross-entropy"),
    "adversarial": Defence(losses.attacked, "Madry et al. (2018)"),
    "coap": Defence(_certified("coap"), "Wong & Kolter (2018)"),
    "crown-ibp": Defence(_certified("crown-ibp"), "Zhang et al. (2020), with beta = 1 throughout"),
    "ibp": Defence(_certified("ibp"), "Gowal et al. (2018), without the standard loss in the mixture"),
    "trades": Defence(lambda attack: losses.trades(6.0), "Zhang et al. (2019), 1/lambda = 6"),
    "cc-ibp": Defence(_mixture("cc-ibp", 0.5), "De Palma et al. (2024), CIFAR-10 at 8/255"),
    "mtl-ibp": Defence(_mixture("mtl-ibp", 0.5), "De Palma et al. (2024), CIFAR-10 at 8/255"),
    "exp-ibp": Defence(_mixture("exp-ibp", 0.5), "De Palma et al. (2024), CIFAR-10 at 8/255"),
    "sabr": Defence(_mixture("sabr", 0.7), "Mueller et al. (2023), CIFAR-10 at 8/255"),
    "taps": Defence(lambda attack: losses.taps(), "Mao et al. (2023), with one ReLU behind the box"),
    "staps": Defence(lambda attack: losses.staps(attack, 0.7), "Mao et al. (2023), share as for sabr"),
    "crown-ibp-annealed": Defence(
        lambda attack: losses.crown_ibp(), "Zhang et al. (2020), beta from 1 to 0", warmup=True
    ),
    "fast-ibp": Defence(
        lambda attack: losses.fast_ibp(),
        "Shi et al. (2021), but for the network",
        init="ibp",
        warmup=True,
    ),
}
"""All defences by name; the first are `DEFENCES`.  Coefficients of image experiments are a start, not a choice."""


def without_warmup() -> tuple[str, ...]:
    """The defences a study can offer whose recipe has no warm-up, at whose end the others would be throughout."""
    return tuple(name for name, defence in TABLE.items() if not defence.warmup)


def loss_of(defence: str, attack: attacks.Method) -> Loss | Schedule:
    """The training loss of a defence; `attack` is what adversarial training and mixtures with it use.

    `crown-ibp` trains on its linear bound throughout (beta = 1), `ibp` on intervals, both without a warm-up of the
    radius unless the recipe asks for one.  Raises `ValueError` for an unknown defence.
    """
    if defence not in TABLE:
        raise ValueError(f"there is no defence {defence!r}; the defences are {', '.join(TABLE)}")
    return TABLE[defence].loss(attack)
