"""``mtlkit check``."""

from __future__ import annotations

from pathlib import Path

import click

from mtlkit.cli.arguments import Discover, config_argument, overrides_argument, plugin_options, read_config
from mtlkit.cli.output import Output, Table, command_output

__all__ = ["check"]


@click.command(short_help="Check a configuration without training.")
@config_argument
@overrides_argument
@command_output
@plugin_options
def check(output: Output, config: Path, overrides: tuple[str, ...], *, discover: Discover) -> None:
    """Check CONFIG: every key, name and option, and one batch of each source through encoder, heads and losses."""
    document = read_config(config, overrides)
    from mtlkit import app

    resolved, experiment = app.check(document, registry=discover())
    parameters = sum(p.numel() for p in experiment.model.parameters())
    shared = sum(p.numel() for p in experiment.model.architecture.shared_parameters())
    tasks = []
    for number, group in enumerate(experiment.groups, 1):
        for index in group.tasks:
            bound = experiment.tasks[index]
            rows = {name: len(split) for name, split in group.splits.items()}
            tasks.append({"task": bound.label, "source": number, "batch_size": group.stream.batch_size, **rows})
    plan = experiment.plan
    output.result(
        {
            "config": resolved.plain(),
            "tasks": tasks,
            "parameters": parameters,
            "shared_parameters": shared,
            "steps": plan.steps,
            "steps_per_epoch": plan.steps_per_epoch,
            "device": str(experiment.device),
        },
        Table(
            ["task", ">source", ">batch", ">train", ">validation", ">test"],
            [[str(value) for value in row.values()] for row in tasks],
        ),
        f"{parameters:,} parameters, {shared:,} of them shared; {plan.steps} steps, {plan.steps_per_epoch} an epoch; "
        f"on {experiment.device}. {config} is fine.",
    )
