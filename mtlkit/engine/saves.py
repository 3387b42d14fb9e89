"""Saves: the checkpoints of a run, which of them are whole, and which are dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from mtlkit.engine import checkpoint
from mtlkit.engine.storage import sync
from mtlkit.errors import CheckpointError, MtlkitError

__all__ = ["Saves"]


class Saves:
    """The checkpoints of a run, each a folder by the step that it was taken at.

    Attributes:
        path: The folder that they are in.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "checkpoints"

    def __bool__(self) -> bool:
        """Whether there is a checkpoint to go on from, be it whole or not."""
        return bool(self.folders)

    @property
    def folders(self) -> list[Path]:
        """The checkpoints, the oldest first."""
        folders = self.path.glob("step-*")
        steps = {int(number): folder for folder in folders if (number := folder.name.removeprefix("step-")).isdecimal()}
        return [steps[step] for step in sorted(steps)]

    @property
    def step(self) -> int:
        """The step of the newest checkpoint, be it whole or not; 0 where there is none."""
        return max(map(_step_of, self.folders), default=0)

    def folder(self, step: int) -> Path:
        """Return where the checkpoint of a step is, or will be."""
        return self.path / f"step-{step:06d}"

    def latest(self) -> tuple[Path | None, list[MtlkitError]]:
        """Return the newest checkpoint that is whole, and what is wrong with each newer one.

        Raises:
            CheckpointError: If there are checkpoints and none is whole.
        """
        damaged: list[MtlkitError] = []
        for folder in reversed(self.folders):
            try:
                checkpoint.verify(folder)
            except CheckpointError as error:
                damaged.append(error)
            else:
                return folder, damaged
        if damaged:
            raise CheckpointError("No checkpoint of the run is whole. " + " ".join(map(str, damaged)))
        return None, []

    def whole(self) -> Path | None:
        """Return the newest checkpoint that is whole; None where there is none, or it cannot be told."""
        try:
            return self.latest()[0]
        except MtlkitError:
            return None

    def told(self) -> str:
        """Say which checkpoint a run could go on from."""
        whole = self.whole()
        if whole is not None:
            return f"The checkpoint {whole} is whole."
        if self:
            return "Whether one of its checkpoints is whole cannot be told now."
        return "The run has no checkpoint yet."

    def make_folder(self) -> None:
        """Make the folder of the checkpoints, but not that of the run: if that is gone, so is all else in it."""
        if not self.path.is_dir():
            self.path.mkdir()
            sync(self.path.parent)

    def keep_newest(self, keep: int, step: int) -> None:
        """Drop all but the newest checkpoints up to a step.

        A process that was killed may not have come to that; so a run that goes on does it again.
        """
        self._discard([folder for folder in self.folders if _step_of(folder) <= step][:-keep])

    def drop_later(self, step: int) -> None:
        """Drop those of later steps, which a run passed over when it fell back to an earlier one."""
        self._discard([folder for folder in self.folders if _step_of(folder) > step])

    def keep_only(self, folder: Path) -> list[Path]:
        """Drop all but one, and return what was dropped."""
        dropped = [each for each in self.folders if each != folder]
        self._discard(dropped)
        return dropped

    def _discard(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            with contextlib.suppress(OSError):  # one too many does no harm; the next save drops it
                checkpoint.discard(folder)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
