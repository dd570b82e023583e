"""The data of the film of `picture`: trial 0 trained once more, seen along the way."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

from simulator import plots, sweep, train
from simulator.plots import figures
from simulator.studies import picture_training as picture
from simulator.studies.protocol import PAIR
from simulator.studies.settings import SettingsError, override

SEEN = 40
"""Epochs that are shown, close together at first: boundaries move most in the beginning."""
FINEST = 250
"""Records along training, of which those are chosen."""
SIDES = PAIR["defence"][::-1]
"""Adversarial training on the left, COAP on the right."""


def film(result: xr.Dataset) -> plots.Film:
    """The film of a result of the study, of its first task and largest radius.

    Training is repeated with the settings and the seed of the result.  Raises `SettingsError` if the result lacks one
    of both defences or these cells are not ok.
    """
    return figures.picture_film(frames(result))


def frames(result: xr.Dataset) -> xr.Dataset:
    """What the film shows: regions and robust errors of both defences along the training of trial 0."""
    if not set(SIDES) <= set(result["defence"].values):
        raise SettingsError("the animation needs the defences adversarial and coap: run the study with both")
    chosen = result.isel(task=0, n=0, dim=0, epsilon=-1, trial=0).sel(defence=list(SIDES))
    if (chosen["status"] != "ok").any():
        raise SettingsError("the animation needs trial 0 of both defences, which is not ok: run the study again")
    task, epsilon = str(chosen["task"].item()), float(chosen["epsilon"])
    settings: Any = override(picture.SCALES["default"], json.loads(result.attrs["settings"]))
    epochs = shown_epochs(settings.epochs)
    with jax.enable_x64(result.attrs["precision"] == "float64"):
        key = sweep.trial_key(jr.key(int(result.attrs["seed"])), 0)
        seen = [_seen(settings, task, defence, epsilon, epochs, key) for defence in SIDES]
    along: Any = {
        "robust_error": (("defence", "epoch"), np.stack([one["robust_error"] for one in seen])),
        "margin_map": (("defence", "epoch", "v", "u"), np.stack([one["margin_map"] for one in seen])),
    }
    fixed = [f"{task}_{name}" for name in ("x", "y", "sample", "signal")]
    kept = chosen[[*fixed, "sample_attack", "sample_dual"]].reset_coords(drop=True)
    side = {name: chosen[name] for name in ("u", "v")}
    return kept.assign(along).assign_coords(**side, epoch=epochs).assign_attrs(task=task, epsilon=epsilon)


def shown_epochs(epochs: int) -> list[int]:
    """At most `SEEN` + 1 of the recorded epochs, from 0 to the last, at distances that grow evenly."""
    every = next(step for step in range(1, epochs + 1) if epochs % step == 0 and epochs // step <= FINEST)
    records = train.recorded_epochs(epochs, every)
    wanted = {round((len(records) - 1) * (step / SEEN) ** 2) for step in range(SEEN + 1)}
    return [records[index] for index in sorted(wanted)]


def _seen(settings: picture.PictureSettings, task: str, defence: str, epsilon: float, epochs, key) -> dict:
    """One training, seen after each of `epochs`."""
    every = int(np.gcd.reduce(epochs)) if len(epochs) > 1 else 1
    coords = {"task": task, "defence": defence, "n": settings.n[0], "dim": 2, "epsilon": jnp.asarray(epsilon)}
    index = jnp.array(epochs) // every

    def look(network):
        found = picture.evaluated(settings, coords, key, network)
        return {"margin_map": picture.margin_map(settings, network), "robust_error": found["robust_error"]}

    def run():
        kept = {"measure": lambda network: {"network": network}, "every": every}
        along = picture.trained(settings, coords, key, **kept).history["network"]
        return jax.lax.map(look, jax.tree.map(lambda leaf: leaf[index], along))

    return jax.device_get(jax.jit(run)())
