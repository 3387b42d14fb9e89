"""The registry: which components are installed, found by metadata alone, and loaded one at a time by name."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pluggy
from packaging.utils import InvalidName, canonicalize_name

from mtlkit._version import __version__
from mtlkit.builtins import BUILTINS
from mtlkit.errors import ConfigError, PluginError, Problem, closest
from mtlkit.hookspecs import COMPONENT_HOOKS, KINDS, ComponentHooks, RunHooks, base_of, plugin

__all__ = ["Record", "Registry"]

OWN = "mtlkit"


@dataclass(frozen=True, order=True)
class Record:
    """One component that is installed, known from metadata; nothing of it has been imported.

    Attributes:
        kind: One of :data:`~mtlkit.hookspecs.KINDS`.
        name: Its short name, which is the entry point's.
        distribution: The normalised name of the distribution that provides it.
        version: That distribution's version.
        value: Where the entry point leads, as ``module:attribute``.
    """

    kind: str
    name: str
    distribution: str
    version: str
    value: str

    @property
    def qualified(self) -> str:
        """The name that is never ambiguous: ``distribution:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def provider(self) -> str:
        """Who provides it, for errors."""
        if self.distribution == OWN:
            return f"mtlkit {self.version} itself"
        return f"{self.distribution} {self.version}, entry point mtlkit.{self.kind}: {self.name} = {self.value}"


class Registry:
    """The components that a run may name.

    Args:
        records: What is installed; :meth:`discover` finds it.
        unreadable: What is wrong with each distribution whose entry points cannot be read.
    """

    def __init__(self, records: Iterable[Record], unreadable: Mapping[str, str] | None = None) -> None:
        self._records = sorted(set(records))
        self.unreadable = dict(unreadable or {})

    @classmethod
    def discover(cls) -> Registry:
        """Read the entry points of every installed distribution, and import none of them."""
        unreadable: dict[str, str] = {}
        return cls([*_built_in(), *_installed(unreadable)], unreadable)

    def records(self, kind: str | None = None) -> list[Record]:
        """Return what is installed of one kind, or of every kind, sorted."""
        return [record for record in self._records if kind in {None, record.kind}]

    def is_ambiguous(self, record: Record) -> bool:
        """Return whether another distribution provides a component of this kind and name too."""
        return sum(other.name == record.name for other in self.records(record.kind)) > 1

    def find(self, kind: str, name: str) -> Record:
        """Return the one component of this kind and name.

        Args:
            kind: One of :data:`~mtlkit.hookspecs.KINDS`.
            name: The short name, or ``distribution:name``.

        Raises:
            ConfigError: If the name is unknown, or more than one distribution provides it.
            PluginError: If the name says which distribution provides it, and that one is not installed.
        """
        known = self.records(kind)
        distribution, colon, short = name.rpartition(":")
        try:
            distribution = canonicalize_name(distribution, validate=True) if colon else ""
        except InvalidName:
            distribution = colon = ""  # no distribution can be called that, so nor can what it provides
        if distribution:
            found = [r for r in known if (r.distribution, r.name) == (distribution, short)]
        else:
            found = [r for r in known if r.name == name]
        if len(found) == 1:
            return found[0]
        singular = _SINGULAR[kind]
        if found:
            providers = " and ".join(f"{r.qualified} ({r.distribution} {r.version})" for r in found)
            raise ConfigError(Problem(f"Ambiguous {singular} '{name}'", remedy=f"Say which one is meant: {providers}."))
        if distribution and not self._is_installed(distribution):
            raise PluginError(
                f"The {singular} '{name}' comes from the distribution '{distribution}', which is not installed. "
                f"Install it: pip install {distribution}"
            )
        names = [r.qualified if self.is_ambiguous(r) else r.name for r in known]
        remedy = closest(short, names, kind="Installed" if kind == "tasks" else "Known")
        if kind == "tasks":
            remedy += " Tasks come from plugins: install the one that provides it."
        raise ConfigError(Problem(f"Unknown {singular} '{name}'", remedy=remedy))

    def load(self, record: Record) -> Any:
        """Import one component: the class, or for the kind ``plugins`` the plugin itself.

        Raises:
            PluginError: If it cannot be imported, or is not what its group asks for.
        """
        try:
            registered = _import(record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin that calls sys.exit() on import must not end the program
            raise self._broken(record, f"importing it raised {type(error).__name__}: {error}") from error
        manager = pluggy.PluginManager(OWN)
        manager.add_hookspecs(RunHooks if record.kind == "plugins" else ComponentHooks)
        try:
            manager.register(registered, name=record.qualified)
            manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise self._broken(record, str(error)) from error
        if record.kind == "plugins":
            return registered
        hook = COMPONENT_HOOKS[record.kind]
        try:
            answers = getattr(manager.hook, hook)()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._broken(record, f"its hook {hook} raised {type(error).__name__}: {error}") from error
        base = base_of(record.kind)
        if len(answers) != 1 or not isinstance(answers[0], type) or not issubclass(answers[0], base):
            received = repr(answers[0]) if answers else f"no answer to the hook {hook}"
            reason = f"a subclass of mtlkit.{base.__name__} is expected, and it gives {received}"
            raise self._broken(
                record,
                reason,
                f"Let the entry point lead to mtlkit.plugin(YourClass) in {record.value.partition(':')[0]}.",
            )
        return answers[0]

    def _is_installed(self, distribution: str) -> bool:
        if any(record.distribution == distribution for record in self._records):
            return True
        try:
            importlib.metadata.distribution(distribution)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    @staticmethod
    def _broken(record: Record, reason: str, remedy: str = "") -> PluginError:
        remedy = remedy or f"Reinstall or update {record.distribution}, or tell its authors."
        what = f"The {_SINGULAR[record.kind]} '{record.name}' cannot be loaded"
        return PluginError(f"{what} ({record.provider}): {reason.rstrip('.')}. {remedy}")


_SINGULAR = {
    "tasks": "task",
    "encoders": "encoder",
    "architectures": "architecture",
    "strategies": "strategy",
    "plugins": "plugin",
}


def _built_in() -> Iterator[Record]:
    for kind, name, value in BUILTINS:
        yield Record(kind, name, OWN, __version__, value)


def _installed(unreadable: dict[str, str]) -> Iterator[Record]:
    """Yield the entry points of each distribution once: the first on sys.path is the one that imports."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions(path=sys.path):
        name = canonicalize_name(distribution.metadata["Name"] or "")
        if not name or name in seen:
            continue
        seen.add(name)
        try:
            entries = list(distribution.entry_points)
        except Exception as error:  # noqa: BLE001 - text that no installer wrote raises whatever it raises
            unreadable[name] = f"{type(error).__name__}: {error}"
            continue
        for entry in entries:
            group, _, kind = entry.group.partition(".")
            if group == OWN and kind in KINDS:
                yield Record(kind, entry.name, name, distribution.version or "?", entry.value)


def _import(record: Record) -> Any:
    found = pkgutil.resolve_name(record.value)
    return plugin(found) if record.distribution == OWN and isinstance(found, type) else found
