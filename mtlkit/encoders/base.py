"""What every encoder is: a module that turns input rows into features that all tasks share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mtlkit.specs import FeatureSpec

__all__ = ["Encoder", "last_weighted_layer"]


def last_weighted_layer(module: nn.Module) -> Any:
    """Return the last layer of `module`, in order of registration, that has a weight matrix or kernel.

    Raises:
        ValueError: If no layer has one.
    """
    for layer in reversed(list(module.modules())):
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1:
            return layer
    raise ValueError(f"{type(module).__name__} has no layer with a weight matrix or kernel")


class Encoder(nn.Module):
    """The base class of encoders.

    A subclass takes the :class:`~mtlkit.specs.InputSpec` of its rows as ``inputs``, then its options, keyword-only,
    typed and with defaults: they are what a configuration may set. It sets :attr:`features` truthfully.

    Attributes:
        features: The shape of one row of what :meth:`forward` returns.
    """

    features: FeatureSpec

    def forward(self, inputs: Tensor) -> Tensor:
        """Turn a batch of rows ``[B, *inputs.shape]`` into features ``[B, *features.shape]``."""
        raise NotImplementedError

    def last_layer(self) -> nn.Module:
        """Return the layer whose weights stand last before the features; GradNorm measures there.

        The default is the layer registered last that has a weight of two dimensions or more. Override it
        where the order of registration is not the order of computation.
        """
        layer: nn.Module = last_weighted_layer(self)
        return layer
