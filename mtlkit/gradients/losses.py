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
from mtlkit.strategies.numbers import tensor_of

__all__ = ["Losses", "StepLosses", "Unit", "check", "names_of", "single"]

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


class StepLosses:
    """The losses of a step.

    Attributes:
        values: All of them ``[K]``, out of the graph.
        units: The same in the graph, those of a bank together.
    """

    def __init__(self, values: Tensor, units: list[Unit], given: Losses, single: Sequence[Tensor]) -> None:
        self.values = values
        self.units = units
        self._count = len(single) + sum(len(unit.tasks) for unit in units[len(single) :])
        self._given = given
        self._single = single  # those that are in no bank, in order

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
        each = single(losses)
        check(losses, each, strategy, tasks, preference, banks)
        places = free_places(len(each), banks) if banks else range(len(each))
        stacked = losses if isinstance(losses, Tensor) else torch.stack(each) if each else None
        values = (joined(stacked, places, banks) if banks or stacked is None else stacked).detach()
        units = [Unit((place,), root) for place, root in zip(places, _roots(losses, each), strict=True)]
        units += [Unit(bank.places, bank.losses, bank) for bank in banks]
        return cls(values, units, losses, each)

    def __len__(self) -> int:
        """Return K."""
        return self._count

    def seed(self, loss_scale: float) -> list[Tensor]:
        """Return what one loss is differentiated with by itself."""
        return [self.values.new_full((), loss_scale)]

    def seeded(self, factors: Sequence[float] | float) -> tuple[list[Place], list[Tensor]]:
        """Return what to differentiate from, and with which gradients, to get the sum of the losses times factors.

        Args:
            factors: A factor for each task ``[K]``, or one for all.
        """
        roots = [unit.root for unit in self.units]
        are_single = len(self._single) == len(roots)
        if are_single and isinstance(self._given, Tensor):
            return [self._given], [self._vector(factors)]
        if are_single and not isinstance(factors, Sequence):
            return roots, self.seed(factors) * len(roots)  # the same for all: it is only read
        seeds = self._vector(factors)
        if are_single:
            return roots, list(seeds.unbind())
        return roots, [seeds[unit.tasks[0] if unit.bank is None else list(unit.tasks)] for unit in self.units]

    def _vector(self, factors: Sequence[float] | float) -> Tensor:
        if isinstance(factors, Sequence):
            return tensor_of(factors, self.values)
        return self.values.new_full(self.values.shape, factors)

    @cached_property
    def names(self) -> list[str]:
        """What to call each in an error."""
        told: dict[int, str] = {}
        others = iter(names_of(self._given, len(self._single)))
        for tasks, _, bank in self.units:
            if bank is None:
                told[tasks[0]] = next(others)
            else:
                told.update((place, f"'{name}'") for place, name in zip(bank.places, bank.names, strict=True))
        return [told[place] for place in range(len(told))]

    @cached_property
    def roots(self) -> list[Place]:
        """What each is differentiated from by itself, for which banks are taken apart: not done before it is needed."""
        found: dict[int, Place] = {}
        for tasks, root, bank in self.units:
            if bank is None:
                found[tasks[0]] = root
            else:
                found.update(zip(bank.places, bank.losses.unbind(), strict=True))
        return [found[place] for place in range(len(found))]


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


def single(losses: Losses) -> list[Tensor]:
    """Return the losses one by one."""
    if isinstance(losses, Tensor):
        if losses.ndim != 1:
            raise ValueError(f"losses given as one tensor need shape [K]; received {tuple(losses.shape)}")
        return list(losses.unbind())
    return list(losses.values() if isinstance(losses, Mapping) else losses)


def names_of(losses: Losses, count: int) -> list[str]:
    """Return what to call each loss in an error."""
    return [f"'{name}'" for name in losses] if isinstance(losses, Mapping) else [f"task {i}" for i in range(count)]


def check(
    losses: Losses,
    each: Sequence[Tensor],
    strategy: Strategy,
    tasks: Tensor | None,
    preference: Tensor | None,
    banks: Sequence[BankLosses] = (),
) -> None:
    """Raise ValueError where the losses are not those of the tasks present, or no scalars that train something.

    Args:
        losses: Those that are in no bank, as they were given.
        each: The same one by one.
        strategy: What weighs them.
        tasks: The indices of the tasks present; None where all are.
        preference: A factor for each.
        banks: The losses of tasks in banks.
    """
    expected = strategy.n_tasks if tasks is None else len(tasks)
    received = len(each) + sum(len(bank.places) for bank in banks)
    if received != expected:
        raise ValueError(f"received {received} losses for {expected} tasks")
    if banks:
        places = [place for bank in banks for place in bank.places]
        if len(set(places)) != len(places) or not set(places) <= set(range(expected)):
            raise ValueError(
                f"the places of the tasks in banks are different numbers below {expected}; received {places}"
            )
        for bank in banks:
            bank.check()
    if preference is not None and preference.shape != (expected,):
        shape = tuple(preference.shape)
        raise ValueError(f"preference needs one factor for each of the {expected} losses; received shape {shape}")
    for place, loss in enumerate(each):
        if loss.ndim:
            name = names_of(losses, len(each))[place]
            raise ValueError(f"the loss of {name} must be a scalar; received shape {tuple(loss.shape)}")
        if not loss.requires_grad:
            name = names_of(losses, len(each))[place]
            raise ValueError(f"the loss of {name} depends on nothing that can be trained")
