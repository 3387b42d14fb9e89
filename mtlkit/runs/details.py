"""One run, in more words: what it was configured to be, what took part, and what it has left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtlkit.config import RunConfig
from mtlkit.errors import CheckpointError, ConfigError
from mtlkit.locking import single_line
from mtlkit.runs.reading import bytes_of, checkpoints, is_run, last_records, read_json
from mtlkit.runs.summary import Summary, summarize
from mtlkit.yamlfile import load

__all__ = ["Checkpoint", "Details", "details"]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as it lies there; whether it is whole, :func:`mtlkit.runs.verify` says.

    Attributes:
        name: Its folder in the run's.
        step: The step by its name, or for ``best`` by its manifest.
        bytes: What it takes on the disk.
        written: When it was written, in UTC (ISO 8601).
    """

    name: str
    step: int | None
    bytes: int
    written: str


@dataclass(frozen=True)
class Details:
    """A run in more words.

    Attributes:
        summary: How it is.
        config: Its configuration.
        environment: What it was made with.
        checkpoints: Its checkpoints, the oldest first, then the best weights.
        done: What ``done.json`` says; None while it is not finished.
        history: When it went on, and with what that was different, the newest first.
    """

    summary: Summary
    config: RunConfig
    environment: Mapping[str, Any]
    checkpoints: Sequence[Checkpoint]
    done: Mapping[str, Any] | None
    history: Sequence[Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            **self.summary.to_dict(),
            "config": self.config.model_dump(mode="json"),
            "environment": dict(self.environment),
            "checkpoints": [asdict(each) for each in self.checkpoints],
            "done": self.done,
            "history": list(self.history),
        }


def details(folder: Path) -> Details:
    """Return a run in more words.

    Raises:
        CheckpointError: If the folder is no run, or a file that says what it is cannot be read.
    """
    require_run(folder)
    try:
        config = RunConfig.from_document(load(folder / "config.yaml"))
        environment, done = (read_json(folder / name) for name in ("environment.json", "done.json"))
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"The run {folder} is damaged: {error}") from error
    places = [*checkpoints(folder).values(), *([folder / "best"] if (folder / "best").is_dir() else [])]
    return Details(
        summary=summarize(folder),
        config=config,
        environment=environment,
        checkpoints=[found for each in places if (found := _checkpoint(each, folder)) is not None],
        done=done or None,
        history=list(last_records(folder / "history.jsonl")),
    )


def require_run(folder: Path) -> None:
    """Check that a folder is a run's.

    Raises:
        CheckpointError: If it is none.
    """
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a symbolic link. Name the folder that it leads to: {folder.resolve()}.")
    if not is_run(folder):
        what = "it has no config.yaml" if folder.is_dir() else "there is none"
        raise CheckpointError(f"{single_line(str(folder))} is no run folder: {what}.")


def _checkpoint(folder: Path, run: Path) -> Checkpoint | None:
    """Return a checkpoint as it lies there; None where a newer one took its place just now."""
    try:
        written = datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return None
    try:
        told = read_json(folder / "manifest.json").get("step")
    except ValueError:
        told = None
    step = told if isinstance(told, int) else None
    return Checkpoint(folder.relative_to(run).as_posix(), step, bytes_of(folder), written)
