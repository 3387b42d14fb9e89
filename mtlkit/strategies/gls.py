"""The ``gls`` strategy: the geometric mean of the losses.

>>> import torch
>>> GLS(2).weights(torch.tensor([1.0, 4.0]).double()).weights.tolist()
[1.0, 0.25]
"""

from __future__ import annotations

from torch import Tensor

from mtlkit.strategies.base import Strategy, Weighting

__all__ = ["GLS"]

# A loss below counts as this: the weight of a loss of 0 would be infinite. Its gradient is next to nothing there.
_SMALLEST = 1e-20


class GLS(Strategy):
    """Geometric loss strategy (Chennupati, Sistu, Yogamani, Rawashdeh, CVPR Workshops 2019).

        minimise exp(mean_i log L_i),  so w_i = dTotal/dL_i = Total / (K L_i)

    The weights are the effective ones: the backward pass of sum_i w_i L_i is that of the geometric mean. The losses
    must be positive; one that is not counts as 1e-20.

    Args:
        n_tasks: The number of tasks.
    """

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        logs = losses.clamp(min=_SMALLEST).log()  # [K]
        return Weighting((logs.mean() - logs).exp() / len(logs))
