"""The tasks, and the rows of their sources: loaded once, and drawn in an order of their own."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlkit.assemble.refusals import refusals
from mtlkit.config import RunConfig
from mtlkit.data.delivery import Delivery
from mtlkit.data.gathered import Gathered
from mtlkit.data.loading import opened, stream_of
from mtlkit.data.order import Order
from mtlkit.data.reader import Reader
from mtlkit.data.rows import Carving, Remade
from mtlkit.data.sampling import class_weights, row_weights
from mtlkit.data.settings import Loading
from mtlkit.data.splits import Given, derived_seed, describe, described, format_of
from mtlkit.errors import DataError, PluginError, closest
from mtlkit.experiment import BoundTask, SourceGroup
from mtlkit.registry import Handle
from mtlkit.resolve import Resolved
from mtlkit.task import Source, Split, Task
from mtlkit.yamlfile import SettingPath

__all__ = ["bound_task", "source_groups"]

_AUTO_MEGABYTES = 2000  # of a source that loading.memory: auto holds


def bound_task(resolved: Resolved, index: int) -> BoundTask:
    """Construct a task with its options."""
    part, label = resolved.tasks[index], resolved.labels[index]
    with refusals(resolved, part, part.path):
        task: Task = part.component(**part.options)
    provider = part.record.provider if part.record else ""
    return BoundTask(label, task, resolved.config.tasks[index].weight, provider)


def source_groups(resolved: Resolved, tasks: Sequence[BoundTask], dtype: torch.dtype) -> list[SourceGroup]:
    """Group the tasks by equal sources, and load each source once."""
    sources: list[tuple[Source, list[int]]] = []
    for index, bound in enumerate(tasks):
        with bound.blame("source"):
            source = bound.task.source()
            members = next((members for known, members in sources if known == source), None)
        if members is None:
            sources.append((source, [index]))
        else:
            members.append(index)
    return [_group(resolved, tasks, source, members, dtype) for source, members in sources]


def _group(
    resolved: Resolved, tasks: Sequence[BoundTask], source: Source, members: Sequence[int], dtype: torch.dtype
) -> SourceGroup:
    config, first = resolved.config, tasks[members[0]]
    batch_size, origin = _batch_size(resolved, tasks, members), tuple(sorted(_origin(source)))
    evaluation = config.evaluation
    split_seed = derived_seed(evaluation.split_seed, "split")
    carving = Carving(validation=evaluation.validation, test=evaluation.test, seed=split_seed)
    try:
        with first.blame("source"):
            given = source.splits()
        for index in members:
            _check_columns(tasks[index], given)
        splits = carving(given)
    except DataError as error:
        raise DataError(f"The rows of task '{first.label}' cannot be used ({first.provider}). {error}") from error
    labels = " and ".join(f"'{tasks[index].label}'" for index in members)
    readers = opened(
        splits,
        load=Remade(_handle(resolved, members[0]), carving),
        loading=_loading(config),
        delivery=Delivery(resolved.device, dtype, config.loading.pin),
        batch_size=batch_size,
        seed=derived_seed(config.run.seed, "reading", *origin),
        source=f"The rows of task{'s' if len(members) > 1 else ''} {labels} ({first.provider})",
    )
    train = readers["train"]
    complete = _are_complete([tasks[index] for index in members], train)
    weights = _row_weights(resolved, tasks, members, train)
    order = functools.partial(Order, seed=derived_seed(config.run.seed, "rows", *origin), weights=weights)
    stream = stream_of(train, order, batch_size=batch_size)
    row = described(splits) or describe(readers)
    return SourceGroup(first.label, tuple(members), readers, row, stream, complete, source, origin, row_weights=weights)


def _batch_size(resolved: Resolved, tasks: Sequence[BoundTask], members: Sequence[int]) -> int:
    """Return how many rows of a source are in a batch."""
    config = resolved.config
    sizes = {index: config.tasks[index].batch_size or config.training.batch_size for index in members}
    if len(set(sizes.values())) > 1:
        asked = ", ".join(f"{tasks[index].label} {size}" for index, size in sizes.items())
        path: SettingPath = ("tasks", members[-1], "batch_size")
        what = f"Tasks that share a source share its batches, and they ask for different sizes: {asked}"
        raise resolved.problem(what, path, "Give them one batch_size.")
    return sizes[members[0]]


def _handle(resolved: Resolved, index: int) -> Handle:
    """Return what makes a task anew in another process."""
    part = resolved.tasks[index]
    files = tuple(map(str, resolved.registry.files.values()))
    return Handle("tasks", part.record.qualified if part.record else "", part.options, files)


def _loading(config: RunConfig) -> Loading:
    given = config.loading
    limits = {"auto": _AUTO_MEGABYTES, "never": 0, "always": None}
    megabytes = given.memory if isinstance(given.memory, int) else limits[given.memory]
    return Loading(
        memory=None if megabytes is None else megabytes * 10**6,
        workers=given.workers,
        start=given.start,
        prefetch=given.prefetch,
        timeout=given.timeout,
    )


def _are_complete(tasks: Sequence[BoundTask], train: Split | Reader) -> bool:
    """Return whether every training row is known to have a label for every task; of rows not in memory none is known.

    Raises:
        DataError: If no row has one for some task.
    """
    if isinstance(train, Reader):
        return False
    complete = True
    for bound in tasks:
        with bound.blame("labelled()"):
            labelled = bound.task.labelled(train.targets[bound.task.target])
        if not labelled.any():
            raise DataError(f"Task '{bound.label}' has no labelled training row ({bound.provider}).")
        complete = complete and bool(labelled.all())
    return complete


def _row_weights(
    resolved: Resolved, tasks: Sequence[BoundTask], members: Sequence[int], train: Split | Reader
) -> Tensor | None:
    """Return how often each training row of a source is drawn; None where all are as often."""
    meant = [_sampling(resolved, tasks, index) for index in members]
    for index, (by, column) in zip(members, meant, strict=True):
        if (by, column) != meant[0]:
            asked = ", ".join(
                f"{tasks[each].label} {by}" + (f" by '{column}'" if column else "")
                for each, (by, column) in zip(members, meant, strict=True)
            )
            what = f"Tasks that share a source share how its rows are drawn, and they ask for different ones: {asked}"
            remedy = "Give them one sampling, such as {balanced: COLUMN} with the same column."
            raise resolved.problem(what, ("tasks", index, "sampling"), remedy)
    by, column = meant[0]
    if column is None:
        return None
    path: SettingPath = ("tasks", members[0], "sampling")
    if not isinstance(resolved.config.tasks[members[0]].sampling, str):
        path = (*path, by)
    if not isinstance(train, Split | Gathered):
        what = f"Rows are to be drawn {by} by the column '{column}', and they are not in memory, where it could be seen"
        raise resolved.problem(what, path, "Let them be held there: loading.memory. Of a stream they never are.")
    if column not in train.targets:
        what = f"The source has no target column '{column}'"
        raise resolved.problem(what, path, closest(column, list(train.targets)))
    # Who learns the column knows best which of its rows have a label.
    judge = next((tasks[index] for index in members if tasks[index].task.target == column), tasks[members[0]])
    values = train.targets[column]
    with judge.blame("labelled()"):
        labelled = judge.task.labelled(values)
    try:
        return class_weights(values, labelled) if by == "balanced" else row_weights(values)
    except ValueError as error:
        raise resolved.problem(f"Rows cannot be drawn {by} by the column '{column}': {error}", path) from error


def _sampling(resolved: Resolved, tasks: Sequence[BoundTask], index: int) -> tuple[str, str | None]:
    """Return how a task asks for its rows, and by which column."""
    asked = resolved.config.tasks[index].sampling
    if isinstance(asked, str):
        return asked, tasks[index].task.target if asked == "balanced" else None
    return ("balanced", asked.balanced) if asked.balanced is not None else ("weights", asked.weights)


def _origin(source: Source) -> list[str]:
    """Name a source by what it is, so that its rows come in the same order whichever tasks it is drawn beside."""
    kind = type(source)
    return [kind.__module__, kind.__qualname__, *(f"{k}={v!r}" for k, v in vars(source).items() if _is_plain(v))]


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | None)


def _check_columns(bound: BoundTask, given: Any) -> None:
    if not isinstance(given, Mapping) or not all(isinstance(split, Given) for split in given.values()):
        kinds = ", ".join(type(split).__name__ for split in given.values()) if isinstance(given, Mapping) else ""
        raise PluginError(
            f"The source of task '{bound.label}' must give a mapping from 'train', 'validation' and 'test' to Split, "
            f"or to MapSplit or StreamSplit of mtlkit.data; received {type(given).__name__}"
            f"{f' of {kinds}' if kinds else ''} ({bound.provider})."
        )
    for name, split in given.items():
        columns = format_of(split, name, torch.float32).targets
        if bound.task.target not in columns:
            raise PluginError(
                f"Task '{bound.label}' learns the target column '{bound.task.target}', and split '{name}' of its "
                f"source has {', '.join(map(repr, columns)) or 'none'} ({bound.provider})."
            )
