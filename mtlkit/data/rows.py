"""Rows and Remade: the splits of a task's source in another process, which makes them anew for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Dataset

from mtlkit.data.map_split import MapSplit
from mtlkit.data.splits import Carved, Given, carve
from mtlkit.data.stream_split import StreamSplit
from mtlkit.errors import DataError
from mtlkit.task import Split, Task
from mtlkit.tensors import Tensors, apply

__all__ = ["Carving", "Remade", "Rows"]


@dataclass(frozen=True)
class Carving:
    """How the splits that a source lacks are carved, as of :func:`~mtlkit.data.carve`."""

    validation: float
    test: float
    seed: int

    def __call__(self, splits: Mapping[str, Given]) -> dict[str, Carved]:
        """Return all three splits."""
        return carve(splits, validation=self.validation, test=self.test, seed=self.seed)


@dataclass(frozen=True)
class Remade:
    """The carved splits of a task's source, made anew by whichever process calls this.

    Attributes:
        make_task: Returns the task. It is all that travels to another process, as with :class:`Rows`.
        carving: How the splits are carved.
    """

    make_task: Callable[[], Task]
    carving: Carving

    def __call__(self) -> dict[str, Carved]:
        """Load the splits."""
        return self.carving(self.make_task().source().splits())


class Rows(Dataset[tuple[Tensors, Tensor]]):
    """Pairs of an input row and the task's target, as a data set of torch.

    Only `make_task` is pickled, not the rows: each worker loads them once, when it is first asked for one. With a
    :class:`~mtlkit.registry.Handle` a worker that was spawned finds the task's plugin anew, by its qualified name::

        rows = Rows(Handle("tasks", "acme-mtl:wine"), "train")
        loader = DataLoader(rows, batch_size=64, num_workers=2, multiprocessing_context="spawn")

    Args:
        make_task: Returns the task; a handle, or the task's class if another process can import it.
        split: ``train``, ``validation`` or ``test``.
    """

    def __init__(self, make_task: Callable[[], Task], split: str = "train") -> None:
        self.make_task = make_task
        self.split = split
        self._rows: Split | MapSplit | None = None
        self._target = ""

    def __len__(self) -> int:
        return len(self._loaded())

    def __getitem__(self, index: int) -> tuple[Tensors, Tensor]:
        """Return the input row ``[*]``, or a mapping of its parts, and its target ``[*]``.

        Raises:
            IndexError: If there is no such row.
            DataError: If the source has no such split, or it is a stream.
        """
        rows = self._loaded()
        if isinstance(rows, MapSplit):
            item = rows[index]
            return item.inputs.get("", item.inputs), item.targets[self._target]
        return apply(lambda part: part[index], rows.inputs), rows.targets[self._target][index]

    def _loaded(self) -> Split | MapSplit:
        if self._rows is None:
            task = self.make_task()
            splits = task.source().splits()
            if self.split not in splits:
                raise DataError(f"The source has no split '{self.split}'; it gives {', '.join(map(repr, splits))}.")
            split = splits[self.split]
            if isinstance(split, StreamSplit):
                raise DataError(f"The rows of '{self.split}' come one after another, and none has an index.")
            self._rows, self._target = split, task.target
        return self._rows

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_rows": None, "_target": ""}
