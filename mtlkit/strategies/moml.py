"""The ``moml`` strategy: weights that descend for all tasks at once on what a step makes of their held-out losses.

>>> strategy = MOML(2, optimizer="sgd", lr=1.0)
>>> strategy.foresee(torch.tensor([[-0.4, 0.0], [-0.4, 0.0]]).double())
>>> [round(weight, 3) for weight in strategy.weights(torch.ones(2).double()).weights.tolist()]
[0.55, 0.45]
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtlkit.solvers import min_norm_point
from mtlkit.strategies.base import Strategy, Weighting
from mtlkit.strategies.descent import Descent, Method

__all__ = ["MOML"]


class MOML(Strategy):
    """Multi-objective meta learning (Ye, Lin, Yue, Guo, Xiao, Zhang, NeurIPS 2021), of the tasks' weights.

    The weights w = softmax(alpha) of the lower level, where the parameters take a step along the weighted losses,
    answer at the upper level to as many objectives as there are tasks: the loss of each on held-out rows, after the
    step.

        F_j(alpha) = L_j(held-out; theta'),    theta' = theta - eta grad_theta sum_i w_i L_i(training; theta),
        alpha <- alpha - lr sum_j gamma_j grad F_j,
        gamma = argmin over the simplex of ||sum_j gamma_j grad F_j||^2

    which is MGDA's direction, in which no objective rises. The lower level takes one step, as the authors' code for
    multi-task learning does; then there is no second derivative in grad F_j, and :func:`mtlkit.look_ahead` measures it
    by a finite difference, two evaluations of the training batch for each objective.

    Departures: the model's own step is along the training batch alone, where the authors take it along both; held-out
    rows are training rows in another order, where their first code splits them once for all; a trial step that leads to
    NaN or infinity is an error; and ``sgd``, where the authors have Adam. With tasks absent, the weights of those
    present sum to 1.

    Args:
        n_tasks: The number of tasks.
        lr: The learning rate of alpha, which takes a step at each backward pass.
        normalize: What each grad F_j is divided by while gamma is solved for: nothing, or its norm (``l2``, as in the
            authors' code), so that a short one does not decide.
        optimizer: How alpha descends: ``adam``, or ``sgd`` for plain gradient steps.
    """

    looks_ahead: ClassVar[bool] = True

    logits: Tensor  # [T] alpha

    def __init__(
        self,
        n_tasks: int,
        *,
        lr: Annotated[float, Field(gt=0)] = 1e-3,
        normalize: Literal["none", "l2"] = "none",
        optimizer: Method = "adam",
    ) -> None:
        super().__init__(n_tasks)
        self.normalize = normalize
        self.descent = Descent(n_tasks, optimizer, lr)
        self.register_buffer("logits", torch.zeros(n_tasks, dtype=torch.float64))

    def trial(self, tasks: Tensor | None = None) -> Tensor:
        return torch.softmax(self.logits[self._present(tasks, self.logits)], 0)

    def objectives(self, tasks: Tensor | None = None) -> Tensor:
        return torch.eye(self.n_tasks if tasks is None else len(tasks), dtype=torch.float64)

    @torch.no_grad()
    def foresee(self, slopes: Tensor, tasks: Tensor | None = None) -> None:
        if not self.training or not len(slopes):
            return
        self._require_finite("slope", slopes)
        present = self._present(tasks, self.logits)
        weights = self.trial(tasks)
        gradients = weights * (slopes - (slopes @ weights)[:, None])  # [M, K], by the Jacobian of the softmax
        self.logits[present] -= self.descent.step(self._common(gradients), present)

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        return Weighting(self.trial(tasks))

    def _common(self, gradients: Tensor) -> Tensor:
        """Return sum_j gamma_j grad F_j ``[K]``."""
        scaled = gradients
        if self.normalize == "l2":
            norms = gradients.norm(dim=1)
            scaled = gradients / torch.where(norms > 0, norms, 1)[:, None]
        gamma = min_norm_point(np.ascontiguousarray((scaled @ scaled.T).cpu().numpy()))
        return torch.from_numpy(gamma).to(gradients) @ gradients
