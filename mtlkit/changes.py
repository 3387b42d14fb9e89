"""What of a run's configuration may be another when the run goes on, and what that means.

Most settings made the weights what they are: with another one it would be another run, and that is refused. Some decide
no number of the run, such as how its rows are read. The rest may be another if the user says so by name: how long the
run is, what is recorded of it, how many checkpoints stay, on what it computes, and what is done where a value is NaN or
infinite, which it may have been stopped by.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlkit.config import DEFAULT_EPOCHS, RunConfig
from mtlkit.errors import CheckpointError, ConfigError, Problem, closest
from mtlkit.experiment import Experiment
from mtlkit.yamlfile import load

__all__ = [
    "BY_NAME",
    "Change",
    "changes_of",
    "check_allowed",
    "effect_of_length",
    "is_length",
    "refuse",
    "saved_config",
]

FREE = ("run.name", "run.dir", "run.title", "hooks", "loading", "plugins", "checkpoints.background")
"""Where a run is, who is told of it, how its rows are read, and which plugins it might use: those that it does use are
named."""

LENGTH = ("training.epochs", "training.steps")

BY_NAME = (
    *LENGTH,
    "training.log_every",
    "training.device",
    "training.threads",
    "training.non_finite",
    "training.non_finite_limit",
    "diagnostics",
    "checkpoints.every",
    "checkpoints.keep",
)
"""What may be another if it is allowed by name."""


@dataclass(frozen=True)
class Change:
    """A setting that is another than when the run was saved.

    Attributes:
        setting: Its dotted path.
        before: What it was; None where there was none.
        after: What it is.
    """

    setting: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.setting} was {self.before!r} and is {self.after!r}"


def saved_config(folder: Path) -> dict[str, Any]:
    """Return the configuration that a run was saved with, with the defaults of what it does not say.

    Raises:
        CheckpointError: If it is none.
    """
    path = folder / "config.yaml"
    try:
        return RunConfig.from_document(load(path)).model_dump(mode="json")
    except ConfigError as error:
        raise CheckpointError(f"{path} is no run configuration: {error}") from error


def changes_of(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Yield each setting that differs between two configurations."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from changes_of(before.get(key), after.get(key), f"{path}.{key}".removeprefix("."))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from changes_of(old, new, f"{path}[{index}]")
    elif before != after:
        yield Change(path, before, after)


def is_length(change: Change) -> bool:
    """Return whether a change is of how long the run is."""
    return change.setting in LENGTH


def check_allowed(names: Sequence[str]) -> None:
    """Check that what is to be allowed can be.

    Raises:
        ConfigError: Naming what cannot, and what can.
    """
    refused = [name for name in names if not _is_among(name, BY_NAME)]
    if refused:
        raise ConfigError(
            [Problem(f"A run cannot go on with another {n}", remedy=closest(n, BY_NAME)) for n in refused]
        )


def refuse(changes: Sequence[Change], allow: Sequence[str], folder: Path, *, is_finished: bool) -> None:
    """Refuse to go on with a run if anything is another that may not be.

    Args:
        changes: What is another.
        allow: What was allowed by name.
        folder: The run's folder.
        is_finished: Whether the run came to its end, and only a longer one would go on.

    Raises:
        ConfigError: With everything that is another, and what would work.
    """
    names = [*allow, *(LENGTH if set(allow) & set(LENGTH) else ())]  # the one takes the place of the other
    asked = [change for change in changes if not _is_among(change.setting, FREE)]
    wrong = [change for change in asked if not _is_among(change.setting, names)]
    if wrong:
        could = [each for each in BY_NAME if any(_is_among(change.setting, [each]) for change in wrong)]
        if could and all(_is_among(change.setting, could) for change in wrong):
            remedy = f"To go on so, allow it by name: {' '.join(f'--allow {each}' for each in could)}."
        else:
            remedy = (
                f"Another run.name begins another run. What may be another when a run goes on: {', '.join(BY_NAME)}."
            )
        if not is_finished:
            remedy += f" As it was, it goes on with: mtlkit resume {shlex.quote(str(folder))}."
        raise ConfigError(
            Problem(f"The run {folder} was started with another configuration:{_lines(wrong)}", "", "", remedy)
        )
    if is_finished and asked and not any(map(is_length, asked)):
        remedy = "More training.epochs or training.steps would go on with it; it has no other use for a change."
        raise ConfigError(Problem(f"The run {folder} has come to its end:{_lines(asked)}", remedy=remedy))


def effect_of_length(saved: Mapping[str, Any], experiment: Experiment, step: int, folder: Path) -> str | None:
    """Return what it means that a run is of another length than it was planned to be, as a warning; None if nothing.

    Learning rates, and a mixing that changes over the run, are functions of the step and of the number of all steps.

    Args:
        saved: The configuration that the run was saved with.
        experiment: What was built of the one that it goes on with.
        step: The step that the run is at.
        folder: The run's folder.

    Raises:
        ConfigError: If the run is at that step or beyond it already.
    """
    plan, schedule, mixing = experiment.plan, experiment.schedule, experiment.mixing
    training = saved["training"]
    before = training["steps"] or (training["epochs"] or DEFAULT_EPOCHS) * plan.steps_per_epoch
    if before == plan.steps:
        return None
    if plan.steps <= step:
        what = f"The run {folder} is at step {step} already, and {plan.steps} steps would be no more than that"
        more = f"training.steps={step + plan.steps_per_epoch}"
        raise ConfigError(Problem(what, remedy=f"Ask for more: {more}, say; an epoch has {plan.steps_per_epoch}."))
    moved = [
        *(["the learning rates"] if schedule.depends_on_length else []),
        *(["the shares of the mixing"] if mixing is not None and mixing.first != mixing.last else []),
    ]
    if not moved:
        return None
    text = (
        f"The run was to have {before} steps and now has {plan.steps}. From here on {' and '.join(moved)} go by that: "
        f"what it comes to is not what {plan.steps} steps from the start would have come to."
    )
    if schedule.depends_on_length:
        old, new = (schedule.factor(min(step, total - 1), total) for total in (before, plan.steps))
        rate = experiment.optimizer.param_groups[0]["initial_lr"]
        text += f" The learning rate was {old * rate:.3g} and goes on at {new * rate:.3g}."
    return text


def _is_among(setting: str, names: Sequence[str]) -> bool:
    """Return whether a setting is one of those, or a part of one."""
    return any(setting == name or setting.startswith((f"{name}.", f"{name}[")) for name in names)


def _lines(changes: Sequence[Change]) -> str:
    most = 10
    more = [f"and {len(changes) - most} more"] if len(changes) > most else []
    return "".join(f"\n  {line}" for line in [*map(str, changes[:most]), *more])
