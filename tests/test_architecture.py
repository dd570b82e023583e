"""Who may import whom, how large a file may get, and what must be documented: held on the parsed source."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "simulator"
FILES = {str(file.relative_to(PACKAGE)): file for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text()) for name, file in FILES.items()}
HARNESS = {"sweep", "store", "cluster", "plots", "trials"}
MODULES = {Path(name).parts[0].removesuffix(".py") for name in FILES} - {"__init__"}
MAY_IMPORT = {
    "data": set(),
    "threats": set(),
    "networks": set(),
    "trials": set(),
    "store": set(),
    "images": {"data"},
    "bounds": {"networks", "threats"},
    "attacks": {"networks", "threats"},
    "losses": {"bounds", "attacks", "networks", "threats"},
    "defences": {"attacks", "catalogue", "losses"},
    "metrics": {"bounds", "attacks", "networks", "threats", "data"},
    "train": {"data", "networks", "losses", "threats", "metrics"},
    "gap": {"bounds", "attacks", "networks", "threats", "losses"},
    "span": {"data", "networks", "losses", "threats", "train"},
    "image_training": {"attacks", "networks", "losses", "threats", "train"},
    "image_evaluation": {"attacks", "bounds", "networks", "threats", "metrics"},
    "cascade": {"bounds", "attacks", "networks", "losses", "threats", "train"},
    "theory": {"data", "threats"},
    "verification": {"bounds", "attacks", "networks", "threats"},
    "sweep": set(),
    "cluster": set(),
    "plots": {"trials"},
    "studies": MODULES - {"cli", "console", "explorer", "refusal", "startup"},
    # The other bridge: defences trained live, and a figure of its own.
    "explorer": {
        *{"attacks", "data", "defences", "metrics", "networks", "threats", "train", "plots"},
        *{"catalogue", "refusal", "startup"},
    },
    "catalogue": set(),
    "__init__": set(),
    "__main__": {"catalogue", "cli", "explorer"},
    "refusal": set(),
    "startup": set(),
    # Besides these only the error a grid raises, to print it.
    "console": {"studies"},
    "cli": {"catalogue", "console", "explorer", "images", "refusal", "startup", "studies", "store", "plots", "sweep"},
}
HOME = {
    "matplotlib": {"plots"},
    "zarr": {"store"},
    **{f"scipy.{part}": {"theory", "verification"} for part in ("optimize", "sparse")},
    **{library: {"cluster"} for library in ("dask", "distributed")},
    "orbax": {"image_training"},
    **{library: {"explorer"} for library in ("marimo", "uvicorn")},
    **{library: {"images"} for library in ("pooch", "PIL", "requests", "tarfile")},
    "cyclopts": {"cli", "explorer", "refusal"},
    **{library: {"cli"} for library in ("argparse", "tomllib")},
    "rich": {"cli", "console"},
}


def module_of(name):
    """The module or package of the table that a file belongs to."""
    return Path(name).parts[0].removesuffix(".py")


def imports(name):
    """Dotted names of everything a file imports, functions included: `from a import b` is a.b."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} uses a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(name):
    return [node for node in ast.walk(TREES[name]) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def body_lines(function):
    """Lines of a function without its docstring."""
    text = function.body[0] if ast.get_docstring(function) is not None else None
    return function.end_lineno - function.lineno + 1 - (text.end_lineno - text.lineno + 1 if text else 0)


def test_every_module_has_a_row_in_the_table():
    assert set(MAY_IMPORT) == MODULES | {"__init__"}


@pytest.mark.parametrize("name", FILES)
def test_imports_of_the_package_follow_the_table(name):
    own = module_of(name)
    used = {dotted.split(".")[1] for dotted in imports(name) if dotted.startswith("simulator.")} - {own}
    assert used <= MAY_IMPORT[own], f"{name} may not import {used - MAY_IMPORT[own]}"
    assert "simulator" not in imports(name), f"{name} imports the whole package"


def test_harness_knows_nothing_of_the_domain():
    """A consequence of the table, said once so that a change of the table cannot lose it."""
    assert all(MAY_IMPORT[name] <= HARNESS for name in HARNESS)


def test_command_line_takes_only_the_error_from_sweep():
    assert {d for d in imports("cli.py") if d.startswith("simulator.sweep")} <= {"simulator.sweep.GridError"}


@pytest.mark.parametrize("name", FILES)
def test_libraries_stay_in_their_module(name):
    # The type of a figure, for an annotation, is no drawing.
    found = {d for d in imports(name) if d != "matplotlib.figure.Figure" or name != "studies/study.py"}
    strangers = {
        d for d in found for library, homes in HOME.items() if is_in(d, library) if module_of(name) not in homes
    }
    assert not strangers


def test_the_page_of_the_explorer_only_wires_its_controls():
    """What computes or draws is in modules that can be tested without a browser."""
    used = set(imports("explorer/page.py"))
    assert used == {"marimo", "simulator.explorer", "simulator.plots"}
    assert "marimo" not in {
        dotted for name in FILES if name != "explorer/page.py" for dotted in top_level_imports(name)
    }


def top_level_imports(name):
    return [alias.name for node in TREES[name].body if isinstance(node, ast.Import) for alias in node.names]


def is_in(dotted, library):
    return dotted == library or dotted.startswith(f"{library}.")


@pytest.mark.parametrize("name", FILES)
def test_no_private_parts_of_jax(name):
    attributes = {ast.unparse(node) for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)}
    # Of jax.core only the class of traced values is public.
    private = re.compile(r"(jax\.(core\.(?!Tracer$)|_\w+|interpreters)|jaxlib)(\.|$|\w)")
    assert not [dotted for dotted in (*imports(name), *attributes) if private.match(dotted)]


def test_import_leaves_jax_untouched():
    """No array or key is made on import: the number of devices can still be set, so no backend has been started."""
    lines = (
        "import pkgutil, importlib, simulator, jax",
        "for one in pkgutil.walk_packages(simulator.__path__, 'simulator.'): importlib.import_module(one.name)",
        "jax.config.update('jax_num_cpu_devices', 3)",
        "print(len(jax.devices('cpu')))",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("3", 0), done.stderr


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name):
    assert len(FILES[name].read_text().splitlines()) <= 400
    long = {function.name: body_lines(function) for function in functions(name) if body_lines(function) > 60}
    assert not long


@pytest.mark.parametrize(
    "name", ["simulator", "simulator.studies", "simulator.plots", "simulator.plots.figures", "simulator.explorer"]
)
def test_public_names_are_sorted_and_exist(name):
    module = importlib.import_module(name)
    # Constants, then classes, then the rest, as the linter sorts them.
    order = sorted(module.__all__, key=lambda one: (not one.isupper(), not one[0].isupper(), one))
    assert list(module.__all__) == order
    assert len(set(order)) == len(order)
    assert all(hasattr(module, one) for one in module.__all__)


CLASSES = {node.name: node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def documented(node, owner=None):
    """Whether a definition has a docstring, or its method has one in a class it derives from."""
    above = ancestors(owner) if owner else []
    same = [method for base in above for method in base.body if getattr(method, "name", "") == node.name]
    return any(ast.get_docstring(one) is not None for one in (node, *same))


def ancestors(owner):
    bases = [CLASSES[b.id] for b in owner.bases if isinstance(b, ast.Name) and b.id in CLASSES]
    return [*bases, *(further for base in bases for further in ancestors(base))]


def public(body):
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


@pytest.mark.parametrize("name", FILES)
def test_public_names_are_documented(name):
    assert ast.get_docstring(TREES[name])
    top = public(TREES[name].body)
    missing = [node.name for node in top if not documented(node)]
    classes = [node for node in top if isinstance(node, ast.ClassDef)]
    missing += [f"{one.name}.{node.name}" for one in classes for node in public(one.body) if not documented(node, one)]
    assert not missing


def names_in_code(tree):
    """Every identifier of a file, and the words of its texts other than docstrings."""
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield from value.split(".")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield from re.findall(r"\w+", node.value)


KNOWN = {one for tree in TREES.values() for one in names_in_code(tree)} | {Path(name).stem for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_docstrings_name_only_what_exists(name):
    """`names` in backticks, the arguments above all, must still be somewhere in the code."""
    texts = [node.value.value for node in ast.walk(TREES[name]) if is_docstring(node)]
    mentioned = {one for text in texts for one in re.findall(r"`([A-Za-z_]\w*)=?`", text)}
    assert not mentioned - KNOWN


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_no_file_names_a_machine():
    """No path of somebody's home, no package index: this repository works on every machine alike."""
    # Put together here, so that this file does not contain them.
    forbidden = [
        "/" + "work/",
        "py" + "pi.",
        "index" + "-url",
        *(f"/{home}" + "/" for home in ("home", "Users", "root")),
    ]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    found = {(file.name, word) for file in files for word in forbidden if word.encode() in file.read_bytes().lower()}
    assert not found
