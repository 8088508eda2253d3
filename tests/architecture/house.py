"""Reads the source of taskq with `ast` only: modules, imports, functions, sizes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "taskq"


@dataclass
class Import:
    """One module imported by another."""

    target: str
    line: int
    in_function: bool


@dataclass
class Module:
    """One file of the package."""

    name: str
    path: Path
    tree: ast.Module
    lines: int
    imports: list[Import] = field(default_factory=list)


@cache
def modules() -> dict[str, Module]:
    found: dict[str, Module] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, path, ast.parse(text), len(text.splitlines()))
    for module in found.values():
        module.imports = list(_imports(module, set(found)))
    return found


def _imports(module: Module, known: set[str]) -> Iterator[Import]:
    for node, in_function in _walk(module.tree, in_function=False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in known else base, node.lineno, in_function)


def _walk(node: ast.AST, in_function: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes that run, with whether they stand in a function; not what only checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from _walk(other, in_function)
            continue
        inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield child, inside
        yield from _walk(child, inside)


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Length of a function; its signature counts as one line."""
    assert node.end_lineno is not None
    return node.end_lineno - node.body[0].lineno + 2


def nesting(node: ast.AST) -> int:
    """How deep blocks stand inside one another; an elif is as deep as its if."""
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith)
    deepest = 0
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            is_elif = name == "orelse" and isinstance(node, ast.If) and isinstance(child, ast.If)
            step = 1 if isinstance(child, blocks) and not is_elif else 0
            deepest = max(deepest, step + nesting(child))
    return deepest


def is_standard_library(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names
