"""GradDrop: the strategy ``torchjd-graddrop``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

import mtlkit
from mtlkit_torchjd.base import Seed, aggregation, of_present, per_task, present_in
from mtlkit_torchjd.draws import Draws

__all__ = ["GradDrop"]


class GradDrop(mtlkit.Strategy):
    """TorchJD's GradDrop: where the tasks' gradients differ in sign, one sign is chosen at random.

    Chen, Ngiam, Huang et al., NeurIPS 2020, algorithm 1. At all shared parameters, as TorchJD does it, where the paper
    and mtlkit's ``graddrop`` choose at the features. The heads get their own gradients. TorchJD's option `f` is a
    function, which a configuration cannot hold: here it is the identity, its default.

    Args:
        n_tasks: The number of tasks.
        leak: How much of each task's gradient is never dropped; none by default.
        seed: Seeds the choices; None takes the seed that torch was seeded with, in a run the run's own.
    """

    needs: ClassVar[mtlkit.Needs] = mtlkit.Needs.JACOBIAN
    over: ClassVar[mtlkit.Over | None] = mtlkit.Over.PARAMETERS

    def __init__(
        self,
        n_tasks: int,
        *,
        leak: Sequence[Annotated[float, Field(ge=0, le=1)]] | None = None,
        seed: Seed | None = None,
    ) -> None:
        super().__init__(n_tasks)
        self.leak = per_task("leak", leak, n_tasks)
        self.draws = Draws(seed)

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> mtlkit.Weighting:
        leak = of_present(self.leak, present_in(tasks, self.n_tasks))
        leak = None if leak is None else leak.to(jacobian)
        with self.draws.lent(jacobian.device, advance=self.training):
            direction = aggregation().GradDrop(leak=leak)(jacobian)
        return mtlkit.Weighting(torch.ones_like(losses), direction=direction)
