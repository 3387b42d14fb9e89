"""Tagging: one of several classes for each place of a sequence."""

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

__all__ = ["Tagging"]


class Tagging(PartlyLabelled):
    """One of several classes for each place of a sequence: cross-entropy, accuracy and the F1 score over the places.

    Targets are integers ``[B, L]`` from 0 to ``n_classes`` - 1, or ``missing`` at padding and where none is known.

    Attributes:
        hidden_layers: The width of each hidden layer of the head; none by default, which is a linear one.
    """

    loss_kind: LossKind = "classification"
    n_classes: int
    hidden_layers: Sequence[int] = ()

    def head(self, features: FeatureSpec) -> nn.Module:
        """Return layers that end in a logit for each class at each place ``[B, n_classes, L]``."""
        return heads.Tagging(features, self.n_classes, layers=self.hidden_layers)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy over the places that have a label."""
        return F.cross_entropy(output, target, ignore_index=self.missing)

    def metrics(self) -> Mapping[str, Metric]:
        """Return the fraction of places that are right, and the mean over classes of the F1 score."""
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score  # noqa: PLC0415 - slow to import

        return {
            "accuracy": MulticlassAccuracy(self.n_classes, average="micro", ignore_index=self.missing),
            "f1": MulticlassF1Score(self.n_classes, average="macro", ignore_index=self.missing),
        }
