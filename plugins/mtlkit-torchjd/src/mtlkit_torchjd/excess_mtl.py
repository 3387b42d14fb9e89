"""ExcessMTL: the strategy ``torchjd-excess-mtl``."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

import mtlkit
from mtlkit_torchjd.base import Positive, aggregation, present_in
from mtlkit_torchjd.shares import Shares

__all__ = ["ExcessMTL"]


class ExcessMTL(mtlkit.Strategy):
    """TorchJD's ExcessMTL: the tasks that are furthest from their optimum weigh more.

    He, Zhou, Zhang, Lin, Zhao, ICML 2024. Like mtlkit's ``excess-mtl``, but that the weights sum to 1, and that without
    a warm-up the excess risks of the first step are taken as they are, relative to nothing.

    Where a task was in no step before, or in none of the warm-up, its risks are relative to the first one.

    Memory: the sums of squares, as much as the gradients of all tasks.

    Args:
        n_tasks: The number of tasks.
        robust_step_size: The step size of the weights.
        n_warmup_steps: For how many steps the weights stay equal, while the excess risks that later ones are relative
            to are averaged.
    """

    needs: ClassVar[mtlkit.Needs] = mtlkit.Needs.JACOBIAN
    over: ClassVar[mtlkit.Over | None] = mtlkit.Over.PARAMETERS

    squares: Tensor  # [T, P] the sums of the squared gradients; [T, 0] until P is known
    initial: Tensor  # [T] the excess risk that later ones are relative to; NaN until it is known
    warmed: Tensor  # [T] the sum of those of the warm-up
    warm_steps: Tensor  # [T] in how many steps of it the task was present
    steps: Tensor  # []

    def __init__(
        self,
        n_tasks: int,
        *,
        robust_step_size: Positive = 1.0,
        n_warmup_steps: Annotated[int, Field(ge=0, le=10_000)] = 0,
    ) -> None:
        super().__init__(n_tasks)
        self.robust_step_size, self.n_warmup_steps = robust_step_size, n_warmup_steps
        self.shares = Shares(n_tasks)
        self.register_buffer("squares", torch.zeros(n_tasks, 0, dtype=torch.float64))
        for name, start in (("initial", math.nan), ("warmed", 0.0), ("warm_steps", 0.0)):
            self.register_buffer(name, torch.full((n_tasks,), start, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> mtlkit.Weighting:
        present = present_in(tasks, self.n_tasks)
        self._make_room(jacobian)
        weighting = self._weighting()
        warming = int(self.steps) < self.n_warmup_steps
        weighting._ensure_state(jacobian)
        weighting._n_steps = int(self.steps)
        weighting._sq_grad_sum = self.squares[present]
        weighting._weights = self.shares.of(present).to(jacobian)
        if not warming:
            weighting._initial_w = self._relative_to(jacobian, present)
        weights = weighting(jacobian)
        if self.training:
            self.squares[present] = weighting._sq_grad_sum
            self.steps += 1
            if warming:
                self.warmed[present] += weighting._warmup_w_sum.to(self.warmed)
                self.warm_steps[present] += 1
            else:
                self.initial[present] = weighting._initial_w.to(self.initial)
                self.shares.keep(present, weights.cpu())
        return mtlkit.Weighting(weights.to(losses))

    def _weighting(self) -> Any:
        return aggregation().ExcessMTLWeighting(self.robust_step_size, self.n_warmup_steps)

    def _relative_to(self, jacobian: Tensor, present: Tensor) -> Tensor | None:
        """Return what the excess risks are relative to ``[K]``; None for nothing, as in TorchJD's first step."""
        known, warm = self.initial[present], self.warm_steps[present]
        if self.n_warmup_steps == 0 and known.isnan().all():
            return None
        initial = torch.where(known.isnan(), self.warmed[present] / warm, known).to(jacobian)
        new = initial.isnan()  # 0 / 0: in no step of the warm-up
        if new.any():
            first = aggregation().ExcessMTLWeighting()
            first(jacobian[new])
            initial[new] = first._initial_w
        return initial

    def _make_room(self, jacobian: Tensor) -> None:
        """Make the sums of squares of the size that the gradients have.

        Raises:
            ValueError: If the gradients had another size before.
        """
        if self.squares.shape[1] == 0:
            self.squares = jacobian.new_zeros(self.n_tasks, jacobian.shape[1])
        if self.squares.shape[1] != jacobian.shape[1]:
            raise ValueError(
                f"the tasks' gradients have {jacobian.shape[1]} entries, and had {self.squares.shape[1]} before: "
                "ExcessMTL remembers them, so what is shared must stay the same"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}squares")
        if isinstance(saved, Tensor) and saved.ndim == 2 and len(saved) == self.n_tasks:  # noqa: PLR2004
            self.squares = torch.zeros_like(saved, device=self.squares.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
