"""Every notebook runs from top to bottom, says what it teaches, and uses what is public alone."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.stem[0] != "0"]
EXERCISES = "7_break_it"
QUICK = "1_what_is_an_adversarial_example"
"""The one that the quick suite runs, too."""
SCALE = 'SCALE = "{}"'
LONGEST_CELL = 15
SOLUTION = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
"""Code of a solution, folded in the text of an exercise."""
LOCAL = re.compile(r"(?<![\w.)])/(tmp|var|usr|opt|mnt)/|\b[A-Z]:\\")
"""A path of a machine; those of homes are looked for in every file by tests/test_architecture.py."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def marks_of(path):
    """Of the run of a notebook: one is quick, the others are slow."""
    return [] if path.stem == QUICK else [pytest.mark.slow, pytest.mark.ci]


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def solutions_of(cell):
    """The code that a cell of text hides."""
    return SOLUTION.findall(cell.source) if cell.cell_type == "markdown" else []


def sources_of(notebook):
    """All code, that of the hidden solutions among it."""
    hidden = [source for cell in notebook.cells for source in solutions_of(cell)]
    return [cell.source for cell in code_of(notebook)] + hidden


def solved(notebook):
    """The notebook with every hidden solution as cells of code behind the text that hides it."""
    cells = []
    for cell in notebook.cells:
        cells += [cell, *(nbformat.v4.new_code_cell(source) for source in solutions_of(cell))]
    return nbformat.from_dict({**notebook, "cells": cells})


def complaints(notebook):
    """Errors, and whatever is written to the error stream, warnings among it."""
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    return [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=marks_of(path), id=path.stem) for path in NOTEBOOKS],
)
def test_runs_at_the_smallest_scale(path, tmp_path):
    notebook = solved(read(path))
    for cell in code_of(notebook):
        cell.source = cell.source.replace(SCALE.format("default"), SCALE.format("smoke"))
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert not complaints(notebook)


@every_notebook
def test_outputs_are_committed(path):
    notebook = read(path)
    code = code_of(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert not complaints(notebook)


@every_notebook
def test_holds_no_path_of_a_machine(path):
    notebook = read(path)
    code = code_of(notebook)
    printed = [str(output.get("text", output.get("data", {}))) for cell in code for output in cell.outputs]
    written = [*text_of(notebook), *(cell.source for cell in code), *printed]
    # Pictures are kept as base64, in which every sequence may occur.
    assert not [text for text in written if LOCAL.search(re.sub(r"'image/png': '[^']*'", "", text))]


def test_paths_of_machines_are_found():
    assert all(LOCAL.search(text) for text in ("/mnt/x", 'open("/tmp/x")', "C:\\Users"))
    assert not any(LOCAL.search(text) for text in ("notebooks/tmp/x", "a/b", "y = f(x)/tmp"))


def private_names(source):
    """Names with a leading underscore that a piece of code reads from modules or objects."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found += [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [part for alias in node.names for part in alias.name.split(".")]
    return [name for name in found if name.startswith("_") and not name.endswith("__")]


def test_private_names_are_found():
    assert private_names("from simulator._a import b\nimport c._d\nx = e._f(g.__name__)") == ["_a", "_d", "_f"]


@every_notebook
def test_uses_public_names_alone(path):
    assert not [name for source in sources_of(read(path)) for name in private_names(source)]


@every_lesson
def test_lesson_says_what_it_teaches_and_asks(path):
    text = text_of(read(path))
    assert "**After this you can explain**" in text[0]
    questions, answers = text[-1].split("## Questions")[1].split("<details>")
    numbered = [re.findall(r"(?m)^(\d)\. ", part) for part in (questions, answers)]
    assert numbered[0] == numbered[1]
    assert 3 <= len(numbered[0]) <= 5
    assert text[-1].rstrip().endswith("</details>")


@every_lesson
def test_lesson_has_one_scale_and_short_cells(path):
    sources = sources_of(read(path))
    assert sum(source.count(SCALE.format("default")) for source in sources) == 1
    assert sources[0].startswith(SCALE.format("default"))
    assert max(len(source.splitlines()) for source in sources) <= LONGEST_CELL


def test_there_are_seven_lessons():
    assert [path.stem[0] for path in LESSONS] == list("1234567")


def test_every_exercise_has_one_folded_solution_that_asserts_its_claim():
    cells = read(next(path for path in LESSONS if path.stem == EXERCISES)).cells
    asked = [at for at, cell in enumerate(cells) if "## Exercise" in cell.source]
    assert len(asked) == 4
    for first, last in zip(asked, [*asked[1:], len(cells)], strict=True):
        found = [cell for cell in cells[first:last] if solutions_of(cell)]
        assert len(found) == 1
        # Folded as a whole: nothing is shown before it is opened.
        assert found[0].source.startswith("<details><summary>Solution</summary>\n")
        assert found[0].source.endswith("</details>")
        statements = [node for source in solutions_of(found[0]) for node in ast.walk(ast.parse(source))]
        assert any(isinstance(node, ast.Assert) for node in statements)


def test_hidden_solutions_are_run():
    text = nbformat.v4.new_markdown_cell("<details>\n\n```python\na = 1\n\nb = 2\n```\n\n</details>")
    notebook = nbformat.v4.new_notebook(cells=[text, nbformat.v4.new_code_cell("c = 3")])
    assert [cell.source for cell in code_of(solved(notebook))] == ["a = 1\n\nb = 2", "c = 3"]
    assert sources_of(notebook) == ["c = 3", "a = 1\n\nb = 2"]
