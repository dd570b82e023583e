"""Hosted cells: functions on the host in a grid, their folders, and how they are stopped and go on."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from simulator import store, studies, sweep
from simulator.studies import Report, Stopped
from simulator.studies import plan as planning
from simulator.studies.saving import models_of

NUMBER = jax.ShapeDtypeStruct((), jnp.float32)
PAIR = jax.ShapeDtypeStruct((2,), jnp.float32)


def draw(coords, key, around):
    """Values that tell where they were made, and what the key gave."""
    place = coords["a"] + 10 * coords["b"]
    return {"value": place, "drawn": float(jr.uniform(key)), "two": [place, -place], "diverged": coords["b"] > 1.5}


def hosted(run):
    """A cell of four values."""
    outputs = {"value": NUMBER, "drawn": NUMBER, "two": PAIR, "diverged": jax.ShapeDtypeStruct((), bool)}
    return sweep.Hosted(lambda block: outputs, run)


def grid_of(**further):
    return sweep.Grid({"a": (1, 2), "b": (0.0, 1.0, 2.0)}, 2, static=("a",), dims={"two": ("part",)}, **further)


def test_cells_are_run_on_the_host_with_the_key_of_their_trial():
    result = sweep.run(grid_of(), hosted(draw), jr.key(3))
    place = result["a"] + 10 * result["b"]
    ok = result["status"] == "ok"
    np.testing.assert_array_equal(ok.sel(b=[0, 1]), True)
    assert (result["status"].sel(b=2) == "diverged").all()
    np.testing.assert_array_equal(result["value"].where(ok, 0), place.where(ok, 0))
    np.testing.assert_array_equal(result["two"].isel(part=1).where(ok, 0), -place.where(ok, 0))
    for trial in (0, 1):
        drawn = float(jr.uniform(sweep.trial_key(jr.key(3), trial)))
        assert (result["drawn"].sel(trial=trial, b=[0, 1]) == np.float32(drawn)).all()


def test_an_inner_axis_and_unannounced_values_are_refused():
    with pytest.raises(ValueError, match="'b' is an inner axis"):
        sweep.run(grid_of(inner="b"), hosted(draw), jr.key(0))
    with pytest.raises(ValueError, match="returned value, but its outputs are diverged, drawn, two, value"):
        sweep.run(grid_of(), hosted(lambda coords, key, around: {"value": 0.0}), jr.key(0))


# ---- in a study ----


class Counting:
    """A cell that counts its calls, keeps a file, and asks for a stop as if the user had."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at, self.folders = 0, stop_at, []

    def __call__(self, coords, key, around):
        self.calls += 1
        self.folders.append(around.folder)
        around.folder.mkdir(parents=True, exist_ok=True)
        kept = around.folder / "-".join(map(str, (*coords.values(), *np.asarray(jr.key_data(key)))))
        if self.calls == self.stop_at:
            kept.write_text("half")
            raise sweep.Stopping("half of it is kept")
        half = kept.exists() and kept.read_text() == "half"
        kept.write_text("whole")
        return {**draw(coords, key, around), "drawn": float(half)}


def study_of(run):
    settings = studies.STUDIES["alignment"].scales["smoke"]
    return studies.Study(
        name="counting",
        claim="It counts.",
        scales=dict.fromkeys(studies.SCALES, settings),
        grid=lambda settings: grid_of(),
        cell=lambda settings: hosted(run),
        figure=lambda result, published: None,
        verdict=lambda result: studies.Verdict(True, "counted"),
    ), settings


def run_in(folder, cell, said=None, **further):
    study, settings = study_of(cell)
    report = Report(say=(lambda sentence: None) if said is None else said.append)
    path = studies.run(study, settings, scale="smoke", seed=0, out=folder, report=report, **further)
    return path, store.read(path)


def test_every_cell_is_a_chunk_and_all_share_a_folder(tmp_path):
    cell = Counting()
    path, result = run_in(tmp_path, cell)
    assert result.attrs["complete"] is True
    assert cell.calls == 12
    assert set(cell.folders) == {models_of(path)}
    assert models_of(path) == tmp_path / "counting.models"


def test_a_stopped_cell_goes_on_with_what_it_kept(tmp_path):
    first = Counting(stop_at=5)
    with pytest.raises(Stopped, match=r"stopped with 4 of 12 chunks done .*; half of it is kept"):
        run_in(tmp_path, first)
    second = Counting()
    _, result = run_in(tmp_path, second)
    # The stopped cell once more, and the seven after it; it alone found something.
    assert second.calls == 8
    assert float(result["drawn"].where(result["status"] == "ok").sum()) == 1
    third = Counting()
    run_in(tmp_path, third)
    assert third.calls == 0


def test_overwriting_a_store_leaves_what_cells_kept(tmp_path):
    with pytest.raises(Stopped):
        run_in(tmp_path, Counting(stop_at=5))
    cell = Counting()
    _, result = run_in(tmp_path, cell, overwrite=True)
    assert cell.calls == 12
    assert float(result["drawn"].where(result["status"] == "ok").sum()) == 1


def test_a_store_of_other_files_is_refused(tmp_path):
    study, settings = study_of(Counting())

    def run_on(files):
        one = dataclasses.replace(study, files=lambda settings: files)
        return studies.run(one, settings, scale="smoke", seed=0, out=tmp_path)

    run_on("images: SHA-256 1")
    run_on("images: SHA-256 1")
    with pytest.raises(store.StoreError, match="files is images: SHA-256 1 there, images: SHA-256 2 here"):
        run_on("images: SHA-256 2")


def test_the_plan_of_a_hosted_study_runs_nothing(tmp_path):
    cell = Counting()
    study, settings = study_of(cell)
    words = studies.dry_run(study, settings, Report())
    assert "12 of 12 in the grid, in 12 chunks" in words
    assert cell.calls == 0


def test_what_compiles_while_it_trains_is_not_said_to_be_compiled():
    """A hosted cell compiles what it needs when it needs it, and its memory is not known before."""
    study = studies.STUDIES["images-quick"]
    said = planning.describe(planning.plan(study, study.scales["default"]), Report())
    assert "compiled as they are needed" in said
    assert "at the peak" not in said
