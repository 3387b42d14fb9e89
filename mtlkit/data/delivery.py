"""Delivery: how columns get from where they were read to the run's device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtlkit.task import Split
from mtlkit.tensors import apply

__all__ = ["Delivery"]


@dataclass(frozen=True)
class Delivery:
    """How columns get to the run's device.

    Attributes:
        device: The device.
        dtype: What floating-point columns are converted to.
        pin: Whether they go to a GPU through memory that is pinned, so that the run need not wait for it.
    """

    device: torch.device
    dtype: torch.dtype
    pin: bool = True

    def moved(self, column: Tensor) -> Tensor:
        """Return a column on the device: itself, if it is there."""
        if self.device.type == "cpu":
            return column
        return (column.pin_memory() if self.pin else column).to(self.device, non_blocking=self.pin)

    def copied(self, column: Tensor) -> Tensor:
        """Return a column on the device, in memory of its own."""
        return column.clone() if self.device.type == "cpu" else self.moved(column)

    def of(self, split: Split) -> Split:
        """Return a split on the device, converted as :meth:`mtlkit.Split.to` does."""
        converted = split.to(split.device, self.dtype)
        inputs = apply(self.moved, converted.inputs)
        return Split(inputs, {name: self.moved(column) for name, column in converted.targets.items()})
