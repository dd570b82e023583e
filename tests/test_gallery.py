"""The committed gallery: every figure, verdict and number of it comes from the data that lie beside it."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from simulator import store, studies
from simulator.studies import STUDIES

FIGURES = Path(__file__).parent.parent / "figures"
GALLERIES = {"default": FIGURES, "paper": FIGURES / "paper"}
"""Scale -> the folder of its figures, tables and data."""


def names(scale):
    return [name for name in STUDIES if store.archive_of(GALLERIES[scale] / "data", name).exists()]


KEPT = [(scale, name) for scale in GALLERIES for name in names(scale)]


@pytest.fixture(scope="module", params=KEPT, ids="-".join)
def kept(request):
    """(scale, study, its committed result)."""
    scale, name = request.param
    return scale, STUDIES[name], store.read(store.archive_of(GALLERIES[scale] / "data", name))


def test_every_study_is_kept_and_those_of_the_papers_at_their_scale():
    assert names("default") == list(STUDIES)
    assert {"l2-budget", "segments", "budget", "margin"} <= set(names("paper"))


def test_figures_were_drawn_from_the_data_beside_them(kept):
    scale, study, result = kept
    wanted = studies.about(study, result)
    assert wanted in (GALLERIES[scale] / f"{study.name}.svg").read_text()
    assert wanted.encode() in (GALLERIES[scale] / f"{study.name}.png").read_bytes()


def test_figures_can_be_drawn_again_from_the_data(kept):
    _, study, result = kept
    study.figure(result, study.published).draw_without_rendering()


def test_data_are_those_of_the_scale_they_say(kept):
    scale, study, result = kept
    assert result.attrs["complete"] is True
    assert result.attrs["numbers"] == study.numbers
    assert result.attrs["scale"] == scale
    path = store.archive_of(GALLERIES[scale] / "data", study.name)
    expected = store.provenance(study.name, study.scales[scale].as_dict(), 0, study.numbers, "float32")
    assert {name: result.attrs[name] for name in store.IDENTITY} == {name: expected[name] for name in store.IDENTITY}
    assert path.stat().st_size < 5e6


@pytest.mark.parametrize("scale", GALLERIES)
def test_tables_say_what_the_data_say(scale):
    folder = GALLERIES[scale]
    there = [(STUDIES[name], store.read(store.archive_of(folder / "data", name))) for name in names(scale)]
    assert (folder / "README.md").read_text() == studies.index_text(there)
    assert (folder / "published.md").read_text() == studies.published_text(there)


def test_provenance_is_of_a_commit(kept):
    _, _, result = kept
    assert re.fullmatch("[0-9a-f]{7,40}", result.attrs["commit"])


# ---- the comparison with published values ----


def toy(measured, published):
    """A study of one published curve, and two trials of a result around `measured`."""
    curve = studies.Published("robust_error", {"defence": "coap"}, "epsilon", {1.0: published}, "Somebody, Fig 1")
    base = STUDIES["budget"]
    study = dataclasses.replace(base, name="toy", published=(curve,), remarks=lambda result: ["They rounded."])
    values = [[[measured - 0.01, measured + 0.01]]]
    result = xr.Dataset(
        {
            "robust_error": (("defence", "epsilon", "trial"), values),
            "status": (("defence", "epsilon", "trial"), np.full((1, 1, 2), "ok", object)),
        },
        {"defence": np.array(["coap"], object), "epsilon": [1.0], "trial": [0, 1]},
        {"scale": "paper"},
    )
    return study, result


@pytest.mark.parametrize(("published", "words"), [(0.315, "-1.5"), (0.275, "**+2.5**"), (0.3, "+0.0")])
def test_differences_beyond_two_standard_errors_are_bold(published, words):
    text = studies.published_text([toy(0.3, published)])
    # The standard error of two trials 0.02 apart is 0.01.
    assert f"| 0.300 ± 0.010 | {published:.3f} | {0.3 - published:+.3f} | {words} |" in text
    assert f"{int('*' in words)} of 1 values differ" in text
    assert "- They rounded." in text


def test_a_study_without_published_values_has_no_table():
    study, result = toy(0.3, 0.3)
    assert "toy" not in studies.published_text([(dataclasses.replace(study, published=()), result)])


# ---- archives ----


def test_an_archive_holds_the_result_and_the_same_result_gives_the_same_bytes(tmp_path):
    result = store.read(store.archive_of(FIGURES / "data", "signal-directed"))
    for name in ("one", "two"):
        store.archive(result, tmp_path / f"{name}.zarr.zip")
    again = store.read(tmp_path / "one.zarr.zip")
    xr.testing.assert_identical(again, result)
    assert store.digest(again) == store.digest(result)
    assert (tmp_path / "one.zarr.zip").read_bytes() == (tmp_path / "two.zarr.zip").read_bytes()


def test_the_digest_tells_values_names_and_dimensions():
    base = xr.Dataset({"a": (("x",), [1.0, 2.0])})
    others = [
        xr.Dataset({"a": (("x",), [1.0, 2.5])}),
        xr.Dataset({"b": (("x",), [1.0, 2.0])}),
        xr.Dataset({"a": (("y",), [1.0, 2.0])}),
    ]
    assert store.digest(base) == store.digest(base.copy(deep=True).assign_attrs(seed=3))
    assert len({store.digest(one) for one in (base, *others)}) == 4


def test_a_store_is_preferred_to_an_archive(tmp_path):
    assert store.locate(tmp_path, "toy") == tmp_path / "toy.zarr"
    (tmp_path / "toy.zarr.zip").write_bytes(b"")
    assert store.locate(tmp_path, "toy") == tmp_path / "toy.zarr.zip"
    (tmp_path / "toy.zarr").mkdir()
    assert store.locate(tmp_path, "toy") == tmp_path / "toy.zarr"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_a_damaged_archive_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "toy.zarr.zip").write_bytes(content)
    with pytest.raises(store.StoreError, match="is not a readable result store"):
        store.read(tmp_path / "toy.zarr.zip")
