"""``mtlkit runs``: which runs there are, how each is, whether it is sound, what of it can go. One file a command."""

from __future__ import annotations

import click

from mtlkit.cli.runs.clean import clean
from mtlkit.cli.runs.list import list_
from mtlkit.cli.runs.show import show
from mtlkit.cli.runs.verify import verify

__all__ = ["runs"]


@click.group(short_help="List, show, verify and clean runs.")
def runs() -> None:
    """List the runs that are on the disk, show one, verify that they are sound, or remove what is of no more use."""


for command in (list_, show, verify, clean):
    runs.add_command(command)
