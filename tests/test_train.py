"""Training against hand-written loops, its batching and schedules, and its equivariance under rotations."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from programs import quick_jit
from test_threats import frame

from simulator import attacks, data, losses, networks, threats, train

DIM, N = 5, 12

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def standard_promotion():
    """optax's Adam mixes its integer step count with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def problem(n=N, widths=(6,)):
    """(network, x, y) in float64."""
    task = data.LinearlySeparable(DIM, margin=jnp.array(1.0), noise=0.5)
    return networks.mlp(jr.key(1), DIM, widths), *task.sample(jr.key(2), n)


def run(recipe, loss=losses.standard, threat=None, given=None, **options):
    network, x, y = problem() if given is None else given
    threat = threats.L2(0.2) if threat is None else threat
    return quick_jit(lambda: train.fit(jr.key(0), network, x, y, threat, loss, recipe, **options))()


def assert_same(ours, theirs, tolerance=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), ours, theirs)


def mean_standard_loss(network, x, y):
    """log(1 + exp(-margin)) averaged, written out for two logits."""
    logits = jax.vmap(network)(x)
    margin = jnp.where(y > 0, 1, -1) * (logits[:, 1] - logits[:, 0])
    return jnp.mean(jnp.log1p(jnp.exp(-margin)))


def test_full_batch_sgd_is_the_loop_by_hand():
    network, x, y = problem()
    slope = jax.jit(jax.grad(mean_standard_loss))
    velocity = jax.tree.map(np.zeros_like, network)
    for _ in range(10):
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slope(network, x, y))
        network = jax.tree.map(lambda w, v: w - 0.2 * v, network, velocity)
    fit = run(train.Recipe(0.2, momentum=0.9, epochs=10))
    assert_same(fit.network, network)
    np.testing.assert_allclose(fit.history["loss"][-1], mean_standard_loss(network, x, y), rtol=1e-9)


def test_adam_is_optax_applied_by_hand(standard_promotion):
    network, x, y = problem()
    optimizer, slope = optax.adam(0.01), jax.jit(jax.grad(mean_standard_loss))
    memory = optimizer.init(network)
    for _ in range(5):
        updates, memory = optimizer.update(slope(network, x, y), memory)
        network = optax.apply_updates(network, updates)
    assert_same(run(train.Recipe(0.01, epochs=5, optimizer="adam", momentum=0.9)).network, network)


def sum_of_examples(network, threat, x, y):
    """A loss whose gradient with respect to the first weight row is x: what SGD saw is left in the weights."""
    return network.layers[0].weight[0] @ x


def test_each_epoch_visits_every_example_once():
    """With orthogonal examples and rate 1 the weights count the visits: sum over batches of x/batch."""
    network = networks.from_weights([(jnp.zeros((1, N)), jnp.zeros(1))])
    given = network, jnp.eye(N), jnp.ones(N, jnp.int32)
    fit = run(train.Recipe(1.0, epochs=3, batch=4), sum_of_examples, given=given)
    np.testing.assert_allclose(fit.network.layers[0].weight, np.full((1, N), -3 / 4), rtol=1e-12)


def test_an_incomplete_last_batch_is_dropped_and_epochs_differ():
    network = networks.from_weights([(jnp.zeros((1, N)), jnp.zeros(1))])
    given = network, jnp.eye(N), jnp.ones(N, jnp.int32)
    visits = run(train.Recipe(5.0, epochs=1, batch=5), sum_of_examples, given=given).network.layers[0].weight[0]
    np.testing.assert_allclose(np.sort(visits), [-1] * 10 + [0] * 2, atol=1e-12)
    first, second = (np.asarray(train._batches(jr.fold_in(jr.key(0), epoch), N, 4)) for epoch in (0, 1))
    assert sorted(first.ravel()) == sorted(second.ravel()) == list(range(N))
    assert not np.array_equal(first, second)


def test_the_radius_warms_up_linearly_by_epoch():
    """The gradient of minus the radius times the bias adds up the radii of the epochs: 1/4, 2/4, 3/4, 1, 1, 1."""
    network = networks.from_weights([(jnp.zeros((1, DIM)), jnp.zeros(1))])

    def loss(network, threat, x, y):
        return -threat.radius * network.last.bias[0]

    given = network, *problem()[1:]
    fit = run(train.Recipe(1.0, warmup=4, epochs=6), loss, threats.L2(0.8), given)
    np.testing.assert_allclose(fit.network.last.bias[0], 0.8 * (0.25 + 0.5 + 0.75 + 3), rtol=1e-12)
    # The history is at the full radius, also before the warm-up is over.
    np.testing.assert_allclose(fit.history["loss"][-1], -0.8 * fit.network.last.bias[0], rtol=1e-12)


def test_trainable_freezes_exactly(standard_promotion):
    theta = jnp.array([0.3, 0.7, -0.2, 0.1, 0.4])
    network = networks.one_neuron(theta, jnp.array(1.5), jnp.array(-0.2))
    mask = networks.one_neuron(jnp.eye(DIM)[0], jnp.array(0.0), jnp.array(0.0))
    for optimizer in train.OPTIMIZERS:
        recipe = train.Recipe(0.1, momentum=0.5, epochs=4, optimizer=optimizer)
        trained = run(recipe, given=(network, *problem()[1:]), trainable=mask).network
        moved = jax.tree.map(lambda a, b: np.asarray(a != b), trained, network)
        assert_same(moved, jax.tree.map(lambda leaf: np.asarray(leaf != 0), mask), 0)


def test_history_starts_before_training_and_ends_with_the_network():
    network, x, y = problem()

    def measure(network):
        return {"bias": network.last.bias}

    fit = run(train.Recipe(0.1, epochs=6), measure=measure, every=2)
    assert train.recorded_epochs(6, 2) == [0, 2, 4, 6]
    assert fit.history["loss"].shape == (4,)
    np.testing.assert_allclose(fit.history["loss"][0], mean_standard_loss(network, x, y), rtol=1e-12)
    assert_same((fit.history["bias"][0], fit.history["bias"][-1]), (network.last.bias, fit.network.last.bias), 1e-14)
    two_epochs = run(train.Recipe(0.1, epochs=2))
    np.testing.assert_allclose(fit.history["loss"][1], two_epochs.history["loss"][-1], rtol=1e-12)
    assert two_epochs.history["loss"].shape == (2,)
    assert not fit.diverged


def test_divergence_is_data():
    fit = run(train.Recipe(1e30, epochs=20), losses.certified("coap"))
    assert bool(fit.diverged)


def test_rates_and_radii_in_one_program_equal_single_runs():
    network, x, y = problem()
    settings = jnp.array([[0.05, 0.1], [0.2, 0.1], [0.2, 0.5]])

    def history(setting):
        recipe = train.Recipe(setting[0], momentum=0.9, epochs=20)
        fit = train.fit(jr.key(0), network, x, y, threats.L2(setting[1]), losses.certified("coap"), recipe, every=1)
        return fit.history["loss"]

    together = quick_jit(jax.vmap(history))(settings)
    single = quick_jit(history)
    np.testing.assert_allclose(together, [single(setting) for setting in settings], rtol=1e-9)
    assert np.unique(together[:, -1]).size == 3


def test_the_example_s_own_signal_reaches_the_threat():
    """SignalDirected without a direction: the loss at epoch 0 is that of each example's own segment."""
    network, x, y = problem()
    signal = jnp.asarray(frame(DIM)[np.arange(N) % 2])
    fit = run(train.Recipe(0.1, epochs=1), losses.exact, threats.SignalDirected(0.7), signal=signal)
    own = jax.vmap(lambda x, y, s: losses.exact(network, threats.SignalDirected(0.7, s), x, y))(x, y, signal)
    np.testing.assert_allclose(fit.history["loss"][0], np.mean(own), rtol=1e-12)


@pytest.mark.parametrize("batch", [13, 100])
def test_a_batch_larger_than_the_data_is_refused(batch):
    with pytest.raises(
        ValueError, match=rf"batch is {batch}, but there are only 12 training examples: give batch <= n"
    ):
        run(train.Recipe(batch=batch))


@pytest.mark.parametrize("every", [0, 3, 20])
def test_a_history_that_does_not_divide_the_epochs_is_refused(every):
    with pytest.raises(ValueError, match=f"history every {every} epochs does not divide 10 epochs: choose a divisor"):
        run(train.Recipe(epochs=10), every=every)


def test_recipes_name_what_is_wrong():
    with pytest.raises(ValueError, match="optimizer is 'lion', but the optimizers are sgd, adam"):
        train.Recipe(optimizer="lion")
    for wrong in ({"epochs": 0}, {"batch": -1}):
        with pytest.raises(ValueError, match=r"epochs is .* and batch is .*: give epochs >= 1 and batch >= 0"):
            train.Recipe(**wrong)


def test_chunks_change_nothing_but_rounding(monkeypatch):
    """1100 examples: two chunks and a rest of 100, against a single sum; also with one signal per example."""
    given = problem(n=1100)
    signal = jr.normal(jr.key(3), (1100, DIM))
    options = {"given": given, "signal": signal, "loss": losses.certified("ibp"), "threat": threats.SignalDirected(0.3)}
    chunked = run(train.Recipe(0.3, epochs=3), **options)
    monkeypatch.setattr(train, "CHUNK", 1100)
    whole = run(train.Recipe(0.3, epochs=3), **options)
    assert_same((chunked.network, chunked.history), (whole.network, whole.history), 1e-10)


ROTATED_THREATS = {
    "l2": lambda radius, turn: threats.L2(radius),
    "signal": lambda radius, turn: threats.SignalDirected(radius, turn[:, 0]),
    "orthogonal": lambda radius, turn: threats.Orthogonal(radius, turn[:, 0]),
    "segments": lambda radius, turn: threats.Segments(radius, turn[:, :3].T),
    "linf": lambda radius, turn: threats.LInf(radius),
}


def adversarial(turn):
    """PGD from a start that turns with the data."""

    def attack(network, threat, x, label):
        return attacks.pgd(network, threat, x, label, steps=3, start=turn @ jnp.linspace(0.1, -0.2, DIM))

    return losses.attacked(attack)


ROTATED_LOSSES = {
    "adversarial": adversarial,
    **{name: lambda turn, name=name: losses.certified(name) for name in ("coap", "crown", "ibp", "crown-ibp")},
}


@functools.cache
def histories(threat, loss):
    """Losses over 20 steps on the data as they are and on the data, threat and first layer turned by Q."""
    network, x, y = problem(widths=(6, 4))
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]

    def history(turn):
        first = eqx.tree_at(lambda net: net.layers[0].weight, network, network.layers[0].weight @ turn.T)
        set_there, recipe = ROTATED_THREATS[threat](0.4, turn), train.Recipe(0.3, momentum=0.5, epochs=20)
        fit = train.fit(jr.key(0), first, x @ turn.T, y, set_there, ROTATED_LOSSES[loss](turn), recipe, every=1)
        return fit.history["loss"]

    turns = jnp.stack([jnp.eye(DIM), jnp.asarray(q)])
    return np.asarray(quick_jit(jax.vmap(history))(turns))


@pytest.mark.parametrize("loss", ROTATED_LOSSES)
@pytest.mark.parametrize(
    "threat", ["signal", *(pytest.param(name, marks=pytest.mark.slow) for name in ("l2", "orthogonal", "segments"))]
)
def test_training_turns_with_the_data(threat, loss):
    plain, turned = histories(threat, loss)
    assert plain.shape == (21,)
    assert plain[-1] < plain[0]
    np.testing.assert_allclose(turned, plain, rtol=1e-9)


def test_training_against_a_box_does_not_turn_with_the_data():
    plain, turned = histories("linf", "ibp")
    assert abs(turned[-1] - plain[-1]) > 1e-3


def pulled(coefficient):
    """A loss whose gradient adds the coefficient to the bias."""

    def loss(network, threat, x, y):
        return -coefficient * network.last.bias[0]

    return loss


@pytest.mark.parametrize("batch", [0, 4])
def test_a_schedule_follows_the_warm_up_and_is_recorded_at_its_end(batch):
    """From 1 to 1/5 over 4 epochs: 4/5, 3/5, 2/5, 1/5, then 1/5, a third of each at every one of the 3 batches."""
    network = networks.from_weights([(jnp.zeros((1, DIM)), jnp.zeros(1))])
    rate = 1.0 if batch == 0 else 1 / 3
    given, recipe = (network, *problem()[1:]), train.Recipe(rate, warmup=4, epochs=6, batch=batch)
    fit = run(recipe, losses.Schedule(pulled, 1.0, 0.2), given=given, every=2)
    np.testing.assert_allclose(fit.network.last.bias[0], 0.8 + 0.6 + 0.4 + 3 * 0.2, rtol=1e-12)
    np.testing.assert_allclose(fit.history["loss"], -0.2 * np.array([0, 1.4, 2.0, 2.4]), rtol=1e-12)


def test_one_trace_serves_all_of_a_schedule_and_its_ends_are_leaves():
    made = []

    def make(coefficient):
        made.append(coefficient)
        return pulled(coefficient)

    network = networks.from_weights([(jnp.zeros((1, DIM)), jnp.zeros(1))])
    _, x, y = problem()

    @quick_jit
    def bias(schedule, warmup):
        recipe = train.Recipe(1.0, warmup=warmup, epochs=50)
        fit = train.fit(jr.key(0), network, x, y, threats.L2(0.2), schedule, recipe)
        return fit.network.last.bias[0]

    schedules = losses.Schedule(make, jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    found = jax.vmap(bias, (0, 0))(schedules, jnp.array([4.0, 1.0]))
    assert len(made) == 1
    np.testing.assert_allclose(found, [0.75 + 0.5 + 0.25, 50], rtol=1e-12)


def test_a_schedule_is_no_loss_that_a_mixture_could_take_one_end_of():
    assert not callable(losses.crown_ibp())


def test_a_smoothed_warm_up_is_a_quartic_and_its_tangent():
    """Over 8 epochs the turn is after 2: shares a/8^4, a/4^4, then a straight line to 1."""
    network = networks.from_weights([(jnp.zeros((1, DIM)), jnp.zeros(1))])

    def loss(network, threat, x, y):
        return -threat.radius * network.last.bias[0]

    recipe = train.Recipe(1.0, warmup=8, epochs=8, curriculum="smoothed")
    fit = run(
        recipe,
        loss,
        threats.L2(1.0),
        (network, *problem()[1:]),
        every=1,
        measure=lambda network: {"bias": network.last.bias[0]},
    )
    radii = np.diff(fit.history["bias"])
    np.testing.assert_allclose(radii[0] / radii[1], 1 / 16, rtol=1e-9)
    np.testing.assert_allclose(np.diff(radii[1:]), np.diff(radii[1:])[0], rtol=1e-9)
    np.testing.assert_allclose(radii[2] - radii[1], 4 * radii[1] / 0.25 / 8, rtol=1e-9)  # the slope of the quartic
    np.testing.assert_allclose(radii[-1], 1, rtol=1e-12)
    with pytest.raises(ValueError, match="curriculum is 'cubic', but the curricula are linear, smoothed"):
        train.Recipe(curriculum="cubic")


@pytest.mark.parametrize("chunk", [500, 5])
def test_weights_of_0_and_1_choose_examples(monkeypatch, chunk):
    """Training on 7 of 12 examples, by weights and by leaving out the rest; also in chunks."""
    monkeypatch.setattr(train, "CHUNK", chunk)
    network, x, y = problem()
    kept = np.array([0, 1, 2, 4, 7, 8, 11])
    weight = jnp.zeros(N).at[kept].set(1.0)
    recipe = train.Recipe(0.3, epochs=10)
    ours, fewer = (
        run(recipe, losses.certified("ibp"), given=given, **options)
        for given, options in (((network, x, y), {"weight": weight}), ((network, x[kept], y[kept]), {}))
    )
    assert_same((ours.network, ours.history), (fewer.network, fewer.history))
    scaled = run(recipe, losses.certified("ibp"), given=(network, x, y), weight=3 * weight)
    assert_same(scaled.network, ours.network)


def test_without_any_weight_nothing_is_trained():
    network, x, y = problem()
    for batch in (0, 4):
        fit = run(train.Recipe(0.3, epochs=2, batch=batch), given=(network, x, y), weight=jnp.zeros(N))
        assert_same(fit.network, network, 0)
        assert not fit.diverged
