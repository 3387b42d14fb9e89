"""What every plugin of run hooks promises: it hears of a run, event by event, and of the next one after it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pluggy

from mtlkit.engine.events import (
    CheckpointWritten,
    EpochFinished,
    EvaluationFinished,
    Event,
    GradientsMeasured,
    NonFinite,
    NonFiniteFound,
    RunFinished,
    RunStarted,
    StepRecorded,
    TaskResult,
)
from mtlkit.hookspecs import RunHooks, hookimpl, run_hooks_of
from mtlkit.testing import isolated
from mtlkit.testing.checks import Checks, Nonconformance, require
from mtlkit.testing.probes import asking
from mtlkit.testing.subject import Subject

__all__ = ["CHECKS", "sample_run"]

CHECKS = Checks()


@CHECKS
def hears_of_something(subject: Subject) -> None:
    """It has at least one of the hooks of runs."""
    component = subject.component
    known = [name for name in vars(RunHooks) if name.startswith("mtlkit_")]
    marks = {
        name: getattr(getattr(component, name), f"{hookimpl.project_name}_impl") for name in run_hooks_of(component)
    }
    require(
        any((mark.get("specname") or name) in known for name, mark in marks.items()),
        f"{subject.name} has none of the hooks of runs",
        f"Write @mtlkit.hookimpl above a method with one of these names: {', '.join(known)}.",
    )


@CHECKS
def hooks_take_their_events(subject: Subject) -> None:
    """Each of its hooks takes an event of its type."""
    (failure, _) = _two_runs(subject)
    if failure is not None:
        raise failure


@CHECKS
def hears_a_second_run(subject: Subject) -> None:
    """Once it has heard a run from beginning to end, it can hear another."""
    first, second = _two_runs(subject)
    if first is None and second is not None:  # what fails at once, another check tells of
        raise Nonconformance(
            f"It heard one run, and not a second in the same process: {second} Keep what belongs to one run on the "
            "instance, which each run makes anew of a class, and close what was opened when the run is over."
        )


@CHECKS
def leaves_torch_unimported(subject: Subject) -> None:
    """Its import leaves torch alone, for 'mtlkit list' and others do without."""
    isolated.require_torch_unimported(subject)


def sample_run(folder: Path) -> Iterator[tuple[str, Event]]:
    """Yield the events of a small run of two tasks in their order, each with the hook that is told of it.

    Args:
        folder: The run's folder, which is made, and grows as that of a run does.
    """
    folder.mkdir(parents=True)
    for name, text in (("config.yaml", "tasks: [one, other]\n"), ("environment.json", "{}\n"), ("metrics.jsonl", "")):
        folder.joinpath(name).write_text(text, encoding="utf-8")
    labels = ("one", "other")
    results = {label: TaskResult(0.5, {"accuracy": 0.75, "f1": 0.7}, 8) for label in labels}
    each = dict.fromkeys(labels, 0.5)
    yield "mtlkit_run_started", RunStarted(folder, labels, step=0, steps=4, steps_per_epoch=2)
    for epoch in (1, 2):
        step = 2 * epoch
        # Norms are there only where the strategy measures them, and a task that was absent from a step is left out.
        losses: Mapping[str, float] = each if epoch == 1 else {"one": 0.5}
        norms = each if epoch == 1 else {}
        rows, total = {"one": 8, "other": 8 if epoch == 1 else 0}, {"one": 8 * step, "other": 16}
        yield "mtlkit_step_recorded", StepRecorded(step, 1e-3, losses, losses, losses, norms, rows, total)
        spoilt = [NonFinite("loss", "one", 0, "nan", "inputs", [3], [12]), NonFinite("gradient")]
        yield "mtlkit_non_finite_found", NonFiniteFound(step, "skip-task" if epoch == 1 else "skip-step", spoilt)
        cosines = {"one": {"other": -0.5}} if epoch == 1 else {}
        yield "mtlkit_gradients_measured", GradientsMeasured(step, "features", each, cosines, 1.0 if cosines else None)
        yield "mtlkit_epoch_finished", EpochFinished(step, epoch)
        evaluated = EvaluationFinished(step, float(epoch), "validation", results, is_best=epoch == 1)
        yield "mtlkit_evaluation_finished", evaluated
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        yield "mtlkit_checkpoint_written", CheckpointWritten(step, checkpoint)
    yield "mtlkit_evaluation_finished", EvaluationFinished(2, 1.0, "test", results, is_best=False)
    (folder / "done.json").write_text("{}\n", encoding="utf-8")
    yield "mtlkit_run_finished", RunFinished(folder, best_step=2, results=results)


def _manager(subject: Subject) -> pluggy.PluginManager:
    """Return what calls its hooks in one run: those of a new instance, or of what is no class as it is."""
    listener: Any = subject.component
    if isinstance(listener, type):
        options = subject.checked_options()
        with asking("Its constructor"):
            listener = listener(**options)
    manager = pluggy.PluginManager("mtlkit")
    manager.add_hookspecs(RunHooks)
    with asking("Registering its hooks"):
        manager.register(listener)
        manager.check_pending()
    return manager


def _two_runs(subject: Subject) -> tuple[Nonconformance | None, Nonconformance | None]:
    """Tell it of two runs, once for all checks, and return how each failed."""
    if "runs" not in subject.kept:
        subject.kept["runs"] = (_tell(subject), _tell(subject))
    failures: tuple[Nonconformance | None, Nonconformance | None] = subject.kept["runs"]
    return failures


def _tell(subject: Subject) -> Nonconformance | None:
    """Tell it of a run whose folder is in the working directory for as long, and return how it failed."""
    try:
        with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
            manager = _manager(subject)
            for hook, event in sample_run(Path(temporary, "runs", "sample")):
                with asking(f"Its hook {hook}, told of {event},"):
                    getattr(manager.hook, hook)(event=event)
    except Nonconformance as failure:
        return failure
    return None
