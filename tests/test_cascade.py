"""Cascades: who answers, who is trained on what, and errors against a search over the whole threat."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit

from simulator import attacks, cascade, data, losses, networks, threats, train

pytestmark = pytest.mark.usefixtures("float64")

STAGES, N, TESTS = 3, 40, 60


def stacked(*single):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *single)


def line(*knots):
    """A network on [1] with the single output sum of a ReLU(w x + b) + c, from (w, b, a) and c last."""
    *neurons, c = knots
    w, b, a = np.array(neurons).T
    return networks.from_weights([(jnp.asarray(w[:, None]), jnp.asarray(b)), (jnp.asarray(a[None]), jnp.array([c]))])


@functools.cache
def program():
    """The errors of a cascade at one example under |delta| <= 1."""
    return quick_jit(lambda stages, x, y: cascade.evaluate(stages, threats.LInf(1.0), x, y, attacks.pgd))


def examined(first, last, x, y):
    found = program()(stacked(first, last), jnp.array([[x]]), jnp.array([y], jnp.int32))
    return {name: float(value) for name, value in found.items()}


def constant(value):
    return line((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), value)


def rising():
    """f(x) = x, which certifies its sign where |x| > radius."""
    return line((1.0, 0.0, 1.0), (-1.0, 0.0, -1.0), 0.0)


def test_the_first_stage_that_certifies_answers_else_the_last():
    both = stacked(rising(), constant(-1.0))
    for x, stage in ((2.0, 0), (-2.0, 0), (0.5, 1)):
        assert cascade.answering(both, threats.LInf(1.0), jnp.array([x]))[0] == stage
    unsure = stacked(rising(), rising())
    assert [int(v) for v in cascade.answering(unsure, threats.LInf(1.0), jnp.array([0.5]))] == [1, 0]


def test_what_is_published_as_certified_can_be_attacked():
    """At x = 1.5 the first stage certifies that it is right; at x - 1 it certifies nothing, and the second is wrong."""
    found = examined(rising(), constant(-1.0), 1.5, 1)
    assert found == {
        "standard_error": 0,
        "robust_error": 1,
        "certified_error": 1,
        "published_error": 0,
        "unproven": 0,
    }
    # From twice the radius on, the first stage answers everywhere in x + B.
    assert examined(rising(), constant(-1.0), 2.5, 1)["certified_error"] == 0
    # The last stage is right everywhere, and the first one wherever it certifies.
    assert examined(rising(), constant(1.0), 0.5, 1)["certified_error"] == 0
    # The first certifies a wrong answer.
    assert examined(rising(), constant(1.0), -2.5, 1)["published_error"] == 1
    # At x = -0.5 the last is right, but at x - 1 the first certifies that it is wrong.
    found = examined(rising(), constant(1.0), -0.5, 1)
    assert (found["standard_error"], found["published_error"]) == (0, 0)
    assert (found["robust_error"], found["certified_error"]) == (1, 1)


@functools.cache
def trained(threat):
    """A cascade on the spheres in 2 dimensions, and what holds at each test example at two radii."""
    task = data.ConcentricSpheres(2, 1.0, 1.5)
    x, y = task.sample(jr.key(0), N)
    fresh, labels = task.sample(jr.key(1), TESTS)
    start = jax.vmap(lambda key: networks.mlp(key, 2, (16,)))(jr.split(jr.key(2), STAGES))

    def one(radius):
        here = threat(radius)
        recipe = train.Recipe(0.3, 0.9, epochs=100)
        fits, on = cascade.fit(jr.key(3), start, x, y, here, losses.certified("coap"), recipe)
        stages = fits.network
        grid = jax.vmap(here.project)(radius * jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(100, 2))))

        def at(x, y):
            k = networks.label(y)
            found = cascade.examine(stages, here, x, k, attacks.pgd)
            return found, ~jnp.all(jax.vmap(lambda delta: cascade._answers_right(stages, here, x + delta, k))(grid))

        certified = jax.vmap(lambda stage: jax.vmap(lambda x: cascade.certifies(stage, here, x))(x))(stages)
        return start, fits, on, certified, jax.vmap(at)(fresh, labels)

    return jax.tree.map(np.asarray, quick_jit(jax.vmap(one))(jnp.array([0.05, 0.1, 0.2])))


@pytest.mark.parametrize("threat", [threats.L2, pytest.param(threats.LInf, marks=pytest.mark.slow)])
def test_every_stage_is_trained_on_what_none_before_certifies(threat):
    start, fits, on, certified, _ = trained(threat)
    assert on[:, 0].all()
    np.testing.assert_array_equal(on[:, 1:], np.cumprod(~certified, axis=1)[:, :-1].astype(bool))
    assert not fits.diverged.any()
    assert 0 < on[:, 1].mean() < 1
    before, after = (net.layers[0].weight for net in (start, fits.network))
    moved = np.abs(after - before).max(axis=(2, 3)) > 0
    np.testing.assert_array_equal(moved, on.any(axis=2))


@pytest.mark.parametrize("threat", [threats.L2, pytest.param(threats.LInf, marks=pytest.mark.slow)])
def test_a_search_of_the_threat_finds_no_error_where_the_cascade_is_proven_right(threat):
    *_, (found, searched) = trained(threat)
    assert np.all(found["standard_error"] <= found["robust_error"])
    assert np.all(found["robust_error"] <= found["certified_error"])
    assert np.all(searched <= found["certified_error"])
    assert np.all(found["standard_error"] <= found["published_error"])
    # Something to test: proven and attacked examples, some of them by the search alone.
    assert 0.02 < found["certified_error"].mean() < 0.98
    assert searched.any()


class Shifted(threats.LInf):
    """A set that is not declared symmetric."""

    symmetric = False


def test_a_threat_that_is_not_symmetric_is_refused():
    with pytest.raises(ValueError, match="Shifted is not symmetric: what a cascade certifies needs a symmetric threat"):
        cascade.evaluate(
            stacked(rising(), rising()), Shifted(1.0), jnp.ones((1, 1)), jnp.ones(1, jnp.int32), attacks.pgd
        )
