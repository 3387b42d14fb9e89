"""What a component is, in a line, read from its source text: listing imports no plugin."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from mtlkit.registry import OWN, Record

__all__ = ["summary"]


def summary(record: Record) -> str:
    """Return the first line of the docstring of a component's class; without one, the distribution's own summary."""
    module, _, attribute = record.value.partition(":")
    try:
        text = _docstring(module, attribute)
    except (OSError, SyntaxError, ValueError, ImportError, RecursionError):
        text = None
    if text is None and record.distribution != OWN:
        try:
            text = importlib.metadata.metadata(record.distribution)["Summary"]
        except (importlib.metadata.PackageNotFoundError, KeyError):
            text = None
    return (text or "").strip().partition("\n")[0]


def _parsed(module: str) -> ast.Module | None:
    spec = _spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _is_package(module: str) -> bool:
    spec = _spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Find a module. It asks the import system's finders, package by package, and runs nothing of the module."""
    path: list[str] | None = None
    spec = None
    parts = module.split(".")
    for index in range(len(parts)):
        spec = _find(".".join(parts[: index + 1]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec


def _find(name: str, path: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:  # an editable install brings a finder of its own
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


def _docstring(module: str, attribute: str) -> str | None:
    """Return the docstring of the class or command that `attribute` is or is made of; else the module's."""
    tree = _parsed(module)
    if tree is None:
        return None
    name = next((name for target, name in _calls(tree) if target == attribute), attribute)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = module if _is_package(module) else module.rpartition(".")[0]
                    origin = importlib.util.resolve_name("." * node.level + node.module, package)
                    return _docstring(origin, alias.name)
    return ast.get_docstring(tree)


def _calls(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (target, argument) of each ``target = function(argument)`` at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call) and node.value.args:
            argument = node.value.args[0]
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if isinstance(argument, ast.Name):
                yield from ((target.id, argument.id) for target in targets if isinstance(target, ast.Name))
