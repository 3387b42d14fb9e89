"""PCGrad: the strategies ``torchjd-pcgrad`` and ``torchjd-gradvac``, conflicting gradients changed pair by pair."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from mtlkit_torchjd.base import NotNegative, Seed, TorchJDStrategy, aggregation
from mtlkit_torchjd.draws import Draws

__all__ = ["GradVac", "PCGrad"]


class PCGrad(TorchJDStrategy):
    """TorchJD's PCGrad: conflicting gradients are projected, in a random order.

    Yu, Kumar, Gupta et al., NeurIPS 2020, algorithm 1.

    Args:
        n_tasks: The number of tasks.
        seed: Seeds the orders; None takes the seed that torch was seeded with, in a run the run's own.
    """

    def __init__(self, n_tasks: int, *, seed: Seed | None = None) -> None:
        super().__init__(n_tasks)
        self.draws = Draws(seed)

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        with self.draws.lent(advance=self.training):
            return super().ask(gramian, present)

    def weighting(self, present: Tensor) -> Any:
        return aggregation().PCGradWeighting()


class GradVac(TorchJDStrategy):
    """TorchJD's GradVac: gradients are moved towards the angles that they usually have.

    Wang, Tsvetkov, Firat, Cao, ICLR 2021, algorithm 1.

    Args:
        n_tasks: The number of tasks.
        beta: How fast the usual cosine follows.
        eps: What is added to denominators.
        seed: Seeds the orders; None takes the seed that torch was seeded with, in a run the run's own.
    """

    goals: Tensor  # [T, T] the usual cosines

    def __init__(
        self,
        n_tasks: int,
        *,
        beta: Annotated[float, Field(ge=0, le=1)] = 0.5,
        eps: NotNegative = 1e-8,
        seed: Seed | None = None,
    ) -> None:
        super().__init__(n_tasks)
        self.beta, self.eps = beta, eps
        self.draws = Draws(seed)
        self.register_buffer("goals", torch.zeros(n_tasks, n_tasks, dtype=torch.float64))

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        weighting = self.weighting(present)
        with self.draws.lent(advance=self.training):
            weights: Tensor = weighting(gramian)
        if self.training:
            goals = self.goals.cpu()
            goals[present[:, None], present] = weighting._phi_t
            self.goals.copy_(goals)
        return weights

    def weighting(self, present: Tensor) -> Any:
        weighting = aggregation().GradVacWeighting(self.beta, self.eps)
        weighting._phi_t = self.goals.cpu()[present[:, None], present]
        weighting._state_key = (len(present), torch.float64)
        return weighting
