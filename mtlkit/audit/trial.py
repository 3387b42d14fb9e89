"""Trial: a few first steps of a run, taken to see what they cost and whether anything is amiss in them."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.engine.forward import TaskBatch, forward
from mtlkit.engine.step import forward_backward
from mtlkit.errors import NonFiniteError
from mtlkit.experiment import Experiment
from mtlkit.strategies.base import Needs, Strategy
from mtlkit.task import Split
from mtlkit.tensors import listed

__all__ = ["Cost", "TaskTrial", "Trial"]

STEPS = 5  # that are timed; the first one also pays for what is made once
PASSES = 16  # of one step that are made at most, where it has more of them


@dataclass(frozen=True)
class TaskTrial:
    """What one task made of its first batch.

    Attributes:
        label: The task.
        weight: The constant factor on its weight.
        output: What its head made of the rows.
        loss: Its loss.
        is_finite: Whether the loss is finite.
        finite: The fraction of outputs that are finite.
        has_finite_gradient: Whether its gradient is finite at every parameter.
        shared_norm: The norm of its gradient at everything that is shared; NaN where nothing of that is trained.
    """

    label: str
    weight: float
    output: Tensor
    loss: float
    is_finite: bool
    finite: float
    has_finite_gradient: bool
    shared_norm: float


@dataclass(frozen=True)
class Cost:
    """What a run will need, as far as its first steps show.

    Attributes:
        seconds: A step, the median of a few; None where none could be taken.
        steps: The steps of the run.
        parameters: Bytes of the model's parameters and buffers, and as many again for gradients.
        optimizer: Bytes of the optimizer's state.
        activations: Bytes that the forward passes of one step keep for the backward.
        rows: Bytes of the rows that are held in memory.
    """

    seconds: float | None
    steps: int
    parameters: int
    optimizer: int
    activations: int
    rows: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.parameters + self.optimizer + self.activations + self.rows


@dataclass(frozen=True)
class Trial:
    """A few first steps of a run.

    Attributes:
        tasks: What each task made of its first batch, those that had a labelled row in it.
        untrained: The parameters that no loss depends on, by name.
        has_constant_weights: Whether the strategy weighs the losses alike whatever they are.
        cost: What the run will need.
    """

    tasks: Sequence[TaskTrial]
    untrained: Sequence[str]
    has_constant_weights: bool
    cost: Cost

    @classmethod
    def of(cls, experiment: Experiment) -> Trial:
        """Take a few steps of an experiment that nothing else will use: its weights and its streams move on."""
        model = experiment.model.train()
        experiment.strategy.train()
        constant = _is_constant(experiment.strategy)
        held = _Held(model)
        with held:
            made = [
                each
                for group in experiment.groups
                for each in forward(experiment, group, group.stream.next(), complete=group.complete)
            ]
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        shared = {id(parameter) for parameter in model.shared_parameters()}
        reached: set[str] = set()
        tasks = [_tried(experiment, each, trained, shared, reached) for each in sorted(made, key=lambda m: m.task)]
        del made
        absent = len(tasks) < len(experiment.tasks)
        untrained = [] if absent else [name for name in trained if name not in reached]
        seconds = _timed(experiment) if all(t.is_finite and t.has_finite_gradient for t in tasks) else None
        cost = Cost(
            seconds=seconds,
            steps=experiment.plan.steps,
            parameters=_bytes([*model.parameters(), *model.buffers()]) + _bytes(list(trained.values())),
            optimizer=_bytes(_tensors(experiment.optimizer.state_dict()["state"])),
            activations=held.bytes,
            rows=sum(
                _bytes([*listed(split.inputs), *split.targets.values()])
                for group in experiment.groups
                for split in group.splits.values()
                if isinstance(split, Split)
            ),
        )
        return cls(tasks, untrained, constant, cost)


def _tried(
    experiment: Experiment,
    made: TaskBatch,
    trained: dict[str, nn.Parameter],
    shared: set[int],
    reached: set[str],
) -> TaskTrial:
    bound = experiment.tasks[made.task]
    loss = made.loss.detach()
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        made.loss, list(trained.values()), retain_graph=True, allow_unused=True
    )
    found = {name: gradient for name, gradient in zip(trained, gradients, strict=True) if gradient is not None}
    reached.update(found)
    at_shared = [gradient for name, gradient in found.items() if id(trained[name]) in shared]
    nothing = 0.0 if shared & set(map(id, trained.values())) else math.nan
    norm = float(torch.nn.utils.get_total_norm(at_shared)) if at_shared else nothing
    return TaskTrial(
        label=bound.label,
        weight=bound.weight,
        output=made.output.detach(),
        loss=loss.item(),
        is_finite=math.isfinite(loss.item()),
        finite=float(made.output.isfinite().float().mean()),
        has_finite_gradient=all(bool(gradient.isfinite().all()) for gradient in found.values()),
        shared_norm=norm,
    )


def _timed(experiment: Experiment) -> float | None:
    """Return the seconds of a step, the median of a few that are really taken."""
    seconds = []
    passes = min(experiment.plan.accumulate, PASSES)
    for step in range(STEPS):
        _synchronize(experiment)
        started = time.perf_counter()
        try:
            for number in range(passes):
                forward_backward(experiment, step, number)
        except NonFiniteError:
            return None
        experiment.optimizer.step()
        experiment.optimizer.zero_grad()
        _synchronize(experiment)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) * experiment.plan.accumulate / passes


def _synchronize(experiment: Experiment) -> None:
    if experiment.device.type == "cuda":
        torch.cuda.synchronize(experiment.device)


def _is_constant(strategy: Strategy) -> bool:
    """Return whether a strategy weighs alike whatever the losses are."""
    if strategy.needs is not Needs.LOSSES or strategy.watches_step or list(strategy.parameters()):
        return False
    weights = []
    for factor in (1.0, 2.0):
        losses = torch.linspace(1, factor, strategy.n_tasks, dtype=torch.float64)
        weights.append(copy.deepcopy(strategy).weights(losses).weights)
    return torch.equal(*weights)


class _Held(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that forward passes keep for the backward, parameters left out.

    Args:
        model: Whose parameters are left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self._known = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
        self.bytes = 0
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for each in value.values() for tensor in _tensors(each)]
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, list | tuple) else []
