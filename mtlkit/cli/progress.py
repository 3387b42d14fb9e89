"""How a run shows its progress: a bar and lines above it on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mtlkit.cli.output import Output, Table, number, printable

if TYPE_CHECKING:
    from mtlkit.app import RunResult
    from mtlkit.changes import Change
    from mtlkit.engine.events import Event, Listener, NonFiniteFound, TaskResult

__all__ = ["results_table", "setbacks", "show_changes", "show_progress", "show_run"]

_WIDEST = 30  # columns of a setting's value


@contextmanager
def show_progress(output: Output, title: str = "") -> Iterator[list[Listener]]:
    """Yield the listeners that show a run; none if the output is quiet."""
    if output.quiet:
        yield []
        return
    setbacks = _Setbacks(output)
    if not output.progress_console.is_terminal:
        yield [lambda event: _plain_lines(output, event, setbacks)]
        return
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mtlkit.engine.events import EvaluationFinished, NonFiniteFound, RunStarted, StepFinished

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.progress_console, transient=True) as progress:
        bar = progress.add_task(title or "training", total=None)

        def listen(event: Event) -> None:
            if isinstance(event, RunStarted):
                progress.update(bar, total=event.steps, completed=event.step)
                if not title:
                    folder = escape(printable(str(event.folder), lines=False))
                    progress.console.print(f"[bold]{', '.join(event.labels)}[/] → {folder}")
            elif isinstance(event, StepFinished):
                progress.update(bar, completed=event.step)
            elif isinstance(event, NonFiniteFound):
                setbacks.tell(event)
            elif isinstance(event, EvaluationFinished) and event.split == "validation" and not title:
                mark = " [green]best[/]" if event.is_best else ""
                progress.console.print(f"[dim]epoch {event.epoch:>4.3g}[/]  {escape(_headlines(event.results))}{mark}")

        yield [listen]


def _plain_lines(output: Output, event: Event, setbacks: _Setbacks) -> None:
    from mtlkit.engine.events import EvaluationFinished, NonFiniteFound, RunStarted

    if isinstance(event, RunStarted):
        start = f"step {event.step}" if event.step else "the beginning"
        output.remark(f"Training {', '.join(event.labels)} from {start} to step {event.steps} in {event.folder}")
    elif isinstance(event, NonFiniteFound):
        setbacks.tell(event)
    elif isinstance(event, EvaluationFinished) and event.split == "validation":
        best = "  best" if event.is_best else ""
        output.remark(f"epoch {event.epoch:>4.3g}  step {event.step:>6}  {_headlines(event.results)}{best}")


class _Setbacks:
    """Tells of the first steps that were skipped in part or whole, for values that were NaN or infinite.

    Args:
        output: Where.
    """

    MOST = 10

    def __init__(self, output: Output) -> None:
        self.output = output
        self.told = 0

    def tell(self, event: NonFiniteFound) -> None:
        """Tell of one, if it is among the first; what ends the run is told of as its error."""
        if event.action == "stop" or self.told == self.MOST:
            return
        self.told += 1
        what = {"skip-task": "left out", "skip-step": "the step was skipped"}.get(
            event.action, "not told to the strategy"
        )
        self.output.remark(f"step {event.step}: non-finite {'; '.join(map(str, event.found))}: {what}")
        if self.told == self.MOST:
            self.output.remark("Further such steps are in metrics.jsonl.")


def _headlines(results: Mapping[str, TaskResult]) -> str:
    parts = []
    for label, result in results.items():
        name, value = next(iter(result.metrics.items()))
        parts.append(f"{label} {name} {number(value)}")
    return printable("  ".join(parts), lines=False)


def show_changes(output: Output, changes: Sequence[Change]) -> None:
    """Say which settings are another than when the run was saved."""
    rows = [[change.setting, _setting(change.before), _setting(change.after)] for change in changes]
    output.remark(Table(["setting", "before", "from here on"], rows, "It goes on with another configuration").plain())


def _setting(value: object) -> str:
    """Return a value as it stands in a configuration."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def show_run(output: Output, run: RunResult) -> None:
    """Print what a run came to."""
    output.result(
        {
            "folder": str(run.folder),
            "steps": run.steps,
            "best_step": run.best_step,
            "test": {label: vars(result) for label, result in run.results.items()},
            "skipped": run.skipped,
            "non_finite": dict(run.non_finite),
            "hook_failures": [vars(failure) for failure in run.hook_failures],
        },
        results_table(run.results, f"Test split, weights of step {run.best_step} of {run.steps}"),
        f"The run is in {run.folder}",
    )
    for line in setbacks(run.skipped, run.non_finite):
        output.remark(line)
    for failure in run.hook_failures:
        output.remark(f"The plugin {failure.plugin} failed in its hook {failure.hook}: {failure.error}")


def setbacks(skipped: object, non_finite: object) -> list[str]:
    """Return what is to be said of steps that were skipped, and of tasks that had values which were NaN or infinite.

    Args:
        skipped: How many steps were skipped.
        non_finite: In how many steps each task had such values.
    """
    told = [f"Steps that were skipped: {skipped}."] if isinstance(skipped, int) and skipped else []
    for label, steps in non_finite.items() if isinstance(non_finite, Mapping) else ():
        if isinstance(steps, int):
            told.append(f"Steps in which '{label}' had values that were NaN or infinite: {steps}.")
    return told


def results_table(results: Mapping[str, TaskResult], title: str) -> Table:
    """Return each task's loss and metrics on a split, a row for each metric."""
    rows = []
    for label, result in results.items():
        for index, (name, value) in enumerate(result.metrics.items()):
            first = index == 0
            loss = number(result.loss) if first else ""
            rows.append([label if first else "", name, number(value), loss, str(result.rows) if first else ""])
    return Table(["task", "metric", ">value", ">loss", ">rows"], rows, title)
