"""The committed gallery: every figure, verdict and number of it comes from the data that lie beside it."""

import dataclasses
import html
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from simulator import store, studies, trials
from simulator.studies import STUDIES, attribution, l2_budget, modern_defences, optimisation, protocol, selection

FIGURES = Path(__file__).parent.parent / "figures"
GALLERIES = {"default": FIGURES, "paper": FIGURES / "paper"}
"""Scale -> the folder of its figures, tables and data."""


def names(scale):
    return [name for name in STUDIES if store.archive_of(GALLERIES[scale] / "data", name).exists()]


NOT_RUN = {f"images-{name}" for name in ("cifar10", "tiny-imagenet")}
"""Those whose results are not kept yet, as the README says."""
KEPT = [(scale, name) for scale in GALLERIES for name in names(scale)]


@pytest.fixture(scope="module", params=KEPT, ids="-".join)
def kept(request):
    """(scale, study, its committed result)."""
    scale, name = request.param
    return scale, STUDIES[name], store.read(store.archive_of(GALLERIES[scale] / "data", name))


def test_every_study_is_kept():
    assert names("default") == [name for name in STUDIES if name not in NOT_RUN]
    assert {"segments", "budget", "margin", "l2-budget"} <= set(names("paper"))


def test_figures_were_drawn_from_the_data_beside_them(kept):
    scale, study, result = kept
    wanted = studies.about(study, result)
    assert wanted in (GALLERIES[scale] / f"{study.name}.svg").read_text()
    assert wanted.encode() in (GALLERIES[scale] / f"{study.name}.png").read_bytes()


def test_figures_can_be_drawn_again_from_the_data(kept):
    _, study, result = kept
    figure = study.figure(result, study.comparable(result))
    figure.draw_without_rendering()
    # What is said to those who cannot see it names every axis there is.
    across = {label.strip() for axes in figure.axes if (label := axes.get_xlabel()) and "cos(" not in label}
    said = studies.alt(study, result)
    assert {label for label in across if label not in said} == set()


def test_figures_can_be_read_on_a_slide_and_on_a_page(kept):
    """Labels, titles and legends, in points, at the widths of a slide (13.3 inches) and of a page's text (6.75).

    What is written into the cells of a map, at its ticks or beside one example may be smaller."""
    _, study, result = kept
    figure = study.figure(result, study.comparable(result))
    figure.draw_without_rendering()
    texts = [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label, axes.title)]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    smallest = min(text.get_fontsize() for text in texts if text.get_text())
    least = {"picture": 0.68}.get(study.name, 1)  # its panels' titles are sentences
    for width, points in ((13.3, 9), (6.75, 4.75)):
        assert smallest * min(1, width / figure.get_size_inches()[0]) >= least * points


def test_drawings_have_text_for_text_and_say_what_they_show(kept):
    scale, study, result = kept
    drawing = (GALLERIES[scale] / f"{study.name}.svg").read_text()
    assert "<text" in drawing
    # Letters drawn as outlines are symbols named by their font.
    assert 'id="DejaVu' not in drawing
    title = html.unescape(re.search("<title>(.*?)</title>", drawing, re.DOTALL)[1])
    assert title == studies.alt(study, result)
    assert len(study.shows) > 100
    assert re.search(r"\. Verdict: (not )?held\.$", title)


def test_data_are_those_of_the_scale_they_say(kept):
    scale, study, result = kept
    assert result.attrs["complete"] is True
    assert result.attrs["numbers"] == study.numbers
    assert result.attrs["scale"] == scale
    path = store.archive_of(GALLERIES[scale] / "data", study.name)
    expected = store.provenance(study.name, study.scales[scale].as_dict(), 0, study.numbers, "float32")
    assert {name: result.attrs[name] for name in store.IDENTITY} == {name: expected[name] for name in store.IDENTITY}
    assert path.stat().st_size < 5e6


@pytest.mark.parametrize("scale", sorted({scale for scale, _ in KEPT}))
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
    curve = studies.Published("robust_error", {"defence": "coap"}, "epsilon", {1.0: published}, "Somebody, Fig 1", 2)
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


@pytest.mark.parametrize(("published", "words"), [(0.315, "-1.1"), (0.27, "**+2.1**"), (0.3, "+0.0")])
def test_differences_beyond_two_standard_errors_are_bold(published, words):
    text = studies.published_text([toy(0.3, published)])
    # The standard error of two trials 0.02 apart is 0.01, and so is that of the two published ones.
    assert f"| 0.300 ± 0.010 | {published:.3f} | {0.3 - published:+.3f} | {words} |" in text
    assert f"{int('*' in words)} of 1 values differ" in text
    assert "- They rounded." in text


@pytest.mark.parametrize("recorded", [True, False])
def test_a_single_trial_has_the_spread_of_its_test_examples_or_none(recorded):
    study, result = toy(0.3, 0.25)
    one = result.isel(trial=[0])
    if recorded:
        one["robust_error_se_test"] = one["robust_error"] * 0 + 0.02
    text = studies.published_text([(study, one)])
    # Two published trials: 0.02 sqrt(1 + 1/2) is the standard error of the difference.
    measured, words = ("0.290 ± 0.020", "+1.6") if recorded else ("0.290", "-")
    assert f"| {measured} | 0.250 | +0.040 | {words} |" in text
    assert f"1 trial; 0 of 1 values differ{'' if recorded else ', 1 have no standard error'}. Source" in text
    assert "nan" not in text


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


# ---- remarks with numbers of another study ----


def test_a_verdict_on_images_says_what_makes_a_comparison_unfair():
    study, result = STUDIES["images-digits"], store.read(store.archive_of(FIGURES / "data", "images-digits"))
    sentence = study.verdict(result).sentence
    # Where intervals and CROWN-IBP learn next to nothing, and COAP does.
    assert "; ibp on digits is hardly better than a constant classifier there" in sentence
    assert "coap on digits is hardly" not in sentence
    assert "not alike" not in sentence
    fewer = result.assign_attrs(coap_trained_by="50 random projections, an estimate; on 10000 images only")
    assert "; not alike: coap was trained by 50 random projections" in study.verdict(fewer).sentence


def test_the_remark_on_adversarial_training_says_what_the_study_it_names_found():
    best = optimisation.at_best_rate(store.read(store.archive_of(FIGURES / "data", "optimisation")))
    here = best.sel(problem="linear-ball", epsilon=4.5, defence="adversarial")
    found = {
        name: trials.over_trials(here.sel(at), "robust_error")[0] for name, at in optimisation.recipes(best).items()
    }

    def value(name, epoch=150):
        return f"{float(found[name].sel(epoch=epoch)):.3f}"

    numbers = [value("base"), value("base", 1500), value("width 10"), value("width 1000"), value("momentum 0")]
    numbers += [value("init_scale 0.1"), value("init_scale 3")]
    assert re.findall(r"0\.\d{3}", l2_budget.OPTIMISED) == [*numbers, "0.378"]
    # None of the others is past the published value, but for the batch whose attacks have no gradient.
    assert all(
        float(found[name].sel(epoch=150)) > 0.378 for name in found if name not in ("init_scale 0.1", "batch 10")
    )


# ---- the README ----


def gap(name, **at):
    """COAP minus adversarial robust error and its paired standard error, as the README writes them."""
    result = store.read(store.archive_of(FIGURES / "data", name)).sel(at)
    return written(*trials.paired_difference(trials.first_run(result, "n", "dim"), "robust_error", **protocol.PAIR))


def written(mean, sem):
    # Without the sign of a negative zero.
    return f"{round(float(mean), 2) + 0.0:+.2f} ± {float(sem):.2f}"


def recipes_on(problem):
    """The gap of the base recipe where the papers stopped, and name -> the gap of every recipe at the end."""
    best = optimisation.at_best_rate(store.read(store.archive_of(FIGURES / "data", "optimisation")))
    here = best.sel(problem=problem, epsilon=optimisation.PROBLEMS[problem].epsilon)
    found = {
        name: trials.paired_difference(here.sel(at), "robust_error", **protocol.PAIR)
        for name, at in optimisation.recipes(best).items()
    }
    early, late = (written(*(one.sel(epoch=epoch) for one in found["base"])) for epoch in (150, 1500))
    return early, late, {name: mean.sel(epoch=1500).item() for name, (mean, _) in found.items()}


def moved(rule):
    """How far a rule that selects the learning rate moves a mean robust error from where ours has it."""
    ruled = selection.by_rule(store.read(store.archive_of(FIGURES / "data", "selection")))
    difference, _ = trials.paired_difference(ruled, "robust_error", rule=(rule, selection.OURS))
    return f"{float(abs(difference).max()):.2f}"


def part_of_gap(name, **at):
    """A part of the gap in the study `attribution`, as the README writes it."""
    result = attribution.parts(store.read(store.archive_of(FIGURES / "data", "attribution")))
    mean, sem, _ = trials.over_trials(trials.first_run(result.sel(at), "n", "dim"), name)
    return written(mean, sem)


def modern(defence, **at):
    """The robust error of a mixture where it certifies most, minus adversarial training's."""
    result = store.read(store.archive_of(FIGURES / "data", "modern-defences")).sel(at)
    place = trials.first_run(result, "n", "dim")
    first = place.isel(coefficient=0, drop=True)
    mixed = modern_defences.most_certified(place, defence).drop_vars("coefficient")
    both = xr.concat([mixed, first.sel(defence="adversarial")], "defence")
    return written(*trials.paired_difference(both, "robust_error", defence=(defence, "adversarial")))


def relaxed(bound):
    """The robust error of training with a bound on the linear data at radius 5, minus adversarial training's."""
    result = store.read(store.archive_of(FIGURES / "data", "relaxations")).sel(task="linear", epsilon=5.0)
    place = trials.first_run(result, "n", "dim")
    return written(*trials.paired_difference(place, "robust_error", defence=(bound, "adversarial")))


def loose(bound):
    """How loose a bound is on the networks of adversarial training there."""
    result = store.read(store.archive_of(FIGURES / "data", "relaxations")).sel(task="linear", epsilon=5.0)
    place = trials.first_run(result, "n", "dim").sel(defence="adversarial", relaxation=bound)
    return f"{float(trials.over_trials(place, 'looseness_of')[0]):.2f}"


def readme_numbers():
    """What the README says of the data, by the place where it says it."""
    dimension = store.read(store.archive_of(FIGURES / "data", "dimension"))
    mean, sem = trials.paired_difference(dimension.sel(threat="ball"), "robust_error", **protocol.PAIR)
    ball_places = f"{int((mean > 2 * sem).sum())} of {mean.size}"
    mean, sem = trials.paired_difference(dimension.sel(threat="signal"), "robust_error", **protocol.PAIR)
    largest = np.unravel_index(int(np.nanargmax(mean.values)), mean.shape)
    early, late, recipes = recipes_on("spheres")
    least, most = min(recipes, key=recipes.get), max(recipes, key=recipes.get)
    linear_early, linear_late, _ = recipes_on("linear")
    segments = {"inner": 10.0, "margin": 20.0, "k": 10}
    return {
        "spheres": gap("l2-budget", task="spheres", epsilon=1.0),
        "small": gap("l2-budget", task="spheres", epsilon=0.1),
        "ball_places": ball_places,
        "signal": written(mean.values[largest], sem.values[largest]),
        "segments": gap("segments", epsilon=14.0, **segments),
        "published": gap("segments", epsilon=5.0, **segments),
        "along": gap("threat-shape", task="linear", shape="signal", epsilon=5.0),
        "across": gap("threat-shape", task="linear", shape="orthogonal", epsilon=5.0),
        "radial": gap("threat-shape", task="spheres", shape="signal", epsilon=1.0),
        "orthogonal": gap("threat-shape", task="spheres", shape="orthogonal", epsilon=1.0),
        "ball": gap("threat-shape", task="spheres", shape="ball", epsilon=1.0),
        "early": early,
        "late": late,
        "least": f"{recipes[least]:+.2f}",
        "least_name": least.replace("_", " "),
        "most": f"{recipes[most]:+.2f}",
        "most_name": most.replace("_", " "),
        "linear_early": linear_early,
        "linear_late": linear_late,
        "test_rule": moved(selection.PAPERS),
        "loss_rule": moved("training loss"),
        **{f"signal {name}": part_of_gap(name, **ALONG) for name in ("gap", "magnitude", "remainder")},
        **{f"spheres {name}": part_of_gap(name, **AROUND) for name in attribution.PARTS},
        "mixture": modern("mtl-ibp", **AROUND),
        "mixture_along": modern("mtl-ibp", **ALONG),
        **{bound: relaxed(bound) for bound in ("coap", "crown", "crown-one")},
        **{f"loose {bound}": loose(bound) for bound in ("coap", "crown", "crown-one")},
    }


ALONG = {"task": "linear", "shape": "signal", "epsilon": 4.5}
AROUND = {"task": "spheres", "shape": "ball", "epsilon": 1.0}


def test_the_readme_says_what_the_data_say():
    """Every number of its answers, in their order."""
    text = (FIGURES.parent / "README.md").read_text()
    answers = " ".join(text.partition("## What the data say")[2].partition("\n## ")[0].split())
    numbers = readme_numbers()
    order = (
        "spheres",
        "signal",
        "ball_places",
        "small",
        "segments",
        "published",
        "along",
        "across",
        "orthogonal",
        "radial",
        "ball",
    )
    order += ("linear_early", "linear_late", "early", "late", "least", "least_name", "most", "most_name")
    at = 0
    order += ("test_rule", "loss_rule", "signal gap", "signal magnitude", "signal remainder", "spheres gap")
    order += ("spheres magnitude", "spheres direction", "spheres remainder", "mixture", "mixture_along")
    for name in (*order, "coap", "loose coap", "crown", "loose crown", "crown-one", "loose crown-one"):
        found = answers.find(numbers[name], at)
        assert found >= 0, f"{name} is {numbers[name]}"
        at = found + len(numbers[name])


def test_the_readme_says_what_the_digits_say():
    text = " ".join((FIGURES.parent / "README.md").read_text().partition("\n## Images")[2].split())
    digits = store.read(store.archive_of(FIGURES / "data", "images-digits")).isel(images=0).sel(epsilon=0.5)
    gap, sem = (float(one) for one in trials.gap(digits, "robust_error", "coap", "adversarial"))
    proven = [
        float(trials.over_trials(digits.sel(defence=name), "certified_error")[0]) for name in ("coap", "adversarial")
    ]
    assert digits.sizes["trial"] == 10
    assert f"{gap:.3f} above adversarial training's (standard error {sem:.3f}, ten seeds)" in text
    assert "its certified error {:.3f} instead of {:.3f}".format(*proven) in text


def test_a_verdict_on_images_is_at_a_radius_where_adversarial_training_has_learnt_something():
    """A constant classifier may be a little better than chance: one class has more images."""
    study, result = STUDIES["images-digits"], store.read(store.archive_of(FIGURES / "data", "images-digits"))
    assert "at radius 0.5," in study.verdict(result).sentence
    nearly = (result["defence"] == "adversarial") & (result["epsilon"] == 0.5)
    worse = result.assign(robust_error=result["robust_error"].where(~nearly, 0.88))
    assert "at radius 0.25," in study.verdict(worse).sentence
    nowhere = result.assign(robust_error=result["robust_error"].where(result["defence"] != "adversarial", 0.88))
    assert "almost as by chance at every radius" in study.verdict(nowhere).sentence


def test_what_the_readme_says_of_planted_images_is_so():
    result = store.read(store.archive_of(FIGURES / "data", "images-planted")).sel(epsilon=0.45)
    adversarial, coap = (result.sel(defence=name).mean("trial") for name in ("adversarial", "coap"))
    assert float(adversarial["robust_error"].max()) <= 0.005 + 1e-6
    assert float(abs(coap["robust_error"] - adversarial["robust_error"]).max()) <= 0.002
    for side in (adversarial, coap):
        for vector in ("attack", "dual"):
            cosines = side[f"alignment_{vector}_planted"]
            assert 0.925 < float(cosines.min()) <= float(cosines.max()) < 0.955
    for name in ("crown-ibp", "ibp"):
        standard = result["standard_error"].sel(defence=name)
        assert (standard > 0.45).all()
        assert (result["robust_error"].sel(defence=name) == standard).all()


REAL = ("images-mnist", "images-fashion")
"""Studies of real images from files that are not shipped."""


@pytest.mark.parametrize("name", REAL)
def test_the_readme_says_what_the_real_images_say(name):
    """Its table, row by row: adversarial training beside COAP."""
    text = (FIGURES.parent / "README.md").read_text()
    result = store.read(store.archive_of(FIGURES / "data", name)).isel(images=0, trial=0)
    assert (result["status"] == "ok").all()
    for radius in result["epsilon"].values:
        here = result.sel(epsilon=radius)
        pairs = [
            " / ".join(f"{float(here[error].sel(defence=defence)):.3f}" for defence in ("adversarial", "coap"))
            for error in ("standard_error", "robust_error", "discrepancy", "certified_error")
        ]
        label = {"images-mnist": "MNIST", "images-fashion": "Fashion-MNIST"}[name]
        assert f"| {label}, {radius:g} | {' | '.join(pairs)} |\n" in text


@pytest.mark.parametrize("name", ["images-digits", "images-planted", *REAL])
def test_no_bound_was_above_a_margin_that_an_attack_reached(name):
    """The largest excess over all test images, of every network and every bound; margins are differences of logits."""
    result = store.read(store.archive_of(FIGURES / "data", name))
    assert float(result["excess"].max()) <= 1e-4
    assert result["excess"].notnull().all()
