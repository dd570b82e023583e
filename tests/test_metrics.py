"""Metrics against closed forms on linear networks, and how undefined values and chunks are handled."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from scipy.stats import norm

from simulator import attacks, data, losses, metrics, networks, threats, train

DIM, N = 4, 20000
MARGIN, NOISE, RADIUS = 0.5, 0.8, 0.3


def exact(key, network, threat, x, label):
    """`attacks.exact` as an attack that is given a key."""
    return attacks.exact(network, threat, x, label)


def linear_network(w):
    return networks.from_weights([(np.asarray(w, np.float32)[None], np.zeros(1, np.float32))])


def evaluate(network, threat, n=N, key=0, task=None, **options):
    task = data.LinearlySeparable(DIM, MARGIN, NOISE) if task is None else task
    run = quick_jit(lambda: metrics.evaluate(jr.key(key), network, task, threat, exact, n=n, **options))
    return {name: np.asarray(value) for name, value in run().items()}


LINEAR_THREATS = {
    "l2": (threats.L2, lambda w: np.linalg.norm(w)),
    "linf": (threats.LInf, lambda w: np.abs(w).sum()),
    "signal": (threats.SignalDirected, lambda w: abs(w[0])),
}
WEIGHTS = np.array([1.0, 0.4, -0.3, 0.2])


@functools.cache
def linear_metrics(name):
    return evaluate(linear_network(WEIGHTS), LINEAR_THREATS[name][0](RADIUS))


def assert_share(found, probability):
    """Within 5 standard errors of a share among N."""
    assert abs(found - probability) < 5 * np.sqrt(probability * (1 - probability) / N)


@pytest.mark.parametrize("name", LINEAR_THREATS)
def test_errors_of_a_linear_network_are_the_closed_forms(name):
    found, h = linear_metrics(name), RADIUS * LINEAR_THREATS[name][1](WEIGHTS)
    spread = NOISE * np.linalg.norm(WEIGHTS[1:])
    robust = norm.cdf((h - MARGIN * WEIGHTS[0]) / spread)
    assert_share(found["standard_error"], norm.cdf(-MARGIN * WEIGHTS[0] / spread))
    assert_share(found["robust_error"], robust)
    assert_share(found["certified_error"], robust)  # bounds are exact on linear networks
    assert found["unstable"] == 0


@pytest.mark.parametrize("name", LINEAR_THREATS)
def test_standard_errors_are_those_of_a_share(name):
    found = linear_metrics(name)
    for error in ("standard_error", "robust_error", "certified_error"):
        p = found[error]
        np.testing.assert_allclose(found[f"{error}_se_test"], np.sqrt(p * (1 - p) / N), rtol=1e-3)


@pytest.mark.parametrize("name", LINEAR_THREATS)
def test_alignments_of_a_linear_network_are_its_angles(name):
    """All three perturbations of (x, y) are -y times a fixed vector, and the signal direction is -y s."""
    found = linear_metrics(name)
    worst = {"l2": WEIGHTS, "linf": np.sign(WEIGHTS), "signal": np.eye(DIM)[0]}[name]
    angle = worst[0] / np.linalg.norm(worst)
    for which in ("attack", "dual"):
        np.testing.assert_allclose(found[f"alignment_{which}"], angle, rtol=1e-5)
        np.testing.assert_allclose(found[f"signal_share_{which}"], angle if name != "linf" else 1, rtol=1e-5)
    np.testing.assert_allclose(found["alignment_gradient"], WEIGHTS[0] / np.linalg.norm(WEIGHTS), rtol=1e-5)
    assert all(found[f"alignment_{which}_undefined"] == 0 for which in metrics.PERTURBATIONS)


@pytest.mark.parametrize("name", LINEAR_THREATS)
def test_margins_of_a_linear_network_drop_by_the_support(name):
    """Attack and bound are exact there, so that COAP's drop is real and its looseness 0."""
    found, h = linear_metrics(name), RADIUS * LINEAR_THREATS[name][1](WEIGHTS)
    np.testing.assert_allclose(found["margin_clean"], MARGIN * WEIGHTS[0], atol=5 * NOISE * norm_of_rest() / np.sqrt(N))
    np.testing.assert_allclose(found["margin_clean"] - found["margin_attack"], h, rtol=1e-4)
    np.testing.assert_allclose(found["margin_coap"], found["margin_attack"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["looseness"], 0, atol=1e-4)


def norm_of_rest():
    return np.linalg.norm(WEIGHTS[1:])


def test_looseness_is_between_0_and_1_and_undefined_without_a_threat():
    found = neural_metrics(2.0)
    drop = found["margin_clean"] - found["margin_coap"]
    np.testing.assert_allclose(found["looseness"], (found["margin_attack"] - found["margin_coap"]) / drop, rtol=1e-4)
    assert 0.01 < found["looseness"] < 1
    assert np.isnan(neural_metrics(0.0)["looseness"])


def test_a_network_that_reads_the_signal_alone_is_perfectly_aligned():
    found = evaluate(linear_network([1.0, 0, 0, 0]), threats.L2(RADIUS), n=500)
    for which in metrics.PERTURBATIONS:
        np.testing.assert_allclose(found[f"alignment_{which}"], 1, rtol=1e-6)
    np.testing.assert_allclose(found["signal_share_attack"], 1, rtol=1e-6)
    assert found["robust_error"] == 0


@functools.cache
def neural_metrics(radius, chunk=500):
    network = networks.mlp(jr.key(3), DIM, (8,), 1)
    return evaluate(network, threats.SignalDirected(radius), n=1000, chunk=chunk, samples=7)


def test_robust_is_above_standard_and_certified_above_robust():
    found = neural_metrics(2.0)
    assert found["standard_error"] < found["robust_error"] <= found["certified_error"]
    assert 0 < found["unstable"] < 1


def test_at_radius_0_alignments_are_undefined_and_errors_agree():
    found = neural_metrics(0.0)
    for which in ("attack", "dual"):
        assert np.isnan(found[f"alignment_{which}"])
        assert np.isnan(found[f"signal_share_{which}"])
        assert found[f"alignment_{which}_undefined"] == 1
        assert np.all(np.isnan(found[f"alignment_{which}_samples"]))
    assert np.isfinite(found["alignment_gradient"])
    assert found["standard_error"] == found["robust_error"] == found["certified_error"]


def test_undefined_angles_are_left_out_of_the_mean_rather_than_counted_as_0():
    """A gate closes the network on half the plane: no gradient there, and a constant angle elsewhere."""
    gate = networks.from_weights(
        [
            (np.array([[1.0, 1, 0, 0]], np.float32), np.zeros(1, np.float32)),
            (np.ones((1, 1), np.float32), np.ones(1, np.float32)),
        ]
    )
    found = evaluate(gate, threats.L2(0.0), n=1000)
    assert 0.1 < found["alignment_gradient_undefined"] < 0.9
    task = data.LinearlySeparable(DIM, MARGIN, NOISE)
    x, y = task.sample(jr.key(2), 200)
    values = quick_jit(lambda: metrics.examine_all(jr.key(1), gate, task, threats.L2(0.0), x, y, exact))()
    defined = np.asarray(values["alignment_gradient_defined"]) > 0
    expected = np.asarray(values["alignment_gradient"])[defined].mean()
    found = metrics.means(values)
    np.testing.assert_allclose(found["alignment_gradient"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["alignment_gradient_undefined"], 1 - defined.mean(), rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.asarray(values["alignment_gradient"])[defined]), 0.5**0.5, rtol=1e-6)


def test_cosines_of_tiny_and_huge_vectors():
    a, b = jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0])
    for size in (1e-30, 1.0, 1e30):
        angle, defined = metrics.cosine(a, size * b)
        np.testing.assert_allclose(angle, 0.96, rtol=1e-6)
        assert bool(defined)
    for pair in ((a, 0 * b), (0 * a, b)):
        angle, defined = metrics.cosine(*pair)
        assert angle == 0
        assert not bool(defined)


def test_samples_are_the_first_examples_whatever_is_averaged():
    found = neural_metrics(2.0)
    for which in metrics.PERTURBATIONS:
        assert found[f"alignment_{which}_samples"].shape == (7,)
        assert np.nanmax(np.abs(found[f"alignment_{which}_samples"])) <= 1 + 1e-6
    assert "alignment_attack_samples" not in evaluate(linear_network(WEIGHTS), threats.L2(0.1), n=100)


def test_chunks_are_averaged_as_one_sample():
    """The same draws, examined at once and in the chunks that `evaluate` draws."""
    network, task = networks.mlp(jr.key(3), DIM, (8,), 1), data.LinearlySeparable(DIM, MARGIN, NOISE)
    threat, key = threats.SignalDirected(2.0), jr.key(0)

    def at_once():
        splits = [jr.split(chunk_key) for chunk_key in jr.split(key, 2)]
        xs, ys = zip(*(task.sample(data_key, 500) for data_key, _ in splits), strict=True)
        x, y = jnp.concatenate(xs), jnp.concatenate(ys)
        return metrics.means(metrics.examine_all(key, network, task, threat, x, y, exact))

    whole = quick_jit(at_once)()
    chunked = neural_metrics(2.0)
    for name, value in whole.items():
        np.testing.assert_allclose(chunked[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_every_name_of_the_table_is_returned():
    found = neural_metrics(2.0)
    errors = {"standard_error", "robust_error", "certified_error", "unstable", *metrics.MARGINS}
    angles = {f"alignment_{which}" for which in metrics.PERTURBATIONS}
    averaged = errors | angles | {"signal_share_attack", "signal_share_dual"}
    extra = {f"{name}_undefined" for name in angles} | {f"{name}_samples" for name in angles}
    assert set(found) == averaged | {f"{name}_se_test" for name in averaged} | extra | {"looseness"}


@pytest.mark.parametrize(
    ("scores", "tie_break", "best"),
    [
        ([0.3, 0.1, 0.2], [0.0, 0.0, 0.0], 1),
        ([0.1, 0.1, 0.2], [0.5, 0.4, 0.0], 1),
        ([0.1, 0.1, 0.1], [0.4, 0.4, 0.4], 0),
        ([np.nan, 0.9, np.nan], [0.0, 0.9, 0.0], 1),
        ([np.nan, np.nan, np.nan], [0.2, 0.1, 0.3], 1),
        ([0.1, 0.1], [np.nan, 0.9], 1),
    ],
)
def test_select_takes_the_lowest_score_then_tie_break_then_order(scores, tie_break, best):
    assert metrics.select(jnp.array(scores), jnp.array(tie_break)) == best


def test_sizes_that_do_not_fit_are_refused():
    network, threat = linear_network(WEIGHTS), threats.L2(0.1)
    with pytest.raises(ValueError, match="750 test examples are not a multiple of the chunk 500"):
        evaluate(network, threat, n=750)
    with pytest.raises(ValueError, match="samples is 11, but there are only 10 test examples: ask for at most 10"):
        evaluate(network, threat, n=10, samples=11)


@pytest.mark.slow
def test_a_random_signal_direction_gives_the_same_errors_as_the_first_axis():
    """Means over trials of short trainings with each direction differ by less than 5 of their standard errors."""
    trials, n = 40, 500

    def errors(key, turned):
        direction_key, data_key, init_key, test_key = jr.split(key, 4)
        random = jr.normal(direction_key, (DIM,))
        direction = random / jnp.linalg.norm(random) if turned else jnp.eye(DIM)[0]
        task = data.LinearlySeparable(DIM, MARGIN, NOISE, direction)
        x, y = task.sample(data_key, 40)
        recipe = train.Recipe(0.3, epochs=30)
        start = networks.mlp(init_key, DIM, (10,), 1, init="he")
        threat, signal = threats.SignalDirected(RADIUS), jax.vmap(task.signal)(x, y)
        fit = train.fit(init_key, start, x, y, threat, losses.certified("coap"), recipe, signal=signal)
        return metrics.evaluate(test_key, fit.network, task, threat, exact, n=n)

    first, second = (
        quick_jit(jax.vmap(functools.partial(errors, turned=turned)))(jr.split(jr.key(9), trials))
        for turned in (False, True)
    )
    for name in ("standard_error", "robust_error", "certified_error"):
        gap = np.mean(first[name]) - np.mean(second[name])
        spread = np.sqrt((np.var(first[name], ddof=1) + np.var(second[name], ddof=1)) / trials)
        assert abs(gap) < 5 * spread
        assert spread < 0.05


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_network_that_diverged_is_wrong_everywhere(weight):
    """Its margins are no numbers, which no comparison with 0 would count as an error: it must not win a selection."""
    network = networks.from_weights(
        [
            (np.full((3, DIM), weight, np.float32), np.zeros(3, np.float32)),
            (np.ones((2, 3), np.float32), np.zeros(2, np.float32)),
        ]
    )
    found = evaluate(network, threats.SignalDirected(RADIUS), n=50)
    assert all(found[name] == 1 for name in ("standard_error", "robust_error", "certified_error"))
