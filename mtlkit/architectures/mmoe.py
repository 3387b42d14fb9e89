"""The ``mmoe`` architecture: all tasks share all experts, and each has a gate of its own over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.mixture import Gate, GateInput, mixed
from mtlkit.architectures.requirements import tensor_features
from mtlkit.encoders.base import Encoder
from mtlkit.specs import InputSpec

__all__ = ["MMoE"]


class MMoE(Architecture):
    """Multi-gate mixture of experts (Ma, Zhao, Yi, Chen, Hong, Chi, KDD 2018).

    With experts f_1, ..., f_n, each an encoder, head t computes from (section 4.2)

        z_t = sum_i g_t(x)_i f_i(x),    g_t(x) = softmax(W_t x)

    Departure: where x is no tensor of numbers, but categories, parts or columns to be normalised, the gates look at the
    mean of the experts' features in its place, a sequence or maps averaged over their positions.

    The experts are what is shared, and each expert's last layer stands last; a gate is its task's own. All experts are
    computed whichever tasks take part, and the gates of those alone.

    Args:
        make_encoder: Builds an expert; called once for each.
        n_tasks: The number of tasks, and of gates.
        inputs: What a row is: the gates look at it.
        experts: The number of experts.

    Raises:
        ValueError: If the encoder has no parameters, or makes several features by name.
    """

    def __init__(
        self,
        make_encoder: Callable[[], Encoder],
        n_tasks: int,
        inputs: InputSpec,
        *,
        experts: Annotated[int, Field(ge=2, le=1000)] = 4,
    ) -> None:
        super().__init__()
        first = make_encoder()
        self.features = tensor_features(first, "mmoe")
        self.experts: Any = nn.ModuleList([first, *(make_encoder() for _ in range(experts - 1))])
        self.gate_input = GateInput(inputs, first, self.features.shape)
        self.gates: Any = nn.ModuleList(Gate(self.gate_input.size, experts) for _ in range(n_tasks))

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        made = [expert(inputs) for expert in self.experts]
        seen, experts = self.gate_input(inputs, made), torch.stack(made, 1)
        return [mixed(self.gates[task](seen), experts) for task in tasks]

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.experts.parameters())

    def last_shared_layer(self) -> Sequence[nn.Module]:
        return [expert.last_layer() for expert in self.experts]
