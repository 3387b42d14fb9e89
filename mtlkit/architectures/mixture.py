"""What every mixture of experts is made of: what its gates look at, a gate, and the mixing of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.architectures.channels import channels, pooled
from mtlkit.encoders.base import Encoder
from mtlkit.specs import InputSpec

__all__ = ["Gate", "GateInput", "mixed"]


class GateInput:
    """What the gates of a mixture look at.

    It is the row, flattened, where that is one tensor of numbers, and fit to be looked at. Categories are no numbers,
    parts are no one tensor, and where the encoder has to read something off the training rows first
    (:meth:`Encoder.prepare`), numbers may be of any size, or missing: for such rows it is the mean over the experts of
    what they make of it, averaged over its positions.

    Args:
        inputs: What a row is.
        expert: One of the encoders.
        made: The shape of what each of them makes of a row.
    """

    def __init__(self, inputs: InputSpec, expert: Encoder, made: tuple[int, ...]) -> None:
        as_given = type(expert).prepare is Encoder.prepare
        self.is_row = as_given and not inputs.parts and not inputs.categories
        self.size = inputs.size if self.is_row else channels(made)

    def __call__(self, rows: Any, experts: Sequence[Tensor]) -> Tensor:
        """Return it ``[B, size]``, from the rows or from what the experts made of them, each ``[B, *]``."""
        if self.is_row:
            seen: Tensor = rows.reshape(len(rows), self.size)
            return seen
        return torch.stack([pooled(each) for each in experts]).mean(0)


class Gate(nn.Module):
    """g(x) = softmax(W x): how much of each expert a task takes, for each row.

    Args:
        size: The number of values in x.
        experts: How many experts there are to choose from.
    """

    def __init__(self, size: int, experts: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, experts, bias=False)

    def forward(self, seen: Tensor) -> Tensor:
        """Return the weights of the experts ``[B, E]`` for what is seen ``[B, size]``."""
        weights: Tensor = self.layer(seen.to(self.layer.weight.dtype))  # a pixel may be an integer
        return weights.softmax(-1)


def mixed(weights: Tensor, experts: Tensor) -> Tensor:
    """Return sum_e w_e f_e ``[B, *]``, for weights ``[B, E]``, or ``[E]`` for all rows, and features ``[B, E, *]``."""
    return torch.einsum("be,be...->b..." if weights.ndim > 1 else "e,be...->b...", weights, experts)
