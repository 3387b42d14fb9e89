"""Loading: what a run reads the rows of a source by, in memory where they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mtlkit.data.delivery import Delivery
from mtlkit.data.fetched import Fetched, FetchedStream
from mtlkit.data.flow import Flow, FlowStream
from mtlkit.data.gathered import Gathered
from mtlkit.data.in_memory import InMemoryStream
from mtlkit.data.map_split import MapSplit
from mtlkit.data.order import Order
from mtlkit.data.reader import Reader
from mtlkit.data.row_format import RowFormat
from mtlkit.data.settings import Loading
from mtlkit.data.splits import Carved, format_of
from mtlkit.data.stream import Stream
from mtlkit.data.stream_split import StreamSplit
from mtlkit.data.workers import Workers
from mtlkit.task import Split

__all__ = ["opened", "stream_of"]


def opened(
    splits: Mapping[str, Carved],
    *,
    load: Callable[[], Mapping[str, Carved]],
    loading: Loading,
    delivery: Delivery,
    batch_size: int,
    seed: int,
    source: str,
) -> dict[str, Split | Reader]:
    """Return what a run reads each split of a source by: a split that is in memory, on its device, or a reader.

    Rows that are read one by one are read into memory now, if those of all splits fit. Columns are converted and moved
    now, if they fit; if not, batch by batch, as those of files that are mapped are wherever memory has a limit.

    Args:
        splits: The splits.
        load: Loads the same splits in a worker process.
        loading: What fits, and how the rest is read.
        delivery: How rows get to the run's device.
        batch_size: Rows in a batch of training.
        seed: Seeds what is random in reading.
        source: Which source it is and whose, for errors, such as "The rows of task 'wine' (acme-mtl 1.2)".

    Raises:
        DataError: If rows cannot be read.
    """
    row_format = format_of(splits["train"], "train", delivery.dtype)
    size = sum(_size_in_memory(split, row_format, delivery) for split in splits.values())
    fits = loading.memory is None or size <= loading.memory
    by_row = {name: split for name, split in splits.items() if _is_read_by_row(split, fits=fits)}
    workers = None
    if loading.workers and by_row:
        workers = Workers(
            splits=splits,
            load=load,
            count=loading.workers if any(isinstance(split, MapSplit) for split in by_row.values()) else 1,
            row_format=row_format,
            rows=batch_size,
            loading=loading,
            seed=seed,
            delivery=delivery,
            source=source,
        )

    def open_one(name: str, split: Carved) -> Split | Reader:
        if isinstance(split, StreamSplit):
            return Flow(name, split, row_format, delivery, seed=seed, source=source, workers=workers)
        if isinstance(split, MapSplit):
            fetched = Fetched(name, split, row_format, delivery, seed=seed, source=source, workers=workers)
            return fetched if name in by_row else fetched.held()
        if isinstance(split, Gathered):
            return split.held(delivery) if loading.memory is None else Gathered(split.split, split.chosen, delivery)
        if split.is_mapped and loading.memory is not None:
            return Gathered(split, delivery=delivery)
        return split.to(delivery.device, delivery.dtype) if fits else Gathered(split, delivery=delivery)

    return {name: open_one(name, split) for name, split in splits.items()}


def stream_of(rows: Split | Reader, order: Callable[[int], Order], *, batch_size: int) -> Stream:
    """Return the endless batches of training from a split.

    Args:
        rows: The split.
        order: Returns the order of so many rows; the rows of a stream have their own.
        batch_size: Rows in a batch.
    """
    if isinstance(rows, Flow):
        return FlowStream(rows, batch_size=batch_size)
    if isinstance(rows, Fetched):
        return FetchedStream(rows, order(rows.rows), batch_size=batch_size)
    if isinstance(rows, Split | Gathered):
        return InMemoryStream(rows, order(len(rows)), batch_size=batch_size)
    raise TypeError(f"no stream is made of a {type(rows).__name__}")


def _is_read_by_row(split: Carved, *, fits: bool) -> bool:
    return isinstance(split, StreamSplit) or (isinstance(split, MapSplit) and (split.random or not fits))


def _size_in_memory(split: Carved, row_format: RowFormat, delivery: Delivery) -> int:
    """Return how many bytes a split is to take in memory that it does not take now."""
    if isinstance(split, MapSplit):
        return 0 if split.random else len(split) * row_format.row_bytes
    if isinstance(split, Split) and not split.is_mapped and not _is_as_it_is_to_be(split, delivery):
        return len(split) * row_format.row_bytes
    return 0


def _is_as_it_is_to_be(split: Split, delivery: Delivery) -> bool:
    columns = format_of(split, "", delivery.dtype).columns
    return split.device.type == delivery.device.type and all(column.given == column.held for column in columns)
