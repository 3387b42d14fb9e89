"""The heads, backpropagated: what comes back to the features, and what each head's own parameters get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils.hooks import RemovableHandle

from mtlkit.gradients.differentiation import differentiate, paired, tapped
from mtlkit.gradients.feature_rows import Columns, DenseRows, FactoredRows, FeatureRows
from mtlkit.gradients.linear import LINEAR, LinearNode
from mtlkit.gradients.losses import StepLosses, Unit
from mtlkit.gradients.walk import Edge, Place, Reach, edge_of

__all__ = ["HeadGradients", "differentiate_at_once", "differentiate_linear", "differentiate_one_by_one"]

Readers = list[tuple[int, Node]]  # the operations that read a tensor of features, each with its unit
Gradients = Iterator[Tensor | None]


class HeadGradients(NamedTuple):
    """What comes back from the heads, times the loss scale.

    Attributes:
        parts: What comes back to each tensor of features.
        own: For each task, parameters of its head with their gradients; those of layers that a part knows of are there.
    """

    parts: list[FeatureRows]
    own: list[list[tuple[Tensor, Tensor]]]


def differentiate_linear(
    losses: StepLosses, z: Tensor, behind: Mapping[int, Tensor], loss_scale: float
) -> HeadGradients | None:
    """Backpropagate all heads in one pass, where each is a linear layer over z with one operation after another on it.

    That is what most heads are, and what takes the least to recognise. None, and nothing done, where one is not.

    Args:
        losses: The losses.
        z: The features.
        behind: The leaves that z depends on, by identity.
        loss_scale: What the losses are multiplied by.
    """
    if z.ndim != 2 or type(z) is not Tensor:  # noqa: PLR2004 - rows of features
        return None
    place = edge_of(z)
    layers = []
    for unit in losses.units:
        columns = _reached_alone(unit)
        if columns is None or columns.layer.below != place or columns.layer.weight.dtype != z.dtype:
            return None
        layers.append(columns)
    leaves = [leaf for each in layers for leaf in (each.layer.weight, each.layer.bias) if leaf is not None]
    known = {id(leaf) for leaf in leaves}
    if len(known) < len(leaves) or not known.isdisjoint(behind):
        return None
    roots, seeds = losses.seeded(loss_scale)
    found = differentiate(roots, [GradientEdge(each.layer.node, 0) for each in layers], seeds, keep=False)
    read = [(each, back) for each, back in zip(layers, found, strict=True) if back is not None]
    part = FactoredRows(z, read) if read else DenseRows.of(z, {})
    return HeadGradients([part], [[] for _ in range(len(losses))])


def _reached_alone(unit: Unit) -> Columns | None:
    """Return the first linear layer that the losses of a unit reach, if nothing else is on the way to it."""
    node, _ = edge_of(unit.root)
    while node is not None and type(node).__name__ not in LINEAR:
        before = [edge[0] for edge in node.next_functions if edge[0] is not None]
        if len(before) != 1:
            return None
        (node,) = before
    layer = LinearNode.of(node)
    return None if layer is None else Columns.at(unit, layer)


def differentiate_at_once(
    losses: StepLosses, features: Sequence[Tensor], reached: Sequence[Reach], loss_scale: float
) -> HeadGradients | None:
    """Backpropagate all heads in one pass; for losses that have nothing in common on this side of the features.

    None where what comes back cannot be told apart by task.

    Args:
        losses: The losses.
        features: The tensors z.
        reached: What each unit of the losses reaches before the features.
        loss_scale: What the losses are multiplied by.
    """
    readings = [_reading(z, read, losses.units, reached) for z, read in _readers(features, reached)]
    told = [reading for reading in readings if reading is not None]
    known = {id(leaf) for reading in told for leaf in reading.leaves}
    leaves = [[leaf for key, leaf in each.leaves.items() if key not in known] for each in reached]
    is_told = len(told) == len(readings)
    if not is_told or any(len(unit.tasks) > 1 and own for unit, own in zip(losses.units, leaves, strict=True)):
        return None
    wanted = [place for reading in told for place in reading.places]
    wanted += [leaf for each in leaves for leaf in each]
    taps = [handle for reading in told for handle in reading.begin()]
    # On its way to one of several features that one operation made, the pass goes through the layers that read others.
    goes_on = len({z.grad_fn for z in features}) < len(features)
    passed = [node for reading in told for node in reading.nodes] if goes_on else []
    heard: dict[Node, Tensor] = {}
    try:
        with tapped(passed, heard.__setitem__):
            roots, seeds = losses.seeded(loss_scale)
            gradients = iter(differentiate(roots, wanted, seeds, keep=bool(passed)))
    finally:
        for tap in taps:
            tap.remove()
    parts = [reading.taken(gradients, heard) for reading in told]
    own: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(len(losses))]
    for unit, each in zip(losses.units, leaves, strict=True):
        own[unit.tasks[0]] = paired(each, gradients)
    return HeadGradients(parts, own)


def differentiate_one_by_one(
    losses: StepLosses, features: Sequence[Tensor], leaves: Sequence[Sequence[Tensor]], loss_scale: float
) -> HeadGradients:
    """Backpropagate each loss in a pass of its own, to the features and to the leaves that are given for it."""
    found: list[dict[int, Tensor]] = [{} for _ in features]
    own = []
    for task, (root, wanted) in enumerate(zip(losses.roots, leaves, strict=True)):
        gradients = iter(differentiate([root], [*features, *wanted], losses.seed(loss_scale)))
        for rows in found:
            gradient = next(gradients)
            if gradient is not None:
                rows[task] = gradient
        own.append(paired(wanted, gradients))
    return HeadGradients([DenseRows.of(z, rows) for z, rows in zip(features, found, strict=True)], own)


def _readers(features: Sequence[Tensor], reached: Sequence[Reach]) -> list[tuple[Tensor, Readers]]:
    """Return each tensor of features, and the operations that read it."""
    readers: dict[Edge, Readers] = {edge_of(z): [] for z in features}
    for number, each in enumerate(reached):
        for node in each.readers:
            for edge in set(node.next_functions):
                if edge in readers:
                    readers[edge].append((number, node))
    return list(zip(features, readers.values(), strict=True))


class _Reading(Protocol):
    """How what comes back to one tensor of features is told apart by task.

    Attributes:
        places: What the pass has to differentiate with respect to.
        leaves: The parameters that it then knows the gradients of.
        nodes: The operations at whose outputs it does.
    """

    places: list[Place]
    leaves: list[Tensor | None]
    nodes: list[Node]

    def begin(self) -> list[RemovableHandle]:
        """Prepare for the pass; what is returned is to be removed when it is over."""

    def taken(self, gradients: Gradients, heard: Mapping[Node, Tensor]) -> FeatureRows:
        """Return what came back, from the gradients at the places, or what was heard at an operation."""


def _reading(z: Tensor, readers: Readers, units: Sequence[Unit], reached: Sequence[Reach]) -> _Reading | None:
    """Choose how to tell apart what comes back to z; None where it cannot be."""
    tasks = {task for number, _ in readers for task in units[number].tasks}
    if len(tasks) < 2:  # noqa: PLR2004
        return _Alone(z, sorted(tasks))
    layers = _layers(z, readers, units, reached)
    if layers:
        return _Layers(z, layers)
    if any(len(units[number].tasks) > 1 for number, _ in readers):
        return None
    return _Taps(z, [(units[number].tasks[0], node) for number, node in readers])


def _layers(z: Tensor, readers: Readers, units: Sequence[Unit], reached: Sequence[Reach]) -> list[Columns]:
    """Return what reads z, if it is linear layers over its rows alone; otherwise nothing."""
    if z.ndim != 2 or type(z) is not Tensor:  # noqa: PLR2004 - rows of features
        return []
    layers = []
    for number, node in readers:
        columns = Columns.of(units[number], node, reached[number].uses)
        if columns is None or columns.layer.weight.dtype != z.dtype:
            return []
        layers.append(columns)
    return layers


class _Alone:
    """Features of one task: what comes back to them comes from it."""

    def __init__(self, z: Tensor, tasks: list[int]) -> None:
        self.z = z
        self.tasks = tasks
        self.places: list[Place] = [z]
        self.leaves: list[Tensor | None] = []
        self.nodes: list[Node] = []

    def begin(self) -> list[RemovableHandle]:
        return []

    def taken(self, gradients: Gradients, heard: Mapping[Node, Tensor]) -> FeatureRows:  # noqa: ARG002
        gradient = next(gradients)
        return DenseRows.of(self.z, {} if gradient is None else dict.fromkeys(self.tasks, gradient))


class _Layers:
    """Features that linear layers read: the pass ends at the outputs of those, and all else follows from there."""

    def __init__(self, z: Tensor, layers: list[Columns]) -> None:
        self.z = z
        self.layers = layers
        self.nodes: list[Node] = [each.layer.node for each in layers]
        self.places: list[Place] = [GradientEdge(node, 0) for node in self.nodes]
        self.leaves = [leaf for each in layers for leaf in (each.layer.weight, each.layer.bias)]

    def begin(self) -> list[RemovableHandle]:
        return []

    def taken(self, gradients: Gradients, heard: Mapping[Node, Tensor]) -> FeatureRows:
        every = [(each, heard.get(each.layer.node, back)) for each, back in zip(self.layers, gradients, strict=False)]
        found = [(each, back) for each, back in every if back is not None]
        return FactoredRows(self.z, found) if found else DenseRows.of(self.z, {})


class _Taps:
    """Features that anything reads: hooks on the operations that do take down what each sends back."""

    def __init__(self, z: Tensor, readers: Readers) -> None:
        self.z = z
        self.readers = readers
        self.tasks = sorted({task for task, _ in readers})
        self.heard: set[int] = set()
        self.places: list[Place] = [z]
        self.leaves: list[Tensor | None] = []
        self.nodes: list[Node] = []

    def begin(self) -> list[RemovableHandle]:
        dtype = torch.promote_types(self.z.dtype, torch.float32)
        self.values = torch.empty(len(self.tasks), self.z.numel(), dtype=dtype, device=self.z.device)
        return [node.register_hook(self._tap(task, node)) for task, node in self.readers]

    def _tap(self, task: int, node: Node) -> Callable[..., None]:
        own = edge_of(self.z)
        indices = [index for index, edge in enumerate(node.next_functions) if edge == own]
        row = self.values[self.tasks.index(task)].view(self.z.shape)

        def hear(inputs: Sequence[Tensor | None], _: Sequence[Tensor | None]) -> None:
            for index in indices:
                gradient = inputs[index]
                if gradient is None:
                    continue
                if task in self.heard:
                    row.add_(gradient)
                else:
                    row.copy_(gradient)
                    self.heard.add(task)

        return hear

    def taken(self, gradients: Gradients, heard: Mapping[Node, Tensor]) -> FeatureRows:  # noqa: ARG002 - no operations
        next(gradients)  # of all tasks together
        is_there = [task in self.heard for task in self.tasks]
        if all(is_there):
            return DenseRows(self.z, self.tasks, self.values)
        return DenseRows(self.z, [task for task in self.tasks if task in self.heard], self.values[is_there])
