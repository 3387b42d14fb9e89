"""Subject: the component that is being tested."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtlkit.errors import ConfigError, MtlkitError, Problem, closest
from mtlkit.hookspecs import COMPONENT_HOOKS, KINDS, SINGULAR, base_of, run_hooks_of
from mtlkit.options import Signature, signature_of
from mtlkit.registry import OWN, Record, Registry
from mtlkit.registry.names import split
from mtlkit.specs import InputSpec
from mtlkit.testing.checks import Nonconformance
from mtlkit.yamlfile import Document

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """A component by its record in the registry, or a class that is not plugged in.

    Attributes:
        kind: One of :data:`~mtlkit.hookspecs.KINDS`.
        name: What it is called in reports.
        given: The class, where one was given.
        record: Where it is registered, where it was named.
        options: The options it is tested with; the others keep their defaults.
        inputs: The shapes of rows to test an encoder or an architecture with.
        import_seconds: How long its module may take to import, torch not counted.
    """

    kind: str
    name: str
    given: type | None = None
    record: Record | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[InputSpec] = ()
    import_seconds: float = 5.0

    @functools.cached_property
    def component(self) -> Any:
        """The class, loaded when it is first needed: naming a test imports no plugin.

        Raises:
            Nonconformance: If it cannot be loaded.
        """
        if self.given is not None:
            return self.given
        if self.record is None:  # the two constructors below set one or the other
            raise ValueError("a subject needs a class or a record")
        with _told():
            return Registry.discover().load(self.record)

    @functools.cached_property
    def signature(self) -> Signature:
        """What its constructor takes.

        Raises:
            Nonconformance: If its signature is no schema.
        """
        with _told():
            return signature_of(self.component)

    def checked_options(self) -> dict[str, Any]:
        """Return the options as a configuration would give them: checked, with every default.

        Raises:
            Nonconformance: If they are not what its constructor takes.
        """
        with _told():
            return self.signature.check(dict(self.options), Document.from_data(dict(self.options), "options"), ())

    @functools.cached_property
    def kept(self) -> dict[str, Any]:
        """What is worked out once and used by several checks."""
        return {}

    @classmethod
    def of(cls, component: str | type, *, kind: str | None = None, **settings: Any) -> Subject:
        """Make the subject of a name, qualified where it has to be, or of a class.

        Raises:
            ConfigError: If there is no such component, or several kinds have one of this name.
            PluginError: If the name's distribution is not installed, or the component may not be used.
        """
        if kind not in {None, *KINDS}:
            raise ConfigError(Problem(f"There are no components of the kind {kind!r}", remedy=closest(kind, KINDS)))
        if isinstance(component, type):
            return cls(_kind_of(component, kind), component.__qualname__, given=component, **settings)
        registry = Registry.discover()
        distribution, short = split(component)
        kinds = [
            each
            for each in ([kind] if kind else KINDS)
            if any(r.name == short and distribution in {"", r.distribution} for r in registry.records(each))
        ]
        if len(kinds) > 1:
            named = " and of the ".join(kinds)
            raise ConfigError(Problem(f"'{component}' is one of the {named}", remedy="Say which: kind=..."))
        try:
            record = registry.find(kinds[0] if kinds else kind or KINDS[0], component)
        except ConfigError as error:
            if kinds or kind:
                raise
            names = [record.qualified for record in registry.records() if record.distribution != OWN]
            raise ConfigError(Problem(f"Unknown component '{component}'", remedy=closest(component, names))) from error
        return cls(record.kind, record.qualified, record=record, **settings)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn an error of mtlkit, which says whose fault it is, into a Nonconformance."""
    try:
        yield
    except MtlkitError as error:
        raise Nonconformance(str(error)) from error


def _kind_of(component: type, kind: str | None) -> str:
    """Return the kind of a class.

    Raises:
        ConfigError: If it is of none, or not of the kind that is said.
    """
    kinds = [each for each in COMPONENT_HOOKS if issubclass(component, base_of(each))]
    if not kinds and (kind == "plugins" or run_hooks_of(component)):
        kinds = ["plugins"]
    if not kinds:
        raise ConfigError(
            Problem(
                f"conformance() takes a name or a class of a component; received {component!r}",
                remedy="A class derives from mtlkit.Task, Encoder, Architecture or Strategy, or has methods that are "
                "marked with mtlkit.hookimpl.",
            )
        )
    if kind not in {None, kinds[0]}:
        raise ConfigError(
            Problem(f"{component.__qualname__} is no {SINGULAR[str(kind)]}", remedy=f"kind={kinds[0]!r}.")
        )
    return kinds[0]
