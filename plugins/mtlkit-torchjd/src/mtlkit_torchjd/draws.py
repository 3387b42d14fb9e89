"""Draws: TorchJD draws from torch's global generators; here they are lent to it, seeded, for the length of a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Draws"]

_STRIDE = 0x9E3779B97F4A7C15  # odd, and without a pattern in its bits: it parts the seeds of neighbouring steps


class Draws(nn.Module):
    """The seed of each step, by a seed and the number of the step, both in buffers, so that a checkpoint holds them.

    In the first step it is the seed itself: TorchJD then draws what it does after ``torch.manual_seed(seed)``.

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

    @contextmanager
    def lent(self, device: torch.device | None = None, *, advance: bool) -> Iterator[None]:
        """Seed the global generators of the CPU and of a CUDA device for the step; then put them back as they were.

        Args:
            device: Where the numbers are drawn; None for the CPU.
            advance: Whether the next call is for the next step.
        """
        number = (int(self.seed) + int(self.count) * _STRIDE) % 2**63
        if advance:
            self.count += 1
        devices = [device] if device is not None and device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(number)  # and not torch.manual_seed, which seeds every device there is
            for each in devices:
                with torch.cuda.device(each):
                    torch.cuda.manual_seed(number)
            yield
