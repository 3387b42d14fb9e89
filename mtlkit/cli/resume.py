"""``mtlkit resume``."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path

import click

from mtlkit.cli.arguments import Discover, overrides_argument, plugin_options, plugin_options_given
from mtlkit.cli.output import Output, command_output
from mtlkit.cli.progress import show_changes, show_progress, show_run
from mtlkit.errors import Stopped

__all__ = ["resume"]


@click.command(short_help="Go on with a run.")
@click.argument("run", type=click.Path(path_type=Path))
@overrides_argument
@command_output
@plugin_options
def resume(output: Output, run: Path, overrides: tuple[str, ...], *, discover: Discover) -> None:
    """Go on with the run in folder RUN where it was saved last, by its own configuration.

    It ends with the same bits as if it had never stopped. A few settings may be another from here on; the difference is
    shown, and written to the run's history:

    \b
        mtlkit resume runs/first training.epochs=20

    These are training.epochs or training.steps, training.log_every, device, threads, non_finite and non_finite_limit,
    diagnostics, checkpoints.every and keep, hooks, loading and run.title. A run that is finished goes on if it is to
    have more epochs or steps.
    """  # noqa: D301 - click takes the character itself
    from mtlkit import app

    try:
        with show_progress(output) as listeners:
            result = app.resume(
                run,
                overrides=overrides,
                listeners=listeners,
                on_changes=functools.partial(show_changes, output),
                registry=discover(),
            )
    except Stopped as stopped:
        again = shlex.join(["mtlkit", "resume", str(run), *plugin_options_given()])
        raise Stopped(f"{stopped} Go on with: {again}", stopped.exit_code - 128) from None
    show_run(output, result)
