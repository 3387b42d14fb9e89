"""The training loop: measure what the strategy needs, ask for weights, one weighted backward, step, record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mtlkit.engine import checkpoint
from mtlkit.engine.evaluate import evaluate
from mtlkit.engine.events import (
    CheckpointWritten,
    EpochFinished,
    EvaluationFinished,
    GradientsMeasured,
    Listener,
    RunFinished,
    RunStarted,
    StepFinished,
    StepRecorded,
    TaskResult,
)
from mtlkit.engine.forward import forward_all
from mtlkit.engine.outlook import outlook
from mtlkit.engine.progress import Progress
from mtlkit.engine.run import RunFolder
from mtlkit.engine.stopping import StopRequest
from mtlkit.errors import NonFiniteError, Stopped
from mtlkit.experiment import Experiment
from mtlkit.gradients import Measurement, backward
from mtlkit.task import Split

__all__ = ["LEAST_SCALE", "fit", "forward_backward"]

LEAST_SCALE = 2.0**-10
"""What the losses are scaled by at least in float16: a gradient that overflows even so is not one of precision."""


def fit(experiment: Experiment, run: RunFolder, emit: Listener, stop: StopRequest) -> dict[str, TaskResult]:
    """Train to the end of the plan, from where the run was saved last, and test the best weights once.

    Raises:
        Stopped: If `stop` was requested; the step was finished and the run saved.
        NonFiniteError: If a loss is NaN or infinite.
    """
    plan, model = experiment.plan, experiment.model
    progress = Progress.restore(experiment, run)
    emit(RunStarted(run.path, experiment.labels, progress.step, plan.steps, plan.steps_per_epoch))
    model.train()
    experiment.strategy.train()
    while progress.step < plan.steps:
        started = time.perf_counter()
        rate = _begin_step(experiment, progress.step)
        each = [forward_backward(experiment, progress.step, number) for number in range(plan.accumulate)]
        passes = [one for one in each if one is not None]
        if passes:  # in a step that no task takes part in, nothing moves: weights, momenta, what a strategy knows
            is_taken = _take_step(experiment, progress.step)
            progress.skipped += not is_taken
            if is_taken and experiment.strategy.watches_step:
                _observe(experiment, passes[-1].batches)
        progress.step += 1
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
        if progress.step % plan.evaluate_every == 0 or progress.step == plan.steps:
            _evaluate(experiment, run, progress, emit)
        stopping = bool(stop)  # asked once, or a signal between two questions would go unsaved
        if progress.step % plan.checkpoint_every == 0 or progress.step == plan.steps or stopping:
            folder = run.save(progress.step, model, progress.state(experiment, run), keep=plan.keep)
            emit(CheckpointWritten(progress.step, folder))
        if stopping and progress.step < plan.steps:
            where = f"Stopped after step {progress.step} of {plan.steps}; the run is saved in {run.path}."
            raise Stopped(where, stop.signal_number or 0)
    return _test(experiment, run, progress, emit)


def _take_step(experiment: Experiment, step: int) -> bool:
    """Clip the gradient and let the optimizer take its step; return whether it did.

    It does not where the gradient overflows in float16: the losses are then scaled by less from the next step on.

    Raises:
        NonFiniteError: If the gradient is NaN or infinite otherwise, or whatever the losses are scaled by.
    """
    optimizer, scaler = experiment.optimizer, experiment.scaler
    scaler.unscale_(optimizer)
    parameters = [p for p in experiment.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    scale = scaler.get_scale()
    if norm.isfinite():
        if experiment.plan.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, experiment.plan.clip_norm, norm)
    elif not scaler.is_enabled() or scale < LEAST_SCALE:
        raise _non_finite(experiment, step)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return scaler.get_scale() >= scale


def _non_finite(experiment: Experiment, step: int) -> NonFiniteError:
    bad = [
        name for name, p in experiment.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    where = f" of {', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}" if bad else ""  # noqa: PLR2004
    return NonFiniteError(
        f"Non-finite gradient{where}. It was found before step {step + 1}; the weights are as they were."
    )


def _begin_step(experiment: Experiment, step: int) -> float:
    """Thaw what is trained from this step on, set the learning rates, and return the model's."""
    if experiment.thawing is not None:
        experiment.thawing.at(step)
    factor = experiment.schedule.factor(step, experiment.plan.steps)
    for group in experiment.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(experiment.optimizer.param_groups[0]["lr"])


class _Pass(NamedTuple):
    """One backward pass.

    Attributes:
        tasks: The tasks that took part.
        rows: How many rows with a label each of them had.
        measured: What was measured.
        batches: The batch of each source; None for one that was not drawn.
    """

    tasks: list[int]
    rows: list[int]
    measured: Measurement
    batches: list[Split | None]


def forward_backward(experiment: Experiment, step: int, number: int) -> _Pass | None:
    """Draw the batches of one pass of a step, and backpropagate the weighted losses.

    None where no task has a labelled row in them: absent is not a loss of zero, so nothing is done.

    Args:
        experiment: What is trained.
        step: The step, counted from 0.
        number: Which of its passes it is, counted from 0.
    """
    batches = _draw(experiment, step, number)
    ahead = outlook(experiment, batches)
    made = forward_all(experiment, batches)
    tasks = made.tasks
    if not tasks:
        return None
    index = None if len(tasks) == len(experiment.tasks) else torch.tensor(tasks)
    plan = experiment.plan
    measures = plan.measure_every is not None and (step + 1) % plan.measure_every == 0
    try:
        measurement = backward(
            {experiment.tasks[each.task].label: each.loss for each in made.single},
            strategy=experiment.strategy,
            features=made.features,
            shared=experiment.model,
            preference=experiment.weights if index is None else experiment.weights[index],
            tasks=index,
            scale=1 / plan.accumulate,
            loss_scale=experiment.scaler,
            heads=plan.heads,
            measure=plan.measure_over if measures else None,
            ahead=ahead,
            banks=made.bank_losses,
        )
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} It was found before step {step + 1}; the weights are as they were.") from None
    penalty = experiment.model.architecture.penalty()
    if penalty is not None:
        experiment.scaler.scale(penalty.div(plan.accumulate)).backward()
    return _Pass(tasks, made.rows, measurement, batches)


def _draw(experiment: Experiment, step: int, number: int) -> list[Split | None]:
    """Draw a batch of every source, or of the one that is mixed in; None for those that are not drawn."""
    plan, mixing = experiment.plan, experiment.mixing
    if mixing is None:
        return [group.stream.next() for group in experiment.groups]
    drawn = mixing.drawn(step * plan.accumulate + number, step, plan.steps)
    return [group.stream.next() if group.name == drawn else None for group in experiment.groups]


@torch.no_grad()
def _observe(experiment: Experiment, batches: list[Split | None]) -> None:
    """Let the strategy see what the step made of the losses of its batch."""
    made = forward_all(experiment, batches)
    tasks = made.tasks
    index = None if len(tasks) == len(experiment.tasks) else torch.tensor(tasks)
    experiment.strategy.observe(made.losses.double(), index)


def _count_rows(experiment: Experiment, passes: list[_Pass], progress: Progress) -> dict[str, int]:
    """Return how many rows each task saw in the passes of one step, and add them to those of the run."""
    rows = dict.fromkeys(experiment.labels, 0)
    for one in passes:
        for task, count in zip(one.tasks, one.rows, strict=True):
            rows[experiment.tasks[task].label] += count
    progress.rows = {label: progress.rows.get(label, 0) + count for label, count in rows.items()}
    return rows


def _record(
    experiment: Experiment, progress: Progress, rate: float, passes: list[_Pass], rows: Mapping[str, int]
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
    for tasks, _, measured, _ in passes:
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
    )


def _were_measured(passes: Sequence[_Pass]) -> bool:
    """Return whether there was a pass, and gradients that did not overflow."""
    return bool(passes) and passes[-1].measured.gramian is not None


def _sample(experiment: Experiment, step: int, last: _Pass) -> GradientsMeasured:
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


def _evaluate(experiment: Experiment, run: RunFolder, progress: Progress, emit: Listener) -> None:
    results = evaluate(experiment, "validation")
    is_best = progress.is_best(experiment, results)
    if is_best:
        run.save_best(progress.step, experiment.model)
    _report(experiment, run, progress.step, "validation", results, emit, is_best=is_best)


def _test(experiment: Experiment, run: RunFolder, progress: Progress, emit: Listener) -> dict[str, TaskResult]:
    checkpoint.verify(run.best)
    checkpoint.load_weights(run.best, experiment.model)
    results = evaluate(experiment, "test")
    _report(experiment, run, progress.best_step, "test", results, emit, is_best=True)
    plain: dict[str, Any] = {label: vars(result) for label, result in results.items()}
    run.finish({"steps": progress.step, "best_step": progress.best_step, "test": plain})
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
