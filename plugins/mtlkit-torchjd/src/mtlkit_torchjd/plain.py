"""Plain: the strategies that look at no gradient, ``torchjd-mean``, ``-sum``, ``-constant`` and ``-random``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import mtlkit
from mtlkit_torchjd.base import Seed, aggregation, per_task, present_in
from mtlkit_torchjd.draws import Draws

__all__ = ["Constant", "Mean", "Random", "Sum"]


class _Plain(mtlkit.Strategy):
    """A strategy whose weights depend on no more than which tasks are present: a step costs one plain backward."""

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> mtlkit.Weighting:
        present, order = present_in(tasks, self.n_tasks).sort()
        weights = torch.empty_like(losses)
        weights[order.to(losses.device)] = self.ask(present).to(losses)
        return mtlkit.Weighting(weights)

    def ask(self, present: Tensor) -> Tensor:
        """Return the weights of the tasks present ``[K]``, whose numbers ascend."""
        rows = torch.empty(len(present), 0, dtype=torch.float64)  # TorchJD looks at how many there are, and no further
        answer: Tensor = self.weighting(present)(rows)
        return answer

    def weighting(self, present: Tensor) -> Any:
        """Return TorchJD's weighting for the tasks present ``[K]``."""
        raise NotImplementedError


class Mean(_Plain):
    """TorchJD's Mean: each task weighs 1/K, with K tasks present.

    Args:
        n_tasks: The number of tasks.
    """

    def weighting(self, present: Tensor) -> Any:
        return aggregation().MeanWeighting()


class Sum(_Plain):
    """TorchJD's Sum: each task weighs 1, as with mtlkit's fixed.

    Args:
        n_tasks: The number of tasks.
    """

    def weighting(self, present: Tensor) -> Any:
        return aggregation().SumWeighting()


class Constant(_Plain):
    """TorchJD's Constant: the weights that it is given, as with mtlkit's fixed.

    Args:
        n_tasks: The number of tasks.
        weights: One number for each task; 1 by default.
    """

    def __init__(self, n_tasks: int, *, weights: Sequence[float] | None = None) -> None:
        super().__init__(n_tasks)
        self.given = per_task("weights", [1.0] * n_tasks if weights is None else weights, n_tasks)

    def weighting(self, present: Tensor) -> Any:
        return aggregation().ConstantWeighting(self.given[present])


class Random(_Plain):
    """TorchJD's Random: weights of sum 1, drawn at each step.

    Lin, Ye, Zhang, Tsang, TMLR 2022, algorithm 2.

    Args:
        n_tasks: The number of tasks.
        seed: Seeds the weights; None takes the seed that torch was seeded with, in a run the run's own.
    """

    def __init__(self, n_tasks: int, *, seed: Seed | None = None) -> None:
        super().__init__(n_tasks)
        self.draws = Draws(seed)

    def ask(self, present: Tensor) -> Tensor:
        with self.draws.lent(advance=self.training):
            return super().ask(present)

    def weighting(self, present: Tensor) -> Any:
        return aggregation().RandomWeighting()
