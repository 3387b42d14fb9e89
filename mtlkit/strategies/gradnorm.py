"""The ``gradnorm`` strategy: weights that make the tasks learn at like rates.

>>> losses, gramian = torch.tensor([0.7, 3.0]).double(), torch.eye(2).double()
>>> GradNorm(2).weights(losses, gramian).weights.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.strategies.descent import Descent, Method
from mtlkit.strategies.numbers import diagonal_of, tensor_of, write

__all__ = ["GradNorm"]

_SMALLEST = sys.float_info.min
_ROUNDING = 1e-12  # relative: what float64 may leave of the difference between two equal sums of many products
_FLOOR = 1e-3  # the least weight: at 0 a task would be off for good, below 0 its loss would be climbed


class GradNorm(Strategy):
    """Gradient normalisation (Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018).

    Section 3 and algorithm 1.

    With g_i = ||grad_W L_i|| over W, the weights of the last shared layer, G_i = w_i g_i, and the inverse training rate
    r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0)), the weights descend on

        L_grad = sum_i |G_i - stopgrad(mean_j(G_j) r_i^alpha)|        (equation 2)

    whose gradient with respect to w_i is sign(G_i - target_i) g_i, so no second derivative is taken. After each step
    w <- T w / sum(w). The model, heads included, sees the weights as they were before the step, as constants.

    Departures from the paper, each where it is silent: a difference within rounding of its target counts as none, so
    that Adam does not amplify rounding into steps; a weight is no less than 0.001 before it is scaled; negative losses,
    for which r_i^alpha has no meaning, count as 0. With tasks absent, the sum over those present is what is kept.

    Args:
        n_tasks: The number of tasks.
        n_classes: The number of classes of each task; None for one that is no classification. Only
            ``initial_loss="log-classes"`` needs it.
        alpha: The asymmetry, the pull towards equal training rates.
        lr: The learning rate of the weights, which take a step at each backward pass.
        optimizer: How the weights descend: ``adam``, or ``sgd`` for plain gradient steps.
        initial_loss: What L_i(0) is: the ``first`` loss seen, or ``log-classes``, the loss log C of a uniform guess,
            for the tasks that are classifications (footnote 2).
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.LAST_SHARED

    task_weights: Tensor  # [T]
    initial: Tensor  # [T] L_i(0); NaN until it is known

    def __init__(
        self,
        n_tasks: int,
        n_classes: Sequence[int | None] | None = None,
        *,
        alpha: Annotated[float, Field(ge=0)] = 1.5,
        lr: Annotated[float, Field(gt=0)] = 0.025,
        optimizer: Method = "adam",
        initial_loss: Literal["first", "log-classes"] = "first",
    ) -> None:
        super().__init__(n_tasks)
        self.alpha = alpha
        self.descent = Descent(n_tasks, optimizer, lr)
        self.register_buffer("task_weights", torch.ones(n_tasks, dtype=torch.float64))
        self.register_buffer("initial", _initial_losses(n_tasks, n_classes, initial_loss))

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        if gramian is None:
            raise ValueError("gradnorm needs the Gram matrix of the tasks' gradients")
        # All that follows is done with plain numbers: of a few, they take a fraction of the time that tensors do.
        present = list(range(self.n_tasks)) if tasks is None else tasks.tolist()
        every = self.task_weights.tolist()
        before = [every[task] for task in present]  # what the model sees in this step
        if self.training:
            norms = [math.sqrt(max(square, 0.0)) for square in diagonal_of(gramian)]
            after = self._descend(before, losses.tolist(), norms, present)
            self._store(self.task_weights, every, present, after)
        return Weighting(tensor_of(before, losses))

    def balance_gradient(
        self, weights: Sequence[float], losses: Sequence[float], norms: Sequence[float], initial: Sequence[float]
    ) -> list[float]:
        """Return the gradient of L_grad with respect to the weights ``[K]``.

        Args:
            weights: w ``[K]``.
            losses: L ``[K]``.
            norms: ||grad_W L_i|| ``[K]``, unweighted.
            initial: L(0) ``[K]``.
        """
        rates = [max(loss, 0.0) / max(first, _SMALLEST) for loss, first in zip(losses, initial, strict=True)]
        mean_rate = sum(rates) / len(rates)
        mean_norm = sum(w * norm for w, norm in zip(weights, norms, strict=True)) / len(weights)
        gradient = []
        for w, norm, rate in zip(weights, norms, rates, strict=True):
            inverse_rate = rate / mean_rate if mean_rate > 0 else 1.0
            target = mean_norm * _power(inverse_rate, self.alpha)
            difference = w * norm - target
            rounding = _ROUNDING * max(w * norm, target)
            gradient.append(norm * ((difference > rounding) - (difference < -rounding)))
        return gradient

    def _descend(
        self, weights: Sequence[float], losses: Sequence[float], norms: Sequence[float], present: Sequence[int]
    ) -> Sequence[float]:
        """Return the weights after the step ``[K]``."""
        if not all(map(math.isfinite, [*losses, *norms])):
            return weights  # nothing can be learned from such a step, and the state must not be poisoned by it
        known = self.initial.tolist()
        initial = [loss if math.isnan(known[task]) else known[task] for task, loss in zip(present, losses, strict=True)]
        if any(math.isnan(known[task]) for task in present):
            self._store(self.initial, known, present, initial)
        taken = self.descent.step_of(self.balance_gradient(weights, losses, norms, initial), present)
        descended = [max(w - step, _FLOOR) for w, step in zip(weights, taken, strict=True)]
        scale = sum(weights) / sum(descended)
        return [w * scale for w in descended]

    def _store(self, buffer: Tensor, every: list[float], present: Sequence[int], values: Sequence[float]) -> None:
        for task, value in zip(present, values, strict=True):
            every[task] = value
        write(every, buffer)


def _power(base: float, exponent: float) -> float:
    try:
        power: float = base**exponent
    except OverflowError:
        return math.inf
    return power


def _initial_losses(n_tasks: int, n_classes: Sequence[int | None] | None, initial_loss: str) -> Tensor:
    if initial_loss == "first":
        return torch.full((n_tasks,), math.nan, dtype=torch.float64)
    if n_classes is None or len(n_classes) != n_tasks or not any(n_classes):
        raise ValueError(
            "initial_loss 'log-classes' needs the number of classes of at least one task; a Task says it as n_classes"
        )
    return torch.tensor([math.log(count) if count else math.nan for count in n_classes], dtype=torch.float64)
