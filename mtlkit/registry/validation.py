"""Validation: what is wrong with what an entry point leads to, in one sentence, and what its author would do.

pluggy registers anything, and calls of it what is marked and named right; all else it passes over in silence. Here each
silent case gets its own words.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from mtlkit.errors import closest
from mtlkit.hookspecs import ANSWERS, BASES, COMPONENT_HOOKS, ComponentHooks, RunHooks, base_of, hookimpl
from mtlkit.registry.describe import raised, shown
from mtlkit.registry.records import Record

__all__ = ["Refusal", "refusal_of", "refusal_of_answer"]

_MARK = "_impl"  # pluggy marks a function with an attribute <project>_impl that holds a mapping
_OWN_MARK = f"{hookimpl.project_name}{_MARK}"
_OPTIONS = {"hookwrapper", "optionalhook", "tryfirst", "trylast"}
_NEAR = 0.85  # how like the name of a hook another name is meant to be one
_ARTICLES = {
    "tasks": "a task",
    "encoders": "an encoder",
    "architectures": "an architecture",
    "strategies": "a strategy",
}


class Refusal(NamedTuple):
    """Why something cannot be used.

    Attributes:
        reason: What is wrong; a sentence without its capital and its full stop.
        remedy: What would help; sentences. Empty where only whoever wrote it knows.
    """

    reason: str
    remedy: str = ""


def hooks() -> dict[str, tuple[str, ...]]:
    """Return every hook, with the arguments it may take: one module may be the plugin of several groups."""
    specs = {name: vars(ComponentHooks)[name] for name in ANSWERS.values()} | run_hooks()
    return {name: tuple(inspect.signature(spec).parameters)[1:] for name, spec in specs.items()}


def run_hooks() -> dict[str, Any]:
    """Return the hooks of runs."""
    return {name: spec for name, spec in vars(RunHooks).items() if name.startswith("mtlkit_")}


def refusal_of(registered: Any, record: Record) -> Refusal | None:
    """Return what is wrong with what an entry point leads to; None if it may be registered."""
    if isinstance(registered, type):
        return _refusal_of_class(registered, record)
    if any(is_async(registered) for is_async in _ASYNC):
        if inspect.iscoroutine(registered):
            registered.close()  # or Python says, at its leisure, that nobody awaited it
        return Refusal("its entry point leads to something async, and plugins are called, not awaited", _FIX_ASYNC)
    try:
        functions = {name: member for name, member in _members(registered).items() if inspect.isroutine(member)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a property of a plugin may raise whatever it likes
        return Refusal(f"looking at what it leads to raised {raised(error)}")
    return _refusal_of_functions(functions, registered, record)


def _refusal_of_functions(functions: Mapping[str, Any], registered: Any, record: Record) -> Refusal | None:
    """Return what is wrong with the functions of a plugin, of which those that are marked are its hooks."""
    module = record.value.partition(":")[0]
    known = hooks()
    ours = {name: function for name, function in functions.items() if _OWN_MARK in _marks(function)}
    for name, function in ours.items():
        refusal = _refusal_of_hook(name, function, known)
        if refusal:
            return refusal
    for name, function in functions.items():
        if name not in ours and difflib.get_close_matches(name, known, 1, _NEAR):
            return _unmarked(name, function, module)
    if not ours:
        foreign = {name: marks for name, function in functions.items() if (marks := _marks(function))}
        if foreign:
            name = next(iter(foreign))
            return _unmarked(name, functions[name], module)
        return Refusal(f"{_described(registered)} has no hook of mtlkit", _way(record))
    implemented = {_hook_name(name, function) for name, function in ours.items()}
    wanted = {ANSWERS[record.kind]} | (run_hooks().keys() if record.kind == "plugins" else set())
    return None if implemented & wanted else _wrong_group(sorted(implemented), record)


def refusal_of_answer(answers: list[Any], record: Record) -> Refusal | None:
    """Return what is wrong with what a hook answered; None if it is what its kind asks for."""
    hook = ANSWERS[record.kind]
    answer = answers[0] if answers else None  # pluggy leaves out what is None
    if record.kind == "commands":
        if isinstance(answer, click.Command):
            return None
        return Refusal(f"its hook {hook} must return a click command; it returned {shown(answer)}", _way(record))
    if record.kind == "plugins":
        if not isinstance(answer, type):
            what = f"its hook {hook} must return a class with hooks of runs; it returned {shown(answer)}"
            return Refusal(what, _way(record))
        return _refusal_of_functions_of(answer, record)
    if isinstance(answer, type) and issubclass(answer, base_of(record.kind)):
        return None
    base = BASES[record.kind]
    return Refusal(f"its hook {hook} must return a subclass of {base}; it returned {shown(answer)}", _way(record))


# --- parts -----------------------------------------------------------------------------------------------------------

_ASYNC = (inspect.iscoroutine, inspect.iscoroutinefunction, inspect.isasyncgen, inspect.isasyncgenfunction)
_FIX_ASYNC = "Write it as a plain function; it may start what is async by asyncio.run()."


def _way(record: Record) -> str:
    """Return the one documented way, for a record's kind."""
    module = record.value.partition(":")[0]
    attribute = record.name.replace("-", "_")
    attribute = attribute if attribute.isidentifier() else "it"
    given = {"commands": "your_click_command", "plugins": "YourHooks"}.get(record.kind, "YourClass")
    return (
        f"Write {attribute} = mtlkit.plugin({given}) in {module}, and let the entry point lead to {module}:{attribute}."
    )


def _members(registered: Any) -> dict[str, Any]:
    """Return the attributes of a plugin that are its own: those of a module, or of an object and its class."""
    if inspect.ismodule(registered):
        return dict(vars(registered))
    names = [name for name in dir(registered) if not (name.startswith("__") and name.endswith("__"))]
    # pluggy looks at every attribute, so one that raises breaks it.
    return {name: getattr(registered, name, None) for name in names}


def _marks(function: Any) -> list[str]:
    """Return the attributes by which pluggy projects mark a function as a hook of theirs."""
    attributes: Mapping[str, Any] = getattr(function, "__dict__", {})
    return [
        name
        for name, value in attributes.items()
        if name.endswith(_MARK) and isinstance(value, Mapping) and value.keys() >= _OPTIONS
    ]


def _hook_name(name: str, function: Any) -> str:
    return str(getattr(function, _OWN_MARK).get("specname") or name)


def _refusal_of_hook(  # noqa: PLR0911 - one for each case
    name: str, function: Any, known: Mapping[str, tuple[str, ...]]
) -> Refusal | None:
    """Return what is wrong with one function that is marked as a hook of mtlkit."""
    hook = _hook_name(name, function)
    if hook not in known:
        if getattr(function, _OWN_MARK).get("optionalhook"):
            return None
        remedy = closest(hook, list(known), kind="Hooks")
        return Refusal(f"it implements the hook '{hook}', and there is none", remedy)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return Refusal(f"its hook {hook} is async, and hooks are called, not awaited", _FIX_ASYNC)
    if hook in ANSWERS.values():
        options = getattr(function, _OWN_MARK)
        if options.get("wrapper") or options.get("hookwrapper"):
            return Refusal(
                f"its hook {hook} wraps others, and it is the only one there is", "Return the class instead."
            )
    parameters = list(inspect.signature(function).parameters.values())
    if not inspect.ismethod(function) and parameters and parameters[0].name in {"self", "cls"}:
        parameters = parameters[1:]  # as in a class that is looked at before an instance is made
    required = [each for each in parameters if each.default is each.empty]
    by_name = [each.name for each in required if each.kind is each.KEYWORD_ONLY]
    if by_name:
        return Refusal(
            f"its hook {hook} takes {', '.join(map(repr, by_name))} by name alone, and hooks are called by position",
            "Take out the '*' before it.",
        )
    asked = [each.name for each in required if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}]
    unknown = [each for each in asked if each not in known[hook]]
    if unknown:
        allowed = ", ".join(known[hook]) or "none"
        plural = "arguments" if len(unknown) > 1 else "argument"
        names = ", ".join(map(repr, unknown))
        return Refusal(f"its hook {hook} asks for the {plural} {names}, which it is not given", f"Allowed: {allowed}.")
    return None


def _unmarked(name: str, function: Any, module: str) -> Refusal:
    """Return the refusal of a function that is named like a hook and is not marked as one of mtlkit."""
    remedy = f"Set @mtlkit.hookimpl above {name} in {module}."
    marks = _marks(function)
    if not marks:
        return Refusal(f"its function {name} is not marked as a hook", remedy)
    project = marks[0].removesuffix(_MARK)
    return Refusal(f"its function {name} is marked as a hook of the project '{project}', not of mtlkit", remedy)


def _refusal_of_class(registered: type, record: Record) -> Refusal:
    """Return why a class is no plugin, and how to make one of it."""
    module = record.value.partition(":")[0]
    name = registered.__name__
    for kind in COMPONENT_HOOKS:
        if any(f"{base.__module__}.{base.__qualname__}" == _HOMES[kind] for base in registered.__mro__):
            article = _ARTICLES[kind]
            return Refusal(
                f"its entry point leads to the class {name} itself, {article}, and a plugin that answers with it is "
                "needed",
                _way(record).replace("YourClass", name),
            )
    implemented = {
        _hook_name(each, member) for each, member in _functions_of(registered).items() if _OWN_MARK in _marks(member)
    }
    if record.kind == "plugins" and implemented and ANSWERS["plugins"] not in implemented:
        return Refusal(
            f"its entry point leads to the class {name} itself, and a plugin that answers with it is needed",
            _way(record).replace("YourHooks", name),
        )
    if implemented:
        return Refusal(
            f"its entry point leads to the class {name}, and an instance of it is needed, whose methods can be called",
            f"Write {name.lower()} = {name}() in {module}, and let the entry point lead to {module}:{name.lower()}.",
        )
    wanted = f"which is no {BASES[record.kind]}" if record.kind in BASES else "which has no hook of mtlkit"
    return Refusal(f"its entry point leads to the class {name}, {wanted}", _way(record))


_HOMES = {
    "tasks": "mtlkit.task.Task",
    "encoders": "mtlkit.encoders.base.Encoder",
    "architectures": "mtlkit.architectures.base.Architecture",
    "strategies": "mtlkit.strategies.base.Strategy",
}


def _refusal_of_functions_of(component: type, record: Record) -> Refusal | None:
    """Return what is wrong with the hooks that a class of run hooks defines."""
    known = {name: arguments for name, arguments in hooks().items() if name not in ANSWERS.values()}
    functions = _functions_of(component)
    for name, function in functions.items():
        if _OWN_MARK in _marks(function):
            refusal = _refusal_of_hook(name, function, known)
            if refusal:
                return refusal
        elif difflib.get_close_matches(name, known, 1, _NEAR):
            return _unmarked(name, function, component.__module__)
    if any(_OWN_MARK in _marks(function) for function in functions.values()):
        return None
    return Refusal(f"the class {component.__name__} has no hook of mtlkit", _way(record))


def _functions_of(component: type) -> dict[str, Any]:
    """Return the functions that are the methods of a class, inherited ones too."""
    members = {name: inspect.getattr_static(component, name, None) for name in dir(component)}
    # What a static or class method is made of.
    functions = {name: getattr(member, "__func__", member) for name, member in members.items()}
    return {name: function for name, function in functions.items() if inspect.isfunction(function)}


def _wrong_group(implemented: list[str], record: Record) -> Refusal:
    kinds = [kind for kind, hook in ANSWERS.items() if hook in implemented]
    if not kinds and run_hooks().keys() & set(implemented):
        kinds = ["plugins"]
    belongs = f"Declare it in the group mtlkit.{kinds[0]}, or answer {ANSWERS[record.kind]}." if kinds else _way(record)
    return Refusal(
        f"it answers {', '.join(implemented)}, and an entry point of the group mtlkit.{record.kind} must answer "
        f"{ANSWERS[record.kind]}",
        belongs,
    )


def _described(registered: Any) -> str:
    if inspect.ismodule(registered):
        return f"the module {registered.__name__}"
    return f"what its entry point leads to, {shown(registered)},"
