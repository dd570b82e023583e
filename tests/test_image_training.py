"""Training networks of images: augmentation, recipes, and that a training is the same however it is cut or spread."""

import dataclasses
import functools
import itertools
import multiprocessing
import os
import re
import signal
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from simulator import attacks, losses, networks, train
from simulator.image_training import (
    RECIPES,
    Checkpoints,
    Interrupted,
    Labelled,
    Preset,
    Progress,
    augmented,
    centred,
    compiled,
    fit,
    mean_gradient,
    mean_loss,
    needed_bytes,
    preset,
    spread,
)
from simulator.image_training.fit import optimizer_of, stretch_of, validation_errors
from simulator.threats import L2, LInf

SHAPE = (1, 4, 4)


def images_of(key, n, shape=SHAPE):
    """Two classes of bytes that differ in their left and right half."""
    y = jr.bernoulli(jr.fold_in(key, 1), shape=(n,)).astype(jnp.int32)
    noise = jr.randint(key, (n, *shape), 0, 120)
    bright = jnp.where(jnp.arange(shape[2]) < shape[2] // 2, 1 - y[:, None], y[:, None]) * 100
    return Labelled((noise + bright[:, None, None, :]).astype(jnp.uint8), y, 255)


def network_of(key, width=6):
    return networks.mlp(key, 16, (width,))


# ---- augmentation ----


def test_windows_are_parts_of_the_padded_image_mirrored_or_not():
    image = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5)
    batch = jnp.asarray(np.broadcast_to(image, (300, 1, 5, 5)))
    found = augmented(jr.key(0), batch, (1, 4, 4), 1, jnp.float32, padding=1, flip=True)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    cuts = [padded[:, i : i + 4, j : j + 4] for i, j in itertools.product(range(4), repeat=2)]
    allowed = {window.ravel().tobytes() for cut in cuts for window in (cut, cut[..., ::-1])}
    seen = {row.astype(np.uint8).tobytes() for row in np.asarray(found)}
    assert seen <= allowed
    # Every one of the 32 is drawn: one is missing with probability below 32 (31/32)^300 < 0.003.
    assert len(seen) == len(allowed) == 32


def test_without_augmentation_images_are_cut_to_the_middle_and_scaled():
    images = jnp.asarray(np.arange(2 * 36, dtype=np.uint8).reshape(2, 1, 6, 6))
    wanted = np.asarray(images)[:, :, 1:5, 1:5].reshape(2, 16) / 71
    np.testing.assert_allclose(centred(images, SHAPE, 71, jnp.float32), wanted, rtol=1e-6)
    whole = augmented(jr.key(0), images[..., 1:5, 1:5], SHAPE, 71, jnp.float32, padding=0, flip=False)
    np.testing.assert_allclose(whole, wanted, rtol=1e-6)


# ---- recipes ----


def test_the_radius_of_coap_is_that_of_a_list_of_epochs():
    """As published: evenly spaced radii, one for each epoch of the ramp, then the full one."""
    recipe = preset("mnist", "coap")
    wanted = np.concatenate([np.linspace(0.01, 1.5, 20), np.full(40, 1.5)])
    for inside in (0.0, 0.99):
        epochs = jnp.arange(60.0) + inside
        shares = jax.vmap(lambda epoch: recipe.share(epoch, jnp.asarray(1.5)))(epochs)
        np.testing.assert_allclose(1.5 * shares, wanted, rtol=1e-5)
    rates = jax.vmap(recipe.rate)(jnp.array([0.0, 29.9, 30.0, 40.0, 50.0, 59.9]))
    np.testing.assert_allclose(rates, 1e-3 * 0.5 ** np.array([0, 0, 1, 2, 3, 3]), rtol=1e-6)


def test_the_radius_of_crown_ibp_grows_within_epochs():
    recipe = preset("mnist", "crown-ibp")
    epochs = jnp.array([0.0, 9.99, 10.0, 35.0, 60.0, 199.0])
    shares = jax.vmap(lambda epoch: recipe.share(epoch, jnp.asarray(2.0)))(epochs)
    np.testing.assert_allclose(shares, [0, 0, 0, 0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize("radius", [0.0, 0.005, 0.3])
def test_shares_are_numbers_from_0_to_1_that_never_fall(radius):
    for recipes in RECIPES.values():
        for recipe in recipes.values():
            epochs = jnp.linspace(0, recipe.epochs, 97)
            shares = np.asarray(jax.vmap(lambda e, r=recipe: r.share(e, jnp.asarray(radius)))(epochs))
            assert ((shares >= 0) & (shares <= 1 + 1e-6)).all()
            assert (np.diff(shares) >= -1e-6).all()
            assert (shares[np.asarray(epochs) >= recipe.full_from] > 1 - 1e-6).all()


@pytest.mark.parametrize(("data", "defence"), [(d, p) for d in RECIPES for p in RECIPES[d]])
def test_every_recipe_can_be_shortened(data, defence):
    whole, half = preset(data, defence), preset(data, defence, 10)
    assert half.epochs == 10
    assert half.full_from < 10
    assert abs(half.full_from / 10 - whole.full_from / whole.epochs) < 0.1
    assert half.batch == whole.batch
    assert all(0 <= at <= 10 for at in half.milestones)
    assert whole.source


def test_impossible_recipes_say_so():
    good = {"source": "a test", "epochs": 4, "batch": 5, "learning_rate": 0.1}
    for change, words in (
        ({"optimizer": "rprop"}, "optimizer is 'rprop', but the optimizers are sgd, adam"),
        ({"curriculum": "steep"}, "curriculum is 'steep'"),
        ({"ramp": 4}, "more epochs than clean \\+ ramp"),
        ({"batch": 0}, "a batch of at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            Preset(**{**good, **change})
    with pytest.raises(ValueError, match="there is no recipe for trades on mnist"):
        preset("mnist", "trades")
    with pytest.raises(ValueError, match="batch is 5, but there are only 3 training images"):
        Preset(**good).steps(3)


# ---- what a training would need ----


def test_the_memory_of_a_training_is_known_before_it_runs():
    needed = [
        needed_bytes(compiled(network_of(jr.key(2)), L2(0.2), adversarial, PLAIN, SHAPE, examples))
        for examples in (1000, 100_000)
    ]
    # Every further image is 16 bytes and a label of 4.
    assert needed[1] - needed[0] >= 99_000 * (16 + 4)
    assert 1000 * 20 < needed[0] < 10 * 1000 * 20 + 1_000_000


@pytest.mark.parametrize("fast", [False, True])
def test_products_are_in_full_precision_unless_asked_otherwise(fast):
    recipe = dataclasses.replace(PLAIN, fast_products=fast)
    network, data = network_of(jr.key(2)), images_of(jr.key(0), 20)
    memory = optimizer_of(recipe).init(network)
    run = stretch_of(recipe, adversarial, SHAPE, data.levels)
    parts = (jr.key(0), network, memory, jnp.zeros(()), L2(jnp.asarray(0.2)), data.images, data.labels)
    program = run.lower(*parts, np.int32(0), np.int32(1)).as_text()
    asked = re.findall(r"precision = \[(\w+), (\w+)\]", program)
    assert asked
    assert {one for pair in asked for one in pair} == ({"DEFAULT"} if fast else {"HIGHEST"})


# ---- training ----


def standard(key):
    """Standard training, one function for all tests that use it."""
    del key
    return losses.standard


def adversarial(key):
    """Adversarial training by a short attack."""
    del key
    return losses.attacked(functools.partial(attacks.pgd, steps=3, step_size=0.5))


PLAIN = Preset(source="a test", epochs=6, batch=10, learning_rate=0.01, milestones=(4,), ramp=2)


@functools.cache
def trained(make_loss=adversarial, recipe=PLAIN):
    data, held_out = images_of(jr.key(0), 45), images_of(jr.key(5), 30)
    return fit(jr.key(1), network_of(jr.key(2)), data, L2(0.2), make_loss, recipe, SHAPE, validation=held_out)


@pytest.mark.parametrize("at_once", [1, 4, 5, 12, 40])
def test_gradients_in_blocks_are_those_of_the_batch(at_once):
    data, network = images_of(jr.key(0), 12), network_of(jr.key(2))
    example = L2(0.2), adversarial(jr.key(0)), data.vectors(SHAPE), data.labels
    whole, parts = (jax.jit(mean_gradient, static_argnums=(2, 5))(network, *example, size) for size in (0, at_once))
    # Sums of 12 terms in another order.
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=24 * np.finfo(a.dtype).eps * float(jnp.max(jnp.abs(a))))


def test_batch_normalisation_sees_the_whole_batch():
    shape = (1, 8, 8)
    network = networks.architecture("narrow-resnet", jr.key(0), shape, 2)
    data = images_of(jr.key(0), 4, shape)
    example = L2(0.2), losses.standard, data.vectors(shape), data.labels
    blocks, whole = (mean_gradient(network, *example, size)[0] for size in (2, 0))
    assert float(blocks) == float(whole)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_full_batches_are_the_program_of_small_networks(optimizer):
    """With one batch an epoch the order does not matter: `train.fit` is a twin."""
    data, network = images_of(jr.key(0), 40), network_of(jr.key(2))
    recipe = Preset(source="a test", epochs=5, batch=40, learning_rate=0.02, optimizer=optimizer)
    found = fit(jr.key(1), network, data, L2(0.2), standard, recipe, SHAPE)
    twin_recipe = train.Recipe(0.02, 0.9, epochs=5, optimizer=optimizer)
    # What the optimizer's library does with types is not ours to forbid.
    with jax.numpy_dtype_promotion("standard"):
        twin = train.fit(jr.key(9), network, data.vectors(SHAPE), data.labels, L2(0.2), losses.standard, twin_recipe)
    # Sums over the batch in another order; five steps.
    for ours, theirs in zip(jax.tree.leaves(found.network), jax.tree.leaves(twin.network), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert found.best_epoch == 5


def test_the_best_epoch_is_chosen_by_robust_then_standard_error_at_the_full_radius():
    found = trained()
    robust, clean = (np.asarray(found.history[name]) for name in ("robust_error", "standard_error"))
    assert np.isnan(robust[:2]).all()
    assert np.isfinite(robust[2:]).all()
    wanted = min(range(2, 6), key=lambda epoch: (robust[epoch], clean[epoch], epoch))
    assert found.best_epoch == wanted + 1
    held_out = images_of(jr.key(5), 30)
    errors = validation_errors(found.network, L2(0.2), held_out.vectors(SHAPE), held_out.labels)
    np.testing.assert_allclose(errors, [robust[wanted], clean[wanted]], rtol=1e-6)
    np.testing.assert_allclose(found.history["radius"][-4:], 0.2, rtol=1e-6)
    assert float(found.history["loss"][-1]) < float(found.history["loss"][0])
    assert not found.diverged


class Stop:
    """Asks for a stop once so many sentences were said."""

    def __init__(self, after):
        self.left = after

    def say(self, sentence):
        self.left -= 1

    def stopping(self):
        return self.left <= 0


@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, after):
    stop = Stop(after)
    data, held_out = images_of(jr.key(0), 45), images_of(jr.key(5), 30)

    def attempt(progress):
        return fit(
            jr.key(1),
            network_of(jr.key(2)),
            data,
            L2(0.2),
            adversarial,
            PLAIN,
            SHAPE,
            validation=held_out,
            checkpoints=Checkpoints(tmp_path / "one", 3600),
            progress=progress,
        )

    with pytest.raises(Interrupted, match="the training is at step"):
        attempt(Progress(stop.say, stop.stopping))
    resumed, whole = attempt(None), trained()
    assert same(resumed.network, whole.network)
    assert resumed.best_epoch == whole.best_epoch
    for name, values in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)
    # What is finished is not trained again.
    again = attempt(Progress(say=lambda sentence: pytest.fail("nothing is left to do")))
    assert same(again.network, whole.network)


def put_to_death(folder):
    """Train with a checkpoint after every stretch, and die without warning in the fifth."""
    # As here: over other devices sums are rounded in another order.
    jax.config.update("jax_num_cpu_devices", 2)
    spoken = itertools.count(1)

    def say(sentence):
        if next(spoken) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    data, held_out = images_of(jr.key(0), 45), images_of(jr.key(5), 30)
    parts = jr.key(1), network_of(jr.key(2)), data, L2(0.2), adversarial, PLAIN, SHAPE
    fit(*parts, validation=held_out, checkpoints=Checkpoints(folder, 0), progress=Progress(say))


@pytest.mark.slow
@pytest.mark.ci
def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=put_to_death, args=(tmp_path / "one",))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    said = []
    data, held_out = images_of(jr.key(0), 45), images_of(jr.key(5), 30)
    parts = jr.key(1), network_of(jr.key(2)), data, L2(0.2), adversarial, PLAIN, SHAPE
    kept = Checkpoints(tmp_path / "one", 3600)
    resumed = fit(*parts, validation=held_out, checkpoints=kept, progress=Progress(said.append))
    assert not said[0].startswith("epoch 1 ")
    assert same(resumed.network, trained().network)
    np.testing.assert_array_equal(resumed.history["loss"], trained().history["loss"])


def test_only_what_is_kept_needs_the_library_of_checkpoints(tmp_path, monkeypatch):
    """Without the extra, trainings that keep nothing go through, and others say what is missing."""
    monkeypatch.setitem(sys.modules, "orbax", None)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    nothing = Checkpoints(None, 0)
    assert nothing.restore({}) is None
    nothing.save(1, {})
    with pytest.raises(ModuleNotFoundError, match="checkpoints need the extra"):
        Checkpoints(tmp_path, 0)


def test_a_batch_spread_over_devices_has_the_loss_and_gradient_of_one_that_is_not():
    data, network = images_of(jr.key(0), 8), network_of(jr.key(2))
    x, y = data.vectors(SHAPE), data.labels
    assert len(jax.devices()) == 2

    def value(x, y):
        return jax.value_and_grad(mean_loss)(network, LInf(0.1), losses.certified("ibp"), x, y)

    alone = jax.jit(value)(x, y)
    split = jax.jit(lambda x, y: value(*spread((x, y))))
    together = split(x, y)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert "num_partitions=2" in split.lower(x, y).compile().as_text()
    # An odd batch stays where it is.
    odd = jax.jit(lambda x: spread(x) * 2)(x[:7])
    np.testing.assert_array_equal(odd, x[:7] * 2)


def test_batch_normalisation_ends_with_statistics_of_training_images():
    keys = jr.split(jr.key(3), 2)
    network = networks.Network(
        (
            networks.affine(keys[0], 16, 5),
            networks.batch_norm((5, 1, 1)),
            networks.ReLU(),
            networks.affine(keys[1], 5, 2),
        )
    )
    data = images_of(jr.key(0), 40)
    recipe = Preset(source="a test", epochs=2, batch=10, learning_rate=0.01)
    found = fit(jr.key(1), network, data, L2(0.2), standard, recipe, SHAPE)
    hidden = jax.vmap(found.network.layers[0])(data.vectors(SHAPE))
    np.testing.assert_allclose(found.network.layers[1].mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.network.layers[1].variance, hidden.var(0), rtol=1e-3)


def test_a_training_that_blows_up_is_said_to():
    recipe = Preset(source="a test", epochs=3, batch=10, learning_rate=1e30, optimizer="sgd")
    data, held_out = images_of(jr.key(0), 45), images_of(jr.key(5), 30)
    found = fit(jr.key(1), network_of(jr.key(2)), data, L2(0.2), standard, recipe, SHAPE, validation=held_out)
    assert found.diverged
