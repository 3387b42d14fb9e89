"""Scaffold: a new plugin as a whole distribution, with one component that works and tests that pass.

What is written lies in ``templates``: ``common`` is for every kind, and a folder for each kind holds the component, its
tests and what the README says of it. Names go in place of ``{{these}}``.
"""

from __future__ import annotations

import ast
import builtins
import collections
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path

from mtlkit.errors import ConfigError, Problem, StorageError
from mtlkit.hookspecs import BASES, SINGULAR
from mtlkit.registry.distributions import recommended_requirement
from mtlkit.scaffold.names import Names

__all__ = ["KINDS", "Names", "scaffold"]

KINDS = {SINGULAR[group]: group for group in BASES}
"""The kinds that can be begun, in a word each, with the entry-point group's ending."""

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def scaffold(
    name: str, *, kind: str = "task", component: str | None = None, folder: str | Path | None = None
) -> list[Path]:
    """Write a new plugin into a folder of its own, ``folder/name``.

    Args:
        name: The distribution's name; the module's follows from it: acme-mtl has acme_mtl.
        kind: What it provides: ``task``, ``encoder``, ``strategy`` or ``architecture``.
        component: The component's name; derived from the distribution's by default: acme-mtl has acme.
        folder: Where its folder goes; the current one by default.

    Returns:
        The files, in the order that they were written in.

    Raises:
        ConfigError: If a name cannot be used, or the folder exists and is not empty. Nothing is written then.
        StorageError: If the files cannot be written. What was written of them is removed.
    """
    if kind not in KINDS:
        raise ConfigError(Problem(f"Unknown kind '{kind}'", remedy=f"Known: {', '.join(KINDS)}."))
    names = Names.of(name, component)
    texts = _rendered(names, kind)
    _check_bindings(names, texts)
    target = Path(folder or ".") / name
    _check_empty(target)
    return _written(target, texts)


def _rendered(names: Names, kind: str) -> dict[str, str]:
    """Return the text of each file, by its path in the distribution."""
    values = {
        "distribution": names.given,
        "qualified": names.qualified,
        "module": names.module,
        "component": names.component,
        "attribute": names.attribute,
        "Class": names.class_name,
        "kind": kind,
        "article": "an" if kind[0] in "aeiou" else "a",
        "group": KINDS[kind],
        "requirement": recommended_requirement(),
    }
    values["use"] = _template(kind, "use.md.txt", values).strip()
    return {
        "pyproject.toml": _template("common", "pyproject.toml.txt", values),
        "README.md": _template("common", "README.md.txt", values),
        ".gitignore": _template("common", "gitignore.txt", values),
        f"src/{names.module}/__init__.py": _template(kind, "module.py.txt", values),
        f"tests/test_{names.module}.py": _template(kind, "tests.py.txt", values),
    }


def _template(folder: str, file: str, values: Mapping[str, str]) -> str:
    text = resources.files(__name__).joinpath("templates", folder, file).read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: values[place[1]], text)


def _check_bindings(names: Names, texts: Mapping[str, str]) -> None:
    """Refuse a component called like something that the template needs: one of 'tensor' would hide torch's Tensor.

    Raises:
        ConfigError: If its class, or what its entry point leads to, would hide something or be hidden.
    """
    for path, text in texts.items():
        if not path.endswith(".py"):
            continue
        bound = collections.Counter(_bound(ast.parse(text).body))
        for own in (names.class_name, names.attribute):
            if bound[own] > 1 or hasattr(builtins, own):
                owner = path if bound[own] > 1 else "Python"
                what = f"No component can be called '{names.component}' here: '{own}' is something else in {owner}"
                raise ConfigError(Problem(what, remedy="Give it another name: --component NAME."))


def _bound(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield each name that a module binds at its top level, as often as it does."""
    for node in body:
        match node:
            case ast.Import() | ast.ImportFrom():
                yield from {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _check_empty(target: Path) -> None:
    """Refuse to write where something is.

    Raises:
        ConfigError: If something is there that is no empty folder.
        StorageError: If that cannot be seen.
    """
    remedy = "It was left as it is. Take another name, or another folder: --dir FOLDER."
    try:
        if target.is_dir():
            if any(target.iterdir()):
                raise ConfigError(Problem(f"The folder {target} exists already and is not empty", remedy=remedy))
        elif target.exists() or target.is_symlink():
            raise ConfigError(Problem(f"{target} exists already and is no folder", remedy=remedy))
    except OSError as error:
        raise StorageError(f"Cannot look into {target}: {error.strerror}.") from error


def _written(target: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write the files and return them; where one cannot be written, none is left.

    Raises:
        StorageError: If one cannot be written.
    """
    made: list[Path] = []
    try:
        for name, text in texts.items():
            path = target / name
            missing = [each for each in (path.parent, *path.parent.parents) if not each.exists()]
            for each in reversed(missing):
                each.mkdir()
                made.append(each)
            with path.open("x", encoding="utf-8", newline="\n") as file:
                made.append(path)
                file.write(text)
    except BaseException as error:
        for each in reversed(made):
            with contextlib.suppress(OSError):  # a folder that somebody else wrote into stays
                each.rmdir() if each.is_dir() else each.unlink()
        if isinstance(error, OSError):
            raise StorageError(f"Cannot write {error.filename or target}: {error.strerror}.") from error
        raise
    return [target / name for name in texts]
