"""The worker: a process that reads rows of one source into memory that it shares with the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtlkit.data.cursor import Cursor
from mtlkit.data.map_split import MapSplit
from mtlkit.data.reading import read_from, read_rows, row_seeds
from mtlkit.data.row_format import RowFailure, RowFormat, reason
from mtlkit.data.splits import Carved
from mtlkit.data.stream_split import StreamSplit
from mtlkit.errors import MtlkitError

__all__ = ["Failed", "Job", "Loaded", "Read", "Slots", "deferred_signals", "serve", "sizes"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Job(NamedTuple):
    """What a worker is asked for: rows of a split, to be put in a slot of the shared memory.

    Attributes:
        slot: The slot. Of a split whose rows are indexed, the rows' indices are in it.
        split: The name of the split.
        rows: How many.
        drawn: How many rows were drawn in training before these; None where it is not training.
        place: Where in a stream to go first; None to go on.
    """

    slot: int
    split: str
    rows: int
    drawn: int | None = None
    place: Mapping[str, int] | None = None


class Loaded(NamedTuple):
    """A worker is ready.

    Attributes:
        sizes: How many rows it has found in each split.
    """

    sizes: Mapping[str, int | None]


class Read(NamedTuple):
    """A job is done.

    Attributes:
        rows: How many there were.
        place: Where in a stream the next one is.
    """

    rows: int
    place: Mapping[str, int] | None = None


class Failed(NamedTuple):
    """A job cannot be done, or the splits cannot be loaded.

    Attributes:
        number: The row that it is about, if it is about one.
        what: As of :class:`~mtlkit.data.row_format.RowFailure`; where the splits cannot be loaded, a sentence.
    """

    number: int | None
    what: str


@dataclass(frozen=True)
class Slots:
    """Memory that a run and its workers share: slots for the rows of a batch, and what each worker is doing.

    Attributes:
        row_format: What a row is.
        rows: How many rows a slot has room for.
        memory: The slots, bytes.
        doing: The number of the row that each worker is reading, -1 where it is none; last, whether all are to stop.
    """

    row_format: RowFormat
    rows: int
    memory: Any
    doing: Any

    def indices(self, slot: int) -> Tensor:
        """Return where the indices of the rows of a slot are, ``[rows]``."""
        start = slot * self._slot_bytes(self.row_format, self.rows)
        whole = torch.frombuffer(self.memory, dtype=torch.uint8)
        return whole[start : start + 8 * self.rows].view(torch.int64)

    def columns(self, slot: int) -> list[Tensor]:
        """Return where the columns of a slot are, each ``[rows, *]``."""
        size = self._slot_bytes(self.row_format, self.rows)
        whole = torch.frombuffer(self.memory, dtype=torch.uint8)[slot * size : (slot + 1) * size]
        return self.row_format.views(whole[-self.row_format.bytes_of(self.rows) :], self.rows)

    @classmethod
    def make(cls, context: Any, row_format: RowFormat, *, rows: int, slots: int, workers: int) -> Slots:
        """Make slots, in memory that can be passed to processes of a context when they are started."""
        memory = context.RawArray("b", slots * cls._slot_bytes(row_format, rows))
        doing = context.RawArray("q", workers + 1)
        doing[:workers] = [-1] * workers
        return cls(row_format, rows, memory, doing)

    @staticmethod
    def _slot_bytes(row_format: RowFormat, rows: int) -> int:
        return -(-8 * rows // 64) * 64 + row_format.bytes_of(rows)


def sizes(splits: Mapping[str, Carved]) -> dict[str, int | None]:
    """Return how many rows each split has, as far as that is known."""
    return {name: split.rows if isinstance(split, StreamSplit) else len(split) for name, split in splits.items()}


def serve(
    connection: Connection,
    number: int,
    load: Callable[[], Mapping[str, Carved]],
    slots: Slots,
    seed: int,
    foreign: Sequence[Connection] = (),
) -> None:
    """Do jobs until None comes in place of one, or the connection is closed; this is all that a worker does.

    Args:
        connection: Jobs come from it and answers go to it, in the same order.
        number: Which of the workers this is.
        load: Returns the splits.
        slots: Where rows go.
        seed: Seeds what is random in reading.
        foreign: Ends of connections that a fork has, and that are not its own.
    """
    for each in foreign:  # or one would never hear that its other end was closed
        each.close()
    _settle()
    with _told_in_place_of_raised(connection):
        worker = _Worker(load(), number, slots, seed)
        connection.send(Loaded(sizes(worker.splits)))
        while (job := connection.recv()) is not None:
            connection.send(worker.answer(job))


class _Worker:
    """Does jobs.

    Args:
        splits: The splits.
        number: Which of the workers this is.
        slots: Where rows go.
        seed: Seeds what is random in reading.
    """

    def __init__(self, splits: Mapping[str, Carved], number: int, slots: Slots, seed: int) -> None:
        self.splits = splits
        self.number = number
        self.slots = slots
        self.seed = seed
        self._cursors: dict[tuple[str, bool], Cursor] = {}

    def answer(self, job: Job) -> Read | Failed:
        """Do a job, and return what came of it."""
        try:
            return self._do(job)
        except RowFailure as failure:
            return Failed(failure.number, failure.what)
        except BaseException as error:  # noqa: BLE001 - what reads a row may raise whatever it likes
            return Failed(self.slots.doing[self.number], reason(error))
        finally:
            self.slots.doing[self.number] = -1

    def _do(self, job: Job) -> Read:
        split, row_format, columns = self.splits[job.split], self.slots.row_format, self.slots.columns(job.slot)
        if isinstance(split, MapSplit):
            rows = self.slots.indices(job.slot)[: job.rows].tolist()
            seeds = row_seeds(self.seed, rows, job.drawn) if split.random else ()
            read_rows(split, rows, row_format, columns, seeds=seeds, watch=self._watch)
            return Read(job.rows)
        if isinstance(split, StreamSplit):
            cursor = self._cursor(job, split)
            return Read(read_from(cursor, job.rows, row_format, columns), cursor.state())
        raise AssertionError("workers are asked for rows of what is not in columns")

    def _cursor(self, job: Job, split: StreamSplit) -> Cursor:
        training = job.drawn is not None
        if job.place is not None:
            cursor = Cursor(split, seed=self.seed if training else None, watch=self._watch)
            cursor.restore(job.place)
            self._cursors[job.split, training] = cursor
        return self._cursors[job.split, training]

    def _watch(self, row: int) -> None:
        if self.slots.doing[-1]:
            raise SystemExit  # the run does not wait for what is left
        self.slots.doing[self.number] = row


@contextmanager
def _told_in_place_of_raised(connection: Connection) -> Iterator[None]:
    """Send what is raised to the run, where it is still there: a worker itself writes no traceback."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionError):
        pass  # the run has closed its end
    except BaseException as error:  # noqa: BLE001 - it is told of there
        with suppress(OSError):
            connection.send(Failed(None, str(error) if isinstance(error, MtlkitError) else reason(error)))


def _settle() -> None:
    """Make a process a worker: one thread, no answer to what is meant for the run, and an end when the run ends."""
    for each in _STOPPING:
        signal.signal(each, _pass_over)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _pass_over(_number: int, _frame: object) -> None:
    """Do nothing: whoever stops the run sends a signal to its workers too, and the run closes them in its own time."""


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let no signal that stops the run end a worker before it passes such signals over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
