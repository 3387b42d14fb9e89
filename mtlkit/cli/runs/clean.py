"""``mtlkit runs clean``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mtlkit.cli.output import Output, Table, command_output, size
from mtlkit.errors import ConfigError, Problem

__all__ = ["clean"]


@click.command(short_help="Remove what is of no more use.")
@click.argument("path", type=click.Path(path_type=Path), default="runs", metavar="[RUN]")
@click.option("--damaged", is_flag=True, help="Damaged checkpoints too, where a whole one is left to go on from.")
@click.option("--finished", is_flag=True, help="The checkpoints of finished runs too; best weights and results stay.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@command_output
def clean(output: Output, path: Path, *, damaged: bool, finished: bool, dry_run: bool, yes: bool) -> None:
    """Remove what crashes left of RUN, or of all runs in a folder [runs]: files that were half written.

    With --damaged and --finished it removes more. A run that is in use is let be. It asks first, and says what that
    frees.
    """
    from mtlkit import runs

    planned, in_use = runs.plan(path, damaged=damaged, finished=finished)
    table = Table(["to remove", "why", ">size"], [[str(each.path), each.why, size(each.bytes)] for each in planned])
    total = size(sum(each.bytes for each in planned))
    for run in in_use:
        output.remark(f"{run} is in use, and is let be.")
    for each in planned:
        if each.damage:
            output.remark(each.damage)
    data = {
        "planned": [each.to_dict() for each in planned],
        "in_use": list(map(str, in_use)),
        "removed": [],
        "bytes": 0,
    }
    if dry_run or not planned:
        nothing = "There is nothing to remove."
        output.result(data, *([table, f"That would free {total}. Nothing was removed."] if planned else [nothing]))
        return
    if not yes:
        _ask(output, table, total)
    removed, busy = runs.remove(planned, damaged=damaged, finished=finished)
    for run in busy:
        output.remark(f"{run} is in use by now, and was let be.")
    freed = sum(each.bytes for each in removed)
    data |= {
        "removed": [str(each.path) for each in removed],
        "bytes": freed,
        "in_use": sorted({*map(str, in_use), *map(str, busy)}),
    }
    output.result(
        data, *([table] if yes else []), f"Removed {len(removed)} of {len(planned)}, which freed {size(freed)}."
    )


def _ask(output: Output, table: Table, total: str) -> None:
    """Show what is to be removed, and go on only if that is wanted."""
    unasked = "Nothing was removed. Say --yes to remove it, or --dry-run to see what it would be."
    if output.as_json:
        raise ConfigError(Problem("Whether to remove it cannot be asked with --json", remedy=unasked))
    output.result(None, table)
    try:
        wanted = click.confirm(f"Remove these, which frees {total}?", err=True)
    except click.Abort:
        raise ConfigError(Problem("There was no answer to whether to remove it", remedy=unasked)) from None
    if not wanted:
        output.result(None, "Nothing was removed.")
        sys.exit(0)
