"""The gradient of each task at all shared parameters, kept as rows that are combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlkit.gradients.differentiation import accumulate, differentiate, scaled, seed
from mtlkit.gradients.losses import StepLosses
from mtlkit.gradients.walk import are_needed_later, edge_of, reach
from mtlkit.strategies.rows import gramian_of

__all__ = ["Whole"]


class Whole:
    """Each loss backpropagated once, to all that it reaches; the gradients are kept, to be combined.

    Args:
        losses: The losses L_i.
        parameters: The shared parameters, one or more.
        loss_scale: What the losses are multiplied by.
    """

    def __init__(self, losses: StepLosses, parameters: Sequence[Tensor], loss_scale: float) -> None:
        self.loss_scale = loss_scale
        # All that was given, in its order: a strategy that remembers gradients meets each entry at one place, whichever
        # tasks are present and however they reach it.
        shared = {id(parameter): parameter for parameter in parameters}
        self.shared = list(shared.values())
        reached = [reach([edge_of(root)], frozenset()) for root in losses.roots]
        for name, each in zip(losses.names, reached, strict=True):
            if each.leaves.keys().isdisjoint(shared):
                raise ValueError(f"the loss of {name} does not depend on the shared parameters that were given")
        self.is_reached = [any(key in each.leaves for each in reached) for key in shared]
        dtype = torch.float32
        for leaf in self.shared:
            dtype = torch.promote_types(dtype, leaf.dtype)
        size = sum(leaf.numel() for leaf in self.shared)
        self.rows = torch.empty(len(reached), size, dtype=dtype, device=self.shared[0].device)  # [K, P]
        self.own: list[list[tuple[Tensor, Tensor]]] = []  # each head's parameters, with dL_i/dp
        keep = are_needed_later(reached)
        for task, (root, loss, each) in enumerate(zip(losses.roots, losses.each, reached, strict=True)):
            gradients = differentiate([root], list(each.leaves.values()), seed(loss, loss_scale), keep=keep[task])
            self._take(task, each.leaves, gradients)

    def _take(self, task: int, leaves: Mapping[int, Tensor], gradients: list[Tensor | None]) -> None:
        """Copy what is shared of a task's gradients to its row, and keep the rest; the list is emptied."""
        found = dict(zip(leaves, gradients, strict=True))
        gradients.clear()  # or they would stay while the next task's are worked out
        parts = [(found.pop(id(leaf), None), leaf) for leaf in self.shared]
        flat = [leaf.new_zeros(leaf.numel()) if part is None else part.flatten() for part, leaf in parts]
        torch.cat(flat, out=self.rows[task])
        self.own.append([(leaves[key], gradient) for key, gradient in found.items() if gradient is not None])

    def gramian(self) -> Tensor:
        """Return the inner products of the tasks' gradients ``[K, K]``, in float64 on the CPU."""
        products = gramian_of(self.rows)
        return products if self.loss_scale == 1 else products / self.loss_scale**2

    def jacobian(self) -> Tensor:
        """Return the tasks' gradients ``[K, P]``."""
        return self.rows / self.loss_scale

    def backward(self, factors: Sequence[float], head_factors: Sequence[float], direction: Tensor | None) -> None:
        """Add to ``.grad`` what is made of the tasks' gradients; see :class:`~mtlkit.gradients.graph.Graph`."""
        places, gradients = scaled(self.own, head_factors)
        if direction is None:
            total = self.rows.new_tensor(factors) @ self.rows
        else:
            total = direction.to(self.rows) * self.loss_scale
        parts = total.split([leaf.numel() for leaf in self.shared])
        for leaf, part, is_reached in zip(self.shared, parts, self.is_reached, strict=True):
            if is_reached:
                places.append(leaf)
                gradients.append(part.reshape(leaf.shape).to(leaf))
        accumulate(places, gradients)
