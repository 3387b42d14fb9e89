"""Descent: gradient steps on numbers of a strategy's own, a step for each task that is present.

It serves the strategies whose gradient is known in closed form, and which must not wait for the model's optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtlkit.strategies.numbers import tensor_of, write

__all__ = ["Descent", "Method"]

Method = Literal["adam", "sgd"]

_MEMORY = ("steps", "mean", "square")
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
        for name in _MEMORY:
            self.register_buffer(name, torch.zeros(n_tasks, dtype=torch.float64))

    def step(self, gradient: Tensor, present: Tensor) -> Tensor:
        """Return what is to be taken from the numbers of the tasks present ``[K]``, and remember the gradient.

        Args:
            gradient: The gradient with respect to the numbers of the tasks present ``[K]``.
            present: Their indices ``[K]``.
        """
        return tensor_of(self.step_of(gradient.tolist(), present.tolist()), gradient)

    def step_of(self, gradient: Sequence[float], present: Sequence[int]) -> list[float]:
        """Do what :meth:`step` does, for plain numbers: of a few, they take a fraction of the time that tensors do."""
        if self.method == "sgd":
            return [self.lr * slope for slope in gradient]
        memory: list[Any] = [self._buffers[name] for name in _MEMORY]  # past the look-ups of a module's attributes
        steps, means, squares = stored = [buffer.tolist() for buffer in memory]
        taken = []
        for task, slope in zip(present, gradient, strict=True):
            steps[task] = step = steps[task] + 1
            means[task] = mean = _BETA1 * means[task] + (1 - _BETA1) * slope
            squares[task] = square = _BETA2 * squares[task] + (1 - _BETA2) * (slope * slope)
            mean, square = mean / (1 - _BETA1**step), square / (1 - _BETA2**step)
            taken.append(self.lr * mean / (math.sqrt(square) + _EPS))
        for values, buffer in zip(stored, memory, strict=True):
            write(values, buffer)
        return taken
