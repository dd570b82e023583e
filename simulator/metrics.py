"""Metrics: errors, alignments and unstable neurons of a network on fresh data, with their statistical uncertainty.

| name | meaning |
|---|---|
| `standard_error` | share of examples misclassified at x |
| `robust_error` | share misclassified at x or at the strongest attack's point in x + B |
| `certified_error` | share not proven right on all of x + B by any of `CERTIFIERS` |
| `alignment_*` | mean cosine of a perturbation with the signal direction, over examples where it is not 0 |
| `signal_share_*` | mean of <signal, delta> / radius over the same examples |
| `unstable` | mean share of hidden neurons with l < 0 < u, by the bounds of "coap" |
| `margin_clean`, `margin_attack`, `margin_coap` | mean margin at x, at the attack's point, and COAP's bound of it |
| `looseness` | (margin_attack - margin_coap) / (margin_clean - margin_coap): what no attack realises of COAP's drop |

Three perturbations are measured: the attack's; `dual`, the minimiser of COAP's linear bound at the evaluation radius,
for every defence; and `gradient`, minus the gradient of the smallest margin with respect to x.  Ties are errors.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator import bounds
from simulator.attacks import Attack
from simulator.data import Task
from simulator.networks import Network, contrast, label, margins
from simulator.threats import Threat

CERTIFIERS = ("coap", "crown", "ibp")
"""An example counts as certified if the best of these bounds is positive for every other class."""

CHUNK = 500
"""Test examples drawn and examined at once."""

PERTURBATIONS = ("attack", "dual", "gradient")
"""Whose alignment with the signal is measured: the attack's, the worst input of COAP's bound, the input gradient."""

KeyedAttack = Callable[[PRNGKeyArray, Network, Threat, Float[Array, " d"], Int[Array, ""]], Attack]
"""(key, network, threat, x, label) -> the attack, at one example."""


def cosine(a: Float[Array, " d"], delta: Float[Array, " d"]) -> tuple[Float[Array, ""], Array]:
    """<a, delta> / (|a| |delta|) and whether it is defined; 0 where it is not (either vector is 0)."""
    # Scaled to a largest entry of 1, so that a tiny gradient does not underflow in its square.
    reach_a, reach_delta = jnp.max(jnp.abs(a)), jnp.max(jnp.abs(delta))
    defined = (reach_a > 0) & (reach_delta > 0)
    a, delta = a / jnp.where(defined, reach_a, 1), delta / jnp.where(defined, reach_delta, 1)
    norms = jnp.linalg.norm(a) * jnp.linalg.norm(delta)
    return jnp.where(defined, (a @ delta) / jnp.where(defined, norms, 1), 0), defined


def _least(lower: Float[Array, " K"], label: Int[Array, ""]) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The smallest bound over the other classes, and its class."""
    rivals = lower.at[label].set(jnp.inf)
    return jnp.min(rivals), jnp.argmin(rivals)


def perturbations(
    key: PRNGKeyArray,
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    attack: KeyedAttack,
) -> tuple[dict[str, Float[Array, " d"]], Attack, bounds.Bound]:
    """The three measured perturbations at one example, with the attack and the COAP bound two of them come from."""
    found = attack(key, network, threat, x, label)
    dual = bounds.margin(network, threat, x, label, "coap")
    downhill = -jax.grad(lambda point: jnp.min(margins(network, point, label)))(x)
    return {"attack": found.delta, "dual": dual.worst[_least(dual.lower, label)[1]], "gradient": downhill}, found, dual


def examine(
    key: PRNGKeyArray, network: Network, task: Task, threat: Threat, x: Float[Array, " d"], y: Int[Array, ""], attack
) -> tuple[dict[str, Float[Array, ""]], dict[str, Float[Array, " d"]]]:
    """Everything `evaluate` averages, at one example, and its `perturbations`; alignments come with a 0/1 weight
    `*_defined`."""
    signal = task.signal(x, y)
    here, k = threat.at(x, signal), label(y)
    deltas, found, dual = perturbations(key, network, here, x, k, attack)
    clean = jnp.min(margins(network, x, k))
    proven, rows = dual.lower, contrast(network, k, jnp.arange(network.classes))
    for method in CERTIFIERS[1:]:
        proven = jnp.maximum(proven, bounds.lower(network, here, x, rows, method))
    result = {
        # Not "at most 0": the margins of a network that diverged are no numbers, and it is not right anywhere.
        "standard_error": ~(clean > 0),
        "robust_error": ~(jnp.minimum(clean, found.margin) > 0),
        "certified_error": ~(_least(proven, k)[0] > 0),
        "unstable": dual.unstable,
        "margin_clean": clean,
        "margin_attack": jnp.minimum(clean, found.margin),
        "margin_coap": _least(dual.lower, k)[0],
    }
    radius = jnp.asarray(here.radius, x.dtype)
    for name, delta in deltas.items():
        angle, defined = cosine(signal, delta)
        result[f"alignment_{name}"] = angle
        result[f"alignment_{name}_defined"] = defined
        if name != "gradient":
            result[f"signal_share_{name}"] = jnp.where(defined, signal @ delta / jnp.where(radius > 0, radius, 1), 0)
    return {name: jnp.asarray(value).astype(x.dtype) for name, value in result.items()}, deltas


def evaluate(
    key: PRNGKeyArray,
    network: Network,
    task: Task,
    threat: Threat,
    attack: KeyedAttack,
    *,
    n: int,
    chunk: int = CHUNK,
    samples: int = 0,
) -> dict[str, Array]:
    """Metrics over n fresh examples, drawn and examined `chunk` at a time so that any n fits in memory.

    Returns every name of the module's table; `<name>_se_test`, the standard error of a mean over the n examples;
    `alignment_*_undefined`, the share of examples whose cosine does not exist; and, if `samples` > 0,
    `alignment_*_samples` [samples], the cosines of single examples, NaN where they do not exist.  An alignment that is
    undefined on all examples is NaN.  Raises `ValueError` unless `chunk` divides n and samples <= n.
    """
    chunk = min(chunk, n)
    if n < 1 or n % chunk:
        raise ValueError(f"{n} test examples are not a multiple of the chunk {chunk}: choose another n or chunk")
    if samples > n:
        raise ValueError(f"samples is {samples}, but there are only {n} test examples: ask for at most {n}")

    def part(chunk_key):
        data_key, attack_key = jr.split(chunk_key)
        values = examine_all(attack_key, network, task, threat, *task.sample(data_key, chunk), attack)
        return _sums(values), {name: _single(values, f"alignment_{name}") for name in PERTURBATIONS if samples}

    sums, singles = jax.lax.map(part, jr.split(key, n // chunk))
    kept = {f"alignment_{name}_samples": value.reshape(-1)[:samples] for name, value in singles.items()}
    return {**_means(jnp.sum(sums, axis=0), n), **kept}


def examine_all(
    key: PRNGKeyArray,
    network: Network,
    task: Task,
    threat: Threat,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    attack: KeyedAttack,
) -> dict[str, Float[Array, " n"]]:
    """The values of `examine` for every one of the given examples, such as the training set."""
    each = jax.vmap(lambda k, x, y: examine(k, network, task, threat, x, y, attack)[0])
    return each(jr.split(key, x.shape[0]), x, y)


def means(values: dict[str, Float[Array, " n"]]) -> dict[str, Float[Array, ""]]:
    """The metrics of `evaluate` from what `examine_all` returned."""
    return _means(_sums(values), next(iter(values.values())).shape[0])


def _single(values: dict[str, Float[Array, " n"]], name: str) -> Float[Array, " n"]:
    return jnp.where(values[f"{name}_defined"] > 0, values[name], jnp.nan)


def _sums(values: dict[str, Float[Array, " n"]]) -> Float[Array, "names 2"]:
    """Sum and sum of squares of every quantity, in sorted order of their names (one array: quick to compile)."""
    table = jnp.stack([values[name] for name in _NAMES])
    return jnp.stack([jnp.sum(table, axis=1), jnp.sum(table * table, axis=1)], axis=1)


MARGINS = ("margin_clean", "margin_attack", "margin_coap")
"""The mean margins of an evaluation: at the example, under the attack, and COAP's lower bound."""
_EVERYWHERE = ("standard_error", "robust_error", "certified_error", "unstable", *MARGINS)
_ANGLES = tuple(f"alignment_{name}" for name in PERTURBATIONS)
_SHARES = ("signal_share_attack", "signal_share_dual")
_NAMES = (*_EVERYWHERE, *_ANGLES, *_SHARES, *(f"{name}_defined" for name in _ANGLES))


def _means(sums: Float[Array, "names 2"], n: int) -> dict[str, Float[Array, ""]]:
    """Means and their standard errors from the sums over n examples; cosines over the examples where they exist."""
    averaged = (*_EVERYWHERE, *_ANGLES, *_SHARES)
    defined = sums[len(averaged) :, 0]
    everyone = jnp.full(len(_EVERYWHERE), n, sums.dtype)
    count = jnp.concatenate([everyone, defined, defined[: len(_SHARES)]])
    some = jnp.where(count > 0, count, 1)
    mean = sums[: len(averaged), 0] / some
    spread = jnp.sqrt(jnp.maximum(sums[: len(averaged), 1] / some - mean**2, 0) / some)
    mean, spread = (jnp.where(count > 0, value, jnp.nan) for value in (mean, spread))
    clean, attacked, proven = (mean[averaged.index(name)] for name in MARGINS)
    drop = jnp.where(clean > proven, clean - proven, jnp.nan)
    return {
        **dict(zip(averaged, mean, strict=True)),
        "looseness": (attacked - proven) / drop,
        **{f"{name}_se_test": value for name, value in zip(averaged, spread, strict=True)},
        **{f"{name}_undefined": value for name, value in zip(_ANGLES, (n - defined) / n, strict=True)},
    }


def layer_alignment(weight: Float[Array, "h d"], direction: Float[Array, " d"]) -> Float[Array, ""]:
    """How much of a first layer lies along a direction: |W s| / |W|_F, the root mean square cosine of its rows, each
    weighted by its squared length; 0 for W = 0.  An isotropic layer has about 1/sqrt(d)."""
    total = jnp.sum(weight * weight)
    return jnp.where(total > 0, jnp.linalg.norm(weight @ direction) / jnp.sqrt(jnp.where(total > 0, total, 1)), 0)


def select(scores: Float[Array, " candidates"], tie_break: Float[Array, " candidates"]) -> Int[Array, ""]:
    """The candidate with the smallest score, ties by `tie_break`, then by order; NaN counts as the worst.

    The one rule by which a learning rate or an epoch is chosen, for every defence: score = robust error, tie-break =
    standard error, both on the same held-out sample.
    """
    order = jnp.lexsort((tie_break, jnp.where(jnp.isnan(scores), jnp.inf, scores)))
    return order[0]
