"""The committed gallery: every figure, verdict and number of it comes from the data that lie beside it."""

import re
from pathlib import Path

import pytest
import xarray as xr

from simulator import store, studies
from simulator.studies import STUDIES

FIGURES = Path(__file__).parent.parent / "figures"
KEPT = sorted(file.name.removesuffix(".zarr.zip") for file in (FIGURES / "data").glob("*.zarr.zip"))


@pytest.fixture(scope="module", params=KEPT)
def kept(request):
    """(study, its committed result)."""
    return STUDIES[request.param], store.read(store.archive_of(FIGURES / "data", request.param))


def test_every_core_study_is_kept():
    assert {name for name, study in STUDIES.items() if study.core} <= set(KEPT)


def test_figures_were_drawn_from_the_data_beside_them(kept):
    study, result = kept
    wanted = studies.about(study, result)
    assert wanted in (FIGURES / f"{study.name}.svg").read_text()
    assert wanted.encode() in (FIGURES / f"{study.name}.png").read_bytes()


def test_figures_can_be_drawn_again_from_the_data(kept):
    study, result = kept
    study.figure(result, study.published).draw_without_rendering()


def test_data_are_those_of_the_scale_they_say(kept):
    study, result = kept
    assert result.attrs["complete"] is True
    assert result.attrs["numbers"] == study.numbers
    assert result.attrs["scale"] == "default"
    path = store.archive_of(FIGURES / "data", study.name)
    expected = store.provenance(study.name, study.scales["default"].as_dict(), 0, study.numbers, "float32")
    assert {name: result.attrs[name] for name in store.IDENTITY} == {name: expected[name] for name in store.IDENTITY}
    assert path.stat().st_size < 5e6


def test_index_says_what_the_data_say(kept):
    study, result = kept
    index = (FIGURES / "README.md").read_text()
    section = index.partition(f"## {study.name}\n")[2].partition("\n## ")[0]
    assert f"- Claim: {study.claim}\n" in section
    assert f"- Verdict: **{study.verdict(result)}**\n" in section


def test_index_lists_what_is_kept_and_nothing_else():
    assert re.findall(r"^## (.*)$", (FIGURES / "README.md").read_text(), re.MULTILINE) == [
        name for name in STUDIES if name in KEPT
    ]


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
