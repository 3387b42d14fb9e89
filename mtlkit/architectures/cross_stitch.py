"""The ``cross-stitch`` architecture: an encoder for each task, mixed with the others' after each stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.channels import channels
from mtlkit.architectures.requirements import stage_shapes
from mtlkit.encoders.base import Encoder
from mtlkit.specs import InputSpec

__all__ = ["CrossStitch"]

# Of the mixture of one task, for hidden rows of each number of dimensions; k the tasks mixed, c the channels.
_BY_CHANNEL = {1: "kc,kbc->bc", 2: "kc,kblc->blc", 3: "kc,kbchw->bchw"}


class CrossStitch(Architecture):
    """Cross-stitch networks (Misra, Shrivastava, Gupta, Hebert, CVPR 2016).

    Each task t has an encoder. After each stage j a cross-stitch unit mixes what the stages of all made (equation 1),

        x_t,j = sum_s alpha_j,ts E_s,j(x_s,j-1)

    and the next stage of encoder t takes x_t,j; head t computes from the last x_t. At first alpha_tt is `own`, and the
    rest is even among the others, so that a unit begins as a convex combination; it may leave that.

    Departures: the paper places units after pooling and fully connected layers, this after each stage; it begins from
    networks that were trained for each task, this from new ones; it trains the units at a higher rate than the
    networks, this at the same one.

    All encoders are shared, since every task's features are made of all of them, and so are the units but the last,
    where each task has its own row; each encoder's last layer stands last. Everything but that row is computed
    whichever tasks take part.

    Args:
        make_encoder: Builds an encoder; called once for each task.
        n_tasks: The number of tasks, and of encoders.
        inputs: What a row is.
        own: How much of its own encoder a task takes at first, in (0, 1].
        per: Whether there is one alpha for a whole ``stage``, or one for each ``channel`` of it.

    Raises:
        ValueError: If the encoder has no parameters, no stages, or a stage that does not make one tensor.
    """

    def __init__(
        self,
        make_encoder: Callable[[], Encoder],
        n_tasks: int,
        inputs: InputSpec,
        *,
        own: Annotated[float, Field(gt=0, le=1)] = 0.9,
        per: Literal["stage", "channel"] = "stage",
    ) -> None:
        super().__init__()
        first = make_encoder()
        self.features = first.features
        shapes = stage_shapes(first, inputs, "cross-stitch")
        self.encoders: Any = nn.ModuleList([first, *(make_encoder() for _ in range(n_tasks - 1))])
        begin = torch.full((n_tasks, n_tasks), (1 - own) / max(1, n_tasks - 1))
        begin.fill_diagonal_(own if n_tasks > 1 else 1.0)
        units = [begin if per == "stage" else begin[..., None].repeat(1, 1, channels(shape)) for shape in shapes]
        self.between = nn.ParameterList(unit.clone() for unit in units[:-1])  # each [T, T] or [T, T, C]
        self.last = nn.ParameterList(row.clone() for row in units[-1])  # for each task [T] or [T, C]

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        contexts = [encoder.context(inputs) for encoder in self.encoders]
        hidden: list[Any] = [inputs] * len(self.encoders)
        made = self._stage(0, hidden, contexts)
        for index, unit in enumerate(self.between):
            made = self._stage(index + 1, [_mixed(row, made) for row in unit], contexts)
        return [_mixed(self.last[task], made) for task in tasks]

    def _stage(self, index: int, hidden: Sequence[Any], contexts: Sequence[Any]) -> Tensor:
        """Return what the stages of a number make of their hidden rows ``[T, B, *]``."""
        each = zip(self.encoders, hidden, contexts, strict=True)
        return torch.stack([encoder.through(index, rows, context) for encoder, rows, context in each])

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.encoders.parameters(), *self.between]

    def last_shared_layer(self) -> Sequence[nn.Module]:
        return [encoder.last_layer() for encoder in self.encoders]


def _mixed(alpha: Tensor, made: Tensor) -> Tensor:
    """Return the sum over s of alpha_s times the rows of s ``[B, *]``, for alpha ``[T]`` or ``[T, C]``."""
    if alpha.ndim == 1:
        return torch.einsum("k,k...->...", alpha, made)
    return torch.einsum(_BY_CHANNEL[made.ndim - 2], alpha, made)
