"""CR-MOGM: the strategy ``torchjd-cr-mogm``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlkit_torchjd.aligned_mtl import AlignedMTL
from mtlkit_torchjd.base import TorchJDStrategy, aggregation, per_task
from mtlkit_torchjd.cagrad import CAGrad
from mtlkit_torchjd.cone import DualProj, UPGrad
from mtlkit_torchjd.fairgrad import FairGrad
from mtlkit_torchjd.imtl_g import IMTLG
from mtlkit_torchjd.krum import Krum
from mtlkit_torchjd.mgda import MGDA
from mtlkit_torchjd.nash_mtl import NashMTL
from mtlkit_torchjd.pcd import PCD
from mtlkit_torchjd.pcgrad import GradVac, PCGrad
from mtlkit_torchjd.simplex import MoDo, SDMGrad

__all__ = ["CRMOGM"]

Smoothed = Literal[
    "aligned-mtl", "cagrad", "dualproj", "fairgrad", "gradvac", "imtl-g", "krum", "mgda", "modo", "nash-mtl", "pcd",
    "pcgrad", "sdmgrad", "upgrad",
]  # fmt: skip
_CLASSES: dict[str, type[TorchJDStrategy]] = {
    "aligned-mtl": AlignedMTL,
    "cagrad": CAGrad,
    "dualproj": DualProj,
    "fairgrad": FairGrad,
    "gradvac": GradVac,
    "imtl-g": IMTLG,
    "krum": Krum,
    "mgda": MGDA,
    "modo": MoDo,
    "nash-mtl": NashMTL,
    "pcd": PCD,
    "pcgrad": PCGrad,
    "sdmgrad": SDMGrad,
    "upgrad": UPGrad,
}


class CRMOGM(TorchJDStrategy):
    """TorchJD's CR-MOGM: the weights of another of its methods, smoothed over the steps.

    Zhou, Zhang, Jiang, Zhong, Gu, Zhu, NeurIPS 2022:

        lambda(t) = alpha lambda(t-1) + (1 - alpha) w(t)

    with w what the other method answers. It begins with a task's first w, or as initial_weights says.

    Args:
        n_tasks: The number of tasks.
        weighting: The other method, with its default options: ``upgrad`` for that of ``torchjd-upgrad``.
        alpha: How much of the last weights stays.
        initial_weights: What it begins with, one number for each task.
    """

    smoothed: Tensor  # [T] NaN until it is known

    def __init__(
        self,
        n_tasks: int,
        *,
        weighting: Smoothed = "mgda",
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.9,
        initial_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(n_tasks)
        self.inner = _CLASSES[weighting](n_tasks)
        self.plain_heads = self.inner.plain_heads
        self.alpha = alpha
        initial = per_task("initial_weights", initial_weights, n_tasks)
        unknown = torch.full((n_tasks,), math.nan, dtype=torch.float64)
        self.register_buffer("smoothed", unknown if initial is None else initial)

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        answered = self.inner.ask(gramian, present)
        held = self.smoothed.cpu()
        before = torch.where(held[present].isnan(), answered, held[present])
        torchjd = aggregation()
        weighting = torchjd.CRMOGMWeighting(torchjd.ConstantWeighting(answered), self.alpha, before)
        weights: Tensor = weighting(gramian)
        if self.training:
            held[present] = weights
            self.smoothed.copy_(held)
        return weights
