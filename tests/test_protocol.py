"""What the studies share: neurons along training, snapshots, the sets they use, and selection after the fact."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from programs import quick_jit
from scipy import stats

from simulator import losses, metrics, networks, span, studies, theory, train, trials
from simulator.data import ConcentricSpheres, LinearlySeparable
from simulator.studies import (
    optimisation,
    prediction,
    protocol,
    relaxations,
    selection,
    spheres,
    threat_shape,
    unstable,
)
from simulator.threats import L2, Orthogonal, Segments, SignalDirected

DIM, WIDTH = 6, 9


@pytest.fixture
def problem():
    task = LinearlySeparable(DIM, 1.0, 0.5)
    return span.problem(task, networks.mlp(jr.key(1), DIM, (WIDTH,)), *task.sample(jr.key(0), 8))


def by_hand(network, x, radius):
    """Shares of unstable and of dead neurons under an l2 ball, in NumPy."""
    first = network.layers[0]
    z = np.asarray(x) @ np.asarray(first.weight).T + np.asarray(first.bias)
    reach = radius * np.linalg.norm(np.asarray(first.weight), axis=1)
    return np.mean(np.abs(z) < reach), np.mean((z + reach < 0).all(axis=0))


@pytest.mark.parametrize("radius", [0.0, 0.3, 1.0])
def test_neurons(problem, radius):
    # Biases so low that some neurons are dead.
    low = problem.network.layers[0].bias - jnp.linspace(0, 6, WIDTH)
    network = networks.from_weights(
        [(problem.network.layers[0].weight, low), (problem.network.last.weight, problem.network.last.bias)]
    )
    found = protocol.neurons(problem, L2(radius))(network)
    expected = by_hand(network, problem.x, radius)
    np.testing.assert_allclose([found["unstable"], found["dead"]], expected, atol=1e-6)
    assert expected[1] > 0


def test_snapshots_are_trainings_of_that_length(problem):
    recipe = train.Recipe(0.1, 0.9, epochs=6, batch=4)
    threat, loss = L2(0.2), losses.certified("ibp")
    (then, found), diverged = quick_jit(lambda: protocol.snapshots(problem, jr.key(2), threat, loss, recipe, (2, 6)))()
    assert not diverged
    for index, epochs in enumerate((2, 6)):
        shorter = dataclasses.replace(recipe, epochs=epochs)
        fit = quick_jit(lambda shorter=shorter: problem.fit(jr.key(2), threat, loss, shorter))()
        same = jax.tree.map(lambda leaf, i=index: leaf[i], then)
        for one, other in zip(jax.tree.leaves(same), jax.tree.leaves(fit.network), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[index], fit.history["loss"][-1], rtol=1e-5)


def test_segments_of_a_trial_are_nested():
    """The set with k + 1 segments has the k of the smaller one, so that results along k are of growing sets."""
    some, more = (spheres.segments(jr.key(0), {"dim": 10, "epsilon": 2.0, "k": k}, 5) for k in (2, 3))
    np.testing.assert_array_equal(some.directions[:2], more.directions[:2])
    np.testing.assert_array_equal(some.directions[2:], 0)
    w = jr.normal(jr.key(1), (10,))
    np.testing.assert_allclose(some.support(w), 2 * np.abs(np.asarray(some.directions[:2]) @ w).max(), rtol=1e-6)


KINDS = {"ball": L2, "signal": SignalDirected, "orthogonal": Orthogonal, "segments": Segments}


@pytest.mark.parametrize("task", [LinearlySeparable(DIM, 1.0, 0.5), ConcentricSpheres(DIM, 1.0, 3.0)])
@pytest.mark.parametrize("shape", threat_shape.SHAPES)
def test_shapes_have_the_budget_where_they_say(task, shape):
    directions = Segments.random(jr.key(3), DIM, 2, 1.0).directions
    x, y = task.sample(jr.key(0), 4)
    whole = span.problem(task, networks.mlp(jr.key(1), DIM, (WIDTH,)), x, y, directions)
    threat = threat_shape.shaped(shape, 0.7, whole)
    assert isinstance(threat, KINDS[shape])
    signal = task.signal(x[2], y[2])
    here = threat.at(x[2], signal)
    reach = {"ball": 0.7, "signal": 0.7, "orthogonal": 0.0, "segments": 0.7 * np.abs(directions @ signal).max()}
    np.testing.assert_allclose(here.support(signal), reach[shape], atol=1e-6)


def test_published_bars_have_a_place_each():
    for bars in unstable.FIGURES.values():
        assert len(bars.positions) == len(bars.heights)
        assert all(len(getattr(bars, name)) == 1 for name in ("margin", "k", "epsilon") if name != bars.axis)


def test_deviations_are_those_of_a_normal_variable():
    """Where the normal approximation holds they agree with it; near 0 they are exact tails."""
    count = 10_000
    found = prediction.deviations(xr.DataArray([0.31, 0.29, 0.3]), xr.DataArray([0.3, 0.3, 0.3]), count)
    np.testing.assert_allclose(found, [2.18, 2.18, 0], atol=0.03)
    rare = prediction.deviations(xr.DataArray([1 / count, 0.0, 0.0]), xr.DataArray([1e-9, 1e-9, 0.0]), count)
    # Once in 10,000 examples is what happens with probability 1e-5, and never is what one expects.
    np.testing.assert_allclose(rare, [stats.norm.isf(1e-5), 0, 0], atol=1e-3)
    impossible = prediction.deviations(xr.DataArray([1 / count, np.nan]), xr.DataArray([0.0, 0.5]), count)
    assert impossible[0] == np.inf
    assert np.isnan(impossible[1])


def test_noise_has_the_margin_of_its_own_part(float64):
    task = LinearlySeparable(40, 2.0, 0.7)
    x, y = task.sample(jr.key(0), 15)
    noise_margin = quick_jit(prediction.noise_margin)
    found = noise_margin(task, x, y)
    z = x * y.astype(x.dtype)[:, None]
    expected = quick_jit(theory.max_margin)(z.at[:, 0].set(0), L2(0.0)).value
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    # In the span of the points it is the same.
    problem = span.fewest(span.problem(task, networks.mlp(jr.key(1), 40, (3,)), x, y))
    np.testing.assert_allclose(noise_margin(problem.task, problem.x, problem.y), expected, rtol=1e-7)
    assert np.isnan(noise_margin(ConcentricSpheres(40), x, y))


def test_noise_that_is_never_separable_is_not_solved_for():
    task = LinearlySeparable(5)
    assert prediction.noise_margin(task, *task.sample(jr.key(0), 200)) == 0


def test_standard_training_is_predicted_without_the_threat(float64):
    task, margin = LinearlySeparable(40, 2.0, 0.7), jnp.asarray(1.2)
    found = {name: prediction.beside(margin, task, SignalDirected(0.9), name) for name in ("standard", "coap")}
    for name, trained in (("standard", 0.0), ("coap", 0.9)):
        expected = theory.maximum_margin_errors(margin, task, SignalDirected(trained), SignalDirected(0.9))
        np.testing.assert_array_equal(list(found[name].values()), expected)


def test_layer_alignment():
    weight = jnp.array([[3.0, 4.0], [0.0, 2.0]])
    np.testing.assert_allclose(metrics.layer_alignment(weight, jnp.array([1.0, 0.0])), 3 / np.sqrt(29), rtol=1e-6)
    assert metrics.layer_alignment(0 * weight, jnp.array([1.0, 0.0])) == 0
    isotropic = jr.normal(jr.key(0), (400, 100))
    np.testing.assert_allclose(metrics.layer_alignment(isotropic, jnp.eye(100)[0]), 0.1, atol=0.02)


@pytest.mark.parametrize(
    ("undefined", "error", "warned"), [(0.4, 0.0, True), (0.05, 0.0, False), (0.4, 0.5, False), (np.nan, 0.0, False)]
)
def test_a_network_whose_attacks_have_no_gradient_is_named(undefined, error, warned):
    """Unless it looks at nothing: a constant classifier has no gradient either, and is wrong on a half."""
    names = {"alignment_attack_undefined": undefined, "standard_error": error, "certified_error": 0.93}
    cells = (("defence", "trial"), np.array([["ok", "ok"]], object))
    values = {name: (("defence", "trial"), [[0.0, value]]) for name, value in names.items()}
    result = xr.Dataset({"status": cells, **values}, {"defence": np.array(["adversarial"], object)})
    words = optimisation._masked("batch 10", result)
    assert bool(words) == warned
    assert "adversarial training with batch 10: no gradient at 40%" in words or not warned


# ---- selection after the fact ----


def with_rates(**values):
    """One cell, three learning rates."""
    names = {name for rule in (*selection.RULES.values(), ("robust_error", "standard_error")) for name in rule}
    data = {name: (("trial", "learning_rate"), [values.get(name, [0.0, 0.0, 0.0])]) for name in names}
    return xr.Dataset({"status": ("trial", np.array(["ok"], object)), **data}, {"learning_rate": [0.1, 0.01, 0.001]})


def test_every_rule_takes_its_own_smallest():
    result = with_rates(
        validation_robust_error=[0.3, 0.1, 0.2],
        robust_error=[0.5, 0.6, 0.4],
        validation_certified_error=[0.7, 0.9, 0.8],
        validation_standard_error=[0.2, 0.1, 0.3],
        train_loss=[3.0, 2.0, 1.0],
    )
    found = dict(zip(selection.RULES, selection.by_rule(result)["robust_error"].values[:, 0], strict=True))
    assert found == {
        "validation robust error": 0.6,
        "test robust error": 0.4,
        "validation certified error": 0.5,
        "validation standard error": 0.6,
        "training loss": 0.4,
    }


def test_ties_go_to_the_tie_break_then_to_the_first_and_nan_is_the_worst():
    tied = with_rates(robust_error=[0.2, 0.1, 0.1], standard_error=[0.0, 0.2, 0.1], train_loss=[1.0, 2.0, 3.0])
    of_test = selection.by_rule(tied).sel(rule="test robust error")
    assert of_test["train_loss"].item() == 3.0
    equal = with_rates(robust_error=[np.nan, 0.1, 0.1], train_loss=[1.0, 2.0, 3.0])
    assert selection.by_rule(equal).sel(rule="test robust error")["train_loss"].item() == 2.0
    assert optimisation.at_best_rate(equal)["train_loss"].item() == 2.0
    assert optimisation.at_best_rate(tied)["train_loss"].item() == 3.0


def test_selection_agrees_with_the_rule_inside_programs():
    """`metrics.select`, which the other studies use, on the same scores."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, ties = rng.integers(0, 3, (2, 3)) / 4.0
        scores[rng.random(3) < 0.2] = np.nan
        if np.isnan(scores).all():
            continue
        result = with_rates(robust_error=scores, standard_error=ties, train_loss=[0.0, 1.0, 2.0])
        inside = int(metrics.select(jnp.asarray(scores), jnp.asarray(ties)))
        assert optimisation.at_best_rate(result)["train_loss"].item() == inside
        assert selection.by_rule(result).sel(rule="test robust error")["train_loss"].item() == inside


def test_optimisation_changes_one_thing_at_a_time():
    settings = studies.STUDIES["optimisation"].scales["default"]
    grid = optimisation.grid(settings)
    base = {name: getattr(settings, name)[0] for name in optimisation.FACTORS}
    seen = set()
    for block in grid.blocks():
        for row in grid.rows(block):
            coords = {**block, **grid.row_coords(row)}
            changed = [name for name in optimisation.FACTORS if coords[name] != base[name]]
            assert len(changed) <= 1
            assert coords["epsilon"] == optimisation.PROBLEMS[coords["problem"]].epsilon
            seen |= {(name, coords[name]) for name in changed}
    assert seen == {(name, value) for name in optimisation.FACTORS for value in getattr(settings, name)[1:]}


def test_places_are_where_any_cell_was_run():
    status = np.full((2, 3, 2), "not_run", dtype=object)
    status[0, 1, 1], status[1, 2, 0] = "ok", "diverged"
    result = xr.Dataset(
        {"status": (("task", "epsilon", "trial"), status)}, {"task": ["a", "b"], "epsilon": [0.1, 0.2, 0.3]}
    )
    assert trials.places(result, "task", "epsilon") == [{"task": "a", "epsilon": 0.2}, {"task": "b", "epsilon": 0.3}]
    assert trials.places(result, "task") == [{"task": "a"}, {"task": "b"}]


def test_equal_values_share_a_rank():
    values = np.random.default_rng(0).integers(0, 4, (20, 9)).astype(float)
    for row in values:
        np.testing.assert_array_equal(relaxations._ranks(row), stats.rankdata(row))


def _excess(*means):
    """A result whose COAP errs by `means` along epsilon more than adversarial training, with standard errors from 0.001
    to 0.002, the same trial the largest everywhere."""
    noise = np.array([-1.0, 0, 1]) * 0.001 * 3**0.5
    gap = np.array(means)[:, None] + noise * np.linspace(1, 2, len(means))[:, None]
    values = np.stack([gap + 0.1, np.full_like(gap, 0.1)])[None]
    dims = ("inner", "defence", "epsilon", "trial")
    data = {"robust_error": (dims, values), "status": (dims, np.full(values.shape, "ok", object))}
    coords = {"inner": [1.0], "defence": ["coap", "adversarial"], "epsilon": np.arange(1.0, len(means) + 1)}
    return xr.Dataset(data, {**coords, "trial": range(3)}).expand_dims({"n": [50], "dim": [10]})


@pytest.mark.parametrize(
    ("means", "held", "said"),
    [
        ((0.0, 0.2, 0.4), True, "+0.000 at epsilon = 1 and +0.400 (paired s.e. 0.002) at 3 with inner = 1; 3 trials"),
        ((0.0, 0.4, 0.1), False, "with inner = 1, after a fall of 0.300 (s.e. 0.001) from 2 to 3"),
        ((0.0, 0.39, 0.4, 0.38), True, "+0.380"),  # beyond its standard errors, but a twentieth of the excess
        ((0.0, 0.0, 0.0), False, "at 3 with inner = 1; 3 trials"),
        ((0.4, 0.2, 0.1), False, "after a fall of 0.200 (s.e. 0.001) from 1 to 2, and one of 0.100"),
    ],
)
def test_a_gap_grows_only_if_it_does_not_fall_on_the_way(means, held, said):
    verdict = protocol.gap_grows(_excess(*means), "epsilon", "inner")
    assert verdict.held == held
    assert said in verdict.sentence
