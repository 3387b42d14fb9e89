"""The application: what the command line and an embedding program call. Each assembles, then lets the engine work."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtlkit.assemble import blaming, trying
from mtlkit.assemble import build as build_resolved
from mtlkit.audit import Audit, audit
from mtlkit.config import RunConfig
from mtlkit.data.splits import SPLITS
from mtlkit.engine import checkpoint
from mtlkit.engine.claiming import require_free
from mtlkit.engine.evaluate import evaluate as evaluate_split
from mtlkit.engine.events import Event, Listener, TaskResult
from mtlkit.engine.loop import fit
from mtlkit.engine.probe import probe
from mtlkit.engine.run import RunFolder
from mtlkit.engine.settings import run_settings
from mtlkit.engine.stopping import stop_on_signals
from mtlkit.errors import CheckpointError, ConfigError, Problem, closest
from mtlkit.experiment import Experiment
from mtlkit.pretrained import Pretrained
from mtlkit.pretrained import read as read_pretrained
from mtlkit.provenance import differences, environment, plugins_used, require_plugins
from mtlkit.registry import Registry
from mtlkit.resolve import Resolved, resolve
from mtlkit.runhooks import HookFailure, HookListener, read_failures
from mtlkit.yamlfile import Document, dump, load

__all__ = [
    "Config",
    "RunResult",
    "as_document",
    "build",
    "check",
    "evaluate",
    "finished",
    "inspect",
    "train",
]

Config = RunConfig | Document | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: Everything it left on the disk.
        results: How the best weights fare on the test split, by task label.
        best_step: The step of the best weights.
        steps: The steps taken.
        stop_signal: A signal that asked to stop when there was nothing left to stop.
        hook_failures: What went wrong in plugins that were told of the run.
    """

    folder: Path
    results: Mapping[str, TaskResult]
    best_step: int
    steps: int
    stop_signal: int | None = None
    hook_failures: Sequence[HookFailure] = ()


def build(config: Config, *, registry: Registry | None = None) -> Experiment:
    """Build everything that a configuration names: the model, the tasks, the rows, the strategy, the optimizer.

    Args:
        config: A RunConfig, a mapping, or the path of a YAML file.
        registry: What is installed; discovered by default.

    Raises:
        ConfigError: With everything that is wrong with the configuration.
        PluginError: If a plugin is missing or broken.
        DataError: If the rows do not fit one another or the tasks.
    """
    resolved = resolve(as_document(config), registry or Registry.discover())
    return _from_the_start(resolved, read_pretrained(resolved))


def check(config: Config, *, registry: Registry | None = None) -> tuple[Resolved, Experiment]:
    """Build what a configuration names and run one batch of each source through it, without training.

    Raises:
        MtlkitError: As :func:`build`, and where an output, a loss or a metric does not fit.
    """
    resolved = resolve(as_document(config), registry or Registry.discover())
    HookListener(resolved)
    experiment = _from_the_start(resolved, read_pretrained(resolved))
    with closing(experiment), run_settings(experiment), trying(resolved):
        probe(experiment)
    return resolved, experiment


def inspect(config: Config, *, registry: Registry | None = None) -> tuple[Resolved, Experiment, Audit]:
    """Check a configuration, then look at its rows and take a few steps, to find what would spoil the training.

    Raises:
        MtlkitError: As :func:`check`.
    """
    resolved = resolve(as_document(config), registry or Registry.discover())
    HookListener(resolved)
    experiment = _from_the_start(resolved, read_pretrained(resolved))
    first = [group.tasks[0] for group in experiment.groups]
    sizes = [resolved.config.tasks[index].batch_size or resolved.config.training.batch_size for index in first]
    with closing(experiment), run_settings(experiment), trying(resolved):
        torch.manual_seed(experiment.plan.seed)
        return resolved, experiment, audit(experiment, sizes)


def train(
    config: Config, *, resume: bool = False, listeners: Sequence[Listener] = (), registry: Registry | None = None
) -> RunResult:
    """Train all tasks together, evaluate them, and leave a run folder.

    Args:
        config: A RunConfig, a mapping, or the path of a YAML file.
        resume: Go on with the run of this name where it was saved last; start it if there is none.
        listeners: Functions that are told of each event.
        registry: What is installed; discovered by default.

    Raises:
        ConfigError: With everything that is wrong with the configuration, or if the run folder exists.
        PluginError: If a plugin is missing or broken, or its code fails.
        DataError: If the rows do not fit one another or the tasks.
        CheckpointError: If the run cannot be gone on with.
        NonFiniteError: If a loss is NaN or infinite.
        StorageError: If the run folder cannot be written to.
        Stopped: If SIGINT or SIGTERM arrived; the run is saved.
    """
    registry = registry or Registry.discover()
    document = as_document(config)
    if resume:
        _require_plugins_of(document, registry)
    resolved = resolve(document, registry)
    hooks = HookListener(resolved)
    folder = Path(resolved.config.run.dir) / resolved.config.run.name
    if resume and os.path.lexists(folder):
        return _go_on(folder, resolved, listeners, hooks)
    require_free(folder)
    start = read_pretrained(resolved)
    experiment = _from_the_start(resolved, start)
    with _begin(resolved, experiment, start, folder) as run:
        return _fit(experiment, resolved, run, listeners, hooks)


def evaluate(
    folder: str | Path, *, split: str = "test", registry: Registry | None = None
) -> tuple[int, dict[str, TaskResult]]:
    """Evaluate a run's best weights.

    Args:
        folder: The run's folder.
        split: ``train``, ``validation`` or ``test``.
        registry: What is installed; discovered by default.

    Returns:
        The step of the weights, and each task's result.

    Raises:
        ConfigError: If there is no such split.
        CheckpointError: If the folder is no run, or its weights cannot be used.
        PluginError: If a plugin that the run used is missing or broken.
    """
    if split not in SPLITS:
        raise ConfigError(Problem(f"Unknown split '{split}'", remedy=closest(split, SPLITS)))
    run = RunFolder.open(Path(folder))
    checkpoint.recover(run.best)
    if not run.best.exists():
        raise CheckpointError(f"The run {folder} has no weights to evaluate yet; it has not been evaluated once.")
    step = checkpoint.verify(run.best)
    registry = registry or Registry.discover()
    require_plugins(run, registry)
    # Its files were given again, if there were any; a path that a run folder holds is not followed.
    document = as_document(run.path / "config.yaml").override(("plugins", "files"), [], "")
    resolved = resolve(document, registry)
    for difference in differences(run, resolved.registry):
        warnings.warn(f"The results may not be those of the run: {difference}.", stacklevel=2)
    experiment = build_resolved(resolved)  # the run's own weights follow, so none that it began with are read
    checkpoint.load_weights(run.best, experiment.model)
    with closing(experiment), run_settings(experiment):
        return step, evaluate_split(experiment, split)


# --- parts -----------------------------------------------------------------------------------------------------------


def as_document(config: Config) -> Document:
    """Return a configuration as a document, which knows the place of each key where it was read from a file."""
    if isinstance(config, Document):
        return config
    if isinstance(config, str | Path):
        return load(Path(config))
    return Document.from_data(config.model_dump(mode="json") if isinstance(config, RunConfig) else dict(config))


def _from_the_start(resolved: Resolved, start: Pretrained | None) -> Experiment:
    """Build everything that a run is made of, the encoders with the weights that they begin with."""
    with trying(resolved):
        return build_resolved(resolved, None if start is None else start.weights)


def _begin(resolved: Resolved, experiment: Experiment, start: Pretrained | None, folder: Path) -> RunFolder:
    """Probe an experiment, and make its run folder."""
    try:
        with run_settings(experiment), trying(resolved):
            probe(experiment)
        facts = environment(resolved, experiment, start)
        return RunFolder.create(folder, config=dump(resolved.plain()), environment=facts)
    except BaseException:
        experiment.close()
        raise


def _go_on(folder: Path, resolved: Resolved, listeners: Sequence[Listener], hooks: HookListener) -> RunResult:
    """Go on with a run where it was saved last."""
    run = RunFolder.open(folder)
    if run.result is not None:  # no more than to be read, which others may do too
        _check_same(run, resolved)
        return finished(run)
    with RunFolder.open(folder, lock=True) as run:
        _check_same(run, resolved)
        if run.result is not None:  # another process had it until just now
            return finished(run)
        for difference in differences(run, resolved.registry):
            warnings.warn(f"The run may not go on bit for bit: {difference}.", stacklevel=3)
        # Its weights are in its checkpoints, if it came to one.
        experiment = _from_the_start(resolved, None if run.has_checkpoints else read_pretrained(resolved))
        return _fit(experiment, resolved, run, listeners, hooks)


def _fit(
    experiment: Experiment, resolved: Resolved, run: RunFolder, listeners: Sequence[Listener], hooks: HookListener
) -> RunResult:
    run.provenance = plugins_used(resolved.records, resolved.registry)
    hooks.attach(run)
    everyone: list[Listener] = [*listeners, hooks]

    def emit(event: Event) -> None:
        for listener in everyone:
            listener(event)

    with closing(experiment), run_settings(experiment), stop_on_signals() as stop, blaming(resolved):
        results = fit(experiment, run, emit, stop)
    done = run.result or {}
    return RunResult(run.path, results, done["best_step"], done["steps"], stop.signal_number, hooks.failures)


def finished(run: RunFolder) -> RunResult:
    """Return what a finished run came to."""
    done = run.result or {}
    try:
        results = {label: TaskResult.from_json(result) for label, result in done["test"].items()}
        return RunResult(run.path, results, done["best_step"], done["steps"], hook_failures=read_failures(run))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{run.path / 'done.json'} is not what a run writes: {error!r}. Remove it, and --resume makes it again."
        ) from error


def _require_plugins_of(document: Document, registry: Registry) -> None:
    """Tell of plugins that a run to go on with lacks, before their names are told of as unknown."""
    try:
        config = RunConfig.from_document(document)
    except ConfigError:
        return  # whose problems are told of with all others
    folder = Path(config.run.dir) / config.run.name
    if (folder / "environment.json").is_file():
        require_plugins(RunFolder.open(folder), registry, [Path(each).name for each in config.plugins.files])


def _check_same(run: RunFolder, resolved: Resolved) -> None:
    """Refuse to go on with a run whose configuration was another."""
    saved = load(run.path / "config.yaml").data
    if not isinstance(saved, dict) or not isinstance(saved.get("run"), dict):
        raise CheckpointError(f"{run.path / 'config.yaml'} is no run configuration.")
    changed = [each for each in _changes(saved, resolved.plain(), "") if not each[0].startswith(_OF_NO_CONSEQUENCE)]
    if changed:
        shown = "; ".join(f"{path} was {before!r} and is {after!r}" for path, before, after in changed[:5])
        remedy = "Give this run another run.name."
        if run.result is None:
            remedy += f" Or go on with that one as it was: mtlkit train {run.path / 'config.yaml'} --resume."
        raise ConfigError(Problem(f"The run {run.path} was started with another configuration: {shown}", remedy=remedy))


# Where a run is, who is told of it, how its rows are read and its checkpoints written, and which plugins it might use:
# those that it does use are named.
_OF_NO_CONSEQUENCE = ("run.name", "run.dir", "hooks", "loading", "plugins", "checkpoints.background")


def _changes(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _changes(before.get(key), after.get(key), f"{path}.{key}".removeprefix("."))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changes(old, new, f"{path}[{index}]")
    elif before != after:
        yield path, before, after
