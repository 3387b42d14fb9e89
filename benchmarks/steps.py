"""What a training step costs with each strategy, as a ratio to a loop written by hand, measured in one process.

Usage: .venv/bin/python benchmarks/steps.py [--rounds N] [--workload NAME]... [--strategy NAME]... [--json FILE]

The plain loop sums the losses, backpropagates once, and takes a step of Adam with its default arguments. Every other
contender trains a copy of the same model on the same batches, by mtlkit.backward and the same optimizer, fused, as the
engine builds it. All of them run on one thread, in turn, block by block, so that a machine whose speed drifts slows all
of them; what is printed is the median over the blocks of each one's time divided by the plain loop's. Where torchjd is
installed, its aggregators run beside them.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mtlkit
from mtlkit.registry import Registry
from mtlkit.strategies.base import Needs

SEED, WARMUP = 0, 3


@dataclass
class Workload:
    """A model with its heads, and batches of inputs and targets; `separate` where each task has batches of its own."""

    name: str
    encoder: nn.Module
    heads: nn.ModuleList
    inputs: list[Tensor]  # for each task, or one for all
    targets: list[Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    steps: int

    def copy(self) -> Workload:
        """Return the same with a model of its own."""
        return Workload(
            self.name,
            copy.deepcopy(self.encoder),
            copy.deepcopy(self.heads),
            self.inputs,
            self.targets,
            self.loss,
            self.steps,
        )

    def forward(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of each batch, and the loss of each task."""
        encoded = [self.encoder(x) for x in self.inputs]
        features = encoded if len(encoded) > 1 else encoded * len(self.heads)
        outputs = [head(z) for head, z in zip(self.heads, features, strict=True)]
        return encoded, [self.loss(o, t) for o, t in zip(outputs, self.targets, strict=True)]

    def parameters(self) -> list[nn.Parameter]:
        """Return all that is trained."""
        return [*self.encoder.parameters(), *self.heads.parameters()]


def mlp(*sizes: int) -> nn.Sequential:
    """Return linear layers with a ReLU after each."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def cnn() -> nn.Sequential:
    """Return two convolutional stages over a grey 28x28 image, and a linear layer to 128 features."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 128),
        nn.ReLU(),
    )


def workloads() -> list[Workload]:
    """Return the workloads."""
    torch.manual_seed(SEED)

    def classes(batch: int, n: int, tasks: int) -> list[Tensor]:
        return [torch.randint(n, (batch,)) for _ in range(tasks)]

    def numbers(batch: int, tasks: int) -> list[Tensor]:
        return [torch.randn(batch, 1) for _ in range(tasks)]

    def linear(features: int, outputs: int, tasks: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(features, outputs) for _ in range(tasks))

    ce, mse = F.cross_entropy, F.mse_loss
    four = [torch.randn(64, 64) for _ in range(4)]
    return [
        Workload("mlp-2", mlp(64, 256, 256), linear(256, 10, 2), [torch.randn(64, 64)], classes(64, 10, 2), ce, 60),
        Workload("cnn-2", cnn(), linear(128, 10, 2), [torch.randn(128, 1, 28, 28)], classes(128, 10, 2), ce, 6),
        Workload("mlp-8", mlp(500, 512, 512, 256), linear(256, 1, 8), [torch.randn(512, 500)], numbers(512, 8), mse, 8),
        Workload("mlp-32", mlp(27, 128, 64), linear(64, 1, 32), [torch.randn(256, 27)], numbers(256, 32), mse, 20),
        Workload("own-4", mlp(64, 256, 256), linear(256, 10, 4), four, classes(64, 10, 4), ce, 30),
    ]


def plain(work: Workload) -> Callable[[], None]:
    """Return a block of steps of the loop that a person would write."""
    optimizer = torch.optim.Adam(work.parameters())

    def steps() -> None:
        for _ in range(work.steps):
            _, losses = work.forward()
            sum(losses[1:], losses[0]).backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def weighed(work: Workload, name: str) -> Callable[[], None]:
    """Return a block of steps with a strategy; ``name@place`` measures at another place than its own."""
    registry = Registry.discover(plugins=False)
    name, _, place = name.partition("@")
    kind = registry.load(registry.find("strategies", name))
    n_tasks = len(work.heads)
    facts = {"loss_kinds": ["classification"] * n_tasks} if name == "uncertainty" else {}
    strategy: mtlkit.Strategy = kind(n_tasks, **facts)
    if place:
        strategy.over = mtlkit.Over(place)  # type: ignore[misc] - what a subclass would set
    optimizer = torch.optim.Adam([{"params": work.parameters()}, *strategy.parameter_groups()], fused=True)

    def outlook() -> mtlkit.Outlook:
        def losses() -> list[Tensor]:
            return work.forward()[1]

        return mtlkit.look_ahead(
            strategy, training=losses, held_out=losses, model=[work.encoder, work.heads], optimizer=optimizer
        )

    def steps() -> None:
        for _ in range(work.steps):
            ahead = outlook() if strategy.looks_ahead else None
            features, losses = work.forward()
            mtlkit.backward(losses, strategy=strategy, features=features, shared=work.encoder, ahead=ahead)
            optimizer.step()
            optimizer.zero_grad()
            if strategy.watches_step:
                with torch.no_grad():
                    _, after = work.forward()
                    strategy.observe(torch.stack(after).double())

    return steps


def torchjd(work: Workload, name: str) -> Callable[[], None]:
    """Return a block of steps with an aggregator of torchjd."""
    from torchjd import aggregation  # noqa: PLC0415 - it need not be there
    from torchjd.autojac import jac_to_grad, mtl_backward  # noqa: PLC0415

    aggregator = getattr(aggregation, name)()
    optimizer = torch.optim.Adam(work.parameters())

    def steps() -> None:
        for _ in range(work.steps):
            features, losses = work.forward()
            mtl_backward(losses, features=features)
            jac_to_grad(work.encoder.parameters(), aggregator)
            optimizer.step()
            optimizer.zero_grad()

    return steps


def measure(work: Workload, names: list[str], rounds: int) -> dict[str, float]:
    """Return the ratio of each contender to the plain loop, and the plain loop's milliseconds a step."""
    contenders = {"plain": plain(work.copy())}
    for name in names:
        contenders[name] = weighed(work.copy(), name)
    if importlib.util.find_spec("torchjd") and len(work.inputs) == 1:
        contenders |= {f"torchjd {name}": torchjd(work.copy(), name) for name in ("UPGrad", "MGDA", "PCGrad")}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + WARMUP):
        for name, steps in contenders.items():
            started = time.perf_counter()
            steps()
            if number >= WARMUP:
                seconds[name].append((time.perf_counter() - started) / work.steps)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, seconds["plain"], strict=True))
        for name, times in seconds.items()
    }
    return {**ratios, "plain": statistics.median(seconds["plain"]) * 1e3}


def main() -> None:
    """Print the ratios, workload by workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workload", action="append", default=[])
    parser.add_argument("--strategy", action="append", default=[])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry.discover(plugins=False)
    every = {r.name: registry.load(r) for r in registry.usable("strategies")}
    order = [Needs.LOSSES, Needs.GRAMIAN, Needs.JACOBIAN]
    names = chosen.strategy or [*sorted(every, key=lambda n: order.index(every[n].needs)), "gradnorm@features"]
    found = {}
    for work in workloads():
        if chosen.workload and work.name not in chosen.workload:
            continue
        ratios = found[work.name] = measure(work, names, chosen.rounds)
        print(f"{work.name}: plain loop {ratios['plain']:.3f} ms a step")
        for name, ratio in ratios.items():
            if name != "plain":
                print(f"  {name:24} x{ratio:.2f}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
