"""What training waits for a checkpoint: until it is on the disk, and until it is copied; measured in one process.

Usage: .venv/bin/python benchmarks/saving.py [FOLDER]

A perceptron of about four million parameters, trained by Adam: a checkpoint of 48 MB. Every tenth step saves it, by
turns in one run that waits for the disk and in one that writes in the background, so that a machine whose speed drifts
slows both. Printed are the medians of a plain step and of a step with its save, either way, and how many times longer
the one than the other lasts, median over the rounds. The checkpoints go to FOLDER, or where temporary files are. One
thread; on a GPU, where there is one.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from mtlkit.engine.run import RunFolder

WIDTH, LAYERS, BATCH = 1024, 4, 256
ROUNDS, EVERY = 12, 10
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Training:
    """A run that takes steps and saves itself."""

    def __init__(self, folder: Path, *, background: bool) -> None:
        torch.manual_seed(0)
        self.run = RunFolder.create(folder, config="", environment={})
        self.background = background
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.model = nn.Sequential(*layers).to(DEVICE)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.inputs = torch.randn(BATCH, WIDTH, device=DEVICE)
        self.step = 0

    def seconds(self, *, saving: bool) -> float:
        """Take a step, save it if so, and return how long that took."""
        started = time.perf_counter()
        self.optimizer.zero_grad()
        self.model(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.step += 1
        if saving:
            state = {"optimizer": self.optimizer.state_dict(), "records": self.run.sizes()}
            self.run.save(self.step, self.model, state, keep=2, background=self.background)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        trainings = [Training(Path(folder, str(background)), background=background) for background in (False, True)]
        plain: list[float] = []
        saving: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for training, found in zip(trainings, saving, strict=True):
                plain += [training.seconds(saving=False) for _ in range(EVERY - 1)]
                found.append(training.seconds(saving=True))
                training.run.written(wait=True)  # what is still being written must not slow the other's steps
        for training in trainings:
            with training.run:
                pass
    waiting, behind = saving
    ratios = [one / other for one, other in zip(waiting, behind, strict=True)]
    print(f"on {DEVICE}")
    print(f"a plain step                      {1e3 * statistics.median(plain):8.1f} ms")
    print(f"with a save, waiting for the disk {1e3 * statistics.median(waiting):8.1f} ms")
    print(f"with a save, in the background    {1e3 * statistics.median(behind):8.1f} ms")
    print(f"times longer, waiting             {statistics.median(ratios):8.1f}")


if __name__ == "__main__":
    main()
