"""What a study is: a falsifiable claim, the grid that tests it, the published values, the figure and the verdict."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure

from simulator import sweep
from simulator.plots import Film
from simulator.studies.settings import Settings, SettingsError

SCALES = ("smoke", "default", "paper")
"""smoke: seconds, for tests; default: what `reproduce` runs; paper: the published settings."""


@dataclass(frozen=True)
class Verdict:
    """Whether the data of a run support the study's claim, with the number that decides it."""

    held: bool
    sentence: str

    def __str__(self) -> str:
        return f"{'held' if self.held else 'not held'}: {self.sentence}"


@dataclass(frozen=True)
class Published:
    """A published curve, for comparison only: never an input of a run."""

    variable: str
    at: Mapping[str, Any]
    """Where it lies in the study's grid, besides `along`."""
    along: str
    values: Mapping[float, float]
    source: str
    trials: int
    """Of how many trials its values are means, whose spread was not published in numbers."""


@dataclass(frozen=True)
class Study:
    """A named experiment.  Define one in your own file and run it by `simulator run path/to/file.py:name`."""

    name: str
    claim: str
    """One falsifiable sentence."""
    scales: Mapping[str, Settings]
    """Settings by scale; all three of `SCALES`."""
    grid: Callable[[Any], sweep.Grid]
    """Settings -> the axes and how to walk them."""
    cell: Callable[[Any], sweep.Cell]
    """Settings -> `cell(coords, key) -> {name: scalar or small array}`."""
    figure: Callable[[xr.Dataset, Sequence], Figure]
    """(result, published curves) -> figure."""
    verdict: Callable[[xr.Dataset], Verdict]
    notes: Callable[[Any], Mapping[str, str]] = lambda settings: {}
    """How its numbers were obtained: attack, bounds, selection rule, interval; stored as attributes."""
    files: Callable[[Any], str] = lambda settings: ""
    """What the study reads from files, by digests: a store made from other data is refused."""
    published: tuple[Published, ...] = ()
    remarks: Callable[[xr.Dataset], Sequence[str]] = lambda result: ()
    """Where the published values differ from ours and why: sentences with the numbers of this result that show it."""
    exhibits: Callable[[Any, PRNGKeyArray], xr.Dataset] | None = None
    """Variables that do not vary over the grid, such as the training points a figure draws."""
    shows: str = ""
    """What its figure shows, for those who cannot see it: panels, axes and curves."""
    film: Callable[[xr.Dataset], Film] | None = None
    """Result -> the animation of the study, if it has one."""
    core: bool = False
    """Whether `simulator reproduce` runs it without `--all`."""
    numbers: int = field(default=1)
    """Raise this whenever a change of the code changes the study's numbers: older stores are then refused."""

    def comparable(self, result: xr.Dataset) -> tuple[Published, ...]:
        """The published curves at coordinates that a result has: the others are of another setting."""

        def has(name: str, value: Any) -> bool:
            return name in result.dims and value in result[name].values

        return tuple(curve for curve in self.published if all(has(*at) for at in curve.at.items()))

    def in_columns(self, result: xr.Dataset, columns: int) -> Figure:
        """Its figure with so many panels side by side: one for the column of a paper, at its natural size.

        Raises `SettingsError` if there are none, or if the figure has one arrangement only.
        """
        figure: Any = self.figure
        if "columns" not in inspect.signature(figure).parameters:
            raise SettingsError(f"the figure of {self.name} has one arrangement: leave out --columns")
        if columns < 1:
            raise SettingsError(f"columns is {columns}: give at least 1")
        return figure(result, self.comparable(result), columns=columns)
