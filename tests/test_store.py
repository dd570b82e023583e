"""Stores and their continuation, with a toy study that compiles in a moment."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
import zarr
from matplotlib.figure import Figure

from simulator import store, studies, sweep

DEFENCES = ("standard", "adversarial", "coap")


@dataclass(frozen=True, kw_only=True)
class ToySettings(studies.Settings):
    """One static axis, hence one block per defence, and one leaf axis."""

    defence: tuple[str, ...] = studies.setting("ways to train", choices=DEFENCES)
    epsilon: tuple[float, ...] = studies.setting("radius", low=0)


SETTINGS = ToySettings(defence=DEFENCES, epsilon=(0.1, 0.3), trials=3)
TRACED = []
"""Which defences have been traced, in order."""
CHUNKS = 9
"""Of the toy study on two devices: 3 blocks of 6 rows, 2 rows each."""
START = 1
"""Records written before the first chunk's: of what is known from the start."""


def toy_grid(settings):
    axes = {"defence": settings.defence, "epsilon": settings.epsilon}
    dims = {"robust_error_history": ("epoch",)}
    return sweep.Grid(axes, settings.trials, static=("defence",), dims=dims, coords={"epoch": (0, 10)})


def toy_cell(settings):
    def run(coords, key):
        TRACED.append(coords["defence"])
        error = coords["epsilon"] + DEFENCES.index(coords["defence"]) + jr.normal(key)
        # A number that is its own test of divergence: about half of the cells.
        return {"robust_error": error, "robust_error_history": jnp.stack([error, error]), "diverged": error < 1}

    return run


def toy_exhibits(settings, key):
    return xr.Dataset({"point_x": (("point",), np.arange(4.0)), "label": ((), 1)})


def toy(**changes):
    parts = {
        "name": "toy",
        "claim": "Errors grow.",
        "scales": dict.fromkeys(studies.SCALES, SETTINGS),
        "grid": toy_grid,
        "cell": toy_cell,
        "figure": lambda result, published: Figure(),
        "verdict": lambda result: studies.Verdict(True, "they grow"),
        "notes": lambda settings: {"attack": "none"},
    }
    return studies.Study(**{**parts, **changes})


def run(out, study=None, settings=SETTINGS, seed=0, **options):
    return studies.run(study or toy(), settings, scale="smoke", seed=seed, out=out, **options)


def assert_same(one, other):
    """Equal variables and coordinates; the attributes hold times, which differ."""
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


def contents(folder):
    """Every file below a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def interrupt_at_call(monkeypatch, owner, name, number):
    """Let a function raise KeyboardInterrupt instead of its call of that number, counted from 1."""
    original, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


def interrupted_run(out, owner, name, number, **options):
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at_call(patch, owner, name, number)
        with pytest.raises(KeyboardInterrupt):
            run(out, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The store of an uninterrupted run; tests only read it."""
    return run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def result(finished):
    return store.read(finished)


# ---- what a store holds ----


def test_store_holds_what_the_sweep_computed(result):
    key = jr.key(0)
    computed = sweep.run(toy_grid(SETTINGS), toy_cell(SETTINGS), key)
    assert_same(result.drop_vars([name for name in result if name.endswith("_sem")]), computed)


def test_text_is_compared_and_selected_as_text(result):
    assert set(np.unique(result["status"].values)) == {"ok", "diverged"}
    assert (result["status"] == "ok").any()
    assert list(result["defence"].values) == list(DEFENCES)
    assert isinstance(result["status"].values[0, 0, 0], str)
    chosen = result.sel(defence="coap", epsilon=0.3, trial=2)
    assert float(chosen["robust_error"]) == result["robust_error"].values[2, 1, 2]


def test_diverged_cells_are_nan_and_only_they(result):
    gone = (result["status"] == "diverged").values
    assert gone.any()
    np.testing.assert_array_equal(np.isnan(result["robust_error"].values), gone)
    np.testing.assert_array_equal(np.isnan(result["robust_error_history"].values), gone[..., None] | np.zeros(2, bool))


def test_standard_errors_are_derived(result):
    assert result["robust_error_sem"].dims == ("defence", "epsilon")
    assert result["robust_error_history_sem"].dims == ("defence", "epsilon", "epoch")
    values = result["robust_error"].where(result["status"] == "ok")
    expected = values.std("trial", ddof=1) / np.sqrt(values.notnull().sum("trial"))
    np.testing.assert_allclose(result["robust_error_sem"].values, expected.values, rtol=1e-5)


def test_attributes_tell_what_made_it(result):
    attributes = result.attrs
    expected = {"study": "toy", "seed": 0, "numbers": 1, "precision": "float32", "scale": "smoke", "complete": True}
    assert {name: attributes[name] for name in expected} == expected
    assert attributes["claim"] == "Errors grow."
    assert attributes["attack"] == "none"
    assert json.loads(attributes["settings"]) == SETTINGS.as_dict()
    assert json.loads(attributes["versions"])["jax"] == jax.__version__
    assert re.fullmatch(r"unknown|[0-9a-f]{12}(-dirty)?|v?\d.*", attributes["commit"])
    assert list(result.data_vars) == sorted(result.data_vars)
    assert attributes["wall_seconds"] > 0
    assert attributes["compile_seconds"] > 0
    assert sum(attributes["cells_by_status"].values()) == 18
    assert re.match(r"\d{4}-\d\d-\d\dT", attributes["started"])


@pytest.mark.parametrize(
    ("changed", "expected"), [("", "0123456789ab"), (" M simulator/store.py", "0123456789ab-dirty")]
)
def test_the_commit_is_dirty_where_the_code_is(monkeypatch, changed, expected):
    """Not where figures are that a run has drawn into the checkout: git is asked of the package alone."""

    def git(command, cwd, **options):
        assert (command[0], cwd) == ("git", Path(store.__file__).parent)
        said = {"describe": "0123456789ab", "status": changed}[command[1]]
        assert command[1] == "describe" or command[-2:] == ["--", "."]
        return subprocess.CompletedProcess(command, 0, f"{said}\n")

    monkeypatch.setattr(subprocess, "run", git)
    assert store.provenance("toy", {}, 0, 1, "float32")["commit"] == expected


def test_compiling_at_once_is_not_counted_twice(tmp_path):
    """Programs are compiled two at a time: the times of single ones add up to more than has gone by."""
    began = time.perf_counter()
    attributes = store.read(run(tmp_path)).attrs
    assert attributes["compile_seconds"] <= attributes["wall_seconds"] <= time.perf_counter() - began


def test_a_box_is_a_chunk_of_the_file(finished):
    """So that writing one box never rewrites another."""
    for name in ("status", "robust_error", "robust_error_history"):
        assert zarr.open_array(finished / name, mode="r").chunks[:3] == (1, 2, 1)


def test_other_readers_see_a_plain_zarr_hierarchy(finished, result):
    found = xr.open_zarr(finished, consolidated=False)
    assert set(found.variables) == set(result.variables)
    assert dict(zarr.open_group(finished, mode="r").groups()).keys() == {"progress"}


def test_a_box_that_does_not_fit_the_chunks_is_refused(tmp_path):
    """Two writers of one chunk of a file would lose each other's values without a word."""
    template = store.Template({"a": (("x",), (4,), np.dtype("float32"))}, {"x": 2}, xr.Dataset())
    store.create(tmp_path / "one.zarr", template, {}, overwrite=False)
    for start, stop in ((1, 3), (0, 1), (0, 4)):
        boxes = [((slice(start, stop),), {"a": np.zeros(stop - start, np.float32)})]
        with pytest.raises(ValueError, match="does not fit the chunks"):
            store.save_chunk(tmp_path / "one.zarr", "0", boxes, {})
    assert store.records(tmp_path / "one.zarr") == {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_but_nans_of_any_sign_is_kept_as_it_was(tmp_path, dtype):
    """They are not written, being what a missing part reads as, and so are read back without their sign."""
    template = store.Template({"a": (("x",), (4,), np.dtype(dtype))}, {"x": 2}, xr.Dataset())
    path = tmp_path / "one.zarr"
    store.create(path, template, {}, overwrite=False)
    negative = np.negative(np.full(2, np.nan, dtype))
    assert np.signbit(negative).all()
    for name, values in (("0", negative), ("2", np.array([-0.0, 1], dtype))):
        store.save_chunk(path, name, [((slice(int(name), int(name) + 2),), {"a": values})], {})
    assert all(store.is_sound(path, record) for name, record in store.records(path).items() if name in "02")


def test_precision_is_kept(tmp_path, float64):
    result = store.read(run(tmp_path))
    assert result["robust_error"].dtype == np.float64
    assert result.attrs["precision"] == "float64"


# ---- complete, interrupted, continued ----


def test_complete_store_is_left_alone(finished):
    before, said = contents(finished), []
    TRACED.clear()
    assert run(finished.parent, report=studies.Report(say=said.append)) == finished
    assert not TRACED
    assert contents(finished) == before
    assert said == [f"toy is complete in {finished}: nothing to compute"]


@pytest.mark.parametrize("written", [0, 1, 4, 8])
def test_interrupted_run_is_continued(tmp_path, result, written):
    interrupted_run(tmp_path, store, "save_chunk", START + written + 1)
    path, attributes = tmp_path / "toy.zarr", result.attrs
    assert store.state(path, attributes) == "partial"
    kept = store.read(path)
    assert not kept.attrs["complete"]
    assert int((kept["status"] != "not_run").sum()) == 2 * written
    TRACED.clear()
    ticks = []
    run(tmp_path, report=studies.Report(tick=ticks.append))
    unfinished = 3 - written // 3
    assert sorted(set(TRACED)) == sorted(DEFENCES[-unfinished:])
    # A tick of 1 per program compiled, then one per cell.
    assert sum(ticks) == unfinished + 2 * (CHUNKS - written)
    assert store.state(path, attributes) == "complete"
    assert_same(store.read(path), result)


def test_chunk_without_its_record_is_computed_again(tmp_path, result):
    """The data of the second chunk are on disk, its record is not."""
    # The group of the records is written first of all.
    interrupted_run(tmp_path, store, "_write_group", 1 + START + 2)
    kept = store.read(tmp_path / "toy.zarr")
    assert int((kept["status"] != "not_run").sum()) == 4
    assert len(store.records(tmp_path / "toy.zarr")) == START + 1
    ticks = []
    assert_same(store.read(run(tmp_path, report=studies.Report(tick=ticks.append))), result)
    assert sum(ticks) == 3 + 2 * (CHUNKS - 1)


def test_interruption_before_the_derived_variables(tmp_path, result):
    """Every chunk is there, only the last step is missing."""
    interrupted_run(tmp_path, store, "save_chunk", START + CHUNKS + 1)
    TRACED.clear()
    path = run(tmp_path)
    assert not TRACED
    assert store.read(path).attrs["complete"]
    assert_same(store.read(path), result)


def test_interruption_while_the_store_is_made_leaves_nothing_in_its_place(tmp_path, result):
    interrupted_run(tmp_path, store, "_make_array", 3)
    assert not (tmp_path / "toy.zarr").exists()
    assert_same(store.read(run(tmp_path)), result)
    assert [name for name in sorted(contents(tmp_path)) if "new" in name] == []


def test_interrupted_replacement_keeps_the_old_store(tmp_path, result):
    run(tmp_path)
    interrupted_run(tmp_path, store, "_make_array", 3, seed=1, overwrite=True)
    assert_same(store.read(tmp_path / "toy.zarr"), result)


def test_exhibits_are_stored_once_and_survive_an_interruption(tmp_path, result):
    study = toy(exhibits=toy_exhibits)
    interrupted_run(tmp_path, store, "save_chunk", START + 2, study=study)
    found = store.read(run(tmp_path, study=study))
    np.testing.assert_array_equal(found["point_x"], np.arange(4.0))
    assert int(found["label"]) == 1
    assert_same(found.drop_vars(["point_x", "label"]), result)


def test_times_of_all_parts_are_added(tmp_path):
    interrupted_run(tmp_path, store, "save_chunk", START + 5)
    path = tmp_path / "toy.zarr"
    before = sum(record["seconds"] for name, record in store.records(path).items() if name != store.FIXED)
    compiled = store.attributes(path)["compile_seconds"]
    after = store.read(run(tmp_path)).attrs
    assert after["wall_seconds"] > before + compiled
    assert after["compile_seconds"] > compiled > 0


@pytest.fixture
def interruptible():
    """Python's own handler of Ctrl-C, which is not there where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_what_is_saved(tmp_path, result, interruptible, number):
    """The first interruption, by the user or by a batch system, ends the run after its chunk."""
    said = []

    def stop_soon(amount):
        # The first ticks are of compilation.
        if amount == 2 and len(store.records(tmp_path / "toy.zarr")) == START + 4:
            os.kill(os.getpid(), number)

    with pytest.raises(studies.Stopped, match=r"stopped with \d of 9 chunks done and saved in .*toy\.zarr") as stopped:
        run(tmp_path, report=studies.Report(say=said.append, tick=stop_soon))
    assert "stopped with 4 of 9" in str(stopped.value)
    assert said[-1].startswith("stopping as soon as the current work is saved")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert_same(store.read(run(tmp_path)), result)


def test_a_second_run_on_the_same_store_is_refused(tmp_path, result):
    with store.writing(tmp_path / "toy.zarr"), pytest.raises(store.StoreError, match="another run is writing"):
        run(tmp_path)
    assert_same(store.read(run(tmp_path)), result)


# ---- damage ----


def damage_truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def damage_deleted(file):
    file.unlink()


def damage_emptied(file):
    file.write_bytes(b"")


DAMAGES = [damage_truncated, damage_flipped, damage_deleted, damage_emptied]
PLACES = {
    "data": "robust_error/c/1/0/2",
    "status": "status/c/1/0/2",
    "description of data": "robust_error/zarr.json",
    "record": "progress/1-0-2/zarr.json",
    "coordinate": "epsilon/c/0",
    "description of a coordinate": "defence/zarr.json",
    "derived": "robust_error_sem/c/1/0",
    "description of derived": "robust_error_sem/zarr.json",
    "records": "progress/zarr.json",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("place", PLACES)
def test_damaged_store_is_mended_by_the_same_command(tmp_path, finished, result, place, damage):
    """Whatever cannot be read as it was written is made again, nothing else is computed, and the result is the same."""
    path = tmp_path / "toy.zarr"
    shutil.copytree(finished, path)
    damage(path / PLACES[place])
    TRACED.clear()
    run(tmp_path)
    assert_same(store.read(path), result)
    assert set(TRACED) <= {"adversarial"}
    assert bool(TRACED) == (place in ("data", "status", "record"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_store_without_its_attributes_is_refused_and_kept(tmp_path, finished, damage):
    """What made it can no longer be told, so it is not for us to continue or to replace."""
    path = tmp_path / "toy.zarr"
    shutil.copytree(finished, path)
    if damage is damage_flipped:
        # A flipped bit in the text of the attributes: another seed, say.
        file = path / "zarr.json"
        file.write_text(file.read_text().replace('"seed": 0', '"seed": 4'))
    else:
        damage(path / "zarr.json")
    before = contents(path)
    with pytest.raises(store.StoreError, match="--overwrite"):
        run(tmp_path)
    assert contents(path) == before


def test_damage_is_announced(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "toy.zarr")
    damage_flipped(tmp_path / "toy.zarr" / PLACES["data"])
    said = []
    run(tmp_path, report=studies.Report(say=said.append))
    assert any(re.match(r"1 saved chunks of .*toy\.zarr have been damaged since", line) for line in said)


def test_flipped_bits_are_never_read_as_data(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "toy.zarr")
    damage_flipped(tmp_path / "toy.zarr" / PLACES["data"])
    with pytest.raises(store.StoreError, match="is not a readable result store"):
        store.read(tmp_path / "toy.zarr")


def test_cells_not_wanted_stay_not_run(tmp_path):
    def grid(settings):
        axes = {"defence": settings.defence, "epsilon": settings.epsilon}
        return sweep.Grid(
            axes,
            settings.trials,
            static=("defence",),
            wanted=lambda cell: cell["defence"] != "coap" and cell["trial"] < 2,
        )

    def cell(settings):
        return lambda coords, key: {"robust_error": coords["epsilon"]}

    result = store.read(run(tmp_path, toy(grid=grid, cell=cell)))
    expected = np.where((np.arange(3)[:, None] < 2) & (np.arange(3) < 2), "ok", "not_run")
    np.testing.assert_array_equal(result["status"].sel(epsilon=0.1).values, expected)
    assert result.attrs["cells_by_status"] == {"ok": 8, "not_run": 10}


# ---- refusals ----

OTHERS = {
    "seed": ({"seed": 7}, "seed is 0 there, 7 here"),
    "numbers": ({"study": toy(numbers=2)}, "numbers is 1 there, 2 here"),
    "epsilon": (
        {"settings": ToySettings(defence=DEFENCES, epsilon=(0.1, 0.4), trials=3)},
        "epsilon is [0.1, 0.3] there, [0.1, 0.4] here",
    ),
    "trials": ({"settings": ToySettings(defence=DEFENCES, epsilon=(0.1, 0.3), trials=4)}, "trials is 3 there, 4 here"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_run_is_refused_with_the_difference(finished, what):
    before = contents(finished)
    changes, difference = OTHERS[what]
    with pytest.raises(store.StoreError, match=re.escape(f"holds another run ({difference})")) as caught:
        run(finished.parent, **changes)
    assert "--overwrite" in str(caught.value)
    assert contents(finished) == before


def test_other_study_at_the_path_is_refused(finished, tmp_path):
    (tmp_path / "other.zarr").symlink_to(finished)
    with pytest.raises(store.StoreError, match="study is toy there, other here"):
        run(tmp_path, toy(name="other"))


def test_other_precision_is_refused(finished, float64):
    with pytest.raises(store.StoreError, match="precision is float32 there, float64 here"):
        run(finished.parent)


def test_a_partial_store_of_another_run_is_refused(tmp_path):
    interrupted_run(tmp_path, store, "save_chunk", START + 2)
    with pytest.raises(store.StoreError, match="seed is 0 there, 1 here"):
        run(tmp_path, seed=1)


def test_scale_does_not_make_another_run(finished):
    """The same settings under another name are the same experiment."""
    assert studies.run(toy(), SETTINGS, scale="paper", seed=0, out=finished.parent) == finished


def test_overwrite_replaces(tmp_path):
    old = store.read(run(tmp_path))
    new = store.read(run(tmp_path, seed=1, overwrite=True))
    assert new.attrs["seed"] == 1
    assert not old["robust_error"].equals(new["robust_error"])


def put_file(path):
    path.write_text("important")


def put_empty_folder(path):
    path.mkdir()


def put_notes(path):
    path.mkdir()
    (path / "notes.txt").write_text("important")


def put_foreign_group(path):
    zarr.open_group(path, mode="w").attrs["title"] = "climate"


def put_foreign_array(path):
    zarr.save_array(path, np.arange(3))


def put_foreign_settings(path):
    zarr.open_group(path, mode="w").attrs.update({"study": "toy", "settings": "warm, wet"})


def put_foreign_list(path):
    zarr.open_group(path, mode="w").attrs.update({"study": "toy", "settings": "[1, 2]"})


def put_broken_group(path):
    path.mkdir()
    (path / "zarr.json").write_text("{")


SOMETHING_ELSE = [
    put_file,
    put_empty_folder,
    put_notes,
    put_foreign_group,
    put_foreign_array,
    put_foreign_settings,
    put_foreign_list,
    put_broken_group,
]


@pytest.mark.parametrize("put", SOMETHING_ELSE)
def test_something_else_is_refused_and_left_untouched(tmp_path, put):
    put(tmp_path / "toy.zarr")
    before = contents(tmp_path)
    with pytest.raises(store.StoreError) as caught:
        run(tmp_path)
    assert "--overwrite" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("put", [put_file, put_notes, put_foreign_array])
def test_overwrite_replaces_anything(tmp_path, put):
    put(tmp_path / "toy.zarr")
    assert store.read(run(tmp_path, overwrite=True)).attrs["complete"]
    assert not (tmp_path / "toy.zarr" / "notes.txt").exists()


def test_create_does_not_replace_unasked(finished, result):
    before = contents(finished)
    with pytest.raises(store.StoreError, match="exists already"):
        store.create(finished, store.Template({}, {}, xr.Dataset()), {}, overwrite=False)
    assert contents(finished) == before


@pytest.mark.parametrize("put", SOMETHING_ELSE[:3] + SOMETHING_ELSE[-1:])
def test_unreadable_store(tmp_path, put):
    put(tmp_path / "toy.zarr")
    with pytest.raises(store.StoreError, match=r"toy\.zarr is not a readable result store"):
        store.read(tmp_path / "toy.zarr")


def test_no_store(tmp_path):
    with pytest.raises(store.StoreError, match=r"there is no store at .*: run the study first"):
        store.read(tmp_path / "toy.zarr")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_impossible_folder(tmp_path, out):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(store.StoreError, match="give another --out"):
        run(tmp_path / out)
    assert contents(tmp_path) == {"file": b"in the way"}


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_impossible_seed(tmp_path, seed):
    with pytest.raises(studies.SettingsError, match=f"seed is {seed}, but must be between 0 and"):
        run(tmp_path / "out", seed=seed)
    assert not (tmp_path / "out").exists()


def test_too_large_run_touches_nothing(tmp_path):
    settings = ToySettings(defence=DEFENCES, epsilon=(0.1,), trials=2**31 - 1)
    with pytest.raises(sweep.GridError, match=r"6,442,450,941 cells would take .* of memory, but a run may use"):
        run(tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_failed_cells_are_recorded_with_their_coordinates_and_the_rest_kept(tmp_path, monkeypatch):
    compile_block, said = sweep.compile_block, []

    def poisoned(grid, cell, block, rows):
        program = compile_block(grid, cell, block, rows)
        if block["defence"] != "adversarial":
            return program

        def run(key, counts, values, shared):
            if (np.asarray(values["trial"]) == 1).any():
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nallocating 3 GB")
            return program.run(key, counts, values, shared)

        return dataclasses.replace(program, run=run)

    monkeypatch.setattr(sweep, "program_of", poisoned)
    result = store.read(run(tmp_path, report=studies.Report(say=said.append)))
    failed = (result["status"] == "failed").values
    expected = np.zeros((3, 2, 3), bool)
    expected[1, :, 1] = True
    np.testing.assert_array_equal(failed, expected)
    assert result["robust_error"].values[failed].size == 2
    assert np.isnan(result["robust_error"].values[failed]).all()
    assert any(re.match(r"toy: .*2 cells failed of 18", line) for line in said)
    where = [failure["cell"] for failure in result.attrs["failures"]]
    assert where == [f"defence = adversarial, trial = 1, epsilon = {epsilon}" for epsilon in (0.1, 0.3)]
    assert [line for line in said if line.startswith("failed: ")] == [
        f"failed: {cell}: JaxRuntimeError: RESOURCE_EXHAUSTED: out of memory" for cell in where
    ]
    assert result.attrs["complete"]


def test_cells_that_return_other_variables_elsewhere_are_refused(tmp_path):
    def cell(settings):
        return lambda coords, key: {f"{coords['defence'][:1]}_error": coords["epsilon"]}

    with pytest.raises(sweep.GridError, match="it must return the same names and shapes everywhere"):
        run(tmp_path, toy(cell=cell))
    assert not (tmp_path / "toy.zarr").exists()
