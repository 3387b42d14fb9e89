"""Krum: the strategy ``torchjd-krum``."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from mtlkit_torchjd.base import TorchJDStrategy, aggregation

__all__ = ["Krum"]

_MORE = 3  # the tasks that Krum needs beside the adversarial ones


class Krum(TorchJDStrategy):
    """TorchJD's Krum: the gradient that is nearest to most others, or the mean of some such.

    Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017. Made against workers that send anything at all; among tasks,
    those that pull another way than most are left out. Most weights are 0, so the heads get their own gradients.

    Departure from TorchJD, which raises: with fewer tasks present than n_byzantine + 3, as in the baseline of a single
    task, all of them are weighed alike; and with fewer than n_selected, all are selected.

    Args:
        n_tasks: The number of tasks.
        n_byzantine: How many tasks may be adversarial.
        n_selected: How many gradients are selected.
    """

    plain_heads = True

    def __init__(
        self,
        n_tasks: int,
        *,
        n_byzantine: Annotated[int, Field(ge=0)] = 0,
        n_selected: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        super().__init__(n_tasks)
        self.n_byzantine, self.n_selected = n_byzantine, n_selected

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        if len(present) < self.n_byzantine + _MORE:
            return torch.full_like(gramian[0], 1 / len(present))
        return super().ask(gramian, present)

    def weighting(self, present: Tensor) -> Any:
        return aggregation().KrumWeighting(self.n_byzantine, min(self.n_selected, len(present)))
