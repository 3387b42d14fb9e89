"""RunFolder: everything that a run leaves on the disk."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from torch import nn

from mtlkit.engine import checkpoint
from mtlkit.engine.storage import storage_errors, sync, write_json, write_text
from mtlkit.errors import CheckpointError, ConfigError, MtlkitError, Problem
from mtlkit.plainjson import dumps

__all__ = ["RunFolder"]


class RunFolder:
    """A run's folder: its configuration, its records, its checkpoints, its results.

    Made by :meth:`create` or :meth:`open`; a context manager that closes the records.

    Attributes:
        path: The folder.
        provenance: What each checkpoint says of the plugins that took part.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.provenance: Sequence[Mapping[str, Any]] = ()
        self._files: dict[str, BinaryIO] = {}

    @classmethod
    def create(cls, path: Path, *, config: str, environment: Mapping[str, Any]) -> RunFolder:
        """Make the folder, which must not exist, and write down what the run is.

        Raises:
            ConfigError: If it exists.
            StorageError: If it cannot be written to.
        """
        with storage_errors("create the run folder"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                names = (f"{path.name}-{number}" for number in itertools.count(2))
                free = next(name for name in names if not path.with_name(name).exists())
                remedy = f"Nothing was changed. Go on with that run: --resume. Or name this one: run.name={free}."
                raise ConfigError(Problem(f"The run folder {path} exists already", remedy=remedy)) from None
        run = cls(path)
        write_json(path / "environment.json", environment)
        write_text(path / "config.yaml", config)  # last: a folder with a configuration is a run
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run that exists.

        Raises:
            CheckpointError: If the folder is none.
        """
        if not path.exists():
            raise CheckpointError(f"{path} is no run folder: it does not exist.")
        if not (path / "config.yaml").is_file():
            remedy = "Remove it if nothing in it is needed, or name another run."
            raise CheckpointError(f"{path} is no run folder: it has no config.yaml. {remedy}")
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``done.json`` says; None while the run is not done."""
        path = self.path / "done.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
        except (OSError, ValueError, TypeError) as error:
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
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            return [dict(json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error

    def sizes(self) -> dict[str, int]:
        """Return how long each record file is, in bytes: a checkpoint remembers it."""
        return {name: file.tell() for name, file in self._files.items()}

    def truncate(self, sizes: Mapping[str, int]) -> None:
        """Cut the records back to where they were when a checkpoint was written; they are made again from there."""
        with storage_errors("cut back the records in"):
            for name in ("metrics.jsonl", "timings.jsonl"):
                file = self._file(name)
                file.truncate(min(sizes.get(name, 0), file.seek(0, os.SEEK_END)))
                file.seek(0, os.SEEK_END)

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
