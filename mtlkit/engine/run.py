"""RunFolder: everything that a run leaves on the disk."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from torch import nn

from mtlkit.engine import checkpoint
from mtlkit.engine.background import Background
from mtlkit.engine.claiming import claim
from mtlkit.engine.records import MAX_BYTES, Records, sync_records
from mtlkit.engine.regular import read_regular
from mtlkit.engine.room import NO_ROOM, what_is_needed
from mtlkit.engine.saves import Saves
from mtlkit.engine.sealing import is_broken, sealed_json, sealed_yaml
from mtlkit.engine.storage import put_text, storage_errors, temporary_of, write_text
from mtlkit.errors import CheckpointError, ConfigError, Stopped, StorageError
from mtlkit.locking import Lock
from mtlkit.plainjson import dumps, loads

__all__ = ["RunFolder", "Saved"]

FILES = ("environment.json", "config.yaml", "done.json")
"""What is written whole."""


@dataclass(frozen=True)
class Saved:
    """The run was saved.

    Attributes:
        step: The step.
        folder: The checkpoint; None where only the best weights were written.
        dropped: Which older checkpoints made room for it.
    """

    step: int
    folder: Path | None
    dropped: Sequence[Path] = ()


class RunFolder:
    """A run's folder: its configuration, its records, its checkpoints, its results.

    Made by :meth:`create` or :meth:`open`; a context manager that closes the records, and lets go of the lock.

    Attributes:
        path: The folder.
        records: Its metrics, timings and other files that grow by a line at a time.
        saves: Its checkpoints.
        provenance: What each checkpoint says of the plugins that took part.
    """

    def __init__(self, path: Path, lock: Lock | None = None) -> None:
        self.path = path
        self.provenance: Sequence[Mapping[str, Any]] = ()
        self._lock = lock
        self.records = Records(path)
        self.saves = Saves(path)
        self._background: Background[Saved] = Background()
        self._written: list[Saved] = []

    @classmethod
    def create(cls, path: Path, *, config: str, environment: Mapping[str, Any]) -> RunFolder:
        """Make the folder, which must not exist, write down what the run is, and lock it.

        Raises:
            ConfigError: If it exists; where it is in use, it says by whom.
            StorageError: If it cannot be written to.
        """

        def describe(folder: Path) -> None:
            write_text(folder / "environment.json", sealed_json(environment))
            write_text(folder / "config.yaml", sealed_yaml(config))

        return cls(path, claim(path, describe))

    @classmethod
    def open(cls, path: Path, *, lock: bool = False) -> RunFolder:
        """Open a run that exists, to read it, or with the lock to go on with it.

        Raises:
            CheckpointError: If the folder is none, or if something in it is not what it seems.
            ConfigError: If the lock is asked for, and another process has it; it says who.
            StorageError: If the lock is asked for, and cannot be had.
        """
        if not os.path.lexists(path):
            raise CheckpointError(f"{path} is no run folder: it does not exist.")
        if path.is_symlink():
            raise CheckpointError(f"{path} is a symbolic link. Name the folder that it leads to: {path.resolve()}.")
        if not (path / "config.yaml").is_file():
            remedy = "Remove it if nothing in it is needed, or name another run."
            raise CheckpointError(f"{path} is no run folder: it has no config.yaml. {remedy}")
        _refuse_links(path)
        for name in ("config.yaml", "environment.json"):
            if os.path.lexists(path / name) and is_broken(read_regular(path / name, MAX_BYTES)):
                warnings.warn(f"{path / name} was edited or is damaged: its seal is broken.", stacklevel=2)
        return cls(path, Lock.acquire(path) if lock else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Wait for what is being written, unless all is to end at once; close the records, and let go of the lock.

        The lock is left with word of how it ended.
        """
        try:
            if isinstance(error, KeyboardInterrupt):
                self._background.abandon()
            elif error is not None:
                self.settle()
            else:
                self._background.wait()
        except BaseException as late:
            error = late
            raise
        finally:
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        self.records.close()
        if self._lock is None:
            return
        if error is None:
            self._lock.release("finished")
        elif isinstance(error, ConfigError):
            self._lock.release()  # it was refused, so nothing came of it
        elif isinstance(error, Stopped | KeyboardInterrupt):
            self._lock.release("stopped")
        else:
            self._lock.release("failed", f"{type(error).__name__}: {error}")

    def settle(self) -> list[Saved]:
        """Return what was written, as :meth:`written` does after waiting, where another error is on its way.

        One of writing is a warning then.
        """
        try:
            return self.written(wait=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other one came first
            warnings.warn(f"And while that happened: {error}", stacklevel=2)
            return []

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``done.json`` says; None while the run is not done."""
        path = self.path / "done.json"
        if not os.path.lexists(path):
            return None
        try:
            raw = read_regular(path, MAX_BYTES)
            result = dict(loads(raw))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path} cannot be read: {error}. Without it, the run can be gone on with: --resume."
            ) from error
        if is_broken(raw):
            remedy = "Without it, the run can be gone on with: --resume."
            raise CheckpointError(f"{path} was edited or is damaged: its seal is broken. {remedy}")
        return {key: value for key, value in result.items() if key != "seal"}

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``done.json``, the last file of a run.

        Raises:
            StorageError: If it cannot be written.
        """
        text = sealed_json(result)
        self._twice("write the results", len(text), lambda: put_text(self.path / "done.json", text))

    def change(self, config: str, changes: Sequence[Mapping[str, Any]]) -> None:
        """Go on with another configuration. What changes is written down first, and results of the one before go.

        Raises:
            StorageError: If it cannot be written.
        """
        self.note({"event": "changed", "changes": list(changes)})
        with storage_errors("remove the results of the configuration before"):
            (self.path / "done.json").unlink(missing_ok=True)
        write_text(self.path / "config.yaml", sealed_yaml(config))

    def note(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``history.jsonl``, with the time.

        It tells of processes, not of the run: no checkpoint remembers how long it is, and it is never cut back.
        """
        line = dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **record}).encode() + b"\n"
        path = self.path / "history.jsonl"
        with storage_errors(f"append to {path}"), path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())

    # --- records ---

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``, ``timings.jsonl`` or another file of records: the whole line or nothing.

        Raises:
            StorageError: If it cannot be written.
        """
        line = dumps(record).encode() + b"\n"
        self._twice("write a record", len(line), lambda: self.records.append(name, line))

    # --- checkpoints ---

    @property
    def best(self) -> Path:
        """The folder of the best weights."""
        return self.path / "best"

    def save(
        self,
        step: int,
        model: nn.Module,
        state: Mapping[str, Any] | None,
        *,
        keep: int,
        is_best: bool = False,
        background: bool = False,
    ) -> Path:
        """Write a checkpoint, once the one before it is written; then drop all but the newest `keep`.

        The records are put on the disk first, and the best weights before the checkpoint that counts on them. Where
        the disk is full, what older checkpoints there are beside the newest whole one make room, and it is tried again.

        Args:
            step: The step.
            model: What the weights are of.
            state: What else it takes to go on; None to write the best weights alone.
            keep: How many checkpoints stay.
            is_best: Write the weights to ``best/`` too, as those that are the run's result so far.
            background: Return once everything is copied, and write in the background; :meth:`written` says when.

        Returns:
            The folder that it is written to.

        Raises:
            StorageError: If it cannot be written, or the one before could not: every older checkpoint is then whole.
        """
        self._background.wait()
        self._written += self._background.done()
        snapshot = checkpoint.Snapshot.take(step, model, state, plugins=self.provenance, copies=background)
        folder = self.saves.folder(step)
        files = self.records.opened()

        def attempt() -> None:
            for file in files:
                sync_records(file)
            if is_best:
                checkpoint.write(self.best, snapshot.weights_alone, go_on=self._background.go_on)
            if state is not None:
                self.saves.make_folder()
                checkpoint.write(folder, snapshot, go_on=self._background.go_on)

        def write() -> Saved:
            nbytes = snapshot.nbytes + (snapshot.weights_alone.nbytes if is_best else 0)
            dropped = self._twice(f"save the run at step {step}", nbytes, attempt, alone=True)
            if state is None:
                return Saved(step, None, dropped)
            self.saves.keep_newest(keep, step)
            self.saves.drop_later(step)
            return Saved(step, folder, dropped)

        if background:
            self._background.start(write)
        else:
            self._written.append(write())
        return folder

    def written(self, *, wait: bool = False) -> list[Saved]:
        """Return what was written since this was asked last.

        Args:
            wait: Wait for what is being written.

        Raises:
            StorageError: If something could not be.
        """
        if wait:
            self._background.wait()
        written, self._written = [*self._written, *self._background.done()], []
        for saved in written:
            for path in saved.dropped:
                warnings.warn(f"{path} was removed to make room for a newer checkpoint.", stacklevel=2)
        return written

    def clear(self) -> None:
        """Clear away what a process that was killed had begun to write."""
        with storage_errors("clear away what was left in"):
            for parent in (self.path, self.saves.path):
                checkpoint.clear(parent)
            for name in FILES:
                temporary_of(self.path / name).unlink(missing_ok=True)

    # --- failing ---

    def _twice(self, doing: str, needed: int, attempt: Callable[[], None], *, alone: bool = False) -> list[Path]:
        """Write something; if it fails, clean up and try once more.

        Args:
            doing: What is done.
            needed: How many bytes it takes.
            attempt: Does it.
            alone: Whether nothing else can be being written.

        Returns:
            Which checkpoints were dropped for it.

        Raises:
            StorageError: If it fails again.
        """
        try:
            attempt()
        except OSError as error:
            if not alone:
                self._background.wait()  # or what it writes would be cleared away
            dropped = self._make_room(error)
        else:
            return []
        try:
            attempt()
        except OSError as error:
            raise StorageError(what_is_needed(doing, self.path, error, needed, self.saves.told())) from error
        return dropped

    def _make_room(self, error: OSError) -> list[Path]:
        """Clear away what was left behind, and where room is wanting, all checkpoints but the newest whole one."""
        with contextlib.suppress(StorageError):
            self.clear()
        whole = self.saves.whole() if error.errno in NO_ROOM else None
        return [] if whole is None else self.saves.keep_only(whole)


def _refuse_links(path: Path) -> None:
    """Refuse a run folder in which something leads elsewhere: what is written there, or cut short, must be the run's.

    Raises:
        CheckpointError: Naming what is neither a file nor a folder.
    """
    checkpoints = path / "checkpoints"
    places = [path, *([checkpoints] if checkpoints.is_dir() and not checkpoints.is_symlink() else [])]
    with storage_errors("read the run folder"):
        for each in [entry for place in places for entry in os.scandir(place)]:
            if not (each.is_file(follow_symlinks=False) or each.is_dir(follow_symlinks=False)):
                what = "a symbolic link" if each.is_symlink() else "neither a file nor a folder"
                raise CheckpointError(f"{each.path} is {what}. A run's files are in its own folder; remove it.")
