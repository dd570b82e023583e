"""Examining networks of images: the cascade of attacks, bounds beside it, errors by class and directions."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from simulator import bounds, image_evaluation, networks
from simulator.image_evaluation import (
    attack,
    bound,
    by_class,
    cascade_of,
    describe_cascade,
    discrepancy,
    evaluate,
    mean_cosine,
)
from simulator.threats import L2

DIM, N, CLASSES = 6, 70, 4
THREAT = L2(0.35)


@functools.cache
def scene(classes=CLASSES):
    """A network, images with the labels it gives most of them, and a few wrong ones."""
    network = networks.mlp(jr.key(0), DIM, (12,), classes)
    x = jr.normal(jr.key(1), (N, DIM))
    right = jnp.argmax(jax.vmap(network)(x), axis=1).astype(jnp.int32)
    wrong = jnp.arange(N) % 10 == 0
    return network, x, jnp.where(wrong, (right + 1) % classes, right)


@functools.cache
def attacked():
    network, x, y = scene()
    return attack(jr.key(2), network, THREAT, x, y, steps=6, starts=2)


def smallest_margins(network, x, y):
    return np.asarray(jax.vmap(lambda x, y: jnp.min(networks.margins(network, x, y)))(x, y))


def test_what_the_cascade_found_is_in_the_set_and_reaches_its_margin():
    network, x, y = scene()
    found = attacked()
    assert np.linalg.norm(found.delta, axis=1).max() <= 0.35 * (1 + 1e-5)
    np.testing.assert_allclose(smallest_margins(network, x + found.delta, y), found.margin, atol=1e-5)
    np.testing.assert_allclose(smallest_margins(network, x, y), found.clean, atol=1e-6)
    assert (found.margin <= found.clean).all()


def test_images_are_broken_by_the_first_attack_that_does_and_then_left_alone():
    found = attacked()
    wrong = found.clean <= 0
    np.testing.assert_array_equal(wrong, np.arange(N) % 10 == 0)
    np.testing.assert_array_equal(found.broken_by == -2, wrong)
    np.testing.assert_array_equal(found.broken_by == -1, found.margin > 0)
    assert (found.delta[wrong] == 0).all()
    # The first attack alone: what it breaks is its own, with the margin it reached.
    network, x, y = scene()
    keys = jr.split(jr.fold_in(jr.key(2), 0), N)
    first = image_evaluation._stage("apgd-margin", 6, 2)(keys, network, THREAT, x, y)
    broken = ~wrong & (np.asarray(first.margin) <= 0)
    np.testing.assert_array_equal(found.broken_by == 0, broken)
    np.testing.assert_allclose(found.margin[broken], np.asarray(first.margin)[broken], atol=1e-5)
    assert broken.any()
    assert (found.broken_by == -1).any()


def test_every_attack_sees_only_what_is_left(monkeypatch):
    network, x, y = scene()
    seen = []

    def stage(name, steps, starts):
        def breaks_the_first_half(keys, network, threat, x, y):
            seen.append((name, len(set(map(bytes, np.asarray(x))))))
            margin = jnp.where(jnp.arange(len(y)) < len(y) // 2, -1.0, 1.0)
            return jax.vmap(image_evaluation.Attack)(jnp.zeros_like(x), margin)

        return breaks_the_first_half

    monkeypatch.setattr(image_evaluation, "_stage", stage)
    monkeypatch.setattr(image_evaluation, "ATTACKED_AT_ONCE", N)
    found = attack(jr.key(2), network, THREAT, x, y, steps=6, starts=2)
    left = N - N // 10
    assert seen[0] == ("apgd-margin", left)
    assert [name for name, _ in seen][:2] == ["apgd-margin", "apgd-cross-entropy"]
    assert seen[1][1] == left - N // 2
    # What an attack does not reach takes nothing from what another did.
    assert (found.margin <= found.clean).all()


def test_bounds_are_below_what_attacks_reach_and_those_of_the_library():
    network, x, y = scene()
    found = attacked()
    for method in ("ibp", "coap"):
        lower, worst = bound(network, THREAT, x, y, method)
        assert (lower <= found.margin + 1e-5).all()
        assert np.linalg.norm(worst, axis=1).max() <= 0.35 * (1 + 1e-5)
        one = bounds.margin(network, THREAT, x[69], y[69], method)
        rivals = np.delete(np.asarray(one.lower), int(y[69]))
        np.testing.assert_allclose(lower[69], rivals.min(), atol=1e-6)


@functools.cache
def evaluated():
    network, x, y = scene()
    directions = {"up": jnp.broadcast_to(jnp.eye(DIM)[0], x.shape)}
    return evaluate(
        jr.key(2),
        network,
        THREAT,
        x,
        y,
        steps=6,
        starts=2,
        methods=("ibp", "coap"),
        projections=20,
        directions=directions,
    )


def test_numbers_are_those_of_single_images():
    network, x, y = scene()
    values, found = evaluated(), attacked()
    assert values["standard_error"] == np.mean(found.clean <= 0)
    assert values["standard_error"] <= values["robust_error"] <= values["certified_error"]
    lower = {name: bound(network, THREAT, x, y, name)[0] for name in ("ibp", "coap")}
    for name, value in lower.items():
        assert values[f"certified_error_{name}"] == np.mean(value <= 0)
    assert values["certified_error"] == np.mean((lower["ibp"] <= 0) & (lower["coap"] <= 0))
    assert values["excess"] <= 1e-5
    # Of a network with one hidden layer the estimate is the bound.
    assert values["estimated_error"] == pytest.approx(values["certified_error_coap"], abs=1.5 / N)
    np.testing.assert_allclose(values["broken_by"].sum() + values["standard_error"], values["robust_error"], rtol=1e-6)
    dual = bound(network, THREAT, x, y, "coap")[1]
    np.testing.assert_allclose(
        values["alignment_dual_up"], np.mean(dual[:, 0] / np.linalg.norm(dual, axis=1)), rtol=1e-4
    )


def test_a_bound_above_an_attack_shows_as_excess(monkeypatch):
    """The check of the sandwich can fail: a bound that claims too much is caught."""
    network, x, y = scene()
    true = bound(network, THREAT, x, y, "ibp")
    monkeypatch.setattr(image_evaluation, "bound", lambda *args: (true[0] + 5, true[1]))
    values = evaluate(jr.key(2), network, THREAT, x, y, steps=6, starts=2, methods=("ibp",))
    assert values["excess"] > 1


def test_discrepancy_is_that_of_the_definition():
    y = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    wrong = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    np.testing.assert_allclose(by_class(wrong, y, 3), [0.25, 1, 0])
    assert discrepancy(wrong, y, 3) == pytest.approx((1 - 3 / 8) / (1 - 3 / 8))
    even = np.array([1, 0, 1, 0, 1, 0, 1, 0], bool)
    assert discrepancy(even, y, 3) == 0
    assert np.isnan(discrepancy(np.ones(8, bool), y, 3))
    assert np.isnan(discrepancy(wrong, y, 4))


def test_mean_cosine_leaves_out_what_has_no_direction():
    directions = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    deltas = np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 3.0]], np.float32)
    assert mean_cosine(directions, deltas) == pytest.approx(0.5)
    assert np.isnan(mean_cosine(directions, np.zeros((3, 2), np.float32)))


def test_a_cascade_has_the_attacks_its_classes_allow():
    assert cascade_of(2) == ("apgd-margin", "fab", "square")
    assert "apgd-dlr-targeted" not in cascade_of(3)
    assert cascade_of(10) == image_evaluation.CASCADE
    words = describe_cascade(10, 50, 2)
    assert all(name in words for name in cascade_of(10))
    assert "50 steps (500 of square), 2 starts" in words
