"""Every call of autograd, in the few forms that are needed, and gradients laid out as rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["accumulate", "differentiate", "filled", "seed", "stacked"]


def differentiate(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], gradients: Sequence[Tensor] | None = None
) -> Sequence[Tensor | None]:
    """Differentiate, None where an input is not reached; the graph is kept.

    Tasks may share a part of it beyond the features, and it goes when the losses do anyway.
    """
    return torch.autograd.grad(outputs, inputs, gradients, retain_graph=True, allow_unused=True)


def accumulate(pairs: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Tensor] | None = None) -> None:
    """Backpropagate gradients from where they are given; into leaves by autograd, so that hooks on them hear of it."""
    if pairs and inputs != []:
        torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs], inputs=inputs)


def seed(loss: Tensor, loss_scale: float) -> list[Tensor] | None:
    """Return what a loss is differentiated with: the scale, or None for 1."""
    return None if loss_scale == 1 else [torch.full_like(loss, loss_scale)]


def filled(gradients: Sequence[Tensor | None], places: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients with zeros where there is none."""
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, places, strict=True)]


def stacked(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return gradients given in parts as rows ``[K, P]``, in float32 at least."""
    rows = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in gradients])
    return rows.float() if rows.dtype in {torch.float16, torch.bfloat16} else rows
