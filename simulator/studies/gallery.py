"""The gallery: figures of finished studies, the comparison with published values, and an index made from the data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from simulator import plots, store, trials
from simulator.studies.registry import STUDIES
from simulator.studies.settings import SettingsError
from simulator.studies.study import Published, Study

COMPARISON = (
    "study",
    "variable",
    "defence",
    "where",
    "measured",
    "sem",
    "trials",
    "published",
    "difference",
    "difference_sem",
    "source",
)

DATA = "data"
"""The folder, beside the figures, of the results they were drawn from."""


def draw(chosen: Sequence[Study], results: Mapping[str, xr.Dataset], folder: Path, known: Sequence[Study] = ()) -> None:
    """Write each study's figure as SVG and PNG, its result as one file, and the tables made from all results.

    These are `README.md`, the index, and `published.md`, every published value beside ours.  They also list those of
    the `known` studies whose results lie in the folder since an earlier run.
    """
    listed = {study.name: study for study in (*known, *chosen)}
    kept = {name: store.archive_of(folder / DATA, name) for name in listed}
    for study in chosen:
        result = results[study.name]
        store.archive(result, kept[study.name])
        figure = study.figure(result, study.comparable(result))
        plots.save(figure, folder / study.name, about(study, result), alt(study, result))
    there = [(study, store.read(kept[name])) for name, study in listed.items() if kept[name].exists()]
    (folder / "README.md").write_text(index_text(there))
    (folder / "published.md").write_text(published_text(there))


def alt(study: Study, result: xr.Dataset) -> str:
    """What the figure of a result shows, for those who cannot see it: axes, curves, defences, and the verdict."""
    defences = [plots.look(str(name)).label for name in result["defence"].values] if "defence" in result else []
    named = [f"Defences: {', '.join(defences)}."] if defences else []
    beside = ["Open markers: published values."] if study.comparable(result) else []
    held = "held" if study.verdict(result).held else "not held"
    return " ".join([study.shows or study.claim, *named, *beside, f"Verdict: {held}."])


def animate(study: Study, out: Path, folder: Path) -> Path:
    """Write a study's animation as GIF, from its result in `out`.

    Raises `SettingsError` if it has none, or if the result is of other numbers than the study's now.
    """
    if study.film is None:
        with_one = [name for name, known in STUDIES.items() if known.film is not None]
        raise SettingsError(f"{study.name} has no animation; the studies with one are {', '.join(with_one)}")
    path = store.locate(out, study.name)
    result = store.read(path)
    if result.attrs["numbers"] != study.numbers:
        raise SettingsError(f"{path} is of an older version of {study.name}: run it again to animate it")
    plots.save_film(study.film(result), folder / f"{study.name}.gif")
    return folder / f"{study.name}.gif"


Results = Sequence[tuple[Study, xr.Dataset]]


def index_text(results: Results) -> str:
    """The text of the gallery's index."""
    return _INDEX + "\n".join(_entry(*one) for one in results)


def published_text(results: Results) -> str:
    """The text in which every published value stands beside ours."""
    tables = [_against_published(study, comparison(study, result), result) for study, result in results]
    return _PUBLISHED + "\n".join(text for text in tables if text)


_INDEX = """# Gallery

Written by `simulator reproduce`; every verdict is computed from the data of its run. Every published value stands
beside ours in [published.md](published.md).

"""
_PUBLISHED = """# Published values beside ours

Written by `simulator reproduce`. Measured: mean ± standard error over trials; of a single trial that over its test
examples, where it was recorded. Last column: the difference in standard
errors of a difference between two means, ours and the published one, whose trials are taken to vary as ours do;
**bold** beyond 2 (and beyond the 0.002 to which figures could be digitised).

"""
READ_TO = 0.002
"""How exactly published errors could be read off their figures."""


def _against_published(study: Study, table: pd.DataFrame, result: xr.Dataset) -> str:
    """The published values of one study as a table, how many agree, and the remarks; "" if it has none."""
    if table.empty:
        return ""
    rows, apart, unknown = [], 0, int(table["difference_sem"].isna().sum())
    for row in table.itertuples():
        known = row.difference_sem > 0
        # Without any spread between trials every difference is one; of an unknown spread nothing can be said.
        away = abs(row.difference) / row.difference_sem if known else np.inf * abs(row.difference)
        beyond = away > 2 and abs(row.difference) > READ_TO and not np.isnan(row.difference_sem)
        apart += beyond
        words = f"{row.difference / row.difference_sem:+.1f}" if known else "-"
        numbers = f"{with_spread(row.measured, row.sem)} | {row.published:.3f} | {row.difference:+.3f}"
        rows.append(
            f"| {row.variable} | {row.defence} | {row.where} | {numbers} | {f'**{words}**' if beyond else words} |"
        )
    remarks = study.remarks(result)
    count = result["trial"].size
    counted = f"{count} trial{'s' * (count > 1)}; {apart} of {len(rows)} values differ"
    without = f", {unknown} have no standard error" if unknown else ""
    lines = [
        f"## {study.name}",
        "",
        f"Scale {result.attrs['scale']}, {counted}{without}. Source: {'; '.join(dict.fromkeys(table['source']))}.",
        "",
        *(f"- {remark}" for remark in remarks),
        *([""] if remarks else []),
        "| variable | defence | where | measured | published | difference | in s.e. |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def with_spread(mean: float, sem: float) -> str:
    """A mean with its standard error, or alone where that is not known."""
    return f"{mean:.3f}" if np.isnan(sem) else f"{mean:.3f} ± {sem:.3f}"


def about(study: Study, result: xr.Dataset) -> str:
    """What a figure keeps of the data it was drawn from."""
    return f"numbers {study.numbers}, data {store.digest(result)}"


def _entry(study: Study, result: xr.Dataset) -> str:
    attributes = result.attrs
    scale, seed, commit = (attributes[name] for name in ("scale", "seed", "commit"))
    notes = [f"  - {name.replace('_', ' ')}: {attributes[name]}" for name in _NOTES if name in attributes]
    lines = [
        f"## {study.name}",
        "",
        f"![{alt(study, result)}]({study.name}.png)",
        "",
        f"- Claim: {study.claim}",
        f"- Verdict: **{study.verdict(result)}**",
        f"- Command: `simulator run {study.name} --scale {scale} --seed {seed}`, then `simulator plot {study.name}`",
        f"- Provenance: commit {commit}, scale {scale}, seed {seed}, {attributes['precision']}, "
        f"cells {', '.join(f'{count} {status}' for status, count in trials.count_by_status(result).items())}",
        *notes,
        "",
    ]
    return "\n".join(lines)


_NOTES = ("files", "recipes", "coap_trained_by", "attack", "certified_by", "selection", "interval")


def comparison(study: Study, result: xr.Dataset) -> pd.DataFrame:
    """Every published value the grid contains: measured mean over trials, its standard error, and the difference.

    A published mean has a sampling error too.  Where its trials vary as ours do, with standard deviation s, the
    difference between means of T and of T' trials has the standard error s sqrt(1/T + 1/T') = sem sqrt(1 + T/T').
    Of a single trial s is the standard error over its test examples, which leaves out how trainings vary.
    Along "epoch" the measured history is interpolated linearly between its records.
    """
    rows = []
    for curve in study.comparable(result):
        mean, _, count = trials.over_trials(result, curve.variable)
        spread = trials.uncertainty(result, curve.variable)
        statistics = [one.sel(curve.at).astype(float) for one in (mean, spread, count)]
        for value, published in curve.values.items():
            found = _at(statistics, curve.along, value)
            if found is not None:
                labels = (study.name, curve.variable, curve.at["defence"], _where(curve, value))
                measured, sem, ours = found
                of_difference = sem * (1 + ours / curve.trials) ** 0.5
                rows.append((*labels, *found, published, measured - published, of_difference, curve.source))
    return pd.DataFrame(rows, columns=COMPARISON)


def _at(statistics: list[xr.DataArray], along: str, value: float) -> tuple[float, ...] | None:
    """Mean, standard error and number of trials at one published point; None if the grid does not reach it."""
    known = statistics[0][along].values
    if value in known:
        return tuple(float(one.sel({along: value})) for one in statistics)
    if along == "epoch" and known.min() <= value <= known.max():
        return tuple(float(np.interp(value, known, one.values)) for one in statistics)
    return None


def _where(curve: Published, value: float) -> str:
    where = {name: at for name, at in {**curve.at, curve.along: value}.items() if name != "defence"}
    return ", ".join(f"{name}={at:g}" if isinstance(at, (int, float)) else f"{name}={at}" for name, at in where.items())


def summary(result: xr.Dataset) -> pd.DataFrame:
    """Mean and standard error over trials of every variable, one row per cell of the grid (and per epoch, or learning
    rate, where the errors have that dimension)."""
    axes = [name for name in result["status"].dims if name != "trial"]
    columns: dict[str, xr.DataArray] = {}
    for name, variable in result.data_vars.items():
        extra = set(variable.dims) - set(result["robust_error"].dims)
        if "trial" not in variable.dims or name == "status" or extra or str(name).endswith(("_history", "_se_test")):
            continue
        columns[str(name)], columns[f"{name}_sem"], _ = trials.over_trials(result, str(name))
    columns["trials"] = (result["status"] == "ok").sum("trial")
    table = xr.Dataset(columns)
    frame = table.to_dataframe(dim_order=[*axes, *(dim for dim in table.dims if dim not in axes)]).reset_index()
    return frame[frame["trials"] > 0]
