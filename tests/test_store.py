"""Stores and their continuation, with a toy study that compiles in a moment."""

import json
import re
from dataclasses import dataclass

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
    assert attributes["wall_seconds"] > 0
    assert attributes["compile_seconds"] > 0
    assert sum(attributes["cells_by_status"].values()) == 18
    assert re.match(r"\d{4}-\d\d-\d\dT", attributes["started"])


def test_a_block_is_a_chunk(finished):
    """So that writing one block never rewrites another."""
    for name in ("status", "robust_error", "robust_error_history"):
        assert zarr.open_array(finished / name, mode="r").chunks[:3] == (1, 2, 3)


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


@pytest.mark.parametrize("written", [0, 1, 2])
def test_interrupted_run_is_continued(tmp_path, result, written):
    interrupted_run(tmp_path, store, "write_block", written + 1)
    path, attributes = tmp_path / "toy.zarr", result.attrs
    assert store.state(path, attributes) == "partial"
    kept = store.read(path)
    assert "complete" not in kept.attrs or not kept.attrs["complete"]
    assert list((kept["status"] != "not_run").all(("epsilon", "trial")).values) == [i < written for i in range(3)]

    TRACED.clear()
    ticks = []
    run(tmp_path, report=studies.Report(tick=ticks.append))
    assert sorted(set(TRACED)) == sorted(DEFENCES[written:])
    # A tick of 1 per program compiled, then one per row.
    assert sum(ticks) == (3 - written) * (1 + 6)
    assert store.state(path, attributes) == "complete"
    assert_same(store.read(path), result)


def test_block_without_its_status_is_computed_again(tmp_path, result):
    """The data of the second block are on disk, its status is not."""
    # Calls of to_zarr: the empty grid, data and status of block 1, data of block 2, then its status.
    interrupted_run(tmp_path, xr.Dataset, "to_zarr", 5)
    kept = store.read(tmp_path / "toy.zarr")
    assert kept["robust_error"].sel(defence="adversarial").notnull().any()
    assert (kept["status"].sel(defence="adversarial") == "not_run").all()
    assert_same(store.read(run(tmp_path)), result)


def test_interruption_before_the_derived_variables(tmp_path, result):
    """Every block is there, only the last step is missing."""
    interrupted_run(tmp_path, store, "finish", 1)
    TRACED.clear()
    path = run(tmp_path)
    assert not TRACED
    assert store.read(path).attrs["complete"]
    assert_same(store.read(path), result)


def test_exhibits_are_stored_once_and_survive_an_interruption(tmp_path, result):
    study = toy(exhibits=toy_exhibits)
    interrupted_run(tmp_path, store, "write_block", 2, study=study)
    found = store.read(run(tmp_path, study=study))
    np.testing.assert_array_equal(found["point_x"], np.arange(4.0))
    assert int(found["label"]) == 1
    assert_same(found.drop_vars(["point_x", "label"]), result)


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
    interrupted_run(tmp_path, store, "write_block", 2)
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
        store.create(finished, result, {}, ("defence",), overwrite=False)
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


def test_failed_program_is_recorded_and_the_rest_kept(tmp_path, monkeypatch):
    run_block, said = sweep.run_block, []

    def broken(grid, program, *rest):
        def out_of_memory(*arguments):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nallocating 3 GB")

        failing = program.block["defence"] == "adversarial"
        run_block(grid, sweep.Program(**{**vars(program), "run": out_of_memory}) if failing else program, *rest)

    monkeypatch.setattr(sweep, "run_block", broken)
    result = store.read(run(tmp_path, report=studies.Report(say=said.append)))
    assert (result["status"].sel(defence="adversarial") == "failed").all()
    assert (result["status"].sel(defence="coap") != "failed").all()
    assert result["robust_error"].sel(defence="adversarial").isnull().all()
    assert any(re.match(r"toy: .*6 cells failed of 18", line) for line in said)
    assert any("RESOURCE_EXHAUSTED: out of memory" in line for line in said)
    assert result.attrs["complete"]
