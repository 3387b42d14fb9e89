"""Task, Source and Split: what a task author implements."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from mtlkit.columns import Columns, side_by_side
from mtlkit.errors import DataError
from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.tensors import Tensors, apply, listed, rows_in

if TYPE_CHECKING:
    from torchmetrics import Metric

    from mtlkit.data.map_split import MapSplit
    from mtlkit.data.stream_split import StreamSplit

__all__ = ["LossKind", "Source", "Split", "Task"]

LossKind = Literal["classification", "regression", "laplace", "other"]
"""What a loss is the negative log-likelihood of, up to a scale.

``classification``: categorical (cross-entropy); ``regression``: Gaussian (squared error); ``laplace``: Laplace
(absolute error); ``other``: none of these.
"""


@dataclass(frozen=True, eq=False)
class Split:
    """Rows in columns: the inputs, and one column of targets for each task that the rows have labels for.

    NumPy arrays, memory-mapped ones too, are taken as they are, without a copy; anything else goes through
    ``torch.as_tensor``.

    Attributes:
        inputs: The rows ``[N, *]``, or a mapping of several tensors by name, each ``[N, *]``.
        targets: Columns ``[N, *]`` by name. A row has no label for a task where a floating-point target is NaN, or
            an integer target is the task's ``missing`` marker.
        is_mapped: Whether a column is memory-mapped: its rows are on the disk until they are read.

    Raises:
        DataError: If there is no row, a column has another number of rows than the inputs, or torch has no such dtype.
    """

    inputs: Tensors
    targets: Mapping[str, Tensor]
    is_mapped: bool = field(init=False)

    def __post_init__(self) -> None:
        given: Any = self.inputs
        columns = {f"Input '{n}'": p for n, p in given.items()} if isinstance(given, Mapping) else {"The input": given}
        columns |= {f"Target column '{name}'": column for name, column in self.targets.items()}
        made = {what: _as_tensor(column, what) for what, column in columns.items()}
        inputs: Tensors = {n: made[f"Input '{n}'"] for n in given} if isinstance(given, Mapping) else made["The input"]
        targets = {name: made[f"Target column '{name}'"] for name in self.targets}
        self._set(inputs, targets, is_mapped=any(map(_is_mapped, columns.values())))
        if isinstance(inputs, dict) and not inputs:
            raise DataError("A split's inputs are one tensor, or several by name; received none.")
        for part in listed(inputs):
            if part.ndim == 0 or len(part) == 0:
                raise DataError(f"A split needs at least one row; its inputs have shape {tuple(part.shape)}.")
        for what, column in made.items():
            if column.ndim == 0 or len(column) != len(self):
                raise DataError(
                    f"{what} has shape {tuple(column.shape)}, and the inputs have {len(self)} "
                    "rows: every column needs one entry for each row."
                )

    def __len__(self) -> int:
        return rows_in(self.inputs)

    @property
    def row(self) -> InputSpec:
        """The shape of one input row; how many categories there are is for all splits together to say."""
        if isinstance(self.inputs, Tensor):
            return InputSpec(tuple(self.inputs.shape[1:]))
        return InputSpec(parts={name: InputSpec(tuple(part.shape[1:])) for name, part in self.inputs.items()})

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return listed(self.inputs)[0].device

    def take(self, rows: Tensor) -> Self:
        """Return these rows, in this order: a batch is a small split."""
        # Twice as fast as indexing by [], and it reads no row of a memory-mapped column but these.
        inputs = apply(lambda part: part.index_select(0, rows), self.inputs)
        targets = self.targets
        if isinstance(targets, Columns):
            return self._made(inputs, targets.take(rows))
        return self._made(inputs, {name: column.index_select(0, rows) for name, column in targets.items()})

    def beside(self, blocks: Sequence[Sequence[str]]) -> Self:
        """Return the split with some target columns side by side in one tensor, a block of alike ones each."""
        together = {tuple(names): side_by_side(self.targets, names) for names in blocks}
        others = {k: v for k, v in self.targets.items() if not any(k in names for names in together)}
        return self._made(self.inputs, Columns(together, others))

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the split on a device, its floating-point columns in `dtype` and its integer targets in int64."""

        def moved(column: Tensor, integers: torch.dtype) -> Tensor:
            return column.to(device, dtype if column.is_floating_point() else integers)

        inputs = apply(lambda part: moved(part, part.dtype), self.inputs)
        return self._made(inputs, {name: moved(column, torch.int64) for name, column in self.targets.items()})

    def _made(self, inputs: Tensors, targets: Mapping[str, Tensor]) -> Self:
        """Return a split of columns that are known to fit: a batch is made many times, and checked never."""
        made = object.__new__(type(self))
        made._set(inputs, targets, is_mapped=False)
        return made

    def _set(self, inputs: Tensors, targets: Mapping[str, Tensor], *, is_mapped: bool) -> None:
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "is_mapped", is_mapped)


def _as_tensor(column: Any, what: str) -> Tensor:
    if isinstance(column, Tensor):
        return column
    try:
        with warnings.catch_warnings():
            # Of an array that cannot be written to, such as a file that is mapped to be read. No row is written to.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.as_tensor(column)
    except (TypeError, ValueError, RuntimeError) as error:
        received = f"dtype {column.dtype}" if isinstance(column, np.ndarray) else f"type {type(column).__name__}"
        raise DataError(f"{what} has {received}, of which torch makes no tensor: {error}") from error


def _is_mapped(column: object) -> bool:
    """Return whether an array is a view of a memory-mapped one."""
    while isinstance(column, np.ndarray):
        if isinstance(column, np.memmap):
            return True
        column = column.base
    return False


class Source(ABC):
    """Where rows come from.

    Tasks whose sources are equal share one batch and one pass through the encoder. Two sources are equal when they are
    of one class and hold equal values, so a source is best a frozen dataclass whose fields are what its rows depend on:
    a path, a seed, a number. Rows themselves are loaded in :meth:`splits`, not held in fields.
    """

    @abstractmethod
    def splits(self) -> Mapping[str, Split | MapSplit | StreamSplit]:
        """Load the rows, or say where they are.

        Returns:
            ``train``, and where the source has its own, ``validation`` and ``test``; what is missing is carved from
            ``train`` by seed. Rows in columns are a :class:`Split`; rows that are read one by one are a
            :class:`~mtlkit.data.MapSplit`, and those that only come one after another a
            :class:`~mtlkit.data.StreamSplit`. The same source returns the same rows each time, and leaves global random
            state alone.
        """

    def stem(self, inputs: InputSpec) -> nn.Module | None:  # noqa: ARG002 - for those that override it
        """Return what the rows pass through before the encoder, a new module each time; None where nothing is needed.

        For rows that no encoder takes as they are. What it makes of a row is its attribute ``rows``, an
        :class:`~mtlkit.specs.InputSpec`, as in :class:`~mtlkit.stems.Stem`. A configuration may name another stem.

        Args:
            inputs: What one row is.
        """
        return None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__: ClassVar[Any] = None  # equality is by value, and the values need not be hashable


class Task(ABC):
    """What is to be learned: a dataset, a head and a loss.

    The docstring's first line is the summary that ``mtlkit list tasks`` shows. The constructor's keyword-only
    parameters, typed and with defaults, are the options that a configuration may set.

    Attributes:
        loss_kind: What the loss is the negative log-likelihood of; uncertainty weighting needs to know.
        target: The name of the source's target column that this task learns.
        n_classes: The number of classes where the task is a classification.
        missing: The integer that marks a row without a label; floating-point targets use NaN.
    """

    loss_kind: LossKind = "other"
    target: str = "target"
    n_classes: int | None = None
    missing: int = -100

    @abstractmethod
    def source(self) -> Source:
        """Return where the rows come from."""

    @abstractmethod
    def head(self, features: FeatureSpec) -> nn.Module:
        """Return a new module from features ``[B, *features.shape]``, or a dict of them, to this task's output."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss over the rows given, a scalar; only rows with a label are given."""

    @staticmethod
    def row_losses(output: Tensor, target: Tensor) -> Tensor:
        """Return what each row pays for each of K alike tasks ``[B, K]``: their losses are the means over the rows.

        For a loss that is a mean over rows, of what depends on the row and on nothing else: a hundred such tasks on one
        source are then computed at once, where their heads are linear ones of this package. It is optional, and counts
        where it stands in the class that has :meth:`loss`, or in a subclass. A row that has no label for a task is
        given target 0 there, and what it pays is left out.

        Args:
            output: What the heads made ``[B, K, *]``.
            target: The targets ``[B, K, *]``.
        """
        raise NotImplementedError

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Return torchmetrics objects by name, updated with (output, target).

        The first is the headline; its ``higher_is_better`` gives the direction.
        """

    def labelled(self, target: Tensor) -> Tensor:
        """Return which rows of `target` ``[B, *]`` have a label, as booleans ``[B]``."""
        present = ~target.isnan() if target.is_floating_point() else target != self.missing
        return present if present.ndim == 1 else present.flatten(1).all(1)
