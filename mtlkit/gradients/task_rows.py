"""The tasks' gradients as rows, of which the one taken last stands apart.

While a task's pass runs, its gradient is held in parts, beside the rows of the tasks before it. If all rows were one
tensor from the start, the last of them would be there unused meanwhile: a gradient more than there are tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlkit.strategies.numbers import tensor_of
from mtlkit.strategies.rows import gramian_of

__all__ = ["TaskRows"]


class TaskRows:
    """Rows of K tasks ``[K, P]``.

    Args:
        n_tasks: K.
        size: P.
        dtype: Their dtype.
        device: Where they are.
        at_once: Whether all are written down in one pass, into :attr:`body`.

    Attributes:
        body: The rows ``[K, P]``; where they are taken one by one, all but the last ``[K - 1, P]``.
    """

    def __init__(self, n_tasks: int, size: int, dtype: torch.dtype, device: torch.device, *, at_once: bool) -> None:
        self.height = n_tasks if at_once else n_tasks - 1  # of the body
        self.body = torch.empty(self.height, size, dtype=dtype, device=device)
        self.last: Tensor | None = None  # [P]
        self.order = list(range(n_tasks)) if at_once else []  # the task of each row, that of the last at the end

    def take(self, task: int, parts: Sequence[Tensor]) -> None:
        """Copy the gradient of a task, given in parts, to a row."""
        place = len(self.order)
        self.order.append(task)
        if place < self.height:
            torch.cat(tuple(parts), out=self.body[place])
        else:
            self.last = torch.cat(tuple(parts)).to(self.body)

    def gramian(self) -> Tensor:
        """Return the inner products ``[K, K]``, in float64 on the CPU, task by task."""
        products = gramian_of(self.body, self.last)
        if self.last is None or self.order == sorted(self.order):
            return products
        places = torch.tensor(self.order).argsort()
        return products[places[:, None], places]

    def dense(self) -> Tensor:
        """Return them as one tensor ``[K, P]``, task by task."""
        if self.last is None:
            return self.body
        return torch.cat((self.body, self.last[None]))[torch.tensor(self.order).argsort().to(self.body.device)]

    def combined(self, factors: Sequence[float]) -> Tensor:
        """Return their sum, each times its factor ``[P]``."""
        if self.last is None:
            return tensor_of(factors, self.body) @ self.body
        if not self.height:
            return self.last * factors[0]
        own = tensor_of([factors[task] for task in self.order[: self.height]], self.body)
        return torch.addmv(self.last, self.body.t(), own, beta=factors[self.order[-1]])
