"""Nash-MTL: the strategy ``torchjd-nash-mtl``."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtlkit_torchjd.base import NotNegative, TorchJDStrategy, aggregation, extra, present_in

__all__ = ["NashMTL"]


class NashMTL(TorchJDStrategy):
    """TorchJD's NashMTL: the Nash bargaining solution.

    Navon, Shamsian, Achituve et al., ICML 2022, algorithm 1. By a sequence of convex approximations, solved by cvxpy
    and ECOS: needs the extra ``nash-mtl``.

    Departures from TorchJD, which raises there: a single task weighs 1, as its equation says, but for max_norm; and
    where all gradients are 0, the last weights are used, as where the solver fails.

    Args:
        n_tasks: The number of tasks.
        max_norm: The most that the direction's norm may be; 0 for no limit.
        update_weights_every: In how many steps the weights are worked out once.
        optim_niter: The most approximations in a step.
    """

    last: Tensor  # [T] the weights worked out last, before max_norm
    steps: Tensor  # []

    def __init__(
        self,
        n_tasks: int,
        *,
        max_norm: NotNegative = 1.0,
        update_weights_every: Annotated[int, Field(ge=1, le=10_000)] = 1,
        optim_niter: Annotated[int, Field(ge=1, le=10_000)] = 20,
    ) -> None:
        super().__init__(n_tasks)
        self.max_norm, self.update_weights_every, self.optim_niter = max_norm, update_weights_every, optim_niter
        self.register_buffer("last", torch.ones(n_tasks, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        with extra("nash-mtl"):
            self.weighting(present_in(None, n_tasks))

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        if len(present) == 1:
            norm = float(gramian.sqrt())
            return gramian.new_tensor([self.max_norm / norm if norm > self.max_norm > 0 else 1.0])
        if not gramian.any():
            return self.last.cpu()[present]
        weighting = self.weighting(present)
        # TorchJD takes the gradients, and looks at nothing but their inner products: any with the same will do.
        values, vectors = torch.linalg.eigh(gramian)
        rows = vectors * values.clamp(min=0).sqrt()
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.filterwarnings("ignore", "You are solving a parameterized problem that is not DPP", UserWarning)
            weights: Tensor = weighting(rows)
        if self.training:
            last = self.last.cpu()
            last[present] = torch.as_tensor(weighting.prvs_alpha, dtype=torch.float64)
            self.last.copy_(last)
            self.steps += 1
        return weights

    def weighting(self, present: Tensor) -> Any:
        # It has no public name. Its step 0 is one with weights to work out; 1 is one without, where they are reused.
        weighting = (
            aggregation().NashMTL(len(present), self.max_norm, self.update_weights_every, self.optim_niter).weighting
        )
        weighting.prvs_alpha = self.last.cpu()[present].numpy()
        if int(self.steps) % self.update_weights_every:
            weighting.step = 1.0
        return weighting
