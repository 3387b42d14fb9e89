"""Findings: what an examination, of plugins or of data, has to tell, one thing each."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Finding", "Level", "merged"]


class Level(enum.StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """Something cannot be used."""

    WARNING = "warning"
    """It works, and will not for everyone, or not for long."""

    NOTE = "note"
    """It is as somebody wants it, and worth knowing."""


@dataclass(frozen=True)
class Finding:
    """One thing to tell, and what to do about it.

    Attributes:
        level: How much it matters.
        what: What was found; a sentence without its capital and its full stop.
        remedy: What would help; sentences.
        about: The components it concerns, each as ``kind name``; none if it is the distribution as a whole.
    """

    level: Level
    what: str
    remedy: str
    about: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{', '.join(self.about)}: {self.what}" if self.about else self.what[:1].upper() + self.what[1:]
        return f"{text.rstrip('.')}."

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"level": str(self.level), "what": self.what, "remedy": self.remedy, "about": list(self.about)}


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the worst first; what is the same of several components is told once."""
    found: dict[Finding, list[str]] = {}
    for each in findings:
        about = found.setdefault(replace(each, about=()), [])
        about += [name for name in each.about if name not in about]
    levels = list(Level)
    every = [replace(each, about=tuple(about)) for each, about in found.items()]
    return sorted(every, key=lambda each: levels.index(each.level))
