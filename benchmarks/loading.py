"""What a batch costs in memory beside a DataLoader with its defaults, as ratios measured in one process.

Usage: .venv/bin/python benchmarks/loading.py [ROUNDS]

60,000 rows of float32 and a column of classes, shuffled, in batches of 128: the stream that a run draws from, against
a DataLoader over a data set whose rows are dicts, with default collation and no workers. Each round draws a block of
batches from either in turn, so that a machine whose speed drifts slows both; what is printed is the median of each
one's time a batch, and the median over the rounds of their ratio. One thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import mtlkit
from mtlkit.data import InMemoryStream, Order

ROWS, BATCH = 60_000, 128
BLOCK_S, WARM_UP = 0.1, 100
AT_LEAST = {784: 5, 28: 15}  # how many times faster, by the width of a row


class Dicts(Dataset[dict[str, Tensor]]):
    """The same rows, one by one."""

    def __init__(self, inputs: Tensor, classes: Tensor) -> None:
        self.inputs, self.classes = inputs, classes

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "class": self.classes[index]}


def endless(loader: DataLoader[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Yield batches, one pass after another."""
    while True:
        yield from loader


def contenders(width: int) -> dict[str, Callable[[], object]]:
    """Return what draws a batch, by its name."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, width, generator=generator)
    classes = torch.randint(10, (ROWS,), generator=generator)
    stream = InMemoryStream(mtlkit.Split(inputs, {"class": classes}), Order(ROWS, seed=0), batch_size=BATCH)
    batches = endless(DataLoader(Dicts(inputs, classes), batch_size=BATCH, shuffle=True, drop_last=True))
    return {"DataLoader": lambda: next(batches), "in memory": stream.next}


def seconds(draw: Callable[[], object], batches: int) -> float:
    """Return how long a batch takes in a block of them."""
    started = time.perf_counter()
    for _ in range(batches):
        draw()
    return (time.perf_counter() - started) / batches


def main() -> None:
    """Print the ratios; fail where one is too small."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    missed = []
    for width, at_least in AT_LEAST.items():
        draws = contenders(width)
        # Blocks of one length in time, so that what else the machine does interrupts either as often.
        counts = {name: round(BLOCK_S / seconds(draw, WARM_UP)) for name, draw in draws.items()}
        blocks = [{name: seconds(draw, counts[name]) for name, draw in draws.items()} for _ in range(rounds)]
        for name in draws:
            print(f"{ROWS:,} x {width:<4} {name:11} {statistics.median(b[name] for b in blocks) * 1e6:6.0f} us")
        ratio = statistics.median(block["DataLoader"] / block["in memory"] for block in blocks)
        print(f"{ROWS:,} x {width:<4} x{ratio:.1f}, of at least x{at_least}")
        if ratio < at_least:
            missed.append(width)
    sys.exit(f"Too slow: rows of {' and '.join(map(str, missed))} numbers." if missed else 0)


if __name__ == "__main__":
    main()
