"""Assemble: from a configuration's names to built objects. The one bridge between the registry and the maths.

:func:`resolve` finds what the configuration names and checks every option, and tells of everything that is wrong at
once; :func:`build` makes an :class:`~mtlkit.experiment.Experiment` of what it found.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from mtlkit.architectures.base import Architecture
from mtlkit.config import DEFAULT_NAMES, Checkpoints, Component, RunConfig, TaskConfig, Training, named
from mtlkit.data.splits import carve, derived_seed
from mtlkit.data.stream import Stream
from mtlkit.encoders.base import Encoder
from mtlkit.errors import ConfigError, DataError, MtlkitError, PluginError, Problem, closest
from mtlkit.experiment import BoundTask, Experiment, Plan, SourceGroup
from mtlkit.model import MultiTaskModel
from mtlkit.options import Signature, signature_of
from mtlkit.problems import as_json, child, dotted
from mtlkit.registry import Record, Registry
from mtlkit.schedule import Schedule
from mtlkit.specs import InputSpec
from mtlkit.strategies.base import Strategy
from mtlkit.task import Source, Split, Task
from mtlkit.yamlfile import Document, SettingPath

__all__ = ["Part", "Resolved", "build", "optimizers", "resolve"]

DEFAULT_EPOCHS = 10
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
_FACTS = {
    "tasks": (),
    "encoders": ("inputs",),
    "architectures": ("make_encoder", "n_tasks"),
    "strategies": ("n_tasks", "loss_kinds", "n_classes"),
}
_NO_PLAIN_STEP = {
    "lbfgs": "It evaluates the loss several times in a step, and a weighted step has one.",
    "sparseadam": "It takes sparse gradients alone.",
}

Found = TypeVar("Found")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Part:
    """One component that a configuration names, found and loaded.

    Attributes:
        component: The class.
        signature: What its constructor takes.
        options: Its options, checked, with every default.
        path: Where in the configuration its options stand.
        record: Who provides it; None for what is not plugged in, the optimizer.
    """

    component: Any
    signature: Signature
    options: Mapping[str, Any]
    path: SettingPath
    record: Record | None = None

    @property
    def plain_options(self) -> dict[str, Any]:
        """The options as plain data."""
        return self.signature.plain(self.options)


@dataclass(frozen=True)
class Resolved:
    """A configuration whose every name was found and whose every option was checked.

    Attributes:
        config: The configuration.
        document: Where it came from, for the places in errors.
        encoder: The encoder.
        architecture: The architecture.
        strategy: The strategy.
        optimizer: The optimizer.
        tasks: The tasks, in order.
        labels: What the run calls them.
        device: Where it will run.
    """

    config: RunConfig
    document: Document
    encoder: Part
    architecture: Part
    strategy: Part
    optimizer: Part
    tasks: Sequence[Part]
    labels: Sequence[str]
    device: torch.device

    @property
    def records(self) -> list[Record]:
        """Who provides the components that the run uses."""
        parts = (self.encoder, self.architecture, self.strategy, *self.tasks)
        return sorted({part.record for part in parts if part.record})

    def plain(self) -> dict[str, Any]:
        """Return the configuration as plain data, with every default, and every component by its qualified name."""
        plain = self.config.model_dump(mode="json")
        for section in ("encoder", "architecture", "strategy", "optimizer"):
            part: Part = getattr(self, section)
            name = part.record.qualified if part.record else plain[section]["name"]
            plain[section] = {"name": name, **part.plain_options}
        for task, part, label in zip(plain["tasks"], self.tasks, self.labels, strict=True):
            name = part.record.qualified if part.record else task["name"]
            task |= {"name": name, "label": label, "options": part.plain_options}
            task["batch_size"] = task["batch_size"] or plain["training"]["batch_size"]
        if plain["training"]["steps"] is None:
            plain["training"]["epochs"] = plain["training"]["epochs"] or DEFAULT_EPOCHS
        return plain

    def problem(self, what: str, path: SettingPath, remedy: str = "") -> ConfigError:
        """Return the error for one setting."""
        return ConfigError(Problem(what, dotted(path), self.document.location(path), remedy))


# --- resolve: names and options --------------------------------------------------------------------------------------


def resolve(document: Document, registry: Registry) -> Resolved:
    """Check a configuration against what is installed. It imports the plugins that are named, and no other.

    Raises:
        ConfigError: With every problem of shape, name and option at once.
        PluginError: If nothing else is wrong than that plugins are missing or broken.
    """
    resolver = _Resolver(document, registry)
    config = resolver.attempt(lambda: RunConfig.from_document(document))
    encoder = resolver.component("encoder", "encoders")
    architecture = resolver.component("architecture", "architectures")
    strategy = resolver.component("strategy", "strategies")
    optimizer = resolver.optimizer()
    tasks, labels = resolver.tasks()
    device = resolver.device()
    resolver.check_best(labels)
    for name in config.hooks if config else ():
        resolver.attempt(functools.partial(registry.find, "plugins", name), ("hooks",))
    resolver.raise_failures()
    # With no failure told of, every part was found; the types cannot say so.
    return Resolved(
        config=cast("RunConfig", config),
        document=document,
        encoder=cast("Part", encoder),
        architecture=cast("Part", architecture),
        strategy=cast("Part", strategy),
        optimizer=cast("Part", optimizer),
        tasks=tasks,
        labels=labels,
        device=device,
    )


class _Resolver:
    """Finds the parts of a configuration one by one, and goes on past what is wrong."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.failures: list[MtlkitError] = []

    def attempt(self, find: Callable[[], Found], path: SettingPath | None = None) -> Found | None:
        """Return what `find` finds; keep its error for later, and give one that has no place this one."""
        try:
            return find()
        except ConfigError as error:
            problems = error.problems
            if path is not None:
                place = self.document.location(path)
                problems = tuple(p if p.path else replace(p, path=dotted(path), location=place) for p in problems)
            self.failures.append(ConfigError(problems))
        except PluginError as error:
            self.failures.append(error)
        return None

    def raise_failures(self) -> None:
        if not self.failures:
            return
        if all(isinstance(failure, PluginError) for failure in self.failures):
            raise PluginError("\n".join(map(str, self.failures)))
        problems: list[Problem] = []
        for failure in self.failures:
            problems += (
                failure.problems if isinstance(failure, ConfigError) else [Problem(str(failure).removesuffix("."))]
            )
        raise ConfigError(sorted(problems, key=_line_and_column))

    def section(self, path: SettingPath, model: type[Model], default: Any = None) -> Model | None:
        """Return one section, whether or not others are sound; None for one whose shape is wrong, told of already."""
        data: object = self.document.data
        for part in path:
            data = child(data, part)
        if data is None:
            return default if isinstance(default, model) else None
        try:
            return model.model_validate_json(as_json(named(data, DEFAULT_NAMES.get(str(path[0])))))
        except ValidationError:
            return None

    def component(self, section: str, kind: str) -> Part | None:
        """Return what one component section names."""
        found = self.section((section,), Component, RunConfig.model_fields[section].default)
        return None if found is None else self.part(kind, found.name, found.options, (section, "name"), (section,))

    def part(
        self, kind: str, name: str, options: Mapping[str, object], named_at: SettingPath, options_at: SettingPath
    ) -> Part | None:
        """Return what a name and options stand for."""
        return self.attempt(lambda: self._load(kind, name, options, options_at), named_at)

    def _load(self, kind: str, name: str, options: Mapping[str, object], path: SettingPath) -> Part:
        record = self.registry.find(kind, name)
        component = self.registry.load(record)
        signature = signature_of(component)
        for fact in signature.facts:
            if fact not in _FACTS[kind]:
                known = ", ".join(_FACTS[kind]) or "none"
                raise PluginError(
                    f"The constructor of '{name}' ({record.provider}) takes '{fact}' before its options, and what is "
                    f"supplied to {kind} is: {known}. Make it keyword-only if it is an option."
                )
        return Part(component, signature, signature.check(options, self.document, path), path, record)

    def optimizer(self) -> Part | None:
        """Return the optimizer."""
        found = self.section(("optimizer",), Component, RunConfig.model_fields["optimizer"].default)
        if found is None:
            return None
        return self.attempt(lambda: self._load_optimizer(found), ("optimizer", "name"))

    def _load_optimizer(self, found: Component) -> Part:
        known, name = optimizers(), found.name.lower()
        if name in _NO_PLAIN_STEP:
            raise ConfigError(Problem(f"The optimizer '{found.name}' cannot be used here", remedy=_NO_PLAIN_STEP[name]))
        if name not in known:
            raise ConfigError(Problem(f"Unknown optimizer '{found.name}'", remedy=closest(name, list(known))))
        signature = signature_of(known[name], all_options=True)
        options = signature.check(found.options, self.document, ("optimizer",))
        return Part(known[name], signature, options, ("optimizer",))

    def tasks(self) -> tuple[list[Part], list[str]]:
        """Return the tasks and their labels."""
        listed = child(self.document.data, "tasks")
        parts: list[Part] = []
        labels: list[str] = []
        for index in range(len(listed) if isinstance(listed, list) else 0):
            path: SettingPath = ("tasks", index)
            found = self.section(path, TaskConfig)
            if found is None:
                continue
            part = self.part("tasks", found.name, found.options, (*path, "name"), (*path, "options"))
            label = found.label or re.sub(r"[^A-Za-z0-9_-]", "_", found.name.rpartition(":")[2])
            if label in labels:
                self.fail(f"Two tasks are called '{label}'", path, "Give one of them a label of its own.")
            labels.append(label)
            if part is not None:
                parts.append(part)
        return parts, labels

    def check_best(self, labels: Sequence[str]) -> None:
        """Check that the rule for the best weights names a task."""
        checkpoints = self.section(("checkpoints",), Checkpoints, Checkpoints()) or Checkpoints()
        label, slash, _ = checkpoints.best.partition("/")
        if slash and label not in labels:
            self.fail(f"No task is called '{label}'", ("checkpoints", "best"), closest(label, labels))

    def device(self) -> torch.device:
        """Return where the run will be; what is not available is told of."""
        training = self.section(("training",), Training, Training()) or Training()
        name = training.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        available = {
            "cpu": True,
            "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
            "mps": torch.backends.mps.is_available(),
        }
        if not available[device.type]:
            working = ", ".join(kind for kind, works in available.items() if works)
            what = f"The device '{name}' is not available on this machine"
            self.fail(what, ("training", "device"), f"Available: auto, {working}.")
        elif device.type == "mps" and training.precision == "float64":
            self.fail("The device 'mps' has no float64", ("training", "precision"), "Use float32, or the cpu.")
        return device

    def fail(self, what: str, path: SettingPath, remedy: str) -> None:
        """Tell of a problem with one setting."""
        self.failures.append(ConfigError(Problem(what, dotted(path), self.document.location(path), remedy)))


def _line_and_column(problem: Problem) -> tuple[int, ...]:
    """Return where to sort a problem: in the order of the text, those without a place last."""
    numbers = re.findall(r":(\d+)", problem.location)
    return tuple(map(int, numbers[-2:])) if numbers else (sys.maxsize,)


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Return the optimizers of torch.optim that can take a weighted step, by name in lower case."""
    found = {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    return {name: found[name] for name in sorted(found) if name not in _NO_PLAIN_STEP}


# --- build: objects --------------------------------------------------------------------------------------------------


def build(resolved: Resolved) -> Experiment:
    """Build everything that a run is made of; the global random state is left as it was.

    Raises:
        ConfigError: If a component refuses its options.
        PluginError: If a plugin's own code fails.
        DataError: If the rows do not fit one another or the tasks.
    """
    config, device = resolved.config, resolved.device
    seed, dtype = config.run.seed, _DTYPES[config.training.precision]
    tasks = [_bound(resolved, index) for index in range(len(resolved.tasks))]
    groups = _groups(resolved, tasks, dtype)
    inputs = _common_row(tasks, groups)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        architecture = _architecture(resolved, inputs)
        heads: dict[str, nn.Module] = {}
        for bound in tasks:
            # By its label alone, so that a task starts from the same head whichever others it is trained with.
            torch.manual_seed(derived_seed(seed, "head", bound.label))
            with bound.blame("head"):
                heads[bound.label] = bound.task.head(architecture.features)
            if not isinstance(heads[bound.label], nn.Module):
                raise PluginError(f"The head of task '{bound.label}' is no torch module ({bound.provider}).")
        strategy = _strategy(resolved, tasks)
    model = MultiTaskModel(architecture, heads).to(device, dtype)
    strategy.to(device)
    plan = _plan(resolved, tasks, groups)
    return Experiment(
        model=model,
        tasks=tasks,
        groups=groups,
        strategy=strategy,
        optimizer=_optimizer(resolved, model, strategy),
        schedule=_schedule(config),
        plan=plan,
        device=device,
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
    config = resolved.config
    first = tasks[members[0]]
    sizes = {index: config.tasks[index].batch_size or config.training.batch_size for index in members}
    if len(set(sizes.values())) > 1:
        asked = ", ".join(f"{tasks[index].label} {size}" for index, size in sizes.items())
        path: SettingPath = ("tasks", members[-1], "batch_size")
        what = f"Tasks that share a source share its batches, and they ask for different sizes: {asked}"
        raise resolved.problem(what, path, "Give them one batch_size.")
    with first.blame("source"):
        given = source.splits()
    for index in members:
        _check_columns(tasks[index], given)
    splits = carve(
        given,
        validation=config.evaluation.validation,
        test=config.evaluation.test,
        seed=derived_seed(config.evaluation.split_seed, "split"),
    )
    splits = {name: split.to(resolved.device, dtype) for name, split in splits.items()}
    complete = True
    for index in members:
        bound = tasks[index]
        with bound.blame("labelled()"):
            labelled = bound.task.labelled(splits["train"].targets[bound.task.target])
        if not labelled.any():
            raise DataError(f"Task '{bound.label}' has no labelled training row ({bound.provider}).")
        complete = complete and bool(labelled.all())
    seed = derived_seed(config.run.seed, "rows", *sorted(_origin(source)))
    stream = Stream(splits["train"], batch_size=sizes[members[0]], seed=seed)
    return SourceGroup(tuple(members), splits, stream, complete)


def _origin(source: Source) -> list[str]:
    """Name a source by what it is, so that its rows come in the same order whichever tasks it is drawn beside."""
    kind = type(source)
    return [kind.__module__, kind.__qualname__, *(f"{k}={v!r}" for k, v in vars(source).items() if _is_plain(v))]


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | None)


def _check_columns(bound: BoundTask, given: Any) -> None:
    if not isinstance(given, Mapping) or not all(isinstance(split, Split) for split in given.values()):
        raise PluginError(
            f"The source of task '{bound.label}' must give a mapping from 'train', 'validation' and 'test' to Split; "
            f"received {type(given).__name__} ({bound.provider})."
        )
    for name, split in given.items():
        if bound.task.target not in split.targets:
            raise PluginError(
                f"Task '{bound.label}' learns the target column '{bound.task.target}', and split '{name}' of its "
                f"source has {', '.join(map(repr, split.targets)) or 'none'} ({bound.provider})."
            )


def _common_row(tasks: Sequence[BoundTask], groups: Sequence[SourceGroup]) -> InputSpec:
    rows = [group.splits["train"].row for group in groups]
    if len(set(rows)) > 1:
        shapes = "; ".join(
            f"{' and '.join(repr(tasks[index].label) for index in group.tasks)}: {row.shape}"
            for group, row in zip(groups, rows, strict=True)
        )
        raise DataError(f"One encoder takes rows of one shape, and the tasks' sources have several: {shapes}.")
    return rows[0]


def _architecture(resolved: Resolved, inputs: InputSpec) -> Architecture:
    part, made = resolved.architecture, 0

    def make_encoder() -> Encoder:
        nonlocal made
        torch.manual_seed(derived_seed(resolved.config.run.seed, "encoder", made))
        made += 1
        with _refusals(resolved, resolved.encoder, resolved.encoder.path):
            encoder: Encoder = resolved.encoder.component(inputs, **resolved.encoder.options)
        return encoder

    facts = _chosen(part, {"make_encoder": make_encoder, "n_tasks": len(resolved.tasks)})
    with _refusals(resolved, part, part.path):
        architecture: Architecture = part.component(**facts, **part.options)
    return architecture


def _strategy(resolved: Resolved, tasks: Sequence[BoundTask]) -> Strategy:
    part = resolved.strategy
    facts = {
        "n_tasks": len(tasks),
        "loss_kinds": [bound.task.loss_kind for bound in tasks],
        "n_classes": [bound.task.n_classes for bound in tasks],
    }
    torch.manual_seed(derived_seed(resolved.config.run.seed, "strategy"))
    with _refusals(resolved, part, part.path):
        strategy: Strategy = part.component(**_chosen(part, facts), **part.options)
    return strategy


def _chosen(part: Part, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in part.signature.facts}


def _optimizer(resolved: Resolved, model: nn.Module, strategy: Strategy) -> torch.optim.Optimizer:
    part = resolved.optimizer
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    known = {"params", *part.options}  # not every optimizer has weight decay, say
    groups += [{k: v for k, v in group.items() if k in known} for group in strategy.parameter_groups()]
    make: Callable[..., torch.optim.Optimizer] = part.component
    with _refusals(resolved, part, part.path):
        optimizer = make(groups, **part.options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _schedule(config: RunConfig) -> Schedule:
    options: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in config.schedule.model_dump().items()
    }
    return Schedule(shape=options.pop("name"), **options)


def _plan(resolved: Resolved, tasks: Sequence[BoundTask], groups: Sequence[SourceGroup]) -> Plan:
    config = resolved.config
    training, evaluation, checkpoints = config.training, config.evaluation, config.checkpoints
    batches = max(group.stream.batches for group in groups)
    steps_per_epoch = training.steps_per_epoch or math.ceil(batches / training.accumulate)
    label, slash, metric = checkpoints.best.partition("/")
    if slash:
        bound = next(bound for bound in tasks if bound.label == label)
        with bound.blame("metrics"):
            known = list(bound.task.metrics())
        if metric not in known:
            path: SettingPath = ("checkpoints", "best")
            raise resolved.problem(f"Task '{label}' has no metric '{metric}'", path, closest(metric, known))
    return Plan(
        steps=training.steps or (training.epochs or DEFAULT_EPOCHS) * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        accumulate=training.accumulate,
        clip_norm=training.clip_norm,
        autocast=torch.bfloat16 if training.precision == "bfloat16" else None,
        log_every=training.log_every,
        evaluate_every=evaluation.every * steps_per_epoch,
        evaluation_batch_size=evaluation.batch_size,
        checkpoint_every=checkpoints.every * steps_per_epoch,
        keep=checkpoints.keep,
        best=checkpoints.best,
        deterministic=training.deterministic,
        threads=training.threads,
        seed=derived_seed(config.run.seed, "loop"),
    )
