"""Regression: numbers for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit import heads
from mtlkit.specs import FeatureSpec
from mtlkit.task import LossKind, Task

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Regression"]


class Regression(Task):
    """Numbers for each row: squared error, and the absolute error beside it.

    Attributes:
        shape: The shape of one row's target: ``()`` where the targets are ``[B]``, ``(3,)`` where they are ``[B, 3]``.
        hidden_layers: The width of each hidden layer of the head; none by default, which is a linear one.
    """

    loss_kind: LossKind = "regression"
    shape: Sequence[int] = ()
    hidden_layers: Sequence[int] = ()

    def head(self, features: FeatureSpec) -> nn.Module:
        """Return layers that end in numbers ``[B, *shape]``."""
        return heads.Regression(features, self.shape, layers=self.hidden_layers)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        return F.mse_loss(output, target)

    @staticmethod
    def row_losses(output: Tensor, target: Tensor) -> Tensor:
        """Return the squared error of each row ``[B, K]``, for K such tasks at once."""
        each = F.mse_loss(output, target, reduction="none")
        return each if each.ndim == 2 else each.flatten(2).mean(2)  # noqa: PLR2004 - [B, K], or [B, K, *shape]

    def metrics(self) -> Mapping[str, Metric]:
        """Return the mean squared and the mean absolute error."""
        from torchmetrics import MeanAbsoluteError, MeanSquaredError  # noqa: PLC0415 - slow to import

        return {"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}
