"""What lies between attacked and certified losses, against brute force; and the studies that account for it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from programs import quick_jit
from test_sandwich import TOLERANCE, assert_below, random_network, stacked
from test_threats import THREATS, frame

from simulator import attacks, bounds, data, gap, losses, metrics, networks, span, threats, train, trials
from simulator.studies import STUDIES, attribution, gap_report, protocol

RADII = np.array([0.0, 0.02, 0.3, 1.5, 10.0])
DIM, DRAWS = 5, 4
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


# ---- the worst case by every method ----


@functools.cache
def views(threat, outputs, dtype):
    """`gap.worst` at every network and radius (leading axes), in one program."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(dtype == "float64"):
        drawn = stacked([random_network(rng, DIM, (8,), outputs) for _ in range(DRAWS)])
        x = jnp.asarray(rng.normal(size=(DRAWS, DIM)))
        y = jnp.asarray(rng.integers(max(2, outputs), size=DRAWS), jnp.int32)

        def one(network, x, y, radius):
            return gap.worst(network, THREATS[threat](radius, DIM), x, y, attacks.fgsm, tuple(bounds.METHODS))

        over = jax.vmap(jax.vmap(one, (None, None, None, 0)), (0, 0, 0, None))
        found = quick_jit(over)(drawn, x, y, jnp.asarray(RADII))
        assert found["clean"].loss.dtype == found["coap"].margin.dtype == dtype
        return jax.tree.map(np.asarray, found)


QUICK_VIEWS = (("l2", 2, "float32"), ("l2", 3, "float64"), ("signal", 2, "float64"), ("segments", 1, "float32"))
VIEWS = [
    (*view, dtype)
    for view in (("l2", 2), ("l2", 3), ("signal", 2), ("segments", 1))
    for dtype in ("float32", "float64")
]


@pytest.mark.parametrize(
    ("threat", "outputs", "dtype"),
    [pytest.param(*case, marks=[] if case in QUICK_VIEWS else pytest.mark.slow) for case in VIEWS],
)
def test_losses_and_margins_are_in_their_order(threat, outputs, dtype):
    found = views(threat, outputs, dtype)
    known = threat != "l2"
    assert set(found) == {"clean", "attack", *bounds.METHODS, *(["exact"] if known else [])}
    lower = [found[name] for name in ("clean", "attack", "exact") if name in found]
    for first, second in itertools.pairwise(lower):
        assert_below(first.log_loss, second.log_loss, dtype)
        assert_below(second.margin, first.margin, dtype)
    for name in bounds.METHODS:
        assert_below(lower[-1].log_loss, found[name].log_loss, dtype)
        assert_below(found[name].margin, lower[-1].margin, dtype)
    # At the largest radius the inequalities are no equalities.
    assert np.all(found["clean"].log_loss[:, -1] < lower[-1].log_loss[:, -1])
    assert np.any(lower[-1].log_loss[:, -1] + 0.1 < found["coap"].log_loss[:, -1])


def test_at_radius_0_all_methods_agree():
    found = views("signal", 2, "float64")
    for name, one in found.items():
        np.testing.assert_allclose(one.loss[:, 0], found["clean"].loss[:, 0], rtol=1e-12, err_msg=name)


@dtypes
def test_the_logarithm_of_the_loss_is_that_of_the_cross_entropy(dtype):
    with jax.enable_x64(dtype == "float64"):
        margin = jnp.linspace(-60, 60, 241)
        # Two rivals as likely as each other.
        both = jnp.stack([margin, margin + jnp.log(2.0)], 1)
        found = jax.vmap(networks.log_cross_entropy)(both)
        t = -np.asarray(margin, np.longdouble) + np.log(np.longdouble(1.5))
        expected = np.log(np.log1p(np.exp(t)))
        np.testing.assert_allclose(found, expected.astype(float), rtol=4e-6 if dtype == "float32" else 1e-14)
        far = networks.log_cross_entropy(jnp.array([3000.0]))
        assert float(far) == -3000
        assert np.isfinite(jax.grad(lambda m: networks.log_cross_entropy(m))(jnp.array([3000.0]))).all()


def test_the_area_of_a_triangle_is_that_of_its_corners(float64):
    rng = np.random.default_rng(2)
    network, x = random_network(rng, DIM, (9, 7), 2), jnp.asarray(rng.normal(size=DIM))
    boxes = bounds.preactivations(network, threats.L2(0.4), x, "coap")
    areas = []
    for low, high in ((float(one), float(two)) for box in boxes for one, two in zip(box.lower, box.upper, strict=True)):
        # By the shoelace formula; stable neurons have no triangle.
        corners = np.array([(low, 0), (0, 0), (high, high)])
        ahead = np.roll(corners, -1, 0)
        twice = abs(np.sum(corners[:, 0] * ahead[:, 1] - corners[:, 1] * ahead[:, 0]))
        areas.append(twice / 2 if low < 0 < high else 0)
    assert 0 < np.count_nonzero(areas) < len(areas) == 16
    np.testing.assert_allclose(gap.triangle_area(boxes, x.dtype), np.mean(areas), rtol=1e-12)
    assert gap.triangle_area(bounds.preactivations(network, threats.L2(0.0), x, "coap"), x.dtype) == 0
    assert gap.triangle_area([], x.dtype) == 0


# ---- effective budgets ----

MOST = 4.0
STEP = MOST / 2**gap.HALVINGS


@pytest.mark.parametrize("halvings", [1, 5, 20])
def test_bisection_keeps_its_tolerance(halvings, float64):
    targets = jnp.linspace(0.01, 3.99, 50)
    found = jax.vmap(lambda r: gap.least_radius(lambda q: jnp.log1p(q**2), jnp.log1p(r**2), MOST, halvings))(targets)
    above = np.asarray(found - targets)
    assert above.min() > -1e-10
    assert above.max() < MOST / 2**halvings
    # The tolerance is used: it is not finer than it says.
    assert above.max() > MOST / 2**halvings / 4


@dtypes
def test_a_target_that_is_never_reached_has_no_radius(dtype):
    with jax.enable_x64(dtype == "float64"):

        def found(target, most=MOST):
            return float(gap.least_radius(lambda radius: jnp.tanh(radius), jnp.array(target), most))

        assert found(1.1) == np.inf
        assert found(0.5, 0.5) == np.inf  # tanh(0.5) = 0.46
        assert found(float(np.tanh(0.5)), 0.5) == pytest.approx(0.5, abs=3e-4)  # a rounding, and the tolerance
        assert found(0.0) == 0
        assert found(-3.0) == 0
        assert found(0.5, 0.0) == np.inf
        assert np.isnan(found(np.nan))


def example(dim=DIM, widths=(8,), outputs=2, seed=3):
    rng = np.random.default_rng(seed)
    return random_network(rng, dim, widths, outputs), jnp.asarray(rng.normal(size=dim)), jnp.array(1)


def effective_budgets(attack=attacks.fgsm):
    """(network, threat, x, y) -> the effective budget by every bound."""
    run = quick_jit(lambda *given: gap.effective_budgets(*given, attack, MOST))
    return lambda *given: {name: float(value) for name, value in run(*given).items()}


def budgets(network, threat, x, y, attack=attacks.fgsm):
    return effective_budgets(attack)(network, threat, x, y)


@pytest.mark.parametrize(
    ("threat", "outputs"),
    [
        # With one output or two there is one rival: quick with either in turn.
        pytest.param(name, outputs, marks=[] if outputs == 1 + index % 2 else pytest.mark.slow)
        for index, name in enumerate(THREATS)
        for outputs in (1, 2)
    ],
)
def test_of_a_linear_network_the_effective_budget_is_the_radius(threat, outputs, float64):
    network, x, y = example(widths=(), outputs=outputs)
    for name, found in budgets(network, THREATS[threat](0.7, DIM), x, y).items():
        assert -1e-9 < found - 0.7 <= STEP, name


def test_where_every_neuron_is_stable_backward_bounds_pay_for_their_radius_alone(float64):
    plain, x, y = example(widths=(7, 6))
    network = networks.from_weights([(layer.weight, layer.bias + 20) for layer in plain.layers[::2]])
    found = budgets(network, threats.L2(0.7), x, y)
    assert all(-1e-9 < found[name] - 0.7 <= STEP for name in ("crown", "coap", "crown-ibp"))
    assert found["ibp"] > 0.8


def brute_force(network, direction, x, labels, target, most):
    """The least radius of a grid at which the mean over examples of the largest loss within it reaches the target."""
    radii = np.linspace(0, most, 4001)
    (first, _, last) = network.layers
    weight, bias, out, shift = map(np.asarray, (first.weight, first.bias, last.weight, last.bias))
    total = 0
    for point, k in zip(np.asarray(x), np.asarray(labels), strict=True):
        sides = []
        for side in (1, -1):
            hidden = np.maximum((point + side * radii[:, None] * direction) @ weight.T + bias, 0)
            logits = hidden @ out.T + shift
            sides.append(np.logaddexp(0, logits[:, 1 - k] - logits[:, k]))
        total = total + np.maximum.accumulate(np.max(sides, axis=0)) / len(x)
    return radii[np.argmax(total >= target)] if total[-1] >= target else np.inf


def test_effective_budgets_along_a_segment_against_brute_force(float64):
    rng, direction = np.random.default_rng(5), frame(DIM)[0]
    ratios = []

    @quick_jit
    def budgets_and_losses(network, x, y):
        threat = threats.SignalDirected(0.8, jnp.asarray(direction))
        found = gap.mean_budgets(network, jax.vmap(lambda _: threat)(y), x, y, attacks.fgsm, MOST)
        each = {name: jax.vmap(losses.certified(name), (None, None, 0, 0))(network, threat, x, y) for name in found}
        return found, each

    for seed in range(3):
        network, *_ = example(seed=seed)
        x, y = jnp.asarray(rng.normal(size=(6, DIM))), jnp.asarray(rng.integers(2, size=6))
        found, certified = budgets_and_losses(network, x, y)
        for name, value in found.items():
            target = np.mean(certified[name])
            expected = brute_force(network, direction, x, y, target, MOST)
            # The two grids have the steps 1/1000 and `STEP`.
            assert value == expected or abs(value - expected) <= STEP + 1e-3, name
            ratios.append(float(value) / 0.8)
    assert min(ratios) > 1 - 1e-9
    assert max(ratios) > 1.05


def test_an_attack_finds_a_budget_that_is_at_least_the_exact_one(float64, monkeypatch):
    network, x, y = example(seed=1)
    threat = THREATS["signal"](1.0, DIM)
    exact = budgets(network, threat, x, y)
    monkeypatch.setattr(attacks, "has_exact", lambda *given: False)
    attacked = budgets(network, threat, x, y)
    assert all(attacked[name] >= exact[name] - 1e-9 >= 1 - 2e-9 for name in gap.BOUNDS)
    # An attack that finds nothing reaches nothing.
    nothing = budgets(network, threat, x, y, lambda network, threat, x, label: attacks.Attack(0 * x, jnp.zeros(())))
    assert set(nothing.values()) == {np.inf}


@dtypes
def test_without_an_effective_difference_the_budget_is_0(dtype):
    with jax.enable_x64(dtype == "float64"):
        (network, x, y), found = example(widths=(30, 20)), effective_budgets()
        dead = networks.from_weights([(layer.weight, layer.bias - 1000) for layer in network.layers[::2]])
        assert set(found(network, threats.L2(0.0), x, y).values()) == {0}
        assert set(found(dead, threats.L2(1.0), x, y).values()) == {0}


def test_a_loss_that_no_radius_has_gives_inf(float64):
    nothing = networks.from_weights([(jnp.ones((2, 1)), jnp.full(2, 9.0)), (jnp.array([[1.0, -1.0]]), jnp.zeros(1))])
    found = budgets(nothing, threats.L2(2.0), jnp.ones(1), jnp.array(1))
    # The two neurons cancel, so every loss is log 2; interval bounds do not see it.
    assert found == {"alpha-crown": 0, "crown": 0, "coap": 0, "crown-ibp": 0, "ibp": np.inf}


# ---- turned perturbations ----


@dtypes
def test_a_turned_perturbation_has_its_length_its_cosine_and_its_plane(dtype):
    rng, cosines = np.random.default_rng(7), [-1.0, -0.3, 0.0, 0.5, 1.0]
    with jax.enable_x64(dtype == "float64"):
        signal = jnp.asarray(frame(DIM)[0])
        drawn = jnp.asarray(rng.normal(size=(20, DIM)) * np.logspace(-6, 3, 20)[:, None])
        found = jax.vmap(jax.vmap(gap.turned, (None, None, 0)), (0, None, None))(drawn, signal, jnp.array(cosines))
        assert found.dtype == dtype
        found, drawn, signal = (np.asarray(one, np.float64) for one in (found, drawn, signal))
    length = np.linalg.norm(drawn, axis=1)
    across = drawn - np.outer(drawn @ signal, signal)
    across /= np.linalg.norm(across, axis=1)[:, None]
    expected = np.stack([c * signal + np.sqrt(1 - c**2) * across for c in cosines], 1) * length[:, None, None]
    np.testing.assert_allclose(found / length[:, None, None], expected / length[:, None, None], atol=TOLERANCE[dtype])


@dtypes
def test_what_spans_no_plane_stays_as_it_is(dtype):
    with jax.enable_x64(dtype == "float64"):
        signal = jnp.asarray(frame(DIM)[0])
        for delta in (-2.5 * signal, 1e-3 * signal, jnp.zeros(DIM)):
            np.testing.assert_array_equal(gap.turned(delta, signal, jnp.array(0.3)), delta)
            slope = jax.jacobian(gap.turned)(delta, signal, jnp.array(0.3))
            assert np.isfinite(slope).all()


# ---- counterfactuals ----


def small_problem():
    task = data.ConcentricSpheres(6, jnp.array(1.0), jnp.array(4.0))
    return span.problem(task, networks.mlp(jr.key(0), 6, (8,)), *task.sample(jr.key(1), 12))


def turned(problem, pointing, radius=0.7):
    return attribution.turned_loss(problem.task, "coap", jnp.array(radius), jnp.array(pointing, jnp.int32))


def value_and_gradient(loss, radius=0.7):
    problem = small_problem()

    def mean(network):
        return jnp.mean(jax.vmap(lambda x, y: loss(network, threats.L2(radius), x, y))(problem.x, problem.y))

    return jax.value_and_grad(mean)(problem.network)


def test_a_perturbation_that_points_where_it_did_is_adversarial_training(float64):
    known = quick_jit(lambda: value_and_gradient(losses.attacked(protocol.training_attack)))()
    pointing = quick_jit(lambda pointing: value_and_gradient(turned(small_problem(), pointing)))
    own, dual = pointing(attribution.OWN), pointing(attribution.DUAL)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14), own, known)
    assert abs(float(dual[0] - known[0])) > 1e-5


def test_perturbations_point_where_the_bound_does_or_nowhere_along_the_signal(float64, monkeypatch):
    """Seen from the points at which the loss evaluates the network."""
    problem, threat, seen = small_problem(), threats.L2(0.7), []
    monkeypatch.setattr(
        attribution, "margins", lambda network, point, k: seen.append(point) or networks.margins(network, point, k)
    )

    def around(x, y):
        """Perturbations by where they point, the dual vector of the bound, and the signal."""
        found = []
        for pointing in (attribution.DUAL, attribution.NONE):
            turned(problem, pointing, 1.3)(problem.network, threat, x, y)
            found.append(seen.pop() - x)
        k = networks.label(y)
        dual = bounds.margin(problem.network, threats.L2(1.3), x, k, "coap").worst[1 - k]
        return (*found, dual, problem.task.signal(x, y))

    for along, nowhere, dual, signal in zip(*quick_jit(jax.vmap(around))(problem.x[:3], problem.y[:3]), strict=True):
        for delta, expected in ((along, metrics.cosine(signal, dual)[0]), (nowhere, 0)):
            np.testing.assert_allclose(metrics.cosine(signal, delta)[0], expected, atol=1e-9)
            np.testing.assert_allclose(jnp.linalg.norm(delta), 0.7, rtol=1e-9)


def trained(**recipe):
    problem = small_problem()
    loss = losses.attacked(attacks.fgsm)
    return train.fit(jr.key(2), problem.network, problem.x, problem.y, threats.L2(0.5), loss, train.Recipe(**recipe))


@pytest.mark.parametrize("batch", [0, 6])
def test_a_schedule_gives_every_epoch_its_radius(batch, float64):
    ramp = quick_jit(lambda: trained(warmup=4.0, epochs=6, batch=batch))()
    scheduled = quick_jit(lambda schedule: trained(schedule=schedule, epochs=6, batch=batch))
    same, other = (scheduled(jnp.array([0.25, 0.5, 0.75, 1, 1, last])) for last in (1, 1.5))
    weights = [one.network.layers[0].weight for one in (ramp, same, other)]
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-12)
    assert np.abs(weights[2] - weights[0]).max() > 1e-6


def test_a_schedule_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"schedule has shape \(3,\), but there are 6 epochs"):
        train.Recipe(schedule=jnp.ones(3), epochs=6)


# ---- the studies ----


def attribution_result(errors, arms, trials=3):
    """Robust errors by defence and by arm, of spheres in the ball at one radius, a little different in each trial."""
    noise = 0.01 * np.arange(trials)
    axes = {"task": ["spheres"], "shape": ["ball"], "defence": ["adversarial", "coap"], "n": [50], "dim": [100]}
    coords = {**axes, "epsilon": [1.0], "trial": range(trials), "arm": list(attribution.ARMS)}
    shape, dims = (1, 1, 2, 1, 1, 1, trials), (*axes, "epsilon", "trial")
    robust = np.reshape(errors, (1, 1, 2, 1, 1, 1, 1)) + noise * np.ones(shape)
    table = np.full((*shape, 4), np.nan)
    table[:, :, 1] = np.array(arms) + noise[:, None]
    status = (dims, np.full(shape, "ok", object))
    return xr.Dataset(
        {"robust_error": (dims, robust), "arm_robust_error": ((*dims, "arm"), table), "status": status}, coords
    )


def shown(result, name):
    return float(trials.over_trials(attribution.parts(result), name)[0].squeeze())


def test_the_parts_add_up_to_the_gap():
    result = attribution_result([0.1, 0.5], [0.35, 0.15, 0.45, 0.05])
    expected = {"gap": 0.4, "magnitude first": 0.25, "magnitude last": 0.3, "direction first": 0.05}
    expected |= {"direction last": 0.1, "magnitude": 0.275, "direction": 0.075, "remainder": 0.05, "across": -0.05}
    for name, value in expected.items():
        assert shown(result, name) == pytest.approx(value), name
    assert sum(shown(result, name) for name in attribution.PARTS[1:]) == pytest.approx(shown(result, "gap"))


def test_along_the_signal_there_is_no_direction():
    result = attribution_result([0.1, 0.5], [0.35, np.nan, np.nan, np.nan]).assign_coords(shape=["signal"])
    assert [shown(result, name) for name in ("magnitude", "remainder")] == pytest.approx([0.25, 0.15])
    assert np.isnan([shown(result, name) for name in ("direction", "direction last", "across")]).all()
    # In the ball the same errors would be an arm that is missing, and no part is known.
    assert np.isnan(shown(result.assign_coords(shape=["ball"]), "magnitude"))


@pytest.mark.parametrize("defence", ["adversarial", "coap"])
def test_a_trial_that_lacks_an_error_is_in_no_part(defence):
    result = attribution_result([0.1, 0.5], [0.35, 0.15, 0.45, 0.05])
    result["status"].loc[{"defence": defence, "trial": 0}] = "diverged"
    result["robust_error"].loc[{"defence": defence, "trial": 0}] = 0.9
    result["arm_robust_error"].loc[{"trial": 1, "arm": "both"}] = np.nan
    for name in (*attribution.PARTS, *attribution.ORDERS):
        assert int(trials.over_trials(attribution.parts(result), name)[2].squeeze()) == 1, name
    assert shown(result, "gap") == pytest.approx(0.4)


@pytest.mark.parametrize(("magnitude", "held"), [(0.35, True), (0.25, False)])
def test_the_verdict_of_the_attribution_follows_the_data(magnitude, held):
    verdict = attribution.verdict(attribution_result([0.1, 0.5], [magnitude, 0.15, 0.45, 0.05]))
    assert verdict.held is held
    assert f"at least half of the gap at {int(held)} of 1 radii" in verdict.sentence
    assert "mostly magnitude" in verdict.sentence


def test_without_a_gap_nothing_is_attributed():
    verdict = attribution.verdict(attribution_result([0.1, 0.1], [0.35, 0.15, 0.45, 0.05]))
    assert not verdict.held
    assert "no radius on the spheres has a gap" in verdict.sentence


def report_result(values):
    dims = ("task", "shape", "defence", "n", "dim", "epsilon", "trial")
    coords = {"task": ["linear"], "shape": ["signal"], "defence": ["coap"], "n": [50], "dim": [100], "epsilon": [2.0]}
    budget = np.broadcast_to(2 * np.array(values), (1, 1, 1, 1, 1, 1, 2, len(values)))
    table = {
        "budget_coap_history": ((*dims, "epoch"), budget),
        "status": (dims, np.full(budget.shape[:-1], "ok", object)),
    }
    return xr.Dataset(table, {**coords, "trial": [0, 1], "epoch": range(len(values))})


@pytest.mark.parametrize(
    ("values", "held"),
    [([3, 2, 1.5], True), ([3, 2, 2.5], False), ([3, 3.5, 1.5], False), ([3, 2, np.inf], False)],
)
def test_the_verdict_of_the_report_follows_the_data(values, held):
    assert gap_report.verdict(report_result(values)).held is held


def test_histories_are_those_of_the_report():
    """One network of the study, against what `gap` says example by example."""
    problem, threat = small_problem(), threats.L2(jnp.array(0.6))
    found = quick_jit(gap_report.report(problem, threat))(problem.network)
    assert set(found) == set(gap_report._HISTORIES)
    assert np.isnan(found["loss_exact"])
    ordered = [found[f"loss_{name}"] for name in ("clean", "attack", "coap", "ibp")]
    assert all(first < second for first, second in itertools.pairwise(ordered))
    coap = jax.vmap(losses.certified("coap"), (None, None, 0, 0))
    certified = quick_jit(coap)(problem.network, threat, problem.x, problem.y)
    np.testing.assert_allclose(found["loss_coap"], jnp.mean(certified), rtol=1e-5)
    assert 0.6 <= found["budget_coap"] <= found["budget_ibp"]
    assert 0 <= found["budget_unreached"] <= 1


@pytest.mark.parametrize("name", ["gap-report", "attribution"])
def test_both_shapes_have_their_own_radii(name):
    settings = STUDIES[name].scales["default"]
    grid = STUDIES[name].grid(settings)
    rows = {(task, shape): set() for task in settings.task for shape in settings.shape}
    for block in grid.blocks():
        rows[block["task"], block["shape"]] |= {grid.row_coords(row)["epsilon"] for row in grid.rows(block)}
    assert rows == {
        ("spheres", "ball"): set(settings.spheres_epsilon),
        ("spheres", "signal"): set(),
        ("linear", "ball"): set(settings.linear_epsilon),
        ("linear", "signal"): set(settings.signal_epsilon),
    }
