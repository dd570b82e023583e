"""The same study over several worker processes, some of which die."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import xarray as xr

from simulator import cluster, store, studies

TOY = """
import os, time
from dataclasses import dataclass
import jax, jax.numpy as jnp, jax.random as jr
import numpy as np
from matplotlib.figure import Figure
from simulator.studies import SCALES, Settings, Study, Verdict, setting
from simulator.sweep import Grid

@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    defence: tuple[str, ...] = setting("ways to train")
    epsilon: tuple[float, ...] = setting("radius of the threat", low=0)
    poison: float = setting("the radius at which the process dies")
    hungry: float = setting("the radius at which more memory is asked for than there is")
    broken: str = setting("the defence whose cell cannot be traced")
    pause: float = setting("seconds a cell takes")

def grid(settings):
    return Grid({"defence": settings.defence, "epsilon": settings.epsilon}, settings.trials, static=("defence",))

def cell(settings):
    def disturb(epsilon):
        time.sleep(settings.pause)
        if epsilon == np.float32(settings.poison):
            os._exit(7)
        if epsilon == np.float32(settings.hungry):
            np.ones(1 << 50)
        return epsilon

    def run(coords, key):
        if coords["defence"] == settings.broken:
            raise TypeError("not a number")
        epsilon = jax.pure_callback(disturb, jax.ShapeDtypeStruct((), jnp.float32), coords["epsilon"])
        return {"robust_error": epsilon + jr.normal(key)}

    return run

SMALL = ToySettings(defence=("coap", "adversarial"), epsilon=(0.1, 0.3, 0.5), poison=-1.0, hungry=-1.0,
                    broken="none", pause=0.0, trials=2)
STUDY = Study("toy", "Errors grow.", dict.fromkeys(SCALES, SMALL), grid, cell, lambda r, p: Figure(),
              lambda r: Verdict(True, "yes"))
"""

pytestmark = pytest.mark.filterwarnings(
    # Of the cluster library itself, when its processes end.
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning:distributed",
)


@pytest.fixture
def name(tmp_path):
    """The user's own study, as `studies.find` takes it."""
    (tmp_path / "mine.py").write_text(TOY)
    return f"{tmp_path}/mine.py:STUDY"


def run(name, out, on=None, report=studies.Report(), **changes):  # noqa: B008 - frozen
    study = studies.find(name)
    settings = studies.override(study.scales["smoke"], changes)
    return store.read(studies.run(study, settings, scale="smoke", seed=0, out=out, report=report, on=on))


def assert_same(one, other):
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


def test_two_workers_give_what_one_process_gives(name, tmp_path):
    alone = run(name, tmp_path / "alone")
    with studies.workers("local:2", name) as on:
        assert_same(run(name, tmp_path / "together", on=on), alone)
        assert on.devices == max(1, studies.cores() // 2)


@pytest.mark.slow
def test_a_lost_worker_costs_only_what_it_was_doing(name, tmp_path):
    alone = run(name, tmp_path / "alone")
    with studies.workers("local:2", name) as on:
        killed = []

        def kill_one(amount):
            if not killed:
                killed.append(next(iter(on.client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        report = studies.Report(tick=kill_one)
        found = run(name, tmp_path / "together", on=on, report=report, pause="0.2")
    assert killed
    assert_same(found, alone)


@pytest.mark.slow
def test_a_cell_that_kills_its_process_is_recorded_and_the_others_go_on(name, tmp_path):
    """Two cells a chunk: the chunk takes its workers down, then of its rows one does and the other does not."""
    few = {"defence": "coap", "trials": "1", "epsilon": "0:2.9:30"}
    alone = run(name, tmp_path / "alone", **few)
    with studies.workers("local:2", name) as on:
        found = run(name, tmp_path / "together", on=on, poison="0.3", **few)
    poisoned = found["epsilon"] == 0.3
    assert (found["status"].where(poisoned, drop=True) == "failed").all()
    assert_same(
        found["robust_error"].where(~poisoned, drop=True).to_dataset(),
        alone["robust_error"].where(~poisoned, drop=True).to_dataset(),
    )
    (failure,) = found.attrs["failures"]
    assert failure["cell"] == "defence = coap, trial = 0, epsilon = 0.3"
    assert failure["error"].startswith("KilledWorker")


def test_a_cell_that_cannot_be_traced_ends_the_run_here_and_there(name, tmp_path):
    """It would fail in every cell; what is finished stays saved."""
    with pytest.raises(TypeError, match="not a number"):
        run(name, tmp_path / "here", broken="adversarial")
    with studies.workers("local:1", name) as on, pytest.raises(TypeError, match="not a number"):
        run(name, tmp_path / "there", on=on, broken="adversarial")
    assert set(store.records(tmp_path / "there" / "toy.zarr")) - {store.FIXED}


@pytest.mark.slow
def test_a_local_cluster_without_workers_ends_the_run(name, tmp_path, monkeypatch):
    """Rather than to wait for ever; what was finished is continued."""
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    with studies.workers("local:1", name) as on:
        report = studies.Report(tick=lambda amount: on.client.cluster.scale(0))
        with pytest.raises(cluster.ClusterError, match="no worker of the local cluster is left"):
            run(name, tmp_path / "results", on=on, report=report, pause="0.3")
    records = set(store.records(tmp_path / "results" / "toy.zarr"))
    assert len(records) > 1
    assert_same(run(name, tmp_path / "results", pause="0.3"), run(name, tmp_path / "alone", pause="0.3"))


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_run_with_everything_saved(name, tmp_path):
    scheduler = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(tmp_path / "scheduler.json"),
        ],
        stderr=subprocess.DEVNULL,
    )
    workers = []
    try:
        address = wait_for_address(tmp_path / "scheduler.json")
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        workers = [subprocess.Popen(worker, stderr=subprocess.DEVNULL, cwd=tmp_path)]
        report = studies.Report(tick=lambda amount: scheduler.kill())
        with pytest.raises(cluster.ClusterError, match="scheduler"):
            run_on(address, name, tmp_path / "results", report)
    finally:
        for process in (scheduler, *workers):
            process.kill()
            process.wait()
    path = tmp_path / "results" / "toy.zarr"
    assert 0 < len(store.records(path)) < 7
    assert_same(run(name, tmp_path / "results", pause="0.5"), run(name, tmp_path / "alone", pause="0.5"))


def run_on(address, name, out, report):
    with studies.workers(address, name) as on:
        on.client.wait_for_workers(1, timeout=60)
        run(name, out, on=on, report=report, pause="0.5")


def wait_for_address(file):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if file.exists() and file.read_text().strip():
            return json.loads(file.read_text())["address"].removeprefix("tcp://")
        time.sleep(0.1)
    raise TimeoutError("no scheduler")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("local:0", "local:N with N >= 1"),
        ("local:many", "local:N with N >= 1"),
        ("somewhere", "give local:N, or the scheduler's address"),
    ],
)
def test_impossible_address(name, address, why):
    with pytest.raises(cluster.ClusterError, match=why), studies.workers(address, name):
        pass


@pytest.mark.slow
def test_nobody_answers(name):
    with pytest.raises(cluster.ClusterError, match="no scheduler answers"), studies.workers("127.0.0.1:1", name):
        pass


def test_without_the_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "distributed", None)
    needs = pytest.raises(cluster.ClusterError, match=r"pip install 'simulator\[cluster\]'")
    with needs, studies.workers("local:1", name):
        pass
