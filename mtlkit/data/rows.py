"""Rows: one split of a task's source as a map-style dataset, which a DataLoader's workers can make for themselves."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.data import Dataset

from mtlkit.errors import DataError
from mtlkit.task import Split, Task
from mtlkit.tensors import Tensors, apply

__all__ = ["Rows"]


class Rows(Dataset[tuple[Tensors, Tensor]]):
    """Pairs of an input row and the task's target.

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
        self._rows: Split | None = None
        self._target = ""

    def __len__(self) -> int:
        return len(self._loaded())

    def __getitem__(self, index: int) -> tuple[Tensors, Tensor]:
        """Return the input row ``[*]``, or a mapping of its parts, and its target ``[*]``.

        Raises:
            IndexError: If there is no such row.
            DataError: If the source has no such split.
        """
        rows = self._loaded()
        return apply(lambda part: part[index], rows.inputs), rows.targets[self._target][index]

    def _loaded(self) -> Split:
        if self._rows is None:
            task = self.make_task()
            splits = task.source().splits()
            if self.split not in splits:
                raise DataError(f"The source has no split '{self.split}'; it gives {', '.join(map(repr, splits))}.")
            self._rows, self._target = splits[self.split], task.target
        return self._rows

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_rows": None, "_target": ""}
