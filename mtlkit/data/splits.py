"""Splits: what a source gives, and what is carved from its training rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlkit.errors import DataError
from mtlkit.specs import InputSpec
from mtlkit.task import Split
from mtlkit.tensors import named

__all__ = ["SPLITS", "carve", "derived_seed", "describe"]

SPLITS = ("train", "validation", "test")


def derived_seed(*parts: object) -> int:
    """Return a seed that depends on every part, and on nothing else: not on the process, nor on hash randomisation."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def carve(splits: Mapping[str, Split], *, validation: float, test: float, seed: int) -> dict[str, Split]:
    """Return all three splits, those that the source lacks carved at random from its training rows.

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
    train = splits["train"]
    for name, split in splits.items():
        if split.row != train.row or set(split.targets) != set(train.targets):
            raise DataError(
                f"Split '{name}' does not match 'train': rows of shape {split.row} with columns "
                f"{sorted(split.targets)}, against {train.row} with {sorted(train.targets)}."
            )
    wanted = {"validation": validation, "test": test}
    sizes = {name: max(1, round(len(train) * part)) for name, part in wanted.items() if name not in splits}
    if len(train) - sum(sizes.values()) < 1:
        raise DataError(
            f"{len(train)} training rows are too few to carve {' and '.join(sizes)} from. Let the source give these "
            "splits."
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    carved = dict(splits)
    for name, size in sizes.items():
        carved[name], order = train.take(order[:size].sort().values), order[size:]
    if sizes:
        carved["train"] = train.take(order.sort().values)
    return {name: carved[name] for name in SPLITS}


def describe(splits: Mapping[str, Split]) -> InputSpec:
    """Return what one row is, with the number of categories of each entry of an integer vector, over all splits."""
    inputs = [named(split.inputs) for split in splits.values()]
    parts = {name: _described([each[name] for each in inputs]) for name in inputs[0]}
    return parts.get("") or InputSpec(parts=parts)


def _described(parts: Sequence[Tensor]) -> InputSpec:
    shape = tuple(parts[0].shape[1:])
    if len(shape) > 1 or parts[0].dtype not in {torch.int8, torch.int16, torch.int32, torch.int64}:
        return InputSpec(shape)
    most = torch.stack([part.reshape(len(part), -1).amax(0) for part in parts]).amax(0)
    return InputSpec(shape, tuple(max(1, value + 1) for value in most.tolist()))
