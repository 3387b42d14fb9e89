"""What the strategies of the Gram matrix that can prefer some tasks to others have in common: no strategy itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import GramianStrategy, Weighting

__all__ = ["Preferences", "PreferringStrategy"]

Preferences = Sequence[Annotated[float, Field(gt=0)]] | None


class PreferringStrategy(GramianStrategy):
    """A strategy whose equation holds a preference: :meth:`prefer` is all there is to it.

    Args:
        n_tasks: The number of tasks.
        preference: One positive number for each task; 1/K for all by default.

    Raises:
        ValueError: If there is not one preference for each task.
    """

    preference: Tensor  # [T]

    def __init__(self, n_tasks: int, *, preference: Preferences = None) -> None:
        super().__init__(n_tasks)
        if preference is not None and len(preference) != n_tasks:
            raise ValueError(f"preference needs one number for each of the {n_tasks} tasks; received {len(preference)}")
        self.given = preference is not None
        self.register_buffer("preference", torch.tensor(preference or [1.0] * n_tasks, dtype=torch.float64))

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        """Weigh the losses of one step, as :meth:`prefer` says; the tasks absent take no part."""
        chosen: list[float] = (self.preference if tasks is None else self.preference[tasks]).tolist()
        preference = chosen if self.given else [each / len(chosen) for each in chosen]
        weights = self.prefer(self._given(gramian), preference)
        return Weighting(weights, head_weights=torch.ones_like(weights) if self.plain_heads else None)

    def prefer(self, gramian: Tensor, preference: list[float]) -> Tensor:
        """Return the weights ``[K]`` for a Gram matrix ``[K, K]`` in float64 and a preference ``[K]``."""
        raise NotImplementedError
