"""What the commands print: to a person on a terminal, to a person elsewhere, to a program."""

from __future__ import annotations

import functools
import math
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mtlkit.errors import ConfigError, MtlkitError, Stopped, is_ctrl_c
from mtlkit.plainjson import dumps

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Output", "Table", "command_output", "echo", "number", "printable"]

# Control characters, those that turn the direction of what is written, and halves of characters. A terminal takes them
# for commands, and what is printed may be a stranger's: a label, a key, the name of a file, what a plugin raised.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MOST = 100  # problems of one configuration that a person is told at once
_STYLE = re.compile(r"\x1b\[(?:0|1|2|3[1-6])m")  # what click.style makes here


class Output:
    """Prints results to stdout, and everything else to stderr.

    Args:
        as_json: Print one JSON value and no more.
        quiet: Print no progress and no remarks.
    """

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet or as_json

    @functools.cached_property
    def console(self) -> Console:
        """The terminal of results."""
        from rich.console import Console

        return Console(highlight=False, soft_wrap=False)

    @functools.cached_property
    def progress_console(self) -> Console:
        """The terminal of progress and remarks."""
        from rich.console import Console

        return Console(stderr=True, highlight=False)

    def remark(self, text: str) -> None:
        """Say something that is not the result."""
        if self.quiet:
            return
        if self.progress_console.is_terminal:
            self.progress_console.print(printable(text), markup=False)  # above a progress bar that is being drawn
        else:
            echo(text, err=True)

    def result(self, data: Any, *parts: str | Table) -> None:
        """Print the result: `data` for a program, else the parts for a person."""
        if self.as_json:
            click.echo(dumps(data, indent=2))
            return
        for part in parts:
            if isinstance(part, str):
                echo(part)
            elif self.console.is_terminal:
                self.console.print(part.rich())
            else:
                echo(part.plain())

    def fail(self, error: MtlkitError) -> None:
        """Print an error."""
        if self.as_json:
            click.echo(dumps({"error": error.to_dict()}, indent=2))
            return
        if isinstance(error, Stopped):  # asked for, so no error
            echo(str(error), err=True)
            return
        problems = error.problems if isinstance(error, ConfigError) else ()
        heading = f"Error: {len(problems)} problems." if len(problems) > 1 else "Error:"
        lines = [f"  {problem}" for problem in problems[:_MOST]] if len(problems) > 1 else [str(error)]
        if len(problems) > _MOST:
            lines.append(f"  And {len(problems) - _MOST} more, which --json tells.")
        joint = "\n" if len(problems) > 1 else " "
        echo(click.style(heading, fg="red", bold=True) + joint + "\n".join(lines), err=True)


class Table:
    """A table that is drawn on a terminal, and aligned by spaces elsewhere.

    Args:
        columns: The headings; one that starts with '>' is set to the right.
        rows: The cells.
        title: What stands above it.
        whole: The headings of columns whose cells are not broken into lines where the terminal is narrow.
    """

    def __init__(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", *, whole: Sequence[str] = ()
    ) -> None:
        self.right = [column.startswith(">") for column in columns]
        self.columns = [column.removeprefix(">") for column in columns]
        self.rows = [[printable(cell, lines=False) for cell in row] for row in rows]
        self.title = printable(title)
        self.whole = whole

    def rich(self) -> Any:
        """Return it for a terminal."""
        from rich import box
        from rich.table import Table as RichTable

        table = RichTable(title=self.title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column, right in zip(self.columns, self.right, strict=True):
            justify: Any = "right" if right else "left"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=column in self.whole)
        for row in self.rows:
            table.add_row(*map(_styled, row))
        return table

    def plain(self) -> str:
        """Return it as aligned text."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[index]) for row in cells) for index in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self.right, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([*([self.title] if self.title else []), *lines])


def printable(text: str, *, lines: bool = True) -> str:
    r"""Return a text with what a terminal would obey written as escapes: ``\x1b`` for the beginning of a command.

    Args:
        text: The text; the colours of this module stay.
        lines: Whether it may have several lines, and tabs.
    """
    parts = zip([*_STYLE.split(text)], [*_STYLE.findall(text), ""], strict=True)
    shown = "".join(_COMMANDS.sub(_escaped, part) + style for part, style in parts)
    return shown if lines else re.sub("[\t\n]", _escaped, shown)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def echo(text: str, *, err: bool = False) -> None:
    """Print a text that may be a stranger's; what the stream has no letters for is written as escapes too."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(printable(text).encode(encoding, "backslashreplace").decode(encoding), err=err)


_STYLES = {"helped": "green", "hurt": "red", "no difference seen": "dim"}


def _styled(cell: str) -> Text:
    from rich.text import Text

    return Text(cell, style=_STYLES.get(cell, ""))


def number(value: float) -> str:
    """Return a number to four digits."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"  # noqa: PLR2004


def size(n: int) -> str:
    """Return a number of bytes to three digits."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= one:
            return f"{n / one:.3g} {unit}"
    return f"{n} B"


def moment(time: str | None) -> str:
    """Return a time in UTC (ISO 8601) as the time here, to the minute."""
    try:
        return f"{datetime.fromisoformat(time or '').astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError):
        return "?"


def command_output(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--json``, ``--quiet``, ``--debug`` and an Output; turn errors into messages and exit codes."""

    @click.option("--debug", is_flag=True, help="After an error, print where in the code it came from.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON value, and nothing else, to stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="Print no progress, only the result.")
    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, quiet: bool, debug: bool, **kwargs: Any) -> None:
        output = Output(as_json=as_json, quiet=quiet)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: echo(f"Warning: {message}", err=True)
            try:
                function(output, *args, **kwargs)
            except MtlkitError as error:
                if debug:
                    echo(traceback.format_exc(), err=True)
                output.fail(error)
                sys.exit(error.exit_code)
            except KeyboardInterrupt:
                _stop_at_once(output)
            except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever comes here is a bug, and says so
                if is_ctrl_c(error):
                    _stop_at_once(output)
                echo(traceback.format_exc(), err=True)
                click.echo("Error: this is a bug in mtlkit; please report it with the lines above.", err=True)
                sys.exit(1)

    return wrapped


def _stop_at_once(output: Output) -> NoReturn:
    stopped = Stopped("Stopped at once. What was saved before is as it was.", signal.SIGINT)
    output.fail(stopped)
    sys.exit(stopped.exit_code)
