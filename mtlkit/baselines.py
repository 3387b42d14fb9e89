"""Baselines: each task trained alone at the budget of the run that trains them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlkit.app import Config, RunResult, check, finished, train
from mtlkit.engine.events import Listener
from mtlkit.engine.run import RunFolder
from mtlkit.errors import ConfigError, Problem, Stopped
from mtlkit.experiment import Experiment
from mtlkit.provenance import differences
from mtlkit.registry import Registry
from mtlkit.report.comparison import Comparison, Headline, compare
from mtlkit.runname import why_not
from mtlkit.yamlfile import load

__all__ = ["BaselineResult", "Trial", "baseline"]


@dataclass(frozen=True)
class Trial:
    """One run among those of a baseline.

    Attributes:
        name: The run's name: ``together``, or a task's label.
        alone: Whether a task is trained alone.
        seed: Its seed.
        number: Which of them it is, from 1.
        of: How many there are.
        reused: Whether it was there already, finished, with the same configuration.
    """

    name: str
    alone: bool
    seed: int
    number: int
    of: int
    reused: bool


@dataclass(frozen=True)
class BaselineResult:
    """Each task alone against all together.

    Attributes:
        folder: The folder that holds the runs.
        comparison: What they say.
    """

    folder: Path
    comparison: Comparison


def baseline(
    config: Config,
    *,
    seeds: int = 1,
    listeners: Sequence[Listener] = (),
    on_trial: Callable[[Trial], None] = lambda _: None,
    registry: Registry | None = None,
) -> BaselineResult:
    """Train all tasks together and each task alone, at the same budget, and compare.

    The budget is the multi-task run's number of optimizer steps, with the same batches at the same steps: each task
    sees as many of its rows alone as together. Where a mixing draws from one source a pass, a task alone is trained in
    the passes that draw from its source, and nothing happens in the others. Runs of the same configuration that are
    finished already are used as they are.

    Args:
        config: A RunConfig, a mapping, or the path of a YAML file.
        seeds: How many seeds, from the configuration's own upwards.
        listeners: Functions that are told of each event of each run.
        on_trial: A function that is told of each run before it starts.
        registry: What is installed; discovered by default.

    Raises:
        MtlkitError: As :func:`train`.
    """
    if seeds < 1:
        raise ConfigError(Problem(f"seeds must be at least 1; received {seeds}"))
    registry = registry or Registry.discover()
    resolved, experiment = check(config, registry=registry)
    registry = resolved.registry
    plain = resolved.plain()
    root = Path(resolved.config.run.dir) / f"{resolved.config.run.name}-baseline"
    all_tasks = "together"
    while all_tasks in resolved.labels:  # a label is any name, and a folder holds one run
        all_tasks = f"all-{all_tasks}"
    names = [all_tasks, *resolved.labels]
    together: dict[str, list[float]] = {label: [] for label in resolved.labels}
    alone: dict[str, list[float]] = {label: [] for label in resolved.labels}
    headlines = {bound.label: _headline(bound.task.metrics()) for bound in experiment.tasks}
    first = resolved.config.run.seed
    trials = [(seed, name) for seed in range(first, first + seeds) for name in names]
    folders = [root / f"seed-{seed}" / _run_name(name, names) for seed, name in trials]
    planned = [
        _settings(plain, experiment, resolved.labels, name, seed, folder)
        for (seed, name), folder in zip(trials, folders, strict=True)
    ]
    in_the_way = [f for f, settings in zip(folders, planned, strict=True) if _is_in_the_way(f, settings, registry)]
    if in_the_way:
        what = f"Runs of another configuration, or by other versions, are in {', '.join(map(str, in_the_way))}"
        raise ConfigError(
            Problem(what, remedy=f"Remove {root} if it is of no more use, or give this run another run.name.")
        )
    own_run = Path(resolved.config.run.dir) / resolved.config.run.name
    for number, ((seed, name), own_folder, settings) in enumerate(zip(trials, folders, planned, strict=True), 1):
        alone_here = name in resolved.labels
        done = _find_finished([own_folder] if alone_here else [own_run, own_folder], settings, registry)
        on_trial(Trial(name, alone_here, seed, number, len(trials), done is not None))
        result = done or train(settings, resume=True, listeners=listeners, registry=registry)
        if result.stop_signal is not None:
            raise Stopped(f"Stopped after run {number} of {len(trials)}; those are kept in {root}.", result.stop_signal)
        for label in [name] if alone_here else resolved.labels:
            value = result.results[label].metrics[headlines[label].metric]
            (alone if alone_here else together)[label].append(value)
    comparison = compare(range(first, first + seeds), headlines, alone, together)
    return BaselineResult(root, comparison)


def _run_name(name: str, names: Sequence[str]) -> str:
    """Return what the run of a task is called: as the task is, unless no run may be."""
    made = name
    while why_not(made) is not None or (made != name and made in names):
        made = f"task-{made}"
    return made


def _settings(
    plain: Mapping[str, Any], experiment: Experiment, labels: Sequence[str], name: str, seed: int, folder: Path
) -> dict[str, Any]:
    """Return the configuration of one run of a baseline."""
    settings = dict(plain)
    settings["run"] = {"name": folder.name, "dir": str(folder.parent), "seed": seed}
    settings["hooks"] = []
    if name not in labels:
        return settings
    settings["tasks"] = [{**plain["tasks"][labels.index(name)], "weight": 1.0}]
    settings["strategy"] = {"name": "mtlkit:fixed"}
    # What an epoch is stays the same, so the steps, the learning rates, and when the run is evaluated and saved do too.
    settings["training"] = {
        **plain["training"],
        "epoch_length": None,
        "steps_per_epoch": experiment.plan.steps_per_epoch,
    }
    settings["mixing"] = _mixing_alone(plain["mixing"], experiment, labels.index(name))
    if plain["checkpoints"]["best"].partition("/")[0] not in {"loss", "last", name}:
        settings["checkpoints"] = {**plain["checkpoints"], "best": "loss"}
    return settings


def _mixing_alone(plain: Mapping[str, Any], experiment: Experiment, task: int) -> dict[str, Any]:
    """Return the mixing that draws from a task's source in the passes that it is drawn in among the others."""
    if experiment.mixing is None:
        return dict(plain)
    (own,) = (group.name for group in experiment.groups if task in group.tasks)
    label = experiment.tasks[task].label
    sizes = {label if name == own else name: size for name, size in experiment.mixing.sizes.items()}
    rest = {key: value for key, value in plain.items() if key != "ratios"}
    return rest | {"name": "proportional" if "sizes" not in plain else plain["name"], "sizes": sizes}


def _find_finished(folders: Sequence[Path], settings: Mapping[str, Any], registry: Registry) -> RunResult | None:
    """Return a finished run of this very configuration, made with what is installed now, whatever its name."""
    for folder in folders:
        if (folder / "done.json").is_file() and (folder / "config.yaml").is_file() and not _is_stale(folder, settings):
            run = RunFolder.open(folder)
            if not differences(run, registry):
                return finished(run)
    return None


def _is_stale(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether the run in a folder has another configuration."""
    saved = load(folder / "config.yaml").data
    return not isinstance(saved, dict) or _comparable(saved) != _comparable(settings)


def _is_in_the_way(folder: Path, settings: Mapping[str, Any], registry: Registry) -> bool:
    """Return whether a folder holds a run that can neither be used nor be gone on with."""
    if not (folder / "config.yaml").is_file():
        return False
    if _is_stale(folder, settings):
        return True
    return (folder / "done.json").is_file() and bool(differences(RunFolder.open(folder), registry))


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a run's numbers: not its name, how its rows are read, nor who is told of them."""
    rest = {key: value for key, value in settings.items() if key not in {"run", "hooks", "loading", "plugins"}}
    # A run alone is written with its strategy's options left to their defaults.
    strategy = {key: value for key, value in settings["strategy"].items() if value is not None}
    return rest | {"seed": settings["run"]["seed"], "strategy": strategy}


def _headline(metrics: Mapping[str, Any]) -> Headline:
    name, metric = next(iter(metrics.items()))
    return Headline(name, bool(metric.higher_is_better))
