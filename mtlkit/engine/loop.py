"""The training loop: measure what the strategy needs, ask for weights, one weighted backward, step, record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mtlkit.data.generators import generator_states, restore_generators
from mtlkit.engine import checkpoint
from mtlkit.engine.diagnosis import require_finite_weights
from mtlkit.engine.evaluate import evaluate
from mtlkit.engine.events import (
    CheckpointWritten,
    EpochFinished,
    EvaluationFinished,
    GradientsMeasured,
    Listener,
    NonFinite,
    NonFiniteFound,
    RunFinished,
    RunStarted,
    StepFinished,
    StepRecorded,
    TaskResult,
)
from mtlkit.engine.giving_up import give_up, report
from mtlkit.engine.guard import Guard, Refused
from mtlkit.engine.progress import Progress
from mtlkit.engine.run import RunFolder, Saved
from mtlkit.engine.step import Pass, begin_step
from mtlkit.engine.stopping import BrokenOff, StopRequest
from mtlkit.errors import NonFiniteError, Stopped
from mtlkit.experiment import Experiment

__all__ = ["fit"]


def fit(experiment: Experiment, run: RunFolder, emit: Listener, stop: StopRequest) -> dict[str, TaskResult]:
    """Train to the end of the plan, from where the run was saved last, and test the best weights once.

    Raises:
        Stopped: If `stop` was requested; the step was finished and the run saved.
        NonFiniteError: If a value is NaN or infinite, and the policy of the run is to stop, or there were too many.
    """
    plan = experiment.plan
    run.clear()
    progress = Progress.restore(experiment, run)
    run.saves.keep_newest(plan.keep, progress.step)
    emit(RunStarted(run.path, experiment.labels, progress.step, plan.steps, plan.steps_per_epoch))
    try:
        _train(experiment, run, progress, emit, stop)
    except Exception:
        _tell(run.settle(), emit)
        raise
    return _test(experiment, run, progress, emit, stop)


def _train(experiment: Experiment, run: RunFolder, progress: Progress, emit: Listener, stop: StopRequest) -> None:
    """Take the steps that are left of the plan."""
    plan, model = experiment.plan, experiment.model
    guard = Guard(experiment, progress.tally)
    model.train()
    experiment.strategy.train()
    if progress.evaluation_is_due:
        begin_step(experiment, progress.step - 1)  # by whose rates the optimizer is saved
        _conclude(experiment, run, progress, guard, emit, stop)
    while progress.step < plan.steps:
        started = time.perf_counter()
        rate = begin_step(experiment, progress.step)
        try:
            outcome = guard.take(progress.step)
        except Refused as refused:
            raise give_up(experiment, run, progress, guard, refused, emit) from refused.error
        progress.step += 1
        passes = outcome.passes
        progress.skipped += outcome.is_skipped
        if outcome.found:
            report(run, NonFiniteFound(progress.step, outcome.action, outcome.found), emit)
        rows = _count_rows(experiment, passes, progress)
        emit(StepFinished(progress.step))
        if progress.step % plan.log_every == 0 or progress.step == plan.steps:
            record = _record(experiment, progress, rate, passes, rows)
            run.append("metrics.jsonl", {"event": "step", **vars(record)})
            run.append("timings.jsonl", {"step": progress.step, "seconds": time.perf_counter() - started})
            emit(record)
        if plan.measure_every and progress.step % plan.measure_every == 0 and _were_measured(passes):
            sample = _sample(experiment, progress.step, passes[-1])
            run.append("metrics.jsonl", {"event": "gradients", **vars(sample)})
            emit(sample)
        if progress.step % plan.steps_per_epoch == 0:
            experiment.strategy.end_epoch()
            emit(EpochFinished(progress.step, progress.step // plan.steps_per_epoch))
        progress.evaluation_is_due = progress.step % plan.evaluate_every == 0 or progress.step == plan.steps
        _conclude(experiment, run, progress, guard, emit, stop)


def _conclude(
    experiment: Experiment, run: RunFolder, progress: Progress, guard: Guard, emit: Listener, stop: StopRequest
) -> None:
    """Evaluate the weights of a step and save the run, as far as that is due.

    Raises:
        Stopped: If `stop` was requested: what was not evaluated by then is when the run goes on.
        NonFiniteError: If weights are not finite that are to be evaluated or saved.
    """
    plan = experiment.plan
    if progress.evaluation_is_due:
        _require_finite(experiment, run, progress, guard, emit)
    is_best = progress.evaluation_is_due and _evaluate(experiment, run, progress, emit, stop)
    stopping = bool(stop)  # asked once, or a signal between two questions would go unsaved
    is_last = progress.step == plan.steps or stopping
    saving = progress.step % plan.checkpoint_every == 0 or is_last
    if saving or is_best:
        _require_finite(experiment, run, progress, guard, emit)
        _tell(run.written(wait=True), emit)  # of the one before, while nothing is being written
        state = progress.state(experiment, run) if saving else None
        behind = plan.background and not is_last  # the last one is waited for, and needs no copy
        run.save(progress.step, experiment.model, state, keep=plan.keep, is_best=is_best, background=behind)
    _tell(run.written(), emit)
    if stopping:
        raise _stopped(experiment, run, progress, stop)


def _stopped(experiment: Experiment, run: RunFolder, progress: Progress, stop: StopRequest) -> Stopped:
    where = f"Stopped after step {progress.step} of {experiment.plan.steps}; the run is saved in {run.path}."
    return Stopped(where, stop.signal_number or 0)


def _tell(written: Sequence[Saved], emit: Listener) -> None:
    """Tell of the checkpoints that were written."""
    for saved in written:
        if saved.folder is not None:
            emit(CheckpointWritten(saved.step, saved.folder))


def _require_finite(experiment: Experiment, run: RunFolder, progress: Progress, guard: Guard, emit: Listener) -> None:
    """Refuse to save or to evaluate weights that are not finite, such as those that a step has moved beyond float32."""
    try:
        require_finite_weights(experiment)
    except NonFiniteError as error:
        refused = Refused(error, [NonFinite("weights")], has_moved=True)
        raise give_up(experiment, run, progress, guard, refused, emit) from None


def _count_rows(experiment: Experiment, passes: list[Pass], progress: Progress) -> dict[str, int]:
    """Return how many rows each task saw in the passes of one step, and add them to those of the run."""
    rows = dict.fromkeys(experiment.labels, 0)
    for one in passes:
        for task, count in zip(one.tasks, one.rows, strict=True):
            rows[experiment.tasks[task].label] += count
    progress.rows = {label: progress.rows.get(label, 0) + count for label, count in rows.items()}
    return rows


def _record(
    experiment: Experiment, progress: Progress, rate: float, passes: list[Pass], rows: Mapping[str, int]
) -> StepRecorded:
    """Put together what the passes of one step saw, task by task.

    Losses and norms are means over the passes that a task took part in. Weights are what was applied: each pass counts
    for one n-th of the step, so a task that was absent from some weighs less in it.
    """

    def mean(values: Mapping[int, list[float]]) -> dict[str, float]:
        return {experiment.tasks[task].label: sum(each) / len(each) for task, each in sorted(values.items())}

    def applied(values: Mapping[int, list[float]]) -> dict[str, float]:
        n_passes = experiment.plan.accumulate
        return {experiment.tasks[task].label: sum(each) / n_passes for task, each in sorted(values.items())}

    losses: dict[int, list[float]] = {}
    weights: dict[int, list[float]] = {}
    weighted: dict[int, list[float]] = {}
    norms: dict[int, list[float]] = {}
    for tasks, _, measured, *_ in passes:
        for task, loss, weight in zip(tasks, measured.losses.tolist(), measured.weights.tolist(), strict=True):
            losses.setdefault(task, []).append(loss)
            weights.setdefault(task, []).append(weight)
            weighted.setdefault(task, []).append(weight * loss)
        if measured.gradient_norms is not None:
            for task, norm in zip(tasks, measured.gradient_norms.tolist(), strict=True):
                norms.setdefault(task, []).append(norm)
    return StepRecorded(
        progress.step,
        rate,
        losses=mean(losses),
        weights=applied(weights),
        weighted_losses=applied(weighted),
        gradient_norms=mean(norms),
        rows=rows,
        total_rows=progress.rows,
        skipped=progress.skipped,
        non_finite_steps=progress.tally.steps,
        non_finite={label: progress.tally.tasks.get(label, 0) for label in experiment.labels},
    )


def _were_measured(passes: Sequence[Pass]) -> bool:
    """Return whether there was a pass, and gradients that did not overflow."""
    return bool(passes) and passes[-1].measured.gramian is not None


def _sample(experiment: Experiment, step: int, last: Pass) -> GradientsMeasured:
    """Put together how the tasks' gradients compared in the last pass of a step that had any."""
    labels = [experiment.tasks[task].label for task in last.tasks]
    norms, cosines = last.measured.gradient_norms, last.measured.cosines
    over = experiment.strategy.over or experiment.plan.measure_over
    if norms is None or cosines is None:  # it was asked for, and so measured
        raise AssertionError("a step was to be sampled, and its gradients were not measured")
    pairs = {
        label: dict(zip(labels[index + 1 :], row[index + 1 :], strict=True))
        for index, (label, row) in enumerate(zip(labels, cosines.tolist(), strict=True))
        if index + 1 < len(labels)
    }
    norms_by_label = dict(zip(labels, norms.tolist(), strict=True))
    return GradientsMeasured(step, over.value, norms_by_label, pairs, last.measured.conflicts)


def _evaluate(experiment: Experiment, run: RunFolder, progress: Progress, emit: Listener, stop: StopRequest) -> bool:
    """Evaluate all tasks, and return whether the weights are the best so far.

    Where a signal comes before that is done, it is as if it had not begun, and still due.
    """
    generators = generator_states(experiment.device)
    try:
        results = evaluate(experiment, "validation", go_on=stop.break_off)
    except BrokenOff:
        restore_generators(generators, experiment.device)
        return False
    progress.evaluation_is_due = False
    is_best = progress.is_best(experiment, results)
    _report(experiment, run, progress.step, "validation", results, emit, is_best=is_best)
    return is_best


def _test(
    experiment: Experiment, run: RunFolder, progress: Progress, emit: Listener, stop: StopRequest
) -> dict[str, TaskResult]:
    checkpoint.verify(run.best)
    checkpoint.load_weights(run.best, experiment.model)
    try:
        results = evaluate(experiment, "test", go_on=stop.break_off)
    except BrokenOff:
        raise _stopped(experiment, run, progress, stop) from None
    _report(experiment, run, progress.best_step, "test", results, emit, is_best=True)
    plain: dict[str, Any] = {label: vars(result) for label, result in results.items()}
    non_finite = {"steps": progress.tally.steps, "tasks": progress.tally.tasks}
    done = {"steps": progress.step, "best_step": progress.best_step, "skipped": progress.skipped}
    run.finish(done | {"non_finite": non_finite, "test": plain})
    emit(RunFinished(run.path, progress.best_step, results))
    return results


def _report(
    experiment: Experiment,
    run: RunFolder,
    step: int,
    split: str,
    results: Mapping[str, TaskResult],
    emit: Listener,
    *,
    is_best: bool,
) -> None:
    epoch = step / experiment.plan.steps_per_epoch
    plain = {label: vars(result) for label, result in results.items()}
    run.append("metrics.jsonl", {"event": "evaluation", "step": step, "epoch": epoch, "split": split, "tasks": plain})
    emit(EvaluationFinished(step, epoch, split, results, is_best))
