"""The tasks' gradients at the weights of the last layer, where it is linear: no backward pass through it for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from mtlkit.gradients.feature_rows import FeatureRows, some_within
from mtlkit.gradients.linear import LinearNode

__all__ = ["rows_at_last_layer"]


def rows_at_last_layer(
    weight: Tensor, features: Sequence[Tensor], parts: Sequence[FeatureRows], n_tasks: int, uses: Mapping[Node, int]
) -> Tensor | None:
    """Return the gradients ``[K, P]``, where all features are the outputs of the layer, or a ReLU or a tanh of them.

    None where they are something else: autograd then finds its own way.

    Args:
        weight: The weight of the layer ``[D, D before]``.
        features: The tensors z ``[B, D]``.
        parts: What comes back to each of them.
        n_tasks: K.
        uses: For each operation behind the features, how often it is read.
    """
    layers = [_layer_of(z, weight, uses) for z in features]
    for layer, z in zip(layers, features, strict=True):
        if layer is None or layer.n_uses(uses) != len(features) or not z.dtype == layer.inputs.dtype == weight.dtype:
            return None  # it is used elsewhere too
    rows = weight.new_empty(n_tasks, *weight.shape)
    heard: set[int] = set()
    for layer, z, part in zip(layers, features, parts, strict=True):
        if layer is not None:
            _add(rows, heard, layer.inputs, z, part)
    return rows.flatten(1)


def _add(rows: Tensor, heard: set[int], inputs: Tensor, z: Tensor, part: FeatureRows) -> None:
    """Add to the gradients ``[K, D, D before]`` what comes by one tensor of features; those not heard of yet are unset.

    Args:
        rows: The gradients.
        heard: The tasks that have some already.
        inputs: What went into the layer ``[B, D before]``.
        z: What it made of them.
        part: What comes back.
    """
    at_once = some_within(z.nbytes)
    for first in range(0, len(part.tasks), at_once):
        tasks = part.tasks[first : first + at_once]
        back = _before_activation(part.rows(slice(first, first + at_once)).view(len(tasks), *z.shape), z)  # [k, B, D]
        for task, each in zip(tasks, back, strict=True):
            if task in heard:
                rows[task].addmm_(each.t(), inputs)
            else:
                torch.mm(each.t(), inputs, out=rows[task])
        heard.update(tasks)


def _layer_of(z: Tensor, weight: Tensor, uses: Mapping[Node, int]) -> LinearNode | None:
    node = z.grad_fn
    if z.ndim != 2 or node is None or z._backward_hooks:  # noqa: PLR2004, SLF001 - a hook may change what goes on
        return None
    if type(node).__name__ in {"ReluBackward0", "TanhBackward0"}:
        node = node.next_functions[0][0]
        if node is None or uses[node] > 1:
            return None
    layer = LinearNode.of(node)
    return layer if layer is not None and layer.weight is weight else None


def _before_activation(back: Tensor, z: Tensor) -> Tensor:
    """Take gradients ``[k, B, D]`` at the features back to the outputs of the layer."""
    name, outputs = type(z.grad_fn).__name__, z.detach().expand_as(back)
    if name == "ReluBackward0":
        back = torch.ops.aten.threshold_backward(back, outputs, 0)
    elif name == "TanhBackward0":
        back = torch.ops.aten.tanh_backward(back, outputs)
    return back
