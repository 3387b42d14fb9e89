"""The gradient of each task at all shared parameters, kept as rows that are combined."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mtlkit.gradients.differentiation import accumulate, differentiate, seed
from mtlkit.gradients.places import UNREACHED
from mtlkit.gradients.walk import edge_of, reach
from mtlkit.strategies.rows import gramian_of

__all__ = ["Whole"]


class Whole:
    """Each loss backpropagated once, to all that it reaches; the gradients are kept, to be combined.

    Args:
        names: What to call each loss in an error.
        losses: The losses L_i.
        parameters: The shared parameters.
        loss_scale: What the losses are multiplied by.
    """

    def __init__(
        self, names: Sequence[str], losses: Sequence[Tensor], parameters: Sequence[Tensor], loss_scale: float
    ) -> None:
        self.loss_scale = loss_scale
        reached = [reach([edge_of(loss)], frozenset()).leaves for loss in losses]
        # All that was given, in its order: a strategy that remembers gradients meets each entry at one place, whichever
        # tasks are present and however they reach it.
        wanted = {id(parameter): parameter for parameter in parameters}
        self.shared = list(wanted.values())
        self.is_reached = [any(key in leaves for leaves in reached) for key in wanted]
        sizes = [leaf.numel() for leaf in self.shared]
        starts = dict(zip(wanted, itertools.accumulate(sizes, initial=0), strict=False))
        dtype = torch.float32
        for leaf in self.shared:
            dtype = torch.promote_types(dtype, leaf.dtype)
        self.rows: Tensor | None = None  # [K, P]
        self.others: list[list[tuple[Tensor, Tensor]]] = []  # each head's parameters, with dL_i/dp
        for task, (name, loss, leaves) in enumerate(zip(names, losses, reached, strict=True)):
            if leaves.keys().isdisjoint(wanted):
                raise ValueError(f"the loss of {name} does not depend on the shared parameters that were given")
            gradients = differentiate([loss], list(leaves.values()), seed(loss, loss_scale))
            others = []
            if self.rows is None:
                self.rows = torch.zeros(len(losses), sum(sizes), dtype=dtype, device=self.shared[0].device)
            for (key, leaf), gradient in zip(leaves.items(), gradients, strict=True):
                if gradient is None:
                    continue
                if key in starts:
                    self.rows[task, starts[key] : starts[key] + leaf.numel()] = gradient.flatten()
                else:
                    others.append((leaf, gradient))
            self.others.append(others)

    def gramian(self) -> Tensor:
        """Return the inner products of the tasks' gradients ``[K, K]``, in float64 on the CPU."""
        return gramian_of(self._kept) / self.loss_scale**2

    def jacobian(self) -> Tensor:
        """Return the tasks' gradients ``[K, P]``."""
        return self._kept / self.loss_scale

    def backward(self, factors: Tensor, head_factors: Tensor, direction: Tensor | None) -> None:
        """Add to ``.grad`` what is made of the tasks' gradients; see :class:`~mtlkit.gradients.graph.Graph`."""
        for factor, others in zip(head_factors, self.others, strict=True):
            accumulate([(leaf, factor.to(g) * g) for leaf, g in others])
        kept = self._kept
        total = factors.to(kept) @ kept if direction is None else direction.to(kept) * self.loss_scale
        parts = total.split([leaf.numel() for leaf in self.shared])
        each = zip(self.shared, parts, self.is_reached, strict=True)
        accumulate([(leaf, part.reshape(leaf.shape).to(leaf)) for leaf, part, reached in each if reached])

    @property
    def _kept(self) -> Tensor:
        if self.rows is None:
            raise ValueError(UNREACHED)
        return self.rows
