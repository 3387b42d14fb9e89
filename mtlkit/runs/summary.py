"""Which runs there are, and how each is, at a glance."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtlkit.errors import ConfigError, Problem
from mtlkit.locking import Use, is_locked, last_use, single_line
from mtlkit.runs.reading import bytes_of, checkpoints, is_run, last_records, read_json, read_sections

__all__ = ["Summary", "find", "summarize"]

_DEEPEST = 4  # folders below the one that is asked of; a baseline's runs are two below


@dataclass(frozen=True)
class Summary:
    """How a run is.

    Attributes:
        name: Its folder, from where it was looked for.
        folder: Its folder.
        title: What it is about, in the words of its configuration.
        state: ``running``, ``finished``, ``stopped`` by a signal, ``failed`` with an error, ``crashed`` (its process is
            gone and left no word), ``unfinished`` where it is not known how, or ``damaged``.
        step: The last step that it tells of.
        saved: The step of its newest checkpoint; None where there is none.
        steps: How many it is to have; None where it does not say.
        split: Of which split the results are, ``test`` where it is finished; None where there are none yet.
        results: The headline metric of each task and its value, by label.
        changed: When it last wrote something, in UTC (ISO 8601).
        bytes: What it takes on the disk.
        use: Which process has it, or had it last.
        problem: What is wrong where it is damaged, or what it failed with.
    """

    name: str
    folder: Path
    title: str | None
    state: str
    step: int
    saved: int | None
    steps: int | None
    split: str | None
    results: Mapping[str, tuple[str, float]]
    changed: str | None
    bytes: int
    use: Use | None
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "folder": str(self.folder)}


def find(root: Path) -> list[Summary]:
    """Return the runs in a folder, or in folders of it, the one that wrote last first.

    Raises:
        ConfigError: If there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(Problem(f"There is no folder {root}", remedy="Name the run.dir of your runs."))
    found = []
    for folder, inner, _ in os.walk(root):
        here = Path(folder)
        if here != root and is_run(here):
            found.append(here)
        depth = len(here.relative_to(root).parts)
        is_end = here in found or depth == _DEEPEST
        inner[:] = [] if is_end else [name for name in inner if not name.startswith(".")]
    summaries = [summarize(each, str(each.relative_to(root))) for each in found]
    return sorted(summaries, key=lambda each: (each.changed or "", each.name), reverse=True)


def summarize(folder: Path, name: str | None = None) -> Summary:
    """Return how the run in a folder is."""
    use, held = last_use(folder), is_locked(folder)
    sections: dict[str, Any] = {}
    done: dict[str, Any] = {}
    made: dict[str, Any] = {}
    problem = None
    try:
        sections = read_sections(folder / "config.yaml", ("run", "training"))
        done = read_json(folder / "done.json")
        made = read_json(folder / "environment.json")
    except ValueError as error:
        problem = single_line(str(error))
    saved = max(checkpoints(folder), default=None)
    split, results, step = _progress(folder, done)
    state = "damaged" if problem else _state(use, is_done=bool(done), is_held=held)
    if state == "failed" and use is not None:
        problem = use.error
    title = sections.get("run", {}).get("title")
    return Summary(
        name=single_line(name or str(folder)),
        folder=folder,
        title=single_line(title) if isinstance(title, str) else None,
        state=state,
        step=max(step, saved or 0),
        saved=saved,
        steps=_steps(sections.get("training", {}), done, made),
        split=split,
        results=results,
        changed=_changed(folder),
        bytes=bytes_of(folder),
        use=use,
        problem=problem,
    )


def _state(use: Use | None, *, is_done: bool, is_held: bool) -> str:
    if is_held:
        return "running"
    if is_done:
        return "finished"
    if use is None:
        return "unfinished"
    return use.ended if use.ended in {"stopped", "failed"} else "crashed"


def _progress(folder: Path, done: Mapping[str, Any]) -> tuple[str | None, dict[str, tuple[str, float]], int]:
    """Return the newest results, of which split, and the newest step that the records tell of."""
    if done:
        return "test", _headlines(done.get("test")), _int(done.get("steps")) or 0
    step, results = 0, None
    for record in last_records(folder / "metrics.jsonl"):
        step = max(step, _int(record.get("step")) or 0)
        if record.get("event") == "evaluation" and results is None:
            results = _headlines(record.get("tasks"))
        if step and results:
            break
    return ("validation" if results else None), results or {}, step


def _headlines(tasks: Any) -> dict[str, tuple[str, float]]:
    """Return the first metric of each task."""
    found = {}
    for label, result in tasks.items() if isinstance(tasks, dict) else ():
        metrics = result.get("metrics") if isinstance(result, dict) else None
        if isinstance(metrics, dict) and metrics:
            metric, value = next(iter(metrics.items()))
            number = float(value) if isinstance(value, int | float) else math.nan
            found[single_line(str(label))] = (single_line(str(metric)), number)
    return found


def _steps(training: Mapping[str, Any], done: Mapping[str, Any], made: Mapping[str, Any]) -> int | None:
    """Return how many steps a run is to have."""
    steps, epochs = _int(training.get("steps")), _int(training.get("epochs"))
    an_epoch = _int(training.get("steps_per_epoch")) or _int(made.get("steps_per_epoch"))
    if done or steps is not None:
        return _int(done.get("steps")) if done else steps
    return epochs * an_epoch if epochs is not None and an_epoch is not None else None


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _changed(folder: Path) -> str | None:
    times = []
    for name in ("config.yaml", "metrics.jsonl", "done.json"):
        try:
            times.append((folder / name).lstat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None
