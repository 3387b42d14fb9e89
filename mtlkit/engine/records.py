"""Records: the files of a run that grow by a line at a time, each line wholly there or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mtlkit.engine.regular import open_regular
from mtlkit.engine.storage import about, storage_errors, sync
from mtlkit.errors import CheckpointError
from mtlkit.plainjson import loads

__all__ = ["HOOK_FAILURES", "MAX_BYTES", "METRICS", "TIMINGS", "Records", "sync_records"]

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
HOOK_FAILURES = "hook_failures.jsonl"
MAX_BYTES = 1_000_000
"""How long a line of records can be, and a JSON file of a run."""


class Records:
    """The files of records in a run's folder, opened when they are first written to.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, BinaryIO] = {}

    def append(self, name: str, line: bytes) -> None:
        """Append a line, which ends in a newline, to a file of records: all of it or nothing.

        Raises:
            OSError: If it cannot be written.
        """
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

    def opened(self) -> list[BinaryIO]:
        """Return the files that were written to."""
        return list(self._files.values())

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, name: str) -> BinaryIO:
        if name not in self._files:
            self._files[name] = (self.path / name).open("ab", buffering=0)
            sync(self.path)  # where it may be new
        return self._files[name]


def sync_records(file: BinaryIO) -> None:
    """Put a file of records on the disk.

    Raises:
        OSError: If it cannot be, or was removed: what a checkpoint says of its length would be wrong.
    """
    with about(Path(file.name)):
        if not os.fstat(file.fileno()).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "It was removed while the run wrote to it", file.name)
        os.fsync(file.fileno())


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
