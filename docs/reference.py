"""Write what the docs hold of the code: the contracts, hooks and commands, and the tables of encoders and strategies.

Run it by ``make reference``; a test compares the files with what it would write.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
from click.testing import CliRunner

import mtlkit
from mtlkit.cli import main as command_line
from mtlkit.data import MapSplit, StreamSplit
from mtlkit.engine import events
from mtlkit.hookspecs import ANSWERS, KINDS, ComponentHooks, RunHooks
from mtlkit.options import signature_of
from mtlkit.testing import checks_of
from mtlkit.yamlfile import Document

FOLDER = Path(__file__).parent
NOTE = "<!-- Generated from the code by `make reference`; edit the docstrings instead. -->"

CONTRACTS = {
    "Tasks": [mtlkit.Task, mtlkit.Source, mtlkit.Split, MapSplit, StreamSplit, mtlkit.InputSpec, mtlkit.FeatureSpec],
    "Encoders": [mtlkit.Encoder],
    "Architectures": [mtlkit.Architecture],
    "Strategies": [mtlkit.Strategy, mtlkit.Weighting, mtlkit.Needs, mtlkit.Over],
}
EVENTS = [
    events.RunStarted,
    events.StepRecorded,
    events.NonFiniteFound,
    events.NonFinite,
    events.GradientsMeasured,
    events.EpochFinished,
    events.EvaluationFinished,
    events.CheckpointWritten,
    events.RunFinished,
    events.TaskResult,
]


def reference() -> str:
    """Return docs/authors/reference.md."""
    parts = ["# Reference for authors", NOTE, INTRODUCTION, "## Entry points", _groups()]
    for title, classes in CONTRACTS.items():
        parts += [f"## {title}", *(_class(each) for each in classes)]
    parts += ["## Hooks of an entry point", _prose(inspect.getdoc(ComponentHooks) or ""), *_hooks(ComponentHooks)]
    parts += ["## Hooks of a run", _prose(inspect.getdoc(RunHooks) or ""), *_hooks(RunHooks)]
    parts += ["### What the hooks are told", *(_class(each, level=4) for each in EVENTS)]
    parts += ["## Conformance checks", CONFORMANCE, *(_checks(kind) for kind in KINDS)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


INTRODUCTION = """\
What a plugin implements and what it is told. The [tutorial](tutorial.md) leads from an empty folder to a published
plugin; [compatibility](compatibility.md) says what of this stays, and for how long."""

CONFORMANCE = """\
What `mtlkit.testing.conformance("distribution:name")` checks, by the names that `expected_failures` takes."""


def command_reference() -> str:
    """Return docs/cli.md."""
    parts = ["# Commands", NOTE]
    os.environ["MTLKIT_PLUGINS"] = ""  # the commands of whatever is installed here are not mtlkit's
    for name in _commands("mtlkit", command_line):
        shown = CliRunner().invoke(command_line, [*name.split()[1:], "--help"], prog_name="mtlkit", terminal_width=100)
        parts += [f"## `{name}`", f"```text\n{shown.stdout.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _commands(name: str, command: click.Command) -> Iterator[str]:
    yield name
    if isinstance(command, click.Group):
        for each in sorted(command.commands):
            yield from _commands(f"{name} {each}", command.commands[each])


def _groups() -> str:
    rows = [f"| `mtlkit.{kind}` | `{hook}` |" for kind, hook in ANSWERS.items()]
    return "\n".join(["| group | the hook that answers |", "|---|---|", *rows])


def _hooks(spec: type) -> Iterator[str]:
    for name, function in vars(spec).items():
        if name.startswith("mtlkit_"):
            arguments = ", ".join(list(inspect.signature(function).parameters)[1:])
            yield f"### `{name}({arguments})`"
            yield _prose(inspect.getdoc(function) or "")


def _checks(kind: str) -> str:
    rows = [f"| `{check.name}` | {_prose(check.promise)} |" for check in checks_of(kind)]
    return "\n".join([f"### Of the {kind}", "", "| check | what is promised |", "|---|---|", *rows])


def _class(component: Any, level: int = 3) -> str:
    parts = [f"{'#' * level} `{component.__name__}`", _prose(inspect.getdoc(component) or "")]
    if issubclass(component, enum.Enum):
        told = dict(
            re.findall(r'^    (\w+) = .*\n    """(.*?)"""', inspect.getsource(component), re.MULTILINE | re.DOTALL)
        )
        return "\n\n".join([*parts, "\n".join(f"- `{n}`: {_prose(inspect.cleandoc(t))}" for n, t in told.items())])
    if dataclasses.is_dataclass(component) and component.__module__ == events.__name__:
        fields = [f"- `{each.name}: {each.type}`" for each in dataclasses.fields(component)]
        parts.append("\n".join(fields))
    for name, member in vars(component).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property | classmethod)):
            continue
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        text = inspect.getdoc(function)
        if text:
            parts += [f"{'#' * (level + 1)} `{component.__name__}.{_signature(name, member, function)}`", _prose(text)]
    return "\n\n".join(parts)


def _signature(name: str, member: Any, function: Any) -> str:
    if isinstance(member, property):
        return name
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name not in {"self", "cls"}]
    return name + str(signature.replace(parameters=parameters)).replace("'", "")


def _prose(text: str) -> str:
    """Return a docstring as Markdown: its sections as lists, its code in fences."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    lines: list[str] = []
    section, code = False, False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Attributes|Returns|Raises):", line):
            lines += [f"**{line[:-1]}**", ""]
            section, code = True, False
        elif line and not line.startswith(" "):
            if code:
                lines += ["```", ""]
            section, code = False, False
            if line.endswith("::"):
                lines += [*([line[:-2] + ":", ""] if line != "::" else []), "```python"]
                code = True
            else:
                lines.append(line)
        elif section and re.match(r"    \w[\w, ]*: ", line):
            name, _, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {rest}")
        elif section:
            lines.append(f"  {line.strip()}" if line.startswith("        ") else line.strip())
        else:
            lines.append(line[4:] if code else line)
    if code:
        lines = [*_stripped(lines), "```"]
    return re.sub(r"```python\n\n+", "```python\n", re.sub(r"\n+\n```\n", "\n```\n", "\n".join(lines))).strip()


def _stripped(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


TABLE_BEGINS = "<!-- The table is generated from the code by `make reference`. -->"
COSTS = {
    None: "none",
    mtlkit.Over.FEATURES: "inner products at the features",
    mtlkit.Over.LAST_SHARED: "a weight gradient of one layer for each task",
    mtlkit.Over.PARAMETERS: "a backward pass and a gradient in memory for each task",
}


def _with_table(name: str, head: list[str], rows: list[list[str]]) -> str:
    """Return a page whose prose is written by hand, with this table in place of the one that it has."""
    before, _, after = (FOLDER / name).read_text(encoding="utf-8").partition(TABLE_BEGINS)
    _, _, after = after.partition("\n\n##")
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *rows]]
    table = "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])
    return f"{before}{TABLE_BEGINS}\n\n{table}\n\n##{after}"


def _source(component: Any) -> str:
    """Return the paper that a component's docstring names first."""
    source = re.search(r"\(([^()]*(?:19|20)\d\d[^()]*)\)", " ".join(component.__doc__.split()))
    return source[1] if source else ""


def _options(component: Any) -> str:
    """Return the options of a component with their defaults."""
    return ", ".join(f"`{name}: {_told(value)}`" for name, value in _defaults(component).items()) or "none"


def strategies_page() -> str:
    """Return docs/strategies.md."""
    registry = mtlkit.Registry.discover(plugins=False)
    rows = []
    for record in registry.usable("strategies"):
        strategy = registry.load(record)
        options = ", ".join(f"`{name}`" for name in signature_of(strategy).names) or "none"
        cost = "a trial step before it, on held-out rows too" if strategy.looks_ahead else COSTS[strategy.over]
        extra = "; evaluates the batch again after the step" if strategy.watches_step else ""
        place = strategy.over.value if strategy.over else ""
        rows.append([f"`{record.name}`", strategy.needs.value, place, f"{cost}{extra}", options, _source(strategy)])
    head = ["strategy", "needs", "over", "cost beyond a plain step", "options", "source"]
    return _with_table("strategies.md", head, rows)


def architectures_page() -> str:
    """Return docs/architectures.md."""
    registry = mtlkit.Registry.discover(plugins=False)
    rows = []
    for record in registry.usable("architectures"):
        architecture = registry.load(record)
        what = _prose(sys.modules[architecture.__module__].__doc__ or "").partition(": ")[2].rstrip(".")
        rows.append([f"`{record.name}`", what, _options(architecture), _source(architecture)])
    return _with_table("architectures.md", ["architecture", "what it is", "options", "source"], rows)


ROWS = {
    "numbers": mtlkit.InputSpec((7,)),
    "vectors": mtlkit.InputSpec((12, 7)),
    "images": mtlkit.InputSpec((3, 32, 32)),
    "tokens": mtlkit.InputSpec((12,), categories=(100,) * 12),
    "table": mtlkit.InputSpec(
        parts={"numeric": mtlkit.InputSpec((7,)), "categorical": mtlkit.InputSpec((2,), categories=(4, 3))}
    ),
    "parts": mtlkit.InputSpec(parts={"pixels": mtlkit.InputSpec((8, 8)), "age": mtlkit.InputSpec((1,))}),
}
ROWS_TOLD = {
    "numbers": "numbers `(7,)`",
    "vectors": "vectors `(12, 7)`",
    "images": "images `(3, 32, 32)`",
    "tokens": "whole numbers `(12,)`",
    "table": "a table's row `{numeric: (7,), categorical: (2,)}`",
    "parts": "parts of numbers `{pixels: (8, 8), age: (1,)}`",
}


def encoders_page() -> str:
    """Return docs/encoders.md."""
    registry = mtlkit.Registry.discover(plugins=False)
    rows = []
    for record in registry.usable("encoders"):
        encoder = registry.load(record)
        rows.append([f"`{record.name}`", "; ".join(_features(encoder)), _options(encoder), _source(encoder)])
    head = ["encoder", "rows, and the features that it makes of them", "options", "source"]
    return _with_table("encoders.md", head, rows)


def _features(encoder: Any) -> Iterator[str]:
    """Yield what an encoder makes of the rows that it takes, one phrase for all kinds of which it makes the same."""
    made: dict[str, list[str]] = {}
    for name, inputs in ROWS.items():
        default = _made(encoder, inputs)
        if default is None:
            continue
        others = [
            f"with `{option}: {value}` {_made(encoder, inputs, **{option: value})}"
            for option, values in _choices(encoder).items()
            for value in values
            if _made(encoder, inputs, **{option: value}) != default
        ]
        made.setdefault(", or ".join([default, *others]), []).append(ROWS_TOLD[name])
    for features, kinds in made.items():
        yield f"{', '.join(kinds)} → {features}"


def _made(encoder: Any, inputs: mtlkit.InputSpec, **options: Any) -> str | None:
    """Return the features that an encoder says it makes; None where it does not take such rows."""
    try:
        return f"`{encoder(inputs, **options).features}`"
    except ValueError:
        return None


def _choices(encoder: Any) -> dict[str, list[str]]:
    """Return the words that each option may be, for those that are one of several."""
    fields = signature_of(encoder).model.model_fields.values()
    literals = {str(field.alias): get_args(field.annotation) for field in fields if field.annotation is not None}
    return {name: list(words) for name, words in literals.items() if words and all(isinstance(w, str) for w in words)}


def _defaults(component: Any) -> dict[str, Any]:
    signature = signature_of(component)
    return signature.plain(signature.check({}, Document.from_data({}), ()))


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


FILES = {
    FOLDER / "authors" / "reference.md": reference,
    FOLDER / "cli.md": command_reference,
    FOLDER / "encoders.md": encoders_page,
    FOLDER / "strategies.md": strategies_page,
    FOLDER / "architectures.md": architectures_page,
}

if __name__ == "__main__":
    for path, write in FILES.items():
        path.write_text(write(), encoding="utf-8")
        print(textwrap.shorten(f"Wrote {path}", 200))
