"""Every defence of the table trains: on the linear data, the spheres and images of digits, under three threats."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit

from simulator import attacks, data, losses, networks, span, threats, train
from simulator.defences import DEFENCES, TABLE, loss_of, without_warmup
from simulator.studies.protocol import training_attack

RADII = 4


def linear():
    task = data.LinearlySeparable(20, margin=2.0)
    x, y = task.sample(jr.key(0), 50)
    return x, y, jax.vmap(task.signal)(x, y), 2


def spheres():
    task = data.ConcentricSpheres(10, 1.0, 3.0)
    x, y = task.sample(jr.key(0), 50)
    return x, y, jax.vmap(task.signal)(x, y), 2


def digits():
    """100 images of 8x8 pixels in [0, 1]."""
    loaded = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = loaded.data[:100] / 16, loaded.target[:100]
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32), None, 10


PROBLEMS = {"linear": linear, "spheres": spheres, "digits": digits}
THREATS = {"l2": threats.L2, "linf": threats.LInf, "signal": threats.SignalDirected}
LARGEST = {
    ("linear", "l2"): 1.0,
    ("linear", "linf"): 0.2,
    ("linear", "signal"): 1.5,
    ("spheres", "l2"): 0.5,
    ("spheres", "linf"): 0.1,
    ("spheres", "signal"): 0.5,
    ("digits", "l2"): 0.3,
    ("digits", "linf"): 0.05,
}
"""The largest radius of the runs, which are at 0, 1/3, 2/3 and all of it."""
RUNS = [(defence, *case) for defence in TABLE for case in LARGEST]
QUICK = [(defence, *list(LARGEST)[(3 * index) % len(LARGEST)]) for index, defence in enumerate(TABLE)]


def histories(defence, problem, threat):
    """Losses before and after training at every radius, and whether a run diverged, in one program."""
    x, y, signal, outputs = PROBLEMS[problem]()
    network = networks.mlp(jr.key(1), x.shape[1], (32,), outputs, TABLE[defence].init or "torch")
    epochs, batch = (20, 20) if problem == "digits" else (60, 0)
    # The gradient of a product of two losses over 10 classes is some 5 times as large: at 0.1 most neurons die.
    rate = 0.05 if defence in ("taps", "staps") and problem == "digits" else 0.1
    recipe = train.Recipe(rate, 0.9, warmup=epochs // 3, epochs=epochs, batch=batch)
    loss = loss_of(defence, training_attack)

    def one(radius):
        fit = train.fit(jr.key(2), network, x, y, THREATS[threat](radius), loss, recipe, signal=signal)
        return fit.history["loss"], fit.diverged

    radii = LARGEST[problem, threat] * jnp.linspace(0.0, 1.0, RADII)
    return (np.asarray(leaf) for leaf in quick_jit(jax.vmap(one))(radii))


@pytest.mark.parametrize(
    ("defence", "problem", "threat"),
    [pytest.param(*run, marks=[] if run in QUICK else pytest.mark.slow, id=" ".join(run)) for run in RUNS],
)
def test_every_defence_trains(defence, problem, threat):
    found, diverged = histories(defence, problem, threat)
    assert not diverged.any()
    assert np.all(np.isfinite(found))
    assert np.all(found[:, 1] < found[:, 0])


def test_the_first_defences_are_those_of_the_papers():
    assert tuple(TABLE)[:5] == DEFENCES == ("standard", "adversarial", "coap", "crown-ibp", "ibp")
    assert set(TABLE) - set(without_warmup()) == {"crown-ibp-annealed", "fast-ibp"}
    assert {row.init for row in TABLE.values()} <= {None, *networks.INITIALISATIONS}
    for name in TABLE:
        assert isinstance(loss_of(name, attacks.fgsm), losses.Schedule) == TABLE[name].warmup


def test_an_unknown_defence_is_named():
    with pytest.raises(ValueError, match="there is no defence 'cibp'; the defences are standard, adversarial, coap"):
        loss_of("cibp", attacks.fgsm)


@pytest.mark.parametrize("defence", ["sabr", *(pytest.param(n, marks=pytest.mark.slow) for n in ("trades", "staps"))])
def test_training_in_the_span_is_the_same_training(defence, float64):
    """Their attacks, boxes and divergences know inner products alone."""
    task = data.LinearlySeparable(60, margin=2.0)
    x, y = task.sample(jr.key(0), 10)
    full = span.problem(task, networks.mlp(jr.key(1), 60, (8,)), x, y)
    recipe, loss = train.Recipe(0.1, 0.9, epochs=20), loss_of(defence, training_attack)
    both = [
        quick_jit(lambda p=p: p.fit(jr.key(2), threats.L2(0.5), loss, recipe).history["loss"])()
        for p in (full, span.fewest(full))
    ]
    np.testing.assert_allclose(both[1], both[0], rtol=1e-9)
    assert both[0][1] < both[0][0]
