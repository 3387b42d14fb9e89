"""``mtlkit runs show``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtlkit.cli.output import Output, Table, command_output, moment, number, size
from mtlkit.cli.progress import setbacks
from mtlkit.cli.runs.list import steps

if TYPE_CHECKING:
    from mtlkit.runs import Details

__all__ = ["show"]


@click.command(short_help="Show one run.")
@click.argument("run", type=click.Path(path_type=Path))
@command_output
def show(output: Output, run: Path) -> None:
    """Show what the run in folder RUN was configured to be, how it is, what took part, and what it has left."""
    from mtlkit import runs

    found = runs.details(run)
    output.result(found.to_dict(), *_parts(found))


def _parts(found: Details) -> Iterator[str | Table]:
    summary = found.summary
    title = f"  {summary.title}" if summary.title else ""
    yield click.style(summary.name, bold=True) + title
    yield f"{summary.state}, at step {steps(summary)}, {size(summary.bytes)}, last written {moment(summary.changed)}"
    if summary.problem:
        yield f"It failed with: {summary.problem}"
    if summary.use is not None and summary.state in {"running", "crashed"}:
        yield f"{'In use' if summary.state == 'running' else 'Used last'} by {summary.use}"
    if summary.state in {"stopped", "failed", "crashed", "unfinished"}:
        yield f"It goes on with: mtlkit resume {shlex.quote(str(summary.folder))}"
    yield ""
    yield Table(["setting", "value"], list(_settings(found)))
    yield ""
    if summary.results:
        rows = [[label, metric, number(value)] for label, (metric, value) in summary.results.items()]
        yield Table(["task", "metric", ">value"], rows, f"Results on the {summary.split} split")
        yield ""
    yield from _setbacks(found.done or {})
    if found.checkpoints:
        rows = [
            [each.name, "?" if each.step is None else str(each.step), size(each.bytes), moment(each.written)]
            for each in found.checkpoints
        ]
        yield Table(["checkpoint", ">step", ">size", "written"], rows)
        yield f"Whether they are whole: mtlkit runs verify {summary.folder}"
    else:
        yield "It has no checkpoints."
    yield from _history(found)


def _setbacks(done: Mapping[str, Any]) -> Iterator[str]:
    """Tell of the steps that were skipped, of which the runs of an earlier version say nothing."""
    non_finite = done.get("non_finite")
    told = setbacks(done.get("skipped"), non_finite.get("tasks") if isinstance(non_finite, dict) else None)
    yield from map(_plain, told)
    if told:
        yield ""


def _settings(found: Details) -> Iterator[list[str]]:
    config, environment = found.config, found.environment
    tasks = [each.label or each.name for each in config.tasks]
    training = config.training
    length = f"{training.steps} steps" if training.steps else f"{training.epochs} epochs"
    yield ["tasks", ", ".join(tasks)]
    yield ["encoder", config.encoder.name]
    yield ["architecture", config.architecture.name]
    yield ["strategy", config.strategy.name]
    yield ["optimizer", f"{config.optimizer.name}{_rate(config.optimizer.options)}, schedule {config.schedule.name}"]
    yield ["length", f"{length}, {training.batch_size} rows in a batch"]
    yield ["seed", str(config.run.seed)]
    yield ["made with", ", ".join(f"{name} {_plain(environment[name])}" for name in _VERSIONS if name in environment)]
    yield ["made on", ", ".join(_plain(environment[name]) for name in _MACHINE if environment.get(name))]
    plugins: dict[str, list[str]] = {}
    for each in _mappings(environment.get("plugins")):
        if each.get("distribution") != "mtlkit":
            who = " ".join(_plain(each.get(key, "?")) for key in ("distribution", "version"))
            plugins.setdefault(who, []).append(_plain(each.get("name", "?")))
    for who, names in plugins.items():
        yield ["plugin", f"{who}: {', '.join(names)}"]


_VERSIONS = ("mtlkit", "torch", "numpy", "python")
_MACHINE = ("device_name", "processor", "platform")


def _rate(options: dict[str, Any]) -> str:
    return f" {_plain(options['lr'])}" if "lr" in options else ""


def _history(found: Details) -> Iterator[str | Table]:
    rows = []
    for each in reversed(found.history):
        what = [f"{c.get('setting')}: {c.get('before')} → {c.get('after')}" for c in _mappings(each.get("changes"))]
        what += [str(text) for text in each.get("differences") or [] if isinstance(text, str)]
        step = each.get("step")
        event = f"{each.get('event')}" + (f" at step {step}" if step is not None else "")
        rows.append([moment(str(each.get("time"))), _plain(event), _plain(", ".join(what))])
    if rows:
        yield ""
        yield Table(["when", "it was", "with what is different"], rows, "History")


def _mappings(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _plain(value: object) -> str:
    from mtlkit.locking import single_line

    return single_line(str(value))
