"""``mtlkit plugins list``."""

from __future__ import annotations

from typing import Any

import click

from mtlkit.cli.arguments import Discover, plugin_options
from mtlkit.cli.output import Output, Table, command_output
from mtlkit.registry import OWN, Distribution, Registry, State

__all__ = ["list_"]


@click.command("list", short_help="List the plugins, and the state of each.")
@command_output
@plugin_options
def list_(output: Output, *, discover: Discover) -> None:
    """List every distribution that has components, with the state of each: ok, or why it may not be used.

    It reads metadata alone, and imports no plugin; 'mtlkit plugins doctor' loads each, and finds more.
    """
    registry = discover()
    shown: list[dict[str, Any]] = [_described(registry, each) for each in registry.distributions.values()]
    rows: list[list[str]] = []
    remarks: list[str] = []
    for each in shown:
        who = [each["distribution"], each["version"], each["origin"] or "installed"]
        for part in each["components"]:
            rows.append([*who, part["kind"], part["name"], part["state"]])
            who = ["", "", ""]
            if part["reason"]:
                text = f"{part['qualified']} is {part['state']}: {part['reason']}. {part['remedy']}".rstrip()
                remarks.append(text)
        if each["unreadable"]:
            rows.append([*who, "", "", str(State.BROKEN)])
            remarks.append(f"{each['distribution']} is broken: its entry points cannot be read ({each['unreadable']}).")
        elif not each["components"]:
            rows.append([*who, "", "", "nothing"])
            remarks.append(f"{each['distribution']} has no entry point in any group of mtlkit; a name may be misspelt.")
    columns = ["distribution", "version", "from", "kind", "name", "state"]
    table = Table(columns, rows) if rows else "No plugin is installed. pip install one, or: mtlkit plugins new my-tasks"
    output.result(shown, table)
    for remark in dict.fromkeys(remarks):
        output.remark(remark)


def _described(registry: Registry, distribution: Distribution) -> dict[str, Any]:
    components = []
    for record in distribution.records:
        status = registry.status(record)
        components.append(
            {
                "kind": record.kind,
                "name": record.name,
                "qualified": record.qualified,
                "entry_point": record.entry_point,
                "state": str(status.state),
                "reason": status.reason,
                "remedy": status.remedy,
            }
        )
    return {
        "distribution": distribution.name,
        "version": distribution.version,
        "origin": str(distribution.origin) if distribution.origin else None,
        "location": distribution.location,
        "requires": [f"{OWN}{each.specifier}" for each in distribution.own_requirements],
        "unreadable": distribution.unreadable or None,
        "components": components,
    }
