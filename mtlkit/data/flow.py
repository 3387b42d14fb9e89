"""Flow: rows that come one after another, read here or ahead by a worker process, and the endless stream of them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from mtlkit.data.cursor import Cursor
from mtlkit.data.delivery import Delivery
from mtlkit.data.reader import Reader, together
from mtlkit.data.reading import read_from
from mtlkit.data.row_format import RowFailure, RowFormat
from mtlkit.data.stream import Stream
from mtlkit.data.stream_split import StreamSplit
from mtlkit.data.workers import Workers
from mtlkit.errors import DataError
from mtlkit.specs import InputSpec
from mtlkit.task import Split

__all__ = ["Flow", "FlowStream"]

Place = Mapping[str, int]
BEGINNING: Place = {"pass": 0, "row": 0, "drawn": 0}


class Flow(Reader):
    """A split whose rows come one after another.

    Args:
        name: What the split is called.
        split: Where rows come from.
        row_format: What a row is.
        delivery: How batches get to the run's device.
        seed: Seeds the order in training.
        source: Which source it is, for errors, as of :class:`~mtlkit.data.workers.Workers`.
        workers: What reads rows ahead; None where they are read here.
    """

    def __init__(
        self,
        name: str,
        split: StreamSplit,
        row_format: RowFormat,
        delivery: Delivery,
        *,
        seed: int,
        source: str,
        workers: Workers | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.row_format = row_format
        self.delivery = delivery
        self.seed = seed
        self.source = source
        self.workers = workers
        self.processes = workers.count if workers else 0
        self.row: InputSpec = split.row or row_format.row
        self.rows = split.rows

    def read(self, size: int, *, place: Place = BEGINNING, training: bool) -> Generator[tuple[Split, Place]]:
        """Yield batches, each with the place after it: in training without end, otherwise those of one pass in order.

        Raises:
            DataError: If rows cannot be read.
        """
        if self.workers is None:
            return self._here(size, place, training=training)
        return self._by(self.workers, size, place, training=training)

    def batches(self, size: int) -> Iterator[Split]:
        """Yield every row once, in order."""
        return (batch for batch, _ in self.read(size, training=False))

    def some(self, count: int) -> Split:
        """Return the first rows."""
        with contextlib.closing(self.read(count, training=False)) as read:
            for batch, _ in read:
                return batch
        raise DataError(f"{self.source} cannot be read. {RowFailure(None, 'has no row').told(self.name)}")

    def close(self) -> None:
        """End the process that reads ahead."""
        if self.workers is not None:
            self.workers.close()

    # --- parts ---

    def _here(self, size: int, place: Place, *, training: bool) -> Generator[tuple[Split, Place]]:
        cursor = Cursor(self.split, seed=self.seed if training else None)
        try:
            cursor.restore(place)
            count = size
            while count == size:
                columns = self.row_format.empty(size)
                count = read_from(cursor, size, self.row_format, columns)
                if count:
                    moved = [self.delivery.moved(column[:count]) for column in columns]
                    yield self.row_format.split(moved), cursor.state()
        except RowFailure as failure:
            name = self.split.carved_from or self.name
            raise DataError(f"{self.source} cannot be read. {failure.told(name)}") from failure

    def _by(
        self, workers: Workers, size: int, place: Place | None, *, training: bool
    ) -> Generator[tuple[Split, Place]]:
        asked: deque[tuple[int, int]] = deque()  # the number of each piece, and how many rows it asks for
        pieces = _pieces(size, workers.rows)
        parts: list[Split] = []
        drawn = 0 if training else None
        try:
            while True:
                while len(asked) < workers.loading.prefetch:
                    rows = next(pieces)
                    asked.append((workers.ask(self.name, rows, worker=0, drawn=drawn, place=place), rows))
                    place = None  # and on from there
                ticket, rows = asked.popleft()
                received, after = workers.receive(ticket)
                if received is not None:
                    parts.append(received)
                is_end = received is None or len(received) < rows
                if parts and after is not None and (is_end or sum(map(len, parts)) == size):
                    yield together(parts), after
                    parts = []
                if is_end:
                    return
        finally:
            for ticket, _ in asked:
                workers.leave(ticket)


class FlowStream(Stream):
    """Endless batches of equal size, of rows that come one after another.

    Args:
        reader: What reads them.
        batch_size: Rows in a batch.

    Attributes:
        place: Where the next row is, which is the stream's whole state: rows that were read ahead are read again after
            a restore.
    """

    def __init__(self, reader: Flow, *, batch_size: int) -> None:
        self.reader = reader
        self.rows = reader.rows
        self.batch_size = batch_size
        self.place = BEGINNING
        self._batches: Generator[tuple[Split, Place]] | None = None

    def another(self, name: str) -> FlowStream:
        """Refuse: rows that come one after another have no second order.

        Raises:
            DataError: Always.
        """
        raise DataError(
            f"{self.reader.source} come one after another, and have no second order to be drawn in ({name})."
        )

    def next(self) -> Split:
        """Return the next batch."""
        if self._batches is None:
            self._batches = self.reader.read(self.batch_size, place=self.place, training=True)
        try:
            batch, self.place = next(self._batches)
        except BaseException:
            self._batches = None  # it cannot go on; another may
            raise
        return batch

    def state(self) -> dict[str, Any]:
        """Return the place."""
        return dict(self.place)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a place."""
        place = {name: int(state[name]) for name in BEGINNING}
        self._leave()
        self.place = place

    def close(self) -> None:
        """End the process that reads ahead."""
        self._leave()
        self.reader.close()

    def _leave(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def _pieces(size: int, most: int) -> Iterator[int]:
    """Yield how many rows to ask for at a time, without end, so that batches of a size are made of whole pieces."""
    while True:
        for start in range(0, size, most):
            yield min(most, size - start)
