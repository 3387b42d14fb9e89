"""Whether a run is sound: every file that it would be gone on with, evaluated or reported from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mtlkit.errors import CheckpointError, MtlkitError
from mtlkit.locking import is_locked
from mtlkit.plainjson import loads
from mtlkit.runs.details import details, require_run
from mtlkit.runs.reading import checkpoints

__all__ = ["Verdict", "verify"]

Found = TypeVar("Found")

_RECORDS = ("metrics.jsonl", "timings.jsonl", "hook_failures.jsonl", "history.jsonl")


@dataclass
class Verdict:
    """What was found of a run.

    Attributes:
        folder: Its folder.
        whole: What was checked and is sound, by name.
        damaged: What is not, by name: what is wrong with it.
        notes: What is no damage, and worth knowing.
    """

    folder: Path
    whole: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "folder": str(self.folder)}

    def check(self, name: str, look: Callable[[], Found]) -> Found | None:
        """Look at something, and note whether it is sound; None where it is not."""
        try:
            found = look()
        except MtlkitError as error:
            self.damaged[name] = str(error)
            return None
        self.whole.append(name)
        return found


def verify(folder: Path) -> Verdict:
    """Check every checkpoint of a run, its best weights, its records and its results; nothing is changed.

    Every file is read whole, and compared with the hash that vouches for it; weights and states are unpacked. Records
    are to be as long as the checkpoints remember.

    Raises:
        CheckpointError: If the folder is no run.
    """
    require_run(folder)
    verdict = Verdict(folder)
    held = is_locked(folder)
    if held:
        verdict.notes.append("It is running: what it is writing just now was not looked at.")
    told = verdict.check("config.yaml, environment.json", lambda: details(folder))
    done = told.done if told is not None else None
    lengths = _check_checkpoints(verdict, folder)
    best = _check_best(verdict, folder)
    if done is not None:
        verdict.check("done.json", lambda: _check_done(folder, done, best))
    for name in _RECORDS:
        if (folder / name).exists() or name in lengths:
            remembered = lengths.get(name, 0)
            is_over = done is not None or name == "history.jsonl"
            verdict.check(name, lambda: _check_records(verdict, folder / name, remembered, is_over=is_over))  # noqa: B023
    if not checkpoints(folder) and done is None and not held:
        verdict.notes.append("It has no checkpoint: it would go on from the beginning.")
    return verdict


def _check_checkpoints(verdict: Verdict, folder: Path) -> dict[str, int]:
    """Check every checkpoint; return how long each file of records was at the newest that is whole, in bytes."""
    lengths: dict[str, int] = {}
    for step, place in checkpoints(folder).items():
        found = verdict.check(f"checkpoints/{place.name}", lambda: _check_checkpoint(place, step))  # noqa: B023
        if not place.exists():  # it made room for a newer one while it was looked at
            verdict.damaged.pop(f"checkpoints/{place.name}", None)
        lengths = found or lengths
    return lengths


def _check_checkpoint(place: Path, step: int) -> dict[str, int]:
    from mtlkit.engine import checkpoint  # which brings in torch

    told = checkpoint.verify(place)
    if told != step:
        raise CheckpointError(f"{place} is of step {told} by its manifest.json.")
    checkpoint.read_weights(place)
    state = checkpoint.load_state(place)
    records = state.get("records") if isinstance(state, dict) else None
    if not isinstance(records, dict) or not all(isinstance(size, int) for size in records.values()):
        raise CheckpointError(f"{place / 'state.json'} does not say how long the records of the run were.")
    return records


def _check_best(verdict: Verdict, folder: Path) -> int | None:
    """Check the best weights, and return their step."""
    from mtlkit.engine import checkpoint  # which brings in torch

    place = checkpoint.standing(folder / "best")
    if not place.exists():
        return None

    def look() -> int:
        step = checkpoint.verify(place)
        checkpoint.read_weights(place)
        return step

    return verdict.check("best", look)


def _check_done(folder: Path, done: Any, best: int | None) -> None:
    if not isinstance(done.get("test"), dict):
        raise CheckpointError(f"{folder / 'done.json'} has no results of the test split.")
    if best is not None and done.get("best_step") != best:
        raise CheckpointError(
            f"{folder / 'done.json'} has the results of step {done.get('best_step')}, and best/ is of step {best}."
        )
    if best is None and not (folder / "best").exists():
        raise CheckpointError(
            f"The weights that {folder / 'done.json'} has the results of are gone: there is no best/."
        )


def _check_records(verdict: Verdict, path: Path, remembered: int, *, is_over: bool) -> None:
    """Check that every line can be read, and that there are as many as the newest whole checkpoint remembers.

    Lines beyond it, of a run that is not over, are made again when it goes on, so a last one that a crash cut is none.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. A checkpoint counts on it.") from error
    if len(raw) < remembered or (remembered and raw[remembered - 1 : remembered] != b"\n"):
        raise CheckpointError(
            f"{path} is damaged: it has {len(raw)} bytes, and the newest checkpoint remembers lines up to {remembered}."
        )
    begins = 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        reason = _why_no_record(line)
        if reason and not is_over and begins >= remembered:
            verdict.notes.append(f"{path.name} is cut in line {number}, which is made again when the run goes on.")
            return
        if reason:
            raise CheckpointError(f"{path} is damaged: line {number}: {reason}.")
        begins += len(line)


def _why_no_record(line: bytes) -> str | None:
    if not line.endswith(b"\n"):
        return "it is cut"
    try:
        data = loads(line)
    except ValueError as error:
        return str(error)
    return None if isinstance(data, dict) else "it is no mapping"
