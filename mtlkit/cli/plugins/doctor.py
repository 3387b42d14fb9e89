"""``mtlkit plugins doctor``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from mtlkit.cli.arguments import Discover, plugin_options
from mtlkit.cli.output import Output, Table, command_output
from mtlkit.errors import ConfigError, PluginError, Problem
from mtlkit.registry import State
from mtlkit.registry.names import distribution_name

if TYPE_CHECKING:
    from mtlkit.doctor import Entry, Examination, Examined, Finding

__all__ = ["doctor"]

_NOTHING = "No plugin is installed. pip install one, or: mtlkit plugins new my-tasks"
_COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}
_WIDTH = 100  # columns, beyond which lines are hard to read
_INDENT = len("  warning  ")
_DAY = 86_400


@click.command(short_help="Load each plugin in a process of its own, and say what is wrong.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--timeout",
    type=click.IntRange(1, _DAY),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long one component may take to load.",
)
@command_output
@plugin_options
def doctor(output: Output, names: tuple[str, ...], timeout: int, *, discover: Discover) -> None:
    """Load each plugin, or those of the distributions NAME, and say what is wrong with it and what would help.

    Each is loaded in a process of its own, with a time limit: one that hangs, exits, crashes Python or prints is told
    of, and does no harm. What is disabled or incompatible is not imported. Exits with 3 if anything is broken.
    """
    from mtlkit.doctor import examine

    chosen = [_normal(name) for name in names]
    registry = discover(files=())  # files are imported in processes of their own, too
    if sys.stderr.isatty():
        output.remark("Loading each plugin in a process of its own ...")
    examination = examine(registry, chosen, files=discover.keywords["files"], timeout=timeout)
    output.result(examination.to_dict(), *_parts(output, examination))
    if State.BROKEN in examination.counts:
        sys.exit(PluginError.exit_code)


def _normal(name: str) -> str:
    try:
        return distribution_name(name)
    except ValueError as error:
        raise ConfigError(Problem(str(error), remedy="It takes names of distributions, as pip does.")) from None


def _parts(output: Output, examination: Examination) -> Iterator[str | Table]:
    """Yield what a person reads."""
    if not examination.plugins:
        yield _NOTHING
    else:
        rows: list[list[str]] = []
        for plugin in examination.plugins:
            who = _heading(plugin)
            for cells in [_cells(each) for each in plugin.entries] or [["", "", str(plugin.state), "", ""]]:
                rows.append([who, *cells])
                who = ""
        yield Table(["plugin", "kind", "name", "state", ">import", "torch"], rows)
    width = min(output.console.width, _WIDTH) if output.console.is_terminal else 0
    told = [(_heading(p), p.findings) for p in examination.plugins]
    for heading, findings in [*told, ("Environment", examination.findings)]:
        if findings:
            yield ""
            yield click.style(heading, bold=True)
            yield from _lines(findings, width)
    if examination.plugins:
        yield ""
        yield _summary(examination)


def _heading(plugin: Examined) -> str:
    return f"{plugin.distribution.name} {plugin.distribution.version}".rstrip()


def _cells(entry: Entry) -> list[str]:
    seconds = "" if entry.import_seconds is None else f"{entry.import_seconds:.2f} s"
    torch = {True: "yes", False: "no", None: ""}[entry.torch_at_import]
    return [entry.record.kind, entry.record.name, str(entry.status.state), seconds, torch]


def _lines(findings: Iterable[Finding], width: int) -> Iterator[str]:
    """Yield findings as lines of a width; 0 for lines of any length, which are easier to search."""
    indent = " " * _INDENT
    for each in findings:
        lines = []
        for text in (str(each), each.remedy):
            lines += (
                textwrap.wrap(text, width - _INDENT, break_long_words=False, break_on_hyphens=False)
                if width
                else [text]
            )
        level = click.style(f"{each.level:<{_INDENT - 4}}", fg=_COLOURS[each.level])
        yield f"  {level}  {lines[0]}"
        yield from (f"{indent}{line}" for line in lines[1:])


def _summary(examination: Examination) -> str:
    total = len(examination.plugins)
    parts = ", ".join(f"{count} {state}" for state, count in examination.counts.items())
    warned = examination.warnings
    tail = f"; {warned} warning{'s' if warned != 1 else ''}" if warned else ""
    return f"{total} plugin{'s' if total != 1 else ''}: {parts}{tail}."
