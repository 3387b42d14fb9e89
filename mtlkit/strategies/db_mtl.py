"""The ``db-mtl`` strategy: losses balanced by their logarithm, gradients by their norm.

>>> DBMTL(2, beta=0.0).combine(torch.tensor([1.0, 2.0]).double(), torch.eye(2)).direction.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.strategies.rows import Rows

__all__ = ["DBMTL"]

_SMALLEST = 1e-8  # what a loss counts as at least: the gradient of its logarithm holds its inverse


class DBMTL(Strategy):
    """Dual-balancing multi-task learning (Lin, Jiang, Ye et al., 2023, algorithm 1).

    With m_i an exponential moving average of the gradient of log L_i, 0 at the start,

        m_i <- beta m_i + (1 - beta) g_i / L_i,  d = max_j ||m_j|| sum_i m_i / ||m_i||

    so that the first steps are short: after k of them the averages have grown to 1 - beta^k of what they average. The
    heads get the gradients of the logarithms. Scaling a loss changes nothing. The losses must be positive; one below
    1e-8 counts as that, where the paper adds as much to each.

    Memory: the averages, as much as the gradients of all tasks.

    Args:
        n_tasks: The number of tasks.
        beta: How much of the average stays at each step.
    """

    needs: ClassVar[Needs] = Needs.JACOBIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def __init__(self, n_tasks: int, *, beta: Annotated[float, Field(ge=0, lt=1)] = 0.9) -> None:
        super().__init__(n_tasks)
        self.beta = beta
        self.averages = Rows(n_tasks)

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> Weighting:
        present = self._present(tasks, losses)
        inverse = 1 / losses.clamp(min=_SMALLEST)  # [K]
        kept = self.averages.like(jacobian)
        rows = self.beta * kept[present] + (1 - self.beta) * inverse.to(jacobian)[:, None] * jacobian  # [K, P]
        if self.training:
            self.averages.keep(tasks, rows)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)  # squares are soon out of float32
        scales = torch.where(norms > 0, norms.amax() / norms, 0)
        return Weighting(inverse, direction=scales.to(rows) @ rows)
