"""mtlkit.plugin(), and the tables of hooks."""

from __future__ import annotations

import pluggy
import pytest
from torch import nn

import mtlkit
from mtlkit.hookspecs import COMPONENT_HOOKS, KINDS, ComponentHooks, RunHooks, base_of, plugin


class Wine(mtlkit.Task):
    """A task."""


class Wave(mtlkit.Encoder):
    """An encoder."""


class Sluice(mtlkit.Architecture):
    """An architecture."""


class Equal(mtlkit.Strategy):
    """A strategy."""


COMPONENTS = {"tasks": Wine, "encoders": Wave, "architectures": Sluice, "strategies": Equal}


@pytest.mark.parametrize("kind", COMPONENT_HOOKS)
def test_a_class_becomes_a_plugin_that_answers_with_it(kind):
    manager = pluggy.PluginManager("mtlkit")
    manager.add_hookspecs(ComponentHooks)
    manager.register(plugin(COMPONENTS[kind]))
    manager.check_pending()
    assert getattr(manager.hook, COMPONENT_HOOKS[kind])() == [COMPONENTS[kind]]


@pytest.mark.parametrize("kind", COMPONENT_HOOKS)
def test_it_answers_no_other_hook(kind):
    manager = pluggy.PluginManager("mtlkit")
    manager.add_hookspecs(ComponentHooks)
    manager.register(plugin(COMPONENTS[kind]))
    others = [hook for other, hook in COMPONENT_HOOKS.items() if other != kind]
    assert all(getattr(manager.hook, hook)() == [] for hook in others)


@pytest.mark.parametrize("received", [nn.Module, int, "Wine", None, Wave.forward, plugin(Wine)])
def test_anything_else_is_refused(received):
    with pytest.raises(TypeError) as caught:
        plugin(received)
    message = str(caught.value)
    assert "takes a subclass of mtlkit.Task, Encoder, Architecture or Strategy" in message
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
    assert set(KINDS) == {*COMPONENT_HOOKS, "plugins"}
    assert all(hasattr(ComponentHooks, hook) for hook in COMPONENT_HOOKS.values())


def test_every_hook_has_an_example():
    hooks = [getattr(spec, name) for spec in (ComponentHooks, RunHooks) for name in vars(spec) if "mtlkit" in name]
    assert len(hooks) == 9
    assert all("``" in hook.__doc__ for hook in hooks)
