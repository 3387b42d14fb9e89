"""What a training step costs with many alike heads on one source: as one bank, and by a Python loop over them.

Usage: .venv/bin/python benchmarks/heads.py [--rounds N] [--heads N]... [--strategy NAME]... [--json FILE]

An MLP 27-128-64 with linear regression heads on one source, batch 256, one thread. The engine takes its steps as it
does in a run: the batch, the forward pass, the backward pass with the strategy, a fused step of Adam. With banks
switched off, it goes through the heads one by one. Beside it stands a loop that a person would write, with the same
optimizer, which is given its batch for nothing. All of them run in turn, block by block; what is printed is the median
over the blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

import mtlkit
from mtlkit import banks
from mtlkit.engine.step import forward_backward
from mtlkit.registry import Record, Registry

ROWS, INPUTS, BATCH, WARMUP = 4096, 27, 256, 3


@dataclass(frozen=True)
class Numbers(mtlkit.Source):
    """Rows of numbers, with a column for each of many targets."""

    columns: int

    def splits(self) -> Mapping[str, mtlkit.Split]:
        """Make the rows."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(ROWS, INPUTS, generator=generator)
        y = torch.tanh(x @ torch.randn(INPUTS, self.columns, generator=generator) / 5)
        return {"train": mtlkit.Split(x, {str(index): column for index, column in enumerate(y.T.contiguous())})}


class Number(mtlkit.tasks.Regression):
    """One of many numbers."""

    def __init__(self, *, columns: int = 1, index: int = 0) -> None:
        self.columns = columns
        self.target = str(index)

    def source(self) -> mtlkit.Source:
        """Return where the rows come from."""
        return Numbers(self.columns)


def experiment(n_heads: int, strategy: str) -> mtlkit.Experiment:
    """Build the run."""
    module = types.ModuleType("numbers_plugin")
    sys.modules[module.__name__] = module
    module.number = mtlkit.plugin(Number)  # type: ignore[attr-defined] - what an installed plugin has
    record = Record("tasks", "number", "numbers-plugin", "1.0", "numbers_plugin:number")
    registry = Registry([*Registry.discover(plugins=False).records(), record])
    tasks = [
        {"name": "number", "label": f"n{index}", "options": {"columns": n_heads, "index": index}}
        for index in range(n_heads)
    ]
    config = {
        "tasks": tasks,
        "encoder": {"name": "mlp", "layers": [128, 64]},
        "strategy": strategy,
        "training": {"batch_size": BATCH, "device": "cpu", "threads": 1},
    }
    return mtlkit.build(config, registry=registry)


def engine(n_heads: int, strategy: str, *, banked: bool) -> Callable[[int], None]:
    """Return a function that takes steps as the engine does."""
    with mock.patch.object(banks, "LEAST_TASKS", banks.LEAST_TASKS if banked else n_heads + 1):
        built = experiment(n_heads, strategy)
    if any(group.banks for group in built.groups) != banked:
        raise AssertionError("banks are not as they were to be")

    def steps(count: int) -> None:
        for step in range(count):
            forward_backward(built, step, 0)
            built.optimizer.step()
            built.optimizer.zero_grad()

    return steps


def plain(n_heads: int) -> Callable[[int], None]:
    """Return a function that takes steps as a person would write them, with a loop over the heads."""
    split = Numbers(n_heads).splits()["train"].take(torch.arange(BATCH))
    encoder = nn.Sequential(nn.Linear(INPUTS, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    heads = nn.ModuleList(nn.Linear(64, 1) for _ in range(n_heads))
    targets = list(split.targets.values())
    optimizer = torch.optim.Adam([*encoder.parameters(), *heads.parameters()], fused=True)

    def steps(count: int) -> None:
        for _ in range(count):
            z = encoder(split.inputs)
            losses = [F.mse_loss(head(z).squeeze(1), y) for head, y in zip(heads, targets, strict=True)]
            torch.stack(losses).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def measure(n_heads: int, strategy: str, rounds: int) -> dict[str, float]:
    """Return milliseconds a step, and how many times faster the bank is than each loop."""
    contenders = {
        "bank": engine(n_heads, strategy, banked=True),
        "engine's loop": engine(n_heads, strategy, banked=False),
    }
    if strategy == "fixed":
        contenders["plain loop"] = plain(n_heads)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + WARMUP):
        for name, steps in contenders.items():
            count = 20 if name == "bank" else 4
            started = time.perf_counter()
            steps(count)
            if number >= WARMUP:
                seconds[name].append((time.perf_counter() - started) / count)
    found = {f"{name}, ms": statistics.median(times) * 1e3 for name, times in seconds.items()}
    for name, times in seconds.items():
        if name != "bank":
            ratios = [a / b for a, b in zip(times, seconds["bank"], strict=True)]
            found[f"{name} / bank"] = statistics.median(ratios)
    return found


def main() -> None:
    """Print the figures, for each number of heads and each strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--heads", type=int, action="append", default=[])
    parser.add_argument("--strategy", action="append", default=[])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for n_heads in chosen.heads or [32, 139]:
        for strategy in chosen.strategy or ["fixed", "gradnorm", "mgda-ub", "mgda"]:
            figures = found[f"{strategy}, {n_heads} heads"] = measure(n_heads, strategy, chosen.rounds)
            told = "  ".join(f"{name} {value:.2f}" for name, value in figures.items())
            print(f"{strategy:10} {n_heads:4} heads   {told}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
