"""Descent: gradient steps on numbers of a strategy's own, a step for each task that is present.

It serves the strategies whose gradient is known in closed form, and which must not wait for the model's optimizer.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Descent", "Method"]

Method = Literal["adam", "sgd"]

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # Adam's defaults (Kingma, Ba, ICLR 2015)


class Descent(nn.Module):
    """Adam, or plain gradient steps, with a memory for each task: an absent task keeps its own as it is.

    Args:
        n_tasks: The number of tasks.
        method: ``adam``, or ``sgd`` for plain gradient steps.
        lr: The learning rate.
    """

    steps: Tensor  # [T]
    mean: Tensor  # [T]
    square: Tensor  # [T]

    def __init__(self, n_tasks: int, method: Method, lr: float) -> None:
        super().__init__()
        self.method, self.lr = method, lr
        for name in ("steps", "mean", "square"):
            self.register_buffer(name, torch.zeros(n_tasks, dtype=torch.float64))

    @torch.no_grad()
    def step(self, gradient: Tensor, present: Tensor) -> Tensor:
        """Return what is to be taken from the numbers of the tasks present ``[K]``, and remember the gradient.

        Args:
            gradient: The gradient with respect to the numbers of the tasks present ``[K]``.
            present: Their indices ``[K]``.
        """
        if self.method == "sgd":
            return self.lr * gradient
        steps = self.steps[present] + 1
        mean = _BETA1 * self.mean[present] + (1 - _BETA1) * gradient
        square = _BETA2 * self.square[present] + (1 - _BETA2) * gradient**2
        self.steps[present], self.mean[present], self.square[present] = steps, mean, square
        return self.lr * (mean / (1 - _BETA1**steps)) / ((square / (1 - _BETA2**steps)).sqrt() + _EPS)
