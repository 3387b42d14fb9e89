"""The ``imtl-l`` strategy: each loss is scaled by a learned factor, so that all become alike in size.

>>> IMTLL(2).weights(torch.tensor([0.7, 3.0]).double()).weights.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlkit.strategies.base import Strategy, Weighting

__all__ = ["IMTLL"]


class IMTLL(Strategy):
    """Impartial multi-task learning, the loss balance (Liu, Li, Kuang et al., ICLR 2021, equation 6).

        minimise sum_i exp(s_i) L_i - s_i  over the model and over s

    with s = 0 at the start and without weight decay; where the optimum in s is reached, every exp(s_i) L_i is 1. The
    loss need have no likelihood behind it.

    Args:
        n_tasks: The number of tasks.
        lr: The learning rate of s; None for that of the model.
    """

    def __init__(self, n_tasks: int, *, lr: Annotated[float, Field(gt=0)] | None = None) -> None:
        super().__init__(n_tasks)
        # One parameter a task, so that a task that is absent has no gradient and an optimizer leaves it alone.
        self.log_scales = nn.ParameterList(torch.zeros((), dtype=torch.float64) for _ in range(n_tasks))
        self.lr = lr

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        every: list[Tensor] = list(self.log_scales.parameters())
        s = torch.stack(every if tasks is None else [every[task] for task in tasks.tolist()])
        return Weighting(s.exp(), -s.sum())

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [group | ({"lr": self.lr} if self.lr else {}) for group in super().parameter_groups()]
