"""Attack >= exact >= bound: what ties `attacks` and `bounds` together, for every threat and every bound."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from test_threats import THREATS, frame, members, outside

from simulator import attacks, bounds, data, losses, networks, threats, train

SHAPES = {
    "trained": (5, (20,), 1),
    "three classes": (6, (12, 40), 3),
    "one logit": (4, (100,), 1),
    "deep": (9, (16, 5, 30), 2),
    "narrow": (3, (2, 2), 2),
}
"""Input dimension, hidden widths, outputs."""
QUICK = ("float64", "trained")
RUNS = [
    pytest.param(*run, id=" ".join(run), marks=[] if run == QUICK else pytest.mark.slow)
    for run in [
        *(("float64", shape) for shape in SHAPES),
        *(("float32", shape) for shape in ("trained", "narrow")),
    ]
]
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
RADII = np.array([0.0, 0.02, 0.2, 1.0, 10.0])
DRAWS = 4

every_run = pytest.mark.parametrize(("dtype", "shape"), RUNS)
every_threat = pytest.mark.parametrize("threat", THREATS)
some_threats = pytest.mark.parametrize(
    "threat", [pytest.param(name, marks=[] if name in ("l2", "segments") else pytest.mark.slow) for name in THREATS]
)
VARIANTS = ("forward-backward", "crown-one", "crown-steep", "hbox", "alpha-crown")
every_method = pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] if name in VARIANTS else []) for name in bounds.METHODS]
)


def random_network(rng, dim, widths, outputs):
    sizes = (dim, *widths, outputs)
    return networks.from_weights(
        [
            (rng.uniform(-1, 1, (outer, inner)) / inner**0.5, rng.uniform(-1, 1, outer) / inner**0.5)
            for inner, outer in itertools.pairwise(sizes)
        ]
    )


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def trained(loss, network):
    """A network after a short training on the linear data."""
    dim = SHAPES["trained"][0]
    x, y = data.LinearlySeparable(dim, margin=1.0).sample(jr.key(1), 40)
    recipe = train.Recipe(0.3, epochs=30)
    return quick_jit(lambda: train.fit(jr.key(0), network, x, y, threats.L2(0.5), loss, recipe).network)()


def together(method):
    """The methods that are compiled with this one: the quick tests leave out the programs of the variants."""
    return tuple(name for name in bounds.METHODS if (name in VARIANTS) == (method in VARIANTS))


@functools.cache
def some_networks(shape, dtype):
    """Random networks stacked along a leading axis; for the shape "trained", two of them trained."""
    rng = np.random.default_rng(3)
    drawn = [random_network(rng, *SHAPES[shape]) for _ in range(DRAWS)]
    if shape == "trained":
        ways = losses.certified("coap"), losses.attacked(attacks.fgsm)
        drawn[:2] = [trained(loss, network) for loss, network in zip(ways, drawn, strict=False)]
    return stacked(drawn)


def margins_found(network, threat, x, label, start):
    """The margins that the attacks reach, the exact one last where it is known."""
    found = [
        attacks.apgd(network, threat, x, label, steps=20, objective="margin", start=start),
        attacks.pgd(network, threat, x, label, steps=10),
        attacks.fgsm(network, threat, x, label),
    ]
    if attacks.has_exact(network, threat):
        found.append(attacks.exact(network, threat, x, label))
    return jnp.stack([one.margin for one in found])


def over_grid(one, threat, shape, dtype):
    """`one(network, here, x, label, start)` at every network and radius (leading axes), in one program."""
    dim, _, outputs = SHAPES[shape]

    def at(network, x, label, start, radius):
        return one(network, THREATS[threat](radius, dim), x, label, start)

    rng = np.random.default_rng(4)
    with jax.enable_x64(dtype == "float64"):
        x, start = (jnp.asarray(rng.normal(size=(DRAWS, dim))) for _ in range(2))
        label = jnp.asarray(rng.integers(max(2, outputs), size=DRAWS), jnp.int32)
        over = jax.vmap(jax.vmap(at, (None, None, None, None, 0)), (0, 0, 0, 0, None))
        found = quick_jit(over)(some_networks(shape, dtype), x, label, start, jnp.asarray(RADII))
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
        return jax.tree.map(np.asarray, found)


@functools.cache
def reached(threat, shape, dtype):
    """Clean, attacked and sampled margins."""

    def one(network, here, x, label, start):
        inside = here.radius * jnp.asarray(members(threat, SHAPES[shape][0], 64), x.dtype)
        return {
            "clean": networks.margins(network, x, label),
            "attacked": margins_found(network, here, x, label, start),
            "sampled": jnp.min(jax.vmap(lambda delta: networks.margins(network, x + delta, label))(inside), axis=0),
        }

    return over_grid(one, threat, shape, dtype)


@functools.cache
def lower_bounds(methods, threat, shape, dtype):
    """By method; with interval bounds also theirs of the logits apart."""

    def one(network, here, x, label, start):
        rows = networks.contrast(network, label, networks.others(network, label))
        found = {name: bounds.lower(network, here, x, rows, name) for name in methods}
        return found | (
            {"apart": bounds.lower(network, here, x, rows, "ibp", merged=False)} if "ibp" in methods else {}
        )

    return over_grid(one, threat, shape, dtype)


def assert_below(lower, upper, dtype):
    scale = np.maximum(1, np.maximum(np.abs(lower), np.abs(upper)))
    assert np.all(np.isfinite(lower))
    assert np.all(lower <= upper + TOLERANCE[dtype] * scale)


@every_run
@every_threat
@every_method
def test_no_attack_goes_below_a_bound(method, threat, dtype, shape):
    found, bound = reached(threat, shape, dtype), lower_bounds(together(method), threat, shape, dtype)[method]
    assert_below(bound.min(axis=2, keepdims=True), found["attacked"], dtype)
    assert_below(bound, found["sampled"], dtype)


@every_run
@every_threat
def test_no_attack_goes_below_the_exact_value_which_falls_with_the_radius(threat, dtype, shape):
    attacked = reached(threat, shape, dtype)["attacked"]
    known = threat in ("signal", "segments") and len(SHAPES[shape][1]) == 1
    assert attacked.shape[2] == 3 + known
    if known:
        exact = attacked[:, :, 3:]
        assert_below(exact, attacked[:, :, :3], dtype)
        assert_below(exact[:, 1:], exact[:, :-1], dtype)


@every_run
@every_threat
@every_method
def test_at_radius_0_the_bound_is_the_margin(method, threat, dtype, shape):
    bound = lower_bounds(together(method), threat, shape, dtype)[method][:, 0]
    clean = reached(threat, shape, dtype)["clean"][:, 0]
    np.testing.assert_allclose(bound, clean, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@every_run
@every_threat
def test_interval_bounds_fall_with_the_radius(threat, dtype, shape):
    found = lower_bounds(together("ibp"), threat, shape, dtype)
    for bound in (found["ibp"], found["apart"]):
        assert_below(bound[:, 1:], bound[:, :-1], dtype)


@every_run
@every_threat
def test_bounding_the_logits_apart_is_looser(threat, dtype, shape):
    found = lower_bounds(together("ibp"), threat, shape, dtype)
    assert_below(found["apart"], found["ibp"], dtype)
    if SHAPES[shape][2] > 1:  # a single output has no second logit to bound apart
        assert np.all(found["apart"][:, -1] < found["ibp"][:, -1] - 1e-3)


def lower(pairs, radius, method, x):
    """The bound of a single-output network over an interval around x."""
    network = networks.from_weights([(jnp.array(weight), jnp.array(bias)) for weight, bias in pairs])
    return float(lowest(network, jnp.asarray(radius), method, jnp.array(x)))


@functools.partial(quick_jit, static_argnums=2)
def lowest(network, radius, method, x):
    return bounds.lower(network, threats.LInf(radius), x, jnp.ones((1, 1), x.dtype), method)[0]


def test_for_one_neuron_that_counts_positively_ibp_is_exact_and_coap_is_not(float64):
    relu = [([[1.0]], [0.0]), ([[1.0]], [0.0])]
    assert lower(relu, 2.0, "ibp", [1.0]) == 0  # the minimum of ReLU over [-1, 3]
    np.testing.assert_allclose(lower(relu, 2.0, "coap", [1.0]), -3 / 4)  # its lower line, 3/4 z, at z = -1


def test_where_two_neurons_cancel_coap_is_exact_and_ibp_is_not(float64):
    nothing = [([[1.0], [1.0]], [9.0, 9.0]), ([[1.0, -1.0]], [0.0])]
    assert lower(nothing, 2.0, "coap", [1.0]) == 0
    np.testing.assert_allclose(lower(nothing, 2.0, "ibp", [1.0]), -4)


def test_coap_can_rise_with_the_radius(float64):
    """So a larger certified radius is not always harder to certify, and a bisection over it may err."""
    rising = [([[2.0], [-2.0]], [0.0, 0.0]), ([[1.0, 2.0]], [0.0])]
    smaller, larger = (lower(rising, radius, "coap", [1.0]) for radius in (1.75, 3.0))
    np.testing.assert_allclose([smaller, larger], [-15 / 28, 0], atol=1e-12)


def test_crown_can_rise_with_the_radius(float64):
    """Its lower slope jumps from 1 to 0 where -l overtakes u: f = ReLU(2 - ReLU(x - 0.1)) over |x| <= radius."""
    # The second pre-activation lies in [2.1 - radius, 2]: slope 1 gives 2.1 - radius, slope 0 (radius > 4.1) gives 0.
    switching = [([[1.0]], [-0.1]), ([[-1.0]], [2.0]), ([[1.0]], [0.0])]
    smaller, larger = (lower(switching, radius, "crown", [0.0]) for radius in (4.0, 5.0))
    assert smaller == pytest.approx(-1.9)
    assert larger == 0


def test_bounds_hold_where_preactivation_bounds_are_exactly_zero(float64):
    """Small integers put l = 0 and u = 0 within rounding, where fused programs may round twice and differently."""
    rng, count, grid = np.random.default_rng(0), 2000, jnp.linspace(-1, 1, 33)
    pairs = [
        (
            jnp.asarray(rng.integers(-2, 3, (count, outer, inner)), float),
            jnp.asarray(rng.integers(-2, 3, (count, outer)), float),
        )
        for inner, outer in ((1, 2), (2, 2), (2, 1))
    ]
    radii, x = jnp.arange(0, 17) / 4, jnp.ones(1)

    def one(pairs, radius):
        network, row = networks.from_weights(pairs), jnp.ones((1, 1))
        attained = jnp.min(jax.vmap(lambda share: network.outputs(x + share * radius)[0])(grid))
        return attained, [bounds.lower(network, threats.LInf(radius), x, row, method)[0] for method in bounds.METHODS]

    attained, found = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(pairs, radii)
    for method, bound in zip(bounds.METHODS, found, strict=True):
        assert np.all(np.asarray(bound) <= np.asarray(attained) + 1e-9 * np.maximum(1, np.abs(attained))), method


STABLE_DIM, RADIUS = 5, 0.3


@functools.cache
def details(methods, threat):
    """`bounds.margin` by these methods, on a random network and on one whose neurons all stay active."""
    rng = np.random.default_rng(5)
    with jax.enable_x64(True):
        plain = random_network(rng, STABLE_DIM, (7, 6), 3)
        lifted = [(layer.weight, layer.bias + 20) for layer in plain.layers[::2]]
        stack, x = stacked([plain, networks.from_weights(lifted)]), jnp.asarray(rng.normal(size=STABLE_DIM))

        def one(network):
            here, label = THREATS[threat](RADIUS, STABLE_DIM), jnp.array(1)
            found = {method: bounds.margin(network, here, x, label, method) for method in methods}
            rows = networks.contrast(network, label, jnp.arange(3))
            at_worst = {
                method: jax.vmap(lambda row, delta: row @ network(x + delta))(rows, bound.worst)
                for method, bound in found.items()
            }
            boxes = {method: bounds.preactivations(network, here, x, method) for method in methods}
            return found, at_worst, boxes

        return jax.tree.map(np.asarray, quick_jit(jax.vmap(one))(stack))


class OneSided(threats.Threat):
    """The segment {beta s : 0 <= beta <= radius}, which is not symmetric."""

    radius: float
    direction: jax.Array

    def support(self, w):
        return self.radius * jnp.maximum(w @ self.direction, 0)

    def worst(self, w):
        return jnp.where(w @ self.direction > 0, self.radius, 0.0) * self.direction

    def project(self, delta):
        return jnp.clip(delta @ self.direction, 0, self.radius) * self.direction


@every_method
def test_a_set_that_is_not_symmetric_is_bounded_on_both_sides(method, float64):
    rng, dim = np.random.default_rng(6), 5
    network, x = random_network(rng, dim, (12, 8), 3), jnp.asarray(rng.normal(size=dim))
    threat = OneSided(1.5, jnp.asarray(frame(dim)[0]))

    @quick_jit
    def run(x):
        members = jnp.outer(jnp.linspace(0, threat.radius, 200), threat.direction)
        at_members = jax.vmap(lambda delta: (network.layers[0](x + delta), network(x + delta)))(members)
        box = bounds.preactivations(network, threat, x, method)[0]
        return *at_members, (box.lower, box.upper), bounds.margin(network, threat, x, jnp.array(1), method).lower

    first, logits, box, bound = run(x)
    np.testing.assert_allclose(box, [first.min(axis=0), first.max(axis=0)], rtol=1e-12)
    assert np.all(bound <= (logits[:, 1:2] - logits).min(axis=0) + 1e-9)


@some_threats
@every_method
def test_the_worst_perturbation_is_a_member(method, threat):
    worst = details(together(method), threat)[0][method].worst
    assert np.all(outside(threat, RADIUS, worst) <= 1e-12)


@some_threats
@every_method
def test_no_bound_exceeds_the_margin_at_its_own_worst_perturbation(method, threat):
    found, at_worst, _ = details(together(method), threat)
    assert_below(found[method].lower, at_worst[method], "float64")


@some_threats
@every_method
def test_where_all_neurons_are_stable_the_linear_bounds_are_attained(method, threat):
    found, at_worst, _ = details(together(method), threat)
    bound, margin = found[method].lower[1], at_worst[method][1]
    assert found[method].unstable[1] == 0
    if method == "ibp":
        assert np.all(bound[[0, 2]] < margin[[0, 2]] - 1e-3)
    else:
        np.testing.assert_allclose(bound, margin, rtol=1e-10, atol=1e-10)


@some_threats
@every_method
def test_the_unstable_share_is_the_count_of_straddling_boxes(method, threat):
    found, _, boxes = details(together(method), threat)
    corners = [(box.lower[0], box.upper[0]) for box in jax.tree.map(jnp.asarray, boxes[method])]
    straddling = [(lower < 0) & (upper > 0) for lower, upper in corners]
    assert [box.shape for box in straddling] == [(7,), (6,)]
    share = np.mean(np.concatenate(straddling))
    assert 0 < share < 1
    np.testing.assert_allclose(found[method].unstable[0], share, rtol=1e-12)


@some_threats
@every_method
def test_the_bound_against_its_own_label_is_zero(method, threat):
    np.testing.assert_array_equal(details(together(method), threat)[0][method].lower[:, 1], 0)


CASES = ("generic", "radius 0", "all zero", "zero weights", "dead", "radius 1e6")
STEP = 1e-6


def degenerate_points(rng):
    """(network, x, radius) at each of `CASES`, and the generic point moved by +-STEP along `direction`."""
    generic = random_network(rng, 4, (5, 3), 2)
    pairs = [(layer.weight, layer.bias) for layer in generic.layers[::2]]
    still = [(0 * weight, bias) for weight, bias in pairs]
    dead = [(weight, bias - 1000) for weight, bias in pairs[:-1]] + pairs[-1:]
    zero = jax.tree.map(jnp.zeros_like, generic)
    x = jnp.asarray(rng.normal(size=4))
    nets = [generic, generic, zero, networks.from_weights(still), networks.from_weights(dead), generic]
    points = [(net, x, jnp.asarray(radius)) for net, radius in zip(nets, (0.3, 0.0, 0.3, 0.3, 0.3, 1e6), strict=True)]
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), points[0])
    moved = [jax.tree.map(lambda a, b, s=sign: a + s * STEP * b, points[0], direction) for sign in (1, -1)]
    return stacked(points + moved), direction


@functools.cache
def gradients(methods, threat):
    """Values and gradients of these methods with respect to weights, x and radius, with the direction of the steps."""

    def values(point):
        network, x, radius = point
        rows = jnp.array([[1.0, -1.0], [0.3, 2.0]], x.dtype)
        here = THREATS[threat](radius, 4)
        return {method: jnp.sum(bounds.lower(network, here, x, rows, method)) for method in methods}

    with jax.enable_x64(True):
        points, direction = degenerate_points(np.random.default_rng(6))
        found = quick_jit(jax.vmap(lambda point: (values(point), jax.jacrev(values)(point))))(points)
        return *jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, direction)


@some_threats
@every_method
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_finite(case, method, threat):
    value, gradient, _ = gradients(together(method), threat)
    assert np.isfinite(value[method][CASES.index(case)])
    assert all(np.all(np.isfinite(leaf[CASES.index(case)])) for leaf in jax.tree.leaves(gradient[method]))


@some_threats
@every_method
def test_gradients_equal_finite_differences(method, threat):
    value, gradient, direction = gradients(together(method), threat)
    slope = (value[method][-2] - value[method][-1]) / (2 * STEP)
    products = jax.tree.map(lambda g, v: np.sum(g[0] * v), gradient[method], direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-6, atol=1e-7)
