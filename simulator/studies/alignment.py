"""The talk's last figure: cosine between perturbation and signal direction, and errors, against epochs."""

from dataclasses import dataclass

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

from simulator import metrics, span, sweep, train, trials
from simulator.catalogue import CATALOGUE
from simulator.defences import DEFENCES
from simulator.plots import figures
from simulator.studies import protocol, two_tasks
from simulator.studies.settings import SettingsError, check_test_size, setting
from simulator.studies.study import Published, Study, Verdict
from simulator.studies.two_tasks import THESIS, THESIS_TRIALS, TwoTasksSettings
from simulator.threats import L2


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings(TwoTasksSettings):
    """Axes task, defence, n, dim, epsilon, trial; `every` is also the distance of two points of the history."""

    width: int = setting("hidden neurons", low=1)
    history_test: int = setting("test examples behind each point of the history", low=1)
    samples: int = setting("test examples whose alignments are kept one by one", low=1)

    def check(self) -> None:
        super().check()
        check_test_size("history_test", self.history_test)
        if self.samples > self.test:
            raise SettingsError(f"samples is {self.samples}, but there are only test = {self.test} examples to keep")


def _settings(**changes) -> AlignmentSettings:
    """The published setting (thesis Fig 3.9 and appendix C.2), with what a scale changes."""
    published = {
        **THESIS,
        **protocol.THOROUGHLY,
        "defence": DEFENCES,
        "spheres_epsilon": (0.1, 1.0),
        "linear_epsilon": (3.0, 5.0),
        "epochs": 300,
        "every": 5,
        "width": 100,
        "trials": THESIS_TRIALS,
        "test": 10_000,
        "history_test": 500,
        "samples": 500,
    }
    return AlignmentSettings(**{**published, **changes})


_SCALES = {
    "smoke": _settings(
        task=("spheres",),
        defence=("adversarial", "coap"),
        learning_rates=(0.01, 0.001),
        epochs=60,
        every=20,
        spheres_dim=(20,),
        linear_dim=(50,),
        width=20,
        trials=2,
        test=100,
        history_test=50,
        attack_steps=10,
        attack_starts=1,
        samples=50,
    ),
    "default": _settings(trials=3, every=10, test=500, history_test=100, attack_steps=20, attack_starts=2, samples=200),
    "paper": _settings(),
}


def grid(settings: AlignmentSettings) -> sweep.Grid:
    """The axes of the study and how they are walked."""
    history = ("train_loss", "standard_error", "robust_error", "unstable", *_ALIGNMENTS)
    return two_tasks.grid(
        settings,
        dims={
            **{f"{name}_history": ("epoch",) for name in history},
            **{f"{name}_samples": ("sample",) for name in _ALIGNMENTS},
        },
        coords={
            "epoch": train.recorded_epochs(settings.epochs, settings.every),
            "sample": range(settings.samples),
        },
    )


_ALIGNMENTS = tuple(f"alignment_{name}" for name in metrics.PERTURBATIONS)


def cell(settings: AlignmentSettings) -> sweep.Cell:
    """Train one network, in the span of what a trial draws, and measure it."""

    def prepare(coords, key):
        data_key, init_key, *_ = jr.split(key, 6)
        return two_tasks.draw(settings, coords, data_key, init_key, (settings.width,))

    def run(coords, key, problem):
        _, _, *keys, history_key = jr.split(key, 6)
        threat = L2(coords["epsilon"])
        measure = _history(threat, problem, *problem.task.sample(history_key, settings.history_test))
        fit, rate = protocol.selected(
            settings, protocol.training_loss(coords["defence"]), tuple(keys), problem, threat, measure
        )
        history = {"train_loss": fit.history.pop("loss"), **fit.history}
        return {
            **protocol.evaluated(settings, keys[2], fit.network, problem, threat, settings.samples),
            **{f"{name}_history": value for name, value in history.items()},
            "selected_learning_rate": rate,
            "diverged": fit.diverged,
        }

    return sweep.Staged(prepare, run)


def _history(threat, problem: span.Problem, test_x, test_y):
    """What is recorded along training: alignments on the training set, as in the thesis; errors on test examples."""
    n = len(problem.y)
    both_x, both_y = jnp.concatenate([problem.x, test_x]), jnp.concatenate([problem.y, test_y])

    def measure(network):
        # The quick attack is deterministic: its key is not used.
        values = metrics.examine_all(jr.key(0), network, problem.task, threat, both_x, both_y, protocol.quick_attack)
        on_training = metrics.means({name: value[:n] for name, value in values.items()})
        on_test = metrics.means({name: value[n:] for name, value in values.items()})
        return {
            **{name: on_training[name] for name in (*_ALIGNMENTS, "unstable")},
            **{name: on_test[name] for name in ("standard_error", "robust_error")},
        }

    return measure


def verdict(result: xr.Dataset) -> Verdict:
    """Whether the gap between COAP and adversarial training needs a large radius, and follows the alignment in time."""
    if "spheres" not in result["task"] or not {"coap", "adversarial"} <= set(result["defence"].values):
        return Verdict(
            False, "needs the task spheres and the defences coap and adversarial; run them to test the claim"
        )
    spheres = trials.first_run(result.sel(task="spheres"), "n", "dim")
    radii = spheres["epsilon"].values[(spheres["status"] == "ok").any(("defence", "trial")).values]
    if len(radii) < 2 or spheres["trial"].size < 2:
        return Verdict(False, "needs a small and a large radius on the spheres and at least 2 trials to test the claim")
    gap, sem = trials.paired_difference(spheres, "robust_error", defence=("coap", "adversarial"))
    small, large = float(gap.sel(epsilon=radii[0])), float(gap.sel(epsilon=radii[-1]))
    large_sem = float(sem.sel(epsilon=radii[-1]))
    opens, aligned = _half_way(spheres.sel(epsilon=radii[-1]))
    held = large > 2 * large_sem and small < large / 2 and aligned <= opens
    sentence = (
        f"on the spheres COAP minus adversarial robust error is {small:+.3f} at epsilon = {radii[0]:g} and "
        f"{large:+.3f} (paired standard error {large_sem:.3f}, {spheres['trial'].size} trials) at {radii[-1]:g}; "
        f"there the adversarial attack's alignment has made half its rise by epoch {aligned:.0f}, "
        f"and the gap half of its own by epoch {opens:.0f}"
    )
    return Verdict(bool(held), sentence)


def _half_way(spheres: xr.Dataset) -> tuple[float, float]:
    """The epochs at which the robust-error gap and the alignment first reach half of their largest value or rise."""
    gap, _ = trials.paired_difference(spheres, "robust_error_history", defence=("coap", "adversarial"))
    mean, _, _ = trials.over_trials(spheres, "alignment_attack_history")
    cosine = mean.sel(defence="adversarial")
    rise = cosine - cosine[0]

    def first(values: xr.DataArray) -> float:
        return float(values["epoch"][int(np.argmax((values >= values.max() / 2).values))])

    return first(gap), first(rise)


def notes(settings: AlignmentSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of the store."""
    return {
        **protocol.notes(settings, L2(1.0)),
        "alignment_history": "alignments on the training examples, errors on test examples",
    }


def _published(defence: str, variable: str, values: dict[float, float]) -> Published:
    at = {"task": "spheres", "defence": defence, "n": 50, "dim": 100, "epsilon": 1.0}
    source = "De Bartolomeis, master thesis, Fig 3.9 (digitised; its radius is not printed, ours is 1)"
    return Published(f"{variable}_history", at, "epoch", values, source, THESIS_TRIALS)


RECIPE = (
    "Adversarial training on the spheres errs less, earlier: at half the effective learning rate (simulator run "
    "alignment --task spheres --spheres-epsilon 1 --learning-rates 0.001 --momentum 0.9, 3 trials) its robust error is "
    "0.47, 0.46, 0.42, 0.06, 0.00 at the five published epochs after the first (published: 0.51, 0.50, 0.38, 0.20, "
    "0.03) and its standard error 0.10 at epoch 72 (0.20); a larger radius with our recipe delays the robust error too "
    "(0.47, 0.46, 0.34, 0.12, 0.01 at radius 2), but not the standard one (0.00 at epoch 72). A slower "
    "training would fit: the figure has 300 epochs where the appendix has 150, and does not say which rate it shows. "
    "The initialisation would explain the alignment, which none of these lowers enough (0.38 at epoch 88, momentum "
    "0.9): from He's (mlp with init he, 3 trials, all else as here) adversarial training's is 0.29, 0.39, 0.44 at "
    "epochs 88, 160, 298 (published: 0.31, 0.36, 0.395) and COAP's 0.29, 0.36 at 75, 300 (0.25, 0.295); with momentum "
    "0.9 the robust error then falls as late as published (0.55, 0.54, 0.52, 0.28, 0.02). The thesis does not state "
    "its initialisation; on linear data a smaller one than PyTorch's would fit (see l2-budget), so it stays open."
)
"""Recipes that were tried to explain where adversarial training's curves differ."""


def _remarks(result: xr.Dataset) -> list[str]:
    compared = "adversarial" in result["defence"].values and "spheres" in result["task"].values
    return [RECIPE] if compared and 1.0 in result["epsilon"].values else []


STUDY = Study(
    name="alignment",
    claim=CATALOGUE["alignment"].claim,
    shows=CATALOGUE["alignment"].shows,
    scales=_SCALES,
    grid=grid,
    cell=cell,
    figure=figures.alignment,
    verdict=verdict,
    notes=notes,
    published=(
        _published("adversarial", "alignment_attack", {0: 0.09, 88: 0.31, 160: 0.36, 298: 0.395}),
        _published("coap", "alignment_attack", {0: 0.09, 75: 0.25, 300: 0.295}),
        _published("adversarial", "standard_error", {0: 0.553, 22: 0.42, 72: 0.20, 115: 0.01, 300: 0.0}),
        _published("coap", "standard_error", {0: 0.55, 75: 0.24, 170: 0.31, 250: 0.40, 300: 0.44}),
        _published("adversarial", "robust_error", {0: 0.85, 70: 0.51, 105: 0.50, 140: 0.38, 203: 0.20, 279: 0.03}),
        _published("coap", "robust_error", {0: 0.85, 65: 0.45, 100: 0.47, 135: 0.37, 200: 0.45, 300: 0.45}),
    ),
    remarks=_remarks,
    core=CATALOGUE["alignment"].core,
    numbers=4,
)
