"""``mtlkit schema``."""

from __future__ import annotations

import json

import click

from mtlkit.cli.output import Output, command_output

__all__ = ["schema"]


@click.command(short_help="Print the JSON Schema of a configuration.")
@command_output
def schema(output: Output) -> None:
    """Print the JSON Schema of a run configuration, for editors; names that are installed come as examples.

    \b
        mtlkit schema > run.schema.json
        # yaml-language-server: $schema=run.schema.json      (the first line of run.yaml)
    """  # noqa: D301 - click takes the character itself
    from mtlkit.config import RunConfig
    from mtlkit.registry import Registry

    registry = Registry.discover()
    text = RunConfig.model_json_schema()
    text["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    names = {
        kind: [r.name for r in registry.records(kind)] for kind in ("tasks", "encoders", "architectures", "strategies")
    }
    text["$defs"]["TaskConfig"]["properties"]["name"]["examples"] = names["tasks"]
    for section, kind in (("encoder", "encoders"), ("architecture", "architectures"), ("strategy", "strategies")):
        about = text["properties"][section]
        component = about.pop("$ref", "#/$defs/Component")
        about["anyOf"] = [
            {"type": "string", "examples": names[kind]},
            {"allOf": [{"$ref": component}, {"properties": {"name": {"examples": names[kind]}}}]},
        ]
    output.result(text, json.dumps(text, indent=2))
