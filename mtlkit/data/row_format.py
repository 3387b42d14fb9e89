"""RowFormat: what every row of a source has to be, learned from its first one, and the columns that rows are put in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mtlkit.specs import InputSpec
from mtlkit.task import Split
from mtlkit.tensors import Tensors

__all__ = ["Column", "Item", "Misfit", "RowFailure", "RowFormat", "item_of", "reason"]

TARGET = "target"
"""What the target is called of an item that gives one value in place of a mapping; a task's ``target`` by default."""

ALIGNMENT = 64  # bytes: the length of a cache line, and a multiple of every dtype's size


class Misfit(ValueError):  # noqa: N818 - of a row, which an error then tells of
    """A row is not what it has to be; the message goes on from "Row 7"."""


class RowFailure(Exception):  # noqa: N818 - which a reader makes an error of, with the names of source and split
    """Rows of a split cannot be read.

    Attributes:
        number: The number of the row; None where it is not one row's doing.
        what: What is wrong, as a sentence goes on from "Row 7 of 'train'" or "Split 'train'".
    """

    def __init__(self, number: int | None, what: str) -> None:
        super().__init__(number, what)
        self.number = number
        self.what = what

    def told(self, split: str) -> str:
        """Return the sentence."""
        return f"{f'Row {self.number} of' if self.number is not None else 'Split'} {split!r} {self.what}."


def reason(error: BaseException) -> str:
    """Return what a row did, as a sentence goes on from "Row 7"."""
    if isinstance(error, Misfit):
        return str(error)
    text = str(error).rstrip(".")
    return f"raised {type(error).__name__}{f': {text}' if text else ''}"


class Item(NamedTuple):
    """One row: its inputs by name, '' where they are one tensor, and its targets by column."""

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]


def item_of(given: Any) -> Item:
    """Return what a data set gave as a row.

    Args:
        given: A pair: the inputs, a tensor or what torch makes one of, or a mapping of several by name; and a mapping
            of targets by column, or one value, which is then the column ``target``.

    Raises:
        Misfit: If it is something else.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:  # noqa: PLR2004 - a pair
        received = f"{len(given)} values" if isinstance(given, tuple | list) else type(given).__name__
        raise Misfit(f"is {received}, and a row is a pair: its inputs, and its targets by column")
    inputs, targets = given
    if not isinstance(inputs, Mapping):
        inputs = {"": inputs}
    if not isinstance(targets, Mapping):
        targets = {TARGET: targets}
    return Item(
        {name: _as_tensor(value, f"the input {name!r}" if name else "the input") for name, value in inputs.items()},
        {name: _as_tensor(value, f"the target {name!r}") for name, value in targets.items()},
    )


def _as_tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()  # of which torch would warn
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Misfit(f"has in {what} a {type(value).__name__}, of which torch makes no tensor: {error}") from error


@dataclass(frozen=True)
class Column:
    """One column of a source.

    Attributes:
        name: Its name; '' for inputs that are one tensor.
        is_target: Whether it is a target.
        shape: The shape of one row of it.
        given: The dtype of the first row.
        held: The dtype that it is put in columns as: what :meth:`mtlkit.Split.to` would make of it.
    """

    name: str
    is_target: bool
    shape: tuple[int, ...]
    given: torch.dtype
    held: torch.dtype

    def __str__(self) -> str:
        """Tell which it is, as an error message does."""
        if self.is_target:
            return f"the target {self.name!r}"
        return f"the input {self.name!r}" if self.name else "the input"

    @property
    def row_bytes(self) -> int:
        """What one row of it takes."""
        return math.prod(self.shape) * self.held.itemsize

    def refusal(self, value: Tensor) -> str:
        """Return why a value is no row of this column; empty where it is one."""
        if tuple(value.shape) != self.shape:
            return f"has {self} of shape {tuple(value.shape)}, and in the first row it is of shape {self.shape}"
        if value.dtype == self.given or (self.given.is_floating_point and not value.is_complex()):
            return ""
        if not value.is_floating_point() and not value.is_complex() and self.is_target:
            return ""  # all whole numbers are held as int64
        received = "NaN" if value.is_floating_point() and value.isnan().any() else str(value.dtype)
        remedy = ""
        if self.is_target and received == "NaN":
            remedy = "; where targets are whole numbers, the task's 'missing' marks a row without a label"
        return f"has {received} in {self}, and in the first row it is {self.given}{remedy}"


@dataclass(frozen=True)
class RowFormat:
    """What every row of a source is.

    Attributes:
        columns: Its inputs, then its targets.
    """

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, item: Item, dtype: torch.dtype) -> Self:
        """Return the format of a row, its floating-point columns to be held in `dtype`."""
        inputs = [
            Column(name, is_target=False, shape=tuple(v.shape), given=v.dtype, held=_held(v.dtype, v.dtype, dtype))
            for name, v in item.inputs.items()
        ]
        targets = [
            Column(name, is_target=True, shape=tuple(v.shape), given=v.dtype, held=_held(v.dtype, torch.int64, dtype))
            for name, v in item.targets.items()
        ]
        return cls((*inputs, *targets))

    @property
    def row(self) -> InputSpec:
        """The shape of one row of inputs."""
        inputs = {column.name: InputSpec(column.shape) for column in self.columns if not column.is_target}
        return inputs.get("") or InputSpec(parts=inputs)

    @property
    def targets(self) -> list[str]:
        """The names of the target columns."""
        return [column.name for column in self.columns if column.is_target]

    @property
    def row_bytes(self) -> int:
        """What one row takes in memory."""
        return sum(column.row_bytes for column in self.columns)

    def difference(self, other: RowFormat) -> str:
        """Return how the rows of another split differ, as a part of a sentence; empty where they do not."""
        if self.row.shapes != other.row.shapes or set(self.targets) != set(other.targets):
            return (
                f"rows of shape {other.row} with columns {sorted(other.targets)}, against {self.row} with "
                f"{sorted(self.targets)}"
            )
        mine = {(column.is_target, column.name): column for column in self.columns}
        for column in other.columns:
            known = mine[column.is_target, column.name]
            if column.shape != known.shape or column.held != known.held:
                return f"{column} of shape {column.shape} and {column.given}, against {known.shape} and {known.given}"
        return ""

    def empty(self, rows: int) -> list[Tensor]:
        """Return new columns for so many rows, each ``[rows, *]``."""
        return [torch.empty((rows, *column.shape), dtype=column.held) for column in self.columns]

    def put(self, columns: Sequence[Tensor], place: int, item: Item) -> None:
        """Put a row in its place in columns.

        Raises:
            Misfit: If it is not as the first row was.
        """
        given = len(item.inputs) + len(item.targets)
        for column, into in zip(self.columns, columns, strict=True):
            value = (item.targets if column.is_target else item.inputs).get(column.name)
            if value is None:
                raise Misfit(f"has not {column}, and the first row has it")
            refusal = column.refusal(value)
            if refusal:
                raise Misfit(refusal)
            into[place] = value
            given -= 1
        if given:
            known = {(column.is_target, column.name) for column in self.columns}
            more = [f"the input {n!r}" for n in item.inputs if (False, n) not in known]
            more += [f"the target {n!r}" for n in item.targets if (True, n) not in known]
            raise Misfit(f"has {' and '.join(more)}, and the first row has not")

    def split(self, columns: Sequence[Tensor]) -> Split:
        """Return columns as a split."""
        given = list(zip(self.columns, columns, strict=True))
        inputs: Tensors = {column.name: tensor for column, tensor in given if not column.is_target}
        if not isinstance(inputs, Tensor) and "" in inputs:
            inputs = inputs[""]
        return Split(inputs, {column.name: tensor for column, tensor in given if column.is_target})

    # --- columns in one piece of memory, which processes share ---

    def bytes_of(self, rows: int) -> int:
        """Return how many bytes the columns of so many rows take in one piece."""
        return sum(_aligned(rows * column.row_bytes) for column in self.columns)

    def views(self, memory: Tensor, rows: int) -> list[Tensor]:
        """Return columns for so many rows that lie in a piece of memory, bytes ``[bytes_of(rows)]``."""
        return list(self._views(memory, rows))

    def _views(self, memory: Tensor, rows: int) -> Iterator[Tensor]:
        offset = 0
        for column in self.columns:
            size = rows * column.row_bytes
            yield memory[offset : offset + size].view(column.held).view(rows, *column.shape)
            offset += _aligned(size)


def _held(given: torch.dtype, integers: torch.dtype, floating: torch.dtype) -> torch.dtype:
    return floating if given.is_floating_point else integers


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
