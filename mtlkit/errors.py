"""Every error that mtlkit raises on purpose, and the exit code that the command line gives it.

::

    MtlkitError                 1   a bug in mtlkit, when it is raised as it stands
    ├── ConfigError             2   the command line or the run configuration; holds every Problem found
    ├── PluginError             3   a plugin is missing, broken, or broke while it ran
    ├── DataError               4   the data that a source gave cannot be used
    ├── CheckpointError         5   a run folder or checkpoint cannot be read back
    ├── NonFiniteError          6   a loss, gradient or weight is NaN or infinite
    ├── StorageError            7   reading or writing files failed
    └── Stopped           130, 143  SIGINT or SIGTERM arrived; the run is saved and can go on

A message says what was wrong, where, what was received, what would work, and which plugin provided it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MtlkitError",
    "NonFiniteError",
    "PluginError",
    "Problem",
    "Stopped",
    "StorageError",
    "closest",
    "is_ctrl_c",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        what: What is wrong, what was received included, with no full stop at the end.
        path: The dotted path of the setting, such as ``strategy.name``; empty for the whole document.
        location: ``file:line:column`` of the offending text, or where else it came from.
        remedy: What would work, as a sentence or several; may be empty.
    """

    what: str
    path: str = ""
    location: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        if self.location:
            where += f" ({self.location})"
        return f"{self.what}{where}." + (f" {self.remedy}" if self.remedy else "")


class MtlkitError(Exception):
    """The root of the tree."""

    exit_code = 1

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {"kind": type(self).__name__, "message": str(self), "exit_code": self.exit_code}


class ConfigError(MtlkitError):
    """The command line or the run configuration cannot be used, or asks for more memory than there is.

    Args:
        problems: Every problem that was found, or the message of a single one.
    """

    exit_code = 2

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems.removesuffix("."))
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints, with each problem's parts."""
        return super().to_dict() | {"problems": [asdict(problem) for problem in self.problems]}


class PluginError(MtlkitError):
    """A plugin is missing, broken, or broke while it ran; the message names its distribution.

    Args:
        message: What a person reads.
        details: Its parts where they are known, for programs: distribution, version, entry_point, reason, remedy.
    """

    exit_code = 3

    def __init__(self, message: str, **details: str) -> None:
        super().__init__(message)
        self.details = details

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints, with the parts that are known."""
        return super().to_dict() | self.details


class DataError(MtlkitError):
    """The data that a source gave cannot be used."""

    exit_code = 4


class CheckpointError(MtlkitError):
    """A run folder or a checkpoint cannot be read back."""

    exit_code = 5


class NonFiniteError(MtlkitError):
    """A loss, a gradient or a weight is NaN or infinite.

    Args:
        message: What a person reads.
        what: Which of them it is: ``loss``, ``gradient``, ``weight``, ``held-out loss`` or ``slope``; empty where
            that is not known.
        places: Whose it is, by their places among the losses of the step.
        details: Whatever else is known, for programs, such as step, task and rows.
    """

    exit_code = 6

    def __init__(self, message: str, *, what: str = "", places: Sequence[int] = (), **details: object) -> None:
        super().__init__(message)
        self.what = what
        self.places = tuple(places)
        self.details = details

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints, with the parts that are known."""
        return super().to_dict() | ({"what": self.what} if self.what else {}) | self.details


class StorageError(MtlkitError):
    """Reading or writing files failed."""

    exit_code = 7


class Stopped(MtlkitError):  # noqa: N818 - stopping is no error of anybody's
    """A signal asked the run to stop; it was saved first.

    Args:
        message: Where the run is and how it goes on.
        signal_number: The signal that arrived, 2 (SIGINT) or 15 (SIGTERM).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def closest(word: object, known: Sequence[str], *, kind: str = "Known") -> str:
    """Return the remedy for an unknown name: the nearest one, if any is near, and all that are known."""
    near = difflib.get_close_matches(str(word), known, n=5, cutoff=0.6)
    # The share of letters in common favours the longer of two names: by it, 'ureeze' is nearer to 'unfreeze' than to
    # 'freeze', which is one slip away.
    near.sort(key=lambda each: _slips(str(word), each))
    guess = f"Did you mean '{near[0]}'? " if near else ""
    return f"{guess}{kind}: {', '.join(known) if known else 'none'}."


def is_ctrl_c(error: Exception) -> bool:
    """Return whether an error is Ctrl-C, which pydantic tells of as its own where it came while a schema was built."""
    return type(error).__module__.startswith("pydantic") and KeyboardInterrupt.__name__ in str(error)


def _slips(word: str, meant: str) -> int:
    """Return how many letters were dropped, added, changed or swapped with the next (optimal string alignment)."""
    rows = [list(range(len(meant) + 1))]
    for i, letter in enumerate(word, 1):
        row = [i]
        for j, other in enumerate(meant, 1):
            fewest = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == meant[j - 2] and word[i - 2] == other:
                fewest = min(fewest, rows[-2][j - 2] + 1)
            row.append(fewest)
        rows.append(row)
    return rows[-1][-1]
