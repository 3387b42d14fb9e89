"""An encoder as a chain of stages, for architectures that act between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtlkit.encoders.base import Encoder
from mtlkit.specs import InputSpec
from mtlkit.tensors import Tensors, told

__all__ = ["passed", "stage_shapes"]

_ROWS = 2


def stage_shapes(encoder: Encoder, inputs: InputSpec, architecture: str) -> list[tuple[int, ...]]:
    """Return the shape of a row after each stage of an encoder, learned from a few blank rows.

    Args:
        encoder: The encoder; its state is left as it is.
        inputs: What its rows are.
        architecture: Who asks, for the error.

    Raises:
        ValueError: If the encoder has no stages, or a stage does not make one tensor of the rows.
    """
    name = type(encoder).__name__
    count = len(encoder.stages())
    if not count:
        raise ValueError(f"{architecture} acts between the stages of an encoder, and {name} has none")
    rows, shapes = _blank(inputs), []
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        with torch.no_grad():
            context, hidden = encoder.context(rows), rows
            for index in range(count):
                hidden = encoder.through(index, hidden, context)
                if not isinstance(hidden, Tensor) or len(hidden) != _ROWS:
                    raise ValueError(
                        f"{architecture} takes one tensor [B, *] from each stage of an encoder, and stage {index} of "
                        f"{name} makes {told(hidden)} of {_ROWS} rows"
                    )
                shapes.append(tuple(hidden.shape[1:]))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return shapes


def passed(encoder: Encoder, stages: range, hidden: Any, context: Any) -> Any:
    """Return what some of the stages, one after another, make of what the one before them made."""
    for index in stages:
        hidden = encoder.through(index, hidden, context)
    return hidden


def _blank(inputs: InputSpec) -> Tensors:
    """Return rows of zeros, or of the last of their categories: the first may well mean that nothing is there."""
    if inputs.parts:
        return {name: part for name, spec in inputs.parts.items() if isinstance(part := _blank(spec), Tensor)}
    if inputs.categories:
        return (torch.tensor(inputs.categories) - 1).expand(_ROWS, *inputs.shape)
    return torch.zeros(_ROWS, *inputs.shape)
