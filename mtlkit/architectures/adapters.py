"""The ``adapters`` architecture: one encoder, and after each of its stages a small layer of each task's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.channels import channels, pointwise
from mtlkit.architectures.requirements import stage_shapes
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Activation, Positive
from mtlkit.layers import activation as activation_layer
from mtlkit.specs import InputSpec

__all__ = ["Adapters"]


class Adapters(Architecture):
    """Bottleneck adapters (Houlsby, Giurgiu, Jastrzebski et al., ICML 2019), section 2.1.

    After each stage j of the one encoder, task t goes on with

        h + U_t,j activation(D_t,j h + c_t,j) + b_t,j

    where D maps the channels of h to `width` ones, and U back, at each position of a sequence or of maps. U and b are 0
    at first, so that an adapter begins as the identity.

    Departures: the paper has two adapters in each layer of a transformer, before its residual sums, and begins near the
    identity, not at it; it trains adapters, normalisations and the head alone, on an encoder that was trained before.
    Here the encoder learns too, from all tasks, unless it is frozen, and its normalisations are its own.

    The encoder is shared, and its last layer stands last; adapters are a task's own. The first stage is computed once
    for all tasks, those after it once for each that takes part.

    Args:
        make_encoder: Builds the encoder; called once.
        n_tasks: The number of tasks.
        inputs: What a row is.
        width: The number of channels within an adapter.
        activation: What stands between its two maps.

    Raises:
        ValueError: If the encoder has no parameters, no stages, or a stage that does not make one tensor.
    """

    def __init__(
        self,
        make_encoder: Callable[[], Encoder],
        n_tasks: int,
        inputs: InputSpec,
        *,
        width: Positive = 16,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.encoder = make_encoder()
        self.features = self.encoder.features
        shapes = stage_shapes(self.encoder, inputs, "adapters")
        self.adapters: Any = nn.ModuleList(
            nn.ModuleList(_Adapter(shape, width, activation) for shape in shapes) for _ in range(n_tasks)
        )

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        context = self.encoder.context(inputs)
        first = self.encoder.through(0, inputs, context)
        features = []
        for task in tasks:
            hidden = first
            for index, adapter in enumerate(self.adapters[task]):
                hidden = adapter(self.encoder.through(index, hidden, context) if index else hidden)
            features.append(hidden)
        return features

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())

    def last_shared_layer(self) -> nn.Module:
        return self.encoder.last_layer()


class _Adapter(nn.Module):
    """h + U activation(D h + c) + b.

    Args:
        shape: The shape of a row of h.
        width: The channels within.
        activation: What stands between D and U.
    """

    def __init__(self, shape: tuple[int, ...], width: int, activation: Activation) -> None:
        super().__init__()
        self.down = pointwise(shape, channels(shape), width)
        self.activation = activation_layer(activation)
        self.up = pointwise(shape, width, channels(shape))
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """Turn rows ``[B, *shape]`` into rows of the same shape."""
        added: Tensor = self.up(self.activation(self.down(hidden)))
        return hidden + added
