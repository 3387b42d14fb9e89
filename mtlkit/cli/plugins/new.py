"""``mtlkit plugins new``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mtlkit.cli.output import Output, command_output
from mtlkit.scaffold import KINDS, Names, scaffold

__all__ = ["new"]


@click.command(short_help="Begin a plugin: a whole distribution.")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), default="task", show_default=True, help="What it provides.")
@click.option("--component", metavar="NAME", help="What that is called; derived by default: acme-mtl has acme.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The folder that the plugin's own goes into. [the current one]",
)
@command_output
def new(output: Output, name: str, kind: str, component: str | None, folder: Path) -> None:
    """Write a new plugin: a distribution called NAME, in a folder of that name.

    It holds one component that works, its tests, and all that pip needs. The tests pass as they are.
    """
    files = scaffold(name, kind=kind, component=component, folder=folder)
    names = Names.of(name, component)
    target = folder / name
    steps = [shlex.join(["cd", str(target)]), "pip install -e '.[test]'", "pytest", f"mtlkit list {KINDS[kind]}"]
    output.result(
        {
            "folder": str(target),
            "distribution": names.distribution,
            "module": names.module,
            "kind": KINDS[kind],
            "component": names.component,
            "files": [path.relative_to(target).as_posix() for path in files],
            "next": steps,
        },
        f"Wrote {target}: {len(files)} files, with the {kind} '{names.component}'. Now:",
        *(f"  {step}" for step in steps),
    )
