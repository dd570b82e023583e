"""How `make docs` builds the documentation: every page of it is a file of the repository, or made from docstrings."""

import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import reference  # noqa: E402 - found through the line above

project = "simulator"
author = "The simulator authors"
copyright = author
release = reference.version(ROOT)

extensions = ["myst_nb"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "figures/**.md", "benchmarks/README.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "dist", "results", "simulator", "tests"]

# Docstrings and pages are Markdown; links may point to headings.
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# Notebooks are read with the outputs they were committed with.
nb_execution_mode = "off"

html_theme = "furo"
html_title = f"simulator {release}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["math.css"]
# Types in signatures are written as the source has them, but link to where they are described.
python_use_unqualified_type_names = True


def formula(latex: str, display: str) -> str:
    """A formula as MathML, which browsers draw themselves: no script, no font, no network.

    Raises `ValueError` for a command that is not known: it would be left as it is.
    """
    # The one command of ours the converter lacks.
    found = convert(latex.replace(r"\arg", r"\operatorname{arg}"), display=display)
    if "\\" in found:
        raise ValueError(f"the formula {latex!r} has a command that cannot be rendered: write it another way")
    return found


def visit_inline(self, node) -> None:
    """Write a formula within a line."""
    self.body.append(formula(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(self, node) -> None:
    """Write a formula on a line of its own."""
    self.body.append(f'<div class="math">{formula(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def open_at_index(app, error) -> None:
    """Let the folder open at its first page, which is not at the top of it."""
    if error is None:
        target = app.builder.get_target_uri(root_doc)
        Path(app.outdir, "index.html").write_text(
            f'<!DOCTYPE html><html lang="en"><title>{project}</title>'
            f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">{project}</a></html>\n'
        )


def setup(app) -> None:
    """Write the pages of the reference before any page is read, and render formulas as MathML."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("builder-inited", lambda app: reference.write(ROOT, ROOT / "docs" / "reference"))
    app.connect("build-finished", open_at_index)
