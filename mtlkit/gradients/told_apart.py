"""The gradients of tasks whose rows went through the encoder as one batch, from one backward pass for all of them.

Letters: K tasks; x ``[B, D]`` what went into a linear layer, G ``[B, C]`` what comes back to its outputs.

Where every operation of the encoder treats a row by itself, the rows of G that are task i's come from its loss alone.
Its gradient at the layer's weight is then G_i' x_i, over these rows, and at the bias their sum: together, over all
tasks, as much work as the gradient of the sum of the losses, and no backward pass for each. (Goodfellow, "Efficient
per-example gradient computations", 2015, has it for single rows.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from mtlkit.gradients.batches import Batches, Member, acts_by_entry, has_rows, sum_rows, weigh_rows
from mtlkit.gradients.differentiation import differentiate, paired, tapped
from mtlkit.gradients.linear import LINEAR, LinearNode
from mtlkit.gradients.losses import StepLosses
from mtlkit.gradients.walk import Place, Reach, leaf_of

__all__ = ["OwnGradients", "RowsApart"]

OwnGradients = list[list[tuple[Tensor, Tensor]]]


class RowsApart(NamedTuple):
    """An encoder of linear layers and of operations on single entries, through which the rows of several tasks went.

    Attributes:
        layers: The layers.
        batches: The tasks and their rows.
    """

    layers: Sequence[LinearNode]
    batches: Batches

    @classmethod
    def of(cls, losses: StepLosses, features: Sequence[Tensor]) -> RowsApart | None:
        """Recognise it; None where the gradients cannot be told apart by rows.

        Args:
            losses: The losses, each of which depends on one of the tensors.
            features: The slices of what the encoder made of all rows.
        """
        batches = Batches.of(losses, features)
        layers = None if batches is None else _layers(batches.behind, batches.n_rows)
        if batches is None or layers is None:
            return None
        return cls(layers, batches)

    @property
    def leaves(self) -> Mapping[int, Tensor]:
        """The parameters of the layers that are trained, by identity."""
        return self.batches.behind.leaves

    def fits(self, shared: Sequence[Tensor], dtype: torch.dtype) -> bool:
        """Return whether all that is trained of it is shared, and of this dtype."""
        return self.leaves.keys() <= {id(leaf) for leaf in shared} and all(
            leaf.dtype == dtype for leaf in self.leaves.values()
        )

    def differentiate(
        self, losses: StepLosses, shared: Sequence[Tensor], rows: Tensor, loss_scale: float
    ) -> OwnGradients:
        """Fill in the tasks' gradients ``[K, P]`` at what is shared, and return those of each task's own parameters.

        Args:
            losses: The losses.
            shared: The shared parameters, side by side in the rows; all leaves of the layers are among them.
            rows: What is to be filled in, times the loss scale.
            loss_scale: What the losses are multiplied by.
        """
        ends = accumulate(leaf.numel() for leaf in shared)
        columns = {id(leaf): end - leaf.numel() for leaf, end in zip(shared, ends, strict=True)}
        if sum(leaf.numel() for leaf in self.leaves.values()) < rows.shape[1]:
            rows.zero_()  # some are not reached
        own: OwnGradients = [[] for _ in range(len(losses))]
        size, rounds = self.batches.size, self.batches.rounds
        passes = [_Pass(rows, columns, members, size) for members in rounds]
        inputs = {layer.node: layer.inputs for layer in self.layers}  # before a pass, which lets go of them
        for number, each in enumerate(passes, 1):
            is_last = number == len(passes)
            roots, seeds = losses.seeded(loss_scale)
            if len(passes) > 1:
                roots = [member.unit.root for member in each.members]
                seeds = losses.seed(loss_scale) * len(roots)
            self._run(each, roots, seeds, inputs, own, keep=not is_last)
        return own

    def _run(
        self,
        each: _Pass,
        roots: Sequence[Place],
        seeds: Sequence[Tensor],
        inputs: dict[Node, Tensor],
        own: OwnGradients,
        *,
        keep: bool,
    ) -> None:
        """Backpropagate the tasks of one round, and fill in their gradients layer by layer as the pass comes by.

        What went into a layer, and what came back to it, is let go of as soon as both are known.
        """
        ahead = {layer.node: layer for layer in self.layers}

        def fill(node: Node, back: Tensor) -> None:
            each.fill(ahead.pop(node), inputs[node] if keep else inputs.pop(node), back)

        # A pass ends at layers that have nothing to train below them. Of the others it tells what came before the hooks
        # on their outputs had acted on it, so that it is to be heard where it goes on.
        ends = [layer.node for layer in self.layers if layer.below[0] is None]
        wanted = [GradientEdge(node, 0) for node in ends]
        leaves = [leaf for member in each.members for leaf in member.leaves]
        with tapped([node for node in ahead if node not in ends], fill):
            found = iter(differentiate(roots, [*wanted, *leaves], seeds, keep=keep))
        for node in ends:
            back = next(found)
            if back is not None:
                fill(node, back)
        for layer in ahead.values():
            each.fill(layer, None, None)
        for member in each.members:
            own[member.task] = paired(member.leaves, found)


class _Pass(NamedTuple):
    """A backward pass for some tasks.

    Attributes:
        rows: The gradients of all tasks ``[K, P]``.
        columns: The first column of each leaf in them, by identity.
        members: The tasks.
        size: How many rows each task has, if they follow on one another: see :class:`Batches`.
    """

    rows: Tensor
    columns: Mapping[int, int]
    members: Sequence[Member]
    size: int | None

    def _at(self, leaf: Tensor) -> Tensor:
        """Return the gradients of all tasks at a leaf, to be filled in ``[K, numel]``."""
        return self.rows.narrow(1, self.columns[id(leaf)], leaf.numel())

    def fill(self, layer: LinearNode, x: Tensor | None, back: Tensor | None) -> None:
        """Fill in the tasks' gradients at a layer, from what went in and what came back at the rows of each."""
        weights = self._at(layer.weight).view(-1, *layer.weight.shape)
        biases = None if layer.bias is None else self._at(layer.bias)
        if back is None or x is None:
            for each in (weights, biases):
                if each is not None:
                    each[[member.task for member in self.members]] = 0
            return
        weigh_rows(self.members, self.size, x, back, weights)
        if biases is not None:
            sum_rows(self.members, self.size, back, biases)


def _layers(behind: Reach, n_rows: int) -> list[LinearNode] | None:
    """Return the linear layers behind the features, if there is nothing there but them and what acts by entry."""
    layers, others = [], []
    for node in behind.uses:
        layer = LinearNode.of(node) if type(node).__name__ in LINEAR else None
        if layer is not None:
            if not (layer.is_alone(behind.uses) and has_rows(node, n_rows)):
                return None
            layers.append(layer)
        elif leaf_of(node) is None:
            others.append(node)
    transposed = {layer.node.next_functions[-1][0] for layer in layers}
    if not all(node in transposed or (_acts_by_row(node) and has_rows(node, n_rows)) for node in others):
        return None
    leaves = {id(leaf) for layer in layers for leaf in (layer.weight, layer.bias)}
    return layers if layers and behind.leaves.keys() <= leaves else None


def _acts_by_row(node: Node) -> bool:
    """Return whether each row of what an operation without parameters makes is made of that row of what it is given."""
    if type(node).__name__ in LINEAR:  # a layer that is not trained
        *added, _, (transposed, _) = node.next_functions
        return transposed is None and all(bias is None for bias, _ in added)
    return acts_by_entry(node)
