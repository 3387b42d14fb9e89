"""The losses of a step: their names, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mtlkit.gradients.bank import BankLosses
from mtlkit.strategies.base import Strategy

__all__ = ["Losses", "check", "named", "non_finite"]

Losses = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def named(losses: Losses) -> tuple[list[str], list[Tensor]]:
    """Return what to call each loss in an error, and the losses one by one."""
    if isinstance(losses, Mapping):
        return [f"'{name}'" for name in losses], list(losses.values())
    if isinstance(losses, Tensor) and losses.ndim != 1:
        raise ValueError(f"losses given as one tensor need shape [K]; received {tuple(losses.shape)}")
    each = list(losses.unbind() if isinstance(losses, Tensor) else losses)
    return [f"task {index}" for index in range(len(each))], each


def check(
    names: Sequence[str],
    losses: Sequence[Tensor],
    strategy: Strategy,
    tasks: Tensor | None,
    preference: Tensor | None,
    banks: Sequence[BankLosses] = (),
) -> None:
    """Raise ValueError where the losses are not those of the tasks present, or no scalars that train something."""
    expected = strategy.n_tasks if tasks is None else len(tasks)
    places = [place for bank in banks for place in bank.places]
    if len(losses) + len(places) != expected:
        raise ValueError(f"received {len(losses) + len(places)} losses for {expected} tasks")
    if len(set(places)) != len(places) or not set(places) <= set(range(expected)):
        raise ValueError(f"the places of the tasks in banks are different numbers below {expected}; received {places}")
    for bank in banks:
        bank.check()
    if preference is not None and preference.shape != (expected,):
        shape = tuple(preference.shape)
        raise ValueError(f"preference needs one factor for each of the {expected} losses; received shape {shape}")
    for name, loss in zip(names, losses, strict=True):
        if loss.ndim != 0:
            raise ValueError(f"the loss of {name} must be a scalar; received shape {tuple(loss.shape)}")
        if not loss.requires_grad:
            raise ValueError(f"the loss of {name} depends on nothing that can be trained")


def non_finite(what: str, names: Sequence[str], finite: Tensor, values: Tensor) -> str:
    """Say which tasks' values are not finite."""
    bad = [f"{n} ({v})" for n, f, v in zip(names, finite.tolist(), values.tolist(), strict=True) if not f]
    return f"Non-finite {what} of {', '.join(bad)}."
