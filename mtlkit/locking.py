"""One writer: a run folder is locked while a process works on it, and the lock dies with that process.

The lock is the operating system's, an exclusive ``flock`` on the file ``lock.json`` in the folder, so no lock is ever
left behind: a file that is there means nothing, one that is locked does. It holds who has the folder, for the process
that is turned away, and later how that one ended. Whoever only reads takes no lock.

``flock`` belongs to an open file, which a forked child shares with its parent: a worker that outlived a killed run
would keep the run locked. So a child lets go of it as its first act, and a program that is executed is never given it.
(The other kind of lock, ``lockf``, is not inherited; but two threads of one process would not keep each other out, and
any reader in that process that closes the file would unlock it.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shlex
import socket
import stat
import sys
import time
import warnings
import weakref
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from mtlkit.errors import ConfigError, Problem, StorageError

__all__ = ["LOCK_FILE", "UNBORN", "Lock", "Use", "is_locked", "last_use", "single_line"]

LOCK_FILE = "lock.json"
UNBORN = ".new"
"""How the name of a folder ends in which a run is being made."""

_PATIENCE = 0.5  # seconds; someone who looks whether the folder is locked holds the lock for a moment
_MAX_BYTES = 10_000
_MAX_TEXT = 300
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Use:
    """One process's use of a run folder.

    Attributes:
        pid: The process.
        host: The machine that it runs on.
        since: When it took the folder, in UTC (ISO 8601).
        command: How it was started.
        until: When it let go of it; None where it did not come to that, or has it still.
        ended: ``finished``, ``stopped`` (by a signal) or ``failed``; None as for `until`.
        error: What it failed with.
    """

    pid: int
    host: str
    since: str
    command: str
    until: str | None = None
    ended: str | None = None
    error: str | None = None

    @classmethod
    def of_this_process(cls) -> Self:
        """Return the use that begins now."""
        program, *arguments = sys.argv or [sys.executable]
        path = Path(program).parent if Path(program).name == "__main__.py" else Path(program)  # python -m mtlkit
        return cls(os.getpid(), socket.gethostname(), _now(), single_line(shlex.join([path.name, *arguments])))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}: {self.command}"


class Lock:
    """The right to change a run folder, held until :meth:`release`, or until the process is no more.

    Made by :meth:`acquire`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self._use = Use.of_this_process()
        self._before = b""
        _held.add(self)

    @classmethod
    def acquire(cls, folder: Path) -> Lock:
        """Lock a folder.

        Raises:
            ConfigError: If another process has it, or another thread of this one; it says who.
            StorageError: If it cannot be locked.
        """
        path = folder / LOCK_FILE
        try:
            # Never through a link: it might lead to anybody's file, which would be written to.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise StorageError(f"Cannot lock {folder}: {path} is no regular file.")
        except OSError as error:
            raise StorageError(f"Cannot lock {path}: {error.strerror}.") from error
        lock = cls(descriptor)  # first, so that a child which is forked at any moment lets go of it
        try:
            _lock(descriptor, folder)
        except BaseException:
            lock._drop()
            raise
        lock._before = os.pread(descriptor, _MAX_BYTES, 0)
        lock._write(lock._told())
        return lock

    def release(self, ended: str | None = None, error: str | None = None) -> None:
        """Let go of the folder, and leave word of how its use ended.

        Args:
            ended: ``finished``, ``stopped`` or ``failed``; None where nothing came of it: the word before it stays.
            error: What it failed with.
        """
        if self._descriptor is None:
            return
        said = None if error is None else single_line(error)
        self._use = replace(self._use, until=_now(), ended=ended, error=said)
        self._write(self._before if ended is None else self._told())
        with contextlib.suppress(OSError):  # closing it does as much, where no child that was not Python's has it too
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._drop()

    def _told(self) -> bytes:
        return json.dumps(asdict(self._use), indent=2).encode() + b"\n"

    def _write(self, content: bytes) -> None:
        """Write down who has the folder. On a full disk nobody is told; the lock holds all the same."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))

    def _drop(self) -> None:
        """Close the file, which leaves the lock to the parent where this is a child."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            os.close(descriptor)


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_held):
        lock._drop()  # noqa: SLF001 - it is this module's own


os.register_at_fork(after_in_child=_let_go_in_child)


def is_locked(folder: Path) -> bool:
    """Return whether a process is working on a folder just now. Nothing is changed."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def last_use(folder: Path) -> Use | None:
    """Return who has a folder, or who had it last; None where that is not known."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(_MAX_BYTES).decode()
        data, _ = json.JSONDecoder().raw_decode(text)  # a longer use may be in the way of being written over
        return Use(
            int(data["pid"]),
            *(single_line(str(data[key])) for key in ("host", "since", "command")),
            *(None if data.get(key) is None else single_line(str(data[key])) for key in ("until", "ended", "error")),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def single_line(text: str) -> str:
    """Return text from a folder that may be anybody's as one short line that no terminal obeys."""
    plain = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text)).strip()
    return plain if len(plain) <= _MAX_TEXT else f"{plain[: _MAX_TEXT - 3]}..."


def _lock(descriptor: int, folder: Path) -> None:
    """Lock an open file, or tell who has it locked."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _in_use(folder) from None
            time.sleep(0.02)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise StorageError(f"Cannot lock {folder}: {error.strerror}.") from error
            what = f"The file system of {folder} has no locks ({error.strerror})"
            warnings.warn(f"{what}: see to it that no other process works on this run.", stacklevel=4)
            return
        else:
            return


def _in_use(folder: Path) -> ConfigError:
    use = last_use(folder)
    if use is None:
        return ConfigError(Problem(f"The run {folder} is in use by another process", remedy="Nothing was changed."))
    remedy = "Nothing was changed. Wait until it has ended"
    remedy += f", or stop it: kill -INT {use.pid}." if use.host == socket.gethostname() else "."
    return ConfigError(Problem(f"The run {folder} is in use by {use}", remedy=remedy))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
