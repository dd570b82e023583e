"""Every published recipe at its full shapes: compiled, with the memory a device would need, and two real steps.

    python benchmarks/presets.py [--data mnist,cifar10,...] [--defences adversarial,...] [--json]

The networks are those of the scale `paper` of the studies of images.  A program is compiled for the recipe's batch and
all training images, and its memory is the compiler's own count: nothing of that size is run.  Then two steps are taken
at batch 2 on random images; their loss has to be a number.  Compiling takes minutes for the larger ones.
"""

import argparse
import dataclasses
import json
import math
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from simulator import image_training, images, networks
from simulator.image_training import DEFENCES, Labelled
from simulator.studies import STUDIES
from simulator.studies.image_data import SHAPES, classes_of
from simulator.studies.image_fits import NORMS, make_loss

EXAMPLES = {"mnist": 60_000, "fashion-mnist": 60_000, "cifar10": 50_000, "tiny-imagenet": 100_000}
STUDY = {name: f"images-{name.removesuffix('-mnist')}" for name in EXAMPLES}


def measured(data: str, defence: str) -> dict:
    """What a recipe needs, and what two steps of it return."""
    settings = STUDIES[STUDY[data]].scales["paper"]
    recipe = image_training.preset(data, defence)
    shape, classes = SHAPES.get(data, images.SETS[data].shape), classes_of(data)
    known = images.SETS[data]
    network = networks.architecture(
        settings.network, jr.key(0), shape, classes, normalisation=(known.mean, known.deviation)
    )
    threat, loss = NORMS[settings.norm](jnp.asarray(settings.epsilon[0])), make_loss(defence, settings.projections)
    start = time.perf_counter()
    program = image_training.compiled(network, threat, loss, recipe, shape, EXAMPLES[data])
    seconds = time.perf_counter() - start
    needed = round(image_training.needed_bytes(program) / 1e9, 2)
    # Said before the steps: they are what may not fit.
    print(f"{data} {defence}: compiled in {seconds:.0f} s, would need {needed} GB; two steps next", file=sys.stderr)
    return {
        "data": data,
        "defence": defence,
        "network": settings.network,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(network)),
        "batch": recipe.batch,
        "compile_s": round(seconds, 1),
        "memory_gb": needed,
        "losses": two_steps(network, threat, loss, recipe, shape, classes),
    }


def two_steps(network, threat, loss, recipe, shape, classes) -> list[float]:
    """The losses of two epochs of one step each, at batch 2 and the full radius."""
    small = dataclasses.replace(recipe, batch=2, epochs=2, clean=0, ramp=0, milestones=())
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (2, *shape), np.uint8), rng.integers(0, classes, 2, np.int32)
    few = Labelled(jnp.asarray(pixels), jnp.asarray(labels), 255)
    fit = image_training.fit(jr.key(1), network, few, threat, loss, small, shape)
    found = [float(value) for value in fit.history["loss"]]
    if not np.isfinite(found).all():
        raise SystemExit(f"the losses of {recipe.source} are {found}")
    return [round(value, 3) for value in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(EXAMPLES))
    parser.add_argument("--defences", default=",".join(DEFENCES))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for data in given.data.split(","):
        for defence in given.defences.split(","):
            row = measured(data, defence)
            words = json.dumps(row) if given.json else "  ".join(f"{value}" for value in row.values())
            print(words, flush=True)


if __name__ == "__main__":
    main()
