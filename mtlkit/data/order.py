"""Order: which row comes when, as a pure function of a seed and a position."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlkit.data.sampling import row_weights
from mtlkit.data.splits import derived_seed

__all__ = ["Order"]


class Order:
    """The order in which the rows of a split are drawn, without end.

    Rows come in passes of `n`. Each pass is a new permutation; or, where rows have weights, `n` independent draws, each
    of row i with probability w_i / sum_j w_j, so that a pass may hold a row several times or not at all. A pass depends
    on the seed and its number alone, so whoever draws by the order has to remember the position and nothing else.

    Args:
        n: How many rows there are.
        seed: The same seed gives the same order.
        weights: How often each row is drawn ``[n]``, in proportion; each once a pass by default.

    Raises:
        ValueError: If there is not one weight for each row, or they cannot be drawn by.
    """

    def __init__(self, n: int, *, seed: int, weights: Tensor | None = None) -> None:
        self.n = n
        self.seed = seed
        self.weights = None if weights is None else row_weights(weights)
        if self.weights is not None and len(self.weights) != n:
            raise ValueError(f"weights needs one for each of {n} rows; received {len(self.weights)}")
        self._bounds = None if self.weights is None else self.weights.cumsum(0)
        self._number = -1
        self._pass = torch.empty(0, dtype=torch.int64)

    def another(self, name: str) -> Order:
        """Return an order of the same rows, drawn as often, that depends on the name too."""
        return Order(self.n, seed=derived_seed(self.seed, name), weights=self.weights)

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
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _numbered(self, number: int) -> Tensor:
        if number != self._number:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, number))
            if self._bounds is None:
                self._pass = torch.randperm(self.n, generator=generator)
            else:
                places = torch.rand(self.n, generator=generator, dtype=torch.float64) * self._bounds[-1]
                # A place that was rounded up to the very end is in the last row that can be drawn.
                last = torch.searchsorted(self._bounds, self._bounds[-1])
                self._pass = torch.searchsorted(self._bounds, places, right=True).clamp(max=last)
            self._number = number
        return self._pass
