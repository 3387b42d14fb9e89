"""How a run gets its place: of several processes that want it, one has it, and the others are told.

A run's folder is made beside its place, with its lock, and is renamed to it when everything is in it that makes it a
run. Whatever cuts that off leaves no run, but a folder ``.NAME.xxxxxxxx.new``, which the next run of the name clears
away.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from mtlkit.engine.storage import storage_errors, sync
from mtlkit.errors import ConfigError, Problem
from mtlkit.locking import UNBORN, Lock, is_locked, last_use
from mtlkit.runname import free_name

__all__ = ["claim", "require_free"]


def claim(path: Path, describe: Callable[[Path], None]) -> Lock:
    """Make a run's folder, which must not exist, and return its lock.

    Args:
        path: Its place.
        describe: Writes into a folder what makes it a run.

    Raises:
        ConfigError: If it exists; where it is in use, it says by whom.
        StorageError: If it cannot be written to.
    """
    require_free(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}{UNBORN}")
    lock: Lock | None = None
    try:
        with storage_errors("create the run folder"):
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear_unborn(path)
            temporary.mkdir()
        lock = Lock.acquire(temporary)  # before anybody can know of the run, so that it is its maker's from the start
        describe(temporary)
        with storage_errors("create the run folder"):
            _take_place(temporary, path)
            sync(path.parent)
    except BaseException:
        if lock is not None:
            lock.release()
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return lock


def require_free(path: Path) -> None:
    """Check that nothing has a run's place yet.

    Raises:
        ConfigError: If something has; where it is a run in use, it says by whom.
    """
    if os.path.lexists(path):
        raise _taken(path)


def _take_place(temporary: Path, path: Path) -> None:
    require_free(path)  # an empty folder would be renamed over, and is somebody's
    try:
        temporary.rename(path)  # which fails where a run is by now, since that is not empty
    except OSError:
        require_free(path)
        raise


def _taken(path: Path) -> ConfigError:
    what, remedy = (
        f"The run folder {path} exists already",
        f"Nothing was changed. Name this one: run.name={_free(path)}.",
    )
    if is_locked(path):
        what += f", and is in use by {last_use(path) or 'another process'}"
    elif (path / "config.yaml").is_file():
        remedy += f" Or go on with that one: mtlkit resume {shlex.quote(str(path))}."
    return ConfigError(Problem(what, remedy=remedy))


def _free(path: Path) -> str:
    """Return a name that no run has yet."""
    names = (free_name(path.name, number) for number in itertools.count(2))
    return next(name for name in names if not os.path.lexists(path.with_name(name)))


def _clear_unborn(path: Path) -> None:
    """Remove what processes left that died while they made a run of this name."""
    for each in path.parent.glob(f".{path.name}.*{UNBORN}"):
        # Only where it says whose it was: a living process says so once it has the lock, and not before.
        if not each.is_symlink() and last_use(each) is not None and not is_locked(each):
            shutil.rmtree(each, ignore_errors=True)
