"""Half attack, half bound, between adversarial training and COAP: simulator run docs/how_to/defence.py:STUDY"""

from dataclasses import replace

from simulator import defences, losses
from simulator.studies import STUDIES

defences.TABLE["half-way"] = defences.Defence(
    loss=lambda attack: losses.mix(losses.attacked(attack), losses.certified("coap"), 0.5),
    source="this file: (attacked loss + certified loss)/2",
)

BASE = STUDIES["budget"]
STUDY = replace(
    BASE,
    name="half-way",
    scales={
        scale: replace(settings, defence=("adversarial", "half-way", "coap")) for scale, settings in BASE.scales.items()
    },
)
