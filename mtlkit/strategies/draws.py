"""Draws: a random generator whose whole state is two integers, in buffers, so that a checkpoint holds it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Draws"]

_MULTIPLIER = 6364136223846793005  # of Knuth's MMIX generator: it parts the seeds of neighbouring steps


class Draws(nn.Module):
    """A generator for each step, seeded by a seed and the number of the step; torch's own is left alone.

    Args:
        seed: The seed; None takes the one that torch was seeded with.
    """

    seed: Tensor  # []
    count: Tensor  # [] how many steps were drawn for

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        number = torch.initial_seed() % 2**63 if seed is None else seed
        self.register_buffer("seed", torch.tensor(number, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def next(self, *, advance: bool) -> torch.Generator:
        """Return the generator of this step, on the CPU; the same one again if the last call did not advance."""
        number = (int(self.seed.item()) + int(self.count.item()) * _MULTIPLIER) % 2**63
        if advance:
            self.skip()
        return torch.Generator().manual_seed(number)

    def skip(self) -> None:
        """Count a step for which nothing has to be drawn."""
        self.count.add_(1)
