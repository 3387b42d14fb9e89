"""Segmentation: one of several classes for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit import heads
from mtlkit.specs import FeatureSpec
from mtlkit.task import LossKind
from mtlkit.tasks.partial import PartlyLabelled

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Segmentation"]


class Segmentation(PartlyLabelled):
    """One of several classes for each pixel: cross-entropy, the intersection over union, and accuracy.

    Targets are integers ``[B, H, W]`` from 0 to ``n_classes`` - 1, or ``missing`` where none is known.

    Attributes:
        size: The height and the width of a target in pixels.
        channels: The number of channels of the head's hidden maps.
    """

    loss_kind: LossKind = "classification"
    n_classes: int
    size: tuple[int, int]
    channels: int = 32

    def head(self, features: FeatureSpec) -> nn.Module:
        """Return convolutions that end in a logit for each class at each pixel ``[B, n_classes, H, W]``."""
        return heads.Segmentation(features, self.n_classes, self.size, channels=self.channels)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy over the pixels that have a label."""
        return F.cross_entropy(output, target, ignore_index=self.missing)

    def metrics(self) -> Mapping[str, Metric]:
        """Return the mean over classes of the intersection over union, and the fraction of pixels that are right."""
        from torchmetrics.classification import (  # noqa: PLC0415 - slow to import
            MulticlassAccuracy,
            MulticlassJaccardIndex,
        )

        return {
            "miou": MulticlassJaccardIndex(self.n_classes, average="macro", ignore_index=self.missing),
            "accuracy": MulticlassAccuracy(self.n_classes, average="micro", ignore_index=self.missing),
        }
