"""Examined: the rows that an audit looks at, in memory, and ways to speak of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mtlkit.audit.trial import Trial
from mtlkit.data.reader import Reader, evenly
from mtlkit.data.splits import SPLITS
from mtlkit.encoders.base import Encoder
from mtlkit.experiment import BoundTask, Experiment, SourceGroup
from mtlkit.task import Split
from mtlkit.tensors import listed, named

__all__ = ["Column", "Examined", "Labels", "and_list"]

MOST_ROWS = 100_000  # of a split that are looked at; evenly spaced ones of a longer split
MOST_READ = 2_000  # where they are not in memory; of a stream, those that come first


class Column(NamedTuple):
    """One tensor of inputs over the splits of a source.

    Attributes:
        group: The number of the source.
        about: What to call it in a finding.
        rows: Its rows in each split ``[N, *]``.
        is_prepared: Whether the encoder reads its scale off the training rows.
    """

    group: int
    about: tuple[str, ...]
    rows: dict[str, Tensor]
    is_prepared: bool


class Labels(NamedTuple):
    """The targets of one task.

    Attributes:
        bound: The task.
        about: What to call it in a finding.
        columns: The targets in each split ``[N, *]``.
        labelled: Which rows have a label ``[N]``.
        drawn: How often each training row is drawn, of 1 on average ``[N]``; None where all are as often.
    """

    bound: BoundTask
    about: tuple[str, ...]
    columns: dict[str, Tensor]
    labelled: dict[str, Tensor]
    drawn: Tensor | None = None

    def classes(self, split: str) -> Tensor:
        """Return the classes of all labelled entries of a split, one after another."""
        column = self.columns[split][self.labelled[split]].flatten()
        known = ~column.isnan() if column.is_floating_point() else column != self.bound.task.missing
        return column[known].long()

    def class_counts(self, n_classes: int) -> Tensor:
        """Return how many training entries have each class ``[n_classes]``, in float64, counted as often as drawn."""
        column = self.columns["train"][self.labelled["train"]]
        classes = column.nan_to_num(-1).long() if column.is_floating_point() else column
        known = (classes >= 0) & (classes < n_classes)
        often = torch.ones(len(column), dtype=torch.float64)
        if self.drawn is not None:
            often = self.drawn[self.labelled["train"]]
        each = often.reshape(-1, *[1] * (classes.ndim - 1)).expand_as(classes)
        return torch.bincount(classes[known], weights=each[known], minlength=n_classes)


@dataclass(frozen=True)
class Examined:
    """What an audit looks at.

    Attributes:
        experiment: Everything that the run is made of.
        batch_sizes: How many rows a batch of each source is to have, where there are as many.
    """

    experiment: Experiment
    batch_sizes: Sequence[int]

    @functools.cached_property
    def splits(self) -> list[dict[str, Split]]:
        """The rows of each source, those that are looked at."""
        return [{name: _some(group.splits[name]) for name in SPLITS} for group in self.experiment.groups]

    def about(self, group: SourceGroup) -> tuple[str, ...]:
        """Return what to call a source: its tasks."""
        return tuple(self.experiment.labels[index] for index in group.tasks)

    @functools.cached_property
    def columns(self) -> list[Column]:
        """Each tensor of inputs of each source."""
        encoders = [m for m in self.experiment.model.architecture.modules() if isinstance(m, Encoder)]
        is_prepared = any(type(encoder).prepare is not Encoder.prepare for encoder in encoders)
        found = []
        for number, (group, splits) in enumerate(zip(self.experiment.groups, self.splits, strict=True)):
            parts = {name: named(split.inputs) for name, split in splits.items()}
            for part in parts["train"]:
                about = (*self.about(group), *([f"input '{part}'"] if part else []))
                found.append(Column(number, about, {name: p[part] for name, p in parts.items()}, is_prepared))
        return found

    @functools.cached_property
    def labels(self) -> list[Labels]:
        """The targets of each task, in the order of the tasks."""
        found: dict[int, Labels] = {}
        for group, splits in zip(self.experiment.groups, self.splits, strict=True):
            for index in group.tasks:
                bound = self.experiment.tasks[index]
                columns = {name: split.targets[bound.task.target] for name, split in splits.items()}
                with bound.blame("labelled()"):
                    labelled = {name: bound.task.labelled(column) for name, column in columns.items()}
                found[index] = Labels(bound, (bound.label,), columns, labelled, _drawn(group, len(splits["train"])))
        return [found[index] for index in sorted(found)]

    @functools.cached_property
    def trial(self) -> Trial:
        """A few first steps, taken when they are first asked for."""
        return Trial.of(self.experiment)

    @functools.cached_property
    def hashes(self) -> list[dict[str, list[bytes]]]:
        """The hash of the inputs of each row, for each source and split."""
        return [{name: list(_hashed(split)) for name, split in splits.items()} for splits in self.splits]


def _drawn(group: SourceGroup, rows: int) -> Tensor | None:
    """Return how often each training row that is looked at is drawn, of 1 on average over all rows."""
    weights = group.row_weights
    return None if weights is None else (weights / weights.mean())[evenly(len(weights), rows)]


def _some(split: Split | Reader) -> Split:
    some = (
        split.some(MOST_READ)
        if isinstance(split, Reader)
        else split.take(evenly(len(split), MOST_ROWS).to(split.device))
    )
    return some.to(torch.device("cpu"), torch.float32)


def _hashed(split: Split) -> Iterator[bytes]:
    n = len(split)
    parts = [part.reshape(n, -1).contiguous() for part in listed(split.inputs)]
    rows = [part.view(torch.uint8).numpy() if part.numel() else None for part in parts]
    for number in range(n):
        digest = hashlib.blake2b(digest_size=16)
        for part in rows:
            if part is not None:
                digest.update(part[number].tobytes())
        yield digest.digest()


def and_list(values: Sequence[object], most: int = 5) -> str:
    """Return the first of some values as words: ``3, 7, 9 and 12 more``."""
    shown = [str(value) for value in values[:most]]
    rest = len(values) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
