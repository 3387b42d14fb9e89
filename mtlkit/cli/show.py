"""``mtlkit show``."""

from __future__ import annotations

import inspect
import json
from typing import Any

import click

from mtlkit.cli.arguments import Discover, plugin_options
from mtlkit.cli.output import Output, Table, command_output
from mtlkit.hookspecs import KINDS

__all__ = ["show"]


@click.command(short_help="Show a component and its options.")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@command_output
@plugin_options
def show(output: Output, kind: str, name: str, *, discover: Discover) -> None:
    """Show what the component NAME of a KIND is, who provides it, and which options it takes."""
    from mtlkit.options import signature_of

    registry = discover()
    record = registry.find(kind, name)
    component = registry.load(record)
    is_class = isinstance(component, type)  # a command is none, nor is a module of hooks
    schema = signature_of(component).model.model_json_schema() if is_class else {}
    text = inspect.getdoc(component if is_class else getattr(component, "callback", component)) or ""
    options: dict[str, Any] = schema.get("properties", {})
    required = schema.get("required", [])
    rows = [
        [option, _type(about, schema), "required" if option in required else json.dumps(about.get("default"))]
        for option, about in options.items()
    ]
    output.result(
        {
            "kind": kind,
            "name": record.name,
            "qualified": record.qualified,
            "version": record.version,
            "doc": text,
            "options": schema,
        },
        click.style(record.qualified, bold=True) + f"  {record.provider}",
        "",
        text,
        "",
        Table(["option", "type", "default"], rows) if rows else "It takes no options.",
    )


def _type(about: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a type as a person would say it."""
    if "$ref" in about:
        about = schema["$defs"][about["$ref"].rpartition("/")[2]]
    if "anyOf" in about:
        return " or ".join(_type(each, schema) for each in about["anyOf"])
    if "enum" in about or "const" in about:
        return " | ".join(map(str, about.get("enum", [about.get("const")])))
    if about.get("type") == "array":
        items: dict[str, Any] = about.get("items") or next(iter(about.get("prefixItems", [])), {})
        return f"list of {_type(items, schema)}"
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {about[key]}" for key, sign in bounds.items() if key in about]
    return " ".join([about.get("type", "any"), *([", ".join(limits)] if limits else [])])
