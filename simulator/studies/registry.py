"""The studies by name, and those of the user's own files."""

import difflib
import importlib.util
import sys
from pathlib import Path

from simulator.studies import (
    alignment,
    asymptotics,
    attribution,
    deep,
    dimension,
    gap_report,
    image_studies,
    interpolation,
    l2_budget,
    maximum_margin,
    modern_defences,
    one_neuron,
    optimisation,
    picture,
    relaxations,
    selection,
    signal_directed,
    spheres,
    threat_shape,
    unstable,
)
from simulator.studies.settings import SettingsError
from simulator.studies.study import SCALES, Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        picture.STUDY,
        alignment.STUDY,
        signal_directed.STUDY,
        l2_budget.STUDY,
        *spheres.STUDIES,
        unstable.STUDY,
        dimension.STUDY,
        threat_shape.STUDY,
        optimisation.STUDY,
        deep.STUDY,
        selection.STUDY,
        relaxations.STUDY,
        modern_defences.STUDY,
        gap_report.STUDY,
        attribution.STUDY,
        *image_studies.STUDIES,
        *maximum_margin.STUDIES,
        interpolation.STUDY,
        one_neuron.STUDY,
        asymptotics.STUDY,
    )
}
"""The studies of this package by name."""


def find(name: str) -> Study:
    """The study of that name, or the `Study` called NAME in a Python file given as `path/to/file.py:NAME`.

    Raises `SettingsError` if there is none.
    """
    if name in STUDIES:
        return STUDIES[name]
    file, separator, attribute = name.rpartition(":")
    if not separator:
        alike = "".join(f" (did you mean {one}?)" for one in difflib.get_close_matches(name, STUDIES, 1))
        raise SettingsError(
            f"there is no study {name!r}{alike}; the studies are {', '.join(STUDIES)}, "
            "or give your own as path/to/file.py:name"
        )
    return _load(Path(file), attribute)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _load(file: Path, attribute: str) -> Study:
    if not file.is_file():
        raise SettingsError(f"there is no file {file}: give your study as path/to/file.py:name")
    spec = importlib.util.spec_from_file_location(f"simulator_study_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{file} is not a Python file: give your study as path/to/file.py:name")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name; the prefix keeps a file called json.py from replacing a library.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        raise SettingsError(f"{file} cannot be loaded ({type(error).__name__}: {_one_line(error)})") from error
    study = getattr(module, attribute, None)
    if not isinstance(study, Study):
        known = [name for name, value in vars(module).items() if isinstance(value, Study)]
        raise SettingsError(f"{file} has no study {attribute!r}; the studies in it are {', '.join(known) or 'none'}")
    missing = [scale for scale in SCALES if scale not in study.scales]
    if missing:
        raise SettingsError(f"{file}:{attribute} has no settings for scale {', '.join(missing)}: give all of {SCALES}")
    return study
