"""How the studies that compare errors train, select and measure a defence: one protocol, the same for every defence."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

import jax
import jax.numpy as jnp
import jax.random as jr
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from simulator import attacks, bounds, metrics, networks, span, train, trials
from simulator.defences import loss_of, without_warmup
from simulator.losses import Loss, Schedule
from simulator.networks import Network
from simulator.studies.settings import Settings, SettingsError, check_test_size, setting
from simulator.studies.study import Verdict
from simulator.threats import Threat

SELECTIONS = ("validation", "test")
TRAINING_STEPS = 10
"""Steps of the APGD attack in training, as in the papers."""

THOROUGHLY = {"attack_steps": 100, "attack_starts": 5}
QUICKLY = {"attack_steps": 20, "attack_starts": 2}
BRIEFLY = {"test": 100, "attack_steps": 5, "attack_starts": 1}
"""Settings of the final evaluation at the scales paper (as in the papers), default and smoke."""

PAIR = {"defence": ("coap", "adversarial")}
"""The gap the papers are about: the error of COAP minus that of adversarial training."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Settings):
    """Settings of the final measurement."""

    test: int = setting("test examples per trial, and validation examples", low=1)
    attack_steps: int = setting("steps of each attack of the final evaluation", low=1)
    attack_starts: int = setting("starts of each attack of the final evaluation", low=1)

    def check(self) -> None:
        check_test_size("test", self.test)


@dataclass(frozen=True, kw_only=True)
class Protocol(Evaluation):
    """Settings of training, selection and measurement; subclasses add the axes of their data and threat."""

    defence: tuple[str, ...] = setting("ways to train", choices=without_warmup)
    learning_rates: tuple[float, ...] = setting("of SGD: candidates of which one is selected per cell", above=0)
    selection: str = setting("sample the learning rate is selected on; 'test' is the papers' rule", choices=SELECTIONS)
    momentum: float = setting("of SGD", low=0, high=0.999)
    epochs: int = setting("epochs of training", low=1)
    batch: int = setting("examples per step; 0 is the full training set", low=0)
    every: int = setting("epochs between two counts of unstable neurons; divides epochs", low=1)
    n: tuple[int, ...] = setting("training examples", low=2)

    def check(self) -> None:
        super().check()
        if self.epochs % self.every:
            raise SettingsError(f"every is {self.every}, but must divide epochs = {self.epochs}")
        if self.batch > min(self.n):
            raise SettingsError(f"batch is {self.batch}, but the smallest n is {min(self.n)}: give batch <= n, or 0")


def training_attack(network, threat: Threat, x, label) -> attacks.Attack:
    """The exact worst case where it is known, else APGD on the margin from the example."""
    if attacks.has_exact(network, threat):
        return attacks.exact(network, threat, x, label)
    # For two classes the margin has the direction of the cross-entropy, whose gradient underflows on confident points.
    return attacks.apgd(network, threat, x, label, steps=TRAINING_STEPS, objective="margin")


def quick_attack(key: PRNGKeyArray, *example) -> attacks.Attack:
    """`training_attack` where an attack is given a key, which it does not need."""
    del key
    return training_attack(*example)


def exact_attack(key: PRNGKeyArray, *example) -> attacks.Attack:
    """`attacks.exact` where an attack is given a key.  Raises `ValueError` where the worst case is not known."""
    del key
    return attacks.exact(*example)


def training_loss(defence: str) -> Loss:
    """The training loss of a defence of the table, with the attack above.  Raises `ValueError` if it has a schedule."""
    found = loss_of(defence, training_attack)
    if isinstance(found, Schedule):
        raise ValueError(
            f"{defence} is what it is by a warm-up, which this protocol has none of: train it by train.fit"
        )
    return found


Keys = tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray]
"""Of minibatches, of the validation sample, of the test sample."""


def candidate(
    settings: Protocol,
    loss: Loss,
    keys: Keys,
    problem: span.Problem,
    threat: Threat,
    rate: Float[Array, ""],
    measure: Callable | None = None,
    schedule: Float[Array, " epochs"] | None = None,
) -> tuple[train.Fit, dict[str, Array]]:
    """Train with one learning rate; the fit, and its metrics under the quick attack on held-out data.

    `defence` is a name or a loss of one's own; `measure` is what `train.fit` records along training, `schedule` the
    radius of every epoch as in `train.Recipe`.
    """
    batch_key, validation_key, test_key = keys
    held_out = test_key if settings.selection == "test" else validation_key
    signal = jax.vmap(problem.task.signal)(problem.x, problem.y)
    recipe = train.Recipe(rate, settings.momentum, schedule=schedule, epochs=settings.epochs, batch=settings.batch)
    fit = problem.fit(batch_key, threat, loss, recipe, signal=signal, measure=measure, every=settings.every)
    return fit, metrics.evaluate(held_out, fit.network, problem.task, threat, quick_attack, n=settings.test)


def selected(
    settings: Protocol,
    loss: Loss,
    keys: Keys,
    problem: span.Problem,
    threat: Threat,
    measure: Callable | None,
    schedule: Float[Array, " epochs"] | None = None,
) -> tuple[train.Fit, Float[Array, ""]]:
    """Of the candidates at every learning rate the fit with the smallest robust error, and its rate."""
    rates = jnp.array(settings.learning_rates)
    fits, scores = jax.lax.map(
        lambda rate: candidate(settings, loss, keys, problem, threat, rate, measure, schedule), rates
    )
    chosen = metrics.select(scores["robust_error"], scores["standard_error"])
    return jax.tree.map(lambda leaf: leaf[chosen], fits), rates[chosen]


def evaluated(
    settings: Evaluation, key: PRNGKeyArray, network: Network, problem: span.Problem, threat: Threat, samples: int = 0
) -> dict[str, Array]:
    """`metrics.evaluate` on fresh examples of the problem, by the attack of the final evaluation."""

    def strong(key, *example):
        return attacks.strongest(
            key, *example, steps=settings.attack_steps, count=settings.attack_starts, draw=problem.task.isotropic
        )

    return metrics.evaluate(key, network, problem.task, threat, strong, n=settings.test, samples=samples)


def outcome(
    settings: Protocol,
    loss: Loss,
    key: PRNGKeyArray,
    problem: span.Problem,
    threat: Threat,
    also: Callable[[train.Fit], dict] = lambda fit: {},
) -> dict:
    """Train, select and measure: the variables of a cell, and what `also` makes of the selected fit."""
    keys = tuple(jr.split(key, 3))
    fit, rate = selected(settings, loss, keys, problem, threat, neurons(problem, threat))
    return {
        **evaluated(settings, keys[2], fit.network, problem, threat),
        **also(fit),
        # The published bars are sums over epochs.
        "unstable_epochs": settings.epochs * jnp.mean(fit.history["unstable"][1:]),
        "train_loss": fit.history["loss"][-1],
        "selected_learning_rate": rate,
        "diverged": fit.diverged,
    }


NEURONS = ("unstable", "dead")


def neurons(problem: span.Problem, threat: Threat) -> Callable:
    """What is recorded along training, of the training set and its perturbations: the mean share of `unstable` neurons
    (l < 0 < u), and the share of `dead` ones, whose u is below 0 at every example."""
    signal = jax.vmap(problem.task.signal)(problem.x, problem.y)

    def measure(network):
        # Of a network with one hidden layer these bounds are exact, whatever the method.
        boxes = jax.vmap(lambda x, s: bounds.preactivations(network, threat.at(x, s), x, "coap"))(problem.x, signal)
        unstable = jax.vmap(lambda box: bounds.unstable_share(box, problem.x.dtype))(boxes)
        dead = jnp.concatenate([jnp.all(box.upper < 0, axis=0) for box in boxes])
        return {"unstable": jnp.mean(unstable), "dead": jnp.mean(dead.astype(problem.x.dtype))}

    return measure


def snapshots(
    problem: span.Problem, key: PRNGKeyArray, threat: Threat, loss: Loss | Schedule, recipe: train.Recipe, epochs
):
    """One training of `recipe.epochs` epochs, seen after each of `epochs`: networks [epochs], losses [epochs], and
    whether it diverged."""
    every = gcd(*epochs, recipe.epochs)
    signal = jax.vmap(problem.task.signal)(problem.x, problem.y)
    fit = problem.fit(
        key, threat, loss, recipe, signal=signal, measure=lambda network: {"network": network}, every=every
    )
    records = jnp.array([epoch // every for epoch in epochs])
    return jax.tree.map(lambda leaf: leaf[records], (fit.history["network"], fit.history["loss"])), fit.diverged


def notes(settings: Protocol, threat: Threat, widths: tuple[int, ...] = (2,)) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of a store; `threat` is one of the kind that is used, and
    `widths` are those of a network of that kind."""
    # What the attack is depends on the kind of network and threat alone, not on its numbers.
    network = networks.mlp(jr.key(0), 1, widths)
    final = attacks.describe(network, threat, steps=settings.attack_steps, count=settings.attack_starts)
    quick = "exact worst case" if attacks.has_exact(network, threat) else f"apgd-margin, {TRAINING_STEPS} steps"
    return {
        "attack": f"final: {final}; training and selection: {quick} from the example",
        "trained_in": "the span of each trial's data, initial weights and threat, where that has fewer coordinates",
        "certified_by": f"best of {', '.join(metrics.CERTIFIERS)} per example",
        "selection": f"learning rate with the smallest robust error (ties: standard error) on a {settings.selection} "
        f"sample of {settings.test}, per cell; last epoch",
        "unstable_epochs": f"sum over epochs of the share of unstable neurons on the training set, from every "
        f"{settings.every} epochs",
        "interval": "standard error over trials; differences between defences are paired by trial",
    }


def lacks(result: xr.Dataset, defences: tuple[str, ...] = PAIR["defence"]) -> Verdict | None:
    """Why a result cannot decide a claim about some defences, by default the gap; None if it can."""
    if not set(defences) <= set(result["defence"].values):
        return Verdict(False, f"needs the defences {' and '.join(defences)}; run them to test the claim")
    if result["trial"].size < 2:
        return Verdict(False, "one trial has no standard error; run at least 2 to test the claim")
    return None


def gap_grows(result: xr.Dataset, axis: str, per: str) -> Verdict:
    """Whether COAP's excess in robust error is above 0 at the last position along an axis, and above the first one's.

    Both by more than 2 standard errors over trials, for every value of the axis `per`; and nowhere between neighbouring
    positions may it fall by more than 2 and by more than a tenth of its greatest value.
    """
    missing = lacks(result)
    if missing is not None or result[axis].size < 2:
        return missing or Verdict(False, f"needs two values of {axis} to test the claim")
    ends = (result[axis].values[0], result[axis].values[-1])
    held, parts = [], []
    for value in result[per].values:
        chosen = trials.first_run(result.sel({per: value}), "n", "dim")
        gap, sem = trials.paired_difference(chosen, "robust_error", **PAIR)
        rise, rise_sem = trials.paired_difference(chosen, "robust_error", **PAIR, **{axis: ends[::-1]})
        first, last = (float(gap.sel({axis: end})) for end in ends)
        last_sem = float(sem.sel({axis: ends[1]}))
        falls = _falls(chosen, axis)
        held.append(last > 2 * last_sem and float(rise) > 2 * float(rise_sem) and not falls)
        parts.append(
            f"{first:+.3f} at {axis} = {ends[0]:g} and {last:+.3f} (paired s.e. {last_sem:.3f}) at {ends[1]:g} "
            f"with {per} = {value:g}" + (f", after a fall of {', and one of '.join(falls)}" if falls else "")
        )
    sentence = f"COAP minus adversarial robust error is {'; '.join(parts)}; {result['trial'].size} trials"
    return Verdict(all(held), sentence)


def _falls(result: xr.Dataset, axis: str) -> list[str]:
    """Between which neighbouring positions along an axis COAP's excess falls by more than 2 standard errors, and by
    more than a tenth of the greatest excess: ripples contradict nothing."""
    greatest = float(trials.paired_difference(result, "robust_error", **PAIR)[0].max())
    places, found = result[axis].values, []
    for here, there in itertools.pairwise(places):
        fall, sem = trials.paired_difference(result, "robust_error", **PAIR, **{axis: (here, there)})
        if float(fall) > max(2 * float(sem), greatest / 10):
            found.append(f"{float(fall):.3f} (s.e. {float(sem):.3f}) from {here:g} to {there:g}")
    return found
