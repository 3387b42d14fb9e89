"""Fetched: rows that are read one by one, here or by worker processes, and the stream of them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mtlkit.data.delivery import Delivery
from mtlkit.data.generators import kept_generators
from mtlkit.data.map_split import MapSplit
from mtlkit.data.order import Order
from mtlkit.data.reader import Reader, evenly, together
from mtlkit.data.reading import read_rows, row_seeds
from mtlkit.data.row_format import RowFailure, RowFormat
from mtlkit.data.stream import Stream
from mtlkit.data.workers import Workers
from mtlkit.errors import DataError
from mtlkit.specs import InputSpec
from mtlkit.task import Split

__all__ = ["Fetched", "FetchedStream", "Request"]


@dataclass(frozen=True)
class Request:
    """Rows that are asked for.

    Attributes:
        rows: Their indices.
        drawn: How many rows were drawn in training before them; None where it is not training.
    """

    rows: Tensor
    drawn: int | None = None


class Fetched(Reader):
    """A split whose rows are read one by one.

    Args:
        name: What the split is called.
        split: Where rows are read from.
        row_format: What a row is.
        delivery: How batches get to the run's device.
        seed: Seeds what is random in reading.
        source: Which source it is, for errors, as of :class:`~mtlkit.data.workers.Workers`.
        workers: What reads rows ahead; None where they are read here.
    """

    def __init__(
        self,
        name: str,
        split: MapSplit,
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
        self.rows: int = len(split)

    def read(self, requests: Iterable[Request]) -> Generator[Split]:
        """Yield what is asked for, one after another; more may be taken from the requests than was yielded for.

        Raises:
            DataError: If rows cannot be read.
        """
        if self.workers is None:
            return (self._read(request) for request in requests)
        return self._by(self.workers, requests)

    def batches(self, size: int) -> Iterator[Split]:
        """Yield every row once, in order."""
        return self.read(map(Request, torch.arange(len(self.split)).split(size)))

    def some(self, count: int) -> Split:
        """Return so many rows, evenly spaced."""
        return next(self.read([Request(evenly(len(self.split), count))]))

    def held(self) -> Split:
        """Return all rows in memory, on the run's device, read here and now."""
        unpinned = Fetched(
            self.name,
            self.split,
            self.row_format,
            replace(self.delivery, pin=False),  # which would take as much memory again
            seed=self.seed,
            source=self.source,
        )
        return unpinned.some(len(self.split))

    def close(self) -> None:
        """End the processes that read ahead."""
        if self.workers is not None:
            self.workers.close()

    # --- parts ---

    def _read(self, request: Request) -> Split:
        rows = request.rows.tolist()
        columns = self.row_format.empty(len(rows))
        try:
            if self.split.random:
                with kept_generators():
                    seeds = row_seeds(self.seed, rows, request.drawn)
                    read_rows(self.split, rows, self.row_format, columns, seeds=seeds)
            else:
                read_rows(self.split, rows, self.row_format, columns)
        except RowFailure as failure:
            name = self.split.carved_from or self.name
            raise DataError(f"{self.source} cannot be read. {failure.told(name)}") from failure
        return self.row_format.split([self.delivery.moved(column) for column in columns])

    def _by(self, workers: Workers, requests: Iterable[Request]) -> Generator[Split]:
        asked: deque[tuple[int, bool]] = deque()  # the number of each piece, and whether its request ends with it
        turns = itertools.cycle(range(workers.count))
        pieces = ((piece, last) for request in requests for piece, last in _pieces(request, workers.rows))
        parts: list[Split] = []
        try:
            while True:
                ahead = workers.count * workers.loading.prefetch - len(asked)
                for piece, last in itertools.islice(pieces, ahead):
                    asked.append((self._ask(workers, next(turns), piece), last))
                if not asked:
                    return
                ticket, last = asked.popleft()
                rows, _ = workers.receive(ticket)
                if rows is not None:
                    parts.append(rows)
                if last:
                    yield together(parts)
                    parts = []
        finally:
            for ticket, _ in asked:
                workers.leave(ticket)

    def _ask(self, workers: Workers, worker: int, request: Request) -> int:
        return workers.ask(self.name, len(request.rows), worker=worker, indices=request.rows, drawn=request.drawn)


class FetchedStream(Stream):
    """Endless batches of equal size, their rows read one by one.

    Args:
        reader: What reads them.
        order: Which row comes when.
        batch_size: Rows in a batch; no more than there are.

    Attributes:
        position: How many rows have been drawn, which is the stream's whole state: rows that were read ahead are read
            again after a restore.
    """

    def __init__(self, reader: Fetched, order: Order, *, batch_size: int) -> None:
        self.reader = reader
        self.order = order
        self.rows = reader.rows
        self.batch_size = min(batch_size, len(reader.split))
        self.position = 0
        self._batches: Generator[Split] | None = None

    def another(self, name: str) -> FetchedStream:
        """Return a stream of the same rows from their beginning, in an order of its own, which depends on the name."""
        return FetchedStream(self.reader, self.order.another(name), batch_size=self.batch_size)

    def next(self) -> Split:
        """Return the next batch."""
        if self._batches is None:
            self._batches = self.reader.read(self._requests())
        try:
            batch = next(self._batches)
        except BaseException:
            self._batches = None  # it cannot go on; another may
            raise
        self.position += self.batch_size
        return batch

    def state(self) -> dict[str, Any]:
        """Return the position."""
        return {"position": self.position}

    def rows_at(self, state: Mapping[str, Any]) -> Tensor:
        """Return the indices of the rows of the batch drawn from a state on."""
        return self.order.rows(int(state["position"]), self.batch_size)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a position."""
        position = int(state["position"])
        self._leave()
        self.position = position

    def close(self) -> None:
        """End the processes that read ahead."""
        self._leave()
        self.reader.close()

    def _requests(self) -> Iterator[Request]:
        for position in itertools.count(self.position, self.batch_size):
            yield Request(self.order.rows(position, self.batch_size), position)

    def _leave(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def _pieces(request: Request, size: int) -> list[tuple[Request, bool]]:
    """Return a request in pieces of so many rows, and of each whether it is the last."""
    parts: Sequence[Tensor] = request.rows.split(size)
    starts = itertools.count(request.drawn, size) if request.drawn is not None else itertools.repeat(None)
    return [(Request(part, start), part is parts[-1]) for part, start in zip(parts, starts, strict=False)]
