"""The command line: one file a command; each parses, calls ``app``, and prints.

Nothing here imports torch at module level, so that ``--help`` answers at once.
"""

from __future__ import annotations

import click

from mtlkit._version import __version__
from mtlkit.cli.baseline import baseline
from mtlkit.cli.check import check
from mtlkit.cli.evaluate import evaluate
from mtlkit.cli.group import Group
from mtlkit.cli.init import init
from mtlkit.cli.list import list_
from mtlkit.cli.plugins import plugins
from mtlkit.cli.resume import resume
from mtlkit.cli.runs import runs
from mtlkit.cli.schema import schema
from mtlkit.cli.show import show
from mtlkit.cli.train import train

__all__ = ["main"]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mtlkit")
def main() -> None:
    """Train several tasks on one shared encoder. Tasks are plugins; a YAML file says the rest.

    \b
    Begin with:  mtlkit list tasks
                 mtlkit init run.yaml
                 mtlkit train run.yaml

    Exit codes: 0 ok, 1 a bug in mtlkit, 2 usage or configuration, 3 plugin, 4 data, 5 checkpoint, 6 non-finite numbers,
    7 input or output, 130 and 143 stopped by a signal with the run saved.
    """  # noqa: D301 - click takes the character itself


for command in (list_, show, init, check, train, resume, evaluate, baseline, runs, plugins, schema):
    main.add_command(command)
