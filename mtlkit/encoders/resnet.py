"""The ``resnet`` encoder: residual blocks of convolutions over an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from mtlkit.encoders.base import Encoder
from mtlkit.layers import image_norm
from mtlkit.specs import FeatureSpec, InputSpec

__all__ = ["ResNet"]

IMAGE_DIMENSIONS = 3  # channels, height, width
SMALL = 64  # pixels a side, up to which the classic stem would leave too little of an image


class _Plan(NamedTuple):
    """A column of table 1: the blocks of each layer, and whether they are bottlenecks."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


_PLANS = {
    18: _Plan((2, 2, 2, 2), bottleneck=False),
    34: _Plan((3, 4, 6, 3), bottleneck=False),
    50: _Plan((3, 4, 6, 3), bottleneck=True),
}
_EXPANSION = 4  # of the channels, in a bottleneck


class ResNet(Encoder):
    """Residual blocks of convolutions over an image (He, Zhang, Ren, Sun, CVPR 2016).

    A stem, then four layers of blocks relu(f(x) + x), as table 1 has them: f is two 3x3 convolutions (depths 18 and 34)
    or a bottleneck of 1x1, 3x3 and 1x1 (depth 50), each normalised. Every layer but the first halves the image and
    doubles the channels, past f by a 1x1 convolution (the paper's option B). Weights start as in He, Zhang, Ren, Sun,
    ICCV 2015, by the number of outputs.

    Departures from the paper: normalisation is over groups of channels by default, for batch statistics would mix the
    rows of sources that pass through the encoder one after another; a bottleneck halves the image in its 3x3
    convolution, where the first 1x1 would look past three quarters of it; and there is a stem for small images. With
    ``norm="batch"`` and ``stem="classic"``, the weights have the names and shapes that torchvision gives them.

    Args:
        inputs: The shape of one row: channels, height, width.
        depth: 18, 34 or 50.
        width: A factor on the numbers of channels: 64 to 512 at 1, and what leaves a layer of bottlenecks is 4 times
            that.
        stem: ``classic``: a 7x7 convolution and max-pooling, each of which halves the image; ``small``: a 3x3
            convolution that keeps its size; ``auto``: small for images of up to 64 pixels a side.
        norm: What normalises: ``group`` or ``batch``.
        zero_init: Start the last normalisation of each block from 0, so that a block begins as what goes past it
            (Goyal et al., "Accurate, large minibatch SGD", 2017, section 5.1).
        output: ``vector``: the means of the last layer's maps; ``maps``: what each layer makes, by the names ``layer1``
            to ``layer4``, for heads that predict densely. It is then no chain of stages.

    Raises:
        ValueError: If a row is not an image.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(
        self,
        inputs: InputSpec,
        *,
        depth: Literal[18, 34, 50] = 18,
        width: Annotated[float, Field(gt=0, le=1000)] = 1.0,
        stem: Literal["auto", "small", "classic"] = "auto",
        norm: Literal["group", "batch"] = "group",
        zero_init: bool = False,
        output: Literal["vector", "maps"] = "vector",
    ) -> None:
        super().__init__()
        if len(inputs.shape) != IMAGE_DIMENSIONS:
            raise ValueError(
                f"resnet takes images of shape (channels, height, width), and a row here has shape {inputs}"
            )
        channels, *sides = inputs.shape
        small = stem == "small" or (stem == "auto" and max(sides) <= SMALL)
        plan, widths = _PLANS[depth], [max(1, round(64 * width)) * 2**index for index in range(4)]
        self.conv1 = _convolution(channels, widths[0], 3 if small else 7, stride=1 if small else 2)
        self.bn1 = image_norm(norm, widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        layers: dict[str, nn.Sequential] = {}
        shapes: dict[str, FeatureSpec] = {}
        channels = widths[0]
        for number, (count, wide) in enumerate(zip(plan.blocks, widths, strict=True)):
            strides = [2 if number > 0 and index == 0 else 1 for index in range(count)]
            leaving = wide * (_EXPANSION if plan.bottleneck else 1)
            entering = [channels, *[leaving] * (count - 1)]
            blocks = [
                _Block(before, wide, leaving, stride, norm, bottleneck=plan.bottleneck)
                for before, stride in zip(entering, strides, strict=True)
            ]
            channels = leaving
            halvings = number + (0 if small else 2)
            shapes[f"layer{number + 1}"] = FeatureSpec((channels, *(-(-side // 2**halvings) for side in sides)))
            layers[f"layer{number + 1}"] = nn.Sequential(*blocks)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.pool = _Means()
        _initialise(self, zero_init=zero_init)
        # The same modules in order: they are registered above, by the names that saved weights have.
        self._stem = (nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool),)
        self._layers = tuple(layers.values())
        self._last = (nn.Sequential(self._layers[-1], self.pool),)
        self._makes_maps = output == "maps"
        self.features = FeatureSpec(parts=shapes) if self._makes_maps else FeatureSpec((channels,))

    def stages(self) -> Sequence[nn.Module]:
        return () if self._makes_maps else (*self._stem, *self._layers[:-1], *self._last)

    def levels(self) -> Sequence[nn.Module]:
        return (*self._stem, *self._layers)

    def forward(self, inputs: Any) -> Any:
        if not self._makes_maps:
            return super().forward(inputs)
        hidden, maps = self._stem[0](inputs), {}
        for name, layer in zip(self.features.parts, self._layers, strict=True):
            hidden = maps[name] = layer(hidden)
        return maps


class _Block(nn.Module):
    """relu(f(x) + x) over images, where f is two convolutions of 3x3, or a bottleneck.

    Args:
        before: The channels that enter.
        width: The channels within.
        after: The channels that leave.
        stride: 2 to halve the image.
        norm: ``group`` or ``batch``.
        bottleneck: Whether f is 1x1, 3x3, 1x1.
    """

    row_by_row: ClassVar[bool] = True
    downsample: nn.Sequential | None

    def __init__(self, before: int, width: int, after: int, stride: int, norm: str, *, bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = _convolution(before, width, 1 if bottleneck else 3, stride=1 if bottleneck else stride)
        self.bn1 = image_norm(norm, width)
        self.conv2 = _convolution(width, width, 3, stride=stride if bottleneck else 1)
        self.bn2 = image_norm(norm, width)
        if bottleneck:
            self.conv3 = _convolution(width, after, 1)
            self.bn3 = image_norm(norm, after)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(_convolution(before, after, 1, stride=stride), image_norm(norm, after))
        self._is_bottleneck = bottleneck

    @property
    def last_norm(self) -> nn.Module:
        """What normalises last before the sum."""
        return self.bn3 if self._is_bottleneck else self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """Turn images ``[B, before, H, W]`` into images ``[B, after, H / stride, W / stride]``, rounded up."""
        added = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self._is_bottleneck:
            added = self.bn3(self.conv3(self.relu(added)))
        past = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(added + past)
        return out


class _Means(nn.Module):
    """The mean of each map. PyTorch's adaptive pooling has no deterministic gradient on a GPU for every size."""

    row_by_row: ClassVar[bool] = True

    def forward(self, maps: Tensor) -> Tensor:
        """Turn maps ``[B, C, H, W]`` into vectors ``[B, C]``."""
        return maps.mean((2, 3))


def _convolution(before: int, after: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the image's size but for the stride; a norm follows, so it needs no bias."""
    return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)


def _initialise(encoder: nn.Module, *, zero_init: bool) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif zero_init and isinstance(module, _Block):
            nn.init.zeros_(module.last_norm.get_parameter("weight"))
