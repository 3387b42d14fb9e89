"""Layer-wise learning rates: the nearer a level is to the rows, the slower it learns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from mtlkit.encoders.base import Encoder
from mtlkit.transfer.freezing import levels_of, will_be_trained

__all__ = ["layered"]


def layered(model: nn.Module, encoders: Iterable[Encoder], *, rate: float, decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups of all parameters that are trained, in time.

    Level s of the S levels of an encoder, counted from 0, has the learning rate

        rate decay^(S - s)

    and everything else, such as the heads, has the rate itself. (Howard, Ruder, "Universal language model fine-tuning
    for text classification", ACL 2018, section 3.1, with the decay 1 / 2.6; Bao, Dong, Piao, Wei, "BEiT", ICLR 2022,
    with this count.)

    Args:
        model: What is trained.
        encoders: The encoders in it.
        rate: The learning rate.
        decay: The factor from each level to the one before it.

    Raises:
        ValueError: If an encoder does not say of its levels.
    """
    powers: dict[int, int] = {}
    for encoder in encoders:
        levels = levels_of(encoder)
        for number, level in enumerate(levels):
            powers |= {id(parameter): len(levels) - number for parameter in level.parameters()}
    groups: dict[int, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if will_be_trained(parameter):
            groups.setdefault(powers.get(id(parameter), 0), []).append(parameter)
    return [{"params": groups[power], "lr": rate * decay**power} for power in sorted(groups)]
