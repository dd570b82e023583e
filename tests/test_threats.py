"""Properties of the whole family of threats: a new threat is a row of `THREATS`, `outside` and `members`."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit

from simulator import threats

THREATS = {
    "linf": lambda radius, dim: threats.LInf(radius),
    "l2": lambda radius, dim: threats.L2(radius),
    "l1": lambda radius, dim: threats.L1(radius),
    "consistent": lambda radius, dim: threats.ConsistentLInf(radius),
    "signal": lambda radius, dim: threats.SignalDirected(radius, jnp.asarray(frame(dim)[0])),
    "orthogonal": lambda radius, dim: threats.Orthogonal(radius, jnp.asarray(frame(dim)[0])),
    "spheroid": lambda radius, dim: threats.Spheroid(radius, SHARE, jnp.asarray(frame(dim)[0])),
    "segments": lambda radius, dim: threats.Segments(radius, jnp.asarray(frame(dim)[: min(3, dim)])),
}
CONVEX = [name for name in THREATS if name != "segments"]
SHARE = 0.6
"""Of the spheroid: across the signal it reaches 0.4 of its radius."""
DIM, RADII = 6, np.array([0.0, 0.3, 2.0, 50.0])


def frame(dim):
    """A fixed orthonormal basis [dim, dim]."""
    return np.linalg.qr(np.random.default_rng(dim).normal(size=(dim, dim)))[0]


def outside(name, radius, delta):
    """How far delta [..., d] is outside the set, not positive for a member. Written apart from `threats`."""
    u = frame(delta.shape[-1])
    stretch = 1 / np.where(np.arange(len(u)) == 0, 1, 1 - SHARE)
    size = np.linalg.norm(delta, axis=-1)

    def off_segment(s):
        return np.maximum(np.abs(delta @ s) - radius, np.linalg.norm(delta - (delta @ s)[..., None] * s, axis=-1))

    return {
        "linf": lambda: np.abs(delta).max(-1) - radius,
        "l2": lambda: size - radius,
        "l1": lambda: np.abs(delta).sum(-1) - radius,
        "consistent": lambda: np.maximum(np.abs(delta).max(-1) - radius, np.abs(delta[..., 0])),
        "signal": lambda: off_segment(u[0]),
        "orthogonal": lambda: np.maximum(size - radius, np.abs(delta @ u[0])),
        "spheroid": lambda: np.linalg.norm(delta @ u.T * stretch, axis=-1) - radius,
        "segments": lambda: np.min([off_segment(s) for s in u[:3]], axis=0),
    }[name]()


def members(name, dim, n, seed=0):
    """n random members of radius 1, [n, dim]; every set here scales with its radius. Written apart from `threats`."""
    rng, u = np.random.default_rng(seed), frame(dim)
    z, share = rng.normal(size=(n, dim)), rng.uniform(-1, 1, size=(n, 1))
    across = z - np.outer(z @ u[0], u[0])
    across = across * (dim > 1)
    ball = z / np.linalg.norm(z, axis=1, keepdims=True) * np.abs(share) ** (1 / dim)
    return {
        "linf": lambda: rng.uniform(-1, 1, size=(n, dim)),
        "l2": lambda: ball,
        "consistent": lambda: rng.uniform(-1, 1, size=(n, dim)) * (np.arange(dim) > 0),
        "l1": lambda: np.sign(z) * rng.dirichlet(np.ones(dim), n) * np.abs(share),
        "signal": lambda: share * u[0],
        "orthogonal": lambda: across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9) * share,
        "spheroid": lambda: ball @ (np.outer(u[0], u[0]) * SHARE + np.eye(dim) * (1 - SHARE)),
        "segments": lambda: share * u[:3][rng.integers(min(3, dim), size=n)],
    }[name]()


def dual_norm(name, w):
    """The support at radius 1 of each row of w, from the definition of each dual norm."""
    u = frame(w.shape[-1])
    return {
        "linf": lambda: np.abs(w).sum(-1),
        "l2": lambda: np.sqrt((w**2).sum(-1)),
        "l1": lambda: np.abs(w).max(-1),
        "consistent": lambda: np.abs(w[..., 1:]).sum(-1),
        "signal": lambda: np.abs(w @ u[0]),
        "orthogonal": lambda: np.sqrt(((w @ u[1:].T) ** 2).sum(-1)),
        "spheroid": lambda: np.sqrt((w @ u[0]) ** 2 + ((1 - SHARE) * (w @ u[1:].T) ** 2 * (1 - SHARE)).sum(-1)),
        "segments": lambda: np.abs(w @ u[:3].T).max(-1),
    }[name]()


def vectors():
    """Generic vectors from tiny to huge, with coordinate axes, the frame and 0 among them, [n, DIM]."""
    z = np.random.default_rng(1).normal(size=(60, DIM)) * np.geomspace(1e-3, 100, 60)[:, None]
    return np.concatenate([z, np.eye(DIM), 3 * frame(DIM), np.zeros((1, DIM))])


@functools.cache
def table(name):
    """Every operation at every radius (first axis) and vector (second axis), in float64, computed in one program."""

    def everything(radius, w):
        threat = THREATS[name](radius, DIM)
        nearest = threat.project(w)
        return {
            "project": nearest,
            "again": threat.project(nearest),
            "worst": threat.worst(w),
            "support": threat.support(w),
            "scaled": threat.support(2.5 * w),
            "gradients": jax.grad(lambda r, w: THREATS[name](r, DIM).support(w), (0, 1))(radius, w),
            "pulled": jax.grad(lambda w: jnp.sum(threat.project(w) + threat.worst(w)))(w),
        }

    with jax.enable_x64(True):
        over = quick_jit(jax.vmap(jax.vmap(everything, (None, 0)), (0, None)))
        return jax.tree.map(np.asarray, over(jnp.asarray(RADII), jnp.asarray(vectors())))


every_threat = pytest.mark.parametrize("name", THREATS)
SCALE = 1e-12 * np.maximum(1, np.linalg.norm(vectors(), axis=1))[None, :]


@every_threat
def test_project_and_worst_are_members(name):
    found, radius = table(name), RADII[:, None]
    assert np.all(outside(name, radius, found["project"]) <= SCALE)
    assert np.all(outside(name, radius, found["worst"]) <= 1e-12 * np.maximum(1, radius))


@every_threat
def test_project_is_idempotent(name):
    found = table(name)
    assert np.all(np.linalg.norm(found["again"] - found["project"], axis=-1) <= SCALE)


@every_threat
def test_members_stay_where_they_are(name):
    with jax.enable_x64(True):
        inside = 2 * members(name, DIM, 50)
        kept = quick_jit(jax.vmap(THREATS[name](2.0, DIM).project))(jnp.asarray(inside))
    np.testing.assert_allclose(kept, inside, atol=1e-12)


@every_threat
def test_support_is_the_dual_norm_and_worst_attains_it(name):
    found, w = table(name), vectors()
    expected = RADII[:, None] * dual_norm(name, w)[None]
    np.testing.assert_allclose(found["support"], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.sum(found["worst"] * w, axis=-1), expected, rtol=1e-12, atol=1e-12)


@every_threat
def test_no_member_exceeds_the_support(name):
    w = vectors()
    for radius, support in zip(RADII, table(name)["support"], strict=True):
        assert np.all(radius * members(name, DIM, 500) @ w.T <= support[None] * (1 + 1e-12) + 1e-12)


@every_threat
def test_support_is_homogeneous_in_w_and_grows_with_the_radius(name):
    found = table(name)
    # Where w is orthogonal to the set, what is left of it is rounding; hence the absolute part.
    np.testing.assert_allclose(found["scaled"], 2.5 * found["support"], rtol=1e-12, atol=1e-12)
    assert np.all(np.diff(found["support"], axis=0) >= 0)


@every_threat
def test_project_is_no_farther_than_any_member(name):
    w = vectors()
    for radius, nearest in zip(RADII, table(name)["project"], strict=True):
        rivals = np.linalg.norm(w[:, None] - radius * members(name, DIM, 500)[None], axis=-1)
        assert np.all(np.linalg.norm(w - nearest, axis=-1)[:, None] <= rivals + SCALE.T)


@pytest.mark.parametrize("name", CONVEX)
def test_project_meets_the_condition_that_defines_it(name):
    """On a convex set p is the nearest point to w iff no member has a larger <w - p, .> than p itself."""
    w = vectors()
    for radius, nearest in zip(RADII, table(name)["project"], strict=True):
        rest = w - nearest
        gap = radius * dual_norm(name, rest) - np.sum(rest * nearest, axis=1)
        assert np.all(np.abs(gap) <= 1e-10 * np.maximum(1, np.sum(w**2, axis=1)))


def test_segments_project_onto_the_nearest_of_the_single_projections():
    w, u = vectors(), frame(DIM)[:3]
    for radius, nearest in zip(RADII, table("segments")["project"], strict=True):
        each = np.clip(w @ u.T, -radius, radius)[:, :, None] * u[None]
        closest = np.linalg.norm(w[:, None] - each, axis=-1).min(axis=1)
        np.testing.assert_allclose(np.linalg.norm(w - nearest, axis=-1), closest, rtol=1e-12, atol=1e-12)


def test_segments_break_ties_by_the_lowest_index():
    threat = threats.Segments(1.0, jnp.eye(4)[1:])
    tied = jnp.array([0.0, 0.5, 0.5, 0.5])
    for point in (threat.project(tied), 0.5 * threat.worst(tied)):
        np.testing.assert_array_equal(point, [0, 0.5, 0, 0])


@every_threat
def test_values_and_gradients_are_finite_at_zero_and_elsewhere(name):
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(table(name)))


@every_threat
def test_worst_of_zero_is_zero(name):
    np.testing.assert_array_equal(table(name)["worst"][:, -1], 0)


@every_threat
def test_a_set_that_calls_itself_symmetric_reaches_as_far_backwards(name, float64):
    threat, w = THREATS[name](0.7, DIM), jnp.asarray(vectors())
    forwards, backwards = jax.vmap(threat.support)(w), jax.vmap(threat.support)(-w)
    assert threat.symmetric == np.array_equal(forwards, backwards)


@every_threat
def test_least_through_a_matrix_is_the_least_of_the_products(name, float64):
    rng = np.random.default_rng(2)
    weight, rows = jnp.asarray(rng.normal(size=(4, DIM))), jnp.asarray(rng.normal(size=(5, 4)))
    found = jax.vmap(THREATS[name](0.7, DIM).least_through, (None, 0))(weight, rows)
    np.testing.assert_allclose(found, -0.7 * dual_norm(name, np.asarray(rows @ weight)), rtol=1e-12)


@every_threat
def test_worst_through_a_matrix_attains_the_support_of_the_products(name, float64):
    rng = np.random.default_rng(2)
    weight, rows = rng.normal(size=(4, DIM)), rng.normal(size=(5, 4))
    worst_through = THREATS[name](0.7, DIM).worst_through
    found = np.asarray(jax.vmap(worst_through, (None, 0))(jnp.asarray(weight), jnp.asarray(rows)))
    assert np.all(outside(name, 0.7, found) <= 1e-12)
    np.testing.assert_allclose(
        np.sum(found * (rows @ weight), axis=1), 0.7 * dual_norm(name, rows @ weight), rtol=1e-12
    )


@every_threat
def test_one_radius_per_example_by_vmap(name, float64):
    stacked = jax.vmap(lambda radius: THREATS[name](radius, DIM))(jnp.asarray(RADII))
    w = jnp.asarray(vectors()[: RADII.size])
    found = quick_jit(jax.vmap(lambda threat, w: (threat.support(w), threat.project(w))))(stacked, w)
    for together, key in zip(found, ("support", "project"), strict=True):
        alone = [table(name)[key][i, i] for i in range(RADII.size)]
        np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-14)


@every_threat
def test_dtype_follows_the_vector(name):
    with jax.enable_x64(True):
        w, radius = jnp.ones(DIM, jnp.float32), jnp.asarray(0.5, jnp.float64)
        threat = THREATS[name](radius, DIM)
        if hasattr(threat, "direction") or hasattr(threat, "directions"):
            threat = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.ndim else leaf, threat)
        found = jax.eval_shape(lambda: (threat.support(w), threat.project(w), threat.worst(w)))
        assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}


def spheroid(radius, direction=None):
    return threats.Spheroid(radius, SHARE, direction)


def test_the_set_at_an_example_takes_the_signal_unless_it_has_a_direction():
    x, signal, other = jnp.ones(3), jnp.eye(3)[1], jnp.eye(3)[2]
    for kind in (threats.SignalDirected, threats.Orthogonal, spheroid):
        np.testing.assert_array_equal(kind(0.5).at(x, signal).direction, signal)
        np.testing.assert_array_equal(kind(0.5, other).at(x, signal).direction, other)
        assert float(kind(0.5).at(x, signal).radius) == 0.5
    for threat in (threats.LInf(1.0), threats.L2(1.0), threats.L1(1.0), threats.Segments(1.0, jnp.eye(3))):
        assert threat.at(x, signal) is threat


def test_random_segments_are_orthonormal_and_nested(float64):
    drawn = [threats.Segments.random(jr.key(3), 8, k, 1.0).directions for k in (1, 8)]
    for directions in drawn:
        k = directions.shape[0]
        np.testing.assert_allclose(directions @ directions.T, np.eye(k), atol=1e-12)
        np.testing.assert_allclose(directions, drawn[-1][:k], atol=1e-12)
    assert not np.allclose(drawn[0], threats.Segments.random(jr.key(4), 8, 1, 1.0).directions)


def test_random_segments_favour_no_direction():
    """The mean of one uniformly random unit vector is 0 with covariance I/d: 5 standard errors over n keys."""
    n, dim = 4000, 3
    draw = quick_jit(jax.vmap(lambda key: threats.Segments.random(key, dim, 2, 1.0).directions))
    drawn = draw(jr.split(jr.key(5), n))
    assert np.all(np.abs(np.mean(drawn, axis=0)) < 5 * np.sqrt(1 / dim / n))


def test_only_the_union_has_pieces():
    pieces = THREATS["segments"](0.5, 4).pieces()
    assert isinstance(pieces, threats.SignalDirected)
    assert pieces.radius.shape == (3,)
    assert pieces.direction.shape == (3, 4)
    assert all(THREATS[name](0.5, 4).pieces() is None for name in CONVEX)


@every_threat
@pytest.mark.parametrize("radius", [-1.0, -1, float("nan"), float("inf"), np.array([0.1, -0.1])])
def test_a_radius_must_be_finite_and_not_negative(name, radius):
    with pytest.raises(ValueError, match=r"radius is .*, but a threat needs a finite radius >= 0"):
        THREATS[name](radius, 4)


def test_an_integer_radius_becomes_a_float():
    assert threats.L2(1).radius.dtype == jnp.float32


@pytest.mark.parametrize("kind", [threats.SignalDirected, threats.Orthogonal, spheroid])
@pytest.mark.parametrize("operation", ["support", "worst", "project"])
def test_a_missing_direction_is_named(kind, operation):
    with pytest.raises(ValueError, match=f"(?i){kind.__name__} has no direction here: give one, or call at"):
        getattr(kind(1.0), operation)(jnp.ones(3))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), 2])
def test_a_share_is_a_part_of_the_radius(share):
    with pytest.raises(ValueError, match=r"share is .*, but it is a part of the radius: give 0 <= share <= 1"):
        threats.Spheroid(1.0, share)


@functools.cache
def spheroid_and(end):
    """(share, radius, vectors) -> support, project and worst of a spheroid and of a threat at an end of its shares."""

    def operations(threat, w):
        return threat.support(w), threat.project(w), threat.worst(w)

    def both(share, radius, w):
        ours = threats.Spheroid(radius, share, jnp.asarray(frame(DIM)[0]))
        return operations(ours, w), operations(THREATS[end](radius, DIM), w)

    return quick_jit(jax.vmap(both, (None, None, 0)))


@pytest.mark.parametrize(("share", "end"), [(0.0, "l2"), (1.0, "signal"), (1 - 1e-9, "signal"), (1e-12, "l2")])
def test_a_spheroid_lies_between_a_ball_and_a_segment(share, end, float64):
    generic = slice(None, -1 - 2 * DIM)
    for radius in RADII:
        ours, other = spheroid_and(end)(share, radius, jnp.asarray(vectors()))
        for found, expected, compared in zip(ours, other, (slice(None), slice(None), generic), strict=True):
            np.testing.assert_allclose(found[compared], expected[compared], atol=1e-6 * (1 + 50))


@functools.cache
def into_flat_spheroid():
    """(share, points [n, 2]) -> the nearest points of the spheroid of radius 1 along the first axis."""
    return quick_jit(
        lambda share, points: jax.vmap(threats.Spheroid(jnp.ones(()), share, jnp.eye(2)[0]).project)(points)
    )


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999, 1 - 1e-6])
def test_the_projection_onto_a_flat_spheroid_is_on_its_edge(share, float64):
    """However flat it is and however far the point, Newton's steps are enough."""
    rng, c = np.random.default_rng(0), 1 - share
    points = jnp.asarray(rng.normal(size=(2000, 2)) * 10 ** rng.uniform(-4, 6, size=(2000, 2)))
    found = np.asarray(into_flat_spheroid()(share, points))
    gauge = np.hypot(found[:, 0], found[:, 1] / c)
    outside = np.hypot(points[:, 0], points[:, 1] / c) > 1
    np.testing.assert_allclose(gauge[outside], 1, atol=1e-9)
    np.testing.assert_allclose(found[~outside], points[~outside], rtol=1e-15)


@every_threat
def test_a_set_is_the_same_in_another_basis_where_it_says_so(name, float64):
    """Rotated data, rotated axes: rotated members, and the same support."""
    threat, turn = THREATS[name](0.7, DIM), jnp.asarray(frame(DIM + 1)[:DIM, :DIM])
    turn = jnp.linalg.qr(turn)[0]
    if name in ("linf", "l1", "consistent"):
        with pytest.raises(ValueError, match="depends on the coordinates"):
            threat.axes(DIM)
        return
    turned = threat.with_axes(threat.axes(DIM) @ turn.T)

    def both(w):
        return [turned.support(turn @ w), turned.project(turn @ w)], [threat.support(w), turn @ threat.project(w)]

    (support, nearest), expected = quick_jit(jax.vmap(both))(jnp.asarray(vectors()[:60:7]))
    np.testing.assert_allclose(support, expected[0], rtol=1e-12)
    np.testing.assert_allclose(nearest, expected[1], atol=1e-12 * 100)


@pytest.mark.parametrize("k", [0, 5])
def test_segments_need_between_one_and_dim_directions(k):
    with pytest.raises(ValueError, match=f"k is {k}, but there are between 1 and dim = 4"):
        threats.Segments.random(jr.key(0), 4, k, 1.0)


@functools.cache
def nearest_of_hull(name):
    """(radius, points) -> the points of the convex hull nearest to them."""
    return quick_jit(lambda radius, points: jax.vmap(THREATS[name](radius, DIM).nearest)(points))


@every_threat
@pytest.mark.parametrize("radius", RADII)
def test_nearest_is_the_projection_onto_the_hull(name, radius, float64):
    """P(u) is in the hull, and the hull lies behind the hyperplane through it: <u - P(u), P(u)> = h(u - P(u))."""
    rng = np.random.default_rng(7)
    points = rng.normal(size=(20, DIM)) * rng.choice([0.1, 1, 5], (20, 1))
    nearest, ways = np.asarray(nearest_of_hull(name)(radius, jnp.asarray(points))), rng.normal(size=(4000, DIM))
    rest = points - nearest
    np.testing.assert_allclose(np.sum(rest * nearest, axis=1), radius * dual_norm(name, rest), atol=1e-12)
    assert np.all(ways @ nearest.T <= radius * dual_norm(name, ways)[:, None] + 1e-12)


# ---- one of several ----


@pytest.mark.parametrize("operation", ["support", "worst", "project", "uphill", "nearest"])
def test_one_of_several_does_what_the_member_does(operation, float64):
    """Whichever member is chosen, in one program, at its own radius instead of theirs."""
    vectors = jnp.asarray(np.random.default_rng(4).normal(size=(5, DIM)))

    def of(threat):
        return jax.vmap(getattr(threat, operation))(vectors)

    sets = tuple(THREATS[name](9.0, DIM) for name in CONVEX)
    program = quick_jit(lambda radius, index: of(threats.OneOf(radius, sets, index)))
    for index, name in enumerate(CONVEX):
        for radius in (0.3, 2.0):
            expected = of(THREATS[name](radius, DIM))
            np.testing.assert_allclose(program(jnp.asarray(radius), jnp.asarray(index)), expected, rtol=1e-12)


def test_one_of_several_is_placed_at_the_example_and_scaled():
    signal = jnp.asarray(frame(DIM)[0])
    w = jnp.asarray(frame(DIM)[1] + 2 * frame(DIM)[0])
    one = threats.OneOf(0.5, (threats.L2(1.0), threats.SignalDirected(1.0)), 1)
    placed = one.at(jnp.zeros_like(w), signal)
    np.testing.assert_allclose(placed.support(w), 0.5 * 2, rtol=1e-5)
    np.testing.assert_allclose(placed.scaled(jnp.asarray(0.5)).support(w), 0.25 * 2, rtol=1e-5)
    np.testing.assert_allclose(placed.with_radius(jnp.asarray(3.0)).worst(w), 3 * signal, atol=1e-5)


def test_one_of_several_needs_convex_symmetric_members():
    with pytest.raises(ValueError, match="there are no members"):
        threats.OneOf(1.0, (), 0)
    with pytest.raises(ValueError, match="Segments is a union or not symmetric"):
        threats.OneOf(1.0, (threats.L2(1.0), THREATS["segments"](1.0, DIM)), 0)
