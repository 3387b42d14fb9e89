"""Order: which row comes when, as a pure function of a seed and a position."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlkit.data.splits import derived_seed

__all__ = ["Order"]


class Order:
    """The order in which the rows of a split are drawn, without end.

    Rows come in passes of `n`. Each pass is a new permutation, which depends on the seed and the number of the pass
    alone, so whoever draws by it has to remember the position and nothing else.

    Args:
        n: How many rows there are.
        seed: The same seed gives the same order.
    """

    def __init__(self, n: int, *, seed: int) -> None:
        self.n = n
        self.seed = seed
        self._number = -1
        self._pass = torch.empty(0, dtype=torch.int64)

    def rows(self, position: int, count: int) -> Tensor:
        """Return the indices ``[count]`` of the rows from `position` on, counted from the beginning of the first pass.

        They may reach over the end of a pass into the next.
        """
        parts: list[Tensor] = []
        end = position + count
        while position < end:
            number, offset = divmod(position, self.n)
            part = self._numbered(number)[offset : offset + end - position]
            parts.append(part)
            position += len(part)
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _numbered(self, number: int) -> Tensor:
        if number != self._number:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, number))
            self._pass = torch.randperm(self.n, generator=generator)
            self._number = number
        return self._pass
