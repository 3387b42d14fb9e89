"""Tasks whose target has many entries for each row, of which some may have no label."""

from __future__ import annotations

from torch import Tensor

from mtlkit.task import Task

__all__ = ["PartlyLabelled"]


class PartlyLabelled(Task):
    """A row takes part where any entry of its target has a label; the loss and the metrics leave out the others.

    Targets are integers ``[B, *]``, and ``missing`` marks an entry without a label: a pixel, a padded token.
    """

    def labelled(self, target: Tensor) -> Tensor:
        """Return which rows of `target` ``[B, *]`` have a label at some entry, as booleans ``[B]``."""
        return (target != self.missing).flatten(1).any(1)
