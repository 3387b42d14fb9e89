"""Classification: one of several classes for each row."""

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

__all__ = ["Classification"]


class Classification(Task):
    """One of several classes for each row: cross-entropy over logits, accuracy and the F1 score.

    Targets are integers ``[B]`` from 0 to ``n_classes`` - 1.

    Attributes:
        hidden_layers: The width of each hidden layer of the head; none by default, which is a linear one.
    """

    loss_kind: LossKind = "classification"
    n_classes: int
    hidden_layers: Sequence[int] = ()

    def head(self, features: FeatureSpec) -> nn.Module:
        """Return layers that end in a logit for each class ``[B, n_classes]``."""
        if self.hidden_layers:
            return heads.MLP(features, self.n_classes, layers=self.hidden_layers)
        return heads.Linear(features, self.n_classes)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return F.cross_entropy(output, target)

    @staticmethod
    def row_losses(output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each row ``[B, K]``, for K such tasks at once."""
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none").view_as(target)

    def metrics(self) -> Mapping[str, Metric]:
        """Return the fraction of rows that are right, and the mean over classes of the F1 score."""
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score  # noqa: PLC0415 - slow to import

        return {
            "accuracy": MulticlassAccuracy(self.n_classes, average="micro"),
            "f1": MulticlassF1Score(self.n_classes, average="macro"),
        }
