"""Features of several batches that went through the encoder as one: each is a slice of the rows of one tensor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from mtlkit.gradients.walk import Edge

__all__ = ["Slice", "slices_of"]

_INTO_PARTS = {"SplitWithSizesBackward0", "SplitWithSizesBackward0_copy"}
_INTO_EQUAL = {"SplitBackward0", "SplitBackward0_copy"}
_OUT_OF = {"SliceBackward0", "SliceBackward0_copy"}
_KINDS = _INTO_PARTS | _INTO_EQUAL | _OUT_OF
_SIGN = 2**63


class Slice(NamedTuple):
    """Some rows of a tensor.

    Attributes:
        whole: Where the tensor comes from.
        rows: Which of its rows they are.
        n_rows: How many it has.
    """

    whole: Edge
    rows: slice
    n_rows: int

    @classmethod
    def of(cls, tensor: Tensor) -> Slice | None:
        """Recognise what ``split``, ``chunk``, ``narrow`` and ``[start:stop]`` make; None for anything else."""
        node: Any = tensor.grad_fn
        name = type(node).__name__
        if name not in _KINDS or node._saved_dim != 0:  # noqa: SLF001 - all that tells
            return None
        n_rows = node._saved_self_sym_sizes[0]  # noqa: SLF001
        if name in _OUT_OF:
            if node._saved_step != 1:  # noqa: SLF001
                return None
            start = node._saved_start or 0  # noqa: SLF001
            start -= 0 if start < _SIGN else 2 * _SIGN - n_rows  # from the end, and kept without its sign
        elif name in _INTO_PARTS:
            start = sum(node._saved_split_sizes[: tensor.output_nr])  # noqa: SLF001
        else:
            start = node._saved_split_size * tensor.output_nr  # noqa: SLF001
        stop = start + tensor.shape[0]
        return cls(node.next_functions[0], slice(start, stop), n_rows) if 0 <= start <= stop <= n_rows else None


def _parts_of(node: Any, parts: Sequence[Tensor]) -> list[Slice]:
    """Return the slices that one operation made, if it cut rows; it is asked once for all."""
    if node._saved_dim != 0:  # noqa: SLF001 - all that tells
        return []
    ends = list(itertools.accumulate(node._saved_split_sizes, initial=0))  # noqa: SLF001
    whole = node.next_functions[0]
    return [Slice(whole, slice(ends[part.output_nr], ends[part.output_nr + 1]), ends[-1]) for part in parts]


def slices_of(features: Sequence[Tensor]) -> list[Slice] | None:
    """Return the slice that each tensor is, if all are of one tensor and no two have a row in common."""
    made_by = features[0].grad_fn if features else None
    if type(made_by).__name__ in _INTO_PARTS and all(z.grad_fn is made_by for z in features):
        slices = _parts_of(made_by, features)
    else:
        found = [Slice.of(z) for z in features]
        slices = [each for each in found if each is not None]
        if len(slices) < len(found):
            return None
    if not slices or len({each.whole for each in slices}) > 1:
        return None
    ordered = sorted(slices, key=lambda each: each.rows.start)
    if any(one.rows.stop > other.rows.start for one, other in itertools.pairwise(ordered)):
        return None
    return slices
