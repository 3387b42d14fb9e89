"""``mtlkit train``."""

from __future__ import annotations

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
from mtlkit.cli.progress import results_table, show_progress
from mtlkit.errors import Stopped

__all__ = ["train"]


@click.command(short_help="Train all tasks together.")
@config_argument
@overrides_argument
@click.option("--resume", is_flag=True, help="Go on with the run of this name where it was saved last.")
@command_output
@plugin_options
def train(output: Output, config: Path, overrides: tuple[str, ...], *, resume: bool, discover: Discover) -> None:
    """Train the tasks of CONFIG together on one shared encoder, and test them.

    Settings may be overridden, and are checked like the rest:

    \b
        mtlkit train run.yaml strategy.name=gradnorm training.epochs=20 tasks.digit.weight=2

    Ctrl-C finishes the step, saves the run, and says how to go on; a second Ctrl-C ends at once.
    """  # noqa: D301 - click takes the character itself
    document = read_config(config, overrides)
    from mtlkit import app

    try:
        with show_progress(output) as listeners:
            run = app.train(document, resume=resume, listeners=listeners, registry=discover())
    except Stopped as stopped:
        again = shlex.join(["mtlkit", "train", str(config), *overrides, *plugin_options_given(), "--resume"])
        number = stopped.exit_code - 128
        raise Stopped(f"{stopped} Go on with: {again}", number) from None
    output.result(
        {
            "folder": str(run.folder),
            "steps": run.steps,
            "best_step": run.best_step,
            "test": {label: vars(result) for label, result in run.results.items()},
            "hook_failures": [vars(failure) for failure in run.hook_failures],
        },
        results_table(run.results, f"Test split, weights of step {run.best_step} of {run.steps}"),
        f"The run is in {run.folder}",
    )
    for failure in run.hook_failures:
        output.remark(f"The plugin {failure.plugin} failed in its hook {failure.hook}: {failure.error}")
