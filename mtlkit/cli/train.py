"""``mtlkit train``."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path

import click

from mtlkit.cli.arguments import (
    Discover,
    config_argument,
    overrides_argument,
    plugin_options,
    plugin_options_given,
    read_config,
)
from mtlkit.cli.output import Output, command_output
from mtlkit.cli.progress import show_changes, show_progress, show_run
from mtlkit.errors import Stopped

__all__ = ["train"]


@click.command(short_help="Train all tasks together.")
@config_argument
@overrides_argument
@click.option("--resume", is_flag=True, help="Go on with the run of this name where it was saved last.")
@click.option(
    "--allow",
    multiple=True,
    metavar="KEY",
    help="With --resume, a setting that may be another than before, such as training.epochs; repeatable.",
)
@command_output
@plugin_options
def train(
    output: Output,
    config: Path,
    overrides: tuple[str, ...],
    *,
    resume: bool,
    allow: tuple[str, ...],
    discover: Discover,
) -> None:
    """Train the tasks of CONFIG together on one shared encoder, and test them.

    Settings may be overridden, and are checked like the rest:

    \b
        mtlkit train run.yaml strategy.name=gradnorm training.epochs=20 tasks.digit.weight=2

    With --resume, it goes on with the run of this name, whose configuration must be the same; 'mtlkit resume' goes on
    with a run by its folder.

    Ctrl-C finishes the step, saves the run, and says how to go on; a second Ctrl-C ends at once.
    """  # noqa: D301 - click takes the character itself
    document = read_config(config, overrides)
    from mtlkit import app

    try:
        with show_progress(output) as listeners:
            run = app.train(
                document,
                resume=resume,
                allow=allow,
                listeners=listeners,
                on_changes=functools.partial(show_changes, output),
                registry=discover(),
            )
    except Stopped as stopped:
        again = shlex.join(["mtlkit", "train", str(config), *overrides, *plugin_options_given(), "--resume"])
        number = stopped.exit_code - 128
        raise Stopped(f"{stopped} Go on with: {again}", number) from None
    show_run(output, run)
