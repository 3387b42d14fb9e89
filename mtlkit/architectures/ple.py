"""The ``ple`` architecture: shared experts and experts of each task's own, which meet at several levels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.channels import channels, pooled
from mtlkit.architectures.mixture import Gate, GateInput, mixed
from mtlkit.architectures.requirements import stage_shapes
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Count
from mtlkit.specs import InputSpec

__all__ = ["PLE"]


class PLE(Architecture):
    """Progressive layered extraction (Tang, Liu, Zhao, Gong, RecSys 2020).

    Every expert is an encoder, and its stages are cut into as many parts as there are levels, as even as they go. At
    each level j, task t and what is shared, s, have a hidden state of their own, which their experts take on (section
    4.2):

        h_t,j = sum_i w_t,j,i S_t,j,i,    w_t,j = softmax(W_t,j h_t,j-1),    S_t,j = [E_t(h_t,j-1), E_s(h_s,j-1)]

    and the same for h_s,j over the experts of all tasks and the shared ones. At the last level nothing is shared on,
    and head t computes from h_t. Before the first, every h is the row. With one level it is ``cgc``.

    Departures: the experts of a level are the next stages of those of the one before it, rather than small networks of
    their own. A gate looks at a hidden sequence or maps averaged over their positions. At the first level, where the
    row is no tensor of numbers, but categories, parts or columns to be normalised, a gate looks at the mean of what the
    experts that it chooses from make of it.

    Below the last level all experts are trained by all tasks, through what is shared; so are the gates, but for those
    of a task that lead to its last level. At the last level the shared experts alone are shared; each one's last layer
    stands last. All but the last level is computed whichever tasks take part.

    Args:
        make_encoder: Builds an expert; called once for each.
        n_tasks: The number of tasks.
        inputs: What a row is: the gates of the first level look at it.
        levels: The number of levels, at most that of the encoder's stages.
        shared_experts: The number of experts that all tasks share, at each level.
        task_experts: The number of experts of each task's own, at each level.

    Raises:
        ValueError: If the encoder has no parameters, fewer stages than there are levels, or a stage that does not make
            one tensor.
    """

    def __init__(
        self,
        make_encoder: Callable[[], Encoder],
        n_tasks: int,
        inputs: InputSpec,
        *,
        levels: Count = 2,
        shared_experts: Count = 1,
        task_experts: Count = 1,
    ) -> None:
        super().__init__()
        first = make_encoder()
        self.features = first.features
        shapes = stage_shapes(first, inputs, "ple")
        if levels > len(shapes):
            raise ValueError(
                f"each of the {levels} levels of ple takes a stage of the encoder, and {type(first).__name__} has "
                f"{len(shapes)}"
            )
        self.shared: Any = nn.ModuleList([first, *(make_encoder() for _ in range(shared_experts - 1))])
        self.own: Any = nn.ModuleList(
            nn.ModuleList(make_encoder() for _ in range(task_experts)) for _ in range(n_tasks)
        )
        edges = [len(shapes) * level // levels for level in range(levels + 1)]
        self.spans = [range(start, end) for start, end in itertools.pairwise(edges)]
        # What a gate looks at: the row, then what came of the level before.
        hidden = [shapes[span[-1]] for span in self.spans]
        self.gate_input = GateInput(inputs, first, hidden[0])
        sizes = [self.gate_input.size, *(channels(shape) for shape in hidden[:-1])]
        some, every = task_experts + shared_experts, n_tasks * task_experts + shared_experts
        self.task_gates: Any = nn.ModuleList(nn.ModuleList(Gate(size, some) for _ in range(n_tasks)) for size in sizes)
        self.shared_gates: Any = nn.ModuleList(Gate(size, every) for size in sizes[:-1])

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        every, last = range(len(self.own)), len(self.spans) - 1
        contexts: dict[Encoder, Any] = {}
        shared, own = inputs, dict.fromkeys(every, inputs)
        for level, span in enumerate(self.spans):
            made_shared = [_run(expert, span, shared, inputs, contexts) for expert in self.shared]
            made = {
                task: [_run(expert, span, own[task], inputs, contexts) for expert in self.own[task]]
                for task in (tasks if level == last else every)
            }
            # At the last level but one, the own state of a task leads to its own features alone.
            states = {
                task: self._taken(self.task_gates[level][task], level, own[task], [*made[task], *made_shared])
                for task in (tasks if level >= last - 1 else every)
            }
            if level < last:
                experts = [*(each for task in every for each in made[task]), *made_shared]
                shared = self._taken(self.shared_gates[level], level, shared, experts)
            own = states
        return [own[task] for task in tasks]

    def _taken(self, gate: Gate, level: int, before: Any, experts: Sequence[Tensor]) -> Tensor:
        """Return what a gate takes of some experts, given the state before them."""
        seen = pooled(before) if level else self.gate_input(before, experts)
        return mixed(gate(seen), torch.stack(list(experts), 1))

    def shared_parameters(self) -> list[nn.Parameter]:
        below = {index for span in self.spans[:-1] for index in span}
        experts = [expert.stages() for experts in self.own for expert in experts]
        stages = [stage for chain in experts for index, stage in enumerate(chain) if index in below]
        modules = [self.shared, *stages, self.task_gates[: max(0, len(self.spans) - 2)], self.shared_gates]
        return [parameter for module in modules for parameter in module.parameters()]

    def last_shared_layer(self) -> Sequence[nn.Module]:
        return [expert.last_layer() for expert in self.shared]


def _run(expert: Encoder, stages: range, hidden: Any, inputs: Any, contexts: dict[Encoder, Any]) -> Any:
    if expert not in contexts:
        contexts[expert] = expert.context(inputs)
    for index in stages:
        hidden = expert.through(index, hidden, contexts[expert])
    return hidden
