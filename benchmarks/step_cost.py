"""What a training step costs beside a loop written by hand, as ratios measured in one process.

Usage: .venv/bin/python benchmarks/step_cost.py [ROUNDS]

Each round times the same number of steps of every contender in turn, so that a machine whose speed drifts slows all of
them; what is printed is the median over the rounds of each one's time divided by the plain loop's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

import mtlkit
from mtlkit.engine.step import forward_backward

STEPS = 30
TASKS = ["digit", "parity", "rotation", "denoise"]


def experiment(strategy: str) -> mtlkit.Experiment:
    """Build the demo's experiment with another strategy."""
    return mtlkit.build(
        {
            "tasks": TASKS,
            "encoder": {"name": "cnn", "channels": [16, 32], "layers": [128]},
            "strategy": strategy,
            "training": {"batch_size": 128, "device": "cpu", "threads": 1},
        }
    )


def engine_steps(strategy: str) -> Callable[[], None]:
    """Return a function that takes steps as the engine does."""
    built = experiment(strategy)

    def steps() -> None:
        for step in range(STEPS):
            forward_backward(built, step, 0)
            built.optimizer.step()
            built.optimizer.zero_grad()

    return steps


def plain_steps() -> Callable[[], None]:
    """Return a function that takes the same steps as a person would write them for these four tasks."""
    built = experiment("fixed")
    encoder = built.model.architecture.encoder
    digit, parity, rotation, denoise = (built.model.head(label) for label in TASKS)
    images, turned, noisy = (group.splits["train"] for group in built.groups)

    def rows(split: mtlkit.Split) -> mtlkit.Split:
        return split.take(torch.randint(len(split), (128,)))

    def steps() -> None:
        for _ in range(STEPS):
            a, b, c = rows(images), rows(turned), rows(noisy)
            z = encoder(a.inputs)
            loss = (
                nn.functional.cross_entropy(digit(z), a.targets["digit"])
                + nn.functional.cross_entropy(parity(z), a.targets["parity"])
                + nn.functional.cross_entropy(rotation(encoder(b.inputs)), b.targets["turns"])
                + nn.functional.mse_loss(denoise(encoder(c.inputs)), c.targets["clean"])
            )
            loss.backward()
            built.optimizer.step()
            built.optimizer.zero_grad()

    return steps


def main() -> None:
    """Print the ratios."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(1)
    contenders = {"plain loop": plain_steps()}
    contenders |= {f"engine, {name}": engine_steps(name) for name in ("fixed", "uncertainty", "gradnorm")}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, steps in contenders.items():
            started = time.perf_counter()
            steps()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["plain loop"], strict=True)]
        print(f"{name:22} {statistics.median(times) / STEPS * 1e3:7.2f} ms a step   x{statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
