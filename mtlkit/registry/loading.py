"""Loading: import one component in a guard of its own, and check what it registers."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import pluggy

from mtlkit.hookspecs import ANSWERS, ComponentHooks, RunHooks, plugin
from mtlkit.registry.describe import at_fault, raised, shown
from mtlkit.registry.names import OWN
from mtlkit.registry.records import Record
from mtlkit.registry.validation import Refusal, refusal_of, refusal_of_answer

__all__ = ["Refused", "load", "resolve"]


class Refused(Exception):  # noqa: N818 - a verdict, which whoever loads puts in words
    """A component cannot be loaded."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def load(record: Record) -> Any:
    """Return the class, the command, or for the kind ``plugins`` the class or the plugin itself.

    Each component is registered with a plugin manager of its own, so that none can harm another.

    Raises:
        Refused: If it cannot be imported, or is not what its group asks for.
    """
    registered = resolve(record)
    refusal = refusal_of(registered, record)
    if refusal:
        raise Refused(refusal)
    manager = pluggy.PluginManager(OWN)
    manager.add_hookspecs(ComponentHooks)
    manager.add_hookspecs(RunHooks)
    try:
        manager.register(registered, name=record.qualified)
        manager.check_pending()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Refused(Refusal(f"registering it raised {raised(error)}")) from error
    hook = ANSWERS[record.kind]
    if record.kind == "plugins" and not getattr(manager.hook, hook).get_hookimpls():
        return registered  # hooks of runs without a class around them
    try:
        answers = getattr(manager.hook, hook)()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Refused(Refusal(f"its hook {hook} raised {raised(error)}")) from error
    refusal = refusal_of_answer(answers, record)
    if refusal:
        raise Refused(refusal)
    return answers[0]


def resolve(record: Record) -> Any:
    """Import a component's module, and return what the entry point leads to in it.

    Raises:
        Refused: If it cannot be imported.
    """
    module, _, attributes = record.value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for attribute in filter(None, attributes.split(".")):
            try:
                found = getattr(found, attribute)
            except AttributeError as error:
                raise Refused(_missing_attribute(found, attribute)) from error
    except (KeyboardInterrupt, Refused):
        raise
    except ModuleNotFoundError as error:
        raise Refused(_missing_module(record, error)) from error
    except BaseException as error:  # a plugin that calls sys.exit() on import must not end the program
        raise Refused(Refusal(f"importing it raised {at_fault(error)}")) from error
    # What ships inside is listed by its class.
    return plugin(found) if record.distribution == OWN and isinstance(found, type) else found


def _missing_attribute(found: Any, attribute: str) -> Refusal:
    known = [name for name in dir(found) if not name.startswith("_")]
    near = difflib.get_close_matches(attribute, known, 1)
    name = getattr(found, "__name__", shown(found))
    return Refusal(
        f"its entry point leads to '{attribute}' in {name}, which has none",
        (f"Did you mean '{near[0]}'? " if near else "")
        + f"Write {attribute} = mtlkit.plugin(YourClass) in {name}, or correct the entry point.",
    )


def _missing_module(record: Record, error: ModuleNotFoundError) -> Refusal:
    reason = f"importing it raised {at_fault(error)}"
    own = record.value.partition(":")[0].partition(".")[0]
    missing = (error.name or "").partition(".")[0]
    if missing and missing != own:
        return Refusal(
            reason,
            f"Install what provides '{missing}'; if {record.distribution} should have brought it, tell its authors.",
        )
    return Refusal(reason)
