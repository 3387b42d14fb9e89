"""The graph of a step, differentiated as far as a strategy asks and no further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from mtlkit.gradients.cut import Cut
from mtlkit.gradients.cut_by_rows import CutByRows
from mtlkit.gradients.losses import StepLosses
from mtlkit.gradients.places import Features, Shared, features_of, last_weights, parameters_of, trained
from mtlkit.gradients.whole import Whole
from mtlkit.strategies.base import Over, Strategy

__all__ = ["Graph", "differentiated"]


class Graph(Protocol):
    """The graph of a step, differentiated as far as a strategy asks."""

    def gramian(self) -> Tensor:
        """Return the inner products of the tasks' gradients ``[K, K]``, in float64 on the CPU."""

    def jacobian(self) -> Tensor:
        """Return the tasks' gradients ``[K, P]``."""

    def backward(self, factors: Sequence[float], head_factors: Sequence[float], direction: Tensor | None) -> None:
        """Add to ``.grad`` what is made of the tasks' gradients.

        Args:
            factors: The factor of each task ``[K]`` for what is shared.
            head_factors: Its factor for what is its head's.
            direction: What the place measured gets ``[P]``, in place of the weighted sum.
        """


def differentiated(
    losses: StepLosses,
    over: Over | None,
    features: Features | None,
    shared: Shared | None,
    strategy: Strategy,
    loss_scale: float,
) -> Graph | None:
    """Differentiate the losses as far as the place asks; None where no gradients are asked for."""
    if over is None:
        return None
    found = features_of(features, strategy) if over is not Over.PARAMETERS else trained(features)
    if over is Over.FEATURES:
        return _cut(losses, found, None, loss_scale)
    if shared is None:
        raise ValueError("this strategy compares gradients at shared weights: pass the encoder as shared=")
    parameters = last_weights(shared) if over is Over.LAST_SHARED else parameters_of(shared)
    if not parameters:
        raise ValueError("no shared parameter requires a gradient, and this strategy compares gradients there")
    if over is Over.LAST_SHARED:
        return _cut(losses, found, parameters, loss_scale)
    return Whole(losses, parameters, found, loss_scale)


def _cut(losses: StepLosses, features: Sequence[Tensor], weights: Sequence[Tensor] | None, loss_scale: float) -> Graph:
    by_rows = CutByRows.of(losses, features, weights, loss_scale) if len(features) > 1 else None
    return by_rows or Cut(losses, features, weights, loss_scale)
