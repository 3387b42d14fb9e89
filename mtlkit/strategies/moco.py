"""The ``moco`` strategy: the common descent direction of gradients that are tracked from step to step.

>>> MoCo(2, beta=1.0).combine(torch.ones(2).double(), torch.eye(2)).direction.tolist()
[0.5, 0.5]
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.strategies.modo import SimplexWalk
from mtlkit.strategies.rows import Rows, gramian_of

__all__ = ["MoCo"]


class MoCo(Strategy):
    """Multi-objective gradient correction (Fernando, Shen, Liu et al., ICLR 2023, algorithm 1).

        Y <- Y - beta (Y - G),  lambda <- project(lambda - gamma (Y'Y + rho I) lambda),  d = Y lambda

    with the projection on the simplex, lambda = 1/K and Y = 0 at the start. The heads get their losses' gradients
    weighted by lambda.

    Departure from the paper: beta and gamma are constants, where it lets them change from step to step.

    Memory: Y, as much as the gradients of all tasks.

    Args:
        n_tasks: The number of tasks.
        beta: How fast the tracked gradients follow.
        gamma: The learning rate of lambda.
        rho: The pull towards equal weights.
    """

    needs: ClassVar[Needs] = Needs.JACOBIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def __init__(
        self,
        n_tasks: int,
        *,
        beta: Annotated[float, Field(gt=0, le=1)] = 0.5,
        gamma: Annotated[float, Field(gt=0)] = 0.1,
        rho: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__(n_tasks)
        self.beta = beta
        self.tracked = Rows(n_tasks)
        self.walk = SimplexWalk(n_tasks, gamma, rho)

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> Weighting:
        kept = self.tracked.like(jacobian)
        rows = torch.lerp(kept if tasks is None else kept[tasks], jacobian, self.beta)  # [K, P]
        if self.training:
            self.tracked.keep(tasks, rows)
        lam = self.walk.step(tasks, gramian_of(rows).to(losses), keep=self.training)
        return Weighting(lam, direction=lam.to(rows) @ rows)
