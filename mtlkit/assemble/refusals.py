"""What a component takes, and what its constructor refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mtlkit.errors import MtlkitError, PluginError
from mtlkit.memory import ran_out, setting_of
from mtlkit.registry import OWN
from mtlkit.registry.describe import at_fault
from mtlkit.resolve import Part, Resolved
from mtlkit.yamlfile import SettingPath

__all__ = ["chosen", "refusals", "trying"]


@contextmanager
def refusals(resolved: Resolved, part: Part, path: SettingPath) -> Iterator[None]:
    """Turn what a component's constructor raises into an error at its options, or its provider's."""
    try:
        yield
    except MtlkitError:
        raise
    except Exception as error:
        if ran_out(error):
            what = f"It asks for more memory than there is: {_in_a_line(error)}"
            raise resolved.problem(what, path, "Make it smaller.") from error
        if not isinstance(error, ValueError):
            provider = part.record.provider if part.record else part.component.__qualname__
            raise PluginError(f"{provider} failed when it was constructed: {type(error).__name__}: {error}.") from error
        text = str(error).removesuffix(".")
        raise resolved.problem(text[:1].upper() + text[1:], path) from error


@contextmanager
def trying(resolved: Resolved, *, saved: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn what runs out of memory, while batches are tried or trained, into an error at the size of batches.

    It is a matter of the configuration (exit code 2): to do the same again would end the same.

    Args:
        resolved: The configuration.
        saved: Says what is saved of the run that is trained, and how it could go on.
    """
    try:
        with _blaming(resolved):
            yield
    except Exception as error:
        if isinstance(error, MtlkitError) or not ran_out(error):
            raise
        what = f"A batch asks for more memory than there is: {_in_a_line(error)}"
        section, _, key = (setting_of(error) or "training.batch_size").partition(".")
        remedy = _smaller_evaluation(resolved) if section == "evaluation" else _smaller_batches(resolved)
        if saved is not None:
            remedy += " " + saved()
        raise resolved.problem(what, (section, key), remedy) from error


def _in_a_line(error: BaseException) -> str:
    """Return what an error says first; Python's own about memory says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__).removesuffix(".")


def _smaller_batches(resolved: Resolved) -> str:
    training = resolved.config.training
    if training.batch_size == 1:
        return "A batch has one row already: take a smaller model."
    sizes = f"training.batch_size={training.batch_size // 2} training.accumulate={2 * training.accumulate}"
    return f"Take smaller batches, and as many more of them in a step, such as {sizes}; or a smaller model."


def _smaller_evaluation(resolved: Resolved) -> str:
    size = resolved.config.evaluation.batch_size
    if size == 1:
        return "A batch of the evaluation has one row already: take a smaller model."
    return f"Take smaller batches in evaluations, such as evaluation.batch_size={size // 2}."


@contextmanager
def _blaming(resolved: Resolved) -> Iterator[None]:
    """Turn what a plugin's strategy raises into an error that says whose it is; one that ships is ours."""
    part = resolved.strategy
    try:
        yield
    except MtlkitError:
        raise
    except Exception as error:
        if part.record is None or part.record.distribution == OWN or not _is_in(error, part.component):
            raise
        name, provider = resolved.config.strategy.name, part.record.provider
        raise PluginError(f"The strategy '{name}' failed ({provider}): {at_fault(error)}.") from error


def _is_in(error: BaseException, component: type) -> bool:
    """Return whether an error was raised in a method of a component, or in what such a method called."""
    frame = error.__traceback__
    while frame is not None:
        if isinstance(frame.tb_frame.f_locals.get("self"), component):
            return True
        frame = frame.tb_next
    return False


def chosen(part: Part, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return those facts that a component asks for."""
    return {name: facts[name] for name in part.signature.facts}
