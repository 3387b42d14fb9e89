"""The ``famo`` strategy: logits that are moved by how much each loss fell in the step.

>>> FAMO(2).weights(torch.tensor([1.0, 4.0]).double()).weights.tolist()
[1.6, 0.4]
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Strategy, Weighting
from mtlkit.strategies.descent import Descent, Method

__all__ = ["FAMO"]

_SMALLEST = 1e-8  # what a loss is over its lower bound at least: the weights hold its inverse


class FAMO(Strategy):
    """Fast adaptive multitask optimisation (Liu, Feng, Stone, Liu, NeurIPS 2023, algorithm 1).

    With z = softmax(xi), D_i = L_i - b_i, and c = 1 / sum_i(z_i / D_i), a constant to the gradient, the model descends
    on c sum_i z_i log D_i: the weights are w_i = c z_i / D_i, which sum to 1 (equation 11). After its step the same
    batch is evaluated again, and

        xi <- xi - lr (J' [log D(t) - log D(t + 1)] + gamma xi),  J' the transposed Jacobian of the softmax

    (equations 10 and 12). The logits belong to no other optimizer. They move by Adam by default, as in the authors'
    code; ``sgd`` is the equation as it stands.

    Departures from the paper: the weights are multiplied by K, so that the scale is that of equal weights of 1; D_i is
    at least 1e-8.

    In a loop of your own, call :meth:`observe` with the losses of the same batch after the optimizer's step.

    Args:
        n_tasks: The number of tasks.
        lr: The learning rate of the logits.
        gamma: Their decay, the paper's by default. It took 0.01 where a loss is close to 0 from the start.
        optimizer: How they descend: ``adam``, or ``sgd`` for plain gradient steps.
        lower_bound: b, below all losses.
    """

    watches_step: ClassVar[bool] = True

    logits: Tensor  # [T] xi
    seen: Tensor  # [T] log D(t)

    def __init__(
        self,
        n_tasks: int,
        *,
        lr: Annotated[float, Field(gt=0)] = 0.025,
        gamma: Annotated[float, Field(ge=0)] = 0.001,
        optimizer: Method = "adam",
        lower_bound: float = 0.0,
    ) -> None:
        super().__init__(n_tasks)
        self.gamma, self.lower_bound = gamma, lower_bound
        self.descent = Descent(n_tasks, optimizer, lr)
        for name in ("logits", "seen"):
            self.register_buffer(name, torch.zeros(n_tasks, dtype=torch.float64))

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        present = self._present(tasks, losses)
        above = self._above(losses)
        if self.training:
            self.seen[present] = above.log()
        inverse = torch.softmax(self.logits[present], 0) / above
        return Weighting(len(losses) * inverse / inverse.sum())

    @torch.no_grad()
    def observe(self, losses: Tensor, tasks: Tensor | None = None) -> None:
        if not self.training:
            return
        self._require_finite("loss", losses)
        present = self._present(tasks, losses)
        fell = self.seen[present] - self._above(losses).log()  # [K]
        z = torch.softmax(self.logits[present], 0)
        gradient = z * (fell - (z * fell).sum()) + self.gamma * self.logits[present]
        self.logits[present] -= self.descent.step(gradient, present)

    def _above(self, losses: Tensor) -> Tensor:
        return (losses - self.lower_bound).clamp(min=_SMALLEST)
