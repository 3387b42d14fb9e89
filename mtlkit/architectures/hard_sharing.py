"""The ``hard-sharing`` architecture: one encoder, the same features for every head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import nn

from mtlkit.architectures.base import Architecture
from mtlkit.encoders.base import Encoder

__all__ = ["HardSharing"]


class HardSharing(Architecture):
    """One encoder for all tasks: head t computes from z = encoder(x) (Caruana, Machine Learning, 1997).

    The encoder is what is shared, and its last layer stands last. All tasks have the same features.

    Args:
        make_encoder: Builds the encoder; called once.
        n_tasks: The number of tasks; any number shares the one encoder.
    """

    shares_features: ClassVar[bool] = True
    row_by_row: ClassVar[bool] = True

    def __init__(self, make_encoder: Callable[[], Encoder], n_tasks: int) -> None:
        super().__init__()
        self.encoder = make_encoder()
        self.features = self.encoder.features

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        return [self.encoder(inputs)] * len(tasks)

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())

    def last_shared_layer(self) -> nn.Module:
        return self.encoder.last_layer()
