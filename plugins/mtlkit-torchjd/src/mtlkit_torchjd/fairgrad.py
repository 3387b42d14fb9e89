"""FairGrad: the strategy ``torchjd-fairgrad``."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torch import Tensor

from mtlkit_torchjd.base import NotNegative, TorchJDStrategy, aggregation, extra, present_in

__all__ = ["FairGrad"]


class FairGrad(TorchJDStrategy):
    """TorchJD's FairGrad: the tasks bargain for the direction.

    Ban, Ji, ICML 2024, equation 4. The equations are solved by SciPy's least squares: needs the extra ``fairgrad``.

    Args:
        n_tasks: The number of tasks.
        alpha: The fairness; 0 for the mean gradient, 1 for the direction of Nash-MTL.
        max_iters: The most evaluations of the equations; None for 100 a task.
    """

    def __init__(
        self, n_tasks: int, *, alpha: NotNegative = 2.0, max_iters: Annotated[int, Field(ge=1, le=10_000)] | None = None
    ) -> None:
        super().__init__(n_tasks)
        self.alpha, self.max_iters = alpha, max_iters
        with extra("fairgrad"):
            self.weighting(present_in(None, n_tasks))

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        with np.errstate(all="ignore"):  # least squares tries points where the equations are out of range
            return super().ask(gramian, present)

    def weighting(self, present: Tensor) -> Any:
        return aggregation().FairGradWeighting(self.alpha, self.max_iters)
