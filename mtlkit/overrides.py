"""Overrides: settings from the command line, laid over a document before it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mtlkit.config import default_label
from mtlkit.errors import ConfigError, Problem, closest
from mtlkit.problems import child
from mtlkit.yamlfile import Document, SettingPath, parse_scalar

__all__ = ["apply_overrides"]

_INSTEAD_OF: dict[SettingPath, SettingPath] = {
    ("training", "epochs"): ("training", "steps"),
    ("training", "steps"): ("training", "epochs"),
    ("training", "epoch_length"): ("training", "steps_per_epoch"),
    ("training", "steps_per_epoch"): ("training", "epoch_length"),
}
_COMPONENTS = ("encoder", "architecture", "strategy", "optimizer", "schedule", "mixing")


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Return the document with ``key.path=value`` settings laid over it; they are checked like the rest later.

    A task is named by its label, its name or its position: ``tasks.digit.weight=2``. Naming another component drops
    the options of the one in the file, and ``training.steps`` takes the place of ``training.epochs``.

    Raises:
        ConfigError: With every override that cannot be read.
    """
    problems: list[Problem] = []
    given: list[tuple[SettingPath, object, str]] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key or not all(key.split(".")):
            remedy = "Overrides look like strategy.name=gradnorm or training.epochs=20."
            problems.append(Problem(f"Cannot read the override '{text}'", remedy=remedy))
            continue
        try:
            given.append((_setting(key, document.data), parse_scalar(value), f"command line: {text}"))
        except ConfigError as error:
            problems += [replace(problem, location=f"command line: {text}") for problem in error.problems]
    named = [path for path, _, _ in given]
    for path, setting, origin in given:
        document = _make_room(document, path, setting, named)
        try:
            document = document.override(path, setting, origin)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return document


def _setting(key: str, data: object) -> SettingPath:
    """Return the path that a key stands for; an item of a list is named by its position, a task by its label too."""
    path: list[str | int] = []
    for part in key.split("."):
        if path == ["tasks"]:
            path.append(_task_position(part, data))
        else:
            path.append(int(part) if part.isdecimal() and isinstance(_at(data, path), list) else part)
    return tuple(path)


def _at(data: object, path: Sequence[str | int]) -> object:
    for part in path:
        data = child(data, part)
    return data


def _task_position(word: str, data: object) -> int:
    tasks = child(data, "tasks")
    names = [_task_names(task) for task in tasks] if isinstance(tasks, list) else []
    for kind in range(2):  # labels first: one may be the name of another task
        for index, each in enumerate(names):
            if each[kind] == word:
                return index
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    known = [label for label, _ in names]
    raise ConfigError(Problem(f"No task '{word}' to override", f"tasks.{word}", remedy=closest(word, known)))


def _task_names(task: object) -> tuple[str, str]:
    """Return a task's label and its name."""
    name = str(task if isinstance(task, str) else child(task, "name"))
    return str(child(task, "label") or default_label(name)), name


def _make_room(document: Document, path: SettingPath, value: object, named: Sequence[SettingPath]) -> Document:
    """Take away what an override replaces without naming it."""
    instead = _INSTEAD_OF.get(path)
    if instead and instead not in named:
        return document.without(instead)
    section = path[0]
    if section in _COMPONENTS and len(path) > 1:
        current = child(document.data, section)
        if isinstance(current, str):  # the short form, `strategy: gradnorm`, made long so that an option fits beside
            document = document.override((section,), {"name": current}, document.location((section,)))
        elif path[1:] == ("name",) and isinstance(current, Mapping) and current.get("name") != value:
            for key in current:
                if (section, key) not in named:
                    document = document.without((section, key))
    if section == "tasks" and len(path) > 2:  # noqa: PLR2004
        task = child(child(document.data, "tasks"), path[1])
        if isinstance(task, str):
            document = document.override(path[:2], {"name": task}, document.location(path[:2]))
    return document
