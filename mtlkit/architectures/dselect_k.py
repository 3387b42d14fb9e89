"""The ``dselect-k`` architecture: each task selects at most k of the experts, by a gate that is smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.mixture import GateInput, mixed
from mtlkit.architectures.requirements import tensor_features
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Count
from mtlkit.specs import InputSpec

__all__ = ["DSelectK", "Selectors", "smooth_step"]

_EPS = 1e-6  # inside the logarithm of a weight that may be 0


class DSelectK(Architecture):
    """DSelect-k (Hazimeh, Zhao, Chowdhery et al., NeurIPS 2021).

    With experts f_1, ..., f_n, each an encoder, head t computes from z_t = sum_i q_t,i f_i(x), where the gate q_t mixes
    k selectors of a single expert each,

        q_t = sum_j softmax(a_t)_j r(v_tj),    r(v)_i = prod_b S(v_b)^c_ib (1 - S(v_b))^(1 - c_ib)

    for c_i the binary code of expert i, of m = ceil(log2 n) digits, and the smooth step S, cubic from 0 at -gamma/2 to
    1 at gamma/2 and constant outside. Where every S(v_b) is 0 or 1, each selector is at one expert, and at most k are
    taken. The penalty pulls them there: `entropy` times the sum over selectors of H(r) = -sum_i r_i log r_i, for the
    tasks that took part.

    A ``static`` gate has a_t and v_tj for parameters. A ``per-example`` one computes them from the row by an affine
    map; where the row is no tensor of numbers, but categories, parts or columns to be normalised, from the mean of the
    experts' features, a sequence or maps averaged over their positions.

    Departures: where n is no power of 2, the codes that are left over stand for the first experts again, so that every
    code is an expert; the paper penalises what is put on them. The entropy of per-example gates is averaged over the
    rows, as losses are.

    The experts are what is shared, and each expert's last layer stands last; a gate is its task's own. An expert that
    no task which takes part selects is not computed. A smooth step that has come to 0 or 1 has no gradient, so a
    selection that is made stays.

    Args:
        make_encoder: Builds an expert; called once for each.
        n_tasks: The number of tasks, and of gates.
        inputs: What a row is: per-example gates look at it.
        experts: The number n of experts.
        k: The most experts that a task selects, at most n.
        gate: Whether a task selects the same experts for all rows (``static``), or for each its own (``per-example``).
        gamma: The width of the smooth step: the smaller, the sooner a selector decides.
        entropy: The weight of the penalty: the larger, the sooner a selector decides.

    Raises:
        ValueError: If the encoder has no parameters, or makes several features by name, or k is greater than n.
    """

    def __init__(
        self,
        make_encoder: Callable[[], Encoder],
        n_tasks: int,
        inputs: InputSpec,
        *,
        experts: Annotated[int, Field(ge=2, le=1000)] = 4,
        k: Count = 2,
        gate: Literal["static", "per-example"] = "static",
        gamma: Annotated[float, Field(gt=0)] = 1.0,
        entropy: Annotated[float, Field(ge=0)] = 0.01,
    ) -> None:
        super().__init__()
        if k > experts:
            raise ValueError(f"k is how many of the experts a task selects: at most {experts}; received {k}")
        self.entropy = entropy
        first = make_encoder()
        self.features = tensor_features(first, "dselect-k")
        self.experts: Any = nn.ModuleList([first, *(make_encoder() for _ in range(experts - 1))])
        self.gate_input = GateInput(inputs, first, self.features.shape) if gate == "per-example" else None
        size = None if self.gate_input is None else self.gate_input.size
        self.gates: Any = nn.ModuleList(Selectors(experts, k, gamma=gamma, size=size) for _ in range(n_tasks))
        self._asked: dict[int, Tensor | None] = {}  # since the last penalty: the tasks, and what their gates looked at

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        made: list[Tensor] = []
        seen = None
        if self.gate_input is not None:
            if not self.gate_input.is_row:
                made = [expert(inputs) for expert in self.experts]
            seen = self.gate_input(inputs, made)
        if self.training and torch.is_grad_enabled():
            self._asked |= dict.fromkeys(tasks, None if seen is None else seen.detach())
        weights = [self.gates[task](seen) for task in tasks]  # each [n] or [B, n]
        selected = torch.cat([each.detach().reshape(-1, len(self.experts)) for each in weights]).any(0)
        chosen = selected.nonzero().flatten().tolist()
        experts = torch.stack([made[i] if made else self.experts[i](inputs) for i in chosen], 1)
        return [mixed(each[..., chosen], experts) for each in weights]

    def penalty(self) -> Tensor | None:
        asked, self._asked = self._asked, {}
        if not asked or not self.entropy:
            return None
        terms = [_entropy(self.gates[task].selections(seen)) for task, seen in asked.items()]
        return self.entropy * torch.stack(terms).sum()

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.experts.parameters())

    def last_shared_layer(self) -> Sequence[nn.Module]:
        return [expert.last_layer() for expert in self.experts]


class Selectors(nn.Module):
    """The gate of one task: k selectors, and how much each counts.

    Args:
        experts: The number n of experts to choose from.
        k: The number of selectors.
        gamma: The width of the smooth step.
        size: The number of values that a gate looks at; None for a static gate.
    """

    def __init__(self, experts: int, k: int, *, gamma: float, size: int | None) -> None:
        super().__init__()
        self.experts, self.k, self.gamma = experts, k, gamma
        self.digits = (experts - 1).bit_length()
        # Near the middle of the step, where its slope is greatest, and so that no expert is preferred much.
        if size is None:
            self.codes = nn.Parameter(torch.empty(k, self.digits).uniform_(-gamma / 100, gamma / 100))
            self.scores = nn.Parameter(torch.empty(k).uniform_(-0.05, 0.05))
            return
        self.code_layer, self.score_layer = nn.Linear(size, k * self.digits), nn.Linear(size, k)
        for parameter in self.code_layer.parameters():
            nn.init.uniform_(parameter, -gamma / 100, gamma / 100)
        for parameter in self.score_layer.parameters():
            nn.init.uniform_(parameter, -0.05, 0.05)

    def forward(self, seen: Tensor | None) -> Tensor:
        """Return the weights of the experts ``[n]``, or for what is seen ``[B, size]`` of a batch ``[B, n]``."""
        scores = self.scores if seen is None else self.score_layer(seen.to(self.score_layer.weight.dtype))
        weights: Tensor = (scores.softmax(-1)[..., None] * self.selections(seen)).sum(-2)
        return weights

    def selections(self, seen: Tensor | None) -> Tensor:
        """Return the weights r ``[k, n]`` of the experts by each selector, or for each row of a batch ``[B, k, n]``."""
        if seen is None:
            codes = self.codes
        else:
            codes = self.code_layer(seen.to(self.code_layer.weight.dtype)).reshape(len(seen), self.k, self.digits)
        steps = smooth_step(codes, self.gamma)
        each = torch.ones_like(steps[..., :1])
        for step in steps.split(1, -1):  # digit by digit, the last one the most significant
            each = torch.cat([each * (1 - step), each * step], -1)
        over = each.shape[-1] - self.experts
        return torch.cat([each[..., :over] + each[..., self.experts :], each[..., over : self.experts]], -1)


def smooth_step(values: Tensor, gamma: float) -> Tensor:
    """Return S(v) = -2 v^3 / gamma^3 + 3 v / (2 gamma) + 1/2, and 0 or 1 outside of (-gamma/2, gamma/2)."""
    inside = (values / gamma + 0.5).clamp(0, 1)
    return inside.square() * (3 - 2 * inside)


def _entropy(selections: Tensor) -> Tensor:
    """Return the entropy of the selectors ``[k, n]``, summed, or ``[B, k, n]``, averaged over the rows."""
    each = -(selections * (selections + _EPS).log()).sum((-2, -1))
    return each.mean()
