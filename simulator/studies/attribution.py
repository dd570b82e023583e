r"""Where the gap in robust error between a certified defence and adversarial training comes from, by counterfactuals.

Everything is trained by the same protocol on the same data from the same initial network: learning rate selected by
robust error on the validation sample, for every arm on its own, and robust error measured on the same test examples
under the same threat, of radius epsilon.  Besides C, the certified defence, and A, adversarial training, there are

- M, *magnitude*: adversarial training whose radius in epoch t is the effective budget that the selected training of C
  of the same trial has before its own step t: the radius at which the mean worst loss over the training set equals the
  mean certified loss at epsilon (`gap.mean_budgets`, of the bound that C trains on);
- D, *direction*: adversarial training at epsilon whose perturbation of every example is turned (`gap.turned`) in the
  plane of itself and the signal direction, at the same length, until its cosine with the signal is that of the vector
  at which the bound of C attains its minimum (`bounds.margin(...).worst`), at the same example, for the arm's current
  weights, at radius epsilon;
- B, *both*: M with every perturbation turned as in D, to the cosine at radius epsilon;
- W, *across*: as D, with cosine 0: the signal component is projected out and the length restored.

Like every attack's, a turned perturbation is held fixed when differentiating.  Where it cannot be turned (no length, no
plane, or no vector of the bound) it stays as the attack found it.  The gap C - A is the sum of

- magnitude, ((M - A) + (B - D)) / 2, the Shapley value of the first change, whose two orders are kept beside it;
- direction, ((D - A) + (B - M)) / 2, that of the second one;
- the remainder C - B: what neither has, such as the gradient of the relaxation.

A perturbation along the signal cannot be turned, so there D, B and W do not exist: their errors are nan, magnitude is
M - A and the remainder C - M.  They are nan too where an effective budget is inf, since no radius is COAP's then, or
where the arm diverged; a trial in which one of the arms is missing is left out of all parts.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import xarray as xr
from jaxtyping import Array, Float, Int

from simulator import bounds, gap, metrics, span, sweep, trials
from simulator.catalogue import CATALOGUE
from simulator.data import Task
from simulator.losses import Loss
from simulator.networks import cross_entropy, label, margins, others
from simulator.plots import figures
from simulator.studies import protocol, two_shapes
from simulator.studies.protocol import PAIR
from simulator.studies.study import Study, Verdict
from simulator.studies.two_shapes import MOST, TwoShapesSettings
from simulator.threats import Threat

OWN, DUAL, NONE = range(3)
"""Where a perturbation points: as found, as the bound's worst vector, or nowhere along the signal."""
ARMS = {"magnitude": (True, OWN), "direction": (False, DUAL), "both": (True, DUAL), "across": (False, NONE)}
"""Counterfactual -> whether its radius is the effective budget, and where its perturbations point."""
ALONG = ("magnitude",)
"""The counterfactuals that exist where perturbations lie along the signal."""
KEPT = ("standard_error", "robust_error", "certified_error", "alignment_attack", "unstable")
"""The metrics of a counterfactual that are kept."""


@dataclass(frozen=True, kw_only=True)
class AttributionSettings(TwoShapesSettings):
    """Axes task, shape, defence, n, dim, epsilon, trial; a certified defence brings its counterfactuals with it."""


_DEFAULT: dict[str, Any] = {**two_shapes.DEFAULT, "defence": ("adversarial", "coap"), "every": 10, "trials": 10}
_PAPER: dict[str, Any] = {**_DEFAULT, **protocol.THOROUGHLY, "trials": 15, "test": 10_000}
_SMOKE: dict[str, Any] = {**_DEFAULT, **two_shapes.SMOKE}


def grid(settings: AttributionSettings) -> sweep.Grid:
    """The axes of the study."""
    return two_shapes.grid(
        settings,
        dims={
            "budget_history": ("epoch",),
            **{f"arm_{name}": ("arm",) for name in (*KEPT, "learning_rate", "diverged")},
        },
        coords={"epoch": range(settings.epochs + 1), "arm": tuple(ARMS)},
    )


def cell(settings: AttributionSettings) -> sweep.Cell:
    """Train and measure a defence, and after a certified one its counterfactuals."""

    def run(coords, key, problem, threat):
        defence = coords["defence"]
        found = protocol.outcome(settings, protocol.training_loss(defence), key, problem, threat)
        arms = () if defence not in bounds.METHODS else tuple(ARMS) if coords["shape"] == "ball" else ALONG
        dtype = problem.x.dtype
        values = {f"arm_{name}": jnp.full(len(ARMS), jnp.nan, dtype) for name in (*KEPT, "learning_rate", "diverged")}
        budgets = jnp.full(settings.epochs + 1, jnp.nan, dtype)
        if arms:
            budgets = budgets_of(settings, defence, key, problem, threat, found["selected_learning_rate"])
            own = counterfactuals(settings, arms, defence, key, problem, threat, budgets[:-1])
            # The arms that exist are the first ones.
            values = {name: value.at[: len(arms)].set(own[name]) for name, value in values.items()}
        return {**found, **values, "budget_history": budgets}

    return two_shapes.staged(settings, run)


def budgets_of(
    settings: AttributionSettings, bound: str, key, problem: span.Problem, threat: Threat, rate: Float[Array, ""]
) -> Float[Array, " records"]:
    """The effective budget of a certified training at the rate given, before training and after every epoch."""
    signal = jax.vmap(problem.task.signal)(problem.x, problem.y)
    threats, most = jax.vmap(threat.at)(problem.x, signal), MOST * jnp.asarray(threat.radius)

    def measure(network):
        attack = protocol.training_attack
        return gap.mean_budgets(network, threats, problem.x, problem.y, attack, most, (bound,))

    closely, keys = dataclasses.replace(settings, every=1), tuple(jr.split(key, 3))
    loss = protocol.training_loss(bound)
    fit, _ = protocol.candidate(closely, loss, keys, problem, threat, rate, measure)
    return fit.history[bound]


def counterfactuals(
    settings: AttributionSettings,
    arms: tuple[str, ...],
    bound: str,
    key,
    problem: span.Problem,
    threat: Threat,
    budgets: Float[Array, " epochs"],
) -> dict[str, Float[Array, " arms"]]:
    """Train, select and measure adversarial training with each of some changes; see the module."""
    keys, radius = tuple(jr.split(key, 3)), jnp.asarray(threat.radius, budgets.dtype)
    reached = jnp.all(jnp.isfinite(budgets))
    shares = jnp.where(reached & (radius > 0), budgets / jnp.where(radius > 0, radius, 1), 1)

    def one(arm):
        scaled, pointing = arm
        loss = turned_loss(problem.task, bound, radius, pointing)
        schedule = jnp.where(scaled, shares, 1)
        fit, rate = protocol.selected(settings, loss, keys, problem, threat, None, schedule)
        found = protocol.evaluated(settings, keys[2], fit.network, problem, threat)
        known = ~fit.diverged & (reached | ~scaled)
        kept = {f"arm_{name}": jnp.where(known, found[name], jnp.nan) for name in KEPT}
        return {**kept, "arm_learning_rate": rate, "arm_diverged": fit.diverged.astype(radius.dtype)}

    scaled, pointing = zip(*(ARMS[name] for name in arms), strict=True)
    return jax.lax.map(one, (jnp.array(scaled), jnp.array(pointing, jnp.int32)))


def turned_loss(task: Task, bound: str, radius: Float[Array, ""], pointing: Int[Array, ""]) -> Loss:
    """Adversarial training whose perturbations point where `OWN`, `DUAL` or `NONE` says, of a network of two classes.

    `radius` is that of the threat whose bound has the vector; the perturbation is as long as in the threat given.
    """

    def loss(network, threat, x, y):
        still, here, point = jax.lax.stop_gradient((network, threat, x))
        found, signal = protocol.training_attack(still, here, point, label(y)).delta, task.signal(point, y)
        (rival,) = others(still, label(y))
        dual = bounds.margin(still, here.with_radius(radius), point, label(y), bound).worst[rival]
        cosine, defined = metrics.cosine(signal, dual)
        turned = gap.turned(found, signal, jnp.where(pointing == NONE, 0, cosine))
        delta = jnp.where((pointing == NONE) | ((pointing == DUAL) & defined), turned, found)
        return cross_entropy(margins(network, x + delta, label(y)))

    return loss


PARTS = ("gap", "magnitude", "direction", "remainder")
"""The gap, and the parts it is the sum of."""
ORDERS = ("magnitude first", "magnitude last", "direction first", "direction last")
"""What a change does alone (first), and on top of the other one (last)."""


def parts(result: xr.Dataset) -> xr.Dataset:
    """The parts of the gap in every trial that has all of them, as variables with the status of their cells.

    Along the signal the parts of the direction are nan.  `across` is W - A.
    """
    certified, attacked = (result.sel(defence=name) for name in PAIR["defence"])
    ok = (certified["status"] == "ok") & (attacked["status"] == "ok")
    a, c = attacked["robust_error"], certified["robust_error"]
    m, d, b, w = (certified["arm_robust_error"].sel(arm=name, drop=True) for name in ARMS)
    ball = result["shape"] != "signal"
    b_or_m = b.where(ball, m)
    complete = ok & m.notnull() & (~ball | (d.notnull() & b.notnull()))
    changes = {
        "gap": c - a,
        "magnitude": ((m - a) + (b - d)).where(ball, 2 * (m - a)) / 2,
        "direction": ((d - a) + (b - m)) / 2,
        "remainder": c - b_or_m,
        "magnitude first": m - a,
        "magnitude last": b - d,
        "direction first": d - a,
        "direction last": b - m,
        "across": w - a,
    }
    first_bad = xr.where(certified["status"] == "ok", attacked["status"], certified["status"])
    status = xr.where(complete, "ok", xr.where(ok, "failed", first_bad))
    return xr.Dataset({**changes, "status": status}).drop_vars("defence", errors="ignore")


def explained(result: xr.Dataset) -> list[tuple[str, str, xr.Dataset]]:
    """The parts by (task, shape); nothing without both defences."""
    return list(two_shapes.places(parts(result))) if set(PAIR["defence"]) <= set(result["defence"].values) else []


def verdict(result: xr.Dataset) -> Verdict:
    """Whether, wherever there is a gap on the spheres, magnitude is at least half of it; and what is largest where."""
    missing = protocol.lacks(result)
    if missing is not None or not {"spheres", "ball"} <= {*result["task"].values, *result["shape"].values}:
        return missing or Verdict(False, "needs the task spheres and the shape ball; run both to test the claim")
    held, words = [], []
    for task, shape, place in explained(result):
        gaps, half, _ = trials.interval(place, "gap")
        change, _, _ = trials.interval(place, "magnitude first")
        if task == "spheres":
            there = (gaps - half > 0).values
            held += [bool(share) for share in (change >= gaps / 2).values[there]]
        words.append(_largest(task, shape, place))
    if not held:
        return Verdict(False, f"no radius on the spheres has a gap beyond its interval; {'; '.join(words)}")
    sentence = (
        f"adversarial training at COAP's effective budget has at least half of the gap at {sum(held)} of {len(held)} "
        f"radii with a gap on the spheres; {'; '.join(words)} (means and 95 % intervals, {result['trial'].size} trials)"
    )
    return Verdict(all(held), sentence)


def _largest(task: str, shape: str, place: xr.Dataset) -> str:
    """The gap where it is furthest from 0, its parts, and which of them explains most of it."""
    means = {name: trials.interval(place, name) for name in PARTS}
    size = abs(means["gap"][0])
    if not bool(size.notnull().any()):
        return f"no complete trial on the task {task} ({shape})"
    at = {"epsilon": int(size.argmax("epsilon"))}
    found = {name: (float(mean[at]), float(half[at])) for name, (mean, half, _) in means.items()}
    known = {name: value for name, value in found.items() if value[0] == value[0]}
    sign = 1 if known["gap"][0] >= 0 else -1
    most = max((name for name in known if name != "gap"), key=lambda name: sign * known[name][0])
    each = ", ".join(f"{name} {mean:+.3f} ± {half:.3f}" for name, (mean, half) in known.items())
    return f"on the task {task} ({shape}) at epsilon = {float(place['epsilon'][at]):g} {each}: mostly {most}"


def notes(settings: AttributionSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of a store."""
    return {
        **two_shapes.notes(settings),
        "arms": "adversarial training with the radius, the direction, or both, of the certified defence of the same "
        "trial, and without signal component; each at its own selected learning rate",
        "not_applicable": "direction, both and across along the signal, where a perturbation cannot be turned: nan",
        "interval": "95 % intervals by Student's t over trials, paired; standard error over trials otherwise",
    }


STUDY = Study(
    name="attribution",
    claim=CATALOGUE["attribution"].claim,
    shows=CATALOGUE["attribution"].shows,
    scales={
        "smoke": AttributionSettings(**_SMOKE),
        "default": AttributionSettings(**_DEFAULT),
        "paper": AttributionSettings(**_PAPER),
    },
    grid=grid,
    cell=cell,
    figure=lambda result, published: figures.attribution(explained(result)),
    verdict=verdict,
    notes=notes,
    core=CATALOGUE["attribution"].core,
)
