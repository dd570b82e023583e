"""Sweeps with cells of a few lines, against NumPy, and the statistics over their trials."""

import dataclasses
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr

from simulator import sweep, trials
from simulator.sweep import program

KEY = jr.key(3)
WIDTHS, RATES, RADII = (2, 5), (0.1, 0.2, 0.4), (1.0, 3.0)


def noise(trial, width):
    """What the cells below draw, trial by trial."""
    return np.asarray(jr.normal(jr.fold_in(KEY, trial), (width,)))


class Counting:
    """A cell that counts its traces; `radius` and `rate` scale noise whose shape is `width`."""

    def __init__(self):
        self.traces = []

    def __call__(self, coords, key):
        self.traces.append(coords["width"])
        draws = jr.normal(key, (coords["width"],))
        total = coords["radius"] + 10 * coords["rate"] + jnp.sum(draws)
        return {"total": total, "first": draws[0], "pair": jnp.stack([total, draws[0]])}


def grid(**changes):
    parts = {
        "axes": {"radius": RADII, "width": WIDTHS, "rate": RATES},
        "trials": 3,
        "static": ("width",),
        "inner": "rate",
        "dims": {"pair": ("which",)},
        "coords": {"which": ("total", "first")},
    }
    return sweep.Grid(**{**parts, **changes})


@pytest.fixture(scope="module")
def run_once():
    """(result, the cell that made it)."""
    cell = Counting()
    return sweep.run(grid(), cell, KEY), cell


@pytest.fixture
def result(run_once):
    return run_once[0]


# ---- values ----


def test_dimensions_are_in_the_order_of_the_axes(result):
    assert result["total"].dims == ("radius", "width", "rate", "trial")
    assert result["pair"].dims == ("radius", "width", "rate", "trial", "which")
    assert result["status"].dims == ("radius", "width", "rate", "trial")
    assert result.sizes == {"radius": 2, "width": 2, "rate": 3, "trial": 3, "which": 2}
    for name, values in {"radius": RADII, "width": WIDTHS, "rate": RATES, "trial": range(3)}.items():
        assert list(result[name].values) == list(values)
    assert list(result["which"].values) == ["total", "first"]


def test_values_against_numpy(result):
    for radius in RADII:
        for width in WIDTHS:
            for rate in RATES:
                for trial in range(3):
                    draws = noise(trial, width)
                    cell = result.sel(radius=radius, width=width, rate=rate, trial=trial)
                    # A few float32 roundings of numbers below 20.
                    assert float(cell["total"]) == pytest.approx(radius + 10 * rate + draws.sum(), abs=1e-5)
                    assert float(cell["first"]) == draws[0]
                    np.testing.assert_array_equal(cell["pair"].values, [cell["total"], cell["first"]])


def test_everything_ran(result):
    assert (result["status"] == "ok").all()
    assert trials.count_by_status(result) == {"ok": 36}


@pytest.mark.parametrize(
    ("inner", "static"),
    [(None, ()), ("rate", ()), ("radius", ()), (None, ("radius",)), ("rate", ("radius",)), (None, ("rate", "radius"))],
)
def test_how_the_grid_is_walked_does_not_change_its_values(result, inner, static):
    found = sweep.run(grid(static=("width", *static), inner=inner), Counting(), KEY)
    for name in result.data_vars:
        assert found[name].dims == result[name].dims
    xr.testing.assert_allclose(found.drop_vars("status"), result.drop_vars("status"), rtol=1e-6)
    assert found["status"].equals(result["status"])


def test_cells_of_a_trial_share_their_randomness(result):
    """Common random numbers along every leaf axis; different ones in different trials."""
    draws = result["first"]
    assert (draws == draws.isel(radius=0, rate=0)).all()
    assert len(np.unique(draws.isel(radius=0, rate=0, width=0))) == 3


def test_trials_are_the_same_however_many_there_are(result):
    more = sweep.run(grid(trials=5), Counting(), KEY)
    xr.testing.assert_identical(more.isel(trial=slice(3)), result)


def test_a_cell_alone_equals_the_cell_in_its_grid(result):
    axes = {"radius": (3.0,), "width": (5,), "rate": (0.2,)}
    alone = sweep.run(grid(axes=axes, trials=1), Counting(), KEY)
    xr.testing.assert_allclose(alone, result.sel(radius=[3.0], width=[5], rate=[0.2], trial=[0]), rtol=1e-6)


def test_other_keys_give_other_numbers(result):
    other = sweep.run(grid(), Counting(), jr.key(4))
    assert (other["first"] != result["first"]).all()


def test_each_program_is_traced_once(run_once):
    assert sorted(run_once[1].traces) == sorted(WIDTHS)


def test_whole_number_axes_stay_whole():
    seen = {}

    def cell(coords, key):
        seen.update({name: value.dtype for name, value in coords.items()})
        return {"half": coords["count"] // 2, "product": coords["count"].astype(float) * coords["scale"]}

    found = sweep.run(sweep.Grid({"count": (3, 8), "scale": (2, 0.5)}, trials=1), cell, KEY)
    assert seen == {"count": jnp.int32, "scale": jnp.float32}
    np.testing.assert_array_equal(found["half"].sel(scale=2, trial=0), [1, 4])
    np.testing.assert_array_equal(found["product"].sel(trial=0), [[6, 1.5], [16, 4]])


def test_statics_arrive_as_they_are():
    def cell(coords, key):
        assert isinstance(coords["name"], str)
        assert isinstance(coords["flag"], bool)
        return {"length": jnp.asarray(len(coords["name"]) + 10 * coords["flag"])}

    axes = {"name": ("a", "bcd"), "flag": (False, True)}
    found = sweep.run(sweep.Grid(axes, trials=1, static=("name", "flag")), cell, KEY)
    np.testing.assert_array_equal(found["length"].values[..., 0], [[1, 11], [3, 13]])
    assert found["name"].values.dtype == object
    assert found.sel(name="bcd", flag=True)["length"].item() == 13


def test_double_precision(float64):
    found = sweep.run(sweep.Grid({"x": (0.1, 0.2)}, trials=2), lambda coords, key: {"y": coords["x"] / 3}, KEY)
    assert found["y"].dtype == np.float64
    np.testing.assert_array_equal(found["y"].sel(trial=1), np.array([0.1, 0.2]) / 3)


def test_shared_trailing_dimensions():
    def cell(coords, key):
        path = coords["x"] * jnp.arange(1.0, 4.0)
        return {"loss": path, "error": 2 * path, "last": path[-1]}

    axes, coords = {"x": (1.0, 2.0)}, {"epoch": (0, 5, 10)}
    found = sweep.run(sweep.Grid(axes, 1, dims={"last": ()}, shared_dims=("epoch",), coords=coords), cell, KEY)
    np.testing.assert_array_equal(found["error"].sel(x=2.0, epoch=10, trial=0), 12)
    assert found["loss"].dims == ("x", "trial", "epoch")
    assert found["last"].dims == ("x", "trial")


# ---- cells that are not ok ----


def test_cells_that_are_not_wanted():
    found = sweep.run(
        grid(wanted=lambda row: row["trial"] < (2 if row["width"] == 2 else 1) and row["radius"] == 3), Counting(), KEY
    )
    expected = np.full((2, 2, 3, 3), "not_run", dtype=object)
    expected[1, 0, :, :2] = expected[1, 1, :, :1] = "ok"
    np.testing.assert_array_equal(found["status"].values, expected)
    np.testing.assert_array_equal(found["total"].notnull().values, expected == "ok")
    np.testing.assert_array_equal(found["pair"].notnull().values, (expected == "ok")[..., None] & np.ones(2, bool))


def test_wanted_cells_have_the_numbers_of_the_whole_grid(result):
    found = sweep.run(grid(wanted=lambda row: row["trial"] == 2), Counting(), KEY)
    xr.testing.assert_allclose(found.sel(trial=[2]), result.sel(trial=[2]), rtol=1e-6)


def test_block_without_wanted_cells_is_not_compiled():
    cell = Counting()
    found = sweep.run(grid(wanted=lambda row: row["width"] == 5), cell, KEY)
    assert cell.traces == [5]
    assert (found["status"].sel(width=2) == "not_run").all()


def diverging(coords, key):
    """Diverges above 0.3, in a way that leaves a finite number behind."""
    return {"total": coords["rate"], "pair": jnp.ones(2) * coords["rate"], "diverged": coords["rate"] > 0.3}


@pytest.mark.parametrize("inner", [None, "rate"])
def test_diverged_cells(inner):
    found = sweep.run(grid(inner=inner), diverging, KEY)
    assert "diverged" not in found
    assert (found["status"].sel(rate=0.4) == "diverged").all()
    assert found["total"].sel(rate=0.4).isnull().all()
    assert found["pair"].sel(rate=0.4).isnull().all()
    assert (found["status"].sel(rate=[0.1, 0.2]) == "ok").all()
    assert found["pair"].sel(rate=[0.1, 0.2]).notnull().all()
    _, _, count = trials.over_trials(found, "total")
    assert (count.sel(rate=0.4) == 0).all()
    assert (count.sel(rate=0.1) == 3).all()


def poisoned(program, poison):
    """The same program, which raises, as the device does when its memory is full, for any call with a poison row."""

    def run(key, counts, rows, shared):
        # What the devices get: the rows of each, padded with others.
        share = len(rows["radius"]) // len(counts)
        taken = [i * share + at for i, count in enumerate(np.asarray(counts)) for at in range(count)]
        here = {(int(rows["trial"][at]), float(rows["radius"][at])) for at in taken}
        if here & poison:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore lines")
        return program.run(key, counts, rows, shared)

    return dataclasses.replace(program, run=run)


def test_failed_row_does_not_lose_the_others_of_its_chunk(result):
    one = grid(axes={"radius": RADII, "width": (2,), "rate": RATES})
    (block,) = one.blocks()
    layout = sweep.Layout((2, 1, 3, 2), (4,))
    first, second = one.chunks(layout)
    program = poisoned(sweep.compile_block(one, Counting(), block, 4), {(1, 3.0)})
    outcome = sweep.run_chunk(program, KEY, first)
    assert outcome.cells == 12
    assert outcome.failures == [
        {"cell": "width = 2, trial = 1, radius = 3.0", "error": "JaxRuntimeError: RESOURCE_EXHAUSTED: out of memory"}
    ]
    (filled,) = outcome.boxes
    expected = np.full((2, 1, 3, 2), "ok", dtype=object)
    expected[1, :, :, 1] = "failed"
    np.testing.assert_array_equal(filled.values["status"], expected)
    total = result["total"].sel(width=[2]).values[..., :2]
    np.testing.assert_allclose(filled.values["total"], np.where(expected == "ok", total, np.nan), rtol=1e-6)
    assert sweep.run_chunk(program, KEY, second).failures == []


def test_a_row_that_fails_alone_is_not_tried_twice():
    one = grid(axes={"radius": (1.0,), "width": (2,), "rate": RATES}, trials=1)
    calls = []

    def run(*arguments):
        calls.append(arguments)
        raise jax.errors.JaxRuntimeError("no")

    program = dataclasses.replace(sweep.compile_block(one, Counting(), {"width": 2}, 1), run=run)
    (chunk,) = one.chunks(one.layout(2))
    outcome = sweep.run_chunk(program, KEY, chunk)
    assert len(calls) == 1
    assert (outcome.boxes[0].values["status"] == "failed").all()


# ---- two stages ----


def test_the_first_stage_runs_once_per_trial_and_chunk(result):
    """And the numbers are those of the same cell in one stage."""
    traced = []

    def prepare(coords, key):
        traced.append(coords)
        return jr.normal(key, (coords["width"],))

    def run(coords, key, draws):
        total = coords["radius"] + 10 * coords["rate"] + jnp.sum(draws)
        return {"total": total, "first": draws[0], "pair": jnp.stack([total, draws[0]])}

    found = sweep.run(grid(), sweep.Staged(prepare, run), KEY)
    assert traced == [{"width": 2}, {"width": 5}]
    # Sums of a few float32 numbers below 5, in another order.
    xr.testing.assert_allclose(found.drop_vars("status"), result.drop_vars("status"), rtol=1e-6, atol=2e-6)


def test_products_of_both_stages_are_in_full_precision():
    """Whatever the device rounds to by default: what a product is traced with is what it is compiled with."""
    seen = []

    def square(x):
        seen.append(str(jax.make_jaxpr(lambda a: a @ a)(x)))
        return x @ x

    def prepare(coords, key):
        return square(jnp.eye(2))

    cell = sweep.Staged(prepare, lambda coords, key, q: {"y": coords["x"] * square(q)[0, 0]})
    sweep.run(sweep.Grid({"x": [1.0, 2.0]}, 2), cell, KEY)
    assert len(seen) > 1
    assert all("Precision.HIGHEST" in program for program in seen)


def test_time_of_the_first_stage_is_told_apart():
    def prepare(coords, key):
        q, _ = jnp.linalg.qr(jr.normal(key, (800, 400)))
        return q[0]

    one = sweep.Grid({"x": (1.0, 2.0)}, trials=1)
    cell = sweep.Staged(prepare, lambda coords, key, q: {"y": coords["x"] * q[0]})
    layout = one.layout(2)
    (chunk,) = one.chunks(layout)
    outcome = sweep.run_chunk(sweep.compile_block(one, cell, {}, layout.rows[0]), KEY, chunk)
    assert outcome.prepare_seconds > 1e-3


# ---- chunks and devices ----


@pytest.mark.parametrize("count", [1, 2, 3, 41, 100])
def test_rows_that_do_not_fill_their_chunks(count):
    """Rows are padded to whole chunks, and the padding goes nowhere."""
    ticks = []
    found = sweep.run(
        sweep.Grid({"x": (1.0,)}, trials=count), lambda coords, key: {"y": jr.uniform(key)}, KEY, ticks.append
    )
    expected = [float(jr.uniform(jr.fold_in(KEY, trial))) for trial in (0, count - 1)]
    assert list(found["y"].values[0, [0, -1]]) == pytest.approx(expected)
    assert (found["status"] == "ok").all()
    assert sum(ticks) == count
    assert len(ticks) <= 20


def test_number_of_devices_does_not_change_the_numbers(result, monkeypatch):
    monkeypatch.setattr(program, "devices", lambda: 1)
    xr.testing.assert_allclose(sweep.run(grid(), Counting(), KEY), result, rtol=1e-6)


@pytest.mark.parametrize("cells", [7, 1000])
def test_rows_vectorised_together_have_the_numbers_of_single_rows(monkeypatch, cells):
    """A small cell is vectorised, a large one is not; which of the two is a matter of speed alone."""
    one = sweep.Grid({"x": tuple(np.linspace(0, 1, cells).tolist())}, trials=2)

    def cell(coords, key):
        return {"y": jnp.sum(jnp.sin(coords["x"] * jr.normal(key, (30,))))}

    compiled = []

    def program_of(*arguments):
        compiled.append(program.program_of(*arguments))
        return compiled[-1]

    monkeypatch.setattr("simulator.sweep.execute.program_of", program_of)
    together = sweep.run(one, cell, KEY)
    monkeypatch.setattr(program, "CACHE_BYTES", 0)
    alone = sweep.run(one, cell, KEY)
    assert [one.at_once > 1 for one in compiled] == [cells == 1000, False]
    assert (together["status"] == "ok").all()
    np.testing.assert_allclose(together["y"], alone["y"], rtol=1e-5, atol=1e-5)


def test_cells_that_cannot_be_vectorised_are_walked_one_by_one():
    def cell(coords, key):
        return {"y": jax.pure_callback(lambda x: 2 * x, jax.ShapeDtypeStruct((), jnp.float32), coords["x"])}

    found = sweep.run(
        sweep.Grid({"x": tuple(range(100))}, trials=1), lambda c, k: cell({"x": c["x"].astype(jnp.float32)}, k), KEY
    )
    np.testing.assert_array_equal(found["y"].values[:, 0], 2 * np.arange(100))


CUTS = [
    sweep.Layout(extents, rows)
    for extents, rows in (((1, 1, 3, 1), (1, 1)), ((2, 1, 3, 3), (6, 6)), ((1, 1, 3, 2), (5, 3)))
]


@pytest.mark.parametrize("layout", CUTS)
def test_chunks_cover_the_wanted_rows_once(layout):
    one = grid(wanted=lambda row: row["trial"] < 2 or row["radius"] == 1.0)
    seen = np.zeros(one.shape, int)
    for chunk in one.chunks(layout):
        rows = [one.rows(chunk.block, box) for box in chunk.boxes]
        assert 0 < sum(map(len, rows)) <= layout.rows[one.blocks().index(chunk.block)]
        assert all(rows)
        for box in chunk.boxes:
            assert all(start % extent == 0 for start, extent in zip(box.starts, layout.extents, strict=True))
            assert box.shape <= layout.extents
            seen[box.slices] += 1
    names = [chunk.name for chunk in one.chunks(layout)]
    assert len(set(names)) == len(names)
    unwanted = np.zeros(one.shape, bool)
    unwanted[1, :, :, 2] = True
    assert seen.max() == 1
    assert (seen[~unwanted] == 1).all()


def test_chunks_do_not_change_the_numbers(result):
    """To rounding: a chunk is a call of the same program."""
    for layout in CUTS:
        found = sweep.empty(grid(), sweep.compile_block(grid(), Counting(), {"width": 2}, 1).outputs)
        for chunk in grid().chunks(layout):
            compiled = sweep.compile_block(grid(), Counting(), chunk.block, 6)
            for filled in sweep.run_chunk(compiled, KEY, chunk).boxes:
                for name, values in filled.values.items():
                    found[name].values[filled.box.slices] = values
        xr.testing.assert_allclose(found.drop_vars("status"), result.drop_vars("status"), rtol=1e-6)


@pytest.mark.parametrize(("trials", "devices"), [(1, 2), (3, 2), (1000, 2), (1000, 16)])
def test_a_layout_has_about_twenty_chunks_that_employ_every_device(trials, devices):
    one = sweep.Grid({"x": tuple(range(50))}, trials=trials)
    layout = one.layout(devices)
    count = len(one.chunks(layout))
    assert count <= 22
    assert count >= min(17, 50 * trials // devices // 2)
    assert layout.rows[0] >= min(devices, 50 * trials)
    assert max(one.layout(devices, most=7).rows) <= 7
    assert one.layout(devices, least=512).rows[0] == max(min(512, 50 * trials), layout.rows[0])
    assert max(one.layout(devices, most=7, least=512).rows) <= 7


@pytest.mark.parametrize(("platform", "rows"), [("cpu", 40), ("gpu", 800)])
def test_an_accelerator_gets_all_rows_of_a_small_block_at_once(platform, rows, monkeypatch):
    """400 radii x 2 trials: in about 20 chunks on processors."""
    device = SimpleNamespace(platform=platform)
    monkeypatch.setattr(program.jax, "devices", lambda: [device, device])
    one = sweep.Grid({"x": tuple(range(400))}, trials=2)
    assert one.layout(2, least=sweep.filling()).rows == (rows,)


def test_a_million_cells_are_cut_without_listing_them():
    one = sweep.Grid({"x": range(1000), "y": range(1000)}, trials=1)
    began = time.perf_counter()
    chunks = one.chunks(one.layout(2))
    assert time.perf_counter() - began < 1
    assert sum(one.count(chunk.block, box) for chunk in chunks for box in chunk.boxes) == 10**6


@pytest.mark.parametrize("devices", [3, 11])
def test_more_devices(devices):
    """In a fresh process, since their number is fixed when JAX starts; with 11 some get none of the 8 rows."""
    code = f"""
        import jax, jax.random as jr
        jax.config.update("jax_num_cpu_devices", {devices})
        from simulator import sweep
        grid = sweep.Grid({{"x": (1.0, 2.0)}}, trials=4)
        found = sweep.run(grid, lambda coords, key: {{"y": coords["x"] * jr.uniform(key)}}, jr.key(3))
        print(sweep.devices(), *found["y"].values.ravel())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    count, *found = done.stdout.split()
    draws = [float(jr.uniform(jr.fold_in(KEY, trial))) for trial in range(4)]
    assert int(count) == devices
    assert [float(value) for value in found] == pytest.approx([x * draw for x in (1, 2) for draw in draws], rel=1e-6)


def test_program_tells_its_cost():
    compiled = sweep.compile_block(grid(), Counting(), {"width": 2}, 2)
    assert compiled.compile_seconds > 0
    assert compiled.peak_bytes > 0
    assert {name: leaf.shape for name, leaf in compiled.outputs.items()} == {"first": (), "pair": (2,), "total": ()}
    assert sweep.time_rows(compiled, KEY) > 0


def test_size_of_a_grid():
    assert grid().cells == 36
    assert grid().leaves == ("radius",)
    assert grid().blocks() == [{"width": 2}, {"width": 5}]
    huge = sweep.Grid({name: range(10**6) for name in "abcd"}, trials=1)
    assert huge.cells == pytest.approx(1e24)


# ---- grids that cannot be run ----

BAD_GRIDS = {
    "unknown static": ({"static": ("depth",)}, "'depth' is not an axis of the grid: the axes are radius, width, rate"),
    "unknown inner": ({"inner": "depth"}, "'depth' is not an axis of the grid"),
    "empty axis": ({"axes": {"width": (), "rate": RATES}}, "axis 'width' has no values: give at least one"),
    "repeated value": ({"axes": {"width": (2, 2), "rate": RATES}}, r"axis 'width' repeats a value in \[2, 2\]"),
    "no trials": ({"trials": 0}, "trials is 0: give at least 1"),
    "inner is static": ({"static": ("rate",)}, "'rate'"),
    "trial is taken": ({"axes": {"trial": (1, 2)}, "static": (), "inner": None}, "'trial'"),
}


@pytest.mark.parametrize("what", BAD_GRIDS)
def test_impossible_grid(what):
    changes, message = BAD_GRIDS[what]
    with pytest.raises(sweep.GridError, match=message):
        grid(**changes)


@pytest.mark.parametrize("dims", [{}, {"pair": ("one", "two")}])
def test_array_without_names_for_its_dimensions(dims):
    with pytest.raises(sweep.GridError, match=r"the cell returns 'pair' with 1 axes of its own: name them in dims"):
        sweep.run(grid(dims=dims), Counting(), KEY)


def test_coordinate_of_another_length():
    with pytest.raises(ValueError, match="which"):
        sweep.run(grid(coords={"which": (1, 2, 3)}), Counting(), KEY)


def test_nothing_is_wanted():
    with pytest.raises(sweep.GridError, match="no cell of the grid is wanted: nothing to run"):
        sweep.run(grid(wanted=lambda row: False), Counting(), KEY)


# ---- statistics over trials ----


def dataset(values, status=None):
    """values [defence, trial]."""
    values = np.asarray(values, float)
    status = np.full(values.shape, "ok", object) if status is None else np.asarray(status, object)
    names = ("defence", "trial")
    variables = {"error": (names, values), "error_se_test": (names, values / 10), "status": (names, status)}
    return xr.Dataset(
        variables, {"defence": np.array(["coap", "adversarial"], object), "trial": np.arange(values.shape[1])}
    )


VALUES = np.array([[0.4, 0.7, 0.1, 0.9], [0.3, 0.2, 0.5, 0.1]])
STATUS = [["ok", "ok", "diverged", "ok"], ["ok", "failed", "ok", "not_run"]]


def test_mean_and_standard_error():
    mean, sem, count = trials.over_trials(dataset(VALUES), "error")
    np.testing.assert_allclose(mean, VALUES.mean(1))
    np.testing.assert_allclose(sem, VALUES.std(1, ddof=1) / 2)
    np.testing.assert_array_equal(count, [4, 4])


def test_cells_that_are_not_ok_are_left_out():
    mean, sem, count = trials.over_trials(dataset(VALUES, STATUS), "error")
    kept = [VALUES[0, [0, 1, 3]], VALUES[1, [0, 2]]]
    np.testing.assert_allclose(mean, [one.mean() for one in kept])
    np.testing.assert_allclose(sem, [one.std(ddof=1) / np.sqrt(one.size) for one in kept])
    np.testing.assert_array_equal(count, [3, 2])


def test_undefined_values_of_ok_cells_are_left_out():
    mean, sem, count = trials.over_trials(dataset([[np.nan, 0.2, 0.4], [np.nan] * 3]), "error")
    np.testing.assert_allclose(mean, [0.3, np.nan])
    np.testing.assert_allclose(sem, [0.1, np.nan])
    np.testing.assert_array_equal(count, [2, 0])


def test_one_trial_has_no_standard_error():
    mean, sem, count = trials.over_trials(dataset(VALUES[:, :1]), "error")
    np.testing.assert_allclose(mean, VALUES[:, 0])
    assert np.isnan(sem).all()
    np.testing.assert_array_equal(count, [1, 1])


def test_paired_difference():
    mean, sem = trials.paired_difference(dataset(VALUES), "error", defence=("coap", "adversarial"))
    difference = VALUES[0] - VALUES[1]
    assert float(mean) == pytest.approx(difference.mean())
    assert float(sem) == pytest.approx(difference.std(ddof=1) / 2)


def test_difference_of_differences():
    """How much the gap between defences grows along a second axis, each trial compared with itself."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 2, 5))
    result = xr.Dataset(
        {
            "error": (("defence", "epsilon", "trial"), values),
            "status": (("defence", "epsilon", "trial"), np.full(values.shape, "ok", object)),
        },
        {"defence": ["coap", "adversarial"], "epsilon": [0.1, 1.0]},
    )
    pairs = {"defence": ("coap", "adversarial"), "epsilon": (1.0, 0.1)}
    mean, sem = trials.paired_difference(result, "error", **pairs)
    growth = (values[0, 1] - values[1, 1]) - (values[0, 0] - values[1, 0])
    assert float(mean) == pytest.approx(growth.mean())
    assert float(sem) == pytest.approx(growth.std(ddof=1) / 5**0.5)


def test_paired_difference_cancels_what_a_trial_shares():
    shared = np.random.default_rng(0).normal(size=50) * 100
    mean, sem = trials.paired_difference(dataset([shared + 1, shared]), "error", defence=("coap", "adversarial"))
    assert float(mean) == pytest.approx(1)
    assert float(sem) < 1e-10


def test_paired_difference_leaves_out_trials_where_either_is_not_ok():
    mean, sem = trials.paired_difference(dataset(VALUES, STATUS), "error", defence=("coap", "adversarial"))
    assert float(mean) == pytest.approx(VALUES[0, 0] - VALUES[1, 0])
    assert np.isnan(sem)


def test_several_trials_have_the_spread_over_trials_one_that_over_its_test_examples():
    several, one = dataset(VALUES), dataset(VALUES[:, :1])
    np.testing.assert_allclose(trials.uncertainty(several, "error"), VALUES.std(1, ddof=1) / 2)
    np.testing.assert_allclose(trials.uncertainty(one, "error"), VALUES[:, 0] / 10)
    assert np.isnan(trials.uncertainty(one.drop_vars("error_se_test"), "error")).all()
    difference = VALUES[0] - VALUES[1]
    mean, sem = trials.gap(several, "error", "coap", "adversarial")
    assert (float(mean), float(sem)) == pytest.approx((difference.mean(), difference.std(ddof=1) / 2))
    mean, sem = trials.gap(one, "error", "coap", "adversarial")
    # 0.4 - 0.3, and the lengths 0.04 and 0.03 at a right angle.
    assert (float(mean), float(sem)) == pytest.approx((0.1, 0.05))


def test_standard_errors_of_a_whole_result():
    found = trials.with_sem(dataset(VALUES))
    assert set(found) == {"error", "error_se_test", "error_sem", "status"}
    np.testing.assert_allclose(found["error_sem"], VALUES.std(1, ddof=1) / 2)
    assert set(trials.with_sem(found)) == set(found)


def test_counts_by_status():
    assert trials.count_by_status(dataset(VALUES, STATUS)) == {"diverged": 1, "failed": 1, "not_run": 1, "ok": 5}
