"""RunFolder: everything that a run leaves on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from torch import nn

from mtlkit.engine import checkpoint
from mtlkit.engine.claiming import claim
from mtlkit.engine.regular import open_regular, read_regular
from mtlkit.engine.storage import storage_errors, sync, write_json, write_text
from mtlkit.errors import CheckpointError, MtlkitError, Stopped
from mtlkit.locking import Lock
from mtlkit.plainjson import dumps, loads

__all__ = ["HOOK_FAILURES", "MAX_BYTES", "METRICS", "TIMINGS", "RunFolder"]

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
HOOK_FAILURES = "hook_failures.jsonl"
MAX_BYTES = 1_000_000
"""How long a JSON file of a run can be, and a line of its records."""


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

    @classmethod
    def create(cls, path: Path, *, config: str, environment: Mapping[str, Any]) -> RunFolder:
        """Make the folder, which must not exist, write down what the run is, and lock it.

        Raises:
            ConfigError: If it exists; where it is in use, it says by whom.
            StorageError: If it cannot be written to.
        """

        def describe(folder: Path) -> None:
            write_json(folder / "environment.json", environment)
            write_text(folder / "config.yaml", config)

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
        return cls(path, Lock.acquire(path) if lock else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Close the records, and let go of the lock with word of how it ended."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._lock is None:
            return
        if error is None:
            self._lock.release("finished")
        elif isinstance(error, Stopped | KeyboardInterrupt):
            self._lock.release("stopped")
        else:
            self._lock.release("failed", f"{type(error).__name__}: {error}")

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``done.json`` says; None while the run is not done."""
        path = self.path / "done.json"
        if not os.path.lexists(path):
            return None
        try:
            return dict(loads(read_regular(path, MAX_BYTES)))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path} cannot be read: {error}. Without it, the run can be gone on with: --resume."
            ) from error

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``done.json``, the last file of a run."""
        write_json(self.path / "done.json", result)

    # --- records ---

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``, ``timings.jsonl`` or another file of records."""
        with storage_errors(f"append to {self.path / name}"):
            self._file(name).write(dumps(record).encode() + b"\n")

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
            file.truncate(min(sizes.get(METRICS, 0), file.seek(0, os.SEEK_END)))
            file.seek(0, os.SEEK_END)
            for path in (self.path / name for name in (TIMINGS, HOOK_FAILURES)):
                if path.exists():
                    os.truncate(path, _size_up_to(step, path))

    def _file(self, name: str) -> BinaryIO:
        if name not in self._files:
            self._files[name] = (self.path / name).open("ab", buffering=0)
        return self._files[name]

    # --- checkpoints ---

    @property
    def best(self) -> Path:
        """The folder of the best weights."""
        return self.path / "best"

    def save(self, step: int, model: nn.Module, state: Mapping[str, Any], *, keep: int) -> Path:
        """Write a checkpoint, then drop all but the newest `keep`."""
        with storage_errors("put the records on the disk in"):
            for file in self._files.values():
                sync(Path(file.name))
        folder = self.path / "checkpoints" / f"step-{step:06d}"
        checkpoint.save(folder, step=step, model=model, state=state, plugins=self.provenance)
        for old in self._checkpoints()[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def save_best(self, step: int, model: nn.Module) -> None:
        """Write the weights that are the run's result so far."""
        checkpoint.save(self.best, step=step, model=model, plugins=self.provenance)

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint to go on from, be it whole or not."""
        return bool(self._checkpoints())

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
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            is_kept = line.endswith(b"\n") and loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):  # TypeError: None, which is of the end of a run
            is_kept = False
        if not is_kept:
            return size
        size += len(line)
    return size
