"""TensorBoard: the hooks that write what a run records to an event file."""

from __future__ import annotations

import contextlib
import math
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

import mtlkit
from mtlkit.errors import PluginError, StorageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from mtlkit.engine import events

__all__ = ["TensorBoard"]

FIELDS_OF_A_STEP = ("losses", "weights", "weighted_losses", "gradient_norms", "rows")


class TensorBoard:
    """What a run records, as curves in TensorBoard.

    The tags are the names of metrics.jsonl: ``learning_rate``, and by task label ``losses/digit``, ``weights/digit``,
    ``weighted_losses/digit``, ``gradient_norms/digit``, ``rows/digit``, ``validation_losses/digit`` and
    ``validation_metrics/digit/accuracy``; the same for ``test``, at the step of the best weights, when the run is over.

    Args:
        folder: Where the event files go, in the run's folder.
        flush_seconds: How many seconds what was recorded may wait to be put on the disk. It never waits longer than
            until the next evaluation or checkpoint.

    Raises:
        ValueError: If the folder is not in the run's folder.
    """

    def __init__(self, *, folder: str = "tensorboard", flush_seconds: Annotated[float, Field(gt=0)] = 30.0) -> None:
        if PurePath(folder).is_absolute() or ".." in PurePath(folder).parts:
            raise ValueError(
                "folder must be in the run's own folder, so that no two runs share one, such as 'tensorboard'; "
                f"received {folder!r}"
            )
        self.folder = folder
        self.flush_seconds = flush_seconds
        self._writer: SummaryWriter | None = None

    @mtlkit.hookimpl
    def mtlkit_run_started(self, event: events.RunStarted) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - torch too: listing does without it
        except ImportError as error:
            raise PluginError(
                f"TensorBoard's writer cannot be imported: {error}. Install what it needs: pip install tensorboard."
            ) from error
        folder = event.folder / self.folder
        with self._telling(folder):
            earlier = list(folder.glob("events.out.tfevents.*"))
            _wait_for_the_next_second_after(earlier)
            # What an earlier attempt recorded past the step it was saved at is recorded again: readers drop it there.
            self._writer = SummaryWriter(folder, purge_step=event.step + 1, flush_secs=self.flush_seconds)
            self._finalizer = weakref.finalize(self, _close, self._writer, os.getpid())
            if not earlier:
                self._writer.add_text("config", _as_markdown(event.folder / "config.yaml"), 0)
            self._writer.flush()

    @mtlkit.hookimpl
    def mtlkit_step_recorded(self, event: events.StepRecorded) -> None:
        scalars = {"learning_rate": event.learning_rate}
        for field in FIELDS_OF_A_STEP:
            scalars |= {f"{field}/{label}": value for label, value in getattr(event, field).items()}
        self._write(scalars, event.step)

    @mtlkit.hookimpl
    def mtlkit_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        if event.split != "test":  # whose results wait until the run is over: a run that goes on may test again
            self._write(_scalars(event.split, event.results), event.step, flush=True)

    @mtlkit.hookimpl
    def mtlkit_checkpoint_written(self, event: events.CheckpointWritten) -> None:
        self._write({}, event.step, flush=True)  # a run that goes on from here records none of it again

    @mtlkit.hookimpl
    def mtlkit_run_finished(self, event: events.RunFinished) -> None:
        self._write(_scalars("test", event.results), event.best_step, flush=True)
        if self._writer is not None:
            with self._telling(Path(self._writer.log_dir)):
                self._finalizer()
            self._writer = None

    def _write(self, scalars: Mapping[str, float], step: int, *, flush: bool = False) -> None:
        if self._writer is None:  # nothing can be written, which was told once
            return
        with self._telling(Path(self._writer.log_dir)):
            for tag, value in scalars.items():
                self._writer.add_scalar(tag, value, step)
            if flush:
                self._writer.flush()

    @contextlib.contextmanager
    def _telling(self, folder: Path) -> Iterator[None]:
        """Say what could not be written where, and write no more: it would only fail again, in each hook."""
        try:
            yield
        except Exception as error:
            if self._writer is not None:
                self._writer = None
                with contextlib.suppress(Exception):  # it is the first failure that is told
                    self._finalizer()
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise StorageError(f"Cannot write TensorBoard's events to {folder}: {reason}.") from error


def _scalars(split: str, results: Mapping[str, events.TaskResult]) -> dict[str, float]:
    """Return the loss and the metrics of each task by tag. No metric's name can clash with the loss, whatever it is."""
    losses = {f"{split}_losses/{label}": result.loss for label, result in results.items()}
    return losses | {
        f"{split}_metrics/{label}/{name}": value
        for label, result in results.items()
        for name, value in result.metrics.items()
    }


def _as_markdown(path: Path) -> str:
    """Return a file as a block of code, which is indented: no line of it can end it, as a fence could be ended."""
    return "\n".join(f"    {line}" for line in path.read_text(encoding="utf-8").splitlines())


def _wait_for_the_next_second_after(earlier: list[Path]) -> None:
    """Wait, if need be, until a new event file will sort behind the earlier ones.

    Readers take a folder's files in the order of their names, which begin with the second they were made in; what is to
    be dropped must have been read by then.
    """
    last = max((path.stat().st_mtime for path in earlier), default=0.0)
    time.sleep(min(1.0, max(0.0, math.floor(last) + 1 - time.time())))


def _close(writer: SummaryWriter, process: int) -> None:
    """Close a writer, unless in a fork of its process, which lacks the thread that writes and would wait for it."""
    if os.getpid() == process:
        writer.close()
