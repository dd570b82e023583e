"""Training in the span against the plain form, in double precision, and the law of what leaves the span."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from scipy import stats

from simulator import attacks, data, losses, metrics, networks, span, threats, train

DIM, N, SEGMENTS = 60, 8, 3
RADIUS = 0.3

pytestmark = pytest.mark.usefixtures("float64")

TASKS = {
    "linear": lambda: data.LinearlySeparable(DIM, 1.0, 0.5, unit(jr.key(11))),
    "spheres": lambda: data.ConcentricSpheres(DIM, 1.0, 3.0),
    "features": lambda: data.GaussianFeatures(DIM, unit(jr.key(11))),
}


def unit(key):
    z = jr.normal(key, (DIM,))
    return z / jnp.linalg.norm(z)


def threat_of(name, problem):
    """The threat in the coordinates of a problem; `signal` sets are tied to each example."""
    return {
        "l2": lambda: threats.L2(RADIUS),
        "signal": lambda: threats.SignalDirected(RADIUS),
        "orthogonal": lambda: threats.Orthogonal(RADIUS),
        "spheroid": lambda: threats.Spheroid(RADIUS, 0.6),
        "segments": lambda: threats.Segments(RADIUS, problem.directions),
        "linf": lambda: threats.LInf(RADIUS),
        "l1": lambda: threats.L1(RADIUS),
    }[name]()


INVARIANT = ("l2", "signal", "orthogonal", "spheroid", "segments")


def pgd(*example):
    return attacks.pgd(*example, steps=5, objective="margin")


def apgd(*example):
    return attacks.apgd(*example, steps=6)


LOSSES = {
    "standard": losses.standard,
    "pgd": losses.attacked(pgd),
    "apgd": losses.attacked(apgd),
    "coap": losses.certified("coap"),
    "crown-ibp, annealed": losses.certified("crown-ibp", beta=jnp.array(0.4)),
    "ibp": losses.certified("ibp"),
    "mixture": losses.mix(losses.standard, losses.certified("crown"), 0.3),
}

RECIPES = {
    "plain": train.Recipe(0.1, epochs=15),
    "momentum": train.Recipe(0.05, momentum=0.9, epochs=15),
    "weight decay": train.Recipe(0.1, momentum=0.5, weight_decay=0.02, epochs=15),
    "minibatches": train.Recipe(0.05, momentum=0.9, weight_decay=0.01, epochs=8, batch=3),
    "warm-up": train.Recipe(0.1, warmup=10.0, epochs=15),
}


def full_problem(task="linear", widths=(6,), outputs=2, init="torch"):
    made = TASKS[task]()
    x, y = made.sample(jr.key(1), N)
    network = networks.mlp(jr.key(2), DIM, widths, outputs, init)
    # Initial biases, which `he` sets to 0, are to matter.
    network = jax.tree.map(lambda leaf: leaf + 0.1 if leaf.ndim == 1 else leaf, network)
    directions = threats.Segments.random(jr.key(3), DIM, SEGMENTS, RADIUS).directions
    return span.problem(made, network, x, y, directions)


@functools.cache
def training(loss):
    """(problem, threat, recipe) -> its training; numbers of a recipe that differ share a program."""

    def run(problem, threat, recipe):
        signal = jax.vmap(problem.task.signal)(problem.x, problem.y)
        return problem.fit(jr.key(4), threat, LOSSES[loss], recipe, signal=signal)

    return quick_jit(run)


def fitted(problem, threat, loss="pgd", recipe="momentum"):
    return training(loss)(problem, threat_of(threat, problem), RECIPES[recipe])


def assert_same_training(full, **how):
    """The plain form and the lifted reduced one: equal but for 15 steps of rounding, each of about 1e-15."""
    reduced, basis = span.reduce(full)
    plain, small = fitted(full, **how), fitted(reduced, **how)
    start = full.network.layers[0].weight
    assert np.abs(plain.network.layers[0].weight - start).max() > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
        (plain.network, plain.history),
        (span.lift(small.network, basis), small.history),
    )


def paired(threats, losses, quick):
    """All pairs of a threat and a loss; those are quick of which `quick` holds, the others slow."""
    return pytest.mark.parametrize(
        ("threat", "loss"),
        [
            pytest.param(threat, loss, marks=[] if quick(threat, loss) else pytest.mark.slow)
            for threat in threats
            for loss in losses
        ],
    )


@paired(
    INVARIANT, LOSSES, lambda threat, loss: threat == "l2" or loss == "coap" or (threat, loss) == ("segments", "pgd")
)
def test_every_threat_and_loss(threat, loss):
    assert_same_training(full_problem(), threat=threat, loss=loss)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("loss", ["pgd", "coap"])
def test_every_recipe(recipe, loss):
    assert_same_training(full_problem(), threat="l2", loss=loss, recipe=recipe)


@paired(INVARIANT, ("pgd", "crown-ibp, annealed"), lambda threat, loss: loss == "pgd" or threat == "signal")
def test_sets_tied_to_examples_whose_signals_differ(threat, loss):
    assert_same_training(full_problem("spheres"), threat=threat, loss=loss)


@pytest.mark.parametrize(
    "network",
    [
        {"widths": ()},
        {"widths": (), "outputs": 1},
        {"widths": (6,), "outputs": 1},
        {"widths": (5, 4)},
        {"init": "he"},
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", ["pgd", "coap"])
def test_every_network(network, loss):
    assert_same_training(full_problem(**network), threat="l2", loss=loss)


def test_noiseless_data_of_rank_one():
    """The rows of the span are then dependent."""
    full = full_problem()
    task = data.LinearlySeparable(DIM, 1.0, 0.0, full.task.direction)
    x, y = task.sample(jr.key(1), N)
    assert_same_training(span.problem(task, full.network, x, y, full.directions), threat="l2")


# ---- what is refused ----


@pytest.mark.parametrize("threat", ["linf", "l1"])
def test_threats_that_depend_on_the_coordinates_are_refused_by_name(threat):
    reduced, _ = span.reduce(full_problem())
    with pytest.raises(ValueError, match=rf"the threat is {type(threat_of(threat, reduced)).__name__}, .* leaves the"):
        reduced.fit(jr.key(0), threat_of(threat, reduced), losses.standard, RECIPES["plain"])


def test_adam_is_refused_by_name():
    reduced, _ = span.reduce(full_problem())
    with pytest.raises(ValueError, match=r"the optimizer is adam, whose steps depend on the coordinates"):
        reduced.fit(jr.key(0), threats.L2(1.0), losses.standard, train.Recipe(0.1, optimizer="adam"))


@pytest.mark.parametrize("what", ["linf", "adam"])
def test_what_is_refused_would_indeed_be_wrong(what, monkeypatch):
    """Without the refusal the trainings differ by far more than rounding."""
    monkeypatch.setattr(span, "check", lambda threat, recipe: None)
    recipe = {"adam": train.Recipe(0.01, epochs=5, optimizer="adam")}.get(what, RECIPES["plain"])
    monkeypatch.setitem(RECIPES, "tried", recipe)
    full = full_problem()
    reduced, basis = span.reduce(full)
    threat = "l2" if what == "adam" else what
    with jax.numpy_dtype_promotion("standard"):
        plain, small = (fitted(one, threat, recipe="tried") for one in (full, reduced))
    apart = np.abs(plain.network.layers[0].weight - span.lift(small.network, basis).layers[0].weight).max()
    assert apart > 1e-3


def test_where_nothing_is_gained_the_problem_stays_as_it_is():
    full = full_problem(widths=(DIM,))
    assert span.fewest(full) is full
    with pytest.raises(ValueError, match="use the problem as it is"):
        span.reduce(full)


def test_fewest_is_the_same_without_the_basis():
    full = full_problem()
    reduced, _ = span.reduce(full)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), span.fewest(full), reduced)


def test_folding_twice_or_onto_everything_is_refused():
    reduced, _ = span.reduce(full_problem())
    with pytest.raises(ValueError, match="folded already"):
        reduced.task.folded_to(jnp.zeros((1, 5)))
    with pytest.raises(ValueError, match="60 coordinates are not fewer than the 60 dimensions"):
        TASKS["linear"]().folded_to(jnp.zeros((1, DIM)))


# ---- examples outside the span ----


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("threat", INVARIANT)
def test_given_examples_are_judged_alike(task, threat):
    """Everything measured at a fresh example is the same in its folded coordinates, the random start given."""
    full = full_problem(task)
    reduced, basis = span.reduce(full)
    x, y = full.task.sample(jr.key(5), 20)
    folded = span.coordinates(x, basis)

    def measured(problem, points):
        return quick_jit(
            lambda: metrics.examine_all(
                jr.key(0), problem.network, problem.task, threat_of(threat, problem), points, y, lambda _, *e: apgd(*e)
            )
        )()

    here, there = measured(full, x), measured(reduced, folded)
    for name in here:
        np.testing.assert_allclose(here[name], there[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_folded_examples_have_the_law_of_examples_folded(task):
    """Kolmogorov-Smirnov tests of coordinates, norms and first-layer values; all pass 999 in 1000 times."""
    full = full_problem(task)
    reduced, basis = span.reduce(full)
    x, y = full.task.sample(jr.key(6), 4000)
    ours, labels = reduced.task.sample(jr.key(7), 4000)
    folded = span.coordinates(x, basis)
    assert np.all(ours[:, -1] == 0)
    weight = reduced.network.layers[0].weight
    for sign in (-1, 1):
        one, other = folded[y == sign], ours[labels == sign]
        pairs = [(one[:, i], other[:, i]) for i in range(one.shape[1] - 1)]
        pairs += [(jnp.linalg.norm(one, axis=1).round(6), jnp.linalg.norm(other, axis=1).round(6))]
        pairs += [(one @ row, other @ row) for row in weight]
        worst = min(stats.ks_2samp(np.asarray(a), np.asarray(b)).pvalue for a, b in pairs)
        assert worst > 1e-3 / len(pairs)


def test_random_directions_have_the_law_of_directions_folded():
    """Inside the span, along the example's part outside it, and the length of the rest."""
    full = full_problem("spheres")
    reduced, basis = span.reduce(full)
    x, _ = full.task.sample(jr.key(8), 1)
    outside = x[0] - (x[0] @ basis.T) @ basis
    outside /= jnp.linalg.norm(outside)
    z = full.task.isotropic(jr.key(9), 4000)
    inside, along = z @ basis.T, z @ outside
    rest = jnp.linalg.norm(z - inside @ basis - jnp.outer(along, outside), axis=1)
    ours = jax.vmap(lambda key: reduced.task.isotropic(key))(jr.split(jr.key(10), 4000))
    expected = jnp.concatenate([inside, along[:, None], rest[:, None]], axis=1)
    assert ours.shape == expected.shape
    worst = min(stats.ks_2samp(np.asarray(expected[:, i]), np.asarray(ours[:, i])).pvalue for i in range(ours.shape[1]))
    assert worst > 1e-3 / ours.shape[1]


def test_the_law_of_measured_errors_is_the_same():
    """Standard and robust error of one network on fresh examples, in full and folded: within 5 standard errors."""
    full = full_problem("spheres")
    reduced, _ = span.reduce(full)
    n = 4000

    def found(problem):
        def attack(key, *example):
            return attacks.restarts(key, apgd_from, *example, count=2, draw=problem.task.isotropic)

        threat = threats.Orthogonal(1.0)
        return quick_jit(
            lambda: metrics.evaluate(jr.key(12), problem.network, problem.task, threat, attack, n=n, chunk=500)
        )()

    here, there = found(full), found(reduced)
    for name in ("standard_error", "robust_error", "certified_error", "alignment_dual", "unstable"):
        spread = np.hypot(here[f"{name}_se_test"], there[f"{name}_se_test"])
        assert abs(here[name] - there[name]) < 5 * spread + 1e-9, name


def apgd_from(*example, start):
    return attacks.apgd(*example, steps=3, start=start)
