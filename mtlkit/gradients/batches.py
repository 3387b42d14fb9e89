"""Tasks whose batches went through the encoder as one: what comes back from each is at rows of its own.

Letters: K tasks; B rows of all batches together, b of one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from mtlkit.gradients.losses import StepLosses, Unit
from mtlkit.gradients.slices import slices_of
from mtlkit.gradients.walk import Edge, Reach, are_apart, edge_of, reach
from mtlkit.strategies.numbers import tensor_of

__all__ = ["Batches", "Member", "acts_by_entry", "has_rows", "sum_rows", "times_by_rows", "weigh_rows"]

_BY_ENTRY = {
    f"{name}Backward0"
    for name in (
        *("Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Mish", "Tanh", "Sigmoid", "LogSigmoid", "Softplus"),
        *("Hardtanh", "Hardsigmoid", "Hardswish", "Softshrink", "Threshold", "Clamp"),
        *("Add", "Sub", "Mul", "Neg", "NativeDropout"),
    )
}


class Member(NamedTuple):
    """A task: its place among the losses, its unit, its rows, and its own leaves on this side of the features."""

    task: int
    unit: Unit
    rows: slice
    leaves: Sequence[Tensor]


class Batches(NamedTuple):
    """Tasks that each read some rows of one tensor.

    Attributes:
        whole: Where the tensor stands in the graph.
        n_rows: B.
        slices: The rows of each tensor of features, in the order in which these were given.
        behind: What the whole is made of.
        rounds: The tasks, so that no two of a round have rows in common.
        size: b, if the rows of all tasks follow on one another, as many of each, in the order of their places; the
            rows are then one more dimension of a tensor. Otherwise None.
    """

    whole: Edge
    n_rows: int
    slices: Sequence[slice]
    behind: Reach
    rounds: Sequence[Sequence[Member]]
    size: int | None

    @classmethod
    def of(cls, losses: StepLosses, features: Sequence[Tensor]) -> Batches | None:
        """Recognise them; None where a task reads other rows as well, or has something in common with another.

        Args:
            losses: The losses, each of which depends on one of the tensors.
            features: The slices of what the encoder made of all rows.
        """
        slices = slices_of(features) if len(features) > 1 and all(type(z) is Tensor for z in features) else None
        if slices is None or any(unit.bank for unit in losses.units):
            return None
        whole, _, n_rows = slices[0]
        places = {edge_of(z): each.rows for z, each in zip(features, slices, strict=True)}
        behind = reach([whole] * len({node for node, _ in places}), frozenset())
        reached = [reach([edge_of(unit.root)], places.keys()) for unit in losses.units]
        rounds = _rounds(losses.units, reached, places)
        if rounds is None or any(not behind.leaves.keys().isdisjoint(each.leaves) for each in reached):
            return None
        return cls(whole, n_rows, [each.rows for each in slices], behind, rounds, _size(rounds, n_rows))


def _rounds(units: Sequence[Unit], reached: Sequence[Reach], places: Mapping[Edge, slice]) -> list[list[Member]] | None:
    """Return the tasks round by round; None where one reads other rows than its own, or shares a head with another."""
    if not are_apart(reached):
        return None
    by_rows: dict[Edge, list[Member]] = {}
    for unit, each in zip(units, reached, strict=True):
        read = {edge for node in each.readers for edge in node.next_functions if edge in places}
        if len(read) != 1:
            return None
        (place,) = read
        (task,) = unit.tasks
        by_rows.setdefault(place, []).append(Member(task, unit, places[place], list(each.leaves.values())))
    every = by_rows.values()
    return [[own[turn] for own in every if turn < len(own)] for turn in range(max(map(len, every)))]


def _size(rounds: Sequence[Sequence[Member]], n_rows: int) -> int | None:
    if len(rounds) > 1:
        return None
    size = n_rows // len(rounds[0])
    every = sorted(rounds[0], key=lambda member: member.task)
    tiled = all(each.rows == slice(place * size, (place + 1) * size) for place, each in enumerate(every))
    return size if tiled and size * len(every) == n_rows else None


def weigh_rows(members: Sequence[Member], size: int | None, x: Tensor, back: Tensor, into: Tensor) -> None:
    """Write down the gradient of each task at the weight of a linear layer: G_i' x_i.

    Args:
        members: The tasks.
        size: b, if the rows of all tasks follow on one another.
        x: What went into the layer ``[B, D]``.
        back: What comes back to its outputs, G ``[B, C]``.
        into: Where the gradients go ``[K, C, D]``.
    """
    if size is not None:
        torch.bmm(back.unflatten(0, (-1, size)).mT, x.unflatten(0, (-1, size)), out=into)
        return
    for task, _, rows, _ in members:
        torch.mm(back[rows].t(), x[rows], out=into[task])


def sum_rows(members: Sequence[Member], size: int | None, back: Tensor, into: Tensor) -> None:
    """Write down the gradient of each task at the bias, the sum of G_i, likewise; `into` is ``[K, C]``."""
    if size is not None:
        torch.sum(back.unflatten(0, (-1, size)), 1, out=into)
        return
    for task, _, rows, _ in members:
        torch.sum(back[rows], 0, out=into[task])


def times_by_rows(members: Sequence[Member], size: int | None, back: Tensor, factors: Sequence[float]) -> Tensor:
    """Return what came back ``[B, *]``, the rows of each task times its factor ``[K]``; 0 where they are no task's."""
    if size is not None:
        if factors[0] == 1 and all(factor == 1 for factor in factors):
            return back
        each: Tensor = back.unflatten(0, (-1, size))
        return (each * tensor_of(factors, back).view(-1, *[1] * back.ndim)).view_as(back)
    total = torch.zeros_like(back)
    for task, _, rows, _ in members:
        torch.mul(back[rows], factors[task], out=total[rows])
    return total


def has_rows(node: Any, n_rows: int) -> bool:
    """Return whether what an operation makes is a matrix of so many rows."""
    shape = node._input_metadata[0].shape  # noqa: SLF001 - what autograd knows of its output
    return len(shape) == 2 and shape[0] == n_rows  # noqa: PLR2004


def acts_by_entry(node: Node) -> bool:
    """Return whether an operation acts on each entry by itself; of two tensors, where both have the same rows."""
    return type(node).__name__ in _BY_ENTRY
