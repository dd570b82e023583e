"""Runs in processes of their own that are killed, meet a full disk, or meet each other."""

import errno
import os
import random
import shlex
import shutil
import subprocess
import sys
import textwrap
import time

import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from test_cluster import TOY

from simulator import store, studies
from simulator.studies import plan

# The same faults are imitated by tests that run everywhere: test_full_disk, and those of refused folders in test_cli.
needs_namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="file systems of one's own need user namespaces, which this machine does not allow",
)

COMMAND = [sys.executable, "-m", "simulator", "run", "mine.py:STUDY", "--defence", "a,b,c,d", "--trials", "6"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(TOY)
    return tmp_path


def start(folder, *more):
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.Popen(
        [*COMMAND, *more], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    printed, said = process.communicate(timeout=120)
    return process.returncode, printed, said


def assert_same(one, other):
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


@pytest.mark.slow
def test_killed_at_twenty_moments_and_continued(folder):
    """Nothing that was finished is lost, and the result is that of an uninterrupted run, bit for bit."""
    assert finish(start(folder, "--out", "alone"))[0] == 0
    moments = random.Random(0)
    path = folder / "results" / "toy.zarr"
    for _ in range(20):
        saved = set(store.records(path)) if path.exists() else set()
        process = start(folder)
        # The plan is the first thing said after compiling; then come the chunks.
        first = process.stderr.readline()
        if "nothing to compute" in first:
            finish(process)
            shutil.rmtree(path)
            continue
        time.sleep(moments.uniform(0, 1.0))
        process.kill()
        process.communicate()
        now = store.records(path)
        assert saved <= set(now)
        assert all(store.is_sound(path, record) for record in now.values())
    code, _, said = finish(start(folder))
    assert code == 0, said
    assert_same(store.read(path), store.read(folder / "alone" / "toy.zarr"))


@pytest.mark.slow
def test_two_at_once(folder):
    first, second = start(folder, "--pause", "0.05"), start(folder, "--pause", "0.05")
    answers = sorted([finish(first), finish(second)])
    assert [code for code, *_ in answers] == [0, 2]
    assert "another run is writing" in answers[1][2] or "exists already" in answers[1][2]
    assert finish(start(folder, "--pause", "0.05", "--out", "alone"))[0] == 0
    assert_same(store.read(folder / "results" / "toy.zarr"), store.read(folder / "alone" / "toy.zarr"))


@pytest.mark.parametrize("number", [1, 6, 11])
def test_full_disk(folder, monkeypatch, number):
    """The run ends with the reason; when there is room again the same command completes it."""
    study = studies.find(f"{folder}/mine.py:STUDY")
    settings = study.scales["smoke"]
    run = {"scale": "smoke", "seed": 0, "out": folder / "results"}
    write, calls = store._write, []

    def full(*arguments):
        calls.append(1)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        studies.run(study, settings, **run)
    monkeypatch.setattr(store, "_write", write)
    found = store.read(studies.run(study, settings, **run))
    assert_same(found, store.read(studies.run(study, settings, **{**run, "out": folder / "alone"})))


def test_more_programs_than_may_be_loaded(folder, monkeypatch):
    """A process has room for so many programs: the others are unloaded, loaded again in turn, and give the same."""
    study = studies.find(f"{folder}/mine.py:STUDY")
    settings = studies.override(study.scales["smoke"], {"defence": "a,b,c,d,e"})
    run = {"scale": "smoke", "seed": 0}
    alone = store.read(studies.run(study, settings, **run, out=folder / "alone"))
    monkeypatch.setattr(plan, "MOST_LOADED", 2)
    planned = plan.plan(study, settings)
    assert len(planned.programs) == 5
    for chunk in planned.chunks:
        assert planned.program_of(chunk).block == chunk.block
        assert 1 <= sum(program.run is not None for program in planned.programs) <= 2
    assert_same(store.read(studies.run(study, settings, **run, out=folder / "results")), alone)
    with pytest.raises(RuntimeError, match="has been unloaded"):
        planned.programs[0](jr.key(0), [(0,)])


def in_namespace(folder, *lines):
    """Run lines of shell where `disk` is a file system of its own, seen by nobody else; returns what they said."""
    script = "\n".join(["set -u", *lines])
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "RUN": shlex.join(COMMAND)}
    (folder / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
@needs_namespaces
@pytest.mark.parametrize("pages", [1, 20, 40, 60])
def test_a_disk_that_is_really_full(folder, pages):
    """A file system of so many pages of 4 kB; then it grows, and the same command completes what is there."""
    said = in_namespace(
        folder,
        f"mount -t tmpfs -o size={4 * pages}k,nr_inodes=0 tmpfs disk",
        "$RUN --out disk; echo exit $?",
        "mount -o remount,size=100m disk",
        "$RUN --out disk; echo exit $?",
        "cp -r disk/toy.zarr copy.zarr",
    )
    assert [line for line in said.splitlines() if line.startswith("exit")] == ["exit 2", "exit 0"], said
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert finish(start(folder, "--out", "alone"))[0] == 0
    assert_same(store.read(folder / "copy.zarr"), store.read(folder / "alone" / "toy.zarr"))


@pytest.mark.slow
@needs_namespaces
def test_a_disk_that_is_read_only(folder):
    """Nothing can be begun or continued there, in one sentence; what is complete can be asked for and shown."""
    said = in_namespace(
        folder,
        "mount -t tmpfs -o size=100m tmpfs disk",
        "$RUN --out disk/whole --quiet",
        "cp -r disk/whole disk/part && rm -r disk/part/toy.zarr/progress/0-0-0",
        "mount -o remount,ro disk",
        "for out in disk/new disk/part disk/whole; do $RUN --out $out; echo exit $?; done",
        f"{sys.executable} -m simulator show disk/whole/toy.zarr; echo exit $?",
    )
    assert [line for line in said.splitlines() if line.startswith("exit")] == ["exit 2", "exit 2", "exit 0", "exit 0"]
    assert f"the folder {folder}/disk is not writable: give another --out" in said
    assert "the folder disk/part is not writable: give another --out" in said
    assert "toy is complete in disk/whole/toy.zarr: nothing to compute" in said
    assert "Traceback" not in said


def test_out_of_memory_in_one_cell(folder):
    """The cell is recorded with its coordinates and the reason, the others are kept."""
    code, _, said = finish(start(folder, "--hungry", "0.3"))
    assert code == 0, said
    found = store.read(folder / "results" / "toy.zarr")
    hungry = found["epsilon"] == 0.3
    assert np.all(found["status"].where(hungry, drop=True) == "failed")
    assert np.all(found["status"].where(~hungry, drop=True) == "ok")
    assert len(found.attrs["failures"]) == 24
    assert all("epsilon = 0.3" in failure["cell"] for failure in found.attrs["failures"])
    assert "Unable to allocate" in said


def test_a_limit_on_memory_is_planned_for(folder):
    """`ulimit -v`: what would not fit is refused before anything is run."""
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30))
        from simulator.studies import plan
        assert plan.memory_limit() <= plan.MEMORY_SHARE * (64 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        print(plan.memory_limit() / plan.MEMORY_SHARE / 2**30)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 8


def test_clock_set_back(folder, monkeypatch):
    """By a day in the middle of the run: durations are not measured by the clock, and nothing is ordered by it."""
    study = studies.find(f"{folder}/mine.py:STUDY")
    now = time.time

    def set_back(amount):
        monkeypatch.setattr(time, "time", lambda: now() - 86400)

    report = studies.Report(tick=set_back)
    path = studies.run(study, study.scales["smoke"], scale="smoke", seed=0, out=folder, report=report)
    assert 0 < store.read(path).attrs["wall_seconds"] < 3600
    assert np.all(store.read(path)["status"] == "ok")
