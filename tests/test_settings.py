"""The syntax of settings, from the command line and from TOML files."""

import dataclasses
import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import studies
from simulator.studies import Settings, SettingsError, override, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """One setting of every kind."""

    defence: tuple[str, ...] = setting("ways to train", choices=("standard", "adversarial", "coap"))
    epsilon: tuple[float, ...] = setting("radius", low=0, high=100)
    shift: tuple[float, ...] = setting("anything")
    width: tuple[int, ...] = setting("hidden neurons", low=1)
    rate: float = setting("learning rate", above=0)
    test_size: int = setting("test examples", low=1)
    selection: str = setting("rule", choices=("validation", "test"))

    def check(self):
        if self.test_size > 1000 * self.trials:
            raise SettingsError(f"test_size is {self.test_size}, but there are {self.trials} trials")


BASE = Example(
    trials=3,
    defence=("standard",),
    epsilon=(1.0,),
    shift=(0.0,),
    width=(10,),
    rate=0.1,
    test_size=500,
    selection="test",
)

GOOD = {
    "one number": ("epsilon", "0.5", (0.5,)),
    "whole number on a real axis": ("epsilon", "2", (2.0,)),
    "list": ("epsilon", "0.5,1,3", (0.5, 1.0, 3.0)),
    "list with spaces": ("epsilon", " 0.5 , 1 ", (0.5, 1.0)),
    "range": ("epsilon", "1:6:11", (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6)),
    "range of exact decimals": ("epsilon", "0:1:11", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
    "downwards": ("epsilon", "3:1:3", (3, 2, 1)),
    "range of one": ("epsilon", "2:5:1", (2,)),
    "mixed": ("epsilon", "0.5,1:3:5,10", (0.5, 1, 1.5, 2, 2.5, 3, 10)),
    "scientific": ("epsilon", "1e-3,2.5e1", (0.001, 25)),
    "negative": ("shift", "-1,-2.5", (-1, -2.5)),
    "range through zero": ("shift", "-1:1:3", (-1, 0, 1)),
    "order is kept": ("epsilon", "3,1,2", (3, 1, 2)),
    "whole numbers": ("width", "100,1000", (100, 1000)),
    "range of whole numbers": ("width", "10:30:3", (10, 20, 30)),
    "whole number in scientific form": ("width", "1e3", (1000,)),
    "whole number with a point": ("width", "100.0", (100,)),
    "choices": ("defence", "coap,standard", ("coap", "standard")),
    "single number": ("rate", "0.01", 0.01),
    "single whole number": ("test_size", "100", 100),
    "single choice": ("selection", "validation", "validation"),
    "dashes": ("test-size", "100", 100),
    "TOML list of numbers": ("epsilon", [0.5, 2], (0.5, 2.0)),
    "TOML list of numbers and ranges": ("epsilon", [0.5, "1:3:3"], (0.5, 1, 2, 3)),
    "TOML number for an axis": ("epsilon", 2, (2.0,)),
    "TOML whole numbers": ("width", [10, 20], (10, 20)),
    "TOML text for an axis": ("defence", "coap", ("coap",)),
    "TOML list of texts": ("defence", ["coap", "standard"], ("coap", "standard")),
    "TOML number": ("rate", 1, 1.0),
    "TOML list of one for a number": ("rate", [0.5], 0.5),
    "already typed": ("epsilon", (0.5, 2.0), (0.5, 2.0)),
}


@pytest.mark.parametrize("what", GOOD)
def test_accepted(what):
    name, given_value, expected = GOOD[what]
    found = getattr(override(BASE, {name: given_value}), name.replace("-", "_"))
    assert found == expected
    kinds = {int} if "width" in name or "test" in name else {float} if name in ("epsilon", "shift", "rate") else {str}
    assert {type(one) for one in (found if isinstance(found, tuple) else (found,))} == kinds


BAD = {
    "not a number": ("epsilon", "small", "epsilon is 'small', but takes number values"),
    "empty": ("epsilon", "", "epsilon is '', but takes number values"),
    "comma at the end": ("epsilon", "1,2,", "epsilon is ''"),
    "two commas": ("epsilon", "1,,2", "epsilon is ''"),
    "decimal comma and blank": ("epsilon", "1 5", "epsilon is '1 5'"),
    "empty list": ("epsilon", [], "epsilon has no values: give at least one"),
    "below": ("epsilon", "-0.1", "epsilon is -0.1, but must be at least 0"),
    "one of many below": ("epsilon", "1,2,-3", "epsilon is -3.0, but must be at least 0"),
    "range from below": ("epsilon", "-1:1:3", "epsilon is -1.0, but must be at least 0"),
    "above": ("epsilon", "101", "epsilon is 101.0, but must be at most 100"),
    "zero where positive": ("rate", "0", "rate is 0.0, but must be greater than 0"),
    "negative where positive": ("rate", "-0.1", "rate is -0.1, but must be greater than 0"),
    "NaN": ("epsilon", "nan", "epsilon is nan, but must be a finite number"),
    "NaN without limits": ("shift", "nan", "shift is nan, but must be a finite number"),
    "infinity": ("shift", "1,inf", "shift is inf, but must be a finite number"),
    "minus infinity": ("shift", "-inf", "shift is -inf, but must be a finite number"),
    "overflow": ("shift", "1e999", "shift is inf, but must be a finite number"),
    "NaN as TOML": ("rate", math.nan, "rate is nan, but must be a finite number"),
    "range to infinity": ("shift", "0:inf:3", "shift"),
    "range that overflows": ("shift", "-1e308:1e308:3", "shift"),
    "repeated": ("epsilon", "1,2,1", "epsilon repeats a value in [1.0, 2.0, 1.0]: give each value once"),
    "repeated in two forms": ("epsilon", "1,1.0", "epsilon repeats a value"),
    "repeated zeros": ("shift", "0,-0", "shift repeats a value"),
    "range that repeats": ("epsilon", "1:1:3", "epsilon repeats a value"),
    "list that meets its range": ("epsilon", "2,1:3:3", "epsilon repeats a value"),
    "repeated choice": ("defence", "coap,coap", "defence repeats a value"),
    "range without a count": ("epsilon", "1:3", "epsilon has '1:3', but a range is start:stop:count"),
    "range with four parts": ("epsilon", "1:3:5:7", "a range is start:stop:count, for example 1:6:11"),
    "range of none": ("epsilon", "1:3:0", "epsilon asks for 0 values, but a range has between 1 and 1000000"),
    "range of minus one": ("epsilon", "1:3:-1", "epsilon asks for -1 values"),
    "range too long": ("epsilon", "1:3:1000001", "epsilon asks for 1000001 values"),
    "range of half a value": ("epsilon", "1:3:2.5", "epsilon is '2.5', but takes whole-number values"),
    "range of words": ("epsilon", "a:b:3", "epsilon is 'a', but takes number values"),
    "range with a gap": ("epsilon", "1::3", "epsilon is ''"),
    "fraction for a whole number": ("width", "1.5", "width is '1.5', but takes whole-number values"),
    "range of fractions for whole numbers": ("width", "1:2:3", "width is 1.5, but takes whole-number values"),
    "NaN for a whole number": ("width", "nan", "width is 'nan', but takes whole-number values"),
    "infinity for a whole number": ("width", "inf", "width is 'inf', but takes whole-number values"),
    "zero for a size": ("width", "0", "width is 0, but must be at least 1"),
    "too large a whole number": ("test_size", "3e9", "test_size is 3000000000, but whole numbers go up to 2147483647"),
    "far too large a whole number": ("width", "1e300", "but whole numbers go up to 2147483647"),
    "no trials": ("trials", "0", "trials is 0, but must be at least 1"),
    "list for a number": ("rate", "0.1,0.2", "rate is '0.1,0.2', but takes number values"),
    "range for a number": ("rate", "0.1:1:3", "rate is '0.1:1:3', but takes number values"),
    "TOML list for a number": ("rate", [0.1, 0.2], "rate is [0.1, 0.2], but takes a single number"),
    "TOML truth for a number": ("rate", True, "rate is True, but takes number values"),
    "TOML truth on an axis": ("width", [True], "width is True, but takes whole-number values"),
    "TOML number for a text": ("defence", [1], "defence is 1, but takes text values"),
    "TOML table": ("epsilon", {"low": 1}, "epsilon is {'low': 1}, but takes number values"),
    "TOML list in a list": ("epsilon", [[1, 2]], "epsilon is [1, 2], but takes number values"),
    "nothing": ("rate", None, "rate is None, but takes number values"),
    "misspelt choice": (
        "defence",
        "coapp",
        "'coapp', but must be one of standard, adversarial, coap; did you mean coap?",
    ),
    "choice in capitals": ("selection", "Test", "must be one of validation, test; did you mean test?"),
    "strange choice": ("defence", "xyz", "defence is 'xyz', but must be one of standard, adversarial, coap"),
    "misspelt name": ("epsilom", "1", "there is no setting 'epsilom'; the settings are trials, defence, epsilon"),
    "misspelt name, hint": ("widht", "1", "did you mean width?"),
    "strange name": ("xyz", "1", "there is no setting 'xyz'"),
    "empty name": ("", "1", "there is no setting ''"),
    "line break": ("epsilon", "1\n2", "epsilon"),
    "line break in a name": ("epsi\nlon", "1", "there is no setting"),
    "between settings": ("test_size", "3001", "test_size is 3001, but there are 3 trials"),
}


@pytest.mark.parametrize("what", BAD)
def test_refused_in_one_sentence(what):
    name, given_value, because = BAD[what]
    with pytest.raises(SettingsError) as caught:
        override(BASE, {name: given_value})
    assert because in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_hint_for_what_is_far_off():
    with pytest.raises(SettingsError) as caught:
        override(BASE, {"xyz": "1"})
    assert "did you mean" not in str(caught.value)


def test_several_at_once_and_none():
    found = override(BASE, {"trials": "5", "test_size": "4000"})
    assert (found.trials, found.test_size) == (5, 4000)
    assert override(BASE, {}) == BASE
    assert BASE.trials == 3


def test_through_toml():
    text = 'epsilon = [0.5, "1:3:3"]\nwidth = 1_000\ndefence = ["coap"]\nrate = 1e-2\ntest-size = 10\n'
    found = override(BASE, tomllib.loads(text))
    assert found.epsilon == (0.5, 1, 2, 3)
    assert (found.width, found.defence, found.rate, found.test_size) == ((1000,), ("coap",), 0.01, 10)


def test_plain_values_for_the_store():
    found = BASE.as_dict()
    assert found["epsilon"] == [1.0]
    assert found["selection"] == "test"
    assert override(BASE, found) == BASE


# Without -0: as a value of an axis it repeats 0.
numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)


@given(st.lists(numbers, min_size=1, max_size=20, unique=True))
def test_numbers_as_text_come_back(values):
    text = ",".join(repr(value) for value in values)
    assert override(BASE, {"shift": text}).shift == tuple(values)


@given(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=20, unique=True))
def test_whole_numbers_as_text_come_back(values):
    assert override(BASE, {"width": ",".join(map(str, values))}).width == tuple(values)


@given(st.decimals(-100, 100, places=2), st.decimals(1, 100, places=2), st.integers(2, 50))
def test_ranges_are_evenly_spaced_between_their_ends(start, length, count):
    stop = start + length
    found = override(BASE, {"shift": f"{start}:{stop}:{count}"}).shift
    assert len(found) == count
    assert (found[0], found[-1]) == (float(start), float(stop))
    expected = [float(start + length * i / (count - 1)) for i in range(count)]
    # Values are rounded to 12 digits, and start and step to double precision before.
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("name", studies.STUDIES)
def test_settings_of_every_study_survive_text(name):
    for settings in studies.STUDIES[name].scales.values():
        texts = {
            key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
            for key, value in settings.as_dict().items()
        }
        assert override(settings, texts) == settings


@pytest.mark.parametrize(("count", "fits"), [(1, True), (499, True), (500, True), (501, False), (1000, True)])
def test_test_sizes_come_in_chunks(count, fits):
    settings = studies.STUDIES["picture"].scales["smoke"]
    if fits:
        assert override(settings, {"test": count}).test == count
    else:
        with pytest.raises(SettingsError, match=r"test is 501, but must be a multiple of 500"):
            override(settings, {"test": count})


def test_choices_may_be_those_of_a_table_that_grows():
    table = {"a": 1}

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Growing(Settings):
        row: str = setting("of the table", choices=lambda: table)

    with pytest.raises(SettingsError, match="row is 'b', but must be one of a"):
        Growing(trials=1, row="b")
    table["b"] = 2
    assert Growing(trials=1, row="b").row == "b"
