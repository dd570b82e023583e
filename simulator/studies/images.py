"""One cell of the studies of images: errors, accuracy discrepancy and alignment of a defence, as in the talk.

The studies themselves are in `image_studies`.  A cell is one training at length (see `image_fits`), whose network is
then examined on test images by a cascade of attacks and by bounds.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray

from simulator import bounds, image_evaluation, image_training, images, networks, sweep, trials
from simulator.image_training import ImageFit
from simulator.studies import image_fits
from simulator.studies.image_data import PLANTED, classes_of, data_of, directions_of
from simulator.studies.settings import Settings, SettingsError, setting
from simulator.studies.study import Verdict

PRODUCTS = ("full", "fast")
ERRORS = ("standard_error", "robust_error", "certified_error", "discrepancy", "robust_discrepancy")
TRAINING = ("best_epoch", "train_seconds", "examples_per_second", "train_loss", "validation_robust_error")


@dataclass(frozen=True, kw_only=True)
class ImagesSettings(Settings):
    """Axes images, defence, epsilon, trial."""

    images: tuple[str, ...] = setting("data sets", choices=lambda: (*images.SETS, *PLANTED))
    defence: tuple[str, ...] = setting("ways to train", choices=image_training.DEFENCES)
    epsilon: tuple[float, ...] = setting("radius of the ball, in units of pixel values from 0 to 1", low=0)
    norm: str = setting("of the ball", choices=tuple(image_fits.NORMS))
    network: str = setting("architecture", choices=tuple(networks.ARCHITECTURES))
    train: int = setting("training images; 0: all but those of the validation", low=0)
    coap_train: int = setting("the same of COAP, whose steps are the dearest; 0: as the others", low=0)
    validation: int = setting("images held out of the training set, on which the best epoch is selected", low=10)
    test: int = setting("test images; 0: all", low=0)
    epochs: int = setting("epochs of training; 0: the published recipe", low=0)
    coap_epochs: int = setting("the same of COAP; 0: the published recipe", low=0)
    projections: int = setting("random projections that estimate COAP's bound in training; 0: the bound itself", low=0)
    certify: tuple[str, ...] = setting(
        "bounds to certify with, the loosest first", choices=lambda: tuple(bounds.METHODS)
    )
    attack_steps: int = setting("steps of each attack of the final evaluation", low=1)
    attack_starts: int = setting("starts of each attack of the final evaluation", low=1)
    checkpoint_minutes: float = setting("between two checkpoints of a training; 0: none", low=0)
    reference: float = setting("radius at which the reference network is trained adversarially; 0: none", low=0)
    products: str = setting(
        "of matrices, in trainings without bounds: fast is the accelerator's own format", choices=PRODUCTS
    )
    margin: float = setting("of the planted pattern: half the distance between the classes along it", above=0)
    noise: float = setting("standard deviation of every pixel of planted images", above=0)

    def check(self) -> None:
        for name, value in (("train", self.train), ("coap_train", self.coap_train)):
            if value and value < 50:
                raise SettingsError(f"{name} is {value}: give at least 50 training images, or 0")

    def epochs_of(self, defence: str) -> int:
        """Epochs of a defence; 0: as published."""
        return self.coap_epochs if defence == "coap" else self.epochs

    def train_of(self, defence: str) -> int:
        """Training images of a defence; 0: all."""
        return self.coap_train if defence == "coap" and self.coap_train else self.train


def grid(settings: ImagesSettings) -> sweep.Grid:
    """The axes of the study."""
    axes = {name: getattr(settings, name) for name in ("images", "defence", "epsilon")}
    classes = {classes_of(name) for name in settings.images}
    if len(classes) > 1:
        raise SettingsError(
            f"the data sets {', '.join(settings.images)} differ in their classes: give those of one number"
        )
    return sweep.Grid(
        axes,
        settings.trials,
        static=("images", "defence"),
        dims={"class_error": ("class",), "class_robust_error": ("class",), "broken_by": ("cascade",)},
        coords={"cascade": image_evaluation.cascade_of(classes.pop())},
    )


def cell(settings: ImagesSettings) -> sweep.Hosted:
    """Train one network of images and examine it."""

    def outputs(block: sweep.Coords) -> dict[str, jax.ShapeDtypeStruct]:
        name = block["images"]
        classes = classes_of(name)
        shapes = {"number": (), "class": (classes,), "cascade": (len(image_evaluation.cascade_of(classes)),)}
        dtype = jnp.result_type(float)
        return {
            variable: jax.ShapeDtypeStruct(shapes[kind], bool if variable == "diverged" else dtype)
            for variable, kind in _variables(settings, name)
        }

    return sweep.Hosted(outputs, partial(run, settings))


def _variables(settings: ImagesSettings, name: str) -> list[tuple[str, str]]:
    """Every value of a cell, and which kind of array it is: "class", "cascade" or "number"."""
    errors = [*ERRORS, *(f"certified_error_{method}" for method in settings.certify)]
    errors += ["estimated_error"] if settings.projections else []
    errors += [f"{error}_se_test" for error in ("standard_error", "robust_error", "certified_error")]
    kinds = directions_of(name)
    angles = [f"alignment_{which}_{kind}" for which in ("attack", "dual") for kind in kinds]
    if settings.reference:
        angles += ["alignment_attack_reference", "alignment_dual_reference"]
        angles += [f"alignment_reference_{kind}" for kind in kinds]
    numbers = [(value, "number") for value in (*errors, "excess", *angles, *TRAINING, "peak_bytes", "diverged")]
    return [*numbers, ("class_error", "class"), ("class_robust_error", "class"), ("broken_by", "cascade")]


def run(
    settings: ImagesSettings, coords: sweep.Coords, key: PRNGKeyArray, around: sweep.Surroundings
) -> dict[str, Any]:
    """One cell: draw or load the images, train, select the epoch, and examine the network.

    Accelerators round matrix products to fewer digits unless told not to, and a bound must not.
    """
    with jax.default_matmul_precision("highest"):
        return _examined(settings, coords, key, around)


def _examined(
    settings: ImagesSettings, coords: sweep.Coords, key: PRNGKeyArray, around: sweep.Surroundings
) -> dict[str, Any]:
    data_key, fit_key, test_key = jr.split(key, 3)
    defence = coords["defence"]
    data = data_of(settings, coords["images"], data_key, settings.train_of(defence))
    threat = image_fits.NORMS[settings.norm](coords["epsilon"])
    directions = dict(data.directions)
    if settings.reference:
        fewer = settings.train_of(defence) != settings.train
        whole = data_of(settings, coords["images"], data_key, settings.train) if fewer else data
        directions["reference"] = image_fits.reference(settings, fit_key, whole, around)
    fit = image_fits.trained(settings, fit_key, data, defence, threat, around)
    found = image_evaluation.evaluate(
        test_key,
        fit.network,
        threat,
        data.test.vectors(data.shape),
        data.test.labels,
        steps=settings.attack_steps,
        starts=settings.attack_starts,
        methods=settings.certify,
        projections=settings.projections,
        directions=directions,
        say=image_fits.seldom(around.say, f"{data.name}, {defence}, radius {coords['epsilon']:g}"),
    )
    count = len(data.test.labels)
    spread = {f"{name}_se_test": np.sqrt(found[name] * (1 - found[name]) / count) for name in ERRORS[:3]}
    between = {
        f"alignment_reference_{kind}": image_evaluation.mean_cosine(vectors, np.asarray(directions["reference"]))
        for kind, vectors in data.directions.items()
        if settings.reference
    }
    return {**found, **spread, **between, **_about(fit), "peak_bytes": image_fits.peak_bytes()}


def _about(fit: ImageFit) -> dict[str, Any]:
    """What a cell tells of its training."""
    best = fit.best_epoch - 1
    return {
        "best_epoch": fit.best_epoch,
        "train_seconds": fit.seconds,
        "examples_per_second": fit.examples_per_second,
        "train_loss": fit.history["loss"][best],
        "validation_robust_error": fit.history["robust_error"][best],
        "diverged": fit.diverged,
    }


# ---- what a study says ----


def verdict(result: xr.Dataset) -> Verdict:
    """Whether every certified defence has a robust error above adversarial training's, by more than 2 standard errors,
    and a larger accuracy discrepancy, at the largest radius at which that is clearly better than chance."""
    certified = [name for name in result["defence"].values if name not in ("standard", "adversarial")]
    if "adversarial" not in result["defence"].values or not certified:
        return Verdict(False, "needs adversarial training and a certified defence; run them to test the claim")
    held, parts, remarks = [], [], []
    for name in result["images"].values:
        place = _largest_radius(result.sel(images=name))
        if place is None:
            return Verdict(
                False, f"adversarial training errs almost as by chance at every radius on {name}: give smaller ones"
            )
        for defence in certified:
            gap, sem = (float(one) for one in trials.gap(place, "robust_error", defence, "adversarial"))
            lag = float(trials.paired_difference(place, "discrepancy", defence=(defence, "adversarial"))[0])
            held.append(gap > 2 * sem and lag > 0)
            at = f"of {defence} on {name} at radius {float(place['epsilon']):g}"
            parts.append(f"{gap:+.3f} (s.e. {sem:.3f}) {at}, discrepancy {lag:+.3f}")
            if not bool(_better_than_chance(place, defence, "standard_error")):
                remarks.append(f"{defence} on {name} is hardly better than a constant classifier there")
    if "images only" in result.attrs.get("coap_trained_by", "") and "coap" in certified:
        remarks.append(f"not alike: coap was trained by {result.attrs['coap_trained_by']}")
    of = "trials, paired" if result["trial"].size > 1 else "the test images, unpaired"
    sentence = (
        f"where adversarial training is clearly better than chance, robust error minus adversarial training's is "
        f"{'; '.join(parts)}; standard errors over {of}{''.join(f'; {remark}' for remark in remarks)}"
    )
    return Verdict(all(held), sentence)


def _largest_radius(place: xr.Dataset) -> xr.Dataset | None:
    """The largest radius at which adversarial training is clearly better than chance under attack, if there is any."""
    better = np.flatnonzero(_better_than_chance(place, "adversarial", "robust_error").values)
    return place.isel(epsilon=better[-1]) if better.size else None


def _better_than_chance(place: xr.Dataset, defence: str, error: str) -> xr.DataArray:
    """Where an error of a defence is below nine tenths of that of guessing: a constant classifier's can be a little
    below the whole of it, if one class has more images."""
    found, _, _ = trials.over_trials(place.sel(defence=defence), error)
    return found < 0.9 * (1 - 1 / place.sizes["class"])


def notes(settings: ImagesSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of a store."""
    classes = classes_of(settings.images[0])
    recipes = {name: image_training.preset(data_name(settings.images[0]), name) for name in settings.defence}
    reduced = ", ".join(f"{name} {settings.epochs_of(name) or recipe.epochs}" for name, recipe in recipes.items())
    bound = f"{settings.projections} random projections, an estimate" if settings.projections else "its bound"
    fewer = f"; on {settings.coap_train} images only" if settings.coap_train else ""
    return {
        "attack": image_evaluation.describe_cascade(classes, settings.attack_steps, settings.attack_starts),
        "certified_by": f"best of {', '.join(settings.certify)} per image",
        "products": f"{settings.products} in trainings without bounds, full in all others and in every examination",
        "selection": f"epoch at the full radius with the smallest robust error (ties: standard error) on "
        f"{settings.validation} held-out training images, by 10 steps of APGD; every defence alike",
        "recipes": f"{'; '.join(dict.fromkeys(recipe.source for recipe in recipes.values()))}; epochs: {reduced}",
        "coap_trained_by": f"{bound}{fewer}",
        **({"reference": f"adversarial training at radius {settings.reference:g}"} if settings.reference else {}),
        "interval": "standard error over trials; of a single trial over its test images",
    }


def data_name(name: str) -> str:
    """The name that the recipes of a data set have."""
    return "planted" if name in PLANTED else name
