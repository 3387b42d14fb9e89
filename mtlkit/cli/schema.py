"""``mtlkit schema``."""

from __future__ import annotations

import json

import click

from mtlkit.cli.arguments import Discover, plugin_options
from mtlkit.cli.output import Output, command_output

__all__ = ["schema"]


@click.command(short_help="Print the JSON Schema of a configuration.")
@command_output
@plugin_options
def schema(output: Output, *, discover: Discover) -> None:
    """Print the JSON Schema of a run configuration, for editors; names that are installed come as examples.

    \b
        mtlkit schema > run.schema.json
        # yaml-language-server: $schema=run.schema.json      (the first line of run.yaml)
    """  # noqa: D301 - click takes the character itself
    from mtlkit.config import json_schema

    registry = discover()
    text = json_schema()
    for section, kind in (("encoder", "encoders"), ("architecture", "architectures"), ("strategy", "strategies")):
        text["properties"][section]["anyOf"][0]["examples"] = [record.name for record in registry.usable(kind)]
    text["properties"]["tasks"]["items"]["anyOf"][0]["examples"] = [r.name for r in registry.usable("tasks")]
    output.result(text, json.dumps(text, indent=2))
