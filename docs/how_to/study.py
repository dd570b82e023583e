"""What training against a segment along the signal costs: simulator run docs/how_to/study.py:STUDY"""

from dataclasses import dataclass

import jax

from simulator import data, defences, metrics, networks, studies, sweep, threats, train, trials
from simulator.plots import figures
from simulator.studies import protocol, setting


@dataclass(frozen=True, kw_only=True)
class Segment(studies.Settings):
    defence: tuple[str, ...] = setting("ways to train", choices=defences.without_warmup)
    epsilon: tuple[float, ...] = setting("length of the segment, in training and evaluation", low=0)


def cell(coords, key):
    data_key, start_key, fit_key, test_key = jax.random.split(key, 4)
    task, threat = data.LinearlySeparable(dim=100, margin=2.0), threats.SignalDirected(coords["epsilon"])
    (x, y), start = task.sample(data_key, 50), networks.linear(start_key, task.dim)
    loss, signal = protocol.training_loss(coords["defence"]), jax.vmap(task.signal)(x, y)
    fit = train.fit(fit_key, start, x, y, threat, loss, train.Recipe(epochs=500), signal=signal)
    return metrics.evaluate(test_key, fit.network, task, threat, protocol.exact_attack, n=1000)


def verdict(result):
    rise, sem = trials.paired_difference(result, "standard_error", defence=("adversarial", "standard"))
    return studies.Verdict(bool(rise[-1] > 2 * sem[-1]), f"it is {float(rise[-1]):+.3f} at the longest segment")


STUDY = studies.Study(
    name="segment",
    claim="Against a long segment along the signal, adversarial training has the higher standard error.",
    scales=dict.fromkeys(studies.SCALES, Segment(defence=("standard", "adversarial"), epsilon=(0, 1, 1.9), trials=5)),
    grid=lambda chosen: sweep.Grid({"defence": chosen.defence, "epsilon": chosen.epsilon}, chosen.trials, ("defence",)),
    cell=lambda chosen: cell,
    figure=lambda result, published: figures.errors(result, along="epsilon", rows=(), title="Budget along the signal"),
    verdict=verdict,
)
