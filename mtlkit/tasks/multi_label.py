"""MultiLabel: several yes or no for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit import heads
from mtlkit.specs import FeatureSpec
from mtlkit.task import LossKind
from mtlkit.tasks.partial import PartlyLabelled

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["MultiLabel"]


class MultiLabel(PartlyLabelled):
    """Several yes or no for each row: sigmoid cross-entropy over the labels that are known, the F1 score and accuracy.

    Targets are integers ``[B, n_labels]``, 0 or 1, or ``missing`` where it is not known.

    Attributes:
        n_labels: The number of labels.
        hidden_layers: The width of each hidden layer of the head; none by default, which is a linear one.
    """

    loss_kind: LossKind = "classification"
    n_classes = 2
    n_labels: int
    hidden_layers: Sequence[int] = ()

    def head(self, features: FeatureSpec) -> nn.Module:
        """Return layers that end in a logit for each label ``[B, n_labels]``."""
        return heads.MultiLabel(features, self.n_labels, layers=self.hidden_layers)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy over the entries that have a label."""
        known = target != self.missing
        each = F.binary_cross_entropy_with_logits(output, target.clamp(0, 1).to(output.dtype), reduction="none")
        return (each * known).sum() / known.sum()

    def metrics(self) -> Mapping[str, Metric]:
        """Return the mean over labels of the F1 score and of the fraction that is right."""
        from torchmetrics.classification import (  # noqa: PLC0415 - slow to import
            MultilabelAccuracy,
            MultilabelF1Score,
        )

        return {
            "f1": MultilabelF1Score(self.n_labels, average="macro", ignore_index=self.missing),
            "accuracy": MultilabelAccuracy(self.n_labels, average="macro", ignore_index=self.missing),
        }
