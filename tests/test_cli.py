"""The command line in this process, mostly on a study of the user's own that compiles in a moment."""

import csv
import io
import os
import re
import shlex
import signal
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from simulator import cli, store, studies
from simulator.studies import image_data

TOY = """
from dataclasses import dataclass
import jax.random as jr
from matplotlib.figure import Figure
from simulator.studies import SCALES, Published, Settings, Study, Verdict, setting
from simulator.sweep import Grid

@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    defence: tuple[str, ...] = setting("ways to train", choices=("coap", "adversarial"))
    epsilon: tuple[float, ...] = setting("radius of the threat", low=0)
    dim: int = setting("dimension of the data", low=1)

def grid(settings):
    return Grid({"defence": settings.defence, "epsilon": settings.epsilon}, settings.trials, static=("defence",))

def cell(settings):
    return lambda coords, key: {"robust_error": coords["epsilon"] + jr.normal(key, (settings.dim,)).mean()}

def figure(result, published):
    figure = Figure()
    figure.subplots().plot(result["epsilon"], result["robust_error"].mean(("trial", "defence")))
    return figure

SMALL = ToySettings(defence=("coap", "adversarial"), epsilon=(0.1, 0.3), dim=3, trials=2)
STUDY = Study("toy", "Errors grow.", dict.fromkeys(SCALES, SMALL), grid, cell, figure, lambda r: Verdict(True, "yes"),
              published=(Published("robust_error", {"defence": "coap"}, "epsilon", {0.1: 0.2, 9.0: 1}, "a paper", 5),),
              core=True)
"""


@pytest.fixture(autouse=True)
def settings_of_this_process(monkeypatch):
    """JAX has started with the devices of conftest.py, and cannot take another number; precision is put back."""
    monkeypatch.setattr(studies, "cores", lambda: 2)
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the user's file `mine.py`."""
    (tmp_path / "mine.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def simulator(capsys):
    """Run a command line; (exit code, standard output, standard error)."""

    def call(line):
        code = cli.main(shlex.split(line))
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of the toy, with its file; tests only read it."""
    out = tmp_path_factory.mktemp("finished")
    (out / "mine.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "cores", lambda: 2)
        patch.setattr(cli, "keep_compiled_programs", lambda: None)
        assert cli.main(["run", f"{out}/mine.py:STUDY", "--out", str(out)]) == 0
    return out


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if is_kept(file)}


def is_kept(file):
    """A file or folder other than the byte code that importing a file leaves."""
    return file.is_file() and "__pycache__" not in file.parts


def assert_refused(answer, because):
    code, printed, said = answer
    assert code == 2
    assert printed == ""
    assert re.fullmatch(r"simulator: [^\n]+\n", said), said
    assert "Traceback" not in said
    assert because in said


# ---- asking for help ----


def test_list(simulator):
    code, printed, said = simulator("list")
    assert (code, said) == (0, "")
    assert all(re.search(rf"^{name} ", printed, re.MULTILINE) for name in studies.STUDIES)
    assert "simulator run STUDY --help" in printed


@pytest.mark.parametrize("line", ["", "--help", "run", "run --help"])
def test_help(simulator, line):
    code, printed, said = simulator(line)
    assert (code, said) == (0, "")
    assert "Usage: simulator" in printed


@pytest.mark.parametrize("name", studies.STUDIES)
def test_help_of_a_study_lists_its_settings(simulator, name):
    code, printed, _ = simulator(f"run {name} --help")
    assert code == 0
    for field in studies.STUDIES[name].scales["default"].as_dict():
        assert f"--{field.replace('_', '-')} " in printed
    for option in ("scale", "out", "seed", "precision", "config", "dry-run", "overwrite"):
        assert f"--{option} " in printed
    assert studies.STUDIES[name].claim.split()[0] in printed


def test_help_of_a_study_of_the_users_own(simulator, folder):
    code, printed, _ = simulator("run mine.py:STUDY --help")
    assert code == 0
    assert "--dim" in printed
    assert "radius of the threat" in printed
    assert "0.1,0.3" in printed


# ---- running ----


def test_run_a_study_of_the_users_own(simulator, folder):
    code, printed, said = simulator("run mine.py:STUDY --epsilon 0:1:3 --seed 5")
    assert code == 0, said
    assert "toy: held: yes" in printed
    result = store.read(folder / "results" / "toy.zarr")
    assert list(result["epsilon"].values) == [0, 0.5, 1]
    assert (result.attrs["seed"], result.attrs["scale"], result.attrs["complete"]) == (5, "default", True)


def test_the_command_it_recommends_draws_the_figure(simulator, folder):
    _, printed, _ = simulator("run mine.py:STUDY")
    (line,) = re.findall(r"simulator (plot .*)", printed)
    code, printed, said = simulator(line)
    assert (code, said) == (0, "")
    assert printed.split() == ["figures/toy.svg", "figures/toy.png"]
    assert (folder / "figures" / "toy.svg").is_file()


def test_second_run_has_nothing_to_do(simulator, folder):
    simulator("run mine.py:STUDY --out kept")
    before = files(folder / "kept")
    code, _, said = simulator("run mine.py:STUDY --out kept")
    assert code == 0
    assert "complete" in said
    assert files(folder / "kept") == before


def test_other_seed_is_refused_until_overwritten(simulator, folder):
    simulator("run mine.py:STUDY")
    before = files(folder / "results")
    assert_refused(simulator("run mine.py:STUDY --seed 1"), "seed is 0 there, 1 here")
    assert files(folder / "results") == before
    assert simulator("run mine.py:STUDY --seed 1 --overwrite")[0] == 0
    assert store.read(folder / "results" / "toy.zarr").attrs["seed"] == 1


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted_run_says_how_to_go_on(simulator, folder, monkeypatch, times):
    """Once: after the chunk, by a message of ours.  Twice: at once."""
    save_chunk = store.save_chunk

    def interrupted(path, name, boxes, about):
        save_chunk(path, name, boxes, about)
        if name == "0-0-1":
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(store, "save_chunk", interrupted)
    code, _, said = simulator("run mine.py:STUDY")
    assert code == 130
    assert re.search(
        r"^simulator: (stopped with \d of 4 chunks|interrupted)[^\n]+the same command continues", said, re.M
    )
    assert "stopping as soon as the current work is saved" in said
    monkeypatch.setattr(store, "save_chunk", save_chunk)
    assert simulator("run mine.py:STUDY")[0] == 0
    assert (store.read(folder / "results" / "toy.zarr")["status"] == "ok").all()


def test_quiet_run_says_nothing_but_its_result(simulator, folder):
    code, printed, said = simulator("run mine.py:STUDY --quiet")
    assert (code, said) == (0, "")
    assert "toy: held: yes" in printed


def test_run_prints_its_plan_first(simulator, folder):
    _, _, said = simulator("run mine.py:STUDY")
    assert said.splitlines()[0] == "cells      8 of 8 in the grid, in 4 chunks"


def test_config_file_and_command_line(simulator, folder):
    (folder / "mine.toml").write_text('epsilon = [0.2, "0.4:0.6:3"]\ndim = 7\ntrials = "4"\ndefence = "coap"\n')
    code, _, said = simulator("run mine.py:STUDY --config mine.toml --dim 5")
    assert code == 0, said
    settings = store.read(folder / "results" / "toy.zarr").attrs["settings"]
    assert settings == '{"defence": ["coap"], "dim": 5, "epsilon": [0.2, 0.4, 0.5, 0.6], "trials": 4}'


def test_dry_run_writes_nothing(simulator, folder):
    code, printed, said = simulator("run mine.py:STUDY --dry-run --trials 7")
    assert (code, said) == (0, "")
    assert list(files(folder)) == ["mine.py"]
    assert not (folder / "results").exists()
    assert re.search(r"^cells +28 of 28 in the grid, in 14 chunks$", printed, re.MULTILINE)
    assert re.search(r"^programs +2, compiled in \d+ s$", printed, re.MULTILINE)
    assert re.search(r"^memory +\d+ k?B at the peak of a program, [\d,]+ k?B of results$", printed, re.MULTILINE)
    assert re.search(r"^time +about \d+ s on 2 device", printed, re.MULTILINE)


def test_double_precision(simulator, folder):
    code, _, said = simulator("run mine.py:STUDY --precision float64")
    assert code == 0, said
    result = store.read(folder / "results" / "toy.zarr")
    assert result["robust_error"].dtype == np.float64
    # The next command in this process is back in single precision.
    assert_refused(simulator("run mine.py:STUDY"), "precision is float64 there, float32 here")


def test_users_file_does_not_replace_a_library(simulator, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", pd)  # as it is, but restored if this test fails
    (folder / "pandas.py").write_text(TOY)
    assert simulator("run pandas.py:STUDY --help")[0] == 0
    assert sys.modules["pandas"] is pd


# ---- looking at results ----


def test_show(simulator, finished):
    code, printed, said = simulator(f"show {finished}/toy.zarr")
    assert (code, said) == (0, "")
    for line in (r"study: toy", r"seed: 0", r"complete: True", r"precision: float32", r"claim: Errors grow\."):
        assert re.search(f"^{line}$", printed, re.MULTILINE)
    assert "robust_error_sem" in printed


def test_show_as_csv(simulator, finished):
    code, printed, said = simulator(f"show {finished}/toy.zarr --csv")
    assert (code, said) == (0, "")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [(row["defence"], float(row["epsilon"])) for row in rows] == [
        ("coap", 0.1), ("coap", 0.3), ("adversarial", 0.1), ("adversarial", 0.3),
    ]  # fmt: skip
    result = store.read(finished / "toy.zarr")
    means = result["robust_error"].mean("trial").values.ravel()
    np.testing.assert_allclose([float(row["robust_error"]) for row in rows], means, rtol=1e-6)
    sems = result["robust_error_sem"].values.ravel()
    np.testing.assert_allclose([float(row["robust_error_sem"]) for row in rows], sems, rtol=1e-5)
    assert {row["trials"] for row in rows} == {"2"}


def test_plot(simulator, finished, tmp_path):
    code, printed, said = simulator(f"plot {finished}/mine.py:STUDY --out {finished} --figures {tmp_path}/new/figures")
    assert (code, said) == (0, "")
    assert printed.split() == [f"{tmp_path}/new/figures/toy.{suffix}" for suffix in ("svg", "png")]
    assert sorted(files(tmp_path)) == ["new/figures/toy.png", "new/figures/toy.svg"]


def test_plot_in_columns_of_a_figure_that_has_none(simulator, finished, tmp_path):
    code, _, said = simulator(f"plot {finished}/mine.py:STUDY --out {finished} --figures {tmp_path}/new --columns 1")
    assert (code, said) == (2, "simulator: the figure of toy has one arrangement: leave out --columns\n")
    assert not files(tmp_path)


def test_plot_of_one_panel(simulator, finished, tmp_path):
    command = f"plot {finished}/mine.py:STUDY --out {finished} --figures {tmp_path}/new --panel"
    code, printed, said = simulator(f"{command} 1")
    assert (code, said) == (0, "")
    assert printed.split() == [f"{tmp_path}/new/toy-panel-1.{suffix}" for suffix in ("svg", "png")]
    code, _, said = simulator(f"{command} 9")
    assert (code, said) == (2, "simulator: panel is 9: the figure has the panels 1 to 1\n")
    assert sorted(files(tmp_path)) == ["new/toy-panel-1.png", "new/toy-panel-1.svg"]


def test_reproduce(simulator, folder, monkeypatch):
    toy = studies.find("mine.py:STUDY")
    monkeypatch.setattr(studies, "STUDIES", {"toy": toy})
    code, printed, said = simulator("reproduce --scale smoke --seed 3")
    assert code == 0, said
    assert re.search(r"^all complete: 1 studies", printed, re.MULTILINE)
    assert "toy: held: yes" in printed
    # The one published value that the grid contains.
    assert re.search(r"toy +│? *.*robust_error.*coap.*epsilon=0\.1.*0\.200", printed)
    assert {"figures/README.md", "figures/toy.svg", "figures/toy.png"} <= set(files(folder))
    index = (folder / "figures" / "README.md").read_text()
    assert "Errors grow." in index
    assert "held: yes" in index
    assert "8 ok" in index
    before = files(folder)
    assert simulator("reproduce --scale smoke --seed 3")[0] == 0
    assert files(folder) == before


def test_reproduce_of_named_studies(simulator, folder):
    code, printed, said = simulator("reproduce mine.py:STUDY --scale smoke --seed 3")
    assert code == 0, said
    assert "all complete: 1 studies" in printed
    assert "## toy" in (folder / "figures" / "README.md").read_text()
    assert "| robust_error | coap | " in (folder / "figures" / "published.md").read_text()


# ---- data that are not there ----


def test_studies_without_their_data_are_named_and_left_out_of_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SIMULATOR_DATA", str(tmp_path))
    image_data.loaded.cache_clear()
    known = studies.STUDIES["images-cifar10"], studies.STUDIES["picture"]
    assert [cli._has_files(study, "smoke", say_so=True) for study in known] == [False, True]
    said = capsys.readouterr().err
    assert said.startswith("left out: images-cifar10, since ")
    assert "get it by simulator images fetch cifar10" in said
    assert said.count("\n") == 1


def test_a_named_study_without_its_data_stops_before_anything_runs(simulator, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMULATOR_DATA", "")  # put back afterwards: the option sets it
    image_data.loaded.cache_clear()
    code, printed, errors = simulator(
        f"reproduce picture images-cifar10 --scale smoke --out {tmp_path} --data-dir {tmp_path}"
    )
    assert (code, printed) == (2, "")
    assert "images fetch cifar10" in errors
    assert not list(tmp_path.iterdir())


# ---- everything that can be wrong ----

BAD = {
    "unknown command": ("rum", "rum"),
    "unknown option of list": ("list --all", "--all"),
    "unknown study": (
        "run pictur",
        "there is no study 'pictur' (did you mean picture?); the studies are picture, alignment",
    ),
    "named and all to reproduce": ("reproduce alignment --all", "give one of the two"),
    "unknown study to reproduce": ("reproduce alignment pictur", "there is no study 'pictur'"),
    "unknown study to plot": ("plot pictur", "there is no study 'pictur'"),
    "no animation": ("plot alignment --animate", "alignment has no animation; the studies with one are picture"),
    "study is a flag": ("run --picture", "--picture"),
    "missing file": ("run missing.py:STUDY", "there is no file missing.py"),
    "file is a folder": ("run empty:STUDY", "there is no file empty"),
    "no file before the colon": ("run :STUDY", "there is no file"),
    "file without the study": ("run mine.py:OTHER", "mine.py has no study 'OTHER'; the studies in it are STUDY"),
    "file without a name": ("run mine.py:", "mine.py has no study ''"),
    "name that is no study": ("run mine.py:SMALL", "mine.py has no study 'SMALL'"),
    "file that is not Python": ("run notes.txt:STUDY", "notes.txt is not a Python file"),
    "file that does not parse": ("run broken.py:STUDY", "broken.py"),
    "file that raises": ("run raising.py:STUDY", "raising.py"),
    "file that imports what is missing": ("run importing.py:STUDY", "importing.py"),
    "study without the scales": ("run unscaled.py:STUDY", "default"),
    "unknown option": ("run mine.py:STUDY --dimm 3", "--dimm"),
    "option without a value": ("run mine.py:STUDY --dim", "--dim"),
    "one argument too many": ("run mine.py:STUDY 7", "7"),
    "negative radius": ("run mine.py:STUDY --epsilon -1", "epsilon is -1.0, but must be at least 0"),
    "negative radius after =": ("run mine.py:STUDY --epsilon=-0.5,1", "epsilon is -0.5, but must be at least 0"),
    "dimension 0": ("run mine.py:STUDY --dim 0", "dim is 0, but must be at least 1"),
    "dimension of a study 0": ("run alignment --spheres-dim 0", "spheres_dim is 0, but must be at least 2"),
    "words for numbers": ("run mine.py:STUDY --epsilon small", "epsilon is 'small', but takes number values"),
    "no value": ("run mine.py:STUDY --epsilon ''", "epsilon is ''"),
    "repeated value": ("run mine.py:STUDY --epsilon 1,1", "epsilon repeats a value"),
    "unknown choice": ("run mine.py:STUDY --defence coapp", "did you mean coap?"),
    "too many cells": ("run mine.py:STUDY --trials 2000000000", "8,000,000,000 cells would take"),
    "too long an axis": ("run mine.py:STUDY --epsilon 0:1:9999999", "asks for 9999999 values"),
    "too large a program": ("run mine.py:STUDY --dim 2000000000 --trials 400", "of memory, but a run may use"),
    "unknown scale": ("run mine.py:STUDY --scale huge", "huge"),
    "unknown scale to reproduce": ("reproduce --scale huge", "huge"),
    "unknown precision": ("run mine.py:STUDY --precision float16", "float16"),
    "negative seed": ("run mine.py:STUDY --seed -1", "seed is -1, but must be between 0 and 2147483647"),
    "seed too large": ("run mine.py:STUDY --seed 4294967296", "seed is 4294967296, but must be between"),
    "seed in words": ("run mine.py:STUDY --seed abc", "abc"),
    "negative seed to reproduce": ("reproduce --seed -1 --scale smoke", "seed is -1"),
    "missing configuration": ("run mine.py:STUDY --config missing.toml", "missing.toml cannot be read"),
    "configuration is a folder": ("run mine.py:STUDY --config empty", "empty cannot be read"),
    "bad TOML": ("run mine.py:STUDY --config bad.toml", "bad.toml is not valid TOML"),
    "TOML in another encoding": ("run mine.py:STUDY --config latin.toml", "latin.toml"),
    "unknown name in TOML": ("run mine.py:STUDY --config unknown.toml", "there is no setting 'epsilom'"),
    "table in TOML": ("run mine.py:STUDY --config table.toml", "epsilon is {'small': 0.1}"),
    "out is a file": ("run mine.py:STUDY --out notes.txt", "notes.txt is a file, not a folder: give another --out"),
    "out is below a file": ("run mine.py:STUDY --out notes.txt/results", "notes.txt is a file, not a folder"),
    "store is a file": ("run mine.py:STUDY --out taken", "exists but is not a result store"),
    "store is another array": ("run mine.py:STUDY --out foreign", "holds another run"),
    "nothing to show": ("show missing.zarr", "there is no store at missing.zarr"),
    "show a file": ("show notes.txt", "notes.txt is not a readable result store"),
    "show something else": ("show foreign/toy.zarr", "foreign/toy.zarr"),
    "show something else as CSV": ("show foreign/toy.zarr --csv", "foreign/toy.zarr"),
    "show other data": ("show other/toy.zarr", "other/toy.zarr"),
    "show other data as CSV": ("show other/toy.zarr --csv", "other/toy.zarr"),
    "nothing to plot": ("plot picture", "there is no store at results/picture.zarr"),
    "plot something else": ("plot mine.py:STUDY --out foreign", "foreign/toy.zarr"),
    "plot other data": ("plot mine.py:STUDY --out other", "other/toy.zarr"),
    "figures are a file": (
        "reproduce --figures notes.txt",
        "notes.txt is a file, not a folder: give another --figures",
    ),
    "figures of a plot are a file": (
        "plot picture --figures notes.txt",
        "is a file, not a folder: give another --figures",
    ),
    "show a folder of results": ("show other", "other is a folder of results: give one of other/toy.zarr"),
}


@pytest.fixture
def crowded(folder):
    """A working directory with everything the bad command lines stumble over."""
    texts = {
        "notes.txt": "important",
        "broken.py": "def STUDY(:",
        "raising.py": "raise RuntimeError('first line\\nsecond line')",
        "importing.py": "import a_library_nobody_has",
        "unscaled.py": TOY.replace("dict.fromkeys(SCALES, SMALL)", "{'smoke': SMALL}"),
        "bad.toml": "epsilon = [1,",
        "unknown.toml": "epsilom = 1",
        "table.toml": "[epsilon]\nsmall = 0.1",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "latin.toml").write_bytes("defence = 'café'".encode("latin-1"))
    for name in ("empty", "taken", "foreign"):
        (folder / name).mkdir()
    (folder / "taken" / "toy.zarr").write_text("important")
    zarr.save_group(folder / "foreign" / "toy.zarr", temperature=np.arange(3))
    xr.Dataset({"temperature": ("day", np.arange(3.0))}).to_zarr(folder / "other" / "toy.zarr", consolidated=False)
    return folder


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gives_one_line_and_writes_nothing(simulator, crowded, what):
    line, because = BAD[what]
    before, folders = files(crowded), sorted(path for path in crowded.rglob("*") if path.is_dir())
    assert_refused(simulator(line), because)
    assert files(crowded) == before
    left = {path for path in crowded.rglob("*") if path.is_dir() and path.name != "__pycache__"}
    assert left == set(folders)


def test_figures_folder_that_is_a_file(simulator, finished, tmp_path):
    (tmp_path / "taken").write_text("important")
    answer = simulator(f"plot {finished}/mine.py:STUDY --out {finished} --figures {tmp_path}/taken")
    assert_refused(answer, str(tmp_path / "taken"))


def test_in_a_fresh_process(folder):
    """As a user starts it: a device per core, and the exit code of `main`."""
    lines = (
        "import sys, jax; from simulator import cli, studies; code = cli.main(['run', 'mine.py:STUDY', '--dim', '0'])"
    )
    check = "assert len(jax.devices('cpu')) == studies.cores(); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", f"{lines}; {check}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "simulator: dim is 0, but must be at least 1\n")


def test_list_loads_nothing_that_takes_time():
    """JAX, xarray and Zarr take seconds; the list needs none of them."""
    lines = (
        "import sys; from simulator.__main__ import main; code = main(['list'])",
        "loaded = {'jax', 'numpy', 'xarray', 'zarr', 'matplotlib', 'equinox'} & set(sys.modules)",
        "sys.exit(code or ' '.join(loaded) or 0)",
    )
    done = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "signal-directed" in done.stdout


INTERRUPTED = """
import sys

class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[2]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from simulator.__main__ import main
sys.exit(main(sys.argv[1:2]))
"""


@pytest.mark.parametrize(("command", "module"), [("explore", "simulator.explorer"), ("run", "simulator.cli")])
def test_an_interrupt_while_it_loads_is_no_traceback(command, module):
    line = [sys.executable, "-c", INTERRUPTED, command, module]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "simulator: interrupted\n")


COMPUTING = """
import threading
import jax
import jax.numpy as jnp
from simulator import __main__

program = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda _, x: jnp.sin(x), x))
started = threading.Event()

def compute():
    while True:
        program(jnp.ones(10_000)).block_until_ready()
        started.set()

def main():
    threading.Thread(target=compute, daemon=True).start()
    started.wait()
    print("interrupted")
    return 130

__main__.main = main
__main__.command()
"""


def test_an_interrupt_ends_the_process_beside_a_thread_that_computes():
    """A thread that comes back from compiled code to an interpreter that is being taken down would abort it."""
    done = subprocess.run([sys.executable, "-c", COMPUTING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "interrupted\n", "")


@pytest.mark.slow
def test_compiled_programs_are_kept_for_the_next_run(folder):
    """A second process finds what the first one compiled, and computes the same."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "simulator", "run", "signal-directed", "--scale", "smoke", "--out"]
    spent = []
    for out in ("first", "second"):
        done = subprocess.run([*command, out], cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        spent.append(store.read(folder / out / "signal-directed.zarr").attrs["compile_seconds"])
    assert list((folder / "cache" / "simulator" / "programs").iterdir())
    # Tracing remains; compiling, most of the time, is gone.
    assert spent[1] < spent[0] / 2
    first, second = (store.read(folder / out / "signal-directed.zarr") for out in ("first", "second"))
    xr.testing.assert_identical(first.drop_attrs(), second.drop_attrs())
