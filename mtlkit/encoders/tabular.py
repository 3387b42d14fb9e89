"""The ``tabular`` encoder: the numbers and the categories of a table's row, then dense or residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mtlkit.encoders.base import Encoder
from mtlkit.layers import Activation, Count, Fraction, Positive, dense
from mtlkit.layers import activation as activation_layer
from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.tensors import Tensors

__all__ = ["Tabular"]

NUMERIC, CATEGORICAL = "numeric", "categorical"


class Tabular(Encoder):
    """Numbers and categories of a table, then dense or residual blocks (Gorishniy et al., NeurIPS 2021).

    Gorishniy, Rubachev, Khrulkov, Babenko, "Revisiting deep learning models for tabular data", sections 3.1 and 3.2:

        mlp:       dropout(activation(linear(h))), as often as there are layers
        residual:  linear, blocks h + dropout(linear(dropout(activation(linear(norm(h)))))), then activation(norm(h))

    Beside the numbers stands a learned vector for each category. Numbers are normalised by the means and deviations of
    the training rows, which :meth:`prepare` reads off them; a number that is missing, NaN, is filled with the mean. A
    category that no training row has, or beyond those that were counted, or below 0, is an unknown one: each column has
    one vector for all of these, which starts from 0.

    Departures from the paper: numbers are standardised, not mapped to quantiles; missing ones are dealt with here; the
    norm of a residual block is over the features of a row by default, for batch statistics would mix the rows of
    sources that pass through the encoder one after another.

    Args:
        inputs: What one row is: a vector of numbers, a vector of categories (whole numbers), or both, as the parts
            ``numeric`` and ``categorical``.
        blocks: ``mlp`` or ``residual``.
        width: The width of each layer, and the number of features.
        depth: The number of layers, or of residual blocks.
        embedding: The width of the vector of a category.
        normalize: ``standard``, or ``none`` to take numbers as they are.
        indicators: Whether each number is followed by a 1 where it was missing, by a 0 where it was not.
        expansion: How many times wider than the others the hidden layer of a residual block is.
        norm: What normalises in a residual block: ``layer``, ``batch`` or ``none``.
        activation: What follows each layer.
        dropout: The probability of dropping a unit, in [0, 1).

    Raises:
        ValueError: If a row is no row of a table.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913 - one for each knob of the paper, and of its tables
        self,
        inputs: InputSpec,
        *,
        blocks: Literal["mlp", "residual"] = "mlp",
        width: Positive = 128,
        depth: Count = 2,
        embedding: Positive = 16,
        normalize: Literal["standard", "none"] = "standard",
        indicators: bool = False,
        expansion: Count = 2,
        norm: Literal["layer", "batch", "none"] = "layer",
        activation: Activation = "relu",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        parts = _parts(inputs)
        self.columns = _Columns(
            parts[NUMERIC].size if NUMERIC in parts else 0,
            parts[CATEGORICAL].categories if CATEGORICAL in parts else (),
            embedding,
            is_standard=normalize == "standard",
            has_indicators=indicators,
        )
        if blocks == "mlp":
            widths = [self.columns.width, *[width] * depth]
            layers: list[nn.Module] = [
                dense(before, [width], activation_name=activation, dropout=dropout) for before in widths[:-1]
            ]
        else:
            layers = [_Residual(width, expansion * width, norm, activation, dropout) for _ in range(depth)]
            leave = nn.Sequential(_norm(norm, width), activation_layer(activation))
            layers = [nn.Linear(self.columns.width, width), *layers[:-1], nn.Sequential(layers[-1], leave)]
        self.layers = nn.ModuleList(layers)
        self._first = (nn.Sequential(self.columns, layers[0]),)  # a stage of modules that are registered above
        self.features = FeatureSpec((width,))

    def stages(self) -> Sequence[nn.Module]:
        return [*self._first, *self.layers[1:]]

    def prepare(self, rows: Any) -> None:
        """Read off the training rows the means and deviations of the numbers, and which categories they have."""
        self.columns.prepare(rows)


class _Columns(nn.Module):
    """The columns of a table side by side: numbers, normalised, and a vector for each category.

    Letters: C columns of numbers, K columns of categories.

    Args:
        numbers: C.
        categories: How many categories each of the K columns has.
        embedding: The width of the vector of a category.
        is_standard: Whether numbers are normalised.
        has_indicators: Whether it is told which numbers were missing.

    Attributes:
        width: How many values a row becomes.
    """

    row_by_row: ClassVar[bool] = True
    mean: Tensor  # [C]
    deviation: Tensor  # [C]
    is_known: Tensor  # [sum of categories + K] whether a training row has it
    firsts: Tensor  # [K] the row of the table of vectors where each column begins
    counts: Tensor  # [K] how many categories each column has; the one after them is unknown

    def __init__(
        self, numbers: int, categories: Sequence[int], embedding: int, *, is_standard: bool, has_indicators: bool
    ) -> None:
        super().__init__()
        self.is_standard, self.has_indicators = is_standard, has_indicators
        self.numbers = numbers
        self.width = numbers * (1 + has_indicators) + embedding * len(categories)
        if numbers:
            self.register_buffer("mean", torch.zeros(numbers))
            self.register_buffer("deviation", torch.ones(numbers))
        self.vectors: nn.Embedding | None = None
        if categories:
            counts = torch.tensor(categories)
            ends = (counts + 1).cumsum(0)
            self.register_buffer("counts", counts, persistent=False)
            self.register_buffer("firsts", ends - counts - 1, persistent=False)
            self.register_buffer("is_known", torch.ones(int(ends[-1]), dtype=torch.bool))
            self.vectors = nn.Embedding(int(ends[-1]), embedding)
            with torch.no_grad():
                self.vectors.weight[ends - 1] = 0

    @torch.no_grad()
    def prepare(self, rows: Tensors) -> None:
        """Read off the training rows the means and deviations of the numbers, and which categories they have."""
        numbers, categories = self._split(rows)
        if numbers is not None:
            values = numbers.double()
            mean = values.nanmean(0).nan_to_num()
            deviation = (values - mean).square().nanmean(0).sqrt().nan_to_num()
            # Within rounding of one another, numbers are one number.
            spread = deviation > torch.finfo(numbers.dtype).eps * mean.abs()
            self.mean.copy_(mean)
            self.deviation.copy_(torch.where(spread, deviation, 1))
        if categories is not None:
            self.is_known.fill_(value=True)
            seen = torch.zeros_like(self.is_known)
            seen[self._places(categories)] = True
            self.is_known.copy_(seen)

    def forward(self, rows: Tensors) -> Tensor:
        """Turn rows ``[B, C]``, ``[B, K]``, or a mapping of both, into vectors ``[B, width]``."""
        numbers, categories = self._split(rows)
        made: list[Tensor] = []
        if numbers is not None:
            missing = numbers.isnan()
            values = torch.where(missing, self.mean, numbers)
            made.append((values - self.mean) / self.deviation if self.is_standard else values)
            if self.has_indicators:
                made.append(missing.to(values.dtype))
        if categories is not None and self.vectors is not None:
            made.append(self.vectors(self._places(categories)).flatten(1))
        return torch.cat(made, 1)

    def _split(self, rows: Tensors) -> tuple[Tensor | None, Tensor | None]:
        """Return the numbers ``[B, C]`` and the categories ``[B, K]`` of rows."""
        parts = rows if not isinstance(rows, Tensor) else {NUMERIC if self.numbers else CATEGORICAL: rows}
        numbers = parts[NUMERIC].reshape(-1, self.numbers).to(self.mean.dtype) if self.numbers else None
        categories = None if self.vectors is None else parts[CATEGORICAL].reshape(-1, len(self.counts)).long()
        return numbers, categories

    def _places(self, categories: Tensor) -> Tensor:
        """Return the row of each category ``[B, K]`` in the table of vectors; of an unknown one, its column's last."""
        unknown = self.firsts + self.counts
        counted = (categories >= 0) & (categories < self.counts)
        places = torch.where(counted, self.firsts + categories, unknown)
        return torch.where(self.is_known[places], places, unknown)


class _Residual(nn.Module):
    """h + dropout(linear(dropout(activation(linear(norm(h)))))).

    Args:
        width: The width of h.
        hidden: The width of the hidden layer.
        norm: ``layer``, ``batch`` or ``none``.
        activation: What follows the hidden layer.
        dropout: The probability of dropping a unit.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(self, width: int, hidden: int, norm: str, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.norm = _norm(norm, width)
        self.hidden = dense(width, [hidden], activation_name=activation, dropout=dropout)
        self.leave = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Turn vectors ``[B, D]`` into vectors ``[B, D]``."""
        out: Tensor = h + self.dropout(self.leave(self.hidden(self.norm(h))))
        return out


def _norm(name: str, width: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if name == "layer" else nn.Identity()


def _parts(inputs: InputSpec) -> dict[str, InputSpec]:
    """Return what the numbers and the categories of a row are, by the names of these parts.

    Raises:
        ValueError: If a row is no row of a table.
    """
    parts = dict(inputs.parts) or {CATEGORICAL if inputs.categories else NUMERIC: inputs}
    if any(name not in {NUMERIC, CATEGORICAL} for name in parts):
        raise ValueError(
            f"tabular takes rows of the parts '{NUMERIC}' and '{CATEGORICAL}', or of one of them, and a row here has "
            f"{', '.join(map(repr, parts))}"
        )
    for name, part in parts.items():
        if len(part.shape) > 1 or part.parts or part.size == 0:
            told = "a row" if not inputs.parts else f"the part '{name}' of a row"
            raise ValueError(f"tabular takes the columns of a table, a vector, and {told} here has shape {part}")
    if CATEGORICAL in parts and not parts[CATEGORICAL].categories:
        raise ValueError(
            f"the part '{CATEGORICAL}' of a row holds categories, whole numbers from 0 up, and here it does not; what "
            f"is measured belongs in the part '{NUMERIC}'"
        )
    return parts
