"""Resolve: find what a configuration names, check every option, and tell of everything that is wrong at once."""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import BaseModel, ValidationError

from mtlkit.config import (
    DEFAULT_EPOCHS,
    DEFAULT_NAMES,
    Checkpoints,
    Component,
    Plugins,
    RunConfig,
    TaskConfig,
    Training,
    default_label,
    named,
)
from mtlkit.errors import ConfigError, MtlkitError, PluginError, Problem, closest
from mtlkit.options import Signature, signature_of
from mtlkit.problems import as_json, child
from mtlkit.registry import Record, Registry
from mtlkit.stems import STEMS
from mtlkit.yamlfile import Document, SettingPath, dotted

__all__ = ["Part", "Resolved", "optimizers", "resolve"]

_FACTS = {
    "plugins": (),
    "tasks": (),
    "encoders": ("inputs",),
    "architectures": ("make_encoder", "n_tasks", "inputs"),
    "strategies": ("n_tasks", "loss_kinds", "n_classes", "labels"),
}
_NO_PLAIN_STEP = {
    "lbfgs": "It evaluates the loss several times in a step, and a weighted step has one.",
    "muon": "It takes matrices alone, and a model has biases too.",
    "sparseadam": "It takes sparse gradients alone.",
}
_MOST = torch.finfo(torch.float32).max  # torch raises for a number that the weights' own type cannot hold
_NOT_HERE = frozenset({"maximize", "capturable", "differentiable"})  # they climb, or need what the loop has not

Found = TypeVar("Found")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Part:
    """One component that a configuration names, found and loaded.

    Attributes:
        component: The class; for hooks of runs it may be a plugin that is no class, and takes no options.
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
        stems: The stems that the configuration names for each task; None where its source says.
        hooks: The plugins that are told of the run's events.
        device: Where it will run.
        registry: What the configuration leaves of what is installed.
    """

    config: RunConfig
    document: Document
    encoder: Part
    architecture: Part
    strategy: Part
    optimizer: Part
    tasks: Sequence[Part]
    labels: Sequence[str]
    stems: Sequence[Sequence[Part] | None]
    hooks: Sequence[Part]
    device: torch.device
    registry: Registry

    @property
    def pretrained(self) -> Path | None:
        """Where the encoder's weights come from: relative to the configuration's folder, or else to this one."""
        given = self.config.transfer.pretrained
        return None if given is None else _beside(self.document, given)

    @property
    def records(self) -> list[Record]:
        """Who provides the components that the run uses."""
        parts = (self.encoder, self.architecture, self.strategy, *self.tasks, *self.hooks)
        return sorted({part.record for part in parts if part.record})

    def plain(self) -> dict[str, Any]:
        """Return the configuration as plain data, with every default, and every component by its qualified name."""
        plain = self.config.model_dump(mode="json")
        for section in ("encoder", "architecture", "strategy", "optimizer"):
            part: Part = getattr(self, section)
            name = part.record.qualified if part.record else plain[section]["name"]
            plain[section] = {"name": name, **part.plain_options}
        for task, part, label, stem in zip(plain["tasks"], self.tasks, self.labels, self.stems, strict=True):
            name = part.record.qualified if part.record else task["name"]
            task |= {"name": name, "label": label, "options": part.plain_options}
            if stem is not None:
                named_stems = zip(task["stem"], stem, strict=True)
                task["stem"] = [{"name": each["name"], **given.plain_options} for each, given in named_stems]
            task["batch_size"] = task["batch_size"] or plain["training"]["batch_size"]
        plain["hooks"] = [
            {"name": part.record.qualified if part.record else "", **part.plain_options} for part in self.hooks
        ]
        if self.pretrained is not None:
            plain["transfer"]["pretrained"] = str(self.pretrained.resolve())
        plain["plugins"]["files"] = sorted(map(str, self.registry.files.values()))
        if plain["training"]["steps"] is None:
            plain["training"]["epochs"] = plain["training"]["epochs"] or DEFAULT_EPOCHS
        if plain["training"]["steps_per_epoch"] is None:
            plain["training"]["epoch_length"] = self.config.epoch_length
        return plain

    def problem(self, what: str, path: SettingPath, remedy: str = "") -> ConfigError:
        """Return the error for one setting."""
        return ConfigError(Problem(what, dotted(path), self.document.location(path), remedy))


def resolve(document: Document, registry: Registry) -> Resolved:
    """Check a configuration against what is installed. It imports the plugins that are named, and no other.

    Raises:
        ConfigError: With every problem of shape, name and option at once.
        PluginError: If nothing else is wrong than that plugins are missing or broken.
    """
    resolver = _Resolver(document, registry)
    resolver.narrow()  # before anything is imported
    config = resolver.attempt(lambda: RunConfig.from_document(document))
    encoder = resolver.component("encoder", "encoders")
    architecture = resolver.component("architecture", "architectures")
    strategy = resolver.component("strategy", "strategies")
    optimizer = resolver.optimizer()
    tasks, labels = resolver.tasks()
    stems = resolver.stems()
    device = resolver.device()
    resolver.check_threads()
    resolver.check_best(labels)
    resolver.check_ratios(labels)
    hooks = resolver.hooks()
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
        stems=stems,
        hooks=hooks,
        device=device,
        registry=resolver.registry,
    )


class _Resolver:
    """Finds the parts of a configuration one by one, and goes on past what is wrong."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.failures: list[MtlkitError] = []
        self.found: dict[tuple[str, str], tuple[Any, Signature, Record]] = {}  # a hundred tasks may be of one class
        self.places: dict[int, SettingPath] = {}  # of those failures that do not tell it themselves

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
            self.places[len(self.failures)] = path or ("plugins",)
            self.failures.append(error)
        return None

    def raise_failures(self) -> None:
        if not self.failures:
            return
        if len(self.failures) == 1:
            raise self.failures[0]  # with its details, and its cause
        if all(isinstance(failure, PluginError) for failure in self.failures):
            raise PluginError("\n".join(map(str, self.failures)))
        problems: list[Problem] = []
        for number, failure in enumerate(self.failures):
            if isinstance(failure, ConfigError):
                problems += failure.problems
            else:
                path = self.places[number]
                what = str(failure).removesuffix(".")
                problems.append(Problem(what, dotted(path), self.document.location(path)))
        raise ConfigError(sorted(problems, key=_line_and_column))

    def narrow(self) -> None:
        """Leave of the registry what the configuration's ``plugins`` allows.

        Raises:
            ConfigError: If their shape is wrong.
            PluginError: If a requirement is not met or a file cannot be used: all else would only follow from it.
        """
        found = self.section(("plugins",), Plugins, Plugins())
        if found is None:  # its shape is wrong, so what it might deny must not be imported
            RunConfig.from_document(self.document)
            return
        files = [_beside(self.document, each) for each in found.files]
        place = self.document.location(("plugins",))
        origin = f"plugins ({place})" if place else "plugins"
        for requirement in found.require:
            self.attempt(functools.partial(self.registry.check_required, requirement))
        narrowed = self.attempt(
            lambda: self.registry.narrowed(origin, allow=found.allow, deny=found.deny, files=files), ("plugins",)
        )
        self.raise_failures()
        self.registry = cast("Registry", narrowed)

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
        found = self.found.get((kind, name))
        if found is None:
            found = self.found[kind, name] = self._look_up(kind, name)
        component, signature, record = found
        return Part(component, signature, signature.check(options, self.document, path), path, record)

    def _look_up(self, kind: str, name: str) -> tuple[Any, Signature, Record]:
        record = self.registry.find(kind, name)
        component = self.registry.load(record)
        # Hooks of runs may be a module or an object, which takes no options.
        signature = signature_of(component if isinstance(component, type) else object)
        for fact in signature.facts:
            if fact not in _FACTS[kind]:
                known = ", ".join(_FACTS[kind]) or "none"
                raise PluginError(
                    f"The constructor of '{name}' ({record.provider}) takes '{fact}' before its options, and what is "
                    f"supplied to {kind} is: {known}. Make it keyword-only if it is an option."
                )
        return component, signature, record

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
        signature = signature_of(known[name], all_options=True, leave_out=_NOT_HERE)
        options = signature.check(found.options, self.document, ("optimizer",))
        for option, value in options.items():
            if any(abs(each) > _MOST for each in (value if isinstance(value, tuple) else [value]) if _is_number(each)):
                path: SettingPath = ("optimizer", option)
                remedy = f"It should be at most {_MOST:.3g}, the largest number of float32."
                raise self.refusal(f"Cannot use {value!r:.60}", path, remedy)
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
            label = found.label or default_label(found.name)
            if label in labels:
                self.fail(f"Two tasks are called '{label}'", path, "Give one of them a label of its own.")
            labels.append(label)
            if part is not None:
                parts.append(part)
        return parts, labels

    def stems(self) -> list[list[Part] | None]:
        """Return the stems that each task names."""
        listed = child(self.document.data, "tasks")
        found: list[list[Part] | None] = []
        for index in range(len(listed) if isinstance(listed, list) else 0):
            task = self.section(("tasks", index), TaskConfig)
            if task is None or task.stem is None:
                found.append(None)
                continue
            path: SettingPath = ("tasks", index, "stem")
            places = [(*path, number) for number in range(len(task.stem))]
            if not isinstance(child(child(cast("list[Any]", listed), index), "stem"), list):
                places = [path]  # one, that stands for a list of one
            parts = [
                self.attempt(functools.partial(self._load_stem, stem, place), place)
                for stem, place in zip(task.stem, places, strict=True)
            ]
            found.append([part for part in parts if part is not None])
        return found

    def _load_stem(self, found: Component, path: SettingPath) -> Part:
        if found.name not in STEMS:
            raise ConfigError(Problem(f"Unknown stem '{found.name}'", remedy=closest(found.name, list(STEMS))))
        signature = signature_of(STEMS[found.name])
        return Part(STEMS[found.name], signature, signature.check(found.options, self.document, path), path)

    def check_best(self, labels: Sequence[str]) -> None:
        """Check that the rule for the best weights names a task."""
        checkpoints = self.section(("checkpoints",), Checkpoints, Checkpoints()) or Checkpoints()
        label, slash, _ = checkpoints.best.partition("/")
        if slash and label not in labels:
            self.fail(f"No task is called '{label}'", ("checkpoints", "best"), closest(label, labels))

    def check_ratios(self, labels: Sequence[str]) -> None:
        """Check that ratios of sources name tasks."""
        ratios = child(child(self.document.data, "mixing"), "ratios")
        for label in ratios if isinstance(ratios, dict) else ():
            if label not in labels:
                self.fail(f"No task is called '{label}'", ("mixing", "ratios", label), closest(label, labels))

    def hooks(self) -> list[Part]:
        """Return the plugins that are told of the run's events."""
        listed = child(self.document.data, "hooks")
        parts: list[Part] = []
        for index in range(len(listed) if isinstance(listed, list) else 0):
            path: SettingPath = ("hooks", index)
            found = self.section(path, Component)
            part = None if found is None else self.part("plugins", found.name, found.options, path, path)
            if part is not None:
                parts.append(part)
        return parts

    def device(self) -> torch.device:
        """Return where the run will be; what is not available is told of."""
        training = self.section(("training",), Training, Training()) or Training()
        name = training.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        kind, _, index = name.partition(":")
        available = {
            "cpu": True,
            "cuda": torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count(),
        }
        if not available[kind]:
            working = ", ".join(kind for kind, works in available.items() if works)
            what = f"The device '{name}' is not available on this machine"
            self.fail(what, ("training", "device"), f"Available: auto, {working}.")
            return torch.device("cpu")
        return torch.device(name)

    def check_threads(self) -> None:
        """Check that as many threads can be started as are asked for: where they cannot, torch ends the process."""
        training = self.section(("training",), Training, Training()) or Training()
        asked = training.threads or 1
        if asked > (os.cpu_count() or 1) and not _can_start(asked):
            what = f"This process cannot start {asked} threads"
            self.fail(what, ("training", "threads"), f"This machine has {os.cpu_count()} processors.")

    def fail(self, what: str, path: SettingPath, remedy: str) -> None:
        """Tell of a problem with one setting."""
        self.failures.append(self.refusal(what, path, remedy))

    def refusal(self, what: str, path: SettingPath, remedy: str) -> ConfigError:
        """Return the error for one setting."""
        return ConfigError(Problem(what, dotted(path), self.document.location(path), remedy))


def _beside(document: Document, path: str) -> Path:
    """Return a path that a configuration names: relative to its own folder, or to this one if it is only here."""
    folder = Path(document.source).parent if Path(document.source).is_file() else Path()
    return Path(path) if Path(path).exists() and not (folder / path).exists() else folder / path


def _can_start(threads: int) -> bool:
    started, go = [], threading.Event()
    try:
        for _ in range(threads):
            thread = threading.Thread(target=go.wait)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        return False
    finally:
        go.set()
        for thread in started:
            thread.join()
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
