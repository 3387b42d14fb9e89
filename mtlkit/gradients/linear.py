"""A linear layer as it stands in the graph: its gradients follow from what went in and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from mtlkit.gradients.walk import Edge, leaf_of

__all__ = ["LINEAR", "LinearNode"]

LINEAR = frozenset({"AddmmBackward0", "MmBackward0"})
"""What the operations of linear layers over rows are called."""


class LinearNode(NamedTuple):
    """The operation of a linear layer over rows: out = x W' + b.

    Attributes:
        node: The operation, with one output.
        below: Where x ``[B, D]`` comes from.
        weight: The leaf W ``[C, D]``.
        bias: The leaf b ``[C]``; None where none is trained.
    """

    node: Any
    below: Edge
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, node: Node | None) -> LinearNode | None:
        """Recognise such an operation over ordinary tensors; None where it is another."""
        each: Any = node
        name = type(node).__name__
        if name == "AddmmBackward0":
            (added, _), below, (transposed, _) = each.next_functions
            bias = leaf_of(added)
            if each._saved_alpha != 1 or each._saved_beta != 1 or (bias is None) != (added is None):  # noqa: SLF001
                return None
        elif name == "MmBackward0":
            below, (transposed, _) = each.next_functions
            bias = None
        else:
            return None
        weight = leaf_of(transposed.next_functions[0][0]) if type(transposed).__name__ == "TBackward0" else None
        if weight is None or not _is_plain(weight):
            return None
        if bias is not None and not (_is_plain(bias) and bias.shape == weight.shape[:1]):
            return None
        return cls(node, below, weight, bias)

    def is_alone(self, uses: Mapping[Node, int]) -> bool:
        """Return whether nothing else reads its parameters, as often as each operation is read."""
        *added, _, (transposed, _) = self.node.next_functions
        if uses[transposed] != 1 or uses[transposed.next_functions[0][0]] != 1:
            return False
        return not added or added[0][0] is None or uses[added[0][0]] == 1

    def n_uses(self, uses: Mapping[Node, int]) -> int:
        """Return how often its weight is read, as often as each operation is read; 0 if what transposes it is, too."""
        transposed = self.node.next_functions[-1][0]
        return uses[transposed.next_functions[0][0]] if uses[transposed] == 1 else 0

    @property
    def inputs(self) -> Tensor:
        """What went in, x ``[B, D]``, as autograd kept it."""
        node = self.node
        kept: Tensor = node._saved_self if type(node).__name__ == "MmBackward0" else node._saved_mat1  # noqa: SLF001
        return kept.detach()

    @property
    def transposed(self) -> Tensor:
        """The weight W' ``[D, C]``, as autograd kept it: an error where it has been changed since."""
        kept: Tensor = self.node._saved_mat2  # noqa: SLF001
        return kept.detach()


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in {Tensor, nn.Parameter} and tensor.dtype in {torch.float32, torch.float64}
