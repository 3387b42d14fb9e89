"""The ``cnn`` encoder: convolutional stages over an image, then one linear layer to the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import nn

from mtlkit.encoders.base import Encoder
from mtlkit.layers import Activation, Fraction, Positive, Widths, dense_layers, image_norm
from mtlkit.layers import activation as activation_layer
from mtlkit.specs import FeatureSpec, InputSpec

__all__ = ["CNN"]

IMAGE_DIMENSIONS = 3  # channels, height, width


class CNN(Encoder):
    """Convolutional stages over an image, then one linear layer to the features.

    A stage is convolution, normalisation, activation, and max-pooling by 2 while the image is larger than 2 pixels
    on both sides. The default normalisation is over groups of channels: batch statistics would mix the rows of
    sources that pass through the encoder one after another.

    Args:
        inputs: The shape of one row: channels, height, width.
        channels: The number of channels of each stage.
        kernel: The side of the convolution kernels, in pixels; odd, so that a convolution keeps the size.
        norm: What normalises after each convolution: ``group``, ``batch`` or ``none``.
        layers: The widths of the linear layers that follow; the last one is the number of features.
        activation: What follows each stage and each linear layer.
        dropout: The probability of dropping a unit after each linear layer, in [0, 1).

    Raises:
        ValueError: If a row is not an image, or the kernel's side is even.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(
        self,
        inputs: InputSpec,
        *,
        channels: Widths = (32, 64),
        kernel: Positive = 3,
        norm: Literal["group", "batch", "none"] = "group",
        layers: Widths = (128,),
        activation: Activation = "relu",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        if len(inputs.shape) != IMAGE_DIMENSIONS:
            raise ValueError(
                f"cnn takes images of shape (channels, height, width), and a row here has shape {inputs}; "
                "the mlp encoder takes rows of any shape"
            )
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a convolution keeps the image's size; received {kernel}")
        before, height, width = inputs.shape
        convolutions: list[nn.Module] = []
        for after in channels:
            stage = [nn.Conv2d(before, after, kernel, padding=kernel // 2), image_norm(norm, after)]
            stage.append(activation_layer(activation))
            if min(height, width) > 2:  # noqa: PLR2004
                stage.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            convolutions.append(nn.Sequential(*stage))
            before = after
        self.convolutions = nn.ModuleList(convolutions)
        size = before * height * width
        self.layers = nn.ModuleList(dense_layers(size, layers, activation_name=activation, dropout=dropout))
        self.features = FeatureSpec((layers[-1],))

    def stages(self) -> Sequence[nn.Module]:
        return [*self.convolutions, *self.layers]
