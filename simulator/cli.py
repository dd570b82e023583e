"""The command line: list, run, plot, show, reproduce, explore, images.  Parses, calls, prints; studies have options."""

import dataclasses
import os
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
import jax
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from simulator import catalogue, explorer, images, plots, store, studies
from simulator.console import console_report
from simulator.refusal import fail, one_sentence
from simulator.startup import forget_compiled_programs, keep_compiled_programs
from simulator.studies import GridError, Settings, SettingsError, Study

app = App(
    name="simulator",
    help="Why certified training hurts generalisation, by simulation.",
    version_flags=["--version"],
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
run_app = App(name="run", help="Run a study into OUT/STUDY.zarr, or a study of your own given as path/to/file.py:name.")
app.command(run_app)
images_app = App(name="images", help="Data sets of images: list the known ones, fetch one.")
app.command(images_app)

REFUSALS = (SettingsError, GridError, store.StoreError, studies.ClusterError, images.ImageDataError)

Scale = Literal["smoke", "default", "paper"]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What every run takes besides the settings of its study."""

    scale: Scale = "default"
    """smoke: seconds; default: minutes; paper: the published settings."""
    out: Path = Path("results")
    """Folder of the result stores."""
    seed: int = 0
    """Seed of the whole grid."""
    precision: Literal["float32", "float64"] = "float32"
    """Arithmetic of the whole run."""
    config: Path | None = None
    """TOML file of settings; options given here win over it."""
    dry_run: Annotated[bool, Parameter(negative="")] = False
    """Only say what would be run: cells, programs, memory, time."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Replace whatever is at OUT/STUDY.zarr."""
    data_dir: Path | None = None
    """Folder of the data sets of images, as fetch fills it; by default SIMULATOR_DATA, or the user's data folder."""
    cluster: str | None = None
    """Run on a Dask cluster: local:N for N processes on this machine, or the scheduler's host:port."""
    quiet: Annotated[bool, Parameter(negative="")] = False
    """Say nothing while running."""


@app.command(name="list")
def list_studies() -> None:
    """List the studies and their claims."""
    print(catalogue.listing())


def _with_overrides(study: Study, scale: str, config: Path | None, given: dict[str, Any]) -> Settings:
    """The settings of a scale, then those of the TOML file, then those of the command line."""
    return studies.override(studies.override(study.scales[scale], _read(config)), given)


def _read(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{config} cannot be read ({error.strerror}): give a TOML file of settings") from error
    except ValueError as error:  # not TOML, or not text in UTF-8
        raise SettingsError(f"{config} is not valid TOML ({error})") from error


def run_study(study: Study, name: str, options: RunOptions, given: dict[str, Any]) -> None:
    """Run one study and print what came out."""
    settings = _with_overrides(study, options.scale, options.config, given)
    _use(options.data_dir)
    jax.config.update("jax_enable_x64", options.precision == "float64")
    with console_report(options.quiet) as report:
        if options.dry_run:
            print(studies.dry_run(study, settings, report))
            return
        on = nullcontext() if options.cluster is None else studies.workers(options.cluster, name)
        with on as workers:
            path = studies.run(
                study,
                settings,
                scale=options.scale,
                seed=options.seed,
                out=options.out,
                overwrite=options.overwrite,
                report=report,
                on=workers,
            )
    print(f"{study.name}: {study.verdict(store.read(path))}")
    print(f"results in {path}; draw them by: simulator plot {name} --out {options.out}")


def _use(data_dir: Path | None) -> None:
    if data_dir is not None:
        images.use(data_dir)


def _options_of(study: Study) -> type:
    """A dataclass with one optional text per setting of the study, for the parser to fill and to list."""
    fields = []
    defaults = study.scales["default"].as_dict()
    for field in dataclasses.fields(study.scales["default"]):
        help = f"{field.metadata.get('help', '')} [default: {_text(defaults[field.name])}]"
        # Values such as -1 are values, not options: our own check then says what is allowed.
        described = Annotated[str | None, Parameter(help=help, allow_leading_hyphen=True)]
        fields.append((field.name, described, dataclasses.field(default=None)))
    # The parser expands a dataclass into options only if its module is not of the standard library.
    return dataclasses.make_dataclass("Given", fields, namespace={"__module__": __name__})


def _text(value: Any) -> str:
    return (
        ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
        if isinstance(value, list)
        else str(value)
    )


def _add(study: Study, name: str) -> None:
    """Add `simulator run NAME` with an option for every setting."""
    given_type = _options_of(study)

    nothing_given = given_type()

    def command(*, options: RunOptions = RunOptions(), given: Any = nothing_given) -> None:
        changes = {name: value for name, value in dataclasses.asdict(given).items() if value is not None}
        run_study(study, name, options, changes)

    settings = Parameter(name="*", group=f"Settings of {study.name}")
    command.__annotations__ = {"options": RunOptions, "given": Annotated[given_type, settings], "return": None}
    command.__doc__ = f"{study.claim}\n\nAn axis takes a list (100,1000) or a range start:stop:count (1:6:11)."
    if name in list(run_app):
        del run_app[name]
    run_app.command(command, name=name)


@app.command
def plot(
    study: str,
    /,
    *,
    out: Path = Path("results"),
    figures: Path = Path("figures"),
    columns: int | None = None,
    panel: int | None = None,
    animate: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw the figure of a study from its store (or archive) in OUT, as SVG and PNG in FIGURES.

    Parameters
    ----------
    columns
        Of a figure with a panel for each kind of error: so many side by side; 1 has the width of a paper's column.
    panel
        One panel alone, counted from 1 line by line: of any figure, for a slide or the column of a paper.
    animate
        Write its animation as GIF instead, for which trial 0 is trained once more.
    """
    chosen = studies.find(study)
    store.check_folder(figures, "--figures")
    if animate:
        print(studies.animate(chosen, out, figures))
        return
    result = store.read(store.locate(out, chosen.name))
    words = studies.about(chosen, result), studies.alt(chosen, result)
    if columns is None:
        drawn, name = chosen.figure(result, chosen.comparable(result)), chosen.name
    else:
        drawn, name = chosen.in_columns(result, columns), f"{chosen.name}-in-{columns}"
    if panel is not None:
        name = f"{name}-panel-{panel}"
    try:
        paths = plots.save(drawn, figures / name, *words, panel=panel)
    except plots.PanelError as error:
        raise studies.SettingsError(str(error)) from error
    print(*paths, sep="\n")


@app.command
def show(path: Path, /, *, csv: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Summarise a result store: what made it, how many cells are ok, and means over trials.

    Parameters
    ----------
    csv
        Print every mean and its standard error as comma-separated values instead.
    """
    result = store.read(path)
    table = studies.summary(result)
    if csv:
        table.to_csv(sys.stdout, index=False)
        return
    for key, value in result.attrs.items():
        if key not in store.BOOKKEEPING:
            print(f"{key}: {value}")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}", max_rows=60))


@app.command
def reproduce(
    *names: str,
    scale: Scale = "default",
    everything: Annotated[bool, Parameter(name="--all", negative="")] = False,
    out: Path = Path("results"),
    figures: Path = Path("figures"),
    seed: int = 0,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    data_dir: Path | None = None,
) -> None:
    """Run the core studies (or all, or those named), draw their figures, and compare with the published values.

    Parameters
    ----------
    everything
        Run all studies, not only the core ones; those whose data are not there are named and left out.
    data_dir
        Folder of the data sets of images, as fetch fills it; by default SIMULATOR_DATA, or the user's data folder.
    """
    _use(data_dir)
    if names and everything:
        raise SettingsError("studies are named and --all is given: give one of the two")
    store.check_folder(figures, "--figures")
    known = studies.STUDIES.values()
    chosen = [studies.find(name) for name in names] or [study for study in known if study.core or everything]
    chosen = [study for study in chosen if _has_files(study, scale, say_so=everything)]
    for study in chosen:
        with console_report() as report:
            settings = study.scales[scale]
            studies.run(study, settings, scale=scale, seed=seed, out=out, overwrite=overwrite, report=report)
        forget_compiled_programs()
    results = {study.name: store.read(store.path_of(out, study.name)) for study in chosen}
    studies.draw(chosen, results, figures, list(studies.STUDIES.values()))
    _print_comparison([studies.comparison(study, results[study.name]) for study in chosen])
    for study in chosen:
        print(f"{study.name}: {study.verdict(results[study.name])}")
    print(f"all complete: {len(chosen)} studies; figures in {figures}/, data in {out}/")


def _has_files(study: Study, scale: str, say_so: bool) -> bool:
    """Whether the data that a study reads are there; if not, say so or raise `ImageDataError`, before anything runs."""
    try:
        study.files(study.scales[scale])
    except images.ImageDataError as error:
        if not say_so:
            raise
        print(f"left out: {study.name}, since {error}", file=sys.stderr, flush=True)
        return False
    return True


def _print_comparison(tables: list) -> None:
    if not any(map(len, tables)):
        return
    columns = ("study", "variable", "defence", "where", "measured", "published", "difference")
    shown = Table(*columns, title="Against the published values (measured: mean ± standard error over trials)")
    for row in (row for table in tables for row in table.itertuples()):
        numbers = (studies.with_spread(row.measured, row.sem), f"{row.published:.3f}", f"{row.difference:+.3f}")
        shown.add_row(row.study, row.variable, row.defence, row.where, *numbers)
    Console(width=160).print(shown)


app.command(explorer.explore)


@images_app.command(name="list")
def list_images() -> None:
    """List the data sets of images and where they come from."""
    for name, known in images.SETS.items():
        print(f"{name:16}{known.about}")


@images_app.command(name="fetch")
def fetch_images(name: str, /, *, data_dir: Path | None = None) -> None:
    """Download a data set of images, check it against its published checksums and unpack it.

    Parameters
    ----------
    data_dir
        Where to put it; by default SIMULATOR_DATA, or the user's data folder, where studies look for it.
    """
    print(images.fetch(name, data_dir, lambda sentence: print(sentence, file=sys.stderr, flush=True)))


def _prepare(arguments: list[str]) -> None:
    """One virtual device per core, and the commands of the studies, including one of the user's own."""
    if getattr(jax.config, "jax_num_cpu_devices", None) != studies.cores():
        jax.config.update("jax_num_cpu_devices", studies.cores())
    keep_compiled_programs()
    for name, study in studies.STUDIES.items():
        _add(study, name)
    if len(arguments) > 1 and arguments[0] == "run" and not arguments[1].startswith("-"):
        name = arguments[1]
        if name not in studies.STUDIES:
            _add(studies.find(name), name)


def main(arguments: list[str] | None = None) -> int:
    """The entry point; returns the exit code: 0, 2 for bad input, 130 if interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _prepare(arguments)
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return fail(one_sentence(error))
    except (*REFUSALS, explorer.ExplorerError) as error:
        return fail(str(error))
    except BrokenPipeError:  # the reader of our output has left: nothing to tell it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the interpreter to flush into at its exit
        return 0
    except OSError as error:
        return fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except studies.Stopped as stopped:
        return fail(f"{stopped}: the same command continues from there", 130)
    except KeyboardInterrupt:
        return fail("interrupted; every finished chunk is saved, and the same command continues from there", 130)
    return 0
