"""The ``graddrop`` strategy: where the tasks' gradients differ in sign, one sign is chosen at random.

>>> strategy = GradDrop(2, seed=0)
>>> strategy.combine(torch.ones(2).double(), torch.tensor([[1.0, 2.0], [3.0, 0.0]])).direction.tolist()
[4.0, 2.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.strategies.draws import Draws

__all__ = ["GradDrop"]


class GradDrop(Strategy):
    """Gradient sign dropout (Chen, Ngiam, Huang et al., NeurIPS 2020, algorithm 1).

    At each entry of the features, for each example, with U uniform on [0, 1],

        P = 0.5 (1 + sum_i g_i / sum_i |g_i|)
        M_i = [P > U] [g_i > 0] + [P < U] [g_i < 0]
        d = sum_i (l_i + (1 - l_i) M_i) g_i

    so that there the gradients that are kept agree in sign; where all agree, nothing is dropped. The heads get their
    own gradients.

    Departures from the paper: where the gradients are those of single examples, its algorithm looks at the signs of
    their products with the features' signs, summed over the batch; here each example's entry is judged by the
    gradients' own signs. Its monotonic function of P is the identity here.

    Args:
        n_tasks: The number of tasks.
        leak: l, how much of each task's gradient is never dropped; none by default.
        seed: Seeds the choices; None takes the seed that torch was seeded with, in a run the run's own.

    Raises:
        ValueError: If there is not one leak for each task.
    """

    needs: ClassVar[Needs] = Needs.JACOBIAN
    over: ClassVar[Over | None] = Over.FEATURES

    leak: Tensor  # [T]

    def __init__(
        self,
        n_tasks: int,
        *,
        leak: Sequence[Annotated[float, Field(ge=0, le=1)]] | None = None,
        seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None,
    ) -> None:
        super().__init__(n_tasks)
        if leak is not None and len(leak) != n_tasks:
            raise ValueError(f"leak needs one number for each of the {n_tasks} tasks; received {len(leak)}")
        self.register_buffer("leak", torch.tensor(leak or [0.0] * n_tasks, dtype=torch.float64))
        self.draws = Draws(seed)

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> Weighting:
        generator = self.draws.next(advance=self.training)
        total = jacobian.abs().sum(0)  # [P]
        positive = 0.5 * (1 + jacobian.sum(0) / torch.where(total > 0, total, 1))
        # In float64 to the end: a number rounded up to 1 would drop what is sure to be kept.
        drawn = torch.rand(jacobian.shape[1], generator=generator, dtype=torch.float64).to(jacobian.device)
        kept = torch.where(positive > drawn, jacobian > 0, jacobian < 0)  # [K, P]
        leak = self.leak[self._present(tasks, losses)].to(jacobian)[:, None]
        direction = (torch.where(kept, 1.0, leak) * jacobian).sum(0)
        return Weighting(torch.ones_like(losses), direction=direction)
