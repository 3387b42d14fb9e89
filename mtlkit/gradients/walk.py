"""The walk through the autograd graph: what a loss reaches, and by which operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

__all__ = ["Edge", "Reach", "are_apart", "edge_of", "reach"]

Edge = tuple[Node | None, int]  # an operation, and which of its outputs


class Reach(NamedTuple):
    """What a walk through the graph came to.

    Attributes:
        leaves: The leaves, by identity.
        readers: The operations that read what is at the border.
        readers_of: For each leaf, the operations that read it.
        met_border: Whether it came to the border.
    """

    leaves: dict[int, Tensor]
    readers: set[Node]
    readers_of: dict[int, set[Node]]
    met_border: bool


def edge_of(tensor: Tensor) -> Edge:
    """Return where the tensor stands in the graph."""
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def reach(start: Iterable[Edge], border: AbstractSet[Edge]) -> Reach:
    """Walk from `start` towards the leaves, never past the border."""
    leaves: dict[int, Tensor] = {}
    readers: set[Node] = set()
    readers_of: dict[int, set[Node]] = {}
    met_border = False
    seen: set[Node] = set()
    ahead: list[tuple[Edge, Node | None]] = [(edge, None) for edge in start]
    while ahead:
        (node, number), reader = ahead.pop()
        if node is None:
            continue
        if (node, number) in border:
            met_border = True
            if reader is not None:
                readers.add(reader)
            continue
        leaf = getattr(node, "variable", None)  # only the node that accumulates into a leaf has one
        if leaf is not None:
            leaves[id(leaf)] = leaf
            if reader is not None:
                readers_of.setdefault(id(leaf), set()).add(reader)
            continue
        if node in seen:
            continue
        seen.add(node)
        ahead += [(edge, node) for edge in node.next_functions]
    return Reach(leaves, readers, readers_of, met_border)


def are_apart(reached: Sequence[Reach]) -> bool:
    """Return whether no two losses have a parameter, or an operation that reads the features, in common."""
    leaves = [key for each in reached for key in each.leaves]
    readers = [node for each in reached for node in each.readers]
    return len(set(leaves)) == len(leaves) and len(set(readers)) == len(readers)
