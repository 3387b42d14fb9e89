"""Giving up: how a run ends at a value that is NaN or infinite, saved as it was before, and what the error says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict

from mtlkit.engine.events import CheckpointWritten, Listener, NonFinite, NonFiniteFound
from mtlkit.engine.guard import Guard, Refused
from mtlkit.engine.progress import Progress
from mtlkit.engine.run import RunFolder
from mtlkit.errors import NonFiniteError
from mtlkit.experiment import Experiment

__all__ = ["give_up", "report"]

MOST = 3  # values that an error tells of


def give_up(
    experiment: Experiment, run: RunFolder, progress: Progress, guard: Guard, refused: Refused, emit: Listener
) -> NonFiniteError:
    """Save a run as it was before the step that was refused, if it can be, and return the error to raise."""
    step = progress.step + 1
    _tell(run, emit)
    if refused.has_moved:
        state = _gone(run, refused)
    else:
        guard.rewind()
        state = _kept(experiment, run, progress, emit)
    report(run, NonFiniteFound(step, "stop", refused.found), emit)
    names = dict.fromkeys(each.task for each in refused.found if each.task is not None)
    bound = [experiment.tasks[experiment.labels.index(name)] for name in names]
    by = f" ({'; '.join(dict.fromkeys(each.provider for each in bound))})" if bound else ""
    what = f"Non-finite {_told(refused)}, in step {step}{by}."
    parts = [what, _why(experiment, refused), state, *_remedies(refused.found), _policy(experiment, run, refused)]
    return NonFiniteError(
        " ".join(part for part in parts if part),
        what=refused.found[0].what,
        step=step,
        tasks=list(names),
        found=[asdict(each) for each in refused.found],
    )


def report(run: RunFolder, event: NonFiniteFound, emit: Listener) -> None:
    """Write down and tell of values that were NaN or infinite."""
    plain = {"event": "non_finite", "step": event.step, "action": event.action}
    run.append("metrics.jsonl", plain | {"found": [asdict(each) for each in event.found]})
    emit(event)


def _told(refused: Refused) -> str:
    """Return what was not finite; of the model's weights, the names."""
    if refused.found[0].what == "weights":
        return str(refused.error).removeprefix("Non-finite ").rstrip(".")
    return "; ".join(map(str, refused.found[:MOST])) + ("; ..." if len(refused.found) > MOST else "")


def _kept(experiment: Experiment, run: RunFolder, progress: Progress, emit: Listener) -> str:
    """Save the run if it is not, and return what is left."""
    if not progress.step:
        return "No weight was moved yet."
    if run.saves.step != progress.step:
        run.save(progress.step, experiment.model, progress.state(experiment, run), keep=experiment.plan.keep)
        _tell(run, emit)
    return f"The weights are as they were after step {progress.step}, where the run is saved."


def _tell(run: RunFolder, emit: Listener) -> None:
    """Wait for checkpoints that are being written, and tell of them."""
    for saved in run.written(wait=True):
        if saved.folder is not None:
            emit(CheckpointWritten(saved.step, saved.folder))


def _gone(run: RunFolder, refused: Refused) -> str:
    """Return what is left where weights have moved."""
    moved = "Steps before it" if refused.found[0].what == "weights" else "The step"
    if not run.saves.step:
        return f"{moved} moved the weights there, and the run had not been saved yet: begin it anew."
    return f"{moved} moved the weights there; the run is as it was saved after step {run.saves.step}."


def _why(experiment: Experiment, refused: Refused) -> str:
    if not refused.in_a_row:
        return ""
    limit = experiment.plan.non_finite_limit
    return f"There were {refused.in_a_row} such steps in a row, and training.non_finite_limit is {limit}."


def _remedies(found: Sequence[NonFinite]) -> list[str]:
    """Return what may help, each once."""
    remedies = []
    for each in found:
        if each.cause in {"inputs", "target"}:
            remedies.append("Fill in such rows or leave them out; mtlkit check looks for them.")
        elif each.what == "gradient" and each.cause == "loss":
            remedies.append(
                "The loss itself is finite; a derivative may be infinite all the same, as that of a square root at 0."
            )
        else:
            remedies.append(
                "A lower optimizer.lr, or a training.clip_norm, may keep the losses where they are numbers."
            )
    return list(dict.fromkeys(remedies))


def _policy(experiment: Experiment, run: RunFolder, refused: Refused) -> str:
    """Return how to go on without what is not finite."""
    if refused.has_moved or experiment.plan.non_finite != "stop":
        return ""
    command = f"mtlkit resume {shlex.quote(str(run.path))} training.non_finite=skip-task"
    return f"To go on without the task in such a step: {command}; with skip-step, without the step."
