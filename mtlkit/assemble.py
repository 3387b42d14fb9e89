"""Assemble: from a resolved configuration to built objects, the one bridge between names and maths."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtlkit.architectures.base import Architecture
from mtlkit.banks import banks_among
from mtlkit.config import DEFAULT_EPOCHS, RunConfig
from mtlkit.data.delivery import Delivery
from mtlkit.data.gathered import Gathered
from mtlkit.data.in_memory import InMemoryStream
from mtlkit.data.loading import opened, stream_of
from mtlkit.data.mixing import Mixing
from mtlkit.data.order import Order
from mtlkit.data.reader import Reader, some_rows
from mtlkit.data.rows import Carving, Remade
from mtlkit.data.sampling import class_weights, row_weights
from mtlkit.data.settings import Loading
from mtlkit.data.splits import Given, derived_seed, describe, described, format_of
from mtlkit.encoders.base import Encoder
from mtlkit.errors import DataError, MtlkitError, PluginError, closest
from mtlkit.experiment import BoundTask, Experiment, Plan, SourceGroup
from mtlkit.finetune import freeze, load_pretrained, parameter_groups
from mtlkit.gradients.places import last_weights
from mtlkit.model import MultiTaskModel
from mtlkit.registry import Handle
from mtlkit.resolve import Part, Resolved
from mtlkit.schedule import Schedule
from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.stems import Chain, Stem
from mtlkit.strategies.base import Over, Strategy
from mtlkit.task import Source, Split, Task
from mtlkit.tensors import joined
from mtlkit.yamlfile import SettingPath

__all__ = ["build"]

_PLACES = {
    Over.LAST_SHARED: "last layer that they share",
    Over.FEATURES: "features that they share",
    Over.PARAMETERS: "parameters that they share",
}

# Those that move each entry of a parameter by what became of that entry alone, so that it makes no difference whether
# heads are parameters of their own or rows of one.
_ENTRY_BY_ENTRY = {
    torch.optim.ASGD,
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SGD,
}
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
_AUTO_MEGABYTES = 2000  # of a source that loading.memory: auto holds
_PREPARED = 4096  # rows that are read for an encoder to read something off, where they are not in memory


def build(resolved: Resolved, pretrained: Mapping[str, Tensor] | None = None) -> Experiment:
    """Build everything that a run is made of; the global random state is left as it was.

    Args:
        resolved: The configuration.
        pretrained: The weights that the encoders begin with, by name; None where others are to be loaded anyway.

    Raises:
        ConfigError: If a component refuses its options.
        PluginError: If a plugin's own code fails.
        DataError: If the rows do not fit one another or the tasks.
    """
    config, device = resolved.config, resolved.device
    seed, dtype = config.run.seed, _DTYPES[config.training.precision]
    tasks = [_bound(resolved, index) for index in range(len(resolved.tasks))]
    groups = _groups(resolved, tasks, dtype)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        stems = [_stem(resolved, tasks, group) for group in groups]
        architecture = _architecture(resolved, _common_row(tasks, groups, stems))
        heads: dict[str, nn.Module] = {}
        for bound in tasks:
            # By its label alone, so that a task starts from the same head whichever others it is trained with.
            torch.manual_seed(derived_seed(seed, "head", bound.label))
            with bound.blame("head"):
                heads[bound.label] = bound.task.head(architecture.features)
            if not isinstance(heads[bound.label], nn.Module):
                raise PluginError(f"The head of task '{bound.label}' is no torch module ({bound.provider}).")
        strategy = _strategy(resolved, tasks)
    if architecture.shares_features and resolved.optimizer.component in _ENTRY_BY_ENTRY:
        groups = [_banked(tasks, heads, group) for group in groups]
    if strategy.looks_ahead:
        groups = [dataclasses.replace(group, held_out=group.stream.another("held out")) for group in groups]
    of_tasks = {
        tasks[index].label: stem
        for group, stem in zip(groups, stems, strict=True)
        for index in group.tasks
        if stem is not None
    }
    banks = [bank.heads for group in groups for bank in group.banks]
    model = MultiTaskModel(architecture, heads, of_tasks, banks).to(device, dtype)
    _prepare(architecture, groups, stems)
    if pretrained is not None:  # after that: weights are worth what they were trained beside, such as means of columns
        load_pretrained(resolved, model, pretrained)
    strategy.to(device)
    plan = _plan(resolved, tasks, groups)
    thawing = freeze(resolved, model, steps_per_epoch=plan.steps_per_epoch)
    _check_place(resolved, model, strategy)
    return Experiment(
        model=model,
        tasks=tasks,
        groups=groups,
        mixing=_mixing(resolved, tasks, groups),
        strategy=strategy,
        optimizer=_optimizer(resolved, model, strategy),
        schedule=_schedule(config),
        plan=plan,
        device=device,
        thawing=thawing,
    )


@contextmanager
def _refusals(resolved: Resolved, part: Part, path: SettingPath) -> Iterator[None]:
    """Turn what a component's constructor raises into an error at its options, or its provider's."""
    try:
        yield
    except MtlkitError:
        raise
    except ValueError as error:
        text = str(error).removesuffix(".")
        raise resolved.problem(text[:1].upper() + text[1:], path) from error
    except Exception as error:
        provider = part.record.provider if part.record else part.component.__qualname__
        raise PluginError(f"{provider} failed when it was constructed: {type(error).__name__}: {error}.") from error


def _bound(resolved: Resolved, index: int) -> BoundTask:
    part, label = resolved.tasks[index], resolved.labels[index]
    with _refusals(resolved, part, part.path):
        task: Task = part.component(**part.options)
    provider = part.record.provider if part.record else ""
    return BoundTask(label, task, resolved.config.tasks[index].weight, provider)


def _groups(resolved: Resolved, tasks: Sequence[BoundTask], dtype: torch.dtype) -> list[SourceGroup]:
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
    return SourceGroup(first.label, tuple(members), readers, row, stream, complete, source, origin)


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


def _banked(tasks: Sequence[BoundTask], heads: Mapping[str, nn.Module], group: SourceGroup) -> SourceGroup:
    """Make banks of the heads that are alike among the tasks of a source, and put their targets side by side."""
    train, stream = group.splits["train"], group.stream
    if not (isinstance(stream, InMemoryStream) and isinstance(train, Split)):
        return group
    labels = [bound.label for bound in tasks]
    own = {index: heads[labels[index]] for index in group.tasks}
    banks = banks_among({index: tasks[index].task for index in group.tasks}, own, labels, train, stream)
    if not banks:
        return group
    train = train.beside([bank.columns for bank in banks])
    stream = InMemoryStream(train, stream.order, batch_size=stream.batch_size)
    return dataclasses.replace(group, splits={**group.splits, "train": train}, stream=stream, banks=banks)


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


def _stem(resolved: Resolved, tasks: Sequence[BoundTask], group: SourceGroup) -> nn.Module | None:
    """Return what a group's rows pass through before the encoder; None where they go straight to it."""
    first = tasks[group.tasks[0]]
    named = resolved.stems[group.tasks[0]]
    for index in group.tasks[1:]:
        if _plain_stem(resolved.stems[index]) != _plain_stem(named):
            what = f"Tasks that share a source share its stem, and '{first.label}' and '{tasks[index].label}' differ"
            raise resolved.problem(what, ("tasks", index), "Give them the same stem.")
    inputs = group.row
    torch.manual_seed(derived_seed(resolved.config.run.seed, "stem", *group.origin))
    if named is None:
        with first.blame("stem"):
            declared = group.source.stem(inputs)
        if declared is not None and not isinstance(getattr(declared, "rows", None), InputSpec):
            raise PluginError(
                f"The stem of the source of task '{first.label}' says in its attribute 'rows', an mtlkit.InputSpec, "
                f"what it makes of a row; it has none ({first.provider})."
            )
        return declared
    made: list[Stem] = []
    for part in named:
        with _refusals(resolved, part, part.path):
            made.append(part.component(made[-1].rows if made else inputs, **part.options))
    return Chain(made) if made else None


def _plain_stem(named: Sequence[Part] | None) -> object:
    return None if named is None else [(part.component, part.plain_options) for part in named]


def _common_row(
    tasks: Sequence[BoundTask], groups: Sequence[SourceGroup], stems: Sequence[nn.Module | None]
) -> InputSpec:
    """Return what a row is to the encoder, once it has passed through its stem."""
    given = [group.row for group in groups]
    rows: list[InputSpec] = [
        row if stem is None else cast("InputSpec", stem.rows) for row, stem in zip(given, stems, strict=True)
    ]
    if any(row.shapes != rows[0].shapes for row in rows):
        shapes = "; ".join(
            f"{' and '.join(repr(tasks[index].label) for index in group.tasks)}: {row}"
            + (f" (made of {before} by its stem)" if row is not before else "")
            for group, row, before in zip(groups, rows, given, strict=True)
        )
        raise DataError(
            f"One encoder takes rows of one shape, and the tasks' sources have several: {shapes}. A stem makes rows "
            "of another shape, such as resize, flatten, patch, linear or embed at tasks[].stem."
        )
    return InputSpec.covering(rows)


def _prepare(architecture: Architecture, groups: Sequence[SourceGroup], stems: Sequence[nn.Module | None]) -> None:
    """Show the training rows to the encoders that read something off them; of rows not in memory, some."""
    encoders = [module for module in architecture.modules() if isinstance(module, Encoder)]
    encoders = [encoder for encoder in encoders if type(encoder).prepare is not Encoder.prepare]
    if not encoders:
        return
    inputs = []
    with torch.no_grad():
        for group, stem in zip(groups, stems, strict=True):
            rows = some_rows(group.splits["train"], _PREPARED).inputs
            inputs.append(rows if stem is None else stem.eval()(rows))
            if stem is not None:
                stem.train()
        for encoder in encoders:
            encoder.prepare(inputs[0] if len(inputs) == 1 else joined(inputs))


def _architecture(resolved: Resolved, inputs: InputSpec) -> Architecture:
    part, made = resolved.architecture, 0
    provider = resolved.encoder.record.provider if resolved.encoder.record else ""

    def make_encoder() -> Encoder:
        nonlocal made
        torch.manual_seed(derived_seed(resolved.config.run.seed, "encoder", made))
        made += 1
        with _refusals(resolved, resolved.encoder, resolved.encoder.path):
            encoder: Encoder = resolved.encoder.component(inputs, **resolved.encoder.options)
        if not isinstance(getattr(encoder, "features", None), FeatureSpec):
            raise PluginError(
                f"An encoder says in its attribute 'features', an mtlkit.FeatureSpec, what it makes, and {provider} "
                "has none."
            )
        return encoder

    facts = _chosen(part, {"make_encoder": make_encoder, "n_tasks": len(resolved.tasks), "inputs": inputs})
    with _refusals(resolved, part, part.path):
        architecture: Architecture = part.component(**facts, **part.options)
    return architecture


def _strategy(resolved: Resolved, tasks: Sequence[BoundTask]) -> Strategy:
    part = resolved.strategy
    facts = {
        "n_tasks": len(tasks),
        "loss_kinds": [bound.task.loss_kind for bound in tasks],
        "n_classes": [bound.task.n_classes for bound in tasks],
        "labels": [bound.label for bound in tasks],
    }
    torch.manual_seed(derived_seed(resolved.config.run.seed, "strategy"))
    with _refusals(resolved, part, part.path):
        try:
            strategy: Strategy = part.component(**_chosen(part, facts), **part.options)
        except ValueError as error:  # most strategies know their tasks by number alone
            numbered = ", ".join(f"{index} '{bound.label}'" for index, bound in enumerate(tasks))
            raise ValueError(f"{error} (tasks: {numbered})") from error
    return strategy


def _check_place(resolved: Resolved, model: MultiTaskModel, strategy: Strategy) -> None:
    """Check that something is trained where the tasks' gradients are compared, if they are."""
    diagnostics = resolved.config.diagnostics
    over, who = strategy.over, f"The strategy '{resolved.config.strategy.name}'"
    section: SettingPath = ("strategy",)
    remedy = "Choose a strategy that needs no more than the losses, such as fixed or uncertainty"
    if over is None and diagnostics.every is not None:
        over, who, section = Over(diagnostics.over), "diagnostics", ("diagnostics", "every")
        remedy = "Compare none"
    if over is None or _is_trained_at(model, over):
        return
    transfer = resolved.config.transfer
    if transfer.freeze is not None or transfer.unfreeze is not None:
        section = ("transfer", "unfreeze" if transfer.freeze is None else "freeze")
        remedy = f"Freeze less, so that the last stage is trained from the start. Or: {remedy[:1].lower()}{remedy[1:]}"
    what = f"{who} compares the tasks' gradients at the {_PLACES[over]}, and nothing is trained there"
    raise resolved.problem(what, section, f"{remedy}.")


def _is_trained_at(model: MultiTaskModel, over: Over) -> bool:
    if over is Over.LAST_SHARED:
        try:
            return bool(last_weights(model))
        except ValueError:
            return False  # there is no layer with weights
    parameters = model.shared_parameters()
    if over is Over.FEATURES:  # whatever stands before them, a task's own too
        parameters = [*model.architecture.parameters(), *model.stems.parameters()]
    return any(parameter.requires_grad for parameter in parameters)


def _chosen(part: Part, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in part.signature.facts}


def _optimizer(resolved: Resolved, model: nn.Module, strategy: Strategy) -> torch.optim.Optimizer:
    part = resolved.optimizer
    groups = parameter_groups(resolved, model)
    known = {"params", *part.options}  # not every optimizer has weight decay, say
    groups += [{k: v for k, v in group.items() if k in known} for group in strategy.parameter_groups()]
    make: Callable[..., torch.optim.Optimizer] = part.component
    options = dict(part.options)
    if options.get("fused", False) is None and not options.get("foreach") and _can_be_fused(part, resolved.device):
        options["fused"] = True  # one kernel for all parameters, where torch would take several for each
    with _refusals(resolved, part, part.path):
        optimizer = make(groups, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _can_be_fused(part: Part, device: torch.device) -> bool:
    """Return whether torch has one kernel for all parameters that does what its others do."""
    if part.component is torch.optim.Adagrad:
        return device.type != "cuda"  # where it has none
    # With momentum, that of SGD fails once a parameter first has a gradient after others had theirs: a head whose task
    # was absent till then, or a stage that is thawed.
    return part.component is not torch.optim.SGD or not part.options["momentum"]


def _schedule(config: RunConfig) -> Schedule:
    options: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in config.schedule.model_dump().items()
    }
    return Schedule(shape=options.pop("name"), **options)


def _mixing(resolved: Resolved, tasks: Sequence[BoundTask], groups: Sequence[SourceGroup]) -> Mixing | None:
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


def _plan(resolved: Resolved, tasks: Sequence[BoundTask], groups: Sequence[SourceGroup]) -> Plan:
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
        autocast=torch.bfloat16 if training.precision == "bfloat16" else None,
        log_every=training.log_every,
        evaluate_every=evaluation.every * steps_per_epoch,
        evaluation_batch_size=evaluation.batch_size,
        measure_every=config.diagnostics.every,
        measure_over=Over(config.diagnostics.over),
        checkpoint_every=checkpoints.every * steps_per_epoch,
        keep=checkpoints.keep,
        best=checkpoints.best,
        deterministic=training.deterministic,
        threads=training.threads,
        seed=derived_seed(config.run.seed, "loop"),
    )
