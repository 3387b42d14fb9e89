"""``mtlkit runs list``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtlkit.cli.output import Output, Table, command_output, moment, number, size

if TYPE_CHECKING:
    from mtlkit.runs import Summary

__all__ = ["list_", "steps"]

_MOST = 2  # results that fit a line


@click.command("list", short_help="List the runs in a folder.")
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@command_output
def list_(output: Output, folder: Path) -> None:
    """List the runs in FOLDER [runs], also those of its baselines, the one that wrote last first.

    A run is running while a process has it. It is finished; or was stopped, by a signal; failed, with an error;
    crashed, if its process is gone and left no word; or is unfinished, if nobody knows how. It is damaged if a file
    that says what it is cannot be read.
    """
    from mtlkit import runs

    found = runs.find(folder)
    columns = ["run", "state", ">step", "last written", ">size", "results"]
    table = Table(columns, list(map(_row, found)), whole=("state", "step", "last written", "size"))
    titles = [f"{each.name}: {each.title}" for each in found if each.title]
    shown = [table, *titles] if found else [f"There are no runs in {folder}."]
    output.result([each.to_dict() for each in found], *shown)
    for each in found:
        if each.problem:
            output.remark(f"{each.name} {'is damaged' if each.state == 'damaged' else 'failed'}: {each.problem}")


def steps(summary: Summary) -> str:
    """Return how far a run is."""
    return f"{summary.step}/{'?' if summary.steps is None else summary.steps}"


def _row(summary: Summary) -> list[str]:
    return [
        summary.name,
        summary.state,
        steps(summary),
        moment(summary.changed),
        size(summary.bytes),
        _headlines(summary.results),
    ]


def _headlines(results: Mapping[str, tuple[str, float]]) -> str:
    """Return what the first tasks came to by their headline metrics, and how many more there are."""
    shown = [f"{label} {number(value)}" for label, (_, value) in list(results.items())[:_MOST]]
    return ", ".join([*shown, *([f"{len(results) - _MOST} more"] if len(results) > _MOST else [])])
