"""The tasks' gradients at the weights of the last layer, where it is linear: no backward pass through it for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from mtlkit.gradients.feature_rows import FeatureRows, some_within
from mtlkit.gradients.linear import LinearNode
from mtlkit.gradients.slices import Slice

__all__ = ["rows_at_last_layer"]

_ALL = slice(None)
_RELU_BACKWARD = torch.ops.aten.threshold_backward.grad_input
_TANH_BACKWARD = torch.ops.aten.tanh_backward.grad_input


def rows_at_last_layer(
    weight: Tensor, features: Sequence[Tensor], parts: Sequence[FeatureRows], n_tasks: int, uses: Mapping[Node, int]
) -> Tensor | None:
    """Return the gradients ``[K, P]``, where all features are the outputs of the layer, or a ReLU or a tanh of them.

    They may be slices of that, where several batches went through the layer as one. None where they are something else:
    autograd then finds its own way.

    Args:
        weight: The weight of the layer ``[D, D before]``.
        features: The tensors z ``[B, D]``.
        parts: What comes back to each of them.
        n_tasks: K.
        uses: For each operation behind the features, how often it is read.
    """
    n_slices = len({z.grad_fn for z in features})
    sources = [_Source.of(z, weight, uses, n_slices) for z in features]
    found = [source for source in sources if source is not None]
    n_layers = len({source.layer.node for source in found})
    if len(found) < len(sources) or any(source.layer.n_uses(uses) != n_layers for source in found):
        return None  # it is used elsewhere too
    inputs = [source.inputs for source in found]
    if any(not z.dtype == x.dtype == weight.dtype for z, x in zip(features, inputs, strict=True)):
        return None
    if len(found) == 1 and len(parts[0].tasks) == n_tasks <= some_within(features[0].nbytes):
        z, x = features[0].detach(), inputs[0]
        back = found[0].before_activation(parts[0].rows().view(n_tasks, *z.shape), z, over=parts[0].makes_rows)
        return torch.bmm(back.mT, x.expand(n_tasks, *x.shape)).flatten(1)  # of all tasks at once
    rows = weight.new_empty(n_tasks, *weight.shape)
    heard: set[int] = set()
    for source, x, z, part in zip(found, inputs, features, parts, strict=True):
        _add(rows, heard, source, x, z.detach(), part)
    return rows.flatten(1)


class _Source(NamedTuple):
    """Where features come from: the layer, which of its rows they are, and the name of what acts on its outputs."""

    layer: LinearNode
    rows: slice
    activation: str

    @classmethod
    def of(cls, z: Tensor, weight: Tensor, uses: Mapping[Node, int], n_slices: int) -> _Source | None:
        """Recognise the layer that has the weight; None where there is another operation.

        Args:
            z: The features.
            weight: The weight.
            uses: As for :func:`rows_at_last_layer`.
            n_slices: How many operations slice what all features are of, if they are slices.
        """
        is_heard = z._backward_hooks or (z._base is not None and z._base._backward_hooks)  # noqa: SLF001
        if z.ndim != 2 or is_heard:  # noqa: PLR2004 - a hook may change what goes on
            return None
        part = Slice.of(z)
        node, rows = (z.grad_fn, _ALL) if part is None else (part.whole[0], part.rows)
        if node is None or (part is not None and uses[node] != n_slices):
            return None
        activation = ""
        if type(node).__name__ in {"ReluBackward0", "TanhBackward0"}:
            activation = type(node).__name__
            node = node.next_functions[0][0]
            if node is None or uses[node] > 1:
                return None
        layer = LinearNode.of(node)
        return cls(layer, rows, activation) if layer is not None and layer.weight is weight else None

    @property
    def inputs(self) -> Tensor:
        """What went into the layer ``[B, D before]``."""
        inputs = self.layer.inputs
        return inputs if self.rows == _ALL else inputs[self.rows]

    def before_activation(self, back: Tensor, z: Tensor, *, over: bool) -> Tensor:
        """Take gradients ``[k, B, D]`` at the features back to the layer's outputs, written over them if allowed."""
        if not self.activation:
            return back
        into = back if over else torch.empty_like(back)
        if self.activation == "ReluBackward0":
            _RELU_BACKWARD(back, z, 0, grad_input=into)
        else:
            _TANH_BACKWARD(back, z, grad_input=into)
        return into


def _add(rows: Tensor, heard: set[int], source: _Source, x: Tensor, z: Tensor, part: FeatureRows) -> None:
    """Add to the gradients ``[K, D, D before]`` what comes by one tensor of features; those not heard of yet are unset.

    Args:
        rows: The gradients.
        heard: The tasks that have some already.
        source: The layer.
        x: What went into it ``[B, D before]``.
        z: What was made of its outputs ``[B, D]``.
        part: What comes back.
    """
    at_once = some_within(z.nbytes)
    for first in range(0, len(part.tasks), at_once):
        tasks = part.tasks[first : first + at_once]
        back = part.rows(slice(first, first + at_once)).view(len(tasks), *z.shape)
        back = source.before_activation(back, z, over=part.makes_rows)
        for task, each in zip(tasks, back, strict=True):  # [B, D]
            if task in heard:
                rows[task].addmm_(each.t(), x)
            else:
                torch.mm(each.t(), x, out=rows[task])
        heard.update(tasks)
