"""Statistics over trials: the one place where cells that are not ok are left out."""

import itertools
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtrit


def over_trials(result: xr.Dataset, name: str) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Mean over trials of the ok cells, its standard error (NaN for fewer than 2), and how many trials entered."""
    return _statistics(result[name].where(result["status"] == "ok"))


def interval(result: xr.Dataset, name: str, level: float = 0.95) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Mean over trials of the ok cells, half the width of its confidence interval by Student's t, and the count."""
    mean, sem, count = over_trials(result, name)
    quantile = stdtrit((count - 1).where(count > 1), (1 + level) / 2)
    return mean, sem * quantile, count


def paired_difference(result: xr.Dataset, name: str, **pairs: tuple) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over trials of name[first] - name[second] along one axis, and its standard error.

    `paired_difference(ds, "robust_error", defence=("coap", "adversarial"))`: the trials share data and initialisation,
    so what is common to both cells of a trial cancels.  With a pair along a second axis, the difference of the
    differences: how much the first grows.  Trials in which a cell is not ok are left out.
    """
    values = result[name].where(result["status"] == "ok")
    for axis, (first, second) in pairs.items():
        values = values.sel({axis: first}, drop=True) - values.sel({axis: second}, drop=True)
    mean, sem, _ = _statistics(values)
    return mean, sem


def uncertainty(result: xr.Dataset, name: str) -> xr.DataArray:
    """The standard error of a mean over trials; of a single trial that over its test examples, if it was recorded."""
    over_test = f"{name}_se_test"
    if result["trial"].size == 1 and over_test in result:
        return result[over_test].where(result["status"] == "ok").isel(trial=0, drop=True)
    return over_trials(result, name)[1]


def gap(result: xr.Dataset, name: str, defence: str, reference: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean of a defence minus that of the reference, and its standard error: paired over trials.

    Of a single trial it is that over the test examples, where the two errors are taken as independent although the
    examples are the same, which is on the safe side as long as they are not negatively correlated.
    """
    mean, sem = paired_difference(result, name, defence=(defence, reference))
    if result["trial"].size == 1:
        one, other = (uncertainty(result.sel(defence=which), name) for which in (defence, reference))
        sem = np.sqrt(one**2 + other**2)
    return mean, sem


def _statistics(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    count = values.notnull().sum("trial")
    some = count.where(count > 0)
    mean = values.sum("trial") / some
    # What is inf in one trial is inf on average, and its standard error no number.
    with np.errstate(invalid="ignore"):
        spread = ((values - mean) ** 2).sum("trial", skipna=True).where(np.isfinite(mean))
    return mean, np.sqrt(spread / (count - 1).where(count > 1) / some), count


def first_run(result: xr.Dataset, *names: str) -> xr.Dataset:
    """`result` at the first position along each named axis at which any cell was run (an axis it lacks is skipped)."""
    for name in names:
        if name in result.dims:
            others = [dim for dim in result["status"].dims if dim != name]
            result = result.isel({name: int((result["status"] != "not_run").any(others).values.argmax())})
    return result


def places(result: xr.Dataset, *names: str) -> list[dict[str, Any]]:
    """The combinations of values of some axes at which any cell was run, in the order of the axes named."""
    run = (result["status"] != "not_run").any([dim for dim in result["status"].dims if dim not in names])
    combinations = itertools.product(*(result[name].values for name in names))
    return [at for values in combinations if bool(run.sel(at := dict(zip(names, values, strict=True))))]


def least(result: xr.Dataset, along: str, score: str, tie_break: str) -> xr.DataArray:
    """In every cell the position along a dimension with the smallest score, ties by `tie_break`, then by order.

    NaN counts as the worst: the rule by which programs select (`metrics.select`), on a result.
    """
    first, second = (result[name].fillna(np.inf) for name in (score, tie_break))
    return second.where(first == first.min(along), np.inf).argmin(along)


def with_sem(result: xr.Dataset) -> xr.Dataset:
    """Add `<name>_sem`, the standard error over trials, for every variable but `status` and `*_se_test`."""
    names = [name for name in result.data_vars if "trial" in result[name].dims and name != "status"]
    extra = {f"{name}_sem": over_trials(result, name)[1] for name in names if not name.endswith(("_se_test", "_sem"))}
    return result.assign(extra)


def count_by_status(result: xr.Dataset) -> dict[str, int]:
    """How many cells have each status."""
    names, counts = np.unique(result["status"].values.astype(str), return_counts=True)
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
