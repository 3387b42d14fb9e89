"""The losses of a step: their names, where each stands in the graph, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mtlkit.gradients.bank import BankLosses, free_places, joined
from mtlkit.gradients.walk import Place
from mtlkit.strategies.base import Strategy

__all__ = ["Losses", "StepLosses", "Unit", "check", "named"]

Losses = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class Unit(NamedTuple):
    """Losses that stand in the graph as one: that of a task, or those of a bank.

    Attributes:
        tasks: Their places among the losses of the step.
        root: What they are differentiated from.
        bank: The bank; None for a task by itself.
    """

    tasks: Sequence[int]
    root: Place
    bank: BankLosses | None = None


class _Each(NamedTuple):
    """Losses one by one: what to call them in an error, the scalars, and what they are differentiated from."""

    names: list[str]
    losses: list[Tensor]
    roots: list[Place]


class StepLosses:
    """The losses of a step.

    Attributes:
        stacked: All of them ``[K]``, in the graph.
        units: The same, those of a bank together.
        single: Those that are in no bank, in order.
    """

    def __init__(self, stacked: Tensor, units: list[Unit], single: _Each) -> None:
        self.stacked = stacked
        self.units = units
        self.single = single

    @classmethod
    def of(
        cls,
        losses: Losses,
        banks: Sequence[BankLosses],
        strategy: Strategy,
        tasks: Tensor | None,
        preference: Tensor | None,
    ) -> StepLosses:
        """Take the losses as they are given, or raise ValueError where they cannot be those of the tasks present."""
        names, each = named(losses)
        check(names, each, strategy, tasks, preference, banks)
        places = free_places(len(each), banks) if banks else range(len(each))
        roots = _roots(losses, each)
        with torch.enable_grad():
            stacked = losses if isinstance(losses, Tensor) else torch.stack(each) if each else None
            stacked = joined(stacked, places, banks)
        units = [Unit((place,), root) for place, root in zip(places, roots, strict=True)]
        units += [Unit(bank.places, bank.losses, bank) for bank in banks]
        return cls(stacked, units, _Each(names, each, roots))

    @cached_property
    def _every(self) -> _Each:
        """All of them one by one, for which banks are taken apart: not done before it is needed."""
        found: dict[int, tuple[str, Tensor, Place]] = {}
        singles = zip(*self.single, strict=True)
        for tasks, _, bank in self.units:
            if bank is None:
                found[tasks[0]] = next(singles)
            else:
                every = zip(bank.places, bank.names, bank.losses.unbind(), strict=True)
                found.update((place, (f"'{name}'", loss, loss)) for place, name, loss in every)
        names, losses, roots = zip(*(found[place] for place in range(len(found))), strict=True)
        return _Each(list(names), list(losses), list(roots))

    @property
    def names(self) -> list[str]:
        """What to call each in an error."""
        return self._every.names

    @property
    def each(self) -> list[Tensor]:
        """The scalars L_i."""
        return self._every.losses

    @property
    def roots(self) -> list[Place]:
        """What each is differentiated from by itself."""
        return self._every.roots


def _roots(losses: Losses, each: Sequence[Tensor]) -> list[Place]:
    """Return where each loss is differentiated from.

    Of losses that someone stacked, those before they were: from the stack, the pass of one goes through the graphs of
    all others too, with zeros.
    """
    if not isinstance(losses, Tensor) or type(losses.grad_fn).__name__ != "StackBackward0" or losses._backward_hooks:  # noqa: SLF001
        return list(each)
    before = losses.grad_fn.next_functions if losses.grad_fn else ()
    dtypes = {node._input_metadata[number].dtype for node, number in before if node is not None}  # noqa: SLF001
    if any(node is None for node, _ in before) or dtypes != {losses.dtype}:
        return list(each)
    return [GradientEdge(node, number) for node, number in before if node is not None]


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
    if banks and (len(set(places)) != len(places) or not set(places) <= set(range(expected))):
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
