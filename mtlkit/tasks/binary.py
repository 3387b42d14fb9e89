"""Binary: yes or no for each row."""

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

__all__ = ["Binary"]


class Binary(Task):
    """Yes or no for each row: sigmoid cross-entropy over one logit, the area under the ROC curve, and accuracy.

    Targets are integers ``[B]``, 0 or 1.

    Attributes:
        hidden_layers: The width of each hidden layer of the head; none by default, which is a linear one.
    """

    loss_kind: LossKind = "classification"
    n_classes = 2
    hidden_layers: Sequence[int] = ()

    def head(self, features: FeatureSpec) -> nn.Module:
        """Return layers that end in one logit ``[B]``."""
        return heads.Binary(features, layers=self.hidden_layers)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return F.binary_cross_entropy_with_logits(output, target.to(output.dtype))

    @staticmethod
    def row_losses(output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each row ``[B, K]``, for K such tasks at once."""
        return F.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none")

    def metrics(self) -> Mapping[str, Metric]:
        """Return the area under the ROC curve, which needs no threshold, and the fraction of rows that are right."""
        from torchmetrics.classification import BinaryAccuracy, BinaryAUROC  # noqa: PLC0415 - slow to import

        return {"auc": BinaryAUROC(), "accuracy": BinaryAccuracy()}
