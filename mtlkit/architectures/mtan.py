"""The ``mtan`` architecture: one encoder, and for each task attention to what each of its stages makes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.channels import channels, norm, pointwise
from mtlkit.architectures.requirements import stage_shapes
from mtlkit.encoders.base import Encoder
from mtlkit.specs import InputSpec

__all__ = ["MTAN"]

_MAPS = 3  # dimensions of a row


class MTAN(Architecture):
    """Multi-task attention network (Liu, Johns, Davison, CVPR 2019).

    With p_j what stage j of the one encoder makes, task t attends to it by a mask of its own (equations 1 and 2),

        z_t,j = a_t,j * p_j,    a_t,j = h_t,j(g_t,j([p_j; f_j(z_t,j-1)]))

    where g is a 1x1 convolution, a normalisation and a ReLU, h a 1x1 convolution, a normalisation and a sigmoid, and f
    a 3x3 convolution, a normalisation, a ReLU, and max-pooling to the size of p_j; f is shared by all tasks, as in the
    authors' code. At the first stage the mask is made of p_1 alone. Head t computes from the last z_t.

    For vectors, and sequences of vectors, convolutions are linear layers at each position. Where the kind changes
    between two stages, as where maps are flattened, f pools over the positions, or repeats, and is linear.

    Departures: a stage is not looked into, so a mask is made of p_j where the paper has the output of the first layer
    of the block, u_j. Normalisation is over a row, and of a sequence over each position, for batch statistics would mix
    the rows of sources that pass one after another.

    The encoder and f are shared, and the encoder's last layer stands last; g and h are a task's own, and are computed
    only where it takes part.

    Args:
        make_encoder: Builds the encoder; called once.
        n_tasks: The number of tasks.
        inputs: What a row is.

    Raises:
        ValueError: If the encoder has no parameters, no stages, or a stage that does not make one tensor.
    """

    def __init__(self, make_encoder: Callable[[], Encoder], n_tasks: int, inputs: InputSpec) -> None:
        super().__init__()
        self.encoder = make_encoder()
        self.features = self.encoder.features
        shapes = stage_shapes(self.encoder, inputs, "mtan")
        self.carry: Any = nn.ModuleList(_Carry(*pair) for pair in itertools.pairwise(shapes))  # f
        self.masks: Any = nn.ModuleList(  # h(g())
            nn.ModuleList(_mask(shape, 2 if index else 1) for index, shape in enumerate(shapes)) for _ in range(n_tasks)
        )

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        context, hidden = self.encoder.context(inputs), inputs
        attended: list[Tensor] = []
        for index in range(len(self.carry) + 1):
            hidden = self.encoder.through(index, hidden, context)
            axis = 1 if hidden.ndim == 1 + _MAPS else -1  # of the channels
            seen = [hidden] * len(tasks)
            if index:
                seen = [torch.cat([hidden, self.carry[index - 1](before)], axis) for before in attended]
            attended = [self.masks[task][index](each) * hidden for task, each in zip(tasks, seen, strict=True)]
        return list(attended)

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.carry.parameters()]

    def last_shared_layer(self) -> nn.Module:
        return self.encoder.last_layer()


class _Carry(nn.Module):
    """f: what was attended to at a stage, in the shape of what the next stage makes.

    Args:
        before: The shape of a row of the one.
        after: The shape of a row of the other.
    """

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__()
        self.after = after
        self.keeps_maps = len(before) == len(after) == _MAPS
        width = channels(after)
        self.layer = (
            nn.Conv2d(before[0], width, 3, padding=1) if self.keeps_maps else nn.Linear(channels(before), width)
        )
        self.norm = norm(after if self.keeps_maps else (1, width), width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Turn rows ``[B, *before]`` into rows ``[B, *after]``."""
        if self.keeps_maps:
            return _fitted(self.norm(self.layer(hidden)).relu(), self.after[1:])
        if hidden.ndim == 1 + _MAPS:
            hidden = hidden.flatten(2).transpose(1, 2)  # [B, H W, C]
        places = hidden.reshape(len(hidden), -1, hidden.shape[-1])  # [B, L, C]: a vector is a sequence of one
        made = self.norm(self.layer(places)).relu().transpose(1, 2)  # [B, C, L]
        made = _fitted(made[..., None], (math.prod(self.after) // made.shape[1], 1))[..., 0]
        if len(self.after) < _MAPS:
            made = made.transpose(1, 2)
        return made.reshape(len(made), *self.after)


def _fitted(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps ``[B, C, H, W]`` of another size: the maxima of windows of one size, or values repeated.

    PyTorch's adaptive pooling has no deterministic gradient on a GPU.
    """
    for axis, wanted in enumerate(size, 2):
        if maps.shape[axis] < wanted:
            maps = maps.index_select(axis, torch.arange(wanted, device=maps.device) * maps.shape[axis] // wanted)
    sides = list(zip(maps.shape[2:], size, strict=True))
    strides = [side // wanted for side, wanted in sides]
    windows = [side - (wanted - 1) * stride for (side, wanted), stride in zip(sides, strides, strict=True)]
    return nn.functional.max_pool2d(maps, windows, strides)


def _mask(shape: tuple[int, ...], parts: int) -> nn.Module:
    """Return h(g()) for rows of a shape, of that many of which the channels stand side by side."""
    width = channels(shape)
    return nn.Sequential(
        pointwise(shape, parts * width, width),
        norm(shape, width),
        nn.ReLU(),
        pointwise(shape, width, width),
        norm(shape, width),
        nn.Sigmoid(),
    )
