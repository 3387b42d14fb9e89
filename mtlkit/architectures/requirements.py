"""What an architecture requires of the encoders that it is built on; what one lacks is a ValueError that says so."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlkit.encoders.base import Encoder
from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.tensors import Tensors, told

__all__ = ["require_parameters", "stage_shapes", "tensor_features"]

_ROWS = 2


def require_parameters(encoder: Encoder, architecture: str) -> None:
    """Require of an encoder that it has something to train.

    Raises:
        ValueError: If it has not.
    """
    if next(encoder.parameters(), None) is None:
        raise ValueError(
            f"{architecture} shares what an encoder learns, and {type(encoder).__name__} has no parameters; "
            "hard-sharing takes it as it is"
        )


def tensor_features(encoder: Encoder, architecture: str) -> FeatureSpec:
    """Return the features of an encoder that learns, and makes one tensor.

    Raises:
        ValueError: If it has no parameters, or makes several tensors, by name.
    """
    require_parameters(encoder, architecture)
    if encoder.features.parts:
        raise ValueError(
            f"{architecture} takes features that are one tensor, and {type(encoder).__name__} makes several: "
            f"{encoder.features}"
        )
    return encoder.features


def stage_shapes(encoder: Encoder, inputs: InputSpec, architecture: str) -> list[tuple[int, ...]]:
    """Return the shape of a row after each stage of an encoder that learns, found from a few blank rows.

    Args:
        encoder: The encoder; its state is left as it is.
        inputs: What its rows are.
        architecture: Who asks, for the error.

    Raises:
        ValueError: If the encoder has no parameters or no stages, or a stage does not make one tensor of the rows.
    """
    tensor_features(encoder, architecture)
    name = type(encoder).__name__
    count = len(encoder.stages())
    if not count:
        raise ValueError(f"{architecture} acts between the stages of an encoder, and {name} has none")
    rows = _blank(inputs)
    shapes: list[tuple[int, ...]] = []
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        with torch.no_grad():
            context = encoder.context(rows)
            hidden = rows
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


def _blank(inputs: InputSpec) -> Tensors:
    """Return rows of zeros, or of the last of their categories: the first may well mean that nothing is there."""
    if inputs.parts:
        return {name: part for name, spec in inputs.parts.items() if isinstance(part := _blank(spec), Tensor)}
    if inputs.categories:
        return (torch.tensor(inputs.categories) - 1).expand(_ROWS, *inputs.shape)
    return torch.zeros(_ROWS, *inputs.shape)
