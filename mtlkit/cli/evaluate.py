"""``mtlkit evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from mtlkit.cli.arguments import Discover, plugin_options
from mtlkit.cli.output import Output, command_output
from mtlkit.cli.progress import results_table

__all__ = ["evaluate"]


@click.command(short_help="Evaluate a run's best weights.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True, help="Which rows."
)
@command_output
@plugin_options
def evaluate(output: Output, run: Path, split: str, *, discover: Discover) -> None:
    """Evaluate the best weights of the run in folder RUN on one split."""
    from mtlkit import app

    step, results = app.evaluate(run, split=split, registry=discover())
    output.result(
        {"folder": str(run), "step": step, "split": split, "tasks": {k: vars(v) for k, v in results.items()}},
        results_table(results, f"{split.capitalize()} split, weights of step {step}"),
    )
