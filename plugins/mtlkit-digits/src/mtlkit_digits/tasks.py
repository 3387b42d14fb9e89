"""The tasks."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

import mtlkit
from mtlkit import heads
from mtlkit_digits.sources import Digits, NoisyDigits, TurnedDigits

__all__ = ["Denoise", "Digit", "Parity", "Rotation"]

PIXELS = 64


class Classification(mtlkit.Task):
    """What the three classifications share: a linear head, cross-entropy, accuracy."""

    loss_kind = "classification"
    n_classes: int

    def head(self, features: mtlkit.FeatureSpec) -> nn.Module:
        return heads.Linear(features, self.n_classes)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "accuracy": MulticlassAccuracy(self.n_classes, average="micro"),
            "f1": MulticlassF1Score(self.n_classes, average="macro"),
        }


class Digit(Classification):
    """Which of the ten digits it is."""

    target = "digit"
    n_classes = 10

    def source(self) -> mtlkit.Source:
        return Digits()


class Parity(Classification):
    """Whether the digit is odd."""

    target = "parity"
    n_classes = 2

    def source(self) -> mtlkit.Source:
        return Digits()


class Rotation(Classification):
    """Which of four quarter turns the image was given."""

    target = "turns"
    n_classes = 4

    def source(self) -> mtlkit.Source:
        return TurnedDigits()


class Denoise(mtlkit.Task):
    """What the image was before noise was added to it.

    Args:
        noise: The noise's standard deviation, where the brightest pixel is 1.
        hidden: The width of the head's hidden layer.
        noise_seed: Seeds the noise.
    """

    loss_kind = "regression"
    target = "clean"

    def __init__(
        self,
        *,
        noise: Annotated[float, Field(gt=0)] = 0.3,
        hidden: Annotated[int, Field(ge=1)] = 128,
        noise_seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.noise, self.hidden, self.noise_seed = noise, hidden, noise_seed

    def source(self) -> mtlkit.Source:
        return NoisyDigits(self.noise, self.noise_seed)

    def head(self, features: mtlkit.FeatureSpec) -> nn.Module:
        return heads.MLP(features, PIXELS, layers=[self.hidden])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)

    def metrics(self) -> Mapping[str, Metric]:
        return {"mse": MeanSquaredError()}
