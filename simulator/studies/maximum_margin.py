"""Robust maximum-margin classifiers on linear data, solved and predicted: how a budget along the signal turns them.

Three studies of one family: the budget along the signal (`theory-directed`), in a ball (`theory-l2`), and between
(`share-along-signal`).  Simulated means: draw the training points, solve for the classifier, attack fresh examples.
Predicted means: closed forms of the margin of the noise, of the same points (`*_theory`) or in the limit (`*_limit`).
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import xarray as xr

from simulator import metrics, networks, span, sweep, theory, trials
from simulator.catalogue import CATALOGUE
from simulator.data import LinearlySeparable
from simulator.plots import figures
from simulator.studies import prediction, protocol
from simulator.studies.settings import Settings, check_test_size, setting
from simulator.studies.study import Study, Verdict
from simulator.threats import Spheroid


@dataclass(frozen=True, kw_only=True)
class MaximumMarginSettings(Settings):
    """Axes n, dim, share, epsilon, trial."""

    share: tuple[float, ...] = setting("of the budget along the signal: 0 an l2 ball, 1 a segment", low=0, high=1)
    epsilon: tuple[float, ...] = setting("how far the threat reaches along the signal", low=0)
    n: tuple[int, ...] = setting("training examples", low=2)
    dim: tuple[int, ...] = setting("dimension of the data", low=2)
    margin: float = setting("gamma: half the class separation", above=0)
    noise: float = setting("sigma of every coordinate but the signal", above=0)
    test: int = setting("test examples per trial", low=1)

    def check(self) -> None:
        check_test_size("test", self.test)


_RADII = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0)
_DEFAULT: dict[str, Any] = {
    "epsilon": _RADII,
    "n": (50, 200),
    "dim": (1000,),
    "margin": 6.0,
    "noise": 1.0,
    "trials": 10,
    "test": 20_000,
}
_PAPER: dict[str, Any] = {**_DEFAULT, "n": (20, 50, 200, 500), "trials": 15, "test": 100_000}
_SMOKE: dict[str, Any] = {**_DEFAULT, "epsilon": (0.0, 3.0, 5.0), "n": (20,), "dim": (100,), "trials": 2, "test": 1000}
_BETWEEN: dict[str, Any] = {"share": (0.0, 0.25, 0.5, 0.75, 0.9, 1.0), "epsilon": (0.0, 1.5, 3.0, 4.5, 5.5)}


def grid(settings: MaximumMarginSettings) -> sweep.Grid:
    """The axes of the studies."""
    axes = {name: getattr(settings, name) for name in ("n", "dim", "share", "epsilon")}
    return sweep.Grid(axes, settings.trials, static=("n", "dim"), inner="epsilon")


def cell(settings: MaximumMarginSettings) -> sweep.Cell:
    """Solve for one classifier, in the span of the training points and the signal, and measure it."""

    def prepare(coords, key):
        task = LinearlySeparable(coords["dim"], settings.margin, settings.noise)
        x, y = task.sample(jr.split(key)[0], coords["n"])
        # The solver starts from nothing: a row of zeros adds no direction to the span.
        problem = span.fewest(
            span.problem(task, networks.from_weights([(jnp.zeros((1, task.dim)), jnp.zeros(1))]), x, y)
        )
        return problem, prediction.noise_margin(problem.task, problem.x, problem.y)

    def run(coords, key, drawn):
        problem, margin = drawn
        task, threat = problem.task, Spheroid(coords["epsilon"], coords["share"], problem.task.direction)
        found = theory.max_margin(problem.x * problem.y.astype(problem.x.dtype)[:, None], threat)
        network = networks.from_weights([(found.weight[None], jnp.zeros(1))])
        measured = metrics.evaluate(jr.split(key)[1], network, task, threat, protocol.exact_attack, n=settings.test)
        predicted = {"theory": margin, "limit": prediction.limit(task, coords["n"], coords["dim"])}
        result = {name: measured[name] for error in prediction.ERRORS for name in (error, f"{error}_se_test")}
        for name, value in predicted.items():
            optimum = theory.plane_optimum(value, task, threat)
            p, q = optimum
            result[f"alignment_{name}"] = p / jnp.hypot(p, q)
            result[f"noise_margin_{name}"] = value
            result[f"regime_{name}"] = theory.regime(optimum)
            result |= prediction.errors(value, task, threat, threat, name)
        return {**result, "alignment": found.weight @ task.direction, "gap": found.gap, "outcome": found.outcome}

    return sweep.Staged(prepare, run)


def _first(result: xr.Dataset) -> xr.Dataset:
    return result.isel(n=0, dim=0)


def _turns(result: xr.Dataset) -> Verdict:
    """The closed form holds, and along the signal both errors grow with the radius up to the margin."""
    agreed, words = prediction.agreement(result)
    steps = [trials.over_trials(_first(result).isel(share=-1), name)[0] for name in prediction.ERRORS]
    below = steps[0]["epsilon"] < json.loads(result.attrs["settings"])["margin"]
    if int(below.sum()) < 2:
        return Verdict(False, f"{words}; needs two radii below the margin to test the claim")
    low, high = (steps[0].sel(epsilon=below)[end] for end in (0, -1))
    grows = bool((steps[0].sel(epsilon=below).diff("epsilon") >= 0).all())
    return Verdict(
        agreed and grows and bool(high > low),
        f"{words}; the standard error goes from {float(low):.3f} at epsilon = {float(low['epsilon']):g} to "
        f"{float(high):.3f} at {float(high['epsilon']):g}{'' if grows else ', not always rising'}",
    )


def _keeps(result: xr.Dataset) -> Verdict:
    """The closed form holds, and in a ball the direction does not move."""
    agreed, words = prediction.agreement(result)
    cosine = result["alignment"].where(result["status"] == "ok").isel(share=0)
    moved = float((cosine.max("epsilon") - cosine.min("epsilon")).max())
    held = agreed and moved <= STILL
    return Verdict(
        held, f"{words}; over epsilon the cosine of a classifier with the signal moves by at most {moved:.1g}"
    )


STILL = 0.01
"""A cosine that moves by less has not moved: the solver's relative gap of 1e-4 leaves an angle of that order."""


def _depends(result: xr.Dataset) -> Verdict:
    """The closed form holds, and the larger the share along the signal, the smaller the cosine with it."""
    agreed, words = prediction.agreement(result)
    if result["share"].size < 2:
        return Verdict(False, f"{words}; needs two shares to test the claim")
    last = _first(result).isel(epsilon=-1)
    cosine, _, _ = trials.over_trials(last, "alignment")
    robust, _, _ = trials.over_trials(last, "robust_error")
    falls = bool((cosine.diff("share") < 0).all())
    shares = result["share"].values
    return Verdict(
        agreed and falls,
        f"{words}; at epsilon = {float(last['epsilon']):g} the cosine of the classifier with the signal goes from "
        f"{float(cosine[0]):.3f} at share {shares[0]:g} to {float(cosine[-1]):.3f} at share {shares[-1]:g}, the robust "
        f"error from {float(robust[0]):.3f} to {float(robust[-1]):.3f}",
    )


def _notes(settings: MaximumMarginSettings) -> dict[str, str]:
    del settings
    return {
        "classifier": "robust maximum margin by an interior-point method, to a relative duality gap of 1e-4 (`gap`)",
        "attack": "evaluation: exact (a linear classifier)",
        "theory": f"*_theory: {prediction.NOTE}; *_limit: the same from the limit of that margin",
        "selection": "none",
        "interval": "standard error over trials; *_se_test over test examples",
    }


def _study(name: str, verdict, title: str, along: str, lines: str, **axes: Any) -> Study:
    # In seconds: the few radii, and the two ends of the shares.
    few = {"share": tuple(dict.fromkeys((axes["share"][0], axes["share"][-1])))}
    return Study(
        name=name,
        claim=CATALOGUE[name].claim,
        shows=CATALOGUE[name].shows,
        scales={
            "smoke": MaximumMarginSettings(**{**_SMOKE, **few}),
            "default": MaximumMarginSettings(**{**_DEFAULT, **axes}),
            "paper": MaximumMarginSettings(**{**_PAPER, **axes}),
        },
        grid=grid,
        cell=cell,
        figure=partial(figures.prediction, along=along, lines=lines, title=title),
        verdict=verdict,
        notes=_notes,
        core=CATALOGUE[name].core,
    )


STUDIES = (
    _study("theory-directed", _turns, "Budget along the signal", "epsilon", "n", share=(1.0,)),
    _study("theory-l2", _keeps, "Budget in an l2 ball", "epsilon", "n", share=(0.0,)),
    _study("share-along-signal", _depends, "Budget between ball and segment", "share", "epsilon", **_BETWEEN),
)
