"""Defences by name: how each one trains.  A new defence is a new row."""

from simulator import attacks, losses
from simulator.losses import Loss

DEFENCES = ("standard", "adversarial", "coap", "crown-ibp", "ibp")


def loss_of(defence: str, attack: attacks.Method) -> Loss:
    """The training loss of a defence; `attack` is what adversarial training uses.

    `crown-ibp` trains on its linear bound throughout (beta = 1), `ibp` on intervals, both without a warm-up of the
    radius unless the recipe asks for one.
    """
    losses_by_name = {"standard": losses.standard, "adversarial": losses.attacked(attack)}
    return losses_by_name[defence] if defence in losses_by_name else losses.certified(defence)
