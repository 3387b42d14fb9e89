"""What of the runs on the disk can go: what a crash left, checkpoints that are damaged, those of finished runs.

To say what can go changes nothing. To remove it takes the run's lock, and looks again first, for a run may have gone on
meanwhile; a run that is in use is let be.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtlkit.errors import CheckpointError, ConfigError, StorageError
from mtlkit.locking import UNBORN, Lock, is_locked, last_use
from mtlkit.runs.reading import bytes_of, checkpoints, is_run, read_json
from mtlkit.runs.summary import find

__all__ = ["Item", "plan", "remove"]

_LEFT = re.compile(r"\.(?P<name>step-\d+|best|config\.yaml|environment\.json|done\.json)\.(?P<kind>tmp|old)")
_UNBORN = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(UNBORN)}")
_HOUR = 3600


@dataclass(frozen=True)
class Item:
    """Something that can go.

    Attributes:
        path: What is removed.
        run: The run that it is of; None for what never came to be one.
        why: Why it can go.
        bytes: What that frees.
        damage: What is wrong with it, where it is damaged.
    """

    path: Path
    run: Path | None
    why: str
    bytes: int
    damage: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "path": str(self.path), "run": None if self.run is None else str(self.run)}


def plan(root: Path, *, damaged: bool = False, finished: bool = False) -> tuple[list[Item], list[Path]]:
    """Return what can go of a run, or of all runs in a folder, and which runs are let be because they are in use.

    Args:
        root: The folder of a run, or one that holds runs.
        damaged: Damaged checkpoints too, where a whole one is left to go on from, or the run is finished.
        finished: The checkpoints of finished runs too. Their best weights, records and results stay; they cannot be
            made longer any more.

    Raises:
        ConfigError: If there is no such folder.
    """
    runs = [root] if is_run(root) else [summary.folder for summary in find(root)]
    in_use = [run for run in runs if is_locked(run)]
    items = (
        []
        if is_run(root)
        else [item for place in sorted({root, *(run.parent for run in runs)}) for item in _unborn(place)]
    )
    for run in runs:
        if run not in in_use:
            items += _of_run(run, damaged=damaged, finished=finished)
    return items, in_use


def remove(items: Sequence[Item], *, damaged: bool = False, finished: bool = False) -> tuple[list[Item], list[Path]]:
    """Remove what :func:`plan` returned, so far as it still can go.

    Returns:
        What was removed, and which runs are in use by now.

    Raises:
        StorageError: If something cannot be removed.
    """
    removed = [item for item in items if item.run is None and not is_locked(item.path)]
    for item in removed:
        _remove(item.path)
    in_use = []
    for run in dict.fromkeys(item.run for item in items if item.run is not None):
        try:
            lock = Lock.acquire(run)
        except ConfigError:
            in_use.append(run)
            continue
        try:
            planned = {item.path for item in items}
            going = [item for item in _of_run(run, damaged=damaged, finished=finished) if item.path in planned]
            for item in going:
                _remove(item.path)
            removed += going
        finally:
            lock.release()
    return removed, in_use


def _of_run(run: Path, *, damaged: bool, finished: bool) -> Iterator[Item]:
    for place in (run, run / "checkpoints"):
        for path in sorted(place.glob(".*")) if place.is_dir() and not place.is_symlink() else ():
            left = _LEFT.fullmatch(path.name)
            # What was moved aside for one that never came is all that there is: it is put back when the run goes on.
            if left and (left["kind"] == "tmp" or (place / left["name"]).exists()):
                yield Item(path, run, "left by a crash", bytes_of(path))
    is_finished = _is_finished(run)
    found = checkpoints(run).values()
    if finished and is_finished:
        yield from (Item(path, run, "of a finished run", bytes_of(path)) for path in found)
    elif damaged:
        wrong = {path: reason for path in found if (reason := _why_damaged(path))}
        if is_finished or len(wrong) < len(found):
            yield from (Item(path, run, "damaged", bytes_of(path), reason) for path, reason in wrong.items())


def _is_finished(run: Path) -> bool:
    try:
        return bool(read_json(run / "done.json"))
    except ValueError:
        return False


def _why_damaged(place: Path) -> str | None:
    from mtlkit.engine import checkpoint  # which brings in torch

    try:
        checkpoint.verify(place)
    except CheckpointError as error:
        return str(error)
    return None


def _unborn(place: Path) -> Iterator[Item]:
    """Yield what processes left in a folder that died while they made a run there."""
    for path in sorted(place.glob(f".*{UNBORN}")):
        if not _UNBORN.fullmatch(path.name) or path.is_symlink() or not path.is_dir() or is_locked(path):
            continue
        # One that says whose it was had the lock. One that does not may be another's that is about to take it.
        if last_use(path) is not None or time.time() - path.lstat().st_mtime > _HOUR:
            yield Item(path, None, "never came to be a run", bytes_of(path))


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot remove {error.filename or path}: {error.strerror}.") from error
