"""The gradient of each task at all shared parameters, kept as rows that are combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mtlkit.gradients.differentiation import accumulate, differentiate, let_go, room_beside, scaled, unflattened
from mtlkit.gradients.feature_rows import Columns, FactoredRows
from mtlkit.gradients.losses import StepLosses, Unit
from mtlkit.gradients.task_rows import TaskRows
from mtlkit.gradients.told_apart import OwnGradients, RowsApart
from mtlkit.gradients.walk import Place, Reach, are_needed_later, edge_of, reach

__all__ = ["Whole"]


class Whole:
    """Each loss backpropagated once, to all that it reaches; the gradients are kept, to be combined.

    All are backpropagated at once where the rows of the tasks went through the encoder in one batch, and it lets them
    be told apart: see :class:`~mtlkit.gradients.told_apart.RowsApart`.

    Args:
        losses: The losses L_i.
        parameters: The shared parameters, one or more.
        features: The tensors z, if they were given.
        loss_scale: What the losses are multiplied by.
    """

    def __init__(
        self, losses: StepLosses, parameters: Sequence[Tensor], features: Sequence[Tensor], loss_scale: float
    ) -> None:
        self.features = features
        self.loss_scale = loss_scale
        # All that was given, in its order: a strategy that remembers gradients meets each entry at one place, whichever
        # tasks are present and however they reach it.
        shared = {id(parameter): parameter for parameter in parameters}
        self.shared = list(shared.values())
        dtype = torch.float32
        for leaf in self.shared:
            if leaf.dtype is not dtype:
                dtype = torch.promote_types(dtype, leaf.dtype)
        size = sum(leaf.numel() for leaf in self.shared)
        self.own: OwnGradients = [[] for _ in range(len(losses))]  # each head's parameters, with dL_i/dp
        self.banks: list[FactoredRows] = []
        apart = RowsApart.of(losses, features)
        at_once = apart is not None and apart.fits(self.shared, dtype)
        self.rows = TaskRows(len(losses), size, dtype, self.shared[0].device, at_once=at_once)
        if apart is not None and at_once:
            self.own = apart.differentiate(losses, self.shared, self.rows.body, loss_scale)
            self.is_reached = [key in apart.leaves for key in shared]
        else:
            self.is_reached = self._take_each(losses, shared)

    def _take_each(self, losses: StepLosses, shared: Mapping[int, Tensor]) -> list[bool]:
        """Backpropagate one loss after another, and return which of the shared parameters any of them reached."""
        units = losses.units
        reached = [reach([edge_of(unit.root)], frozenset()) for unit in units]
        layers = [_layer(unit, each) for unit, each in zip(units, reached, strict=True)]
        if any(unit.bank and not layer for unit, layer in zip(units, layers, strict=True)):
            units, layers = [Unit([task], root) for task, root in enumerate(losses.roots)], [None] * len(losses.roots)
            reached = [reach([edge_of(unit.root)], frozenset()) for unit in units]
        for unit, each in zip(units, reached, strict=True):
            if each.leaves.keys().isdisjoint(shared):
                name = losses.names[unit.tasks[0]]
                raise ValueError(f"the loss of {name} does not depend on the shared parameters that were given")
        kept = are_needed_later(reached)
        for number, (unit, layer, each, keep) in enumerate(zip(units, layers, reached, kept, strict=True), 1):
            if layer is None:
                (task,) = unit.tasks
                seeds = losses.seed(self.loss_scale)
                self._take(task, each.leaves, differentiate([unit.root], [*each.leaves.values()], seeds, keep=keep))
            else:
                self._take_bank(unit, layer, each.leaves, reached[number:], keep=keep)
        return [any(key in each.leaves for each in reached) for key in shared]

    def _take(self, task: int, leaves: Mapping[int, Tensor], gradients: list[Tensor | None]) -> None:
        """Copy what is shared of a task's gradients to its row, and keep the rest; the list is emptied."""
        found = dict(zip(leaves, gradients, strict=True))
        gradients.clear()  # or they would stay while the next task's are worked out
        parts = [(found.pop(id(leaf), None), leaf) for leaf in self.shared]
        flat = [leaf.new_zeros(leaf.numel()) if part is None else part.flatten() for part, leaf in parts]
        del parts
        self.rows.take(task, flat)
        self.own[task] = [(leaves[key], gradient) for key, gradient in found.items() if gradient is not None]

    def _take_bank(
        self, unit: Unit, layer: Columns, leaves: Mapping[int, Tensor], later: Sequence[Reach], *, keep: bool
    ) -> None:
        """Copy what is shared of the gradients of a bank's tasks; each goes through the encoder, none through the bank.

        What comes back to the features from task i is G_i W_i: its columns of what comes back to the bank's outputs,
        times its rows of the weight.
        """
        node = layer.layer
        seeds = [] if unit.bank is None else [torch.full_like(unit.bank.losses, self.loss_scale)]
        above = reach([edge_of(unit.root)], {(node.node, 0)}).uses.keys()
        is_shared = any(not above.isdisjoint(each.uses) for each in later)
        (back,) = differentiate([unit.root], [GradientEdge(node.node, 0)], seeds, keep=is_shared)
        if back is None:
            raise ValueError("the losses of a bank do not depend on its outputs")
        found = FactoredRows(node.inputs, [(layer, back)])
        self.banks.append(found)
        behind = {key: leaf for key, leaf in leaves.items() if leaf is not node.weight and leaf is not node.bias}
        below: Any = node.below
        z = next((z for z in self.features if edge_of(z) == below and z.nbytes > room_beside(behind.values())), None)
        last = len(found.tasks) - 1
        for number, task in enumerate(found.tasks):
            seeds = [found.rows(slice(number, number + 1)).view(node.inputs.shape)]
            root: Place = GradientEdge(*below)
            if z is not None:  # what it is given then need not be held through the pass
                root = let_go([z], seeds)
                seeds = [root.detach()]
            gradients = differentiate([root], [*behind.values()], seeds, keep=keep or number < last)
            self._take(task, behind, gradients)

    def gramian(self) -> Tensor:
        """Return the inner products of the tasks' gradients ``[K, K]``, in float64 on the CPU."""
        products = self.rows.gramian()
        return products if self.loss_scale == 1 else products / self.loss_scale**2

    def jacobian(self) -> Tensor:
        """Return the tasks' gradients ``[K, P]``."""
        return self.rows.dense() / self.loss_scale

    def backward(self, factors: Sequence[float], head_factors: Sequence[float], direction: Tensor | None) -> None:
        """Add to ``.grad`` what is made of the tasks' gradients; see :class:`~mtlkit.gradients.graph.Graph`."""
        leaves, gradients = scaled(self.own, head_factors)
        self.own.clear()
        for bank in self.banks:
            more = bank.at_layers(head_factors)
            leaves += more[0]
            gradients += more[1]
        total = self.rows.combined(factors) if direction is None else direction.to(self.rows.body) * self.loss_scale
        del self.rows  # or it would take up memory while leaves copy what they are given
        for leaf, part, is_reached in zip(self.shared, unflattened(total, self.shared), self.is_reached, strict=True):
            if is_reached:
                leaves.append(leaf)
                gradients.append(part if part.dtype == leaf.dtype else part.to(leaf))
        accumulate(leaves, gradients)


def _layer(unit: Unit, reached: Reach) -> Columns | None:
    """Return the layer of a bank, if its gradients follow from what comes back to its outputs."""
    bank = unit.bank
    if bank is None or bank.outputs._backward_hooks:  # noqa: SLF001 - a hook may change what goes on
        return None
    edge = edge_of(bank.outputs)
    layer = Columns.of(unit, edge[0], reached.uses)
    beside = reach([edge_of(unit.root)], {edge}).leaves  # such as a penalty on weights
    return None if layer is None or beside or layer.layer.weight.dtype != bank.outputs.dtype else layer
