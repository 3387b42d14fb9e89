"""Workers: processes that read the rows of one source ahead of the run.

It is not the DataLoader of torch, for what becomes of a worker that dies. There, a signal handler raises in whatever
the run does at that moment, in a task's loss as likely as anywhere; nothing says which row it was; one that hangs is
waited for once more when all are shut down; and every split has processes of its own. Here, the run hears of a death
where it asks for rows, and knows the row.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, NoReturn

from torch import Tensor

from mtlkit.data.delivery import Delivery
from mtlkit.data.map_split import MapSplit
from mtlkit.data.row_format import RowFailure, RowFormat, reason
from mtlkit.data.settings import Loading
from mtlkit.data.splits import Carved
from mtlkit.data.stream_split import StreamSplit
from mtlkit.data.worker import Failed, Job, Loaded, Read, Slots, deferred_signals, serve, sizes
from mtlkit.errors import DataError
from mtlkit.task import Split

__all__ = ["Workers"]

START_S = 300.0  # for workers to import what they need and load the splits
PATIENCE_S = 2.0  # for workers to end by themselves once they are told to


@dataclass
class _Worker:
    """One of them, and what it was asked for that it has not answered."""

    number: int
    process: BaseProcess
    connection: Connection
    asked: deque[int] = field(default_factory=deque)
    is_ready: bool = False
    heard_at: float = 0.0


@dataclass(kw_only=True, eq=False)
class Workers:
    """Processes that read rows of one source; they are started when they are first asked for some.

    Attributes:
        splits: The splits that the run has. A worker that finds others reads something else.
        load: Loads them in each worker; where workers are forks, they have those of the run.
        count: How many processes there are.
        row_format: What a row is.
        rows: How many rows are asked for at a time, at most.
        loading: How they start, how far they read ahead, how long they may take.
        seed: Seeds what is random in reading.
        delivery: How rows get to the run's device.
        source: Which source it is and whose, for errors, such as "The rows of task 'wine' (acme-mtl 1.2)".
    """

    splits: Mapping[str, Carved]
    load: Callable[[], Mapping[str, Carved]]
    count: int
    row_format: RowFormat
    rows: int
    loading: Loading
    seed: int
    delivery: Delivery
    source: str
    _workers: list[_Worker] = field(init=False, default_factory=list)
    _slots: Slots | None = field(init=False, default=None)
    _free: list[int] = field(init=False, default_factory=list)
    _jobs: dict[int, Job] = field(init=False, default_factory=dict)  # by ticket: asked for, and not received
    _left: set[int] = field(init=False, default_factory=set)  # asked for, and no longer wanted
    _answers: dict[int, Read | Failed] = field(init=False, default_factory=dict)
    _spilled: dict[int, Split | None] = field(init=False, default_factory=dict)  # answers whose slots were needed
    _tickets: Iterator[int] = field(init=False, default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._finalizer = weakref.finalize(self, _end, self._workers, os.getpid())
        self._finalizer.atexit = False  # which may come after multiprocessing has begun to wait for them
        _OPEN.add(self)

    @property
    def connections(self) -> list[Connection]:
        """The run's ends of the connections to the workers."""
        return [each.connection for each in self._workers]

    def ask(
        self,
        split: str,
        rows: int,
        *,
        worker: int,
        indices: Tensor | None = None,
        drawn: int | None = None,
        place: Mapping[str, int] | None = None,
    ) -> int:
        """Ask a worker for rows, and return the number by which they are to be received.

        Args:
            split: The name of the split.
            rows: How many.
            worker: Which worker.
            indices: Which rows, of a split that is indexed.
            drawn: As of :class:`~mtlkit.data.worker.Job`.
            place: As there.

        Raises:
            DataError: If a worker has died, or none has answered in time.
        """
        slots = self._open()
        began = time.monotonic()
        while not (self._free or self._spill(slots)):
            self._listen(began, self._workers[worker])
        job = Job(self._free.pop(), split, rows, drawn, place)
        if indices is not None:
            slots.indices(job.slot)[:rows] = indices
        asked = self._workers[worker]
        try:
            asked.connection.send(job)
        except OSError:
            self._fail_of_death(asked)
        ticket = next(self._tickets)
        self._jobs[ticket] = job
        asked.asked.append(ticket)
        return ticket

    def receive(self, ticket: int) -> tuple[Split | None, Mapping[str, int] | None]:
        """Return rows that were asked for, None where none was left, and where in a stream the next one is.

        Raises:
            DataError: If a row cannot be read, a worker has died, or it has not answered in time.
        """
        slots = self._open()
        began = time.monotonic()
        while ticket not in self._answers:
            self._listen(began, next(worker for worker in self._workers if ticket in worker.asked))
        job, answer = self._jobs.pop(ticket), self._answers.pop(ticket)
        if isinstance(answer, Failed):
            self._fail(RowFailure(answer.number, answer.what).told(self._name(job)))
        rows = self._spilled.pop(ticket) if ticket in self._spilled else self._copied(slots, job, answer)
        return rows, answer.place

    def leave(self, ticket: int) -> None:
        """No longer want what was asked for."""
        if ticket not in self._jobs:
            return  # closed since
        if ticket not in self._answers:
            self._left.add(ticket)
            return
        del self._answers[ticket]
        job = self._jobs.pop(ticket)
        if ticket in self._spilled:
            del self._spilled[ticket]
        else:
            self._free.append(job.slot)

    def close(self, *, patience: float = PATIENCE_S) -> None:
        """End the processes; they are started again if they are asked for something.

        Args:
            patience: How many seconds they have to end by themselves.
        """
        if self._slots is not None:
            self._slots.doing[-1] = 1
        _end(self._workers, os.getpid(), patience)
        self._slots = None
        for each in (self._free, self._jobs, self._left, self._answers, self._spilled):
            each.clear()

    # --- parts ---

    def _open(self) -> Slots:
        """Start the processes, if they are not there."""
        if self._slots is None:
            try:
                self._slots = self._start()
            except Exception as error:  # noqa: BLE001 - whatever the system, or pickling what they need, may raise
                is_want = isinstance(error, OSError | MemoryError)
                remedy = " Fewer of them (loading.workers), or smaller batches, need less." if is_want else ""
                self._fail(f"Worker processes cannot be started: {reason(error)}.{remedy}", error)
        return self._slots

    def _start(self) -> Slots:
        context: Any = multiprocessing.get_context(self.loading.start)
        number_of_slots = self.count * (self.loading.prefetch + 1)
        slots = Slots.make(context, self.row_format, rows=self.rows, slots=number_of_slots, workers=self.count)
        forks = self.loading.start == "fork"
        with deferred_signals(), _without_main(), warnings.catch_warnings():
            # Python warns of a fork where there are threads, as torch has; it was asked for, and workers use none.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            for number in range(self.count):
                ours, theirs = context.Pipe()
                foreign = [*(end for pool in _OPEN for end in pool.connections), ours] if forks else []
                arguments = (theirs, number, self._same if forks else self.load, slots, self.seed, foreign)
                process = context.Process(target=serve, args=arguments, daemon=True)
                process.start()
                theirs.close()
                self._workers.append(_Worker(number, process, ours))
        self._free += range(number_of_slots)
        return slots

    def _same(self) -> Mapping[str, Carved]:
        return self.splits

    def _copied(self, slots: Slots, job: Job, answer: Read) -> Split | None:
        """Return the rows of a slot, which is free from then on; None where there are none."""
        columns = [self.delivery.copied(column[: answer.rows]) for column in slots.columns(job.slot)]
        self._free.append(job.slot)
        return self.row_format.split(columns) if answer.rows else None

    def _spill(self, slots: Slots) -> bool:
        """Free a slot whose rows are there and not yet asked back for, as those of training are in an evaluation."""
        for ticket, answer in self._answers.items():
            if isinstance(answer, Read) and ticket not in self._spilled:
                self._spilled[ticket] = self._copied(slots, self._jobs[ticket], answer)
                return True
        return False

    def _listen(self, began: float, waited_for: _Worker) -> None:
        """Hear what the workers have answered; where they have not, wait for it.

        Args:
            began: When the wait for this worker began.
            waited_for: The worker.

        Raises:
            DataError: If one has died, or there is no answer in time.
        """
        heard = {each.connection: each for each in self._workers}
        ended = {each.process.sentinel: each for each in self._workers}
        # It may have had other batches to read before, each of which has as long.
        limit = self.loading.timeout if waited_for.is_ready else max(self.loading.timeout, START_S)
        ready = wait([*heard, *ended], max(0.0, max(began, waited_for.heard_at) + limit - time.monotonic()))
        if not ready:
            self._fail_of_lateness(waited_for, limit)
        for each in ready:
            if isinstance(each, Connection):
                self._hear(heard[each])
        for each in ready:
            if isinstance(each, int):
                self._hear(ended[each])  # what it still had to say
                self._fail_of_death(ended[each])

    def _hear(self, worker: _Worker) -> None:
        try:
            while worker.connection.poll():
                self._take(worker, worker.connection.recv())
        except (EOFError, OSError):
            self._fail_of_death(worker)

    def _take(self, worker: _Worker, answer: Loaded | Read | Failed) -> None:
        worker.heard_at = time.monotonic()
        if isinstance(answer, Loaded):
            worker.is_ready = True
            mine = sizes(self.splits)
            if answer.sizes != mine:
                self._fail(
                    f"A worker process has loaded other splits than the run has, of {_told(answer.sizes)} rows in "
                    f"place of {_told(mine)}: a source gives the same rows each time."
                )
        elif not worker.is_ready and isinstance(answer, Failed):
            what = answer.what.removesuffix(".")
            self._fail(f"A worker process could not load the source: {what}.{self._other_ways()}")
        else:
            ticket = worker.asked.popleft()
            if ticket in self._left:
                self._left.remove(ticket)
                self._free.append(self._jobs.pop(ticket).slot)
            else:
                self._answers[ticket] = answer

    def _fail(self, what: str, cause: Exception | None = None) -> NoReturn:
        self.close(patience=0)
        raise DataError(f"{self.source} cannot be read. {what}") from cause

    def _fail_of_death(self, worker: _Worker) -> NoReturn:
        worker.process.join(PATIENCE_S)  # its end is heard of before its status is there
        status, doing = worker.process.exitcode or 0, self._doing(worker)
        if status < 0:
            remedy = "Memory may have been short: lower loading.workers, loading.prefetch or the size of batches."
            self._fail(f"A worker process was killed by {_signal_name(-status)} while {doing}. {remedy}")
        if not worker.is_ready:
            self._fail(f"A worker process ended with status {status} while {doing}.{self._other_ways()}")
        self._fail(f"A worker process ended with status {status} while {doing}: a row is to be returned, or raise.")

    def _fail_of_lateness(self, worker: _Worker, limit: float) -> NoReturn:
        which = ", which is loading.timeout" if limit == self.loading.timeout else ""
        self._fail(f"A worker process was still {self._doing(worker)} after {limit:g} s{which}.")

    def _doing(self, worker: _Worker) -> str:
        """Return what a worker was doing, as a sentence goes on."""
        row = self._slots.doing[worker.number] if self._slots else -1
        if not worker.is_ready:
            return "loading the source"
        if row < 0 or not worker.asked:
            return "between two batches"
        return f"reading row {row} of {self._name(self._jobs[worker.asked[0]])!r}"

    def _name(self, job: Job) -> str:
        """Return what a source calls the split whose rows are numbered."""
        split = self.splits[job.split]
        return (split.carved_from if isinstance(split, MapSplit | StreamSplit) else None) or job.split

    def _other_ways(self) -> str:
        if self.loading.start == "fork":
            return ""
        return (
            f" With loading.start '{self.loading.start}', a worker finds the task anew, by its name and options. With "
            "'fork', it has what the run has."
        )


def _end(workers: list[_Worker], owner: int, patience: float = 0) -> None:
    """End worker processes, by force where they do not end by themselves."""
    if os.getpid() != owner:
        return  # a fork, which has this too
    for each in workers:
        with suppress(OSError):
            each.connection.send(None)
        each.connection.close()
    until = time.monotonic() + patience
    for each in workers:
        each.process.join(max(0.0, until - time.monotonic()))
    for each in workers:
        if each.process.is_alive():
            each.process.kill()
    for each in workers:
        each.process.join()
        each.process.close()
    workers.clear()


@contextmanager
def _without_main() -> Iterator[None]:
    """Let what is started not import the program that is running, as it would.

    A worker needs none of it; and a script that trains would train there too.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _told(sizes: Mapping[str, int | None]) -> str:
    return " and ".join(f"{'?' if size is None else size} ({name})" for name, size in sizes.items()) or "no"


_OPEN: weakref.WeakSet[Workers] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own, so before it, which would wait for them without end
def _close_all() -> None:
    for each in list(_OPEN):
        each.close()
