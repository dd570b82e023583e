"""The Python of the README runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "README.md").read_text(), re.DOTALL)
# The one that needs a queue of jobs is for clusters alone.
HERE = [block for block in BLOCKS if "dask_jobqueue" not in block]


def test_there_are_examples():
    assert len(HERE) == len(BLOCKS) - 1 == 3


@pytest.mark.parametrize("block", HERE, ids=["first", "sandwich", "theory"])
def test_the_examples_run(block):
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "nan" not in done.stdout
