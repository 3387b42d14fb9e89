"""The plan of a run: how its sources are mixed, and how long and how often."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from mtlkit.config import DEFAULT_EPOCHS
from mtlkit.data.mixing import Mixing
from mtlkit.data.splits import derived_seed
from mtlkit.errors import closest
from mtlkit.experiment import BoundTask, Plan, SourceGroup
from mtlkit.resolve import Resolved
from mtlkit.strategies.base import Over
from mtlkit.yamlfile import SettingPath

__all__ = ["mixing_of", "plan_of"]


def mixing_of(resolved: Resolved, tasks: Sequence[BoundTask], groups: Sequence[SourceGroup]) -> Mixing | None:
    """Return how the sources are drawn; None where each is in every step."""
    config = resolved.config.mixing
    seed = derived_seed(resolved.config.run.seed, "mixing")
    if config.name == "all":
        return None
    if config.name == "uniform":
        return Mixing({group.name: 1.0 for group in groups}, seed=seed)
    if config.name == "ratios":
        return Mixing(_sizes_by_source(resolved, tasks, groups, "ratios", config.ratios), seed=seed)
    if config.sizes is None:
        sizes = {group.name: _size(resolved, group) for group in groups}
    else:
        sizes = _sizes_by_source(resolved, tasks, groups, "sizes", config.sizes)
    if config.name == "proportional":
        return Mixing(sizes, seed=seed)
    last = 1 / config.temperature
    return Mixing(sizes, first=1.0 if config.name == "annealed" else last, last=last, seed=seed)


def _size(resolved: Resolved, group: SourceGroup) -> float:
    """Return how many batches one pass over a source has, the last one counted as far as it goes."""
    if group.stream.rows is not None:
        return group.stream.rows / group.stream.batch_size
    what = f"Sources are drawn by their sizes, and how many rows the source of '{group.name}' has is unknown"
    raise resolved.problem(what, ("mixing",), "Give mixing.sizes, or name the mixing uniform or ratios.")


def _sizes_by_source(
    resolved: Resolved,
    tasks: Sequence[BoundTask],
    groups: Sequence[SourceGroup],
    key: str,
    given: Mapping[str, float],
) -> dict[str, float]:
    """Return sizes that were given by the labels of tasks, by the names of their sources."""
    names = {tasks[index].label: group.name for group in groups for index in group.tasks}
    sizes: dict[str, float] = {}
    for label, size in given.items():
        name = names.get(label, label)
        if name in sizes:
            what = f"'{label}' shares its source with another task here, and a source is drawn as one"
            raise resolved.problem(what, ("mixing", key, label), "Leave one of them out.")
        sizes[name] = size
    for group in groups:
        if group.name not in sizes:
            labels = " or ".join(f"'{tasks[index].label}'" for index in group.tasks)
            what = f"How often the source of {labels} is drawn is not said"
            raise resolved.problem(what, ("mixing", key), f"Give {labels} a number.")
    return sizes


def _steps_per_epoch(resolved: Resolved, groups: Sequence[SourceGroup]) -> int:
    rule, path = resolved.config.epoch_length, ("training", "epoch_length")
    known = [group.stream.batches for group in groups if group.stream.batches is not None]
    unknown = [group.name for group in groups if group.stream.batches is None]
    if not known or (unknown and rule == "sum"):
        what = f"How many rows the source of '{unknown[0]}' has is unknown, so an epoch ({rule}) has no length"
        raise resolved.problem(what, path, "Give training.steps_per_epoch.")
    batches = {"longest": max(known), "shortest": min(known), "sum": sum(known)}[rule]
    return math.ceil(batches / resolved.config.training.accumulate)


def plan_of(resolved: Resolved, tasks: Sequence[BoundTask], groups: Sequence[SourceGroup]) -> Plan:
    """Return the numbers that the loop goes by."""
    config = resolved.config
    training, evaluation, checkpoints = config.training, config.evaluation, config.checkpoints
    steps_per_epoch = training.steps_per_epoch or _steps_per_epoch(resolved, groups)
    label, slash, metric = checkpoints.best.partition("/")
    if slash:
        bound = next(bound for bound in tasks if bound.label == label)
        known = bound.fresh_metrics(resolved.device)
        path: SettingPath = ("checkpoints", "best")
        if metric not in known:
            raise resolved.problem(f"Task '{label}' has no metric '{metric}'", path, closest(metric, list(known)))
        if known[metric].higher_is_better is None:
            what = f"The metric '{metric}' of task '{label}' does not say whether higher is better"
            raise resolved.problem(what, path, "Choose by another metric, or by loss.")
    return Plan(
        steps=training.steps or (training.epochs or DEFAULT_EPOCHS) * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        accumulate=training.accumulate,
        clip_norm=training.clip_norm,
        autocast={"bfloat16": torch.bfloat16, "float16": torch.float16}.get(training.precision),
        heads=training.heads,
        log_every=training.log_every,
        non_finite=training.non_finite,
        non_finite_limit=training.non_finite_limit,
        evaluate_every=evaluation.every * steps_per_epoch,
        evaluation_batch_size=evaluation.batch_size,
        measure_every=config.diagnostics.every,
        measure_over=Over(config.diagnostics.over),
        checkpoint_every=checkpoints.every * steps_per_epoch,
        background=checkpoints.background,
        keep=checkpoints.keep,
        best=checkpoints.best,
        deterministic=training.deterministic,
        threads=training.threads,
        seed=derived_seed(config.run.seed, "loop"),
    )
