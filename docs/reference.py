"""The reference: a page of Markdown per public module, made from its source and docstrings without importing it."""

import ast
import copy
import inspect
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

PACKAGE = "simulator"
FENCE = ":" * 6
"""Of the outermost directive; what lies within has fewer colons."""
BARE = ("eqx.Module", "abc.ABC", "Protocol")
"""Bases that say nothing to a reader."""


@dataclass(frozen=True)
class Found:
    """A public name: where it is defined, and its docstring."""

    name: str
    node: ast.stmt
    docstring: str
    home: str
    """The module that defines it, dotted."""
    module: ast.Module
    """That module."""

    def written(self, node: ast.expr | ast.arguments) -> str:
        """An annotation or a list of arguments as text, with the names of the package in full."""
        return ast.unparse(_Qualified(self.home, self.module).visit(copy.deepcopy(node)))


class _Qualified(ast.NodeTransformer):
    """Puts the module before names of the package: two modules may have one of the same name."""

    def __init__(self, home: str, module: ast.Module):
        self.known = {name: f"{home}.{name}" for name, _, _ in definitions(module.body)}
        for node in module.body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
                self.known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.known.get(node.id, node.id))


def version(root: Path) -> str:
    """The version of the package, from the one place that holds it."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]


@cache
def tree(root: Path, dotted: str) -> ast.Module:
    """The parsed source of a module of the package."""
    path = root.joinpath(*dotted.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def public_modules(root: Path) -> list[str]:
    """The dotted names in the `__all__` of the package, each before those of the packages inside of it."""
    found = []
    for name in listed(tree(root, PACKAGE)) or ():
        inside = sorted((root / PACKAGE / name).glob("*/__init__.py"))
        found += [f"{PACKAGE}.{name}", *(f"{PACKAGE}.{name}.{path.parent.name}" for path in inside)]
    return found


def listed(module: ast.Module) -> list[str] | None:
    """The `__all__` of a module, None if it has none."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def public_names(root: Path, dotted: str) -> list[Found]:
    """What a module offers: its `__all__`, else whatever it defines without a leading underscore."""
    module = tree(root, dotted)
    names = listed(module)
    if names is None:
        names = [name for name, _, _ in definitions(module.body) if not name.startswith("_")]
    return [find(root, dotted, name) for name in names]


def definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt, str]]:
    """(name, statement, docstring) of the functions, classes and values defined in a module or class."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node, ast.get_docstring(node) or ""
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node, text_of(after)
            case ast.Assign(targets=[ast.Tuple(elts=elements)]):
                yield from ((ast.unparse(one), node, text_of(after)) for one in elements)


def text_of(node: ast.stmt | None) -> str:
    """A statement that is nothing but a text, which documents the value before it; "" for any other."""
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return inspect.cleandoc(text)
    return ""


def find(root: Path, dotted: str, name: str) -> Found:
    """The definition of a name of a module, wherever it is imported from.  Raises `LookupError` if there is none."""
    module = tree(root, dotted)
    for defined, node, docstring in definitions(module.body):
        if defined == name:
            return Found(name, node, docstring, dotted, module)
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return find(root, node.module, alias.name)
    raise LookupError(f"{dotted} has no {name}")


def undocumented(root: Path) -> list[str]:
    """Public names, dotted, without a docstring; fields of classes may be explained in that of the class."""
    return [
        f"{dotted}.{found.name}"
        for dotted in public_modules(root)
        for found in public_names(root, dotted)
        if not found.docstring
    ]


# ---- pages ----


def write(root: Path, folder: Path) -> None:
    """Write the pages, and the list of them, into a folder that holds nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [dotted.removeprefix(f"{PACKAGE}.") for dotted in public_modules(root)]
    for name in names:
        (folder / f"{name}.md").write_text(page(root, f"{PACKAGE}.{name}"))
    rows = [f"| [{name}]({name}.md) | {summary(root, name)} |" for name in names]
    text = ["# Reference", "", "| module | |", "|---|---|", *rows, "", "```{toctree}", ":hidden:", ""]
    (folder / "index.md").write_text("\n".join([*text, *names, "```", ""]))


def summary(root: Path, name: str) -> str:
    """The first sentence of a module, on one line."""
    return " ".join((ast.get_docstring(tree(root, f"{PACKAGE}.{name}")) or "").split("\n\n")[0].split())


def page(root: Path, dotted: str) -> str:
    """The page of a module: its docstring, then each of its public names."""
    lines = [
        f"# {dotted}",
        "",
        f"```{{py:module}} {dotted}",
        "```",
        "",
        ast.get_docstring(tree(root, dotted)) or "",
        "",
    ]
    for found in public_names(root, dotted):
        file = f"{found.home.replace('.', '/')}.py, line {found.node.lineno}"
        lines += entry(root, replace(found, docstring=f"{found.docstring}\n\nCode: {file}."))
    return "\n".join(lines)


def entry(root: Path, found: Found) -> list[str]:
    """A public name as a directive, with its docstring and, of a class, its members."""
    match found.node:
        case ast.ClassDef():
            return class_entry(root, found)
        case ast.FunctionDef():
            return [*directive("function", found.name + signature(found, found.node), found.docstring), ""]
        case _:
            return [*directive("data", found.name, found.docstring, *type_of(found, found.node)), ""]


def directive(kind: str, head: str, docstring: str, *options: str, colons: str = FENCE) -> list[str]:
    """A description of one name."""
    return [f"{colons}{{py:{kind}}} {head}", *options, "", docstring, colons]


def type_of(found: Found, node: ast.stmt) -> list[str]:
    """The annotation of a value, or the result of a property, as an option of its directive."""
    annotation = node.returns if isinstance(node, ast.FunctionDef) else getattr(node, "annotation", None)
    return [f":type: {found.written(annotation)}"] if annotation else []


def signature(found: Found, node: ast.FunctionDef, bound: bool = False) -> str:
    """(arguments) -> result, as they are annotated in the source; `bound` leaves out the first argument."""
    arguments = found.written(node.args)
    if bound:
        arguments = arguments.partition(", ")[2]
    return f"({arguments})" + (f" -> {found.written(node.returns)}" if node.returns else "")


def class_entry(root: Path, found: Found) -> list[str]:
    """A class: how it is made, what it is, its fields and its public methods."""
    members = members_of(root, found)
    fields = [(name, one, text) for name, one, text in members if isinstance(one, ast.AnnAssign) and name[0] != "_"]
    start = next((one for name, one, _ in members if name == "__init__"), None)
    arguments = signature(found, start, bound=True) if start else f"({', '.join(map(argument, fields))})"
    lines = [f"{FENCE}{{py:class}} {found.name}{arguments}", "", found.docstring, ""]
    bases = [base for base in map(ast.unparse, found.node.bases) if base not in BARE and base[0] != "_"]
    lines += [f"Derives from {', '.join(f'`{base}`' for base in bases)}.", ""] if bases else []
    lines += [ast.get_docstring(start) or "", ""] if start else []
    for name, one, text in fields:
        lines += directive("attribute", name, text, *type_of(found, one), colons=FENCE[1:])
    for name, one, text in members:
        # A method without a docstring has that of the class it derives from.
        if isinstance(one, ast.FunctionDef) and not name.startswith("_") and text:
            lines += method_entry(found, one, text)
    return [*lines, FENCE, ""]


def members_of(root: Path, found: Found) -> list[tuple[str, ast.stmt, str]]:
    """The definitions in a class and, unless it has one of the same name, in the private classes it derives from."""
    private = [base for base in map(ast.unparse, found.node.bases) if base.startswith("_")]
    above = [member for base in private for member in members_of(root, find(root, found.home, base))]
    return list({member[0]: member for member in [*above, *definitions(found.node.body)]}.values())


def method_entry(found: Found, node: ast.FunctionDef, docstring: str) -> list[str]:
    """A method or property of a class."""
    marks = [mark for mark in map(ast.unparse, node.decorator_list) if mark in ("classmethod", "staticmethod")]
    if "property" in map(ast.unparse, node.decorator_list):
        return directive("property", node.name, docstring, *type_of(found, node), colons=FENCE[1:])
    head = node.name + signature(found, node, bound="staticmethod" not in marks)
    return directive("method", head, docstring, *(f":{mark}:" for mark in marks), colons=FENCE[1:])


def argument(field: tuple[str, ast.stmt, str]) -> str:
    """A field as an argument of the constructor that a dataclass gets."""
    name, node, _ = field
    return name if node.value is None or "converter" in ast.unparse(node.value) else f"{name}=..."
