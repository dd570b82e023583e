"""What is released: one version everywhere, and a wheel that works where there is nothing but its dependencies."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from simulator import __main__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UV = Path(sys.executable).parent / "uv"


def test_the_version_is_the_same_everywhere(capsys):
    cited = re.search(r"(?m)^version: (.+)$", (ROOT / "CITATION.cff").read_text())[1]
    newest = re.search(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text())[1]
    assert __main__.main(["--version"]) == 0
    assert {cited, newest, capsys.readouterr().out.strip()} == {PROJECT["version"]}
    # That of pyproject.toml is the only one in the package's own code.
    assert not [path for path in (ROOT / "simulator").rglob("*.py") if PROJECT["version"] in path.read_text()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the source distribution and of the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--quiet", "--out-dir", folder, ROOT], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.ci
def test_the_source_distribution_holds_the_project(built):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    assert wanted - held == set()
    # And what the build adds.
    assert held - wanted == {"PKG-INFO"}


@pytest.fixture
def installed(built, tmp_path):
    """The interpreter of an environment that holds the wheel and its dependencies, in the versions of this one."""
    (wheel,) = built.glob("*.whl")
    python, constraints = tmp_path / "env" / "bin" / "python", tmp_path / "constraints.txt"
    freeze = [UV, "pip", "freeze", "--quiet", "--python", sys.executable, "--exclude-editable"]
    constraints.write_text(subprocess.run(freeze, capture_output=True, text=True, check=True).stdout)
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env"], check=True)
    install = [UV, "pip", "install", "--quiet", "--python", python, "--constraints", constraints]
    subprocess.run([*install, wheel], check=True)
    return python


@pytest.mark.slow
@pytest.mark.ci
def test_the_wheel_reproduces_the_core_studies_in_an_empty_environment(installed, tmp_path):
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    clean = {name: value for name, value in os.environ.items() if name not in ours} | {"HOME": str(tmp_path / "home")}
    work = tmp_path / "work"
    work.mkdir()

    def call(*command):
        return subprocess.run(command, cwd=work, env=clean, capture_output=True, text=True, check=False)

    where = call(installed, "-c", "import simulator; print(simulator.__file__)").stdout.strip()
    assert Path(where).is_relative_to(tmp_path / "env")
    done = call(installed.with_name("simulator"), "reproduce", "--scale", "smoke")
    assert done.returncode == 0, done.stderr
    assert "all complete: 4 studies" in done.stdout
    names = {one.name for one in (work / "figures").iterdir()}
    assert {"README.md", "published.md", "alignment.svg", "picture.png"} <= names
