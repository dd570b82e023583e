"""Settings of a study: frozen dataclasses whose fields are axes (tuples) and numbers, all overridable as text.

One syntax everywhere, on the command line and in TOML files: `100,1000` is a list, `1:6:11` is 11 evenly spaced values
from 1 to 6, and both mix: `0.5,1:3:5`.
"""

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from simulator.metrics import CHUNK

MOST_VALUES = 1_000_000
"""The longest axis accepted."""


MOST = 2**31 - 1
"""The largest whole number accepted: sizes and indices are 32-bit integers in the compiled programs."""


class SettingsError(ValueError):
    """Settings that cannot be used, in one sentence: what was given, what is allowed, what to do."""


def setting(
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Collection | Callable[[], Collection] = (),
    above: float | None = None,
) -> Any:
    """A dataclass field with its meaning and what is allowed: low <= value <= high, value > above, or a choice.

    Choices given as a function are asked for at every check: those of a table that others add rows to.
    """
    return dataclasses.field(metadata={"help": help, "low": low, "high": high, "choices": choices, "above": above})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every study has; subclasses add their axes and numbers."""

    trials: int = setting("independent repetitions: fresh data and initialisation", low=1)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for one in value if isinstance(value, tuple) else (value,):
                _check(field.name, one, field.metadata)
            if isinstance(value, tuple):
                _check_axis(field.name, value)
        self.check()

    def check(self) -> None:
        """Conditions between fields; raise `SettingsError`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for the provenance of a store."""
        items = dataclasses.asdict(self).items()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in items}


def check_test_size(name: str, count: int) -> None:
    """Raise `SettingsError` unless a number of test examples comes in whole chunks."""
    if count > CHUNK and count % CHUNK:
        raise SettingsError(f"{name} is {count}, but must be a multiple of {CHUNK}, or smaller than it")


def _check(name: str, value: Any, rule: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} is {value}, but must be a finite number")
    if isinstance(value, int) and abs(value) > MOST:
        raise SettingsError(f"{name} is {value}, but whole numbers go up to {MOST}")
    _check_choice(name, value, rule.get("choices", ()))
    if rule.get("low") is not None and value < rule["low"]:
        raise SettingsError(f"{name} is {value}, but must be at least {rule['low']}")
    if rule.get("above") is not None and value <= rule["above"]:
        raise SettingsError(f"{name} is {value}, but must be greater than {rule['above']}")
    if rule.get("high") is not None and value > rule["high"]:
        raise SettingsError(f"{name} is {value}, but must be at most {rule['high']}")


def _check_choice(name: str, value: Any, choices: Collection | Callable[[], Collection]) -> None:
    allowed = [*(choices() if callable(choices) else choices)]
    if allowed and value not in allowed:
        near = difflib.get_close_matches(str(value), [str(one) for one in allowed], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"{name} is {value!r}, but must be one of {', '.join(map(str, allowed))}{hint}")


def _check_axis(name: str, values: tuple) -> None:
    if not values:
        raise SettingsError(f"{name} has no values: give at least one")
    if len(set(values)) != len(values):
        raise SettingsError(f"{name} repeats a value in {list(values)}: give each value once")


def override(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Settings with some fields replaced; a value is text in the syntax above, or already of the field's type.

    Raises `SettingsError` for an unknown name or a value that is not allowed.
    """
    types = typing.get_type_hints(type(settings))
    known = [field.name for field in dataclasses.fields(settings)]
    parsed = {}
    for given, value in changes.items():
        name = given.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"there is no setting {given!r}; the settings are {', '.join(known)}{hint}")
        parsed[name] = _parse(name, value, types[name])
    return dataclasses.replace(settings, **parsed)


def _parse(name: str, value: Any, kind: Any) -> Any:
    axis = typing.get_origin(kind) is tuple
    scalar = typing.get_args(kind)[0] if axis else kind
    parts = value if isinstance(value, (list, tuple)) else [value]
    values = [one for part in parts for one in _values(name, part, scalar, axis)]
    if not axis and len(values) != 1:
        raise SettingsError(f"{name} is {value!r}, but takes a single {_word(scalar)}")
    return tuple(values) if axis else values[0]


def _values(name: str, part: Any, scalar: type, axis: bool) -> list:
    if not isinstance(part, str):
        return [_scalar(name, part, scalar)]
    if not axis:
        return [_scalar(name, part.strip(), scalar)]
    return [
        value
        for piece in part.split(",")
        for value in (
            _spaced(name, piece, scalar)
            if ":" in piece and scalar is not str
            else [_scalar(name, piece.strip(), scalar)]
        )
    ]


def _spaced(name: str, text: str, scalar: type) -> list:
    pieces = text.split(":")
    if len(pieces) != 3:
        raise SettingsError(f"{name} has {text!r}, but a range is start:stop:count, for example 1:6:11")
    start, stop = (_scalar(name, piece.strip(), float) for piece in pieces[:2])
    count = _scalar(name, pieces[2].strip(), int)
    if not 1 <= count <= MOST_VALUES:
        raise SettingsError(f"{name} asks for {count} values, but a range has between 1 and {MOST_VALUES}")
    step = (stop - start) / max(count - 1, 1)
    # Rounded to 12 digits so that 0:1:11 gives 0.3, not 0.30000000000000004, as a coordinate to select by.
    return [_scalar(name, float(f"{start + i * step:.12g}"), scalar) for i in range(count)]


def _scalar(name: str, value: Any, scalar: type) -> Any:
    try:
        if isinstance(value, bool) or (scalar is str and not isinstance(value, str)):
            raise ValueError
        if scalar is int:
            number = float(value)
            if number != int(number):
                raise ValueError
            return int(number)
        return scalar(value)
    except (ValueError, TypeError, OverflowError):
        raise SettingsError(f"{name} is {value!r}, but takes {_word(scalar)} values") from None


def _word(scalar: type) -> str:
    return {int: "whole-number", float: "number", str: "text"}[scalar]
