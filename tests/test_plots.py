"""Figures from synthetic results: no training, only what each plot expects of a Dataset."""

import threading

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from simulator import plots, studies
from simulator.plots import figures
from simulator.studies import attribution, gap_report, selection

DEFENCES = ("standard", "adversarial", "coap")
EPOCHS = (0, 5, 10)


def filled(axes, extra, variables, *, ok=0.8, seed=0):
    """A result over `axes` with random values in [0, 1] and a share of about `ok` ok cells; NaN in the others."""
    rng = np.random.default_rng(seed)
    shape = [len(values) for values in axes.values()]
    status = np.where(rng.random(shape) < ok, "ok", rng.choice(["diverged", "failed", "not_run"], shape)).astype(object)
    gone = status != "ok"
    data = {"status": (tuple(axes), status)}
    for name, dims in variables.items():
        values = rng.random((*shape, *(len(extra[dim]) for dim in dims)))
        values[gone] = np.nan
        data[name] = ((*axes, *dims), values)
    coords = {name: np.array(values, object if isinstance(values[0], str) else None) for name, values in axes.items()}
    return xr.Dataset(data, {**coords, **{name: list(values) for name, values in extra.items()}})


def alignment_result(defences=DEFENCES, tasks=("spheres", "linear"), epsilons=(0.1, 1.0), trials=3, ok=0.8):
    axes = {"task": tasks, "defence": defences, "epsilon": epsilons, "trial": range(trials)}
    histories = ("alignment_attack", "alignment_dual", "robust_error", "standard_error")
    variables = {f"{name}_history": ("epoch",) for name in histories}
    variables |= {"robust_error": (), "alignment_attack_samples": ("sample",)}
    return filled(axes, {"epoch": EPOCHS, "sample": range(20)}, variables, ok=ok)


def signal_directed_result(defences=DEFENCES, ns=(50, 1000), epsilons=(3.0, 5.5), trials=3, ok=0.8):
    axes = {
        "defence": defences,
        "n": ns,
        "batch": (0, 10),
        "epsilon": epsilons,
        "learning_rate": (0.1, 0.01),
        "momentum": (0.0, 0.95),
        "trial": range(trials),
    }
    variables = {"standard_error": ("epoch",), "robust_error": ("epoch",)}
    return filled(axes, {"epoch": (50, 100)}, variables, ok=ok)


def picture_result(defences=DEFENCES, tasks=("circles", "lines"), epsilons=(0.2, 0.9), trials=3, ok=0.8):
    axes = {"task": tasks, "defence": defences, "epsilon": epsilons, "trial": range(trials)}
    side = np.linspace(-3, 3, 9)
    variables = {"margin_map": ("v", "u"), "sample_attack": ("xy",), "sample_dual": ("xy",)}
    variables |= {"standard_error": (), "robust_error": ()}
    result = filled(axes, {"u": side, "v": side, "xy": (1, 2)}, variables, ok=ok)
    # Regions with a border, as of a network.
    result["margin_map"] = result["margin_map"] - 0.5
    return result.assign(exhibits(tasks))


ERRORS = ("standard_error", "robust_error", "certified_error", "unstable")


def l2_budget_result(defences=DEFENCES, tasks=("spheres", "linear"), epsilons=(3.0, 5.0), trials=3, ok=0.8):
    axes = {"task": tasks, "defence": defences, "n": (50,), "dim": (1000,), "epsilon": epsilons, "trial": range(trials)}
    return filled(axes, {}, dict.fromkeys(ERRORS, ()), ok=ok)


def segments_result(defences=DEFENCES, inners=(1.0, 5.0), epsilons=(3.0, 5.0), trials=3, ok=0.8):
    axes = {"defence": defences, "n": (500,), "dim": (10,), "inner": inners, "margin": (20.0,), "k": (1, 5, 10)}
    axes |= {"epsilon": epsilons, "trial": range(trials)}
    return filled(axes, {}, dict.fromkeys(ERRORS, ()), ok=ok)


def unstable_result(defences=DEFENCES, figures=("5b", "7a"), epsilons=(3.0, 5.0), trials=3, ok=0.8):
    axes = {"figure": figures, "defence": defences, "n": (500,), "dim": (10,), "inner": (1.0, 5.0), "margin": (20.0,)}
    axes |= {"k": (1, 10), "epsilon": epsilons, "trial": range(trials)}
    variables = {"unstable_epochs": (), "unstable_history": ("epoch",), "dead_history": ("epoch",)}
    return filled(axes, {"epoch": EPOCHS}, variables, ok=ok)


def dimension_result(defences=DEFENCES, ns=(20, 50), epsilons=(3.0, 5.0), trials=3, ok=0.8):
    axes = {"threat": ("ball", "signal"), "defence": defences, "n": ns, "dim": (10, 100, 1000), "epsilon": epsilons}
    alignments = ("alignment_attack", "alignment_dual", "alignment_layer")
    return filled(axes | {"trial": range(trials)}, {}, dict.fromkeys(("robust_error", *alignments), ()), ok=ok)


def threat_shape_result(shapes=("signal", "orthogonal"), **changes):
    parts = [l2_budget_result(**changes).expand_dims(shape=np.array([name], object)) for name in shapes]
    return xr.concat(parts, "shape")


def optimisation_result(defences=DEFENCES, problems=("spheres", "linear"), epsilons=None, trials=3, ok=0.8):
    del epsilons
    axes = {"problem": problems, "defence": defences, "width": (100, 10), "batch": (0, 10), "epsilon": (1.0, 4.5)}
    axes |= {"learning_rate": (0.1, 0.01), "momentum": (0.95, 0.0), "init_scale": (1.0, 0.1), "trial": range(trials)}
    variables = {"standard_error": ("epoch",), "robust_error": ("epoch",)}
    return filled(axes, {"epoch": (50, 150, 500)}, variables, ok=ok)


def selection_result(**changes):
    result = l2_budget_result(**changes)
    rng, dims = np.random.default_rng(2), (*result["status"].dims, "learning_rate")
    names = {name for rule in selection.RULES.values() for name in rule}
    values = {name: (dims, rng.random((*result["status"].shape, 3))) for name in sorted(names)}
    return xr.Dataset({"status": result["status"], **values}, {**result.coords, "learning_rate": [0.1, 0.01, 0.001]})


def deep_result(defences=DEFENCES, depths=(1, 2), epsilons=(0.3, 1.0), trials=3, ok=0.8):
    axes = {"task": ("spheres",), "depth": depths, "width": (10, 100), "defence": defences, "n": (50,), "dim": (100,)}
    names = (*ERRORS, "looseness")
    return filled(axes | {"epsilon": epsilons, "trial": range(trials)}, {}, dict.fromkeys(names, ()), ok=ok)


def gap_report_result(defences=DEFENCES, tasks=("spheres", "linear"), epsilons=(4.0, 5.0), trials=3, ok=0.8):
    axes = {"task": tasks, "shape": ("ball", "signal"), "defence": defences, "n": (50,), "dim": (100,)}
    variables = {f"{name}_history": ("epoch",) for name in gap_report._HISTORIES}
    result = filled(axes | {"epsilon": epsilons, "trial": range(trials)}, {"epoch": EPOCHS}, variables, ok=ok)
    # No attack knows the exact loss of a ball, and some budgets are beyond all radii.
    result["loss_exact_history"].loc[{"shape": "ball"}] = np.nan
    result["budget_coap_history"].loc[{"epoch": EPOCHS[1], "trial": 0}] = np.inf
    return result


def attribution_result(defences=DEFENCES, tasks=("spheres", "linear"), epsilons=(4.0, 5.0), trials=3, ok=0.8):
    axes = {"task": tasks, "shape": ("ball", "signal"), "defence": defences, "n": (50,), "dim": (100,)}
    variables = {"robust_error": (), "arm_robust_error": ("arm",)}
    arms = list(attribution.ARMS)
    result = filled(axes | {"epsilon": epsilons, "trial": range(trials)}, {"arm": arms}, variables, ok=ok)
    result["arm_robust_error"].loc[{"shape": "signal", "arm": arms[1:]}] = np.nan
    return result


PREDICTED = ("alignment", "standard_error", "robust_error")
THEORY = {f"{name}{suffix}": () for name in PREDICTED for suffix in ("", "_theory", "_limit")}


def maximum_margin_result(defences=None, epsilons=(0.0, 3.0, 5.0), shares=(1.0,), trials=3, ok=0.8):
    axes = {"n": (50, 200), "dim": (1000,), "share": shares, "epsilon": epsilons, "trial": range(trials)}
    return filled(axes, {}, THEORY, ok=ok)


def interpolation_result(defences=None, epsilons=(0.0, 0.05), trials=3, ok=0.8):
    axes = {"ratio": (1.5, 4.0), "penalty": (0.0, 0.1), "epsilon": epsilons, "trial": range(trials)}
    return filled(axes, {}, THEORY, ok=ok)


def one_neuron_result(defences=DEFENCES[1:], slopes=(2.0, 10.0), epsilons=(0.3, 0.6, 0.9), trials=3, ok=0.8):
    axes = {"defence": defences, "slope": slopes, "spread": (0.3, 1.0, 3.0, 12.0), "epsilon": epsilons}
    names = ("robust_error", "robust_error_theory", "theorem", "proof", "sharp")
    result = filled(axes | {"trial": range(trials)}, {}, dict.fromkeys(names, ()), ok=ok)
    return result.assign(
        {name: result[name].where(result["status"] != "ok", result["spread"] > 1) for name in names[2:]}
    )


def asymptotics_result(defences=None, epsilons=None, models=("separable", "mixture", "features"), trials=3, ok=0.8):
    axes = {"model": models, "dim": (100, 300, 1000), "trial": range(trials)}
    return filled(axes, {}, {name: () for name in THEORY if not name.endswith("_theory")}, ok=ok)


def exhibits(tasks):
    rng = np.random.default_rng(1)
    image = {"image": (("row", "column"), rng.random((28, 28))), "image_label": ((), 1)}
    image["image_delta"] = (("row", "column"), rng.normal(size=(28, 28)))
    image["image_confidence"] = (("version", "class"), np.array([[0.1, 0.9], [0.7, 0.3]]))
    for task in tasks:
        image |= {
            f"{task}_x": (("point", "xy"), rng.normal(size=(10, 2))),
            f"{task}_y": (("point",), np.array([-1, 1] * 5)),
            f"{task}_sample": (("xy",), rng.normal(size=2)),
            f"{task}_signal": (("xy",), np.array([1.0, 0.0])),
        }
    return image


# Enough for most tests: a panel costs as much time as everything else.
SMALL = {
    "alignment": {"tasks": ("spheres",)},
    "picture": {"tasks": ("circles",)},
    "signal-directed": {"ns": (50,)},
    "l2-budget": {"tasks": ("linear",)},
    "segments": {"inners": (1.0,)},
    "unstable": {"figures": ("5b",)},
    "dimension": {"ns": (20,)},
    "threat-shape": {"shapes": ("signal",)},
    "optimisation": {"problems": ("spheres",)},
    "selection": {"tasks": ("linear",)},
    "deep": {"depths": (1, 2)},
    "gap-report": {"tasks": ("linear",)},
    "attribution": {"tasks": ("linear",)},
    "theory-directed": {},
    "share-along-signal": {"shares": (0.0, 1.0)},
    "theory-interpolation": {},
    "one-neuron": {"slopes": (2.0,)},
    "asymptotics": {"models": ("mixture",)},
}
RESULTS = {
    "alignment": alignment_result,
    "signal-directed": signal_directed_result,
    "picture": picture_result,
    "l2-budget": l2_budget_result,
    "segments": segments_result,
    "unstable": unstable_result,
    "dimension": dimension_result,
    "threat-shape": threat_shape_result,
    "optimisation": optimisation_result,
    "selection": selection_result,
    "deep": deep_result,
    "gap-report": gap_report_result,
    "attribution": attribution_result,
    "theory-directed": maximum_margin_result,
    "share-along-signal": maximum_margin_result,
    "theory-interpolation": interpolation_result,
    "one-neuron": one_neuron_result,
    "asymptotics": asymptotics_result,
}
STYLED = ("picture", "segments", "one-neuron")
"""Those that the quick suite saves twice; `make test-all` does it with all."""
CHANGES = {
    "everything ok": {"ok": 1},
    "some cells are not ok": {},
    "one trial": {"trials": 1, "ok": 1},
    "one radius": {"epsilons": (1.0,)},
    "standard training only": {"defences": ("standard",)},
    "certified training only": {"defences": ("coap", "ibp", "crown-ibp")},
    "a defence of one's own": {"defences": ("adversarial", "mine")},
    "no cell is ok": {"ok": 0},
}


def draw(name, **changes):
    study = studies.STUDIES[name]
    return study.figure(RESULTS[name](**changes), study.published)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", RESULTS)
def test_figures_draw_without_a_warning(name, change):
    figure = draw(name, **SMALL[name], **CHANGES[change])
    assert isinstance(figure, Figure)
    # Layout included, but no pixels.
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in STYLED else pytest.mark.slow) for n in RESULTS])
def test_figures_are_independent_of_the_readers_style(name, tmp_path):
    small = {"defences": ("adversarial", "coap"), "epsilons": (1.0,)}
    expected = [path.read_bytes() for path in plots.save(draw(name, **small), tmp_path / "plain")]
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 20, "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        found = [path.read_bytes() for path in plots.save(draw(name, **small), tmp_path / "styled")]
        assert dict(mpl.rcParams) == before
    assert found == expected


def test_one_thread_at_a_time_has_the_style():
    """Else the first to leave would take it from those who still draw."""
    inside, may_leave, seen = threading.Event(), threading.Event(), []

    def first():
        with plots.styled():
            inside.set()
            may_leave.wait(60)

    def second():
        with plots.styled():
            seen.append(may_leave.is_set())
            with plots.styled():  # one's own again, as figures within figures
                seen.append(mpl.rcParams["axes.spines.top"])

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    threads[1].join(0.2)
    may_leave.set()
    for thread in threads:
        thread.join(60)
    assert seen == [True, False]
    assert mpl.rcParams["axes.spines.top"]


def test_one_task_that_failed_does_not_lose_the_other():
    result = alignment_result(ok=1)
    result["status"].loc[{"task": "spheres"}] = "diverged"
    figures.alignment(result).draw_without_rendering()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("alignment", {"tasks": ("linear",)}),
        ("alignment", {"tasks": ("linear", "spheres")}),
        ("picture", {"tasks": ("lines",)}),
        ("signal-directed", {"ns": (20,)}),
    ],
)
def test_tasks_and_sample_sizes_are_free(name, change):
    draw(name, **change).draw_without_rendering()


def test_figures_show_means_of_ok_cells():
    result = signal_directed_result(ns=(50,), ok=1)
    result["robust_error"].loc[{"trial": 0}] = 0.9
    result["status"].loc[{"trial": 0}] = "failed"
    figure = figures.signal_directed(result)
    axes = next(axes for axes in figure.axes if axes.get_title() == "robust error, n = 50")
    base = result["robust_error"].isel(batch=0, learning_rate=0, momentum=0, epoch=-1, n=0, trial=slice(1, None))
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    for defence in DEFENCES:
        np.testing.assert_allclose(drawn[plots.look(defence).label], base.sel(defence=defence).mean("trial"))


def test_published_values_are_drawn_as_open_markers():
    study = studies.STUDIES["signal-directed"]
    figure = study.figure(signal_directed_result(), study.published)
    axes = next(axes for axes in figure.axes if axes.get_title() == "robust error, n = 50")
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    curves = [one for one in study.published if one.variable == "robust_error"]
    assert len(hollow) == len(curves) == 3
    for line, curve in zip(hollow, curves, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), list(curve.values.values()))
    other = next(axes for axes in figure.axes if axes.get_title() == "robust error, n = 1000")
    assert not [line for line in other.lines if line.get_markerfacecolor() == "none"]


def test_predictions_are_lines_and_simulations_markers():
    result = maximum_margin_result(ok=1)
    axes = studies.STUDIES["theory-directed"].figure(result, ()).axes[2]
    first = result.sel(n=50, dim=1000, share=1.0)
    drawn = {line.get_linestyle(): line.get_ydata() for line in axes.lines[:2]}
    np.testing.assert_allclose(drawn["-"], first["robust_error_theory"].mean("trial"))
    np.testing.assert_allclose(drawn[":"], first["robust_error_limit"].mean("trial"))
    np.testing.assert_allclose(axes.containers[0].lines[0].get_ydata(), first["robust_error"].mean("trial"))


def test_the_gap_and_its_parts_are_drawn_with_their_intervals():
    result = attribution_result(("adversarial", "coap"), tasks=("linear",), ok=1)
    ball, signal = studies.STUDIES["attribution"].figure(result, ()).axes
    here = attribution.parts(result).sel(task="linear", shape="ball", n=50, dim=100)
    gap = (result["robust_error"].sel(defence="coap") - result["robust_error"].sel(defence="adversarial")).sel(
        task="linear", shape="ball", n=50, dim=100
    )
    np.testing.assert_allclose(ball.containers[0].lines[0].get_ydata(), gap.mean("trial"))
    # Two degrees of freedom.
    (bars,) = ball.containers[0].lines[2]
    half = np.diff(np.array(bars.get_segments())[:, :, 1])[:, 0] / 2
    np.testing.assert_allclose(half, 4.302653 * gap.std("trial", ddof=1) / 3**0.5, rtol=1e-6)
    np.testing.assert_allclose(ball.containers[2].lines[0].get_ydata(), here["direction"].mean("trial"))
    assert len(ball.containers) == 5
    assert [text.get_text() for text in ball.texts] == []
    assert len(signal.containers) == 3
    assert "not applicable: direction" in signal.texts[0].get_text()


def test_budgets_are_drawn_in_units_of_epsilon_where_there_are_any():
    result = gap_report_result(("coap",), tasks=("linear",), ok=1)
    axes = studies.STUDIES["gap-report"].figure(result, ()).axes[1]
    (drawn,) = (line for line in axes.lines if line.get_label() == plots.look("coap").label)
    expected = (
        result["budget_coap_history"].sel(task="linear", shape="ball", epsilon=5.0).mean("trial").values.ravel() / 5
    )
    np.testing.assert_allclose(drawn.get_ydata(), np.where(np.isfinite(expected), expected, np.nan))
    assert np.isnan(drawn.get_ydata()[1])


def test_defences_that_share_a_theory_share_its_line():
    result = l2_budget_result(tasks=("linear",), ok=1)
    theory = result["robust_error"].copy()
    theory.loc[{"defence": "adversarial"}] = theory.sel(defence="coap")
    theory.loc[{"defence": "adversarial", "epsilon": 3.0}] = np.nan
    figure = studies.STUDIES["l2-budget"].figure(result.assign(robust_error_theory=theory), ())
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines if "theory" in line.get_label()}
    assert set(lines) == {"linear theory, ST", "linear theory, AT, COAP"}
    alone = result.assign(robust_error_theory=xr.ones_like(theory))
    labels = [line.get_label() for line in studies.STUDIES["l2-budget"].figure(alone, ()).axes[1].lines]
    assert labels.count("linear theory") == 1


# ---- the look ----


def test_defences_are_told_apart():
    looks = [plots.look(name) for name in studies.STUDIES["alignment"].scales["paper"].defence]
    for part in ("label", "color", "marker", "dash"):
        assert len({getattr(one, part) for one in looks}) == len(looks)


def test_unknown_defence_has_a_look_of_its_own():
    mine = plots.look("mine")
    assert mine.label == "mine"
    known = plots.DEFENCES.values()
    assert mine.color not in {one.color for one in known}
    assert mine.marker not in {one.marker for one in known}


def test_curve_draws_mean_and_band():
    axes = Figure().subplots()
    plots.curve(axes, "coap", [1, 2], np.array([0.2, 0.4]), np.array([0.1, np.nan]))
    (line,), (band,) = axes.lines, axes.collections
    assert (line.get_label(), line.get_marker(), line.get_color()) == ("COAP", "D", "#D55E00")
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.1, 0.3))


# ---- files ----


def simple_figure():
    with plots.styled():
        figure = Figure()
        axes = figure.subplots()
        axes.plot([1, 2], [3, 4], label="a curve")
        axes.set_title("a readable title")
        axes.legend()
    return figure


def test_save_writes_the_same_bytes_every_time(tmp_path):
    first = plots.save(simple_figure(), tmp_path / "one" / "figure")
    second = plots.save(simple_figure(), tmp_path / "two" / "figure")
    assert [path.name for path in first] == ["figure.svg", "figure.png"]
    assert all(path.is_file() for path in first)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [path.read_bytes() for path in plots.save(simple_figure(), tmp_path / "one" / "figure")] == [
        path.read_bytes() for path in second
    ]


def test_files_hold_no_date_and_no_version(tmp_path):
    svg, png = (path.read_bytes() for path in plots.save(simple_figure(), tmp_path / "figure"))
    assert b"<dc:date>" not in svg
    assert b"Matplotlib" not in svg
    assert b"Software" not in png
    assert b"tIME" not in png
    assert png.startswith(b"\x89PNG")


def test_the_svg_says_what_it_shows(tmp_path):
    svg, png = plots.save(simple_figure(), tmp_path / "figure", "about", "A line that rises & falls.")
    assert "<title>A line that rises &amp; falls.</title>" in svg.read_text()
    assert png.read_bytes() == plots.save(simple_figure(), tmp_path / "silent", "about")[1].read_bytes()


def test_svg_text_stays_text(tmp_path):
    svg = plots.save(simple_figure(), tmp_path / "figure")[0].read_text()
    assert "a readable title</text>" in svg
    assert "a curve</text>" in svg


def test_name_with_a_point_keeps_it(tmp_path):
    assert [path.name for path in plots.save(simple_figure(), tmp_path / "epsilon=0.5")] == [
        "epsilon=0.5.svg", "epsilon=0.5.png",
    ]  # fmt: skip


def offsets_of(axes):
    """Where a panel's open markers, the published values, lie."""
    return [tuple(line.get_ydata()) for line in axes.lines if line.get_markerfacecolor() == "none"]


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_errors_stand_in_as_many_columns_as_asked_for(columns):
    study, result = studies.STUDIES["l2-budget"], RESULTS["l2-budget"]()
    figure = study.in_columns(result, columns)
    figure.draw_without_rendering()
    assert len({axes.get_subplotspec().colspan.start for axes in figure.axes}) == min(columns, 5)
    drawn = study.in_columns(result, 5)
    assert len(figure.axes) == len(drawn.axes)
    # Broken into lines, every panel needs its title; one line per task has them at its top.
    assert len([axes for axes in figure.axes if axes.get_title()]) == (len(figure.axes) if columns < 5 else 5)
    # Whose row it is stands at the left of every line.
    first = [axes for axes in figure.axes if axes.get_subplotspec().colspan.start == 0]
    assert {axes.get_ylabel() for axes in first} == set(result["task"].values)
    narrow = figure.get_size_inches()[0]
    assert narrow <= 3.4 or columns > 1


@pytest.mark.parametrize(
    ("name", "columns", "said"), [("picture", 1, "one arrangement"), ("budget", 0, "columns is 0")]
)
def test_columns_that_cannot_be_are_refused(name, columns, said):
    with pytest.raises(studies.SettingsError, match=said):
        studies.STUDIES[name].in_columns(RESULTS["l2-budget"](), columns)


@pytest.mark.parametrize(
    ("name", "number"), [("l2-budget", 7), ("alignment", 8), ("signal-directed", 6), ("dimension", 2)]
)
def test_a_panel_stands_alone_with_the_words_it_shared(name, number, tmp_path):
    study, result = studies.STUDIES[name], RESULTS[name]()
    figure = study.figure(result, study.published)
    plots.save(figure, tmp_path / "alone", panel=number)
    seen = [axes for axes in figure.axes if axes.get_visible()]
    maps = [axes for axes in seen if axes.images]
    assert len(seen) <= 2 if maps else len(seen) == 1
    assert seen[0].get_title()
    assert name != "dimension" or seen[0].get_title().startswith("AT: robust error\n")
    assert seen[0].get_xlabel()
    assert (seen[0].get_legend() is None) == bool(maps)
    assert not any(legend.get_visible() for legend in figure.legends)
    # About as wide as the panel is drawn, text included.
    width = mpl.image.imread(tmp_path / "alone.png").shape[1] / 150
    assert width < 0.7 * figure.get_figwidth()
    assert width < 7


@pytest.mark.parametrize("number", [0, 11])
def test_a_panel_that_is_not_there_is_refused(number, tmp_path):
    study, result = studies.STUDIES["l2-budget"], RESULTS["l2-budget"]()
    with pytest.raises(plots.PanelError, match=f"panel is {number}: the figure has the panels 1 to 10"):
        plots.save(study.figure(result, study.published), tmp_path / "alone", panel=number)
    assert not list(tmp_path.iterdir())


def test_errors_show_the_published_curves_of_their_row_alone():
    study = studies.STUDIES["l2-budget"]
    figure = study.figure(l2_budget_result(ok=1), study.published)
    rows = [figure.axes[:5], figure.axes[5:10]]
    assert [axes[0].get_ylabel() for axes in rows] == ["spheres", "linear"]
    # Robust errors are published for the linear data alone.
    assert [len(offsets_of(axes[1])) for axes in rows] == [0, 3]
    assert (0.003, 0.020, 0.132, 0.376, 0.644) in offsets_of(rows[1][1])


def test_errors_are_drawn_at_the_last_value_of_the_other_axes():
    result = segments_result(ok=1, inners=(1.0,))
    figure = studies.STUDIES["segments"].figure(result, ())
    (drawn,) = (line for line in figure.axes[1].lines if line.get_label() == plots.look("coap").label)
    expected = result["robust_error"].sel(defence="coap", epsilon=5.0).mean("trial").values.ravel()
    np.testing.assert_allclose(drawn.get_ydata(), expected)
    assert list(drawn.get_xdata()) == [1, 5, 10]


def test_gaps_are_paired_and_have_bars_of_two_standard_errors():
    result = segments_result(ok=1, inners=(1.0,), defences=("adversarial", "coap"))
    axes = studies.STUDIES["segments"].figure(result, ()).axes[4]
    robust = result["robust_error"].sel(epsilon=5.0)
    gap = (robust.sel(defence="coap") - robust.sel(defence="adversarial")).squeeze(drop=True)
    (container,) = axes.containers
    np.testing.assert_allclose(container.lines[0].get_ydata(), gap.mean("trial"))
    segments = np.array(container.lines[2][0].get_segments())
    np.testing.assert_allclose(np.diff(segments[:, :, 1])[:, 0], 4 * gap.std("trial", ddof=1) / 3**0.5)


def test_examples_vectors_and_regions_in_the_plane():
    figure = Figure()
    axes = figure.add_subplot()
    x, y = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), np.array([1, -1, 1])
    plots.points(axes, x, y)
    inner, outer = axes.collections
    np.testing.assert_allclose(inner.get_offsets(), x[[0, 2]])
    np.testing.assert_allclose(outer.get_offsets(), x[[1]])
    assert [mpl.colors.to_hex(one.get_facecolor()[0]).upper() for one in (inner, outer)] == [plots.INNER, plots.OUTER]
    assert [one.get_label() for one in (inner, outer)] == ["y = +1", "y = −1"]
    plots.arrow(axes, x[0], np.array([0.5, -0.5]), plots.SIGNAL)
    (arrow,) = axes.texts
    assert (arrow.xyann, arrow.xy) == ((0.0, 1.0), (0.5, 0.5))


def test_a_region_is_the_sign_of_the_margin():
    figure = Figure()
    axes = figure.add_subplot()
    side = np.linspace(-1, 1, 21)
    # Positive in the upper half: margin is [v, u].
    plots.region(axes, side, side, np.repeat(side[:, None] - 0.05, 21, axis=1))
    filled = axes.collections[0]
    heights = [path.vertices[:, 1] for path in filled.get_paths()]
    assert [mpl.colors.to_hex(color).upper() for color in filled.get_facecolor()] == [plots.OUTER, plots.INNER]
    np.testing.assert_allclose([heights[0].min(), heights[0].max()], [-1, 0.05], atol=1e-6)
    np.testing.assert_allclose([heights[1].min(), heights[1].max()], [0.05, 1], atol=1e-6)
