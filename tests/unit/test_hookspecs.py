"""mtlkit.plugin(), and the tables of hooks."""

from __future__ import annotations

import inspect
import warnings

import click
import pluggy
import pytest
from torch import nn

import mtlkit
from mtlkit._version import __version__
from mtlkit.hookspecs import (
    ANSWERS,
    BASES,
    COMPONENT_HOOKS,
    KINDS,
    SINGULAR,
    ComponentHooks,
    ContractWarning,
    RunHooks,
    base_of,
    deprecated,
    hookspec,
    plugin,
    run_hooks_of,
)


class Wine(mtlkit.Task):
    """A task."""


class Wave(mtlkit.Encoder):
    """An encoder."""


class Sluice(mtlkit.Architecture):
    """An architecture."""


class Equal(mtlkit.Strategy):
    """A strategy."""


class Log:
    """Told of runs."""

    @mtlkit.hookimpl
    def mtlkit_run_finished(self, event):
        """Hear that it is over."""


class LongLog(Log):
    """Told of them by what it inherits."""


@click.command()
def predict():
    """Predict."""


COMPONENTS = {
    "tasks": Wine,
    "encoders": Wave,
    "architectures": Sluice,
    "strategies": Equal,
    "plugins": LongLog,
    "commands": predict,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_becomes_a_plugin_that_answers_with_it(kind):
    manager = pluggy.PluginManager("mtlkit")
    manager.add_hookspecs(ComponentHooks)
    manager.register(plugin(COMPONENTS[kind]))
    manager.check_pending()
    assert getattr(manager.hook, ANSWERS[kind])() == [COMPONENTS[kind]]
    assert repr(plugin(COMPONENTS[kind])).startswith("mtlkit.plugin(")


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_no_other_hook(kind):
    manager = pluggy.PluginManager("mtlkit")
    manager.add_hookspecs(ComponentHooks)
    manager.register(plugin(COMPONENTS[kind]))
    others = [hook for other, hook in ANSWERS.items() if other != kind]
    assert all(getattr(manager.hook, hook)() == [] for hook in others)


@pytest.mark.parametrize("received", [nn.Module, int, "Wine", None, Wave.forward, plugin(Wine), Log()])
def test_anything_else_is_refused(received):
    with pytest.raises(TypeError) as caught:
        plugin(received)
    message = str(caught.value)
    assert "takes a subclass of mtlkit.Task, Encoder, Architecture or Strategy, a class with methods that" in message
    assert "or a click command; received" in message
    assert repr(received) in message


def test_an_instance_is_refused():
    with pytest.raises(TypeError, match="takes a subclass"):
        plugin(Equal(2))


def test_the_bases_are_those_that_are_exported():
    assert {kind: base_of(kind) for kind in COMPONENT_HOOKS} == {
        "tasks": mtlkit.Task,
        "encoders": mtlkit.Encoder,
        "architectures": mtlkit.Architecture,
        "strategies": mtlkit.Strategy,
    }


def test_every_kind_has_its_hook():
    assert set(KINDS) == set(ANSWERS) == set(SINGULAR) == set(COMPONENTS)
    assert set(BASES) == set(COMPONENT_HOOKS)
    assert all(hasattr(ComponentHooks, hook) for hook in ANSWERS.values())
    assert all(getattr(mtlkit, base.removeprefix("mtlkit.")) is base_of(kind) for kind, base in BASES.items())


def test_every_hook_has_an_example():
    hooks = [getattr(spec, name) for spec in (ComponentHooks, RunHooks) for name in vars(spec) if "mtlkit" in name]
    assert len(hooks) == 14
    assert all("``" in hook.__doc__ for hook in hooks)


def test_every_hook_of_runs_takes_an_event():
    hooks = [value for name, value in vars(RunHooks).items() if name.startswith("mtlkit_")]
    assert len(hooks) == 8
    assert all(list(inspect.signature(hook).parameters) == ["self", "event"] for hook in hooks)


def test_the_hooks_of_a_class_are_those_that_are_marked():
    class Mixed(Log):
        def mtlkit_run_started(self, event): ...

        @pluggy.HookimplMarker("pytest")
        def mtlkit_epoch_finished(self, event): ...

    assert run_hooks_of(Mixed) == ["mtlkit_run_finished"]


def test_what_is_to_go_is_told_of_at_the_plugins_own_line():
    class Specs:
        @hookspec(warn_on_impl_args={"log": deprecated("the argument 'log'", since=(0, 2), instead="event.log")})
        def mtlkit_run_started(self, event, log): ...

        @hookspec(warn_on_impl=deprecated("the hook mtlkit_old", since=(0, 9), instead="mtlkit_new"))
        def mtlkit_old(self): ...

    class Old:
        @mtlkit.hookimpl
        def mtlkit_run_started(self, event, log): ...

        @mtlkit.hookimpl
        def mtlkit_old(self): ...

    manager = pluggy.PluginManager("mtlkit")
    manager.add_hookspecs(Specs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        manager.register(Old())
    assert {str(each.message) for each in caught} == {
        "The argument 'log' is deprecated since mtlkit 0.2 and will be gone in 0.4; use event.log.",
        "The hook mtlkit_old is deprecated since mtlkit 0.9 and will be gone in 0.11; use mtlkit_new.",
    }
    assert {each.category for each in caught} == {ContractWarning}
    assert {each.filename for each in caught} == {__file__}


def test_nothing_stays_that_was_to_be_gone():
    """A hook or an argument goes two minor versions after the first that warns of it."""
    now = tuple(map(int, __version__.split(".")[:2]))
    for spec in (ComponentHooks, RunHooks):
        for name in [each for each in vars(spec) if each.startswith("mtlkit_")]:
            options = getattr(spec, name).mtlkit_spec
            told = [options["warn_on_impl"], *(options["warn_on_impl_args"] or {}).values()]
            for warning in filter(None, told):
                gone = str(warning).partition("gone in ")[2].partition(";")[0]
                assert now < tuple(map(int, gone.split("."))), f"{name}: {warning}"
