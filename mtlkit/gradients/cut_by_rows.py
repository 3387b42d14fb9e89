"""The backward pass, cut where the batches of all tasks come out of the encoder as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mtlkit.gradients.batches import Batches, acts_by_entry, has_rows, times_by_rows, weigh_rows
from mtlkit.gradients.differentiation import accumulate, differentiate, is_heard, paired, room_beside, scaled
from mtlkit.gradients.linear import LinearNode
from mtlkit.gradients.losses import StepLosses
from mtlkit.gradients.walk import Place, edge_of
from mtlkit.strategies.numbers import tensor_of
from mtlkit.strategies.rows import gramian_of, norms_of_each

__all__ = ["CutByRows"]


class CutByRows:
    """As :class:`~mtlkit.gradients.cut.Cut`, for tasks whose batches went through the encoder as one.

    What comes back to the tensor that they are slices of is told apart by rows. Where the weights W of the last layer
    are measured at, the cut is at what this layer makes: the gradients of the tasks at W follow from what comes back
    there, what W gets follows from them, and the pass goes on from what went into the layer.

    Args:
        losses: The losses L_i.
        batches: The tasks and their rows, one task for each batch.
        whole: What the rows are of.
        layer: The last layer; None to measure at the features.
        loss_scale: What the losses are multiplied by.
    """

    def __init__(
        self, losses: StepLosses, batches: Batches, whole: Tensor, layer: LinearNode | None, loss_scale: float
    ) -> None:
        self.batches = batches
        self.whole = whole
        self.layer = layer
        self.loss_scale = loss_scale
        (self.members,) = batches.rounds
        place: Place = whole if layer is None else GradientEdge(layer.node, 0)
        leaves = [leaf for member in self.members for leaf in member.leaves]
        roots, seeds = losses.seeded(loss_scale)
        back, *found = differentiate(roots, [place, *leaves], seeds, keep=False)
        self.back = torch.zeros_like(whole) if back is None else back
        self.own: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(len(losses))]
        gradients = iter(found)
        for member in self.members:
            self.own[member.task] = paired(member.leaves, gradients)
        if layer is not None:
            self.rows = self.back.new_empty(len(losses), *layer.weight.shape)  # [K, D, D before]
            weigh_rows(self.members, batches.size, layer.inputs, self.back, self.rows)

    @classmethod
    def of(
        cls, losses: StepLosses, features: Sequence[Tensor], weights: Sequence[Tensor] | None, loss_scale: float
    ) -> CutByRows | None:
        """Recognise such tasks, and the layer; None where there is something else. Nothing is differentiated then."""
        whole = features[0]._base  # noqa: SLF001 - what it is a view of
        # Hooks are for the weighted gradients, which slices get nothing of here.
        if whole is None or any(map(is_heard, (whole, *features))):
            return None
        batches = Batches.of(losses, features)
        if batches is None or len(batches.rounds) > 1 or edge_of(whole) != batches.whole:
            return None
        if weights is None:
            return cls(losses, batches, whole, None, loss_scale)
        layer = _last_layer(batches) if len(weights) == 1 and whole.ndim == 2 else None  # noqa: PLR2004 - rows
        if layer is None or layer.weight is not weights[0] or layer.weight.dtype != whole.dtype:
            return None
        return cls(losses, batches, whole, layer, loss_scale)

    def gramian(self) -> Tensor:
        """Return the inner products of the tasks' gradients ``[K, K]``, in float64 on the CPU."""
        if self.layer is not None:
            total = gramian_of(self.rows.flatten(1))
        else:  # features for each task: nothing to multiply
            total = torch.diag(torch.from_numpy(norms_of_each(self._each()) ** 2))
        return total if self.loss_scale == 1 else total / self.loss_scale**2

    def _each(self) -> list[Tensor] | Tensor:
        """Return what comes back to the features of each task, in float32 at least."""
        back = self.back if self.back.dtype == torch.float64 else self.back.float()
        size = self.batches.size
        if size is not None:
            return back.reshape(len(self.members), -1)
        return [back[member.rows] for member in sorted(self.members, key=lambda member: member.task)]

    def jacobian(self) -> Tensor:
        """Return the tasks' gradients ``[K, P]``; those at features stand in the order in which these were given."""
        if self.layer is not None:
            return self.rows.flatten(1) / self.loss_scale
        each, sizes = self._each(), [rows.stop - rows.start for rows in self.batches.slices]
        jacobian = self.whole.new_zeros(len(self.members), sum(sizes) * self.whole[0].numel(), dtype=each[0].dtype)
        places = jacobian.split([size * self.whole[0].numel() for size in sizes], 1)
        for member in self.members:
            places[self.batches.slices.index(member.rows)][member.task] = each[member.task].flatten() / self.loss_scale
        return jacobian

    def backward(self, factors: Sequence[float], head_factors: Sequence[float], direction: Tensor | None) -> None:
        """Add to ``.grad`` what is made of the tasks' gradients; see :class:`~mtlkit.gradients.graph.Graph`."""
        places, gradients = scaled(self.own, head_factors)
        self.own.clear()
        if self.layer is not None:
            self._from_layer(self.layer, places, gradients, factors, direction)
        elif direction is None:
            places.append(self.whole)
            gradients.append(times_by_rows(self.members, self.batches.size, self.back, factors))
        else:
            total = torch.zeros_like(self.whole)
            sizes = [total[rows].numel() for rows in self.batches.slices]
            for rows, part in zip(self.batches.slices, (direction * self.loss_scale).split(sizes), strict=True):
                total[rows] = part.view_as(total[rows])
            places.append(self.whole)
            gradients.append(total)
        del self.back
        accumulate(places, gradients, room=room_beside(self.batches.behind.leaves.values()))

    def _from_layer(
        self,
        layer: LinearNode,
        places: list[Place],
        gradients: list[Tensor],
        factors: Sequence[float],
        direction: Tensor | None,
    ) -> None:
        """Say what the layer's parameters get, and what went into it."""
        back = times_by_rows(self.members, self.batches.size, self.back, factors)
        if direction is None:
            at_weight = tensor_of(factors, self.rows) @ self.rows.flatten(1)
        else:
            at_weight = direction.to(self.rows) * self.loss_scale
        del self.rows
        places.append(layer.weight)
        gradients.append(at_weight.view_as(layer.weight))
        if layer.bias is not None:
            places.append(layer.bias)
            gradients.append(back.sum(0))
        below, number = layer.below
        if below is not None:
            places.append(GradientEdge(below, number))
            gradients.append(back @ layer.transposed.t())


def _last_layer(batches: Batches) -> LinearNode | None:
    """Return the linear layer from whose outputs operations on single entries make the whole, if nobody else does."""
    uses, (node, _) = batches.behind.uses, batches.whole
    while node is not None and acts_by_entry(node):
        before = [edge[0] for edge in node.next_functions if edge[0] is not None]
        if len(before) != 1 or uses[before[0]] > 1:
            return None
        (node,) = before
    layer = LinearNode.of(node)
    if layer is None or layer.n_uses(uses) != 1 or not has_rows(layer.node, batches.n_rows):
        return None
    return layer
