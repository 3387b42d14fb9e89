"""Diagnosis: whose value was NaN or infinite in a step, which value, and in which rows.

Nothing here runs in a step that is sound. Where one is not, its passes are run again, each task by itself, and looked
at part by part: that takes as long as some steps, and finds what can be mended.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mtlkit.engine.events import NonFinite
from mtlkit.engine.forward import TaskBatch, forward, present
from mtlkit.engine.step import Drawn, LeftOut
from mtlkit.errors import NonFiniteError
from mtlkit.experiment import BoundTask, Experiment, SourceGroup
from mtlkit.task import Split
from mtlkit.tensors import Tensors, listed

__all__ = ["diagnose", "require_finite_weights"]

MOST_ROWS = 100  # that a finding tells of one by one
MOST_SINGLE = 4096  # rows whose losses are computed one by one


def diagnose(
    experiment: Experiment,
    drawn: Sequence[Drawn],
    left_out: Mapping[int, LeftOut],
    error: NonFiniteError,
    number: int | None,
) -> list[NonFinite]:
    """Find out what was not finite in a step that an error put an end to, before any weight moved.

    What a forward pass changes, such as statistics, is changed by it.

    Args:
        experiment: What is trained.
        drawn: What each pass drew, as far as it came to that.
        left_out: The tasks that were left out, by the number of the pass.
        error: What was raised.
        number: In which pass; None where all passes were done.

    Raises:
        NonFiniteError: If it is the model's weights that are not finite.
    """
    require_finite_weights(experiment)
    if error.what == "slope":
        return [NonFinite("slope", number=number)]
    if number is not None and error.what in {"weight", "held-out loss"}:
        is_held_out = error.what == "held-out loss"
        without = left_out[number].held_out if is_held_out else left_out[number].training
        batches = drawn[number].held_out if is_held_out else drawn[number].batches
        tasks = present(experiment, batches, without=without)
        return [NonFinite(error.what, experiment.labels[tasks[place]], number) for place in error.places]
    found = []
    for each in range(len(drawn)) if number is None else [number]:
        only = _named(experiment, drawn[each], left_out[each], error) if error.places else None
        seen = list(_examined(experiment, drawn[each], left_out[each], each, only))
        # A task that is named, and is finite by itself, was drawn in by another; or it is not the same twice.
        found += seen or [NonFinite(error.what, experiment.labels[task], each) for task in only or ()]
    return found or [NonFinite("gradient" if _penalty_is_finite(experiment) else "penalty")]


def require_finite_weights(experiment: Experiment) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        NonFiniteError: If there are any.
    """
    parameters = list(experiment.model.parameters())
    if not parameters or torch.stack([p.isfinite().all() for p in parameters]).all():
        return
    buffers = dict(experiment.model.named_buffers())
    weights = {k: v for k, v in experiment.model.state_dict().items() if k not in buffers}  # of a bank, each task's own
    bad = [name for name, weight in weights.items() if not weight.isfinite().all()]
    named = f"{', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}"  # noqa: PLR2004
    raise NonFiniteError(f"Non-finite weights: {named}.", what="weights", weights=bad)


def _named(experiment: Experiment, drawn: Drawn, left_out: LeftOut, error: NonFiniteError) -> list[int]:
    """Return the tasks that an error names by their places among the losses of a pass."""
    tasks = present(experiment, drawn.batches, without=left_out.training)
    return [tasks[place] for place in error.places]


def _examined(
    experiment: Experiment, drawn: Drawn, left_out: LeftOut, number: int, only: Sequence[int] | None
) -> Iterator[NonFinite]:
    """Run a pass again task by task, and yield what is not finite of each: its loss, or else its gradient."""
    trained = [p for p in experiment.model.parameters() if p.requires_grad]
    for group, batch, place in zip(experiment.groups, drawn.batches, drawn.places, strict=True):
        if batch is None:
            continue
        for made in forward(experiment, group, batch, complete=group.complete, without=left_out.training):
            if only is not None and made.task not in only:
                continue
            bound = experiment.tasks[made.task]
            value = float(made.loss.detach())
            spoilt: Tensor | None = None
            if math.isfinite(value):
                inner = [z for z in [made.output, *listed(made.features)] if z.requires_grad]
                gradients: Sequence[Tensor | None] = torch.autograd.grad(
                    made.loss, [*inner, *trained], retain_graph=True, allow_unused=True
                )
                if all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients):
                    continue
                what, told = "gradient", ""
                if made.output.requires_grad and gradients[0] is not None:
                    spoilt = _bad_rows(gradients[0])
            else:
                what, told = "loss", str(value)
            cause, rows = _cause(bound, group, batch, made, spoilt)
            if len(rows) == len(batch) > 1:
                rows = []
            split_rows = None if place is None else group.stream.rows_at(place)
            yield NonFinite(
                what,
                bound.label,
                number,
                told,
                cause,
                rows[:MOST_ROWS],
                None if split_rows is None or not rows else [int(split_rows[row]) for row in rows[:MOST_ROWS]],
            )


def _cause(
    bound: BoundTask, group: SourceGroup, batch: Split, made: TaskBatch, spoilt: Tensor | None
) -> tuple[str, list[int]]:
    """Return where in the computation the first values are that are not finite, and in which rows of the batch.

    Args:
        bound: The task.
        group: Its source.
        batch: The rows.
        made: What became of them.
        spoilt: Which outputs have a gradient that is not finite ``[B]``, where the loss itself is finite.
    """
    target = batch.targets[bound.task.target]
    labelled = torch.ones(len(batch), dtype=torch.bool, device=target.device)
    if not group.complete:
        labelled = bound.task.labelled(target)
    places = labelled.nonzero().flatten()
    features = _bad_rows(made.features)
    if features is not None and features.any():
        inputs = _bad_rows(batch.inputs)
        if inputs is not None and (inputs & features).any():
            return "inputs", _indices(inputs & features)
        return "features", _indices(features)
    for cause, tensor in (("output", made.output), ("target", made.target)):
        bad = _bad_rows(tensor)
        if bad is not None and len(bad) == len(places) and bad.any():
            return cause, _indices(places[bad])
    if spoilt is None:
        spoilt = _losses_one_by_one(bound, made)
    if spoilt is not None and len(spoilt) == len(places) and spoilt.any():
        return "loss", _indices(places[spoilt])
    return "", []


def _bad_rows(tensors: Tensors) -> Tensor | None:
    """Return which rows hold a value that is not finite, as booleans ``[B]``; None where nothing is a number."""
    numbers = [each for each in listed(tensors) if each.is_floating_point() and each.ndim > 0]
    bad = [(~each.detach().isfinite()).reshape(len(each), -1).any(1) for each in numbers]
    return torch.stack(bad).any(0) if bad else None


def _losses_one_by_one(bound: BoundTask, made: TaskBatch) -> Tensor | None:
    """Return which rows have by themselves a loss that is not finite ``[B]``; None where that cannot be told."""
    if len(made.target) > MOST_SINGLE or len(made.output) != len(made.target):
        return None
    output, target = made.output.detach(), made.target
    with contextlib.suppress(Exception), torch.no_grad():  # a loss may well need more than one row
        losses = [bound.task.loss(output[row : row + 1], target[row : row + 1]) for row in range(len(target))]
        return ~torch.stack(losses).isfinite()
    return None


def _indices(rows: Tensor) -> list[int]:
    """Return the places of what is true, or the indices that are given."""
    found: list[int] = (rows.nonzero().flatten() if rows.dtype is torch.bool else rows).tolist()
    return found


def _penalty_is_finite(experiment: Experiment) -> bool:
    """Return whether what the architecture pays by itself, and its gradient, are finite."""
    penalty = experiment.model.architecture.penalty()
    if penalty is None:
        return True
    trained = [p for p in experiment.model.parameters() if p.requires_grad]
    gradients: Sequence[Tensor | None] = torch.autograd.grad(penalty, trained, allow_unused=True)
    return all(bool(part.isfinite().all()) for part in (penalty, *gradients) if part is not None)
