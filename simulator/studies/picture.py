"""The talk's pictures: an adversarial example, the signal direction, and the regions each defence learns."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray

from simulator import attacks, images, losses, metrics, networks, plots, sweep, train, trials
from simulator.catalogue import CATALOGUE
from simulator.data import ConcentricSpheres, LinearlySeparable, Task
from simulator.studies.defences import loss_of, without_warmup
from simulator.studies.settings import Settings, SettingsError, check_test_size, setting
from simulator.studies.study import Study, Verdict
from simulator.threats import L2

TASKS = ("circles", "lines")


@dataclass(frozen=True, kw_only=True)
class PictureSettings(Settings):
    """Two-dimensional data, so that everything can be drawn."""

    task: tuple[str, ...] = setting("two-dimensional data", choices=TASKS)
    defence: tuple[str, ...] = setting("ways to train", choices=without_warmup)
    epsilon: tuple[float, ...] = setting("l2 radius, in training and evaluation", low=0)
    inner: float = setting("radius of the inner circle (y = +1)", above=0)
    outer: float = setting("radius of the outer circle (y = -1)", above=0)
    margin: float = setting("gamma of the lines: half their distance", above=0)
    noise: float = setting("sigma of the lines", low=0)
    n: tuple[int, ...] = setting("training examples", low=2)
    width: int = setting("hidden neurons", low=1)
    learning_rate: float = setting("of SGD", above=0)
    momentum: float = setting("of SGD", low=0, high=0.999)
    epochs: int = setting("full-batch epochs of training", low=1)
    test: int = setting("test examples per trial", low=1)
    pixels: int = setting("points along each side of the drawn region", low=2)
    image_radius: float = setting("l2 radius of the adversarial example on the image", low=0)

    def check(self) -> None:
        check_test_size("test", self.test)
        if self.inner >= self.outer:
            raise SettingsError(
                f"inner is {self.inner} and outer is {self.outer}, but the inner radius must be smaller"
            )

    @property
    def reach(self) -> float:
        """Half the side of the drawn square."""
        return 1.3 * self.outer


def _settings(**changes) -> PictureSettings:
    common = {
        "task": TASKS,
        "defence": ("standard", "adversarial", "coap"),
        "epsilon": (0.2, 0.9),
        "inner": 1.0,
        "outer": 3.0,
        "margin": 1.0,
        "noise": 1.0,
        "n": (50,),
        "width": 100,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "epochs": 1000,
        "trials": 5,
        "test": 1000,
        "pixels": 121,
        "image_radius": 1.5,
    }
    return PictureSettings(**{**common, **changes})


_SCALES = {
    "smoke": _settings(
        task=("circles",), defence=("adversarial", "coap"), epochs=50, trials=2, test=100, pixels=21, width=20
    ),
    "default": _settings(),
    "paper": _settings(trials=15, test=10_000, pixels=241),
}


def task_of(settings: PictureSettings, name: str) -> Task:
    """The task of that name."""
    if name == "circles":
        return ConcentricSpheres(2, settings.inner, settings.outer)
    return LinearlySeparable(2, settings.margin, settings.noise)


def _training_set(settings: PictureSettings, name: str, n: int, trial_key: PRNGKeyArray):
    return task_of(settings, name).sample(jr.split(trial_key, 3)[0], n)


def _attack(network, threat, x, label):
    return attacks.apgd(network, threat, x, label, steps=10, objective="margin")


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
    side = jnp.linspace(-settings.reach, settings.reach, settings.pixels)

    def run(coords, key):
        task, threat = task_of(settings, coords["task"]), L2(coords["epsilon"])
        x, y = _training_set(settings, coords["task"], coords["n"], key)
        _, init_key, test_key = jr.split(key, 3)
        start = networks.mlp(init_key, 2, (settings.width,))
        recipe = train.Recipe(settings.learning_rate, settings.momentum, epochs=settings.epochs)
        fit = train.fit(test_key, start, x, y, threat, loss_of(coords["defence"], _attack), recipe)

        def margin_at(u, v):
            logits = fit.network(jnp.stack([u, v]))
            return logits[1] - logits[0]

        found = metrics.evaluate(test_key, fit.network, task, threat, lambda _, *a: _attack(*a), n=settings.test)
        # The first example of the outer class (or the negative line) is the one the talk's picture perturbs.
        shown = jnp.argmax(y < 0)
        dual = metrics.perturbations(
            test_key, fit.network, threat, x[shown], networks.label(y[shown]), lambda _, *a: _attack(*a)
        )[0]
        return {
            **found,
            "margin_map": jax.vmap(lambda v: jax.vmap(lambda u: margin_at(u, v))(side))(side),
            "sample_attack": dual["attack"],
            "sample_dual": dual["dual"],
            "diverged": fit.diverged,
        }

    return run


def exhibits(settings: PictureSettings, key: PRNGKeyArray) -> xr.Dataset:
    """The training points of trial 0, the perturbed sample with its signal, and the adversarial example on an image."""
    variables: dict = {}
    for name in settings.task:
        x, y = _training_set(settings, name, settings.n[0], sweep.trial_key(key, 0))
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
    found = jax.jit(_attack)(fit.network, threat, x[0], networks.label(y[0]))
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
    scales=_SCALES,
    grid=grid,
    cell=cell,
    figure=plots.picture,
    verdict=verdict,
    notes=notes,
    exhibits=exhibits,
    core=CATALOGUE["picture"].core,
    numbers=3,
)
