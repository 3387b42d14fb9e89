"""Record: one component that is installed; Status: whether it may be used, and if not, why."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mtlkit.registry.names import FILE_SUFFIX, OWN

__all__ = ["Record", "State", "Status"]


class State(enum.StrEnum):
    """Whether a component may be used."""

    OK = "ok"
    """It may, and nothing is known against it; nothing of it may have been imported yet."""

    DISABLED = "disabled"
    """It was left out: by ``MTLKIT_PLUGINS``, ``--no-plugins``, or a configuration's ``plugins``."""

    INCOMPATIBLE = "incompatible"
    """Its distribution says that it does not work with this version of mtlkit. It is never imported."""

    AMBIGUOUS = "ambiguous"
    """Another distribution has one of its kind and name: only the qualified name will do."""

    BROKEN = "broken"
    """Its metadata makes no sense, or it could not be loaded."""


@dataclass(frozen=True)
class Status:
    """A state with its reasons.

    Attributes:
        state: The state.
        reason: Why it is not ok; a sentence without its full stop.
        remedy: What would help; sentences.
    """

    state: State = State.OK
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, order=True)
class Record:
    """One component that is installed, known from metadata; nothing of it has been imported.

    Attributes:
        kind: One of :data:`~mtlkit.hookspecs.KINDS`.
        name: Its short name, which is the entry point's, NFC-normalised and case-folded.
        distribution: The normalised name of the distribution that provides it; for a file, the file's name.
        version: That distribution's version; for a file, the beginning of its SHA-256.
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
    def entry_point(self) -> str:
        """The entry point as metadata spells it."""
        return f"mtlkit.{self.kind}: {self.name} = {self.value}"

    @property
    def provider(self) -> str:
        """Who provides it, for errors."""
        if self.distribution == OWN:
            return f"mtlkit {self.version} itself"
        if self.distribution.endswith(FILE_SUFFIX):
            return f"the file {self.distribution}, {self.version}, {self.kind}: {self.value}"
        return f"{self.distribution} {self.version}, entry point {self.entry_point}"
