"""Banks: which tasks of a source are so much alike that their heads and losses are computed as one.

Letters: K tasks of a bank, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mtlkit.columns import side_by_side
from mtlkit.data.in_memory import InMemoryStream
from mtlkit.heads.bank import HeadBank, likeness
from mtlkit.task import Split, Task

__all__ = ["LEAST_TASKS", "Bank", "banks_among", "row_losses"]

LEAST_TASKS = 4
"""Fewer alike tasks than these gain nothing by being computed as one."""

RARE = 1e-6
"""How likely a batch may be to hold no label of a task in a bank: the optimizer's state of its head is not its own."""

RowLosses = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Bank:
    """Tasks on one source whose heads are one module, and whose losses are alike.

    Attributes:
        tasks: The indices of the tasks ``[K]``.
        labels: What the run calls them ``[K]``.
        columns: Their target columns ``[K]``.
        heads: Their heads.
        row_losses: What each row pays: :meth:`Task.row_losses`.
        missing: The integer that marks a row without a label.
    """

    tasks: tuple[int, ...]
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    heads: HeadBank
    row_losses: RowLosses
    missing: int

    def losses(self, outputs: Tensor, targets: Mapping[str, Tensor], *, complete: bool) -> tuple[Tensor, Tensor | None]:
        """Return the mean loss of each task over its labelled rows ``[K]``, and how many these are ``[K]``.

        Args:
            outputs: What the bank of heads made of the rows ``[B, K * O]``.
            targets: The columns of the batch by name.
            complete: Whether every row is known to have a label for every task: then they are not counted.
        """
        target = side_by_side(targets, self.columns)  # [B, K, *]
        outputs = self.heads.apart(outputs)
        if complete:
            return self._paid(outputs, target).mean(0), None
        missing = target.isnan() if target.is_floating_point() else target == self.missing
        unlabelled = missing if missing.ndim == 2 else missing.flatten(2).any(2)  # noqa: PLR2004 - [B, K]
        # Before the loss, not after: the gradient of what is left out would be NaN times 0.
        paid = self._paid(outputs, target.masked_fill(missing, 0))
        counts = len(target) - unlabelled.sum(0)
        return paid.masked_fill(unlabelled, 0).sum(0) / counts.clamp(min=1), counts

    def _paid(self, outputs: Tensor, target: Tensor) -> Tensor:
        paid = self.row_losses(outputs, target)
        if paid.shape != target.shape[:2]:
            raise ValueError(
                f"row_losses gave shape {tuple(paid.shape)}, and it gives [B, K]: {tuple(target.shape[:2])}"
            )
        return paid


def row_losses(task: Task) -> RowLosses | None:
    """Return what each row pays for tasks like this one; None where that is not known.

    A subclass that replaces ``loss`` alone is not described any longer by the ``row_losses`` that it inherits.
    """
    of = type(task)
    author = next(kind for kind in of.__mro__ if {"loss", "row_losses"} & vars(kind).keys())
    known = "row_losses" in vars(author) and author is not Task and "loss" not in vars(task)
    return of.row_losses if known else None


def banks_among(
    tasks: Mapping[int, Task],
    heads: Mapping[int, nn.Module],
    labels: Sequence[str],
    train: Split,
    stream: InMemoryStream,
) -> list[Bank]:
    """Make banks of the heads that are alike among the tasks of one source, of :data:`LEAST_TASKS` heads at least.

    Their heads are linear and of one class and size, their losses are one known function of each row, and hardly ever
    has a batch no label for one of them: a head of a bank has no optimizer state of its own to be left alone then.

    Args:
        tasks: The tasks by their indices.
        heads: Their heads, likewise; those that come into a bank have their layers replaced.
        labels: What the run calls its tasks, of this source and of others.
        train: The training rows.
        stream: How they are drawn.
    """
    sorts: dict[tuple[Any, ...], list[int]] = {}
    for index, task in tasks.items():
        kind, paid, target = likeness(heads[index]), row_losses(task), train.targets[task.target]
        if kind is not None and paid is not None and _is_always_there(task, target, stream):
            sort = (kind, paid, task.missing, target.dtype, tuple(target.shape[1:]))
            sorts.setdefault(sort, []).append(index)
    return [
        Bank(
            tasks=tuple(indices),
            labels=tuple(labels[index] for index in indices),
            columns=tuple(tasks[index].target for index in indices),
            heads=HeadBank([heads[index] for index in indices]),
            row_losses=paid,
            missing=missing,
        )
        for (_, paid, missing, *_), indices in sorts.items()
        if len(indices) >= LEAST_TASKS
    ]


def _is_always_there(task: Task, target: Tensor, stream: InMemoryStream) -> bool:
    """Return whether hardly ever a batch has no row with a label for the task."""
    if type(task).labelled is not Task.labelled or "labelled" in vars(task):
        return False
    labelled = task.labelled(target).double()
    weights = stream.order.weights
    drawn = labelled.mean() if weights is None else (labelled * weights.to(labelled)).sum() / weights.sum()
    return (1 - float(drawn)) ** stream.batch_size <= RARE
