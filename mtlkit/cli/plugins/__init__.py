"""``mtlkit plugins``: what is installed, how it is, and how to begin one. One file a command."""

from __future__ import annotations

import click

from mtlkit.cli.plugins.doctor import doctor
from mtlkit.cli.plugins.list import list_
from mtlkit.cli.plugins.new import new

__all__ = ["plugins"]


@click.group(short_help="List, examine and begin plugins.")
def plugins() -> None:
    """List what is installed, examine whether it works, or begin a plugin of your own."""


for command in (list_, doctor, new):
    plugins.add_command(command)
