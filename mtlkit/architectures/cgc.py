"""The ``cgc`` architecture: shared experts, experts of each task's own, and a gate over both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.mixture import Gate, GateInput, mixed
from mtlkit.architectures.requirements import tensor_features
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Count
from mtlkit.specs import InputSpec

__all__ = ["CGC"]


class CGC(Architecture):
    """Customized gate control (Tang, Liu, Zhao, Gong, RecSys 2020).

    With the experts of task t, E_t1, ..., E_tm, and the shared ones, E_s1, ..., E_sn, each an encoder, head t computes
    from (section 4.1)

        z_t = sum_i w_t(x)_i S_t(x)_i,    w_t(x) = softmax(W_t x),    S_t = [E_t1, ..., E_tm, E_s1, ..., E_sn]

    Departure: where x is no tensor of numbers, but categories, parts or columns to be normalised, a gate looks at the
    mean of the features of the experts that it chooses from in its place, a sequence or maps averaged over their
    positions.

    The shared experts are what is shared, and each one's last layer stands last; gates and other experts are a task's
    own, and are computed only where their task takes part.

    Args:
        make_encoder: Builds an expert; called once for each.
        n_tasks: The number of tasks.
        inputs: What a row is: the gates look at it.
        shared_experts: The number of experts that all tasks share.
        task_experts: The number of experts of each task's own.

    Raises:
        ValueError: If the encoder has no parameters, or makes several features by name.
    """

    def __init__(
        self,
        make_encoder: Callable[[], Encoder],
        n_tasks: int,
        inputs: InputSpec,
        *,
        shared_experts: Count = 2,
        task_experts: Count = 1,
    ) -> None:
        super().__init__()
        first = make_encoder()
        self.features = tensor_features(first, "cgc")
        self.shared: Any = nn.ModuleList([first, *(make_encoder() for _ in range(shared_experts - 1))])
        self.own: Any = nn.ModuleList(
            nn.ModuleList(make_encoder() for _ in range(task_experts)) for _ in range(n_tasks)
        )
        self.gate_input = GateInput(inputs, first, self.features.shape)
        experts = task_experts + shared_experts
        self.gates: Any = nn.ModuleList(Gate(self.gate_input.size, experts) for _ in range(n_tasks))

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        shared = [expert(inputs) for expert in self.shared]
        features = []
        for task in tasks:
            made = [*(expert(inputs) for expert in self.own[task]), *shared]
            weights = self.gates[task](self.gate_input(inputs, made))
            features.append(mixed(weights, torch.stack(made, 1)))
        return features

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.shared.parameters())

    def last_shared_layer(self) -> Sequence[nn.Module]:
        return [expert.last_layer() for expert in self.shared]
