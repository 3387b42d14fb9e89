"""MapSplit: rows that are read one by one, from anything that has a length and items."""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import Any, Self

from torch import Tensor

from mtlkit.data.generators import kept_generators
from mtlkit.data.row_format import Item, item_of, reason
from mtlkit.errors import DataError
from mtlkit.specs import InputSpec

__all__ = ["MapSplit"]


class MapSplit:
    """Rows that are read one by one, from anything that has a length and items, such as a data set of torch.

    Where they all fit in memory, a run reads them once at its start, and then batches them as it does a
    :class:`~mtlkit.Split`; how much may be so held is a setting of the run, ``loading.memory``. Where they do not,
    worker processes read each row whenever it is drawn. They make the data set anew, by the task's name and options,
    so it need not be picklable.

    Args:
        dataset: ``dataset[i]``, for i from 0 to ``len(dataset) - 1``, is a pair: the inputs of row i, one tensor or a
            mapping of several by name; and its targets by column, or one value, which is then the column ``target``.
            A value may be whatever ``torch.as_tensor`` takes. All rows have the shapes of the first.
        row: What a row of inputs is, where more is to be said than can be seen in the first one: how many values each
            entry of a vector of integers takes.
        random: Whether a row may be another each time that it is read, as augmentation makes it. Such rows are never
            held in memory. While one is read, the global generators of Python, NumPy and torch are seeded by the run's
            seed and by how many rows were drawn before it, so that they do not depend on who reads them.

    Raises:
        DataError: If the data set has no length or no items, or is empty.
    """

    def __init__(self, dataset: Any, *, row: InputSpec | None = None, random: bool = False) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"A MapSplit takes a data set with __len__ and __getitem__; received {type(dataset).__name__}. Rows "
                "that only come one after another are a StreamSplit."
            )
        if not len(dataset):
            raise DataError("A split needs at least one row; its data set has none.")
        self.dataset = dataset
        self.random = random
        self.row = row
        self.carved_from: str | None = None  # the split of the source that rows were carved from, if they were
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.dataset) if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> Item:
        """Return the inputs and the targets of a row, each by name; the name of inputs that are one tensor is ''.

        Raises:
            IndexError: If there is no such row.
            Misfit: If the data set gives what is no row.
        """
        return item_of(self.dataset[self.number(index)])

    def number(self, index: int) -> int:
        """Return which row of the data set a row is."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no row {index} among {len(self)}")
        return index if self._rows is None else int(self._rows[index])

    def take(self, rows: Tensor) -> Self:
        """Return these rows, in this order; none is read."""
        taken = copy.copy(self)
        taken._rows = rows if self._rows is None else self._rows[rows]  # noqa: SLF001 - of another of this class
        vars(taken).pop("first", None)
        return taken

    @functools.cached_property
    def first(self) -> Item:
        """The first row.

        Raises:
            DataError: If it cannot be read.
        """
        try:
            with kept_generators() if self.random else contextlib.nullcontext():
                return self[0]
        except Exception as error:
            raise DataError(f"Row {self.number(0)} {reason(error)}.") from error
