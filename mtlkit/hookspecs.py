"""The hooks: what an entry point answers, and what a plugin may be told.

An entry point of one of the groups below leads to a pluggy plugin, which :func:`plugin` makes of a class in one line::

    class Wine(mtlkit.Task):
        ...

    wine = mtlkit.plugin(Wine)

and in pyproject.toml::

    [project.entry-points."mtlkit.tasks"]
    wine = "acme_mtl:wine"

How a hook or one of its arguments goes: it is deprecated first, with a warning at the plugin's own line, for two minor
versions; see :func:`deprecated`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from mtlkit.architectures.base import Architecture
    from mtlkit.encoders.base import Encoder
    from mtlkit.engine import events
    from mtlkit.strategies.base import Strategy
    from mtlkit.task import Task

__all__ = [
    "ANSWERS",
    "BASES",
    "COMPONENT_HOOKS",
    "KINDS",
    "SINGULAR",
    "ComponentHooks",
    "ContractWarning",
    "RunHooks",
    "base_of",
    "deprecated",
    "hookimpl",
    "hookspec",
    "plugin",
    "run_hooks_of",
]

KINDS = ("tasks", "encoders", "architectures", "strategies", "plugins", "commands")
"""What can be plugged in; the entry-point groups are ``mtlkit.<kind>``."""

SINGULAR = {
    "tasks": "task",
    "encoders": "encoder",
    "architectures": "architecture",
    "strategies": "strategy",
    "plugins": "plugin",
    "commands": "command",
}
"""One component of each kind, in a word."""

COMPONENT_HOOKS = {
    "tasks": "mtlkit_task",
    "encoders": "mtlkit_encoder",
    "architectures": "mtlkit_architecture",
    "strategies": "mtlkit_strategy",
}
"""The hook that answers with the class, for each kind of which a model is made."""

ANSWERS = COMPONENT_HOOKS | {"plugins": "mtlkit_run_hooks", "commands": "mtlkit_command"}
"""The hook that answers with what an entry point offers, for each kind."""

BASES = {
    "tasks": "mtlkit.Task",
    "encoders": "mtlkit.Encoder",
    "architectures": "mtlkit.Architecture",
    "strategies": "mtlkit.Strategy",
}
"""What the class of each kind of component derives from."""

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

    @hookspec
    def mtlkit_run_hooks(self) -> type:  # type: ignore[empty-body]
        """Return a class of run hooks, of which each run makes an instance: ``return TensorBoard``."""

    @hookspec
    def mtlkit_command(self) -> click.Command:  # type: ignore[empty-body]
        """Return a click command, which ``mtlkit NAME`` then runs: ``return predict``."""


class RunHooks:
    """What a plugin of the group ``mtlkit.plugins`` may be told, if a run's ``hooks`` names it.

    It is a class, of which each run makes an instance; the keyword-only parameters of its constructor are the options
    that a configuration may set beside its name::

        class Log:
            def __init__(self, *, file: str = "losses.txt") -> None:
                self.file = file

            @mtlkit.hookimpl
            def mtlkit_evaluation_finished(self, event):
                for label, result in event.results.items():
                    send(f"{label}/loss", result.loss, event.step)

        log = mtlkit.plugin(Log)

    Each hook is called in a guard: one that raises is told of, the run's folder says so, and the run goes on, unless
    its ``plugins.strict`` is set.
    """

    @hookspec
    def mtlkit_run_started(self, event: events.RunStarted) -> None:
        """Hear that a run starts, or goes on: ``print(event.folder)``."""

    @hookspec
    def mtlkit_step_recorded(self, event: events.StepRecorded) -> None:
        """Hear what a step record holds: ``print(event.losses["wine"])``."""

    @hookspec
    def mtlkit_non_finite_found(self, event: events.NonFiniteFound) -> None:
        """Hear of values that were NaN or infinite, and what was done about them: ``print(*event.found)``."""

    @hookspec
    def mtlkit_gradients_measured(self, event: events.GradientsMeasured) -> None:
        """Hear how the tasks' gradients compare, where ``diagnostics`` asks for it: ``print(event.conflicts)``."""

    @hookspec
    def mtlkit_epoch_finished(self, event: events.EpochFinished) -> None:
        """Hear that an epoch's last step was taken: ``print(event.epoch)``."""

    @hookspec
    def mtlkit_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        """Hear how the tasks fare on a split: ``print(event.results["wine"].metrics)``."""

    @hookspec
    def mtlkit_checkpoint_written(self, event: events.CheckpointWritten) -> None:
        """Hear that the run was saved: ``print(event.folder)``."""

    @hookspec
    def mtlkit_run_finished(self, event: events.RunFinished) -> None:
        """Hear that the run is over: ``print(event.results["wine"].metrics)``."""


class ContractWarning(FutureWarning):
    """A plugin uses a part of a contract that a later version of mtlkit will not have.

    It is no DeprecationWarning, which Python hides: whoever runs the plugin sees it too.
    """


def deprecated(what: str, *, since: tuple[int, int], instead: str) -> ContractWarning:
    """Return the warning for a hook or an argument that is to go, two minor versions after the first with the warning.

    It is handed to pluggy, which issues it at the plugin's own line::

        @hookspec(warn_on_impl_args={"log": deprecated("the argument 'log'", since=(0, 2), instead="event.log")})
        def mtlkit_run_started(self, event, log): ...

    and the same for a whole hook with ``warn_on_impl``.

    Args:
        what: What goes.
        since: The minor version that warns first, such as ``(0, 2)``.
        instead: What to use instead.
    """
    major, minor = since
    text = f"{what} is deprecated since mtlkit {major}.{minor} and will be gone in {major}.{minor + 2}; use {instead}."
    return ContractWarning(text[:1].upper() + text[1:])


class _ComponentPlugin:
    """A pluggy plugin whose one hook answers with a class, or a command."""

    def __init__(self, component: Any, kind: str) -> None:
        self.component = component
        self.kind = kind
        setattr(self, ANSWERS[kind], hookimpl(lambda: component))

    def __repr__(self) -> str:
        return f"mtlkit.plugin({getattr(self.component, '__qualname__', self.component)})"


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


def run_hooks_of(component: object) -> list[str]:
    """Return the names of the attributes of a class or an object that are marked as hooks of mtlkit."""
    names = []
    for name in dir(component):
        marked = getattr(getattr(component, name, None), f"{hookimpl.project_name}_impl", None)
        if isinstance(marked, dict):
            names.append(name)
    return names


def plugin(component: Any) -> Any:
    """Make of a class what an entry point leads to.

    Args:
        component: A subclass of Task, Encoder, Architecture or Strategy; a class with hooks of runs, marked with
            ``mtlkit.hookimpl``; or a click command.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(component, type):
        if run_hooks_of(component):  # before the bases, which import torch: a class of hooks may do without
            return _ComponentPlugin(component, "plugins")
        for kind in COMPONENT_HOOKS:
            if issubclass(component, base_of(kind)):
                return _ComponentPlugin(component, kind)
    elif "click" in sys.modules and isinstance(component, sys.modules["click"].Command):
        return _ComponentPlugin(component, "commands")
    raise TypeError(
        "mtlkit.plugin() takes a subclass of mtlkit.Task, Encoder, Architecture or Strategy, a class with methods that "
        f"are marked with mtlkit.hookimpl, or a click command; received {component!r}"
    )
