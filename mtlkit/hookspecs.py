"""The hooks: what an entry point answers, and what a plugin may be told.

An entry point of one of the groups below leads to a pluggy plugin, which :func:`plugin` makes of a class in one line::

    class Wine(mtlkit.Task):
        ...

    wine = mtlkit.plugin(Wine)

and in pyproject.toml::

    [project.entry-points."mtlkit.tasks"]
    wine = "acme_mtl:wine"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

if TYPE_CHECKING:
    from mtlkit.architectures.base import Architecture
    from mtlkit.encoders.base import Encoder
    from mtlkit.engine import events
    from mtlkit.strategies.base import Strategy
    from mtlkit.task import Task

__all__ = ["COMPONENT_HOOKS", "KINDS", "ComponentHooks", "RunHooks", "base_of", "hookimpl", "hookspec", "plugin"]

KINDS = ("tasks", "encoders", "architectures", "strategies", "plugins")
"""What can be plugged in; the entry-point groups are ``mtlkit.<kind>``."""

COMPONENT_HOOKS = {
    "tasks": "mtlkit_task",
    "encoders": "mtlkit_encoder",
    "architectures": "mtlkit_architecture",
    "strategies": "mtlkit_strategy",
}
"""The hook that answers with the class, for each kind of component."""

hookspec = pluggy.HookspecMarker("mtlkit")
hookimpl = pluggy.HookimplMarker("mtlkit")


class ComponentHooks:
    """What an entry point of each component group answers; :func:`plugin` writes these for you."""

    @hookspec
    def mtlkit_task(self) -> type[Task]:  # type: ignore[empty-body]
        """Return the class of a task: ``return Wine``."""

    @hookspec
    def mtlkit_encoder(self) -> type[Encoder]:  # type: ignore[empty-body]
        """Return the class of an encoder: ``return WaveNet``."""

    @hookspec
    def mtlkit_architecture(self) -> type[Architecture]:  # type: ignore[empty-body]
        """Return the class of an architecture: ``return SluiceNetwork``."""

    @hookspec
    def mtlkit_strategy(self) -> type[Strategy]:  # type: ignore[empty-body]
        """Return the class of a strategy: ``return EqualNorms``."""


class RunHooks:
    """What a plugin of the group ``mtlkit.plugins`` may be told, if a run's ``hooks`` names it.

    ::

        @mtlkit.hookimpl
        def mtlkit_evaluation_finished(event):
            for label, result in event.results.items():
                send(f"{label}/loss", result.loss, event.step)
    """

    @hookspec
    def mtlkit_run_started(self, event: events.RunStarted) -> None:
        """Hear that a run starts, or goes on: ``print(event.folder)``."""

    @hookspec
    def mtlkit_step_recorded(self, event: events.StepRecorded) -> None:
        """Hear what a step record holds: ``print(event.losses["wine"])``."""

    @hookspec
    def mtlkit_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        """Hear how the tasks fare on a split: ``print(event.results["wine"].metrics)``."""

    @hookspec
    def mtlkit_checkpoint_written(self, event: events.CheckpointWritten) -> None:
        """Hear that the run was saved: ``print(event.folder)``."""

    @hookspec
    def mtlkit_run_finished(self, event: events.RunFinished) -> None:
        """Hear that the run is over: ``print(event.results["wine"].metrics)``."""


ComponentClass = TypeVar("ComponentClass", bound=type)


class _ComponentPlugin:
    """A pluggy plugin whose one hook answers with a class."""

    def __init__(self, component: type, hook: str) -> None:
        self.component = component
        setattr(self, hook, hookimpl(lambda: component))


def base_of(kind: str) -> type:
    """Return the base class of a kind of component. It imports torch, which a component's own module has done too."""
    if kind == "tasks":
        from mtlkit.task import Task

        return Task
    if kind == "encoders":
        from mtlkit.encoders.base import Encoder

        return Encoder
    if kind == "architectures":
        from mtlkit.architectures.base import Architecture

        return Architecture
    from mtlkit.strategies.base import Strategy

    return Strategy


def plugin(component: type) -> Any:
    """Make of a class what an entry point leads to.

    Args:
        component: A subclass of Task, Encoder, Architecture or Strategy.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(component, type):
        for kind, hook in COMPONENT_HOOKS.items():
            if issubclass(component, base_of(kind)):
                return _ComponentPlugin(component, hook)
    raise TypeError(
        f"mtlkit.plugin() takes a subclass of mtlkit.Task, Encoder, Architecture or Strategy; received {component!r}"
    )
