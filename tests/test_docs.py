"""The documentation: every public name is in it, every example of it runs, every link of it leads somewhere."""

import ast
import html
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

import simulator

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
reference = importlib.util.module_from_spec(SPEC)
# Dataclasses look their module up by name.
sys.modules["reference"] = reference
SPEC.loader.exec_module(reference)

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "figures/**/*.md", "benchmarks/*.md", "notebooks/*.ipynb")
    for path in ROOT.glob(pattern)
)
MODULES = sorted((ROOT / "simulator").rglob("*.py"))
FENCED = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


# ---- public names ----


def test_every_public_name_is_documented():
    assert reference.undocumented(ROOT) == []


def test_a_name_without_a_docstring_is_found(tmp_path):
    (tmp_path / "simulator").mkdir()
    (tmp_path / "simulator" / "__init__.py").write_text('__all__ = ["a"]')
    (tmp_path / "simulator" / "a.py").write_text(
        'from simulator.b import D\n__all__ = ["C", "D", "f", "x", "y"]\nx = 1\ny = 2\n"""Two."""\n'
        'def f():\n    """Yes."""\nclass C:\n    z = 1\n'
    )
    (tmp_path / "simulator" / "b.py").write_text("D = 3\n")
    assert reference.undocumented(tmp_path) == ["simulator.a.C", "simulator.a.D", "simulator.a.x"]


def test_packages_inside_of_modules_have_pages_too():
    found = reference.public_modules(ROOT)
    assert [one for one in found if one.count(".") > 1] == ["simulator.plots.figures"]
    assert len(found) == len(simulator.__all__) + 1


@pytest.mark.parametrize("name", reference.public_modules(ROOT))
def test_the_reference_lists_what_a_module_offers(name):
    found = {one.name for one in reference.public_names(ROOT, name)}
    module = importlib.import_module(name)
    assert all(hasattr(module, one) for one in found)
    own = {one for one, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    assert {one for one in getattr(module, "__all__", own) if not one.startswith("_")} <= found
    page = reference.page(ROOT, name)
    heads = re.findall(r"^:::+{py:(?:class|function|data)} (\w+)", page, re.MULTILINE)
    assert sorted(heads) == sorted(found)


def test_a_signature_is_as_in_the_source():
    page = reference.page(ROOT, "simulator.attacks")
    typed = "network: simulator.networks.Network, threat: simulator.threats.Threat"
    assert f"{{py:function}} fgsm({typed}, x, label, objective: " in page


# ---- examples ----


def docstrings(path):
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, nodes)]


EXAMPLES = [
    pytest.param(code, id=f"{path.relative_to(ROOT / 'simulator')}")
    for path in MODULES
    for text in docstrings(path)
    for _, code in FENCED.findall(text)
]


def test_there_are_examples_and_all_of_them_run_in_a_test():
    assert len(EXAMPLES) >= 3
    # Those of the README are run by test_readme.py, those of the how-tos by test_how_to.py; nothing else has any.
    elsewhere = [path.name for path in PAGES if path.suffix == ".md" and FENCED.search(path.read_text())]
    assert elsewhere == ["README.md"]
    assert not [path for path in MODULES if ">>>" in path.read_text()]


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_of_a_docstring_runs(code):
    assert "assert " in code
    exec(compile(code, "example", "exec"), {})


# ---- links ----

LINK = re.compile(r"\]\(([^()\s]+(?:\([^()]*\))?[^()\s]*)\)")
OUTSIDE = re.compile(r"[a-z]+:")


def text_of(path):
    """The Markdown of a page, without code."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text()
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """What links may point to: headings in lower case, with hyphens for spaces and without punctuation."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path):
    """The links of a page to files or headings of the repository that are not there."""
    found = []
    for target in LINK.findall(text_of(path)):
        file, _, anchor = unquote(target).partition("#")
        there = (path.parent / file).resolve() if file else path
        # What is made at each build is checked with it.
        made = there.is_relative_to(ROOT / "docs" / "reference")
        if not OUTSIDE.match(target) and not made and (not there.exists() or (anchor and anchor not in anchors(there))):
            found.append(target)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_and_headings_lead_there(path):
    assert broken(path) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# One: heading\n")
    links = ["other.md#one-heading", "other.md#two", "gone.md", "#top", "#bottom", "https://x"]
    (tmp_path / "page.md").write_text("# Top\n`[g](h)` " + " ".join(f"[a]({link})" for link in links))
    assert broken(tmp_path / "page.md") == ["other.md#two", "gone.md", "#bottom"]


# ---- the built pages ----


class Page(HTMLParser):
    """The links, places and loaded files of an HTML page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids = [], [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given.get("id"), given.get("name")}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script", "source") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") not in ("author", "index", "search", "next", "prev", "canonical"):
            self.loads.append(given["href"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Path -> page of the documentation, built from scratch with warnings as errors."""
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", out / "cache", "-c", ROOT / "docs"]
    done = subprocess.run([*command, ROOT, out / "html"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path: Page(path.read_text()) for path in (out / "html").rglob("*.html")}


@pytest.mark.slow
@pytest.mark.ci
def test_the_built_pages_are_whole(built):
    top = min((path.parent for path in built), key=lambda folder: len(folder.parts))
    lost, fetched = [], []
    for path, page in built.items():
        for target in page.links:
            file, _, anchor = unquote(html.unescape(target)).partition("#")
            there = (path.parent / file).resolve() if file else path
            if OUTSIDE.match(target):
                continue
            if not there.exists() or (there in built and anchor not in built[there].ids):
                lost.append((path.name, target))
        for target in page.loads:
            # Scripts and styles have their digest behind a question mark.
            file = path.parent / target.partition("?")[0]
            if OUTSIDE.match(target) or target.startswith("//") or not file.exists():
                fetched.append((path.name, target))
    assert (lost, fetched) == ([], [])
    names = {f"simulator.{one}.{found.name}" for one in simulator.__all__ for found in public_of(one)}
    described = set().union(*(page.ids for path, page in built.items() if path.parent.name == "reference"))
    assert names - described == set()
    assert {f"{path.stem}.html" for path in PAGES if path.suffix == ".ipynb"} == {
        path.name for path in built if path.parent == top / "notebooks"
    }
    lesson = (top / "notebooks" / "2_the_inner_maximum.html").read_text()
    assert lesson.count("<math") > 10
    assert "\\max" not in re.sub(r"<script.*?</script>|<pre.*?</pre>", "", lesson, flags=re.DOTALL)


def public_of(name):
    return reference.public_names(ROOT, f"simulator.{name}")
