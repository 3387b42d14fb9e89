"""``mtlkit runs verify``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mtlkit.cli.output import Output, Table, command_output
from mtlkit.errors import CheckpointError

__all__ = ["verify"]


@click.command(short_help="Verify that runs are sound.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN]...")
@command_output
def verify(output: Output, paths: tuple[Path, ...]) -> None:
    """Verify every checkpoint of each RUN, its best weights, its records and its results; nothing is changed.

    RUN is the folder of a run, or one that holds runs [runs]. Every file is read whole and compared with its hash;
    records are to be as long as the checkpoints remember. Exits with 5 if anything is damaged, and names it.
    """
    from mtlkit import runs

    verdicts = [runs.verify(each) for each in _runs(paths or (Path("runs"),))]
    rows = []
    for verdict in verdicts:
        found = [(name, "whole") for name in verdict.whole] + [(name, "damaged") for name in verdict.damaged]
        for index, (name, state) in enumerate(found):
            rows.append(["" if index else str(verdict.folder), name, state])
    wrong = [text for verdict in verdicts for text in verdict.damaged.values()]
    if not verdicts:
        ending = "There are no runs there."
    elif wrong:
        ending = f"{len(wrong)} of {len(rows)} are damaged:"
    else:
        ending = f"All {len(rows)} are whole."
    output.result(
        [verdict.to_dict() for verdict in verdicts],
        *([Table(["run", "file", "state"], rows)] if rows else []),
        ending,
        *(f"  {text}" for text in wrong),
    )
    for verdict in verdicts:
        for note in verdict.notes:
            output.remark(f"{verdict.folder}: {note}")
    if wrong:
        sys.exit(CheckpointError.exit_code)


def _runs(paths: tuple[Path, ...]) -> list[Path]:
    """Return the runs that are meant: those named, and those in folders that are none."""
    from mtlkit import runs
    from mtlkit.runs.reading import is_run

    found = []
    for path in paths:
        is_holder = path.is_dir() and not path.is_symlink() and not is_run(path)
        found += [each.folder for each in runs.find(path)] if is_holder else [path]
    return list(dict.fromkeys(found))
