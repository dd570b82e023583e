"""The talk's pictures: an adversarial example, the signal direction, and the regions each defence learns."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray

from simulator import images, losses, metrics, networks, sweep, train, trials
from simulator.catalogue import CATALOGUE
from simulator.plots import figures
from simulator.studies.picture_film import film
from simulator.studies.picture_training import (
    SCALES,
    PictureSettings,
    attack,
    evaluated,
    keyed_attack,
    margin_map,
    task_of,
    trained,
    training_set,
)
from simulator.studies.study import Study, Verdict
from simulator.threats import L2


def grid(settings: PictureSettings) -> sweep.Grid:
    """The axes of the study and how they are walked."""
    side = np.linspace(-settings.reach, settings.reach, settings.pixels).tolist()
    return sweep.Grid(
        axes={
            "task": settings.task,
            "defence": settings.defence,
            "n": settings.n,
            "dim": (2,),
            "epsilon": settings.epsilon,
        },
        trials=settings.trials,
        static=("task", "defence", "n", "dim"),
        inner="epsilon",
        dims={
            "margin_map": ("v", "u"),
            "sample_attack": ("xy",),
            "sample_dual": ("xy",),
        },
        coords={"u": side, "v": side, "xy": (1, 2)},
    )


def cell(settings: PictureSettings) -> sweep.Cell:
    """Train one network and measure it."""

    def run(coords, key):
        threat = L2(coords["epsilon"])
        x, y = training_set(settings, coords["task"], coords["n"], key)
        fit = trained(settings, coords, key)
        test_key = jr.split(key, 3)[2]
        found = evaluated(settings, coords, key, fit.network)
        # The first example of the outer class (or the negative line) is the one the talk's picture perturbs.
        shown = jnp.argmax(y < 0)
        dual = metrics.perturbations(test_key, fit.network, threat, x[shown], networks.label(y[shown]), keyed_attack)[0]
        return {
            **found,
            "margin_map": margin_map(settings, fit.network),
            "sample_attack": dual["attack"],
            "sample_dual": dual["dual"],
            "diverged": fit.diverged,
        }

    return run


def exhibits(settings: PictureSettings, key: PRNGKeyArray) -> xr.Dataset:
    """The training points of trial 0, the perturbed sample with its signal, and the adversarial example on an image."""
    variables: dict = {}
    for name in settings.task:
        x, y = training_set(settings, name, settings.n[0], sweep.trial_key(key, 0))
        shown = int(jnp.argmax(y < 0))
        signal = task_of(settings, name).signal(x[shown], y[shown])
        variables |= {
            f"{name}_x": (("point", "xy"), np.asarray(x)),
            f"{name}_y": (("point",), np.asarray(y)),
            f"{name}_sample": (("xy",), np.asarray(x[shown])),
            f"{name}_signal": (("xy",), np.asarray(signal)),
        }
    return xr.Dataset({**variables, **_image_example(settings, key)})


def _image_example(settings: PictureSettings, key: PRNGKeyArray) -> dict:
    """A digit, its perturbation and both predictions, for an MLP trained on threes and eights (all but the shown)."""
    x, y = images.threes_and_eights()
    init_key, batch_key = jr.split(sweep.trial_key(key, 0))
    network = networks.mlp(init_key, x.shape[1], (settings.width,))
    threat = L2(settings.image_radius)
    recipe = train.Recipe(0.1, 0.9, epochs=100)
    fit = jax.jit(lambda: train.fit(batch_key, network, x[1:], y[1:], threat, losses.standard, recipe))()
    found = jax.jit(attack)(fit.network, threat, x[0], networks.label(y[0]))
    confidence = [jax.nn.softmax(fit.network(point)) for point in (x[0], x[0] + found.delta)]
    shape = images.IMAGE_SHAPE
    return {
        "image": (("row", "column"), np.asarray(x[0]).reshape(shape)),
        "image_delta": (("row", "column"), np.asarray(found.delta).reshape(shape)),
        "image_confidence": (("version", "class"), np.stack(confidence)),
        "image_label": ((), int(networks.label(y[0]))),
    }


def verdict(result: xr.Dataset) -> Verdict:
    """COAP against adversarial training on the circles, at the smallest and the largest radius."""
    if "circles" not in result["task"] or not {"coap", "adversarial"} <= set(result["defence"].values):
        return Verdict(
            False, "needs the task circles and the defences coap and adversarial; run them to test the claim"
        )
    if result["epsilon"].size < 2 or result["trial"].size < 2:
        return Verdict(False, "needs two radii and at least 2 trials to test the claim")
    gap, sem = trials.paired_difference(
        result.sel(task="circles").isel(n=0, dim=0), "robust_error", defence=("coap", "adversarial")
    )
    small, large = float(gap[0]), float(gap[-1])
    held = large > 2 * float(sem[-1]) and small < large / 2
    sentence = (
        f"on the circles COAP minus adversarial robust error is {small:+.3f} at epsilon = {float(gap['epsilon'][0]):g} "
        f"and {large:+.3f} (paired standard error {float(sem[-1]):.3f}, {result['trial'].size} trials) at "
        f"{float(gap['epsilon'][-1]):g}"
    )
    return Verdict(held, sentence)


def notes(settings: PictureSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of the store."""
    return {
        "attack": "training and evaluation: apgd-margin, 10 steps from the example, l2",
        "certified_by": f"best of {', '.join(metrics.CERTIFIERS)} per example",
        "selection": "none: one recipe, last epoch",
        "interval": "standard error over trials; differences between defences are paired by trial",
        "drawn": "trial 0",
    }


STUDY = Study(
    name="picture",
    claim=CATALOGUE["picture"].claim,
    shows=CATALOGUE["picture"].shows,
    scales=SCALES,
    grid=grid,
    cell=cell,
    figure=figures.picture,
    verdict=verdict,
    notes=notes,
    exhibits=exhibits,
    film=film,
    core=CATALOGUE["picture"].core,
    numbers=3,
)
