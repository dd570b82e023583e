"""Trained networks of images: kept under names that say what they depend on, so that any run that needs one finds it.

A name holds a digest of everything that decides the weights: the data, the recipe, the defence, the threat, the key and
`WEIGHTS`.  A store can be replaced, or its networks examined with other settings, without training again.
"""

import dataclasses
import hashlib
import json
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from filelock import FileLock
from jaxtyping import Array, Float, PRNGKeyArray

from simulator import image_evaluation, image_training, losses, networks, sweep
from simulator.defences import TABLE, loss_of
from simulator.image_training import ImageFit, Preset
from simulator.losses import Loss, Schedule
from simulator.studies import protocol
from simulator.studies.image_data import Data
from simulator.studies.settings import SettingsError
from simulator.threats import L2, LInf, Threat

NORMS = {"l2": L2, "linf": LInf}

WEIGHTS = 1
"""Raise this whenever a change of the code changes trained weights: older networks are then trained again."""

UNBOUNDED = ("standard", "adversarial")
"""The defences that train by no bound, whose products may be in the accelerator's fast format."""

AT_ONCE = {"standard": 0, "adversarial": 32, "ibp": 32, "fast-ibp": 32}
"""Examples of a processor's core whose gradients are computed together, 0 for all; a defence that is not here carries
rows of a bound and gets `ROWS_AT_ONCE`.  What they save is in `benchmarks/README.md`; standard training, FAST-IBP and
the defences with both an attack and a bound were not measured, and go with those that they are like."""
ROWS_AT_ONCE = 8


def trained(
    settings: Any, key: PRNGKeyArray, data: Data, defence: str, threat: Threat, around: sweep.Surroundings
) -> ImageFit:
    """The network of a defence against a threat: found in the folder, trained further from its checkpoint, or trained.

    Raises `SettingsError` if checkpoints are asked for without the library that writes them, and `sweep.Stopping`.
    """
    init_key, fit_key = jr.split(key)
    recipe = _recipe(settings, data.name, defence)
    network = networks.architecture(
        settings.network,
        init_key,
        data.shape,
        data.classes,
        normalisation=data.normalisation,
        init=TABLE[defence].init or "torch",
    )
    minutes = settings.checkpoint_minutes
    folder = around.folder / _name(settings, key, data, defence, threat, recipe) if around.folder and minutes else None
    where = f"{data.name}, {defence}, radius {float(threat.radius):g}"
    try:
        with _alone(folder):
            return image_training.fit(
                fit_key,
                network,
                data.train,
                threat,
                make_loss(defence, settings.projections),
                recipe,
                data.shape,
                validation=data.validation,
                checkpoints=image_training.Checkpoints(folder, 60 * minutes),
                progress=image_training.Progress(seldom(around.say, where), around.stopping),
                at_once=AT_ONCE.get(defence, ROWS_AT_ONCE) if jax.default_backend() == "cpu" else 0,
            )
    except ModuleNotFoundError as error:
        raise SettingsError(f"checkpoint_minutes is {minutes:g}, but {error}; or give 0 for none") from error
    except image_training.Interrupted as error:
        after = "it will go on from there" if folder else "without checkpoints it will start again"
        raise sweep.Stopping(f"{error}: {after}") from error


def _alone(folder: Path | None):
    """Other processes wait: several cells ask for the same reference network."""
    if folder is None:
        return nullcontext()
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f"{folder.name}.lock"))


def _recipe(settings: Any, name: str, defence: str) -> Preset:
    recipe = image_training.preset(name, defence, settings.epochs_of(defence))
    return dataclasses.replace(recipe, fast_products=settings.products == "fast" and defence in UNBOUNDED)


def _name(settings: Any, key: PRNGKeyArray, data: Data, defence: str, threat: Threat, recipe: Preset) -> str:
    radius = float(threat.radius)
    decides = {
        "weights": WEIGHTS,
        "images": data.digest,
        "network": settings.network,
        "norm": settings.norm,
        "radius": radius,
        "recipe": dataclasses.asdict(recipe),
        "loss": [defence, settings.projections if defence == "coap" else 0],
        "key": np.asarray(jr.key_data(key)).tolist(),
        "dtype": str(jnp.result_type(float)),
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    return f"{data.name}-{defence}-{settings.norm}-{radius:g}-{digest}"


@lru_cache(maxsize=32)
def make_loss(defence: str, projections: int) -> image_training.MakeLoss:
    """The training loss of a defence as a function of a key: COAP by random projections, fresh in every step, if there
    are any, CROWN-IBP with its mixture annealed, and the others as in `defences.TABLE`."""
    if defence == "coap" and projections:
        return lambda key: losses.estimated(key, projections)
    found: Loss | Schedule = loss_of(
        {"crown-ibp": "crown-ibp-annealed"}.get(defence, defence), protocol.training_attack
    )
    return lambda key: found


def seldom(say: Callable[[str], None], where: str, seconds: float = 20.0) -> Callable[[str], None]:
    """Say sentences of a place, but not more often than every so many seconds."""
    spoken = [time.monotonic()]

    def speak(sentence: str) -> None:
        if time.monotonic() - spoken[0] >= seconds:
            spoken[0] = time.monotonic()
            say(f"{where}: {sentence}; memory {peak_bytes() / 1e9:.1f} GB")

    return speak


def peak_bytes() -> int:
    """The most memory this process, or its accelerator, has used until now."""
    stats = jax.local_devices()[0].memory_stats() or {}
    # Linux counts in kilobytes.
    return int(stats.get("peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


# ---- the reference network ----

_latest: dict[tuple, Float[Array, "n d"]] = {}
"""The directions of one trial, whose cells all ask for them."""


def reference(settings: Any, key: PRNGKeyArray, data: Data, around: sweep.Surroundings) -> Float[Array, "n d"]:
    """At every test image the direction of the smallest perturbation that breaks the reference network, a unit vector;
    0 where it errs at the image itself.

    The reference is trained adversarially at the radius `settings.reference`, from weights and batches of its own: it
    shares the training images with the networks that are examined, and nothing else.
    """
    own = jr.fold_in(key, 1)
    trial = (settings, data.digest, np.asarray(jr.key_data(own)).tobytes())
    if trial not in _latest:
        threat = NORMS[settings.norm](settings.reference)
        network = trained(settings, own, data, "adversarial", threat, around).network
        say = seldom(around.say, f"{data.name}, reference network")
        x, y = data.test.vectors(data.shape), data.test.labels
        found = image_evaluation.towards_boundary(network, threat, x, y, steps=settings.attack_steps, say=say)
        _latest.clear()
        _latest[trial] = jnp.asarray(found)
    return _latest[trial]
