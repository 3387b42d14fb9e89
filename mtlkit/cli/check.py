"""``mtlkit check``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtlkit.cli.arguments import Discover, config_argument, overrides_argument, plugin_options, read_config
from mtlkit.cli.output import Output, Table, command_output, size
from mtlkit.errors import DataError
from mtlkit.findings import Level

if TYPE_CHECKING:
    from mtlkit.audit import Audit
    from mtlkit.audit.trial import Cost
    from mtlkit.experiment import Experiment, SourceGroup

__all__ = ["check"]

_COLOURS = {Level.ERROR: "red", Level.WARNING: "yellow", Level.NOTE: "blue"}
_WIDTH = 100  # columns, beyond which lines are hard to read
_INDENT = len("  warning  ")
_MINUTE, _HOUR = 60, 3600


@click.command(short_help="Check a configuration and the data without training.")
@config_argument
@overrides_argument
@command_output
@plugin_options
def check(output: Output, config: Path, overrides: tuple[str, ...], *, discover: Discover) -> None:
    """Check CONFIG, the rows of its tasks, and a few first steps, and say what would spoil the training.

    Every key, name and option; sizes, labels, overlaps and odd values of every split; one batch of each source through
    encoder, heads, losses and backward; what a step costs. Nothing is written. Exits with 4 if the data has errors.
    """
    document = read_config(config, overrides)
    from mtlkit import app
    from mtlkit.data.reader import row_count

    resolved, experiment, audit = app.inspect(document, registry=discover())
    parameters = sum(p.numel() for p in experiment.model.parameters())
    shared = sum(p.numel() for p in experiment.model.shared_parameters())
    tasks: list[dict[str, Any]] = []
    for number, group in enumerate(experiment.groups, 1):
        for index in group.tasks:
            bound = experiment.tasks[index]
            rows = {name: row_count(split) for name, split in group.splits.items()}
            batch_size, drawn = group.stream.batch_size, _drawn(experiment, group)
            tasks.append({"task": bound.label, "source": number, "batch_size": batch_size, **rows, "drawn": drawn})
    plan, by_label = experiment.plan, {told["task"]: told for told in audit.tasks}
    output.result(
        {
            "config": resolved.plain(),
            "tasks": tasks,
            "parameters": parameters,
            "shared_parameters": shared,
            "steps": plan.steps,
            "steps_per_epoch": plan.steps_per_epoch,
            "device": str(experiment.device),
            **audit.to_dict(),
        },
        Table(
            [
                "task",
                ">source",
                ">batch",
                ">train",
                ">validation",
                ">test",
                *(["drawn"] if experiment.mixing else []),
                "labels in training",
            ],
            [
                [
                    *(_told_value(value) for key, value in row.items() if key != "drawn"),
                    *([_share(row["drawn"])] if experiment.mixing else []),
                    _balance(by_label[row["task"]]),
                ]
                for row in tasks
            ],
        ),
        *_told(audit, output),
        f"{parameters:,} parameters, {shared:,} of them shared; {plan.steps} steps, {plan.steps_per_epoch} an epoch; "
        f"on {experiment.device}.",
        *([_cost(audit.cost)] if audit.cost else []),
        _verdict(audit, config),
    )
    if audit.has_errors:
        sys.exit(DataError.exit_code)


def _drawn(experiment: Experiment, group: SourceGroup) -> dict[str, float] | None:
    """Return how likely a pass of the first and of the last step draws from a source; None where each does from all."""
    if experiment.mixing is None:
        return None
    steps = experiment.plan.steps
    at = {"first": 0, "last": steps - 1}
    return {name: experiment.mixing.probabilities(step, steps)[group.name] for name, step in at.items()}


def _share(drawn: dict[str, float]) -> str:
    first, last = (f"{100 * drawn[which]:.3g}" for which in ("first", "last"))
    return f"{first} %" if first == last else f"{first} to {last} %"


def _told_value(value: object) -> str:
    return "?" if value is None else str(value)


def _balance(told: dict[str, Any]) -> str:
    """Return how the labels of one task are spread."""
    if "classes" not in told:
        return f"{told['train']} rows, mean {told['mean']:.3g}, deviation {told['deviation']:.3g}"
    counts = told["classes"]
    if len(counts) == 1 or min(counts) == max(counts):
        return f"{told['train']} rows, {counts[0]} of each of {len(counts)} classes"
    return f"{told['train']} rows, {min(counts)} to {max(counts)} of each of {len(counts)} classes"


def _told(audit: Audit, output: Output) -> Iterator[str]:
    width = min(output.console.width, _WIDTH) if output.console.is_terminal else 0
    for finding in [finding for _, found in audit.findings for finding in found]:
        text = f"{finding} {finding.remedy}"
        lines = textwrap.wrap(text, width - _INDENT) if width else [text]
        level = click.style(f"{finding.level!s:9}", fg=_COLOURS[finding.level])
        yield f"  {level}" + f"\n{' ' * _INDENT}".join(lines)
    fine = sum(not found for _, found in audit.findings)
    yield f"  {click.style('ok       ', fg='green')}{fine} of {len(audit.findings)} checks found nothing."


def _cost(cost: Cost) -> str:
    memory = (
        f"About {size(cost.bytes)} of memory: {size(cost.parameters)} for the model and its gradients, "
        f"{size(cost.optimizer)} for the optimizer, {size(cost.activations)} for what a step keeps, "
        f"{size(cost.rows)} for the rows."
    )
    if cost.seconds is None:
        return memory
    return f"A step takes about {cost.seconds * 1e3:.3g} ms here, the run {_time(cost.seconds * cost.steps)}. {memory}"


def _time(seconds: float) -> str:
    if seconds >= _HOUR:
        return f"{seconds / _HOUR:.1f} hours"
    return f"{seconds / _MINUTE:.1f} minutes" if seconds >= _MINUTE else f"{seconds:.2g} seconds"


def _verdict(audit: Audit, config: Path) -> str:
    if audit.has_errors:
        return (
            f"{config} is fine; {'its data is not, and no step was tried' if audit.cost is None else 'a step is not'}."
        )
    if any(found for _, found in audit.findings):
        return f"{config} can be trained; see the warnings."
    return f"{config} is fine."
