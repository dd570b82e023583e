"""One program over the devices of several processes, joined by `jax.distributed`."""

import socket
import subprocess
import sys
import textwrap

import jax.random as jr
import numpy as np

from simulator import sweep

CODE = """
import sys
import jax
number, port = int(sys.argv[1]), sys.argv[2]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number, heartbeat_timeout_seconds=10)
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from simulator import sweep

def prepare(coords, key):
    return jr.normal(key, (3,))

def run(coords, key, shared):
    return {"y": coords["x"] * jnp.sum(shared), "own": jr.uniform(key)}

assert sweep.devices() == 4
grid = sweep.Grid({"x": (1.0, 2.0, 4.0)}, trials=3)
found = sweep.run(grid, sweep.Staged(prepare, run), jr.key(5))
np.savez(sys.argv[3], **{name: found[name].values for name in ("y", "own")}, status=found["status"].values.astype(str))
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_share_one_program_and_both_have_the_whole_result(tmp_path):
    """Values of a grid whose rows are spread over 2 x 2 devices: those of the formula, to rounding, in both."""
    port, files = free_port(), [tmp_path / f"{number}.npz" for number in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CODE), str(number), str(port), str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, file in enumerate(files)
    ]
    try:
        ended = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], ended
    keys = [sweep.trial_key(jr.key(5), trial) for trial in range(3)]
    sums = [float(jr.normal(key, (3,)).sum()) for key in keys]
    for file in files:
        with np.load(file) as found:
            assert np.all(found["status"] == "ok")
            np.testing.assert_allclose(found["y"], np.outer([1, 2, 4], sums), rtol=1e-5)
            np.testing.assert_allclose(found["own"], [[float(jr.uniform(key)) for key in keys]] * 3, rtol=1e-6)
