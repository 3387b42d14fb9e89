"""The ``auto-lambda`` strategy: weights that descend on what a step with them makes of held-out losses.

>>> strategy = AutoLambda(2, init=0.5, optimizer="sgd", lr=0.5)
>>> strategy.foresee(torch.tensor([[0.125, -0.25]]).double())
>>> strategy.weights(torch.ones(2).double()).weights.tolist()
[0.4375, 0.625]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Strategy, Weighting
from mtlkit.strategies.descent import Descent, Method

__all__ = ["AutoLambda"]


class AutoLambda(Strategy):
    """Auto-lambda (Liu, James, Davison, Johns, TMLR 2022).

    The weights lambda solve, beside the parameters theta, a problem of two levels: the losses of the primary tasks on
    held-out rows, after a step of the parameters along the weighted losses, are what the weights descend on,

        lambda <- lambda - lr grad_lambda sum_(j primary) L_j(held-out; theta'),
        theta' = theta - eta grad_theta sum_i lambda_i L_i(training; theta),

    before the parameters take their step with the new weights. With all tasks primary this is multi-task learning; with
    some, the others are auxiliary, and are weighed by the good that they do to these. The gradient is that of a finite
    difference, two evaluations of the training batch, and the step to theta' has the learning rate eta, the momentum
    and the decay of the model's optimizer: as in the authors' code, and as :func:`mtlkit.look_ahead` tells. Held-out
    rows are training rows in another order, there and in a run: the validation rows are left for choosing the best
    weights.

    As in that code, nothing keeps a weight from falling below 0, where the model, that task's head included, climbs its
    loss: set ``floor`` where a run comes to that. Departures: a trial step that leads to NaN or infinity is an error;
    ``floor``; and ``sgd``, where the authors have Adam.

    Args:
        n_tasks: The number of tasks.
        labels: What the tasks are called, for ``primary``.
        primary: The tasks whose held-out losses count, by their labels, or by their numbers from 0; all by default.
        lr: The learning rate of the weights, which take a step at each backward pass. The authors' code has 1e-4 and
            3e-4.
        init: What each weight begins at; with an optimizer such as SGD, a factor on the model's learning rate.
        optimizer: How the weights descend: ``adam``, or ``sgd`` for plain gradient steps.
        floor: What a weight is at least; None for no bound.
    """

    looks_ahead: ClassVar[bool] = True

    task_weights: Tensor  # [T] lambda
    primary: Tensor  # [T] 1 for a primary task, else 0

    def __init__(
        self,
        n_tasks: int,
        labels: Sequence[str] | None = None,
        *,
        primary: list[int | str] | None = None,
        lr: Annotated[float, Field(gt=0, le=1e6)] = 1e-4,
        init: Annotated[float, Field(gt=0, le=1e6)] = 0.1,
        optimizer: Method = "adam",
        floor: float | None = None,
    ) -> None:
        super().__init__(n_tasks)
        if floor is not None and floor > init:
            raise ValueError(f"floor {floor} is above init {init}, what each weight begins at")
        self.floor = floor
        self.descent = Descent(n_tasks, optimizer, lr)
        self.register_buffer("task_weights", torch.full((n_tasks,), init, dtype=torch.float64))
        self.register_buffer("primary", _chosen(primary, n_tasks, labels), persistent=False)

    def trial(self, tasks: Tensor | None = None) -> Tensor:
        return self.task_weights[self._present(tasks, self.task_weights)]

    def objectives(self, tasks: Tensor | None = None) -> Tensor:
        counted = self.primary[self._present(tasks, self.primary)]
        return counted[None] if counted.any() else counted[None][:0]  # none where no primary task is there to tell

    @torch.no_grad()
    def foresee(self, slopes: Tensor, tasks: Tensor | None = None) -> None:
        if not self.training or not len(slopes):
            return
        self._require_finite("slope", slopes)
        present = self._present(tasks, self.task_weights)
        moved = self.task_weights[present] - self.descent.step(slopes.sum(0), present)
        self.task_weights[present] = moved if self.floor is None else moved.clamp(min=self.floor)

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        return Weighting(self.trial(tasks))


def _chosen(primary: Sequence[int | str] | None, n_tasks: int, labels: Sequence[str] | None) -> Tensor:
    """Return 1 for each task that is primary, 0 for each other ``[T]``."""
    if primary is None:
        return torch.ones(n_tasks, dtype=torch.float64)
    if not primary:
        raise ValueError("primary needs one task at least; leave it out for all")
    known = [] if labels is None else list(labels)
    chosen = torch.zeros(n_tasks, dtype=torch.float64)
    for each in primary:
        if isinstance(each, str):
            places = [place for place, label in enumerate(known) if label == each]
            if not places:
                told = f"the labels are {', '.join(map(repr, known))}" if known else "no labels were given"
                raise ValueError(f"primary names the task {each!r}, and {told}")
            chosen[places] = 1
        elif 0 <= each < n_tasks:
            chosen[each] = 1
        else:
            raise ValueError(f"primary names the task {each}, and the tasks are numbered from 0 to {n_tasks - 1}")
    return chosen
