"""Runs in processes of their own that are killed, meet a full disk, or meet each other."""

import errno
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from test_cluster import TOY

from simulator import store, studies

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
