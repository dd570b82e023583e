"""Thesis figures 3.7 and 3.8: errors and unstable neurons under l2 balls, on linear data and on spheres."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.random as jr
import numpy as np
import xarray as xr

from simulator import sweep, trials
from simulator.catalogue import CATALOGUE
from simulator.defences import DEFENCES
from simulator.plots import figures
from simulator.studies import prediction, protocol, two_tasks
from simulator.studies.protocol import PAIR
from simulator.studies.settings import setting
from simulator.studies.study import Published, Study, Verdict
from simulator.studies.two_tasks import TASKS, THESIS, THESIS_TRIALS, TwoTasksSettings
from simulator.threats import L2

NEAR = 0.05
"""What "nearly the same robust error" means in the claim."""


@dataclass(frozen=True, kw_only=True)
class L2BudgetSettings(TwoTasksSettings):
    """Axes task, defence, n, dim, epsilon, trial."""

    width: int = setting("hidden neurons", low=1)
    counted_epsilon: tuple[float, ...] = setting("further radii of COAP on the linear data (unstable neurons)", low=0)

    def epsilon_of(self, task: str, defence: str) -> tuple[float, ...]:
        """The radii a defence is run at on a task."""
        further = self.counted_epsilon if (task, defence) == ("linear", "coap") else ()
        return (*further, *super().epsilon_of(task, defence))


UNSTABLE_AT = (0.2, 0.4, 0.8, 1.0)
"""The radii of the published shares of unstable neurons."""

_THESIS: dict[str, Any] = {
    **THESIS,
    **protocol.THOROUGHLY,
    "defence": DEFENCES,
    "spheres_epsilon": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "linear_epsilon": (3.0, 3.5, 4.0, 4.5, 5.0),
    "counted_epsilon": UNSTABLE_AT,
    "every": 5,
    "width": 100,
    "trials": THESIS_TRIALS,
    # The thesis has 100,000, at ten times the cost: a mean over 15 trials has a sampling error of at most 0.0013 with
    # these, far below what trials differ by.
    "test": 10_000,
}
_DEFAULT: dict[str, Any] = {**_THESIS, **protocol.QUICKLY, "trials": 5, "test": 2000}
_SMOKE: dict[str, Any] = {
    **_DEFAULT,
    **two_tasks.SMOKE,
    "spheres_epsilon": (0.1, 1.0),
    "linear_epsilon": (3.0, 5.0),
    "counted_epsilon": (1.0,),
    "width": 10,
}


def cell(settings: L2BudgetSettings) -> sweep.Cell:
    """Train one network, in the span of what a trial draws, and measure it."""

    def prepare(coords, key):
        data_key, init_key, _ = jr.split(key, 3)
        problem = two_tasks.draw(settings, coords, data_key, init_key, (settings.width,))
        return problem, prediction.noise_margin(problem.task, problem.x, problem.y)

    def run(coords, key, drawn):
        (problem, noise_margin), threat = drawn, L2(coords["epsilon"])
        return {
            **protocol.outcome(
                settings, protocol.training_loss(coords["defence"]), jr.split(key, 3)[2], problem, threat
            ),
            **prediction.beside(noise_margin, problem.task, threat, coords["defence"]),
        }

    return sweep.Staged(prepare, run)


def verdict(result: xr.Dataset) -> Verdict:
    """Both halves of the claim: near each other on linear data, apart on the spheres."""
    missing = protocol.lacks(result)
    if missing is not None or not set(TASKS) <= set(result["task"].values):
        return missing or Verdict(False, "needs the tasks spheres and linear; run both to test the claim")
    gaps = {
        task: trials.paired_difference(trials.first_run(result.sel(task=task), "n", "dim"), "robust_error", **PAIR)
        for task in TASKS
    }
    linear = gaps["linear"][0].dropna("epsilon")
    spheres, sem = (values.dropna("epsilon") for values in gaps["spheres"])
    if not linear.size or not spheres.size:
        return Verdict(False, "needs a radius that both defences were run at, on both tasks, to test the claim")
    held = bool((abs(linear) <= NEAR).all()) and bool(spheres[-1] > 2 * sem[-1])
    sentence = (
        f"COAP minus adversarial robust error is between {float(linear.min()):+.3f} and {float(linear.max()):+.3f} on "
        f"linear data, and on the spheres {float(spheres[0]):+.3f} at epsilon = {float(spheres['epsilon'][0]):g} and "
        f"{float(spheres[-1]):+.3f} (paired s.e. {float(sem[-1]):.3f}, {result['trial'].size} trials) at "
        f"{float(spheres['epsilon'][-1]):g}"
    )
    return Verdict(held, sentence)


OPTIMISED = (
    "Robust error of adversarial training at epsilon = 4.5 and 5 on linear data: in the study `optimisation` (problem "
    "linear-ball, epsilon = 4.5, the best learning rate) it is 0.419 after 150 and 0.419 after 1500 epochs, 0.402 and "
    "0.445 at widths 10 and 1000, 0.643 without momentum, but 0.325 from an initialisation of a tenth the scale and "
    "0.511 from one of three times: of these only the initial scale moves it past the published 0.378, so a smaller "
    "one than PyTorch's would explain the difference; the thesis does not state its initialisation."
)
"""Where the published values of adversarial training could come from, after 150 epochs unless it says otherwise."""

SCALED = (
    "A smaller initialisation would explain the smaller differences, too: the published value lies between ours and "
    "that from initial weights and biases 0.3 times PyTorch's (5 trials of 2000 test examples, training attack, best "
    "rate, not kept): robust error of standard training at epsilon = 5 on linear data 0.670 and 0.632 (published "
    "0.659), of COAP at 3.5 0.0208 and 0.0188 (0.020), unstable neurons on the spheres at 0.2 0.476 and 0.492 (0.489)."
)
"""Runs that were made to explain the rest."""


def _remarks(result: xr.Dataset) -> list[str]:
    """What explains the places where the curves differ, from this result or from that of another study."""
    if not set(TASKS) <= set(result["task"].values) or "coap" not in result["defence"].values:
        return []
    optimised = "adversarial" in result["defence"].values and float(result["epsilon"].max()) >= 4.5
    return [*_of_selection(result), *_of_spheres(result), *([OPTIMISED, SCALED] if optimised else [])]


def _of_spheres(result: xr.Dataset) -> list[str]:
    """What the rates that were selected on the spheres say about the shares of unstable neurons there."""
    coap = trials.first_run(result.sel(task="spheres", defence="coap"), "n", "dim")
    rates = coap["selected_learning_rate"].where(coap["status"] == "ok")
    smallest = abs(rates / rates.min() - 1) < 1e-3
    shares = []
    for epsilon in sorted(set(UNSTABLE_AT) & set(coap["epsilon"].values)):
        here, slow = coap["unstable"].sel(epsilon=epsilon), smallest.sel(epsilon=epsilon)
        others = here.where(~slow & rates.sel(epsilon=epsilon).notnull())
        rest = f", {float(others.mean()):.3f} in the other {int(others.count())}" if int(others.count()) else ""
        shares.append(
            f"{float(here.where(slow).mean()):.3f} in {int(slow.sum())} trials{rest} at epsilon = {epsilon:g}"
        )
    if not shares:
        return []
    return [
        f"Unstable neurons on the spheres: where the learning rate {float(rates.min()):g} is selected the share is "
        f"{'; '.join(shares)}: at the larger radii the trials that select another rate lower the mean."
    ]


def _of_selection(result: xr.Dataset) -> list[str]:
    """What the learning rates that were selected say about the two places where COAP's curves differ."""
    coap = trials.first_run(result.sel(task="linear", defence="coap"), "n", "dim")
    ties, last = coap.sel(epsilon=coap["epsilon"] <= 1), coap.isel(epsilon=-1)
    remarks = []
    if ties["epsilon"].size:
        rates, robust = (
            ties[name].where(ties["status"] == "ok") for name in ("selected_learning_rate", "robust_error")
        )
        remarks.append(
            "Unstable neurons on linear data: at these radii the largest robust error of any trial is "
            f"{float(robust.max()):.3f}, so a selection by robust error is a tie, which ours gives to the first "
            f"learning rate ({_listed(rates)}); the study `selection` has the shares at every rate, and the published "
            "ones lie between those at 0.01 and at 0.001."
        )
    constant = last["standard_error"].where(last["status"] == "ok") > CONSTANT
    if bool(constant.any()):
        others = last["robust_error"].where((last["status"] == "ok") & ~constant)
        mean = f"{float(others.mean()):.3f}" if int(others.count()) else "none left"
        remarks.append(
            f"Robust error of COAP at epsilon = {float(last['epsilon']):g} on linear data: {int(constant.sum())} of "
            f"{int((last['status'] == 'ok').sum())} trials are constant classifiers (learning rate "
            f"{_listed(last['selected_learning_rate'].where(constant))}), whose robust error of a half is below that "
            f"of every other rate, so the selection prefers them; mean of the other trials: {mean}."
        )
    return remarks


CONSTANT = 0.4
"""A standard error that only a classifier which hardly looks at x has on linear data."""


def _listed(rates: xr.DataArray) -> str:
    values, counts = np.unique(rates.values[np.isfinite(rates.values)].round(6), return_counts=True)
    return ", ".join(f"{value:g} in {count}" for value, count in zip(values, counts, strict=True))


def _errors(defence: str, values: tuple[float, ...]) -> Published:
    source = "De Bartolomeis, master thesis, Fig 3.7a (digitised, about 0.002)"
    at = {"task": "linear", "defence": defence, "n": 50, "dim": 1000}
    return Published(
        "robust_error", at, "epsilon", dict(zip(_THESIS["linear_epsilon"], values, strict=True)), source, THESIS_TRIALS
    )


def _unstable(task: str, dim: int, values: tuple[float, ...]) -> Published:
    source = "De Bartolomeis, master thesis, Fig 3.8 (digitised; in per cent there)"
    at = {"task": task, "defence": "coap", "n": 50, "dim": dim}
    return Published("unstable", at, "epsilon", dict(zip(UNSTABLE_AT, values, strict=True)), source, THESIS_TRIALS)


STUDY = Study(
    name="l2-budget",
    claim=CATALOGUE["l2-budget"].claim,
    shows=CATALOGUE["l2-budget"].shows,
    scales={
        "smoke": L2BudgetSettings(**_SMOKE),
        "default": L2BudgetSettings(**_DEFAULT),
        "paper": L2BudgetSettings(**_THESIS),
    },
    grid=two_tasks.grid,
    cell=cell,
    figure=partial(figures.errors, along="epsilon", rows=("task",), title="l2 balls: errors over the radius"),
    verdict=verdict,
    notes=lambda settings: {
        **protocol.notes(settings, L2(1.0)),
        "theory": f"*_theory, linear data only: {prediction.NOTE}",
    },
    published=(
        _errors("standard", (0.004, 0.030, 0.129, 0.359, 0.659)),
        _errors("adversarial", (0.003, 0.029, 0.142, 0.378, 0.686)),
        _errors("coap", (0.003, 0.020, 0.132, 0.376, 0.644)),
        _unstable("linear", 1000, (0.092, 0.183, 0.359, 0.443)),
        _unstable("spheres", 100, (0.489, 0.632, 0.748, 0.797)),
    ),
    remarks=_remarks,
    core=CATALOGUE["l2-budget"].core,
    numbers=2,
)
