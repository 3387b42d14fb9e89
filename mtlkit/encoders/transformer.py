"""The ``transformer`` encoder: blocks of attention over a sequence of tokens, or of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from mtlkit.encoders.attention import Pool, block, learned, sinusoids
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Count, Fraction, Positive
from mtlkit.specs import FeatureSpec, InputSpec

__all__ = ["Transformer"]


class Transformer(Encoder):
    """Blocks of attention over a sequence of tokens or vectors (Vaswani et al., NeurIPS 2017).

    Each token becomes a learned vector, or each vector another by a linear layer; a code of its position is added;
    blocks of attention follow, and a last normalisation. Where the padding is, nothing is attended to, nothing is
    pooled, and the features of a sequence are 0.

    Departures from the paper: this is the encoder alone, with its norms first, and GELU; positions are learned by
    default. Tokens are not scaled by the root of the width.

    Args:
        inputs: The shape of one row: ``(L,)`` whole numbers, or ``(L, C)`` for vectors.
        vocabulary: How many tokens there are, from 0 up; what the rows say by default.
        padding: The token that fills rows up to the length of the longest; none by default. A row of nothing else has
            features of 0.
        width: The width of the vectors.
        depth: The number of blocks.
        heads: The number of attention heads; it must divide the width.
        expansion: How many times wider the hidden layer of a block is.
        dropout: The probability of dropping a unit, in [0, 1).
        positions: How positions are coded: ``learned``, or ``sinusoidal``, which need an even width.
        pool: What the features are: the ``mean`` over the sequence, the ``first`` vector of it, or with ``none`` the
            sequence itself.

    Raises:
        ValueError: If a row is no sequence, a token has no place in the vocabulary, or the sizes do not divide.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913 - one for each knob of the paper
        self,
        inputs: InputSpec,
        *,
        vocabulary: Positive | None = None,
        padding: Annotated[int, Field(ge=0)] | None = None,
        width: Positive = 128,
        depth: Count = 4,
        heads: Count = 4,
        expansion: Count = 4,
        dropout: Fraction = 0.0,
        positions: Literal["learned", "sinusoidal"] = "learned",
        pool: Literal["mean", "first", "none"] = "mean",
    ) -> None:
        super().__init__()
        self.padding = padding
        units = _units(inputs, vocabulary, padding, width)
        length = inputs.shape[0]
        self.embed = _Embed(length, units, width, is_learned=positions == "learned", dropout=dropout)
        self.blocks = nn.ModuleList([block(width, heads, expansion, dropout) for _ in range(depth)])
        self.pool = Pool(width, pool)
        self.features = FeatureSpec((length, width) if pool == "none" else (width,))

    def stages(self) -> Sequence[nn.Module]:
        return [self.embed, *self.blocks[:-1], nn.Sequential(self.blocks[-1], self.pool)]

    def context(self, inputs: Any) -> Any:
        """Return where the padding is, as booleans ``[B, L]``; None where there is none."""
        return None if self.padding is None else inputs == self.padding

    def through(self, index: int, hidden: Any, context: Any) -> Any:
        if index == 0:
            return self.embed(hidden)
        unseen = None
        if context is not None:  # attention over nothing would be 0 / 0, so a row of padding alone attends to it
            unseen = context & ~context.all(1, keepdim=True)
        hidden = self.blocks[index - 1](hidden, src_key_padding_mask=unseen)
        return self.pool(hidden, context) if index == len(self.blocks) else hidden


class _Embed(nn.Module):
    """Each unit of a sequence as a vector, with its position.

    Args:
        length: L, the length of a sequence.
        units: The layer that makes a vector of a unit.
        width: D, the width of the vectors.
        is_learned: Whether the codes of the positions are learned.
        dropout: The probability of dropping a unit.
    """

    row_by_row: ClassVar[bool] = True
    positions: Tensor  # [L, D]

    def __init__(self, length: int, units: nn.Module, width: int, *, is_learned: bool, dropout: float) -> None:
        super().__init__()
        self.units = units
        if is_learned:
            self.positions = learned(length, width)
        else:
            self.register_buffer("positions", sinusoids(length, width), persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Turn rows ``[B, L]`` or ``[B, L, C]`` into sequences ``[B, L, D]``."""
        placed: Tensor = self.dropout(self.units(rows) + self.positions)
        return placed


def _units(inputs: InputSpec, vocabulary: int | None, padding: int | None, width: int) -> nn.Module:
    """Return the layer that makes a vector of each unit of a sequence.

    Raises:
        ValueError: If the rows are no sequences, or the options do not fit them.
    """
    if len(inputs.shape) == 2:  # noqa: PLR2004 - vectors
        if vocabulary is not None or padding is not None:
            raise ValueError(
                f"vocabulary and padding are of tokens, and the rows here are vectors: {inputs.shape[0]} of "
                f"{inputs.shape[1]} numbers each"
            )
        return nn.Linear(inputs.shape[1], width)
    if len(inputs.shape) != 1 or (not inputs.categories and vocabulary is None):
        raise ValueError(
            "transformer takes sequences: tokens of shape (length,), whole numbers, or vectors of shape (length, "
            f"width); a row here has shape {inputs}{' of numbers that are no tokens' if len(inputs.shape) == 1 else ''}"
        )
    seen = max((*inputs.categories, 1 if padding is None else padding + 1))
    if vocabulary is not None and vocabulary < seen:
        raise ValueError(f"a vocabulary of {vocabulary} tokens, from 0 up, is too small: there is a token {seen - 1}")
    return _Tokens(vocabulary or seen, width)


class _Tokens(nn.Embedding):
    """A vector for each token, whatever the dtype of the whole numbers."""

    row_by_row: ClassVar[bool] = True

    def forward(self, rows: Tensor) -> Tensor:
        """Turn tokens ``[B, L]`` into vectors ``[B, L, D]``."""
        return super().forward(rows.long())
