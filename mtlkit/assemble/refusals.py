"""What a component takes, and what its constructor refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mtlkit.errors import MtlkitError, PluginError
from mtlkit.resolve import Part, Resolved
from mtlkit.yamlfile import SettingPath

__all__ = ["chosen", "refusals"]


@contextmanager
def refusals(resolved: Resolved, part: Part, path: SettingPath) -> Iterator[None]:
    """Turn what a component's constructor raises into an error at its options, or its provider's."""
    try:
        yield
    except MtlkitError:
        raise
    except ValueError as error:
        text = str(error).removesuffix(".")
        raise resolved.problem(text[:1].upper() + text[1:], path) from error
    except Exception as error:
        provider = part.record.provider if part.record else part.component.__qualname__
        raise PluginError(f"{provider} failed when it was constructed: {type(error).__name__}: {error}.") from error


def chosen(part: Part, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return those facts that a component asks for."""
    return {name: facts[name] for name in part.signature.facts}
