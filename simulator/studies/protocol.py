"""How the studies that compare errors train, select and measure a defence: one protocol, the same for every defence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from simulator import attacks, bounds, metrics, networks, span, train, trials
from simulator.studies.defences import DEFENCES, loss_of
from simulator.studies.settings import Settings, SettingsError, check_test_size, setting
from simulator.studies.study import Verdict
from simulator.threats import Threat

SELECTIONS = ("validation", "test")
TRAINING_STEPS = 10
"""Steps of the APGD attack in training, as in the papers."""

PAIR = {"defence": ("coap", "adversarial")}
"""The gap the papers are about: the error of COAP minus that of adversarial training."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Settings):
    """Settings of training, selection and measurement; subclasses add the axes of their data and threat."""

    defence: tuple[str, ...] = setting("ways to train", choices=DEFENCES)
    learning_rates: tuple[float, ...] = setting("of SGD: candidates of which one is selected per cell", above=0)
    selection: str = setting("sample the learning rate is selected on; 'test' is the papers' rule", choices=SELECTIONS)
    momentum: float = setting("of SGD", low=0, high=0.999)
    epochs: int = setting("epochs of training", low=1)
    batch: int = setting("examples per step; 0 is the full training set", low=0)
    every: int = setting("epochs between two counts of unstable neurons; divides epochs", low=1)
    n: tuple[int, ...] = setting("training examples", low=2)
    width: int = setting("hidden neurons", low=1)
    test: int = setting("test examples per trial, and validation examples", low=1)
    attack_steps: int = setting("steps of each attack of the final evaluation", low=1)
    attack_starts: int = setting("starts of each attack of the final evaluation", low=1)

    def check(self) -> None:
        check_test_size("test", self.test)
        if self.epochs % self.every:
            raise SettingsError(f"every is {self.every}, but must divide epochs = {self.epochs}")
        if self.batch > min(self.n):
            raise SettingsError(f"batch is {self.batch}, but the smallest n is {min(self.n)}: give batch <= n, or 0")


def training_attack(network, threat: Threat, x, label) -> attacks.Attack:
    """The exact worst case where it is known, else APGD on the margin from the example."""
    if attacks.has_exact(network, threat):
        return attacks.exact(network, threat, x, label)
    return attacks.apgd(network, threat, x, label, steps=TRAINING_STEPS, objective="margin")


def outcome(settings: Protocol, defence: str, key: PRNGKeyArray, problem: span.Problem, threat: Threat) -> dict:
    """Train with every learning rate, select one, and measure it: the variables of a cell."""
    batch_key, validation_key, test_key = jr.split(key, 3)
    held_out = test_key if settings.selection == "test" else validation_key
    signal = jax.vmap(problem.task.signal)(problem.x, problem.y)
    rates = jnp.array(settings.learning_rates)

    def candidate(rate):
        recipe = train.Recipe(rate, settings.momentum, epochs=settings.epochs, batch=settings.batch)
        loss, measure = loss_of(defence, training_attack), _unstable(problem, threat, signal)
        fit = problem.fit(batch_key, threat, loss, recipe, signal=signal, measure=measure, every=settings.every)
        quick = metrics.evaluate(
            held_out, fit.network, problem.task, threat, lambda _, *example: training_attack(*example), n=settings.test
        )
        return fit, quick

    def strong(key, *example):
        return attacks.strongest(
            key, *example, steps=settings.attack_steps, count=settings.attack_starts, draw=problem.task.isotropic
        )

    fits, scores = jax.lax.map(candidate, rates)
    chosen = metrics.select(scores["robust_error"], scores["standard_error"])
    best = jax.tree.map(lambda leaf: leaf[chosen], fits)
    return {
        **metrics.evaluate(test_key, best.network, problem.task, threat, strong, n=settings.test),
        # The published bars are sums over epochs.
        "unstable_epochs": settings.epochs * jnp.mean(best.history["unstable"][1:]),
        "train_loss": best.history["loss"][-1],
        "selected_learning_rate": rates[chosen],
        "diverged": best.diverged,
    }


def _unstable(problem: span.Problem, threat: Threat, signal: Float[Array, "n d"]) -> Callable:
    """What is recorded along training: the mean share of unstable neurons on the training set."""

    def share(network, x, s):
        # Of a network with one hidden layer these bounds are exact, whatever the method.
        return bounds.unstable_share(bounds.preactivations(network, threat.at(x, s), x, "coap"), x.dtype)

    return lambda network: {"unstable": jnp.mean(jax.vmap(lambda x, s: share(network, x, s))(problem.x, signal))}


def notes(settings: Protocol, threat: Threat) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of a store; `threat` is one of the kind that is used."""
    # What the attack is depends on the kind of network and threat alone, not on its numbers.
    network = networks.mlp(jr.key(0), 1, (settings.width,))
    final = attacks.describe(network, threat, steps=settings.attack_steps, count=settings.attack_starts)
    quick = "exact worst case" if attacks.has_exact(network, threat) else f"apgd-margin, {TRAINING_STEPS} steps"
    return {
        "attack": f"final: {final}; training and selection: {quick} from the example",
        "certified_by": f"best of {', '.join(metrics.CERTIFIERS)} per example",
        "selection": f"learning rate with the smallest robust error (ties: standard error) on a {settings.selection} "
        f"sample of {settings.test}, per cell; last epoch",
        "unstable_epochs": f"sum over epochs of the share of unstable neurons on the training set, from every "
        f"{settings.every} epochs",
        "interval": "standard error over trials; differences between defences are paired by trial",
    }


def lacks(result: xr.Dataset) -> Verdict | None:
    """Why a result cannot decide a claim about the gap between COAP and adversarial training; None if it can."""
    if not set(PAIR["defence"]) <= set(result["defence"].values):
        return Verdict(False, "needs the defences coap and adversarial; run both to test the claim")
    if result["trial"].size < 2:
        return Verdict(False, "one trial has no standard error; run at least 2 to test the claim")
    return None


def gap_grows(result: xr.Dataset, axis: str, per: str) -> Verdict:
    """Whether COAP's excess in robust error is above 0 at the last position along an axis, and above the first one's.

    Both by more than 2 standard errors over trials, for every value of the axis `per`.
    """
    missing = lacks(result)
    if missing is not None or result[axis].size < 2:
        return missing or Verdict(False, f"needs two values of {axis} to test the claim")
    held, parts = [], []
    for value in result[per].values:
        chosen = trials.first_run(result.sel({per: value}), "n", "dim")
        gap, sem = trials.paired_difference(chosen, "robust_error", **PAIR)
        first, last = gap.isel({axis: 0}), gap.isel({axis: -1})
        rise, rise_sem = _rise(chosen, axis)
        held.append(bool(last > 2 * sem.isel({axis: -1})) and rise > 2 * rise_sem)
        parts.append(
            f"{float(first):+.3f} at {axis} = {_value(gap, axis, 0)} and {float(last):+.3f} (paired s.e. "
            f"{float(sem.isel({axis: -1})):.3f}) at {_value(gap, axis, -1)} with {per} = {value:g}"
        )
    sentence = f"COAP minus adversarial robust error is {'; '.join(parts)}; {result['trial'].size} trials"
    return Verdict(all(held), sentence)


def _value(values: xr.DataArray, axis: str, at: int) -> str:
    return f"{float(values[axis].values[at]):g}"


def _rise(result: xr.Dataset, axis: str) -> tuple[float, float]:
    """How much the gap grows from the first to the last position, and the standard error of that, paired by trial."""
    ok = result["robust_error"].where(result["status"] == "ok")
    gap = ok.sel(defence=PAIR["defence"][0], drop=True) - ok.sel(defence=PAIR["defence"][1], drop=True)
    rises = (gap.isel({axis: -1}, drop=True) - gap.isel({axis: 0}, drop=True)).dropna("trial").values
    spread = float(np.std(rises, ddof=1) / np.sqrt(rises.size)) if rises.size > 1 else np.nan
    return float(np.mean(rises)) if rises.size else np.nan, spread


def one_hidden_layer(settings: Protocol, key: PRNGKeyArray, dim: int) -> Any:
    """The network of the papers: one hidden layer, two logits."""
    return networks.mlp(key, dim, (settings.width,))
