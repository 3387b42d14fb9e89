"""Gradients as rows: their inner products, and state of their size, which is known once the first of them is seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtlkit.solvers.few import FEW
from mtlkit.strategies.numbers import tensor_of

__all__ = ["Rows", "gramian_of", "norms_of_each"]


class Rows(nn.Module):
    """A number for each task and each shared parameter ``[T, P]``, 0 at the start, and how often each task was seen.

    It takes the dtype and the device of the first gradients that it is given. The tensor that holds the numbers is
    replaced, and never written over: whoever holds the one before can go back to it, and nothing has to be copied.

    Args:
        n_tasks: T.
    """

    values: Tensor  # [T, P]; [T, 0] until P is known
    counts: Tensor  # [T]

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(n_tasks, 0, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(n_tasks, dtype=torch.float64))

    def like(self, jacobian: Tensor) -> Tensor:
        """Return the numbers ``[T, P]``, made if this is the first time.

        Raises:
            ValueError: If the gradients have another size than before.
        """
        if self.values.shape[1] == 0:
            self.values = torch.zeros(len(self.values), jacobian.shape[1], dtype=jacobian.dtype, device=jacobian.device)
        if self.values.shape[1] != jacobian.shape[1]:
            raise ValueError(
                f"the tasks' gradients have {jacobian.shape[1]} entries, and had {self.values.shape[1]} before: this "
                "strategy remembers them, so what is shared must stay the same"
            )
        return self.values

    def keep(self, tasks: Tensor | None, rows: Tensor) -> None:
        """Remember other numbers ``[K, P]`` of the tasks present, and that these were seen.

        Args:
            tasks: The indices of the tasks present ``[K]``; None where all are.
            rows: Their numbers, which nobody writes over from now on.
        """
        if tasks is None:
            self.values = rows.to(self.values)
            self.counts += 1
        else:
            self.values = self.values.index_copy(0, tasks.to(self.values.device), rows.to(self.values))
            self.counts[tasks] += 1

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}values")
        if isinstance(saved, Tensor) and saved.ndim == 2 and len(saved) == len(self.values):  # noqa: PLR2004
            self.values = torch.zeros_like(saved, device=self.values.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


_DOUBLE = torch.zeros((), dtype=torch.float64)
_MANY = 2**22  # bytes of rows, that no cache holds: a product of them is quicker block by block, and more precise
_BLOCK = 2**13
_SAFE = (1e-12, 1e12)  # norms whose squares, and whose products with each other, stay well inside of float32


def gramian_of(rows: Tensor, last: Tensor | None = None) -> Tensor:
    """Return the inner products ``[K, K]`` of rows ``[K, P]``, in float64 on the CPU.

    Norms are computed each by itself: a matrix product may round equal rows differently, and equal norms are then not
    equal. Where a norm is far from 1, the rows are scaled first, so that neither 1e-30 nor 1e30 leaves float32 when it
    is squared.

    Args:
        rows: The rows; with a last one, all before it ``[K - 1, P]``.
        last: One more that stands elsewhere ``[P]``.
    """
    if last is not None and not len(rows):
        rows, last = last[None], None
    norms = _norms(rows) + ([] if last is None else _norms(last[None]))
    if _are_safe(norms):
        return _products(rows, norms, last)
    if last is not None:
        rows = torch.cat((rows, last[None]))
    scaled, scale = _scaled(rows)
    return _products(scaled, _norms(scaled)) * scale * scale.T


def norms_of_each(tensors: Sequence[Tensor] | Tensor) -> np.ndarray:
    """Return the norms of tensors of any shapes, or of rows ``[K, P]``, ``[K]`` in float64, whatever their size."""
    norms = _norms(tensors) if isinstance(tensors, Tensor) else _norms_one_by_one(tensors)
    if not _are_safe(norms):
        scaled = [_scaled(each.reshape(1, -1)) for each in tensors]
        norms = [_norms(rows)[0] * scale.item() for rows, scale in scaled]
    return np.array(norms)


def _are_safe(norms: Sequence[float]) -> bool:
    return min(norms) > _SAFE[0] and max(norms) < _SAFE[1]


def _scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows whose largest entry is 1, and what they are to be multiplied by ``[K, 1]``, in float64 on the CPU."""
    largest = rows.abs().amax(1, keepdim=True)  # a norm of 0 may be one that was too small to square
    return rows / torch.where(largest > 0, largest, 1), largest.double().cpu()


def _norms(rows: Tensor) -> list[float]:
    norms: list[float] = torch.linalg.vector_norm(rows, dim=1).tolist()
    return norms


def _norms_one_by_one(tensors: Sequence[Tensor]) -> list[float]:
    norms: list[float] = torch.stack(torch._foreach_norm(list(tensors))).tolist()  # noqa: SLF001 - as torch.optim does
    return norms


def _products(rows: Tensor, norms: Sequence[float], last: Tensor | None = None) -> Tensor:
    products = _products_of_rows(rows)
    if last is not None:
        across = (rows @ last).to(products)
        products = torch.cat((torch.cat((products, across[:, None]), 1), torch.cat((across, across[:1]))[None]))
    squares = [norm * norm for norm in norms]
    if len(squares) <= FEW:
        few: list[list[float]] = products.tolist()
        for place, square in enumerate(squares):
            few[place][place] = square
        return tensor_of(chain.from_iterable(few), _DOUBLE).view(len(few), -1)
    array = products.double().cpu().numpy()
    array.flat[:: len(squares) + 1] = squares
    return torch.from_numpy(array)


def _products_of_rows(rows: Tensor) -> Tensor:
    if rows.nbytes <= _MANY:
        return rows @ rows.t()
    size = rows.shape[1] // _BLOCK * _BLOCK
    blocks = rows[:, :size].unflatten(1, (-1, _BLOCK)).transpose(0, 1)  # [P / block, K, block]
    products = torch.bmm(blocks, blocks.mT).sum(0, dtype=torch.float64)
    if size < rows.shape[1]:
        products += rows[:, size:] @ rows[:, size:].t()
    return products
