"""Sampling: how often each row of a source is drawn, where classes or weights say so."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["class_weights", "row_weights"]


def class_weights(classes: Tensor, labelled: Tensor) -> Tensor:
    """Return a weight for each row ``[N]``, by which every class is drawn as often.

    With m of N rows labelled, m_c of them of class c, and C classes that occur, a labelled row of class c weighs
    m / (C m_c), and a row without a label weighs 1. So rows without a label come as often as in a shuffle, since other
    tasks may have theirs on them, and of the labelled rows each class is one C-th.

    Args:
        classes: The class of each row ``[N]`` or ``[N, 1]``, whole numbers of any dtype; of no matter where there is
            no label.
        labelled: Which rows have a label ``[N]``.

    Raises:
        ValueError: If the column is no column of whole numbers.
    """
    classes = _flat(classes)[labelled]
    if classes.is_floating_point() and not torch.equal(classes, classes.round()):
        raise ValueError("it holds numbers that are not whole, and classes are")
    _, numbers, counts = classes.unique(return_inverse=True, return_counts=True)
    weights = torch.ones(len(labelled), dtype=torch.float64)
    weights[labelled.cpu()] = (len(classes) / (len(counts) * counts.double())).cpu()[numbers.cpu()]
    return weights


def row_weights(column: Tensor) -> Tensor:
    """Return the weights ``[N]`` that a column ``[N]`` or ``[N, 1]`` holds, in float64 on the CPU.

    Raises:
        ValueError: If it is of another shape, a weight is negative or not finite, or all are 0.
    """
    weights = _flat(column).detach().to("cpu", torch.float64)
    wrong = (~weights.isfinite() | (weights < 0)).nonzero().flatten().tolist()
    if wrong:
        example = f"such as {weights[wrong[0]].item()} of row {wrong[0]}"
        raise ValueError(f"a weight is finite and at least 0, and {len(wrong)} of {len(weights)} are not, {example}")
    if not weights.any():
        raise ValueError("every weight is 0, so no row could be drawn")
    return weights


def _flat(column: Tensor) -> Tensor:
    if column.ndim == 1:
        return column
    if column.shape[1:] == (1,):
        return column[:, 0]
    raise ValueError(f"it holds {list(column.shape[1:])} values a row, and one is needed")
