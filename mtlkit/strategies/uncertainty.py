"""The ``uncertainty`` strategy: each task's weight is the precision of its learned observation noise.

>>> Uncertainty(2, ["regression", "classification"]).weights(torch.tensor([0.7, 3.0]).double()).weights.tolist()
[0.5, 1.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlkit.strategies.base import Strategy, Weighting

__all__ = ["Uncertainty"]

# The factor before exp(-s) L, and the factor before s, for each kind of loss.
_FACTORS = {"regression": (0.5, 0.5), "classification": (1.0, 0.5), "laplace": (1.0, 1.0)}


class Uncertainty(Strategy):
    """Learned homoscedastic uncertainty (Kendall, Gal, Cipolla, CVPR 2018).

    With s_t learned, 0 at the start, and without weight decay, the tasks pay

    - regression (Gaussian, equation 5): exp(-s) L / 2 + s / 2, with s = log sigma^2;
    - classification (equations 8 to 10): exp(-s) L + s / 2, with s = log sigma^2;
    - laplace (absolute error): exp(-b) L + b, with b the log of the scale.

    The total may be negative: the penalty is the strategy's own affair, and no log or schedule sees it.

    Args:
        n_tasks: The number of tasks.
        loss_kinds: What each loss is the negative log-likelihood of.
        lr: The learning rate of s; None for that of the model.

    Raises:
        ValueError: If a loss is of kind ``other``, for which there is no likelihood to take the uncertainty of.
    """

    data_factor: Tensor
    penalty_factor: Tensor

    def __init__(
        self, n_tasks: int, loss_kinds: Sequence[str], *, lr: Annotated[float, Field(gt=0)] | None = None
    ) -> None:
        super().__init__(n_tasks)
        if len(loss_kinds) != n_tasks:
            raise ValueError(f"loss_kinds needs one entry for each of the {n_tasks} tasks; received {len(loss_kinds)}")
        for index, kind in enumerate(loss_kinds):
            if kind not in _FACTORS:
                raise ValueError(
                    f"uncertainty weighting needs to know each loss's likelihood, and the loss of task {index} is of "
                    f"kind {kind!r}; its Task should set loss_kind to one of {', '.join(_FACTORS)}"
                )
        data, penalty = zip(*(_FACTORS[kind] for kind in loss_kinds), strict=True)
        self.register_buffer("data_factor", torch.tensor(data, dtype=torch.float64))
        self.register_buffer("penalty_factor", torch.tensor(penalty, dtype=torch.float64))
        # One parameter a task: an optimizer with a memory moves whatever has a gradient, a gradient of 0 too, and the
        # scale of a task that is absent has none.
        self.log_scales = nn.ParameterList(torch.zeros((), dtype=torch.float64) for _ in range(n_tasks))
        self.lr = lr

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        if tasks is None:
            s, data, penalty = torch.stack(list(self.log_scales.parameters())), self.data_factor, self.penalty_factor
        else:
            s = torch.stack([self.log_scales[task] for task in tasks.tolist()])
            data, penalty = self.data_factor[tasks], self.penalty_factor[tasks]
        return Weighting(data * torch.exp(-s), torch.dot(penalty, s))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [group | ({"lr": self.lr} if self.lr else {}) for group in super().parameter_groups()]
