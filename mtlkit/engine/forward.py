"""One batch through the model: features, outputs and losses for the tasks that have labels in it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtlkit.banks import Bank
from mtlkit.errors import PluginError
from mtlkit.experiment import BoundTask, Experiment, SourceGroup
from mtlkit.gradients import BankLosses
from mtlkit.memory import ran_out
from mtlkit.task import Split
from mtlkit.tensors import Tensors, apply, told

__all__ = ["BankBatch", "StepBatch", "TaskBatch", "forward", "forward_all", "present", "wide"]


class TaskBatch(NamedTuple):
    """What one task made of one batch, on the rows that have a label for it.

    Attributes:
        task: The index of the task.
        features: The features of all rows in the batch, as the architecture gave them.
        output: What the head made of the labelled rows.
        target: Their targets.
        loss: The mean loss over them, a scalar.
    """

    task: int
    features: Tensors
    output: Tensor
    target: Tensor
    loss: Tensor


class BankBatch(NamedTuple):
    """What the tasks of a bank made of one batch.

    Attributes:
        tasks: The indices of those that have labels in it ``[k]``.
        labels: What the run calls them ``[k]``.
        rows: How many rows have a label for each ``[k]``.
        features: The features of all rows in the batch.
        losses: The mean loss of each ``[k]``.
        outputs: What the heads of the bank made of all rows, side by side ``[B, C]``.
        starts: The first output of each task ``[k]``.
        width: How many outputs each task has.
    """

    tasks: list[int]
    labels: Sequence[str]
    rows: list[int]
    features: Tensors
    losses: Tensor
    outputs: Tensor
    starts: list[int]
    width: int


class StepBatch(NamedTuple):
    """What became of a batch of each source.

    Attributes:
        single: The tasks whose heads were computed one by one, in their order.
        banks: Those that were computed together.
    """

    single: list[TaskBatch]
    banks: list[BankBatch]

    @property
    def tasks(self) -> list[int]:
        """The indices of all tasks that have labels, in order ``[K]``."""
        if not self.single and len(self.banks) == 1:
            return self.banks[0].tasks
        return sorted([each.task for each in self.single] + [task for bank in self.banks for task in bank.tasks])

    @property
    def rows(self) -> list[int]:
        """How many rows have a label for each ``[K]``."""
        if not self.single and len(self.banks) == 1:
            return self.banks[0].rows
        counts = {each.task: len(each.target) for each in self.single}
        for bank in self.banks:
            counts.update(zip(bank.tasks, bank.rows, strict=True))
        return [counts[task] for task in self.tasks]

    @property
    def features(self) -> list[Tensors]:
        """The features that the heads were given."""
        return [*(each.features for each in self.single), *(bank.features for bank in self.banks)]

    @property
    def bank_losses(self) -> list[BankLosses]:
        """The losses of the banks as :func:`~mtlkit.gradients.backward` takes them."""
        order = {task: place for place, task in enumerate(self.tasks)} if self.banks else {}
        return [
            BankLosses(
                names=bank.labels,
                places=[order[task] for task in bank.tasks],
                losses=bank.losses,
                outputs=bank.outputs,
                starts=bank.starts,
                width=bank.width,
            )
            for bank in self.banks
        ]

    @property
    def losses(self) -> Tensor:
        """The losses in the order of the tasks ``[K]``."""
        found = {each.task: each.loss for each in self.single}
        for bank in self.banks:
            found.update(zip(bank.tasks, bank.losses.unbind(), strict=True))
        return torch.stack([found[task] for task in self.tasks])


def forward_all(
    experiment: Experiment,
    batches: Sequence[Split | None],
    *,
    exact: bool = False,
    without: AbstractSet[int] = frozenset(),
) -> StepBatch:
    """Run a batch of each source through the model.

    Args:
        experiment: The model and the tasks.
        batches: The training rows of each source; None for one that was not drawn.
        exact: As for :func:`forward`.
        without: As for :func:`forward`.

    Raises:
        PluginError: As :func:`forward`.
    """
    single: list[TaskBatch] = []
    banks: list[BankBatch] = []
    drawn = [
        (group, batch)
        for group, batch in zip(experiment.groups, batches, strict=True)
        if batch is not None and not (without and without >= set(group.tasks))
    ]
    joined = None
    if len(drawn) > 1 and experiment.joins_batches:
        with _precision(experiment, exact=exact):
            joined = _encode_as_one(experiment, drawn)
    for number, (group, batch) in enumerate(drawn):
        with _precision(experiment, exact=exact):
            features = _encode(experiment, group, batch) if joined is None else joined[number]
            if without and not without.isdisjoint(group.tasks):  # in a bank, what is left out would still be computed
                chosen = [(task, z) for task, z in zip(group.tasks, features, strict=True) if task not in without]
                tasks, given = [task for task, _ in chosen], [z for _, z in chosen]
                single += _single(experiment, tasks, given, batch, complete=group.complete)
                continue
            banks += [_banked(experiment, group, bank, features[0], batch) for bank in group.banks]
            if group.banks:  # then all tasks have the same features
                features = features[: len(group.alone)]
            single += _single(experiment, group.alone, features, batch, complete=group.complete)
    return StepBatch(sorted(single, key=lambda each: each.task), [bank for bank in banks if bank.tasks])


def present(
    experiment: Experiment, batches: Sequence[Split | None], *, without: AbstractSet[int] = frozenset()
) -> list[int]:
    """Return the tasks that have labels in a batch of each source: those that :func:`forward_all` has losses of."""
    tasks: list[int] = []
    for group, batch in zip(experiment.groups, batches, strict=True):
        if batch is None:
            continue
        for index in group.tasks:
            task = experiment.tasks[index].task
            if index in without:
                continue
            if group.complete or task.labelled(batch.targets[task.target]).any():
                tasks.append(index)
    return sorted(tasks)


def forward(
    experiment: Experiment,
    group: SourceGroup,
    batch: Split,
    *,
    complete: bool,
    exact: bool = False,
    without: AbstractSet[int] = frozenset(),
) -> list[TaskBatch]:
    """Run one batch through the encoder once, and through the head and loss of each task that has labels in it.

    Args:
        experiment: The model and the tasks.
        group: The tasks that share the batch.
        batch: The rows.
        complete: Whether every row is known to have a label for every task, so that none need be looked for.
        exact: Whether to compute in the model's own dtype, where the run has autocast.
        without: The indices of tasks that are left out, as if they had no labels; the rows are not even encoded where
            all of them are.

    Raises:
        PluginError: If the encoder, a head or a loss fails, or a loss is no scalar.
    """
    wanted = [task for task in group.tasks if task not in without]
    if not wanted:
        return []
    with _precision(experiment, exact=exact):
        features = _encode(experiment, group, batch)
        given = [z for task, z in zip(group.tasks, features, strict=True) if task not in without]
        return _single(experiment, wanted, given, batch, complete=complete)


def wide(output: Tensor) -> Tensor:
    """Return an output in a dtype that metrics can compute in."""
    return output.float() if output.dtype in {torch.float16, torch.bfloat16} else output


def _precision(experiment: Experiment, *, exact: bool) -> AbstractContextManager[Any]:
    """Return the context to compute in."""
    if exact or experiment.plan.autocast is None:
        return nullcontext()
    return torch.autocast(experiment.device.type, experiment.plan.autocast)


def _chosen(rows: Tensor, tensor: Tensor) -> Tensor:
    return tensor[rows]


def _single(
    experiment: Experiment, tasks: Sequence[int], features: Sequence[Tensors], batch: Split, *, complete: bool
) -> list[TaskBatch]:
    """Run each task's features through its head and its loss, those of the rows that have a label for it."""
    made: list[TaskBatch] = []
    for index, z in zip(tasks, features, strict=True):
        bound = experiment.tasks[index]
        target = batch.targets[bound.task.target]
        rows = z
        if not complete:
            labelled = bound.task.labelled(target)
            if not labelled.any():
                continue  # absent, which is not a loss of zero
            rows, target = apply(functools.partial(_chosen, labelled), z), target[labelled]
        with bound.blame("head", ("Features", rows)):
            output = experiment.model.head(bound.label)(rows)
        made.append(TaskBatch(index, z, output, target, _loss(bound, output, target)))
    return made


def _banked(experiment: Experiment, group: SourceGroup, bank: Bank, features: Tensors, batch: Split) -> BankBatch:
    """Run the features through the heads of a bank and their losses, all at once."""
    try:
        outputs = bank.heads(features)
        losses, counts = bank.losses(outputs, batch.targets, complete=group.complete)
    except Exception as error:
        if ran_out(error):
            raise
        every = [features] * len(bank.tasks)
        _single(experiment, bank.tasks, every, batch, complete=group.complete)  # whose is it?
        named = ", ".join(map(repr, bank.labels))
        raise PluginError(
            f"The row_losses of the tasks {named} failed where the loss of each does not: {type(error).__name__}: "
            f"{error} ({experiment.tasks[bank.tasks[0]].provider})."
        ) from error
    rows = [len(outputs)] * len(bank.tasks) if counts is None else counts.tolist()
    tasks, labels, width = list(bank.tasks), list(bank.labels), bank.heads.width
    starts = list(range(0, len(tasks) * width, width))
    if not all(rows):  # a task without labels is absent, which is not a loss of zero
        places = [place for place, count in enumerate(rows) if count]
        tasks, labels = [tasks[place] for place in places], [labels[place] for place in places]
        rows, starts = [rows[place] for place in places], [starts[place] for place in places]
        losses = losses[places]
    return BankBatch(tasks, labels, rows, features, losses, outputs, starts, width)


def _encode(experiment: Experiment, group: SourceGroup, batch: Split) -> list[Tensors]:
    try:
        return experiment.model.features(batch.inputs, group.tasks)
    except Exception as error:
        if ran_out(error):
            raise
        labels = " and ".join(f"'{experiment.tasks[index].label}'" for index in group.tasks)
        raise PluginError(
            f"The encoder cannot take the rows of {labels}, of {told(batch.inputs)}: {type(error).__name__}: {error}"
        ) from error


def _encode_as_one(experiment: Experiment, drawn: Sequence[tuple[SourceGroup, Split]]) -> list[list[Tensors]] | None:
    """Return the features of each batch for each of its tasks, from one pass; None where rows are of several kinds."""
    try:
        each = experiment.model.features_of_each(
            [batch.inputs for _, batch in drawn], [group.tasks for group, _ in drawn]
        )
    except Exception as error:
        if ran_out(error):
            raise
        for group, batch in drawn:
            _encode(experiment, group, batch)  # whose is it?
        labels = " and ".join(f"'{experiment.tasks[index].label}'" for group, _ in drawn for index in group.tasks)
        raise PluginError(
            f"The encoder cannot take the rows of {labels} as one batch, and takes those of each source: "
            f"{type(error).__name__}: {error}. Where rows depend on the batch, an encoder does not say row_by_row."
        ) from error
    return None if each is None else [[z] * len(group.tasks) for z, (group, _) in zip(each, drawn, strict=True)]


def _loss(bound: BoundTask, output: Tensor, target: Tensor) -> Tensor:
    loss: Any
    with bound.blame("loss", ("Head output", output), ("Target", target)):
        loss = bound.task.loss(output, target)
    if isinstance(loss, Tensor) and loss.ndim == 0:
        return loss
    received = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise PluginError(
        f"The loss of task '{bound.label}' must be a scalar, the mean over the rows; received {received} "
        f"({bound.provider})."
    )
