"""RunFolder: everything that a run leaves on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

from torch import nn

from mtlkit.engine import checkpoint
from mtlkit.engine.background import Background
from mtlkit.engine.claiming import claim
from mtlkit.engine.regular import open_regular, read_regular
from mtlkit.engine.room import NO_ROOM, what_is_needed
from mtlkit.engine.sealing import is_broken, sealed_json, sealed_yaml
from mtlkit.engine.storage import about, put_text, storage_errors, sync, temporary_of, write_text
from mtlkit.errors import CheckpointError, ConfigError, MtlkitError, Stopped, StorageError
from mtlkit.locking import Lock
from mtlkit.plainjson import dumps, loads

__all__ = ["HOOK_FAILURES", "MAX_BYTES", "METRICS", "TIMINGS", "RunFolder", "Saved"]

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
HOOK_FAILURES = "hook_failures.jsonl"
MAX_BYTES = 1_000_000
"""How long a JSON file of a run can be, and a line of its records."""

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
        provenance: What each checkpoint says of the plugins that took part.
    """

    def __init__(self, path: Path, lock: Lock | None = None) -> None:
        self.path = path
        self.provenance: Sequence[Mapping[str, Any]] = ()
        self._lock = lock
        self._files: dict[str, BinaryIO] = {}
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
        for file in self._files.values():
            file.close()
        self._files.clear()
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
        self._twice("write a record", len(line), lambda: self._append(name, line))

    def _append(self, name: str, line: bytes) -> None:
        file = self._file(name)
        end = file.seek(0, os.SEEK_END)
        rest = memoryview(line)
        try:
            with about(self.path / name):
                while rest:
                    rest = rest[file.write(rest) :]  # where the disk is nearly full, a part of it is written
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise

    def read(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of a file of records; none where there is no such file.

        Raises:
            CheckpointError: If it cannot be read.
        """
        path = self.path / name
        if not os.path.lexists(path):
            return []
        records = []
        with open_regular(path) as file:
            while line := file.readline(MAX_BYTES):
                try:
                    records.append(dict(loads(line)))
                except (ValueError, TypeError) as error:
                    where = f"line {len(records) + 1}"
                    raise CheckpointError(f"{path} cannot be read: {where}: {error}.") from error
        return records

    def sizes(self) -> dict[str, int]:
        """Return how long ``metrics.jsonl`` is, in bytes, by its name: a checkpoint remembers it."""
        return {METRICS: self._file(METRICS).tell()}

    def truncate(self, sizes: Mapping[str, int], *, step: int) -> None:
        """Cut the records back to where they were when a checkpoint was written; they are made again from there.

        The others than ``metrics.jsonl`` are cut before the first line that is of no step up to this one: a checkpoint
        holds nothing of theirs, for how long they are depends on the times in them.

        Args:
            sizes: What :meth:`sizes` said.
            step: The step of the checkpoint.
        """
        with storage_errors("cut back the records in"):
            file = self._file(METRICS)
            size, end = sizes.get(METRICS, 0), file.seek(0, os.SEEK_END)
            if end < size:
                missing = f"{size - end} bytes of it that a checkpoint remembers are missing"
                warnings.warn(f"{self.path / METRICS} was cut short: {missing}.", stacklevel=2)
            file.truncate(min(size, end))
            file.seek(0, os.SEEK_END)
            for path in (self.path / name for name in (TIMINGS, HOOK_FAILURES)):
                if path.exists():
                    os.truncate(path, _size_up_to(step, path))

    def _file(self, name: str) -> BinaryIO:
        if name not in self._files:
            self._files[name] = (self.path / name).open("ab", buffering=0)
            sync(self.path)  # where it may be new
        return self._files[name]

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
        folder = self._checkpoint(step)
        files = list(self._files.values())

        def attempt() -> None:
            for file in files:
                _sync_records(file)
            if is_best:
                checkpoint.write(self.best, snapshot.weights_alone, go_on=self._background.go_on)
            if state is not None:
                self._make_checkpoints()
                checkpoint.write(folder, snapshot, go_on=self._background.go_on)

        def write() -> Saved:
            nbytes = snapshot.nbytes + (snapshot.weights_alone.nbytes if is_best else 0)
            dropped = self._twice(f"save the run at step {step}", nbytes, attempt, alone=True)
            if state is None:
                return Saved(step, None, dropped)
            self.keep_newest(keep, step)
            # Later ones are those that a run passed over when it fell back to an earlier one.
            self._discard([each for each in self._checkpoints() if _step_of(each) > step])
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
            for parent in (self.path, self.path / "checkpoints"):
                checkpoint.clear(parent)
            for name in FILES:
                temporary_of(self.path / name).unlink(missing_ok=True)

    def keep_newest(self, keep: int, step: int) -> None:
        """Drop all but the newest checkpoints up to a step.

        A process that was killed may not have come to that; so a run that goes on does it again.
        """
        self._discard([folder for folder in self._checkpoints() if _step_of(folder) <= step][:-keep])

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint to go on from, be it whole or not."""
        return bool(self._checkpoints())

    @property
    def step(self) -> int:
        """The step of the newest checkpoint, be it whole or not; 0 where there is none."""
        return max(map(_step_of, self._checkpoints()), default=0)

    def what_is_saved(self) -> str:
        """Say which checkpoint a run could go on from."""
        whole = self._whole()
        if whole is not None:
            return f"The checkpoint {whole} is whole."
        if self.has_checkpoints:
            return "Whether one of its checkpoints is whole cannot be told now."
        return "The run has no checkpoint yet."

    def latest(self) -> tuple[Path | None, list[MtlkitError]]:
        """Return the newest checkpoint that is whole, and what is wrong with each newer one.

        Raises:
            CheckpointError: If there are checkpoints and none is whole.
        """
        damaged: list[MtlkitError] = []
        for folder in reversed(self._checkpoints()):
            try:
                checkpoint.verify(folder)
            except CheckpointError as error:
                damaged.append(error)
            else:
                return folder, damaged
        if damaged:
            raise CheckpointError("No checkpoint of the run is whole. " + " ".join(map(str, damaged)))
        return None, []

    def _checkpoints(self) -> list[Path]:
        folders = (self.path / "checkpoints").glob("step-*")
        steps = {int(number): folder for folder in folders if (number := folder.name.removeprefix("step-")).isdecimal()}
        return [steps[step] for step in sorted(steps)]

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def _make_checkpoints(self) -> None:
        """Make the folder of the checkpoints, but not that of the run: if that is gone, so is all else in it."""
        folder = self.path / "checkpoints"
        if not folder.is_dir():
            folder.mkdir()
            sync(self.path)

    def _discard(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            with contextlib.suppress(OSError):  # one too many does no harm; the next save drops it
                checkpoint.discard(folder)

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
            raise StorageError(what_is_needed(doing, self.path, error, needed, self.what_is_saved())) from error
        return dropped

    def _make_room(self, error: OSError) -> list[Path]:
        """Clear away what was left behind, and where room is wanting, all checkpoints but the newest whole one."""
        with contextlib.suppress(StorageError):
            self.clear()
        whole = self._whole() if error.errno in NO_ROOM else None
        dropped = [] if whole is None else [each for each in self._checkpoints() if each != whole]
        self._discard(dropped)
        return dropped

    def _whole(self) -> Path | None:
        """Return the newest checkpoint that is whole, if there is one."""
        try:
            return self.latest()[0]
        except MtlkitError:
            return None


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _sync_records(file: BinaryIO) -> None:
    """Put a file of records on the disk.

    Raises:
        OSError: If it cannot be, or was removed: what a checkpoint says of its length would be wrong.
    """
    with about(Path(file.name)):
        if not os.fstat(file.fileno()).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "It was removed while the run wrote to it", file.name)
        os.fsync(file.fileno())


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


def _size_up_to(step: int, path: Path) -> int:
    """Return where in a file of records the first line begins that is of no step up to this one."""
    size = 0
    with open_regular(path) as file:
        while line := file.readline(MAX_BYTES):
            try:
                is_kept = line.endswith(b"\n") and loads(line)["step"] <= step
            except (ValueError, KeyError, TypeError):  # TypeError: None, which is of the end of a run
                is_kept = False
            if not is_kept:
                return size
            size += len(line)
    return size
