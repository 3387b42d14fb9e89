"""The walk through the autograd graph: what a loss reaches, and by which operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

__all__ = ["Edge", "Place", "Reach", "are_apart", "are_needed_later", "edge_of", "leaf_of", "reach"]

Place = Tensor | GradientEdge
Edge = tuple[Node | None, int]  # an operation, and which of its outputs

_LEAF = type(get_gradient_edge(torch.zeros((), requires_grad=True)).node)  # what accumulates into a leaf


class Reach(NamedTuple):
    """What a walk through the graph came to.

    Attributes:
        leaves: The leaves, by identity.
        readers: The operations that read what is at the border.
        uses: For each operation, how often others read its output, or the walk began there; a leaf stands as the
            operation that accumulates into it.
        met_border: Whether it came to the border.
    """

    leaves: dict[int, Tensor]
    readers: list[Node]
    uses: dict[Node, int]
    met_border: bool


def edge_of(place: Place) -> Edge:
    """Return where it stands in the graph."""
    if isinstance(place, Tensor):
        node = place.grad_fn
        if node is not None:  # what get_gradient_edge would say, in a fraction of its time
            return node, place.output_nr
        place = get_gradient_edge(place)
    return place.node, place.output_nr


def leaf_of(node: Node | None) -> Tensor | None:
    """Return the leaf that the operation accumulates into; None for any other operation."""
    return node.variable if type(node) is _LEAF else None  # type: ignore[attr-defined]


def reach(start: Iterable[Edge], border: AbstractSet[Edge]) -> Reach:
    """Walk from `start` towards the leaves, never past the border."""
    leaves: dict[int, Tensor] = {}
    readers: dict[Node, None] = {}
    uses: dict[Node, int] = {}
    met_border = False
    at_border = {node for node, _ in border}
    ahead: list[tuple[Node | None, Iterable[Edge]]] = [(None, start)]  # an operation, and what it reads
    while ahead:
        reader, edges = ahead.pop()
        for edge in edges:
            node = edge[0]
            if node is None:
                continue
            if node in at_border and edge in border:
                met_border = True
                if reader is not None:
                    readers[reader] = None
            elif node in uses:
                uses[node] += 1
            else:
                uses[node] = 1
                if type(node) is _LEAF:
                    leaf: Tensor = node.variable  # type: ignore[attr-defined]
                    leaves[id(leaf)] = leaf
                else:
                    ahead.append((node, node.next_functions))
    return Reach(leaves, list(readers), uses, met_border)


def are_apart(reached: Sequence[Reach]) -> bool:
    """Return whether no two losses have a parameter, or an operation that reads the features, in common."""
    leaves = [key for each in reached for key in each.leaves]
    readers = [node for each in reached for node in each.readers]
    return len(set(leaves)) == len(leaves) and len(set(readers)) == len(readers)


def are_needed_later(reached: Sequence[Reach]) -> list[bool]:
    """Return, for each loss, whether a later one needs an operation of its graph, which then has to be kept for it."""
    later: set[Node] = set()
    needed = []
    for each in reversed(reached):
        own = {node for node in each.uses if type(node) is not _LEAF}
        needed.append(not later.isdisjoint(own))
        later |= own
    return needed[::-1]
