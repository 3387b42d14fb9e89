"""Splits: what a source gives, and what is carved from its training rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlkit.data.gathered import Gathered
from mtlkit.data.map_split import MapSplit
from mtlkit.data.reader import Reader
from mtlkit.data.row_format import Item, RowFormat
from mtlkit.data.stream_split import StreamSplit
from mtlkit.errors import DataError
from mtlkit.specs import InputSpec
from mtlkit.task import Split
from mtlkit.tensors import named

__all__ = ["SPLITS", "Carved", "Given", "carve", "derived_seed", "describe", "described", "format_of"]

SPLITS = ("train", "validation", "test")

Given = Split | MapSplit | StreamSplit
"""What a source may give as a split."""

Carved = Given | Gathered
"""What may become of it when it is carved: of columns that are mapped, some rows, which stay where they are."""


def derived_seed(*parts: object) -> int:
    """Return a seed that depends on every part, and on nothing else: not on the process, nor on hash randomisation."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def carve(splits: Mapping[str, Given], *, validation: float, test: float, seed: int) -> dict[str, Carved]:
    """Return all three splits, those that the source lacks carved at random from its training rows.

    Of rows that are indexed, so many are carved as the fractions say. Of a stream, each row goes where a hash of its
    number says, so that the fractions are nearly met. No row is read but the first of each split, and rows that are
    read one by one, or are in files that are mapped, stay where they are.

    Args:
        splits: What the source gave; ``train`` is needed.
        validation: The fraction of the training rows that become the validation split, where there is none.
        test: The fraction of the training rows that become the test split, where there is none.
        seed: The same seed carves the same rows.

    Raises:
        DataError: If there is no training split, an unknown one, one whose rows have another shape or other columns,
            or too few rows to carve from.
    """
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown or "train" not in splits:
        given = ", ".join(map(repr, splits)) or "none"
        raise DataError(f"A source gives 'train', and optionally 'validation' and 'test'; received {given}.")
    formats = {name: format_of(split, name, torch.float32) for name, split in splits.items()}
    for name, each in formats.items():
        difference = formats["train"].difference(each)
        if difference:
            raise DataError(f"Split '{name}' does not match 'train': {difference}.")
    wanted = {"validation": validation, "test": test}
    missing = {name: part for name, part in wanted.items() if name not in splits}
    train = splits["train"]
    parts = _shared(train, missing, seed) if isinstance(train, StreamSplit) else _taken(train, missing, seed)
    for part in parts.values():
        if isinstance(part, MapSplit | StreamSplit):
            part.carved_from = "train"
    carved = {**splits, **parts}
    return {name: carved[name] for name in SPLITS}


def _taken(train: Split | MapSplit, missing: Mapping[str, float], seed: int) -> dict[str, Carved]:
    """Return the splits that are missing, and the rest."""
    sizes = {name: max(1, round(len(train) * part)) for name, part in missing.items()}
    if len(train) - sum(sizes.values()) < 1:
        raise DataError(
            f"{len(train)} training rows are too few to carve {' and '.join(sizes)} from. Let the source give these "
            "splits."
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    carved: dict[str, Carved] = {}
    for name, size in sizes.items():
        carved[name], order = _rows(train, order[:size].sort().values), order[size:]
    if sizes:
        carved["train"] = _rows(train, order.sort().values)
    return carved


def _rows(split: Split | MapSplit, rows: Tensor) -> Carved:
    """Return rows of a split; those of columns that are mapped stay where they are."""
    return Gathered(split, rows) if isinstance(split, Split) and split.is_mapped else split.take(rows)


def _shared(train: StreamSplit, missing: Mapping[str, float], seed: int) -> dict[str, Carved]:
    """Return the shares of a stream that are missing, and the rest."""
    carved: dict[str, Carved] = {}
    low = 0.0
    for name, part in missing.items():
        carved[name] = train.share(low, low + part, seed=seed)
        low += part
    if low >= 1:
        raise DataError(f"The fractions of {' and '.join(missing)} leave no row of the stream to train on.")
    if missing:
        carved["train"] = train.share(low, 1, seed=seed)
    for name, split in carved.items():
        if isinstance(split, StreamSplit) and split.rows == 0:
            raise DataError(
                f"{train.length} training rows are too few to carve {' and '.join(missing)} from: '{name}' would have "
                "none. Let the source give these splits."
            )
    return carved


def format_of(split: Carved, name: str, dtype: torch.dtype) -> RowFormat:
    """Return what a row of a split is; of rows that are not in columns, the first is read.

    Args:
        split: The split.
        name: What it is called.
        dtype: What floating-point columns are to be held in.

    Raises:
        DataError: If the first row cannot be read, or is not what the split says of its rows.
    """
    if isinstance(split, Gathered):
        split = split.split
    if isinstance(split, Split):
        targets = {target: column[0] for target, column in split.targets.items()}
        return RowFormat.of(Item({part: column[0] for part, column in named(split.inputs).items()}, targets), dtype)
    try:
        row_format = RowFormat.of(split.first, dtype)
    except DataError as error:
        raise DataError(f"Split '{name}': {error}") from error
    if split.row is not None and split.row.shapes != row_format.row:
        raise DataError(
            f"Split '{name}' says that a row of its inputs is {split.row}, and its first row is {row_format.row}."
        )
    return row_format


def described(splits: Mapping[str, Carved]) -> InputSpec | None:
    """Return what the splits themselves say that one row is; None where they say nothing."""
    said = [split.row for split in splits.values() if isinstance(split, MapSplit | StreamSplit) and split.row]
    return InputSpec.covering(said) if said else None


def describe(splits: Mapping[str, Split | Reader]) -> InputSpec:
    """Return what one row is, with the number of categories of each entry of an integer vector, over all splits.

    They are counted where all rows are in columns, those of files that are mapped included.
    """
    columns = [each.split if isinstance(each, Gathered) else each for each in splits.values()]
    inputs = [named(each.inputs) for each in columns if isinstance(each, Split)]
    if len(inputs) < len(columns):
        return next(each.row.shapes for each in splits.values())
    parts = {name: _described([each[name] for each in inputs]) for name in inputs[0]}
    return parts.get("") or InputSpec(parts=parts)


def _described(parts: Sequence[Tensor]) -> InputSpec:
    shape = tuple(parts[0].shape[1:])
    if len(shape) > 1 or parts[0].dtype not in {torch.int8, torch.int16, torch.int32, torch.int64}:
        return InputSpec(shape)
    most = torch.stack([part.reshape(len(part), -1).amax(0) for part in parts]).amax(0)
    return InputSpec(shape, tuple(max(1, value + 1) for value in most.tolist()))
