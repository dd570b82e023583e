"""Training with every relaxation: whether it is how tight a bound is that decides how the trained network errs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import xarray as xr

from simulator import bounds, losses, networks, span, sweep, train, trials
from simulator.catalogue import CATALOGUE
from simulator.plots import figures
from simulator.studies import protocol, two_tasks
from simulator.studies.settings import setting
from simulator.studies.study import Study, Verdict
from simulator.studies.two_tasks import THESIS, TwoTasksSettings
from simulator.threats import L2, SignalDirected, Threat

REFERENCE = "adversarial"
"""The defence on whose networks the relaxations are compared."""


@dataclass(frozen=True, kw_only=True)
class RelaxationsSettings(TwoTasksSettings):
    """Axes task, defence, n, dim, epsilon, trial; a defence is adversarial training or the bound it trains with."""

    defence: tuple[str, ...] = setting(
        "adversarial training, and bounds to train with", choices=lambda: (REFERENCE, *bounds.METHODS)
    )
    depth: int = setting("hidden layers; with one most relaxations are the same", low=1)
    width: int = setting("neurons of each hidden layer", low=1)


_DEFAULT: dict[str, Any] = {
    **THESIS,
    **protocol.QUICKLY,
    "defence": (
        REFERENCE,
        "ibp",
        "hbox",
        "crown-ibp",
        "crown-ibp-same",
        "coap",
        "crown",
        "crown-steep",
        "crown-zero",
        "crown-one",
    ),
    "depth": 2,
    "width": 50,
    "spheres_epsilon": (0.3, 1.0),
    "linear_epsilon": (4.0, 5.0),
    "learning_rates": (0.01, 0.001),
    "every": 150,
    "trials": 5,
    "test": 500,
}
_PAPER: dict[str, Any] = {
    **_DEFAULT,
    **protocol.THOROUGHLY,
    "learning_rates": (0.1, 0.01, 0.001),
    "trials": 15,
    "test": 10_000,
}
_SMOKE: dict[str, Any] = {
    **_DEFAULT,
    **two_tasks.SMOKE,
    "task": ("spheres",),
    "defence": (REFERENCE, "ibp", "coap", "crown-zero"),
    "width": 8,
    "spheres_epsilon": (1.0,),
    "linear_epsilon": (4.0,),
    "epochs": 15,
    "every": 15,
}


def threat_of(task: str, radius: jax.Array | float) -> Threat:
    """Perturbations along the signal on the linear data, where alone a gap is found there; l2 balls on the spheres."""
    return SignalDirected(radius) if task == "linear" else L2(radius)


def relaxations(settings: RelaxationsSettings) -> list[str]:
    """The bounds among the defences."""
    return [name for name in settings.defence if name in bounds.METHODS]


def cell(settings: RelaxationsSettings) -> sweep.Cell:
    """Train one network and measure it; one of adversarial training is bounded with every relaxation, too."""
    names = relaxations(settings)

    def run(coords, key, problem):
        threat = threat_of(coords["task"], coords["epsilon"])
        nothing = dict.fromkeys(("looseness_of", "sensitivity_of"), jnp.full(len(names), jnp.nan))
        also = compared(names, problem, threat) if coords["defence"] == REFERENCE else lambda fit: nothing
        return protocol.outcome(settings, _loss(coords["defence"]), key, problem, threat, also)

    return two_tasks.staged(settings, lambda coords: (settings.width,) * settings.depth, run)


def _loss(defence: str) -> losses.Loss:
    return protocol.training_loss(defence) if defence == REFERENCE else losses.certified(defence)


def compared(names: list[str], problem: span.Problem, threat: Threat) -> Callable[[train.Fit], dict[str, jax.Array]]:
    """What the relaxations say of a trained network on its training set: two variables, each [relaxation].

    `looseness_of`: the share of the bound's mean drop of the margin that the attack does not realise.
    `sensitivity_of`: the length of the gradient of the mean bound with respect to the weights, over that of the mean
    margin.
    """
    signal = jax.vmap(problem.task.signal)(problem.x, problem.y)

    def mean(function, network):
        def one(x, y, s):
            return jnp.min(function(network, threat.at(x, s), x, networks.label(y)))

        return jnp.mean(jax.vmap(one)(problem.x, problem.y, signal))

    def clean(network, here, x, label):
        return networks.margins(network, x, label)

    def attacked(network, here, x, label):
        return protocol.training_attack(network, here, x, label).margin

    def bound(name):
        def of(network, here, x, label):
            rows = networks.contrast(network, label, networks.others(network, label))
            return bounds.lower(network, here, x, rows, name)

        return of

    def measure(fit):
        at_x, slope = jax.value_and_grad(partial(mean, clean))(fit.network)
        found = jnp.minimum(mean(attacked, fit.network), at_x)
        pairs = [jax.value_and_grad(partial(mean, bound(name)))(fit.network) for name in names]
        values, slopes = zip(*pairs, strict=True)
        lower = jnp.stack(values)
        sizes = jnp.stack([optax.tree.norm(one) for one in slopes])
        return {
            "looseness_of": jnp.where(
                at_x > lower, (found - lower) / jnp.where(at_x > lower, at_x - lower, 1), jnp.nan
            ),
            "sensitivity_of": sizes / optax.tree.norm(slope),
        }

    return measure


def correlations(result: xr.Dataset) -> xr.DataArray:
    """Spearman's rank correlation, per trial, between how loose a relaxation is on the networks of adversarial training
    and the robust error of the network trained with it, at the largest radius of a task."""
    names = [name for name in result["relaxation"].values if name in result["defence"].values]
    ranks = []
    for trial in result["trial"].values:
        here = result.sel(trial=trial)
        loose = here["looseness_of"].sel(defence=REFERENCE).sel(relaxation=names).values
        error = here["robust_error"].sel(defence=names).values
        known = np.isfinite(loose) & np.isfinite(error)
        a, b = _ranks(loose[known]), _ranks(error[known])
        # Of constant errors nothing can be said.
        ranks.append(np.corrcoef(a, b)[0, 1] if known.sum() > 2 and np.ptp(a) and np.ptp(b) else np.nan)
    return xr.DataArray(ranks, {"trial": result["trial"]}, "trial")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values at the mean of theirs."""
    return pd.Series(values).rank().to_numpy()


def verdict(result: xr.Dataset) -> Verdict:
    """Whether looser relaxations train to larger robust errors, beyond 2 standard errors over trials, on every task."""
    missing = protocol.lacks(result, (REFERENCE,))
    if missing is not None:
        return missing
    held, parts = [], []
    for task in result["task"].values:
        chosen = trials.first_run(result.sel(task=task), "n", "dim")
        run = (chosen["status"] != "not_run").any(["defence", "trial"])
        last = chosen.isel(epsilon=int(np.flatnonzero(run.values)[-1]))
        ranks = correlations(last).dropna("trial")
        if ranks.size < 2:
            return Verdict(
                False, f"fewer than two trials of the task {task} have three relaxations whose errors differ"
            )
        mean, sem = float(ranks.mean()), float(ranks.std(ddof=1)) / ranks.size**0.5
        held.append(mean > 2 * sem)
        parts.append(f"{mean:+.2f} (s.e. {sem:.2f}) on the task {task} at epsilon = {float(last['epsilon']):g}")
    sentence = f"the rank correlation of looseness and robust error is {' and '.join(parts)}"
    return Verdict(all(held), f"{sentence}; {result['relaxation'].size} relaxations, {result['trial'].size} trials")


STUDY = Study(
    name="relaxations",
    claim=CATALOGUE["relaxations"].claim,
    shows=CATALOGUE["relaxations"].shows,
    scales={
        "smoke": RelaxationsSettings(**_SMOKE),
        "default": RelaxationsSettings(**_DEFAULT),
        "paper": RelaxationsSettings(**_PAPER),
    },
    grid=lambda settings: two_tasks.grid(
        settings,
        dims={"looseness_of": ("relaxation",), "sensitivity_of": ("relaxation",)},
        coords={"relaxation": relaxations(settings)},
    ),
    cell=cell,
    figure=figures.relaxations,
    verdict=verdict,
    notes=lambda settings: {
        **protocol.notes(settings, L2(1.0), (2, 2)),
        "looseness_of": "on the training set; attack: that of training",
    },
    core=CATALOGUE["relaxations"].core,
)
