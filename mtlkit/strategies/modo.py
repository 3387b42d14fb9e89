"""The ``modo`` strategy: weights that follow the common descent direction step by step.

>>> MoDo(2).weights(torch.ones(2).double(), torch.eye(2).double()).weights.tolist()
[0.5, 0.5]
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlkit.solvers import project_to_simplex
from mtlkit.solvers.few import FEW, Rows, image_of, project_few_to_simplex
from mtlkit.strategies.base import GramianStrategy, Needs, Over, Weighting
from mtlkit.strategies.numbers import tensor_of, write

__all__ = ["MoDo", "SimplexWalk"]


class SimplexWalk(nn.Module):
    """Weights on the simplex that take a projected gradient step towards the shortest combination at each step.

    With tasks absent, the weights of those present are scaled to sum to 1, and what they sum to among all stays.

    Args:
        n_tasks: The number of tasks.
        gamma: The learning rate.
        rho: The pull towards equal weights.
    """

    lam: Tensor  # [T]

    def __init__(self, n_tasks: int, gamma: float, rho: float) -> None:
        super().__init__()
        self.gamma, self.rho = gamma, rho
        self.register_buffer("lam", torch.full((n_tasks,), 1 / n_tasks, dtype=torch.float64))

    def step(self, tasks: Tensor | None, gramian: Tensor, *, keep: bool) -> Tensor:
        """Return the weights of the tasks present ``[K]`` after a step; kept for the next one if asked.

        Args:
            tasks: The indices of the tasks present ``[K]``; None where all are.
            gramian: M ``[K, K]``.
            keep: Whether the weights are those that the next step starts from.
        """
        if len(gramian) <= FEW:
            moved_few = self._step_of_few(tasks, gramian.tolist(), keep=keep)
            if moved_few is not None:
                return tensor_of(moved_few, gramian)
        present = slice(None) if tasks is None else tasks
        lam = self.lam[present]
        share = lam.sum()
        lam = lam / share if share > 0 else torch.full_like(lam, 1 / len(lam))
        moved = lam - self.gamma * (gramian @ lam + self.rho * lam)
        moved = torch.from_numpy(project_to_simplex(moved.cpu().numpy())).to(gramian)
        if keep:
            self.lam[present] = moved * share
        return moved

    def _step_of_few(self, tasks: Tensor | None, gramian: Rows, *, keep: bool) -> list[float] | None:
        """Take it in plain numbers; None where one is not finite."""
        every = self.lam.tolist()
        places = range(len(every)) if tasks is None else tasks.tolist()
        lam = [every[place] for place in places]
        share = sum(lam)
        lam = [each / share if share > 0 else 1 / len(lam) for each in lam]
        slopes = [image + self.rho * each for image, each in zip(image_of(gramian, lam), lam, strict=True)]
        moved = project_few_to_simplex([each - self.gamma * slope for each, slope in zip(lam, slopes, strict=True)])
        if moved is not None and keep:
            for place, each in zip(places, moved, strict=True):
                every[place] = each * share
            write(every, self.lam)
        return moved


class MoDo(GramianStrategy):
    """Multi-objective gradient with double sampling (Chen, Fernando, Ying, Chen, NeurIPS 2023).

        lambda <- project(lambda - gamma (M + rho I) lambda),  d = sum_i lambda_i g_i

    with the projection on the simplex, and lambda = 1/K at the start: a single step towards the weights of ``mgda`` at
    each step of the model.

    Departure from the paper: M is that of the step's batch; the paper takes the inner products of two batches'
    gradients, which has no bias and costs both.

    Args:
        n_tasks: The number of tasks.
        gamma: The learning rate of lambda.
        rho: The pull towards equal weights.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def __init__(
        self,
        n_tasks: int,
        *,
        gamma: Annotated[float, Field(gt=0)] = 0.1,
        rho: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__(n_tasks)
        self.walk = SimplexWalk(n_tasks, gamma, rho)

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        return Weighting(self.walk.step(tasks, self._given(gramian), keep=self.training))
