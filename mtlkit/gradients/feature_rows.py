"""The tasks' gradients at one tensor of features, in full or as two factors.

Letters: k the tasks that read the features z; B rows of z, D features; C outputs of linear layers that read it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import Node

from mtlkit.gradients.linear import LinearNode
from mtlkit.gradients.losses import Unit
from mtlkit.gradients.walk import edge_of
from mtlkit.strategies.numbers import tensor_of
from mtlkit.strategies.rows import gramian_of

__all__ = ["Columns", "DenseRows", "FactoredRows", "FeatureRows", "some_within"]

EVERY = slice(None)
AT_ONCE = 2**18
"""Bytes of gradients at the features that are written down at a time, where they are no more than passed through."""
_SMALL = 2**18
"""Numbers in two factors up to which what it takes to start a product counts for more than the product."""

Given = tuple[list[Tensor], list[Tensor]]  # parameters, and what they are given


def some_within(size: int) -> int:
    """Return how many things of this many bytes are written down at a time: one at least."""
    return max(1, AT_ONCE // size)


class FeatureRows(Protocol):
    """What comes back to one tensor of features from each task that reads it.

    Attributes:
        tasks: These tasks ``[k]``, in order.
        makes_rows: Whether :meth:`rows` makes the gradients anew, so that they may be written over.
    """

    tasks: list[int]
    makes_rows: bool

    def gramian(self) -> Tensor:
        """Return the inner products ``[k, k]``, in float64 on the CPU."""

    def rows(self, tasks: slice = EVERY) -> Tensor:
        """Return the gradients ``[k, numel]``, in float32 at least; those of some of the tasks, if they are named."""

    def combined(self, factors: Sequence[float]) -> Tensor:
        """Return what z gets, of its shape and dtype, from a factor for each task of the step ``[K]``."""

    def at_layers(self, factors: Sequence[float]) -> Given:
        """Return the parameters of the layers that read z, and what they get, likewise."""


class DenseRows:
    """Each gradient in full.

    Args:
        z: The features, of any shape.
        tasks: The tasks, in order.
        values: Their gradients ``[k, numel]``, in float32 at least.
    """

    makes_rows = False

    def __init__(self, z: Tensor, tasks: list[int], values: Tensor) -> None:
        self.z = z
        self.tasks = tasks
        self.values = values

    @classmethod
    def of(cls, z: Tensor, found: dict[int, Tensor]) -> DenseRows:
        """Lay out the gradients by task; they are taken out of the mapping, so that none is held twice."""
        tasks = sorted(found)
        if not tasks:
            return cls(z, tasks, z.new_zeros(0, z.numel()))
        dtype = torch.promote_types(z.dtype, torch.float32)
        if len(tasks) == 1:
            return cls(z, tasks, found.pop(tasks[0]).reshape(1, -1).to(dtype))
        values = torch.empty(len(tasks), z.numel(), dtype=dtype, device=z.device)
        for row, task in zip(values, tasks, strict=True):
            row.copy_(found.pop(task).flatten())
        return cls(z, tasks, values)

    def gramian(self) -> Tensor:
        """Return the inner products ``[k, k]``, in float64 on the CPU."""
        return gramian_of(self.values)

    def rows(self, tasks: slice = EVERY) -> Tensor:
        """Return the gradients ``[k, numel]``, in float32 at least; those of some of the tasks, if they are named."""
        return self.values[tasks]

    def combined(self, factors: Sequence[float]) -> Tensor:
        """Return what z gets, of its shape and dtype, from a factor for each task of the step ``[K]``."""
        own = [factors[task] for task in self.tasks]
        total = self.values * own[0] if len(own) == 1 else tensor_of(own, self.values) @ self.values
        return total.reshape(self.z.shape).to(self.z.dtype)

    def at_layers(self, factors: Sequence[float]) -> Given:  # noqa: ARG002 - it knows of no layer
        """Return nothing."""
        return [], []


class Columns(NamedTuple):
    """A linear layer, and whose its outputs are.

    Attributes:
        layer: The layer.
        owners: Tasks, each with its first output and the number of those that follow on one another.
    """

    layer: LinearNode
    owners: Sequence[tuple[int, int, int]]

    @classmethod
    def of(cls, unit: Unit, node: Node | None, uses: Mapping[Node, int]) -> Columns | None:
        """Recognise the linear layer of a unit of the losses; None where the operation is another.

        Args:
            unit: The losses, which depend on the features by way of the operation.
            node: The operation.
            uses: How often each operation that the unit reaches is read.
        """
        layer = LinearNode.of(node)
        return None if layer is None or not layer.is_alone(uses) else cls.at(unit, layer)

    @classmethod
    def at(cls, unit: Unit, layer: LinearNode) -> Columns | None:
        """Say whose the outputs of a unit's layer are; None where the layer is not that of its bank."""
        if unit.bank is None:
            return cls(layer, [(unit.tasks[0], 0, layer.weight.shape[0])])
        if edge_of(unit.bank.outputs) != (layer.node, 0):
            return None
        return cls(
            layer, [(task, start, unit.bank.width) for task, start in zip(unit.tasks, unit.bank.starts, strict=True)]
        )


class FactoredRows:
    """Gradients that came through linear layers which read z: G_i W_i, kept as G ``[B, C]`` and W ``[C, D]``.

    Those of the layers' own parameters, and all combinations, are one matrix product for all tasks together.

    Args:
        z: The features ``[B, D]``.
        readers: The layers that read them, and what comes back to the outputs of each: zeros to those of no task.
    """

    makes_rows = True

    def __init__(self, z: Tensor, readers: Sequence[tuple[Columns, Tensor]]) -> None:
        self.z = z.detach()
        self.layers = [columns.layer for columns, _ in readers]
        self.sizes = [back.shape[1] for _, back in readers]  # outputs of each layer
        self.back = _joined([back for _, back in readers], 1)  # G
        self.weights = _joined([layer.transposed.t() for layer in self.layers], 0)  # W
        self.owners = _side_by_side(readers)
        self.tasks = sorted({task for task, *_ in self.owners})
        width = self.owners[0][2]
        # All tasks have as many outputs, one beside the other, in order: what is asked for is then quicker to lay out.
        in_order = [(task, place * width, width) for place, task in enumerate(self.tasks)]
        fits = self.owners == in_order and len(in_order) * width == self.weights.shape[0]
        self.width = width if fits else None
        # What was scaled last, and by which factors: heads and features often get the same.
        self.last: tuple[Sequence[float], Tensor] = ([], self.back)

    @cached_property
    def columns(self) -> np.ndarray:
        """The task of each output ``[C]``; -1 for none."""
        columns = np.full(len(self.weights), -1)
        for task, first, width in self.owners:
            columns[first : first + width] = task
        return columns

    def gramian(self) -> Tensor:
        """Return the inner products ``[k, k]``, in float64 on the CPU."""
        (n_rows, n_features), n_outputs = self.z.shape, self.weights.shape[0]
        if n_outputs * (n_rows + n_features) > n_rows * n_features:
            at_once = some_within(len(self.tasks) * n_features * self.back.element_size())
            parts = [gramian_of(self._of(EVERY, back)) for back in self.back.split(at_once)]
            return torch.stack(parts).sum(0)
        # tr((G_i W_i)' G_j W_j) = sum over outputs of (G_i' G_j) * (W_i W_j'): no gradient is written down.
        back, weights = self.back.double(), self.weights.double()
        if back.is_cpu and n_outputs * (n_rows + n_features) <= _SMALL:  # NumPy takes less to start a product
            products = (back.numpy().T @ back.numpy()) * (weights.numpy() @ weights.numpy().T)  # [C, C]
        else:
            products = ((back.t() @ back) * (weights @ weights.t())).cpu().numpy()
        if self.width == 1:
            return torch.from_numpy(products)
        if self.width is None:
            chosen = np.equal.outer(self.tasks, self.columns).astype(np.float64)  # [k, C]
        else:
            chosen = _blocks(len(self.tasks), self.width)
        return torch.from_numpy(chosen @ products @ chosen.T)

    def rows(self, tasks: slice = EVERY) -> Tensor:
        """Return the gradients ``[k, numel]``; those of some of the tasks, if they are named."""
        return self._of(tasks, self.back)

    def _of(self, tasks: slice, back: Tensor) -> Tensor:
        """Return the gradients of some tasks at some rows of z, from what came back there ``[b, C]``."""
        if self.width is not None:
            back = back.view(-1, len(self.tasks), self.width).transpose(0, 1)  # [k, b, C / k]
            weights = self.weights.view(len(self.tasks), self.width, -1)  # [k, C / k, D]
            if tasks != EVERY:
                back, weights = back[tasks], weights[tasks]
            return (back * weights if self.width == 1 else torch.bmm(back, weights)).flatten(1)
        own = [np.flatnonzero(self.columns == task) for task in self.tasks[tasks]]
        return torch.stack([(back[:, columns] @ self.weights[columns]).flatten() for columns in own])

    def combined(self, factors: Sequence[float]) -> Tensor:
        """Return what z gets, of its shape and dtype, from a factor for each task of the step ``[K]``."""
        return self._scaled(factors) @ self.weights

    def at_layers(self, factors: Sequence[float]) -> Given:
        """Return the parameters of the layers that read z, and what they get, likewise."""
        scaled = self._scaled(factors)
        leaves = [layer.weight for layer in self.layers]
        gradients = self._apart(scaled.t() @ self.z)
        biased = [layer.bias for layer in self.layers]
        if any(bias is not None for bias in biased):
            at_biases = self._apart(scaled.sum(0))
            for bias, gradient in zip(biased, at_biases, strict=True):
                if bias is not None:
                    leaves.append(bias)
                    gradients.append(gradient)
        return leaves, gradients

    def _apart(self, gradient: Tensor) -> list[Tensor]:
        """Return what is for all layers ``[C, *]``, layer by layer."""
        return [gradient] if len(self.sizes) == 1 else list(gradient.split_with_sizes(self.sizes))

    def _scaled(self, factors: Sequence[float]) -> Tensor:
        """Return G with the columns of each task times its factor ``[B, C]``."""
        own = [factors[task] for task in self.tasks]
        if own == self.last[0]:
            return self.last[1]
        if own == [own[0]] * len(own):
            found = self.back if own[0] == 1 else self.back * own[0]
        elif self.width is None:
            found = self.back * tensor_of(np.array([*factors, 0.0])[self.columns], self.back)
        else:
            each = own if self.width == 1 else [factor for factor in own for _ in range(self.width)]
            found = self.back * tensor_of(each, self.back)
        self.last = (own, found)
        return found


@functools.lru_cache(maxsize=16)
def _blocks(count: int, width: int) -> np.ndarray:
    """Return rows of which each has ones at so many columns of its own ``[count, count * width]``."""
    blocks = np.kron(np.eye(count), np.ones(width))
    blocks.setflags(write=False)
    return blocks


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim)


def _side_by_side(readers: Sequence[tuple[Columns, Tensor]]) -> list[tuple[int, int, int]]:
    """Return the owners of the outputs of all layers, side by side: each task, its first output and their number."""
    if len(readers) == 1:
        return list(readers[0][0].owners)
    owners, first = [], 0
    for columns, back in readers:
        owners += [(task, first + start, width) for task, start, width in columns.owners]
        first += back.shape[1]
    return owners
