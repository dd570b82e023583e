"""The named studies: what each one must state, and, slowly, what a run at the scale "smoke" must give."""

import functools
import re

import jax.random as jr
import numpy as np
import pytest
from matplotlib.figure import Figure

from simulator import bounds, defences, image_evaluation, images, store, studies, sweep, trials
from simulator.studies import STUDIES, image_data

THEORY = ("theory-directed", "theory-l2", "share-along-signal", "theory-interpolation", "one-neuron", "asymptotics")
"""Studies of theory under a simulation; the others train and compare defences, and measure all there is to measure."""
IMAGES = [name for name in STUDIES if name.startswith("images-")]
"""Studies of data sets of images, whose cells are hosted."""
SHIPPED = ("images-digits", "images-quick", "images-planted")
"""Those of them that need no download."""
PICTURED = SHIPPED[1:]
"""Those of them that are run; the first is the second at greater length."""
COMPARING = [name for name in STUDIES if name not in (*THEORY, *IMAGES)]
LANDING = ("picture", "alignment", "signal-directed", "budget", "theory-directed", "one-neuron", "images-quick")
"""Those that are run before every landing: of every kind some that are quick.  `make test-all` runs all."""
SCALES = [(name, scale) for name in STUDIES for scale in studies.SCALES]
ERRORS = ("standard_error", "robust_error", "certified_error")
ALIGNMENTS = ("alignment_attack", "alignment_dual", "alignment_gradient")


# ---- what a study states ----


def is_one_sentence(text):
    return text.endswith(".") and "\n" not in text and text[0].isupper() and not re.search(r"\. [A-Z]", text)


@pytest.mark.parametrize("name", STUDIES)
def test_study_states_its_claim(name):
    study = STUDIES[name]
    assert study.name == name
    assert re.fullmatch(r"[a-z][a-z0-9-]*", name)
    assert is_one_sentence(study.claim)
    assert study.numbers >= 1


def test_studies_are_told_apart():
    assert len({study.claim for study in STUDIES.values()}) == len(STUDIES)
    assert any(study.core for study in STUDIES.values())


@pytest.mark.parametrize("name", STUDIES)
def test_study_has_every_scale(name):
    scales = STUDIES[name].scales
    assert tuple(scales) == studies.SCALES
    assert len({type(settings) for settings in scales.values()}) == 1
    assert scales["smoke"].trials <= scales["default"].trials <= scales["paper"].trials


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_every_scale_has_a_grid(name, scale):
    study, settings = STUDIES[name], STUDIES[name].scales[scale]
    grid = study.grid(settings)
    assert name in THEORY or {"defence", "epsilon"} <= set(grid.axes)
    assert grid.trials == settings.trials
    assert any(grid.rows(block) for block in grid.blocks())
    cell = study.cell(settings)
    assert callable(cell) or isinstance(cell, (sweep.Staged, sweep.Hosted))
    assert (name in IMAGES) == isinstance(cell, sweep.Hosted)
    assert set(grid.axes.get("defence", ())) <= {*defences.TABLE, *bounds.METHODS}
    assert not set(grid.coords) & set(grid.axes)


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_notes_say_how_the_numbers_are_obtained(name, scale):
    notes = STUDIES[name].notes(STUDIES[name].scales[scale])
    assert {"attack", "selection", "interval"} <= set(notes)
    assert ("certified_by" in notes) == (name not in THEORY)
    assert not set(notes) & set(store.IDENTITY)
    assert all(text and "\n" not in text for text in notes.values())


@pytest.mark.parametrize("name", STUDIES)
def test_settings_are_explained(name):
    for field in STUDIES[name].scales["paper"].__dataclass_fields__.values():
        assert field.metadata["help"], field.name


PUBLISHED = [(name, index) for name in STUDIES for index in range(len(STUDIES[name].published))]


@pytest.mark.parametrize(("name", "index"), PUBLISHED)
def test_published_values_lie_in_the_grid_of_the_paper(name, index):
    study = STUDIES[name]
    curve, grid = study.published[index], study.grid(study.scales["paper"])
    known = {**grid.axes, **grid.coords}
    for axis, value in curve.at.items():
        assert value in known[axis], f"{axis} = {value} is not in the grid"
    # Named in full, it is one number of the result: averages over an axis nobody named are never compared.
    assert {*grid.axes, *grid.shared_dims} == {*curve.at, curve.along} - {"epoch"} | set(grid.shared_dims)
    along = known[curve.along]
    # Along epochs the comparison interpolates; elsewhere it needs the very value.
    assert all(
        min(along) <= value <= max(along) if curve.along == "epoch" else value in along for value in curve.values
    )
    # A share, or a sum of shares over epochs.
    most = study.scales["paper"].epochs if curve.variable == "unstable_epochs" else 1
    assert all(0 <= value <= most for value in curve.values.values())
    further = ("discrepancy", "robust_discrepancy") if name in IMAGES else ("unstable", "unstable_epochs")
    assert curve.variable.removesuffix("_history") in (*ERRORS, *ALIGNMENTS, *further)
    assert len(curve.source) > 10


@pytest.mark.parametrize("name", STUDIES)
def test_published_curves_are_given_once(name):
    keys = [(curve.variable, *sorted(curve.at.items())) for curve in STUDIES[name].published]
    assert len(set(keys)) == len(keys)


def test_every_defence_has_a_loss():
    for defence in defences.DEFENCES:
        assert callable(defences.loss_of(defence, lambda *example: None))


def test_find():
    for name, study in STUDIES.items():
        assert studies.find(name) is study


# ---- what a run gives ----


def to_run(names):
    """The names as parameters, those of `LANDING` marked."""
    return [pytest.param(name, marks=pytest.mark.ci if name in LANDING else ()) for name in names]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """name -> (study, settings, result) of its run at the scale "smoke"."""

    @functools.cache
    def run(name):
        study, out = STUDIES[name], tmp_path_factory.mktemp(name)
        settings = study.scales["smoke"]
        return study, settings, store.read(studies.run(study, settings, scale="smoke", seed=0, out=out))

    return run


@pytest.fixture(scope="module", params=to_run(name for name in STUDIES if name not in IMAGES or name in PICTURED))
def finished(request, run_once):
    return run_once(request.param)


@pytest.fixture(scope="module", params=to_run(COMPARING))
def compared(request, run_once):
    return run_once(request.param)


@pytest.fixture(scope="module", params=to_run(THEORY))
def predicted(request, run_once):
    return run_once(request.param)


@pytest.fixture(scope="module", params=to_run(PICTURED))
def pictured(request, run_once):
    return run_once(request.param)


def ok(result, name):
    """Values of the ok cells, as a flat array."""
    return result[name].where(result["status"] == "ok").values.ravel()


@pytest.mark.slow
def test_run_is_complete(finished):
    study, settings, result = finished
    assert result.attrs["complete"] is True
    assert (result.attrs["study"], result.attrs["scale"], result.attrs["seed"]) == (study.name, "smoke", 0)
    assert result.attrs["claim"] == study.claim
    assert set(study.notes(settings)) <= set(result.attrs)
    counts = trials.count_by_status(result)
    assert set(counts) <= {"ok", "not_run"}
    grid = study.grid(settings)
    per_row = len(grid.axes[grid.inner]) if grid.inner else 1
    assert counts["ok"] == per_row * sum(len(grid.rows(block)) for block in grid.blocks())


@pytest.mark.slow
def test_names_are_those_of_the_contract(compared):
    study, settings, result = compared
    grid = study.grid(settings)
    cells = (*grid.axes, "trial")
    assert {*ERRORS, *ALIGNMENTS, "unstable", "status"} <= set(result.data_vars)
    for name in (*ERRORS, *ALIGNMENTS, "unstable"):
        assert result[name].dims[: len(cells)] == cells
        assert {f"{name}_se_test", f"{name}_sem"} <= set(result.data_vars)
    for name in map(str, result.data_vars):
        if name.endswith("_sem"):
            assert "trial" not in result[name].dims
            assert name.removesuffix("_sem") in result
        if name.endswith("_history"):
            assert result[name].dims == (*cells, "epoch")
    for axis, values in grid.axes.items():
        np.testing.assert_array_equal(result[axis].values, np.array(values, result[axis].dtype))


@pytest.mark.slow
def test_values_are_in_their_range(compared):
    _, _, result = compared
    done = (result["status"] == "ok").values
    for name in (*ERRORS, "unstable"):
        values = result[name].values[done]
        assert ((values >= 0) & (values <= 1)).all()
    for name in ALIGNMENTS:
        values = ok(result, name)
        # A cosine in single precision.
        assert np.nanmax(np.abs(values)) <= 1 + 1e-5
        undefined = ok(result, f"{name}_undefined")
        np.testing.assert_array_equal(np.isnan(values), ~(undefined < 1))
    for name in (str(name) for name in result.data_vars if str(name).endswith(("_sem", "_se_test"))):
        assert not (result[name].values < 0).any()


@pytest.mark.slow
def test_errors_are_ordered(compared):
    """Wrong at x implies wrong somewhere in the set, which implies not proven right on it."""
    _, _, result = compared
    standard, robust, certified = (ok(result, name) for name in ERRORS)
    # Shares of the same examples, each rounded once to single precision.
    assert not (robust < standard - 1e-6).any()
    assert not (certified < robust - 1e-6).any()


@pytest.mark.slow
def test_training_learns_something(compared):
    """The defences are run in earnest: some cell is clearly better than guessing."""
    _, _, result = compared
    assert np.nanmin(ok(result, "standard_error")) < 0.25


@pytest.mark.slow
def test_trials_differ_and_defences_share_them(compared):
    _, _, result = compared
    assert result["trial"].size > 1
    first, second = (result["alignment_gradient"].isel(trial=trial).values for trial in (0, 1))
    both = np.isfinite(first) & np.isfinite(second)
    assert (first[both] != second[both]).any()
    # Before training every defence has the same network on the same data.
    if "standard_error_history" in result:
        start = result["standard_error_history"].sel(epoch=0).where(result["status"] == "ok")
        spread = (start.max("defence") - start.min("defence")).values
        np.testing.assert_array_equal(spread[np.isfinite(spread)], 0)


@pytest.mark.slow
def test_verdict(finished):
    study, _, result = finished
    verdict = study.verdict(result)
    assert isinstance(verdict.held, bool)
    assert verdict.sentence
    assert "\n" not in verdict.sentence
    assert "nan" not in verdict.sentence
    assert str(verdict).startswith("held: " if verdict.held else "not held: ")


@pytest.mark.slow
@pytest.mark.parametrize("kept", [{"defence": ["coap"]}, {"trial": [0]}, {"epsilon": slice(0, 1)}])
def test_verdict_of_too_little_data(compared, kept):
    """A verdict says what is missing, and never holds for want of data."""
    study, _, result = compared
    part = result.isel(kept) if "epsilon" in kept else result.sel(kept)
    verdict = study.verdict(part)
    # Three claims are not about the gap between defences.
    if "trial" in kept or ("defence" in kept and study.name not in ("unstable", "selection", "gap-report")):
        assert not verdict.held
    assert "\n" not in verdict.sentence


@pytest.mark.slow
def test_figure_and_gallery(finished, tmp_path):
    study, _, result = finished
    assert isinstance(study.figure(result, study.published), Figure)
    studies.draw([study], {study.name: result}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md",
        "published.md",
        "data",
        f"{study.name}.svg",
        f"{study.name}.png",
    }
    index = (tmp_path / "README.md").read_text()
    assert study.claim in index
    assert str(study.verdict(result)) in index
    assert f"simulator run {study.name} --scale smoke --seed 0" in index


@pytest.mark.slow
def test_comparison_and_summary(compared):
    study, _, result = compared
    table = studies.comparison(study, result)
    np.testing.assert_allclose(
        table["difference"].astype(float), (table["measured"] - table["published"]).astype(float)
    )
    assert set(table["study"]) <= {study.name}
    for row in table.itertuples():
        assert 0 <= row.measured <= 1
        assert row.trials == result["trial"].size
    summary = studies.summary(result)
    # A row per combination of the axes at which any trial was run, and per value of what the errors have besides.
    run = int((result["status"] != "not_run").any("trial").sum())
    further = set(result["robust_error"].dims) - set(result["status"].dims)
    assert len(summary) == run * int(np.prod([result[name].size for name in further]))
    assert {"robust_error", "robust_error_sem", "trials"} <= set(summary.columns)
    assert not summary["robust_error"].isna().any()


@pytest.mark.slow
def test_same_seed_gives_the_same_numbers_in_parts(compared, tmp_path):
    """One defence and one trial alone: the settings left out change no number of those kept."""
    study, settings, result = compared
    defence = str(result["defence"].values[-1])
    few = studies.override(settings, {"defence": defence, "trials": 1})
    grid = study.grid(few)
    part = sweep.run(grid, study.cell(few), jr.key(0))
    whole = result.sel(defence=[defence], trial=[0])
    for name in ERRORS:
        # The same program on the same numbers, but compiled for another number of rows.
        np.testing.assert_allclose(part[name].values, whole[name].values, atol=0.05)
    start = "standard_error_history"
    if start in result:
        np.testing.assert_array_equal(part[start].sel(epoch=0), whole[start].sel(epoch=0))


# ---- theory under a simulation ----


@pytest.mark.slow
def test_predictions_lie_beside_what_they_predict(predicted):
    study, settings, result = predicted
    cells = (*study.grid(settings).axes, "trial")
    theories = [name for name in map(str, result.data_vars) if name.endswith(("_theory", "_limit"))]
    assert {"standard_error", "robust_error"} <= {name.rpartition("_")[0] for name in theories}
    for name in ("standard_error", "robust_error", *theories):
        assert result[name].dims == cells
        assert np.isfinite(ok(result, name)).all()
    for name in theories:
        if name.startswith(("standard_error", "robust_error")):
            values = ok(result, name)
            assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.slow
def test_a_theory_study_finds_what_it_predicts_only_there(predicted):
    """The same result with the simulated errors of another place is no agreement."""
    study, _, result = predicted
    shuffled = result.copy()
    for name in ("standard_error", "robust_error", "derivative"):
        if name in result:
            shuffled[name] = (result[name].dims, 1 - result[name].values)
    assert not study.verdict(shuffled).held


@pytest.mark.slow
@pytest.mark.parametrize(
    "kept", [{"epsilon": slice(0, 1)}, {"trial": slice(0, 1)}, {"share": slice(0, 1)}, {"dim": slice(0, 1)}]
)
def test_verdict_of_theory_on_too_little_data(predicted, kept):
    study, _, result = predicted
    part = result.isel(kept, missing_dims="ignore")
    sentence = study.verdict(part).sentence
    assert sentence
    assert "nan" not in sentence


# ---- images ----


@pytest.mark.slow
def test_networks_of_images_are_examined_whole(pictured):
    _, settings, result = pictured
    standard, robust, certified = (ok(result, name) for name in ERRORS)
    assert np.isfinite(certified).all()
    assert not (robust < standard - 1e-6).any()
    assert not (certified < robust - 1e-6).any()
    assert np.nanmin(standard) < 0.3
    for method in settings.certify:
        assert not (ok(result, f"certified_error_{method}") < certified - 1e-6).any()
    # A bound is above what an attack reached by rounding at most.
    assert np.max(ok(result, "excess")) < 1e-4
    for name in map(str, result.data_vars):
        if name.startswith("alignment_") and not name.endswith("_sem"):
            assert np.nanmax(np.abs(ok(result, name))) <= 1 + 1e-5
    assert (ok(result, "best_epoch") >= 1).all()
    assert (ok(result, "train_seconds") > 0).all()
    assert set(result["cascade"].values) <= set(image_evaluation.CASCADE)


@pytest.mark.slow
def test_trials_of_images_differ_and_say_what_they_are_of(pictured):
    _, settings, result = pictured
    first, second = (result["train_loss"].isel(trial=trial).values for trial in (0, 1))
    assert (first != second).all()
    if "digits" in settings.images:
        assert re.fullmatch("digits: 1442 \\+ 355 images, SHA-256 [0-9a-f]{64}", result.attrs[store.FILES])


@pytest.mark.slow
@pytest.mark.parametrize("kept", [{"defence": ["ibp"]}, {"defence": ["adversarial"]}])
def test_verdict_of_too_few_defences_of_images(pictured, kept):
    study, _, result = pictured
    verdict = study.verdict(result.sel(kept))
    assert not verdict.held
    assert "needs" in verdict.sentence


@pytest.mark.parametrize("name", [name for name in IMAGES if name not in SHIPPED])
def test_a_data_set_that_is_not_there_is_asked_for(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMULATOR_DATA", str(tmp_path / "nothing"))
    study = STUDIES[name]
    image_data.loaded.cache_clear()
    with pytest.raises(images.ImageDataError, match="get it by simulator images fetch"):
        studies.run(study, study.scales["smoke"], scale="smoke", seed=0, out=tmp_path)
    # Nothing is left behind that a later run would take for its own.
    assert not store.path_of(tmp_path, name).exists()
