"""The application: what the command line and an embedding program call. Each assembles, then lets the engine work."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtlkit.assemble import build as build_resolved
from mtlkit.assemble import trying
from mtlkit.audit import Audit, audit
from mtlkit.changes import (
    BY_NAME,
    Change,
    changes_of,
    check_allowed,
    effect_of_length,
    is_length,
    refuse,
    saved_config,
)
from mtlkit.config import RunConfig
from mtlkit.data.splits import SPLITS
from mtlkit.engine import checkpoint
from mtlkit.engine.claiming import require_free
from mtlkit.engine.evaluate import evaluate as evaluate_split
from mtlkit.engine.events import Event, Listener, RunStarted, TaskResult
from mtlkit.engine.loop import fit
from mtlkit.engine.probe import probe
from mtlkit.engine.run import RunFolder
from mtlkit.engine.settings import run_settings
from mtlkit.engine.stopping import stop_on_signals
from mtlkit.errors import CheckpointError, ConfigError, MtlkitError, Problem, closest
from mtlkit.experiment import Experiment
from mtlkit.overrides import apply_overrides
from mtlkit.pretrained import Pretrained
from mtlkit.pretrained import read as read_pretrained
from mtlkit.provenance import differences, environment, machine_differences, plugins_used, require_plugins
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
    "resume",
    "train",
]

Config = RunConfig | Document | Mapping[str, Any] | str | Path
OnChanges = Callable[[Sequence[Change]], None]


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
        skipped: How many of the steps moved no weight, for a gradient that overflowed in float16, or for values that
            were NaN or infinite.
        non_finite: In how many steps each task had values that were NaN or infinite; those that had any.
    """

    folder: Path
    results: Mapping[str, TaskResult]
    best_step: int
    steps: int
    stop_signal: int | None = None
    hook_failures: Sequence[HookFailure] = ()
    skipped: int = 0
    non_finite: Mapping[str, int] = field(default_factory=dict)


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
    config: Config,
    *,
    resume: bool = False,
    allow: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
    on_changes: OnChanges = lambda _: None,
    registry: Registry | None = None,
) -> RunResult:
    """Train all tasks together, evaluate them, and leave a run folder.

    Args:
        config: A RunConfig, a mapping, or the path of a YAML file.
        resume: Go on with the run of this name where it was saved last; start it if there is none.
        allow: Settings that may be another than when the run was started, such as ``training.epochs``.
        listeners: Functions that are told of each event.
        on_changes: A function that is told of the settings that are another, before the run goes on.
        registry: What is installed; discovered by default.

    Raises:
        ConfigError: With everything that is wrong with the configuration, or if the run folder exists, or is in use.
        PluginError: If a plugin is missing or broken, or its code fails.
        DataError: If the rows do not fit one another or the tasks.
        CheckpointError: If the run cannot be gone on with.
        NonFiniteError: If a value is NaN or infinite, and ``training.non_finite`` is to stop, or there were too many.
        StorageError: If the run folder cannot be written to.
        Stopped: If SIGINT or SIGTERM arrived; the run is saved.
    """
    check_allowed(allow)
    registry = registry or Registry.discover()
    document = as_document(config)
    if resume:
        _require_plugins_of(document, registry)
    resolved = resolve(document, registry)
    hooks = HookListener(resolved)
    folder = Path(resolved.config.run.dir) / resolved.config.run.name
    if resume and os.path.lexists(folder):
        return _go_on(folder, resolved, allow, listeners, on_changes, hooks)
    require_free(folder)
    start = read_pretrained(resolved)
    experiment = _from_the_start(resolved, start)
    with _begin(resolved, experiment, start, folder) as run:
        return _fit(experiment, resolved, run, listeners, hooks)


def resume(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
    on_changes: OnChanges = lambda _: None,
    registry: Registry | None = None,
) -> RunResult:
    """Go on with a run by its own configuration, where it was saved last; return the results of one that is finished.

    Args:
        folder: The run's folder.
        overrides: Settings that are to be another, as ``training.epochs=20``. Of those that a run may go on with.
        listeners: Functions that are told of each event.
        on_changes: A function that is told of the settings that are another, before the run goes on.
        registry: What is installed; discovered by default. Files that the run used as plugins have to be given, since a
            path that a run folder names is not followed.

    Raises:
        ConfigError: If an override is none that a run can go on with, or if another process has the run.
        MtlkitError: As :func:`train`.
    """
    run = RunFolder.open(Path(folder))
    saved_config(run.path)  # for a run folder that is damaged is no mistake in a configuration
    registry = registry or Registry.discover()
    require_plugins(run, registry)
    resolved = resolve(apply_overrides(_own_document(run), overrides), registry)
    return _go_on(run.path, resolved, BY_NAME, listeners, on_changes, HookListener(resolved))


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
    best = checkpoint.standing(run.best)
    if not best.exists():
        raise CheckpointError(f"The run {folder} has no weights to evaluate yet; it has not been evaluated once.")
    step = checkpoint.verify(best)
    registry = registry or Registry.discover()
    require_plugins(run, registry)
    resolved = resolve(_own_document(run), registry)
    for difference in differences(run, resolved.registry):
        warnings.warn(f"The results may not be those of the run: {difference}.", stacklevel=2)
    experiment = build_resolved(resolved)  # the run's own weights follow, so none that it began with are read
    checkpoint.load_weights(best, experiment.model)
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


def _own_document(run: RunFolder) -> Document:
    """Return a run's own configuration.

    Its files were given again, if there were any; a path that a run folder holds is not followed.
    """
    return as_document(run.path / "config.yaml").override(("plugins", "files"), [], "")


def _go_on(
    folder: Path,
    resolved: Resolved,
    allow: Sequence[str],
    listeners: Sequence[Listener],
    on_changes: OnChanges,
    hooks: HookListener,
) -> RunResult:
    """Go on with a run where it was saved last."""
    run = RunFolder.open(folder)
    if not _changes(run, resolved, allow) and run.result is not None:
        return finished(run)  # to read it takes no lock
    with RunFolder.open(folder, lock=True) as run:
        changes = _changes(run, resolved, allow)  # anew, for another process had it until just now, perhaps
        if not changes and run.result is not None:
            return finished(run)
        if run.result is not None and not run.saves:
            raise CheckpointError(f"The run {folder} is finished, and has no checkpoint left to go on from.")
        if changes:
            run.saves.latest()  # where none is whole, that is an error before its results and configuration have gone
            on_changes(changes)
        # Its weights are in its checkpoints, if it came to one.
        experiment = _from_the_start(resolved, None if run.saves else read_pretrained(resolved))
        try:
            effect = effect_of_length(_before(run, resolved), experiment, run.saves.step, folder)
            differing = [*differences(run, resolved.registry), *machine_differences(run, experiment)]
            if changes:
                run.change(dump(resolved.plain()), [asdict(change) for change in changes])
        except BaseException:
            experiment.close()
            raise
        for difference in differing:
            warnings.warn(f"The run may not go on bit for bit: {difference}.", stacklevel=3)
        if effect is not None:
            warnings.warn(effect, stacklevel=3)
        return _fit(experiment, resolved, run, listeners, hooks, differing)


def _before(run: RunFolder, resolved: Resolved) -> dict[str, Any]:
    """Return the configuration that a run was saved with, what it does not say filled in as it would be now."""
    saved = saved_config(run.path)
    try:
        return resolve(_own_document(run), resolved.registry).plain()
    except MtlkitError:
        return saved  # of a plugin that is not at hand, say, and so another configuration than this one


def _changes(run: RunFolder, resolved: Resolved, allow: Sequence[str]) -> list[Change]:
    """Return what is to be another in a run that goes on, if it may be; nothing where the run is over for good."""
    changes = list(changes_of(_before(run, resolved), resolved.plain()))
    is_finished = run.result is not None
    refuse(changes, allow, run.path, is_finished=is_finished)
    if is_finished and not any(map(is_length, changes)):
        return []
    return [change for change in changes if change.setting not in {"run.name", "run.dir"}]


def _fit(
    experiment: Experiment,
    resolved: Resolved,
    run: RunFolder,
    listeners: Sequence[Listener],
    hooks: HookListener,
    differing: Sequence[str] | None = None,
) -> RunResult:
    """Train to the end; `differing` is what is another than when the run was started, where it goes on."""
    run.provenance = plugins_used(resolved.records, resolved.registry)
    hooks.attach(run)
    everyone: list[Listener] = [*listeners, hooks]

    def emit(event: Event) -> None:
        if isinstance(event, RunStarted) and differing is not None:
            run.note({"event": "resumed", "step": event.step, "differences": list(differing)})
        for listener in everyone:
            listener(event)

    def saved() -> str:
        again = shlex.join(["mtlkit", "resume", str(run.path)])
        return f"With other sizes it is another run. {run.saves.told()} With more memory it goes on: {again}"

    with closing(experiment), run_settings(experiment), stop_on_signals() as stop, trying(resolved, saved=saved):
        results = fit(experiment, run, emit, stop)
    done = run.result or {}
    return RunResult(
        run.path, results, done["best_step"], done["steps"], stop.signal_number, hooks.failures, **_setbacks(done)
    )


def finished(run: RunFolder) -> RunResult:
    """Return what a finished run came to."""
    done = run.result or {}
    try:
        results = {label: TaskResult.from_json(result) for label, result in done["test"].items()}
        return RunResult(
            run.path,
            results,
            done["best_step"],
            done["steps"],
            hook_failures=read_failures(run),
            **_setbacks(done),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{run.path / 'done.json'} is not what a run writes: {error!r}. Remove it, and --resume makes it again."
        ) from error


def _setbacks(done: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was skipped in a run; one of an earlier version does not say."""
    return {"skipped": done.get("skipped", 0), "non_finite": done.get("non_finite", {"tasks": {}})["tasks"]}


def _require_plugins_of(document: Document, registry: Registry) -> None:
    """Tell of plugins that a run to go on with lacks, before their names are told of as unknown."""
    try:
        config = RunConfig.from_document(document)
    except ConfigError:
        return  # whose problems are told of with all others
    folder = Path(config.run.dir) / config.run.name
    if (folder / "environment.json").is_file():
        require_plugins(RunFolder.open(folder), registry, [Path(each).name for each in config.plugins.files])
