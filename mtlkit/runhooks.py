"""Run hooks: the plugins that are told of a run's events, each in a guard of its own."""

from __future__ import annotations

import copy
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import pluggy
import torch

from mtlkit.data.generators import kept_generators
from mtlkit.engine.events import (
    CheckpointWritten,
    EpochFinished,
    EvaluationFinished,
    Event,
    GradientsMeasured,
    NonFiniteFound,
    RunFinished,
    RunStarted,
    StepRecorded,
)
from mtlkit.engine.records import HOOK_FAILURES
from mtlkit.engine.run import RunFolder
from mtlkit.errors import CheckpointError, MtlkitError, PluginError
from mtlkit.hookspecs import RunHooks
from mtlkit.registry import Record
from mtlkit.registry.describe import raised
from mtlkit.resolve import Part, Resolved

__all__ = ["HookFailure", "HookListener", "read_failures"]

_HOOK_OF = {
    RunStarted: "mtlkit_run_started",
    StepRecorded: "mtlkit_step_recorded",
    NonFiniteFound: "mtlkit_non_finite_found",
    GradientsMeasured: "mtlkit_gradients_measured",
    EpochFinished: "mtlkit_epoch_finished",
    EvaluationFinished: "mtlkit_evaluation_finished",
    CheckpointWritten: "mtlkit_checkpoint_written",
    RunFinished: "mtlkit_run_finished",
}


@dataclass(frozen=True)
class HookFailure:
    """A plugin's hook raised; the first time that it did.

    Attributes:
        plugin: The plugin's qualified name.
        version: Its distribution's version.
        entry_point: Where its entry point leads.
        hook: Which hook.
        step: The step that the run was at, if the event knows it.
        error: What it raised.
    """

    plugin: str
    version: str
    entry_point: str
    hook: str
    step: int | None
    error: str


class HookListener:
    """Tells each plugin that a run names of the run's events.

    Each has a plugin manager of its own: one that raises keeps no other from hearing of the event. The first failure of
    each hook of each plugin is told of by a warning and written to the run's ``hook_failures.jsonl``; the run goes on,
    unless it is strict.

    Args:
        resolved: The configuration.

    Attributes:
        failures: What went wrong so far.

    Raises:
        ConfigError: If a plugin refuses its options.
        PluginError: If a plugin cannot be constructed.
    """

    def __init__(self, resolved: Resolved) -> None:
        self.failures: list[HookFailure] = []
        self._strict = resolved.config.plugins.strict
        self._run: RunFolder | None = None
        self._told: set[tuple[str, str]] = set()  # whose failure of which hook was warned of
        self._plugins: list[tuple[Record, pluggy.PluginManager]] = []
        for part in resolved.hooks:
            if part.record is None:  # the resolver finds every hook in the registry
                continue
            manager = pluggy.PluginManager("mtlkit")
            manager.add_hookspecs(RunHooks)
            manager.register(_instance(part, part.record, resolved))
            self._plugins.append((part.record, manager))

    def attach(self, run: RunFolder) -> None:
        """Say where failures are to be written."""
        self._run = run

    def __call__(self, event: Event) -> None:
        """Tell every plugin of an event.

        Raises:
            PluginError: If one raises, and the run is strict.
        """
        hook = _HOOK_OF.get(type(event))
        if hook is None:
            return
        if isinstance(event, RunStarted) and self._run is not None:
            self.failures = read_failures(self._run)  # those up to the step that the run goes on from
        for record, manager in self._plugins:
            try:
                # What one changes in the event is for itself alone, and what it draws at random is drawn aside.
                with kept_generators([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
                    getattr(manager.hook, hook)(event=copy.deepcopy(event))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - who only listens must not end the run, nor by sys.exit()
                self._failed(record, hook, event, error)

    def _failed(self, record: Record, hook: str, event: Event, error: BaseException) -> None:
        what = raised(error)
        text = f"The hook {hook} of {record.provider} raised {what}"
        if self._strict:
            raise PluginError(
                f"{text}. The run ends there, since its plugins.strict is set; --resume goes on with it."
            ) from error
        failed = (record.qualified, hook)
        if failed in self._told:
            return  # once is enough: a hook that fails fails at every step
        self._told.add(failed)
        if failed not in {(each.plugin, each.hook) for each in self.failures}:
            step = getattr(event, "step", None)
            failure = HookFailure(record.qualified, record.version, record.value, hook, step, what)
            self.failures.append(failure)
            if self._run is not None:
                self._run.append(HOOK_FAILURES, asdict(failure))
        warnings.warn(f"{text}. The run goes on without it; further failures of this hook are not shown.", stacklevel=2)


def read_failures(run: RunFolder) -> list[HookFailure]:
    """Return the failures of hooks that a run's folder tells of.

    Raises:
        CheckpointError: If they cannot be read.
    """
    records = run.records.read(HOOK_FAILURES)
    try:
        return [HookFailure(**record) for record in records]
    except TypeError as error:
        raise CheckpointError(f"{run.path / HOOK_FAILURES} is not what a run writes: {error}. Remove it.") from error


def _instance(part: Part, record: Record, resolved: Resolved) -> Any:
    """Return what hears of one run's events: an instance of a class, or what is no class as it is."""
    if not isinstance(part.component, type):
        return part.component
    try:
        return part.component(**part.options)
    except (KeyboardInterrupt, MtlkitError):
        raise
    except ValueError as error:  # as any component refuses its options
        text = str(error).removesuffix(".")
        raise resolved.problem(text[:1].upper() + text[1:], part.path) from error
    except BaseException as error:
        raise PluginError(
            f"The plugin '{record.name}' could not be constructed ({record.provider}): {raised(error)}.",
            distribution=record.distribution,
            version=record.version,
            entry_point=record.entry_point,
        ) from error
