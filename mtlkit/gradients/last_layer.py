"""The gradients at the weights of a linear layer, without a backward pass through it for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtlkit.gradients.walk import Reach

__all__ = ["LastLayer"]


class LastLayer(NamedTuple):
    """The gradients at the weights of a linear layer, from its inputs and what goes back to its outputs.

    Attributes:
        rows: The gradients ``[K, P]``.
    """

    rows: Tensor

    @classmethod
    def of(
        cls,
        weight: Tensor,
        features: Sequence[Tensor],
        parts: Sequence[tuple[list[int], Tensor | None]],
        n_tasks: int,
        behind: Reach,
    ) -> LastLayer | None:
        """Work them out, where the features are the outputs of such a layer, or a ReLU or a tanh of them.

        None where they are something else: autograd then finds its own way.
        """
        if len(behind.readers_of.get(id(weight), ())) != len(features):
            return None  # it is used elsewhere too
        rows = torch.zeros(n_tasks, *weight.shape, dtype=weight.dtype, device=weight.device)
        for (tasks, gradients), z in zip(parts, features, strict=True):
            inputs = _inputs_of_linear(z, weight)
            if inputs is None or gradients is None or inputs.dtype != weight.dtype or gradients.dtype != weight.dtype:
                return None
            back = gradients.reshape(len(tasks), *z.shape)  # [k, B, D]
            name = type(z.grad_fn).__name__
            if name == "ReluBackward0":
                back = back * (z.detach() > 0)
            elif name == "TanhBackward0":
                back = back * (1 - z.detach().square())
            found = torch.matmul(back.transpose(1, 2), inputs)  # [k, D, D before]
            if len(tasks) == n_tasks and len(features) == 1:
                rows = found
            else:
                rows[tasks] += found
        return cls(rows.flatten(1))


def _inputs_of_linear(z: Tensor, weight: Tensor) -> Tensor | None:
    """Return the inputs ``[B, D before]`` of the linear layer that made z with this weight; None if none did."""
    node = z.grad_fn
    if node is not None and type(node).__name__ in {"ReluBackward0", "TanhBackward0"}:
        node = node.next_functions[0][0]
    if node is None or type(node).__name__ != "AddmmBackward0" or z.ndim != 2:  # noqa: PLR2004
        return None
    transposed = node.next_functions[2][0]
    if transposed is None or type(transposed).__name__ != "TBackward0":
        return None
    if getattr(transposed.next_functions[0][0], "variable", None) is not weight:
        return None
    inputs = getattr(node, "_saved_mat1", None)
    return inputs if isinstance(inputs, Tensor) else None
