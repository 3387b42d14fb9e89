"""``mtlkit list``."""

from __future__ import annotations

import click

from mtlkit.cli.arguments import Discover, plugin_options
from mtlkit.cli.output import Output, Table, command_output
from mtlkit.hookspecs import KINDS
from mtlkit.registry import State
from mtlkit.summaries import summary

__all__ = ["list_"]


@click.command("list", short_help="List what is installed.")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@command_output
@plugin_options
def list_(output: Output, kind: str | None, *, discover: Discover) -> None:
    """List what may be used of the installed tasks, encoders and so on, or of one KIND.

    It reads metadata and source text, and imports no plugin. 'mtlkit plugins list' tells of those left out, too.
    """
    registry = discover()
    records = registry.usable(kind)
    shown = [
        {
            "kind": record.kind,
            "name": registry.name_of(record),
            "distribution": record.distribution,
            "version": record.version,
            "summary": summary(record),
        }
        for record in records
    ]
    if shown:
        columns = ["kind", "name", "summary", "from"]
        rows = [[r["kind"], r["name"], r["summary"], f"{r['distribution']} {r['version']}"] for r in shown]
        if kind:
            columns, rows = columns[1:], [row[1:] for row in rows]
        output.result(shown, Table(columns, rows))
    else:
        output.result(shown, f"No {kind or 'components'} are installed.")
    left_out = [record for record in registry.records(kind) if record not in records]
    for state in (State.DISABLED, State.INCOMPATIBLE, State.BROKEN):
        names = [record.qualified for record in left_out if registry.status(record).state is state]
        if names:
            output.remark(f"{state.capitalize()}: {', '.join(names)}. 'mtlkit plugins list' says why.")
    for name, reason in registry.unreadable.items():
        output.remark(f"The entry points of {name} cannot be read ({reason}); reinstalling it may help.")
    if kind in {None, "tasks"} and not registry.records("tasks"):
        output.remark("No task is installed. Tasks come from plugins: pip install one, or write one.")
