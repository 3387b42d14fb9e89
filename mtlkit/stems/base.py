"""What every stem is: a module between a source's rows and the encoder that all sources share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mtlkit.specs import InputSpec

__all__ = ["Chain", "Stem"]


class Stem(nn.Module):
    """The base class of stems.

    A subclass takes the :class:`~mtlkit.specs.InputSpec` of the rows that it is given as ``inputs``, then its options,
    keyword-only, typed and with defaults. It refuses rows that it cannot take by a ValueError.

    Attributes:
        rows: What its rows are, to the encoder or to the stem after it.
    """

    rows: InputSpec

    def forward(self, inputs: Any) -> Any:
        """Turn a batch of rows ``[B, *inputs.shape]`` into ``[B, *rows.shape]``."""
        raise NotImplementedError


class Chain(Stem):
    """Several stems, one after another.

    Args:
        stems: The stems, each made for the rows of the one before it; at least one.
    """

    def __init__(self, stems: Sequence[Stem]) -> None:
        super().__init__()
        self.stems = nn.ModuleList(stems)
        self.rows = stems[-1].rows

    def forward(self, inputs: Any) -> Any:
        """Turn a batch of rows into what the last one makes."""
        for stem in self.stems:
            inputs = stem(inputs)
        return inputs
