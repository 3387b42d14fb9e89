"""The losses of a bank: alike tasks whose heads are one linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BankLosses", "free_places", "joined"]


class BankLosses(NamedTuple):
    """The losses of tasks whose heads are one linear layer over the features, each with outputs of its own.

    Attributes:
        names: What the tasks are called ``[k]``.
        places: The place of each among all losses of the step, counted from 0 ``[k]``.
        losses: Their losses ``[k]``, each of which depends on the outputs of its own task and on no others.
        outputs: What the layer made ``[B, C]``.
        starts: The first output of each task ``[k]``.
        width: How many outputs each task has, one beside the other.
    """

    names: Sequence[str]
    places: Sequence[int]
    losses: Tensor
    outputs: Tensor
    starts: Sequence[int]
    width: int

    def check(self) -> None:
        """Raise ValueError where the parts do not fit one another."""
        n_tasks = len(self.names)
        if not n_tasks or not len(self.places) == len(self.starts) == n_tasks or self.losses.shape != (n_tasks,):
            raise ValueError(
                f"a bank has one name, place, loss and first output for each of its tasks; received {n_tasks} names, "
                f"{len(self.places)} places, losses of shape {tuple(self.losses.shape)} and {len(self.starts)} starts"
            )
        is_matrix = self.outputs.ndim == 2  # noqa: PLR2004 - [B, C]
        if not (is_matrix and min(self.starts) >= 0 and max(self.starts) + self.width <= self.outputs.shape[1]):
            raise ValueError(
                f"the outputs of a bank are [B, C], with {self.width} for each task from where it starts; received "
                f"outputs of shape {tuple(self.outputs.shape)} and starts {list(self.starts)}"
            )
        if not self.losses.requires_grad:
            raise ValueError(f"the losses of {', '.join(self.names)} depend on nothing that can be trained")


def free_places(n_losses: int, banks: Sequence[BankLosses]) -> list[int]:
    """Return the places among all losses of a step that are left to those in no bank, in order."""
    taken = {place for bank in banks for place in bank.places}
    return [place for place in range(n_losses + len(taken)) if place not in taken]


def joined(single: Tensor | None, places: Sequence[int], banks: Sequence[BankLosses]) -> Tensor:
    """Return all losses of a step in their order ``[K]``, in the graph; `single` take the places that are given."""
    if not banks and single is not None:
        return single
    order = [*places, *(place for bank in banks for place in bank.places)]
    parts = [*([] if single is None else [single]), *(bank.losses for bank in banks)]
    stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
    return stacked if order == sorted(order) else stacked[torch.tensor(order).argsort().to(stacked.device)]
