"""Experiment: everything that a run is made of, built and ready to train. The engine is handed one of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mtlkit.banks import Bank
from mtlkit.data.mixing import Mixing
from mtlkit.data.reader import Reader
from mtlkit.data.stream import Stream
from mtlkit.encoders.row_by_row import is_linear, is_row_by_row
from mtlkit.errors import MtlkitError, PluginError
from mtlkit.memory import ran_out
from mtlkit.model import MultiTaskModel
from mtlkit.schedule import Schedule
from mtlkit.specs import InputSpec
from mtlkit.strategies.base import Needs, Over, Strategy
from mtlkit.task import Source, Split, Task
from mtlkit.tensors import Tensors, told
from mtlkit.transfer import Thawing

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["BoundTask", "Experiment", "Plan", "SourceGroup"]


@dataclass(frozen=True)
class BoundTask:
    """A task as it takes part in a run.

    Attributes:
        label: What the run calls it.
        task: The task.
        weight: A constant factor on the strategy's weight.
        provider: Which distribution and entry point it came from, for errors.
    """

    label: str
    task: Task
    weight: float = 1.0
    provider: str = "given in Python"

    def fresh_metrics(self, device: torch.device) -> dict[str, Metric]:
        """Return the task's metrics, begun anew: a task may hand out the same objects each time."""
        with self.blame("metrics"):
            metrics = {name: metric.to(device) for name, metric in self.task.metrics().items()}
            for metric in metrics.values():
                metric.reset()
        return metrics

    @contextmanager
    def blame(self, part: str, *tensors: tuple[str, Tensors]) -> Iterator[None]:
        """Turn whatever the task's own code raises into a PluginError that says whose it is and what it was given."""
        try:
            yield
        except MtlkitError:
            raise
        except Exception as error:
            if ran_out(error):
                raise  # which says nothing of the task's code
            shapes = "".join(f" {name} of {told(tensor)}." for name, tensor in tensors)
            raise PluginError(
                f"The {part} of task '{self.label}' failed ({self.provider}): {type(error).__name__}: "
                f"{str(error).rstrip('.')}.{shapes}"
            ) from error


@dataclass(frozen=True)
class SourceGroup:
    """A source, and the tasks that share its batches.

    Attributes:
        name: What the run calls the source: the label of its first task.
        tasks: The indices of the tasks.
        splits: The rows: train, validation and test; in memory on the run's device, or what reads them.
        row: What a row of inputs is.
        stream: The training batches.
        complete: Whether every training row is known to have a label for every one of these tasks.
        source: Where the rows come from.
        origin: What the source is, as plain text, whichever tasks it is drawn beside.
        held_out: The batches that a strategy looks ahead to: training rows too, in an order of their own; None where it
            does not look ahead.
        banks: Tasks among them whose heads are computed as one in training.
        row_weights: How often each training row is drawn ``[N]``, in proportion; None where all are as often.
    """

    name: str
    tasks: tuple[int, ...]
    splits: Mapping[str, Split | Reader]
    row: InputSpec
    stream: Stream
    complete: bool
    source: Source
    origin: tuple[str, ...]
    held_out: Stream | None = None
    banks: Sequence[Bank] = ()
    row_weights: Tensor | None = None

    @cached_property
    def alone(self) -> tuple[int, ...]:
        """The indices of the tasks that are in no bank."""
        banked = {task for bank in self.banks for task in bank.tasks}
        return tuple(task for task in self.tasks if task not in banked)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers that the loop goes by.

    Attributes:
        steps: Optimizer steps in all.
        steps_per_epoch: Steps that count as an epoch.
        accumulate: Backward passes in a step.
        clip_norm: The largest norm of the model's gradient, or None.
        autocast: The dtype to compute in by autocast, or None.
        heads: Whether a head's gradient is weighted, or plain.
        log_every: Steps from one step record to the next.
        non_finite: What is done where a value is NaN or infinite: ``stop`` the run, ``skip-task`` or ``skip-step``.
        non_finite_limit: How many steps in a row may be skipped for that.
        evaluate_every: Steps from one evaluation to the next.
        evaluation_batch_size: Rows in a batch of evaluation.
        measure_every: Steps from one sample of how the tasks' gradients compare to the next, or None.
        measure_over: Where they are compared, if the strategy does not say.
        checkpoint_every: Steps from one checkpoint to the next.
        background: Whether checkpoints are written while training goes on.
        keep: How many checkpoints stay.
        best: Which weights are the result: ``loss``, ``last``, or ``TASK/METRIC``.
        deterministic: Whether to use deterministic algorithms only.
        threads: CPU threads, or None for as many as there are.
        seed: Seeds dropout, and whatever else is random in the loop.
    """

    steps: int
    steps_per_epoch: int
    accumulate: int = 1
    clip_norm: float | None = None
    autocast: torch.dtype | None = None
    heads: Literal["weighted", "plain"] = "weighted"
    log_every: int = 10
    non_finite: Literal["stop", "skip-task", "skip-step"] = "stop"
    non_finite_limit: int = 10
    evaluate_every: int
    evaluation_batch_size: int = 512
    measure_every: int | None = None
    measure_over: Over = Over.LAST_SHARED
    checkpoint_every: int
    background: bool = True
    keep: int = 2
    best: str = "loss"
    deterministic: bool = True
    threads: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run is made of.

    Attributes:
        model: The encoder, the architecture and the heads.
        tasks: The tasks, in the order of the model's labels.
        groups: The sources, each with its tasks; every task is in exactly one.
        mixing: Which source a pass draws from, by name; None where each draws from all.
        strategy: What weighs the losses.
        optimizer: It holds the parameters of the model and of the strategy.
        scaler: What scales the losses, where they are backpropagated in float16.
        schedule: The learning rates over the run.
        plan: How long, how often.
        device: Where the model and the rows are.
        thawing: What thaws the encoder by and by, where it is frozen at first.
    """

    model: MultiTaskModel
    tasks: Sequence[BoundTask]
    groups: Sequence[SourceGroup]
    mixing: Mixing | None = None
    strategy: Strategy
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    schedule: Schedule
    plan: Plan
    device: torch.device
    thawing: Thawing | None = None

    @property
    def streams(self) -> list[Stream]:
        """Everything that training rows are drawn from: the streams of all groups, then those that are held out."""
        held_out = [group.held_out for group in self.groups if group.held_out is not None]
        return [*(group.stream for group in self.groups), *held_out]

    @cached_property
    def joins_batches(self) -> bool:
        """Whether batches of several sources go through the encoder as one, as far as their rows are of one kind.

        They do where that changes nothing but the time it takes: where no row knows of another, and all tasks share
        features. Where the strategy compares gradients at weights, they do only if the tasks' gradients can be told
        apart in one backward pass; otherwise each task would take one over the rows of all.
        """
        architecture, strategy = self.model.architecture, self.strategy
        if len(self.groups) == 1 or not architecture.shares_features or not is_row_by_row(architecture):
            return False
        if strategy.needs is Needs.LOSSES or strategy.over is Over.FEATURES:
            return True
        if self.plan.autocast is not None or not is_linear(architecture):
            return False
        # With parameters, each round of tasks is a pass over all rows, and its stems are their own task's.
        counts = {len(group.tasks) for group in self.groups}
        is_even = len(counts) == 1 and not self.model.stems and not any(group.banks for group in self.groups)
        return strategy.over is Over.LAST_SHARED or is_even

    @cached_property
    def weights(self) -> torch.Tensor:
        """The constant factors on the tasks' weights ``[T]``, in float64."""
        return torch.tensor([bound.weight for bound in self.tasks], dtype=torch.float64)

    @cached_property
    def learned(self) -> list[torch.nn.Parameter]:
        """The parameters of the strategy, which are learned along with the model's."""
        return list(self.strategy.parameters())

    @property
    def labels(self) -> list[str]:
        """The tasks' labels, in order."""
        return [bound.label for bound in self.tasks]

    @property
    def workers(self) -> int:
        """How many processes read rows for the run."""
        groups = [group.splits.values() for group in self.groups]
        return sum(max(split.processes if isinstance(split, Reader) else 0 for split in splits) for splits in groups)

    def close(self) -> None:
        """Let go of what the rows are read by, such as processes; it is there again when rows are drawn."""
        for group in self.groups:
            group.stream.close()
            for split in group.splits.values():
                if isinstance(split, Reader):
                    split.close()
