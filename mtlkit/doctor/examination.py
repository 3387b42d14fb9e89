"""The examination: each plugin is loaded in a process of its own, and what is found is told as values.

Nothing of a plugin is imported here, so nothing that it does when it is imported reaches this process.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mtlkit._version import __version__
from mtlkit.doctor.findings import about_distribution, about_environment
from mtlkit.doctor.process import Answer, Lost, Printed, Process, line_of
from mtlkit.errors import PluginError, closest
from mtlkit.findings import Finding, Level, merged
from mtlkit.registry import Distribution, Record, Registry, State, Status
from mtlkit.registry.distributions import Origin, is_file

__all__ = ["Entry", "Examination", "Examined", "examine"]

_LIGHT = {"plugins", "commands"}  # the kinds that need no torch to be imported
_WORST = (State.OK, State.AMBIGUOUS, State.DISABLED, State.INCOMPATIBLE, State.BROKEN)


@dataclass(frozen=True)
class Entry:
    """One component as the doctor found it.

    Attributes:
        record: The component.
        status: Its state, with the reasons.
        import_seconds: How long the import of its module took; None where it was not imported, or not by this entry.
        torch_at_import: Whether torch is imported once its module is; None where it was not imported.
    """

    record: Record
    status: Status
    import_seconds: float | None = None
    torch_at_import: bool | None = None

    @property
    def label(self) -> str:
        """What findings call it."""
        return f"{self.record.kind} {self.record.name}"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "kind": self.record.kind,
            "name": self.record.name,
            "qualified": self.record.qualified,
            "entry_point": self.record.entry_point,
            "state": str(self.status.state),
            "reason": self.status.reason,
            "remedy": self.status.remedy,
            "import_seconds": self.import_seconds,
            "torch_at_import": self.torch_at_import,
        }


@dataclass(frozen=True)
class Examined:
    """One distribution as the doctor found it: its components, and the findings with the worst first."""

    distribution: Distribution
    entries: Sequence[Entry]
    findings: Sequence[Finding]

    @property
    def state(self) -> State:
        """The worst state of its components."""
        if any(each.level is Level.ERROR for each in self.findings):
            return State.BROKEN
        return max((each.status.state for each in self.entries), key=_WORST.index, default=State.OK)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "distribution": self.distribution.name,
            "version": self.distribution.version,
            "location": self.distribution.location,
            "origin": str(self.distribution.origin) if self.distribution.origin else None,
            "state": str(self.state),
            "components": [each.to_dict() for each in self.entries],
            "findings": [each.to_dict() for each in self.findings],
        }


@dataclass(frozen=True)
class Examination:
    """All that the doctor found; the findings are those that concern no one distribution."""

    plugins: Sequence[Examined]
    findings: Sequence[Finding]

    @property
    def counts(self) -> dict[State, int]:
        """How many distributions there are of each state."""
        counted = Counter(each.state for each in self.plugins)
        return {state: counted[state] for state in _WORST if counted[state]}

    @property
    def warnings(self) -> int:
        """How many warnings there are."""
        every = [*self.findings, *(finding for each in self.plugins for finding in each.findings)]
        return sum(each.level is Level.WARNING for each in every)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "mtlkit": __version__,
            "plugins": [each.to_dict() for each in self.plugins],
            "findings": [each.to_dict() for each in self.findings],
            "counts": {str(state): count for state, count in self.counts.items()} | {"warnings": self.warnings},
        }


def examine(
    registry: Registry, names: Sequence[str] = (), *, files: Iterable[Path] = (), timeout: float = 60.0
) -> Examination:
    """Load each plugin that may be used in a process of its own, and look through the metadata of all.

    Args:
        registry: What is installed.
        names: The distributions to look at; none for all.
        files: Python files that are plugins too.
        timeout: The seconds that one component may take.

    Raises:
        PluginError: If a name is that of no plugin, or two files have one.
        StorageError: If the system allows no more processes.
    """
    paths = list(dict.fromkeys(each.absolute() for each in files))
    _check_files([each.name for each in paths])
    stopping = threading.Event()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            start = partial(Process, timeout=timeout, stopping=stopping)
            read = list(pool.map(partial(_read_file, start, timeout), paths))
            given = [each for each in read if isinstance(each, Distribution)]
            unread = [each for each in read if isinstance(each, Examined)]
            every = Registry(
                registry.records(),
                [*registry.distributions.values(), *given],
                rules=registry.rules,
                trusted=frozenset(each.name for each in given),
            )
            known = [*every.distributions, *(each.distribution.name for each in unread)]
            _check_names(names, known)
            chosen = [each for name, each in every.distributions.items() if not names or name in names]
            found = list(pool.map(partial(_examined, every, start, timeout), chosen))
        except BaseException:  # KeyboardInterrupt too: each process is ended by the thread that waits for it
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    found += [each for each in unread if not names or each.distribution.name in names]
    return Examination(found, list(about_environment(every)))


# --- parts -----------------------------------------------------------------------------------------------------------


def _check_names(names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise PluginError(
                f"No plugin of mtlkit is called '{name}'. {closest(name, known, kind='Installed')} "
                f"If it is not there: pip install {shlex.quote(name)}"
            )


def _check_files(names: Sequence[str]) -> None:
    """Refuse two files of one name, whose components could not be told apart."""
    for name in names:
        if names.count(name) > 1:
            raise PluginError(f"Two plugins are files called {name}. Rename one.")


class _Module(NamedTuple):
    """What is known of a module that was imported, or that ended the process when it was."""

    torch: bool | None
    lost: Status | None = None


def _read_file(start: partial[Process], timeout: float, path: Path) -> Distribution | Examined:
    """Find the components of a file, which takes an import."""
    try:
        process = start(sys.path)
        try:
            answer = process.ask("read", time.monotonic() + timeout, file=str(path))
        finally:
            process.close(at_once=True)
        reason, remedy = answer.reason, answer.remedy or f"Mend {path}."
    except Lost as lost:
        answer, reason, remedy = None, lost.reason, lost.remedy
    if answer is None or reason:
        finding = Finding(Level.ERROR, _line(reason), _line(remedy))
        return Examined(Distribution(path.name, "", str(path.parent)), [], [finding])
    records = sorted(Record(**each) for each in answer.records)
    origin = Origin(path.as_uri())
    return Distribution(path.name, records[0].version, str(path.parent), records, _origin=lambda: origin)


def _examined(registry: Registry, start: partial[Process], timeout: float, distribution: Distribution) -> Examined:
    """Examine one distribution."""
    statuses = {record: registry.status(record) for record in dict.fromkeys(distribution.records)}
    usable = [record for record, status in statuses.items() if status.state in {State.OK, State.AMBIGUOUS}]
    # Its file's folder comes last, as it does when mtlkit imports a file.
    path = [*sys.path, distribution.location] if is_file(distribution.name) else sys.path
    visit = _Visit(distribution, partial(start, path), timeout)
    loaded = visit.load_all(usable) if usable else {}
    entries = []
    findings = [*visit.findings]
    for record, status in statuses.items():
        entry = loaded.get(record, Entry(record, status))
        if entry.status.state is State.OK:
            entry = replace(entry, status=status)
        entries.append(entry)
        findings += _about_state(entry)
    if not any(entry.status.state is State.DISABLED for entry in entries):
        findings += about_distribution(distribution)
    return Examined(distribution, entries, merged(findings))


def _about_state(entry: Entry) -> Iterator[Finding]:
    """Yield why a component is not ok."""
    status = entry.status
    if status.state is State.BROKEN:
        yield Finding(Level.ERROR, status.reason, status.remedy, (entry.label,))
    elif status.state is State.AMBIGUOUS:
        yield Finding(Level.NOTE, f"it is ambiguous, since {status.reason}", status.remedy, (entry.label,))
    elif status.state is not State.OK:  # all that a distribution has is disabled or incompatible, or nothing is
        yield Finding(Level.NOTE, f"it is {status.state}: {status.reason}", status.remedy)


class _Visit:
    """Loads the components of one distribution, one after another, in a process that is started anew where one ends."""

    def __init__(self, distribution: Distribution, start: partial[Process], timeout: float) -> None:
        self.findings: list[Finding] = []
        self._distribution = distribution
        self._start = start
        self._timeout = timeout
        self._process: Process | None = None
        self._modules: dict[str, _Module] = {}

    def load_all(self, records: Sequence[Record]) -> dict[Record, Entry]:
        """Return each component as it was found: ok or broken."""
        entries: dict[Record, Entry] = {}
        try:
            # Those that should not import torch come before those that do.
            for record in sorted(records, key=lambda each: each.kind not in _LIGHT):
                try:
                    entries[record] = self._load(record)
                except Lost as lost:
                    self._close(at_once=True)
                    entries[record] = Entry(record, self._broken(lost, record))
                    self._tell_of_print(lost.printed, entries[record].label)
        finally:
            self._close(at_once=len(entries) < len(records))
        return entries

    def _load(self, record: Record) -> Entry:
        module = record.value.partition(":")[0]
        known = self._modules.get(module)
        if known is not None and known.lost is not None:
            return Entry(record, known.lost)
        if known is None and record.kind in _LIGHT and self._process is not None and self._process.has_torch:
            self._close()  # whether this one imports torch shows only where no other has
        if self._process is None:
            self._process = self._start()
        deadline = time.monotonic() + self._timeout
        try:
            imported = self._process.ask("import_", deadline, **vars(record))
        except Lost as lost:  # whatever else is in that module would fare no better
            self._modules[module] = _Module(None, self._broken(lost, record))
            raise
        entry = Entry(record, Status(), imported.seconds, imported.torch)
        if known is None:
            self._modules[module] = _Module(imported.torch)
            self._tell(imported, entry, "importing it")
        else:
            entry = replace(entry, import_seconds=None, torch_at_import=known.torch)
        if imported.reason:
            return Entry(record, self._broken(imported, record))
        loaded = self._process.ask("load", deadline, **vars(record))
        self._tell(loaded, entry, "loading it")
        return replace(entry, status=self._broken(loaded, record)) if loaded.reason else entry

    def _close(self, *, at_once: bool = False) -> None:
        if self._process is not None:
            self._process.close(at_once=at_once)
            self._process = None

    def _broken(self, found: Answer | Lost, record: Record) -> Status:
        """Return the status of a component that did not load."""
        where = line_of(found.frames, record) if isinstance(found, Lost) else ""  # other reasons say where
        reason = _line(found.reason) + (f" ({_line(where)})" if where else "")
        name = self._distribution.name
        mend = f"Mend {name}." if is_file(name) else f"Reinstall or update {name}, or tell its authors."
        return Status(State.BROKEN, reason, _line(found.remedy) or mend)

    def _tell(self, answer: Answer, entry: Entry, verb: str) -> None:
        """Tell of what a step did beside what it should."""
        name = self._distribution.name
        for each in answer.warnings:
            what = f"{verb} issued {each['category']}: {_line(each['text'])} ({_line(each['file'])}:{each['line']})"
            remedy = f"Look for a newer {name}, or tell its authors."
            if each["category"] == "ContractWarning":
                remedy = f"It works for now. {remedy}"
            self._warn(what, remedy, entry.label)
        if verb == "importing it" and answer.torch and entry.record.kind in _LIGHT:
            waits = "even its --help waits for it" if entry.record.kind == "commands" else "whatever names it waits"
            what = f"importing it imports torch, which takes seconds, and {waits}"
            self._warn(what, "Its authors would import torch, and what needs it, inside functions.", entry.label)
        if answer.forks:
            times = f"{answer.forks} times" if answer.forks > 1 else "once"
            what = f"{verb} forks the process, {times}"
            self._warn(what, "Its authors would start processes when they are needed, and not at import.", entry.label)
        for stream in answer.closed:
            what = f"{verb} closes or replaces {stream}, which mtlkit prints to"
            self._warn(what, f"Its authors would leave sys.{stream} and its file descriptor alone.", entry.label)
        self._tell_of_print(answer.printed, entry.label)

    def _tell_of_print(self, printed: Printed, label: str) -> None:
        if printed.size:
            first = _line(printed.head.decode(errors="replace"), 60)
            what = f"it prints when it is loaded, {printed.size} bytes" + (
                f" that begin with {first!r}" if first else ""
            )
            self._warn(what, "Its authors would take that out: it mixes with what mtlkit prints.", label)

    def _warn(self, what: str, remedy: str, label: str) -> None:
        self.findings.append(Finding(Level.WARNING, what, remedy, (label,)))


def _line(text: str, longest: int = 600) -> str:
    """Return what a plugin says in one line that any terminal can show."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= longest else f"{words[: longest - 3]}..."
