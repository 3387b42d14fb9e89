"""Splits of numbered rows of every kind, and what a run reads them by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlkit import Split
from mtlkit.data import MapSplit, StreamSplit
from mtlkit.data.delivery import Delivery
from mtlkit.data.loading import opened
from mtlkit.data.settings import Loading


class Numbers:
    """A data set of rows that are their numbers; some may be something else."""

    def __init__(self, n, odd=()):
        self.n = n
        self.odd = dict(odd)
        self.read = []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.read.append(index)
        odd = self.odd.get(index)
        if callable(odd):
            return odd()
        return (torch.tensor([float(index)]), {"n": index}) if odd is None else odd


@pytest.fixture(name="split_of")
def fixture_split_of(tmp_path):
    """Return a function that makes a split of numbered rows of one kind."""

    def split_of(kind, n=20, *, start=0, odd=(), **options):
        dataset = Numbers(n, odd)
        if kind == "rows":
            return MapSplit(dataset, **options)
        if kind == "stream":
            options = {"length": n, **options}
            return StreamSplit(lambda first: (dataset[index] for index in range(first, n)), **options)
        numbers = torch.arange(start, start + n)
        inputs = numbers[:, None].double()
        if kind == "mapped":
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.bin"
            inputs.numpy().tofile(path)
            inputs = np.memmap(path, np.float64, "r", shape=(n, 1))
        return Split(inputs, {"n": numbers})

    return split_of


@pytest.fixture(name="open_all")
def fixture_open_all():
    """Return a function that opens splits as a run does; what it opened is closed after the test."""
    closed = []

    def open_all(splits, *, batch_size=4, source="The rows of task 'n' (a test)", seed=0, load=None, **loading):
        loading = Loading(**{"memory": 0, "workers": 0, "start": "fork", "prefetch": 2, "timeout": 30.0, **loading})
        readers = opened(
            splits,
            load=load or (lambda: splits),
            loading=loading,
            delivery=Delivery(torch.device("cpu"), torch.float32),
            batch_size=batch_size,
            seed=seed,
            source=source,
        )
        closed.extend(readers.values())
        return readers

    open_all.opened = closed
    yield open_all
    for each in closed:
        if not isinstance(each, Split):
            each.close()
