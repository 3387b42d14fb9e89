"""``mtlkit list``."""

from __future__ import annotations

import click

from mtlkit.cli.output import Output, Table, command_output
from mtlkit.hookspecs import KINDS
from mtlkit.registry import Registry
from mtlkit.summaries import summary

__all__ = ["list_"]


@click.command("list", short_help="List what is installed.")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@command_output
def list_(output: Output, kind: str | None) -> None:
    """List the installed tasks, encoders, architectures, strategies and plugins, or those of one KIND.

    It reads metadata and source text, and imports no plugin.
    """
    registry = Registry.discover()
    records = registry.records(kind)
    shown = [
        {
            "kind": record.kind,
            "name": record.qualified if registry.is_ambiguous(record) else record.name,
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
    for name, reason in registry.unreadable.items():
        output.remark(f"The entry points of {name} cannot be read ({reason}); reinstalling it may help.")
    if kind in {None, "tasks"} and not registry.records("tasks"):
        output.remark("No task is installed. Tasks come from plugins: pip install one, or write one.")
