"""What a training step costs with each strategy, as a ratio to a loop written by hand, beside what it should cost.

Usage: .venv/bin/python benchmarks/steps.py [--rounds N] [--workload NAME]... [--strategy NAME]... [--json FILE]

The plain loop sums the losses, backpropagates once, and takes a step of Adam with its default arguments. Every other
contender trains a copy of the same model on the same batches, by mtlkit.backward and the same optimizer, fused, as the
engine builds it; mtlkit.step takes its steps, as in the engine. All of them run on one thread, in short blocks of steps
that take turns in an order drawn anew each round; each block begins with a step that is not timed. What is printed is
the median over the rounds of each one's processor time divided by the plain loop's: what other programs take meanwhile
does not count. Where torchjd is installed, some of its aggregators run beside them.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mtlkit
from mtlkit.gradients import BankLosses
from mtlkit.registry import Registry

SEED, WARMUP = 0, 2

COLUMNS = {
    "the losses": ["fixed", "uncertainty", "dwa", "rlw", "gls", "imtl-l", "stch"],
    "gradients at the last shared layer": ["gradnorm"],
    "gradients at the features": ["mgda-ub", "gradnorm@features"],
    "gradients at all parameters": ["mgda", "pcgrad", "cagrad", "nash-mtl", "aligned-mtl", "upgrad"],
}
"""What strategies need, and those measured for it; ``name@place`` is measured at another place than its own."""

TARGETS = {
    "mlp-2": (1.00, 1.30, 1.15, 1.7),
    "cnn-2": (1.02, 1.05, 1.05, 1.4),
    "mlp-8": (1.00, 1.60, 1.05, 5.0),
    "mlp-32": (1.05, 1.80, 1.20, 3.0),
    "mlp-32 in a bank": (0.35, 0.90, 0.45, 3.0),
    "own-4": (1.00, 1.10, 1.05, 1.2),
}
"""The ratios that are aimed at, column by column."""


@dataclass
class Workload:
    """A model with its heads, and batches of inputs and targets.

    Attributes:
        name: What it is called.
        encoder: The encoder.
        heads: A head for each task.
        inputs: A batch for each task, or one for all.
        targets: The targets of each task.
        loss: The loss of every task.
        steps: How many steps are timed in one block.
        bank: The heads as one linear layer; None to compute them one by one. The plain loop always does.
    """

    name: str
    encoder: nn.Module
    heads: nn.ModuleList
    inputs: list[Tensor]
    targets: list[Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    steps: int
    bank: nn.Linear | None = None

    def copy(self) -> Workload:
        """Return the same with a model of its own."""
        return replace(
            self,
            encoder=copy.deepcopy(self.encoder),
            heads=copy.deepcopy(self.heads),
            bank=copy.deepcopy(self.bank),
        )

    def forward(self, *, in_one_pass: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of each batch, and the loss of each task.

        Args:
            in_one_pass: Whether several batches go through the encoder as one, as they do in the engine.
        """
        if in_one_pass and len(self.inputs) > 1:
            encoded = list(self.encoder(torch.cat(self.inputs)).split([len(x) for x in self.inputs]))
        else:
            encoded = [self.encoder(x) for x in self.inputs]
        features = encoded if len(encoded) > 1 else encoded * len(self.heads)
        outputs = [head(z) for head, z in zip(self.heads, features, strict=True)]
        return encoded, [self.loss(o, t) for o, t in zip(outputs, self.targets, strict=True)]

    def banked(self, bank: nn.Linear) -> tuple[list[Tensor], BankLosses]:
        """Return the features, and the losses of all tasks from heads that are one layer."""
        z = self.encoder(self.inputs[0])
        outputs = bank(z)
        losses = F.mse_loss(outputs, torch.cat(self.targets, 1), reduction="none").mean(0)
        every = range(len(self.targets))
        return [z], BankLosses([str(task) for task in every], every, losses, outputs, every, 1)

    def parameters(self) -> list[nn.Parameter]:
        """Return all that is trained."""
        return [*self.encoder.parameters(), *(self.heads if self.bank is None else self.bank).parameters()]


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
    many = Workload(
        "mlp-32", mlp(27, 128, 64), linear(64, 1, 32), [torch.randn(256, 27)], numbers(256, 32), mse, steps=5
    )
    return [
        Workload("mlp-2", mlp(64, 256, 256), linear(256, 10, 2), [torch.randn(64, 64)], classes(64, 10, 2), ce, 20),
        Workload("cnn-2", cnn(), linear(128, 10, 2), [torch.randn(128, 1, 28, 28)], classes(128, 10, 2), ce, 2),
        Workload("mlp-8", mlp(500, 512, 512, 256), linear(256, 1, 8), [torch.randn(512, 500)], numbers(512, 8), mse, 2),
        many,
        replace(many, name="mlp-32 in a bank", bank=nn.Linear(64, 32)),
        Workload("own-4", mlp(64, 256, 256), linear(256, 10, 4), four, classes(64, 10, 4), ce, 10),
    ]


def plain(work: Workload, *, fused: bool | None = None) -> Callable[[int], None]:
    """Return the loop that a person would write."""
    optimizer = torch.optim.Adam([*work.encoder.parameters(), *work.heads.parameters()], fused=fused)

    def steps(count: int) -> None:
        for _ in range(count):
            _, losses = work.forward()
            sum(losses[1:], losses[0]).backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def weighed(work: Workload, name: str) -> Callable[[int], None]:
    """Return the loop with a strategy; ``name@place`` measures at another place than its own."""
    registry = Registry.discover(plugins=False)
    name, _, place = name.partition("@")
    kind = registry.load(registry.find("strategies", name))
    n_tasks = len(work.heads)
    facts = {"loss_kinds": ["classification"] * n_tasks} if name == "uncertainty" else {}
    strategy: mtlkit.Strategy = kind(n_tasks, **facts)
    if place:
        strategy.over = mtlkit.Over(place)  # type: ignore[misc] - what a subclass would set
    optimizer = torch.optim.Adam([{"params": work.parameters()}, *strategy.parameter_groups()], fused=True)

    def steps(count: int) -> None:
        for _ in range(count):
            if work.bank is None:
                features, losses = work.forward(in_one_pass=True)
                mtlkit.backward(losses, strategy=strategy, features=features, shared=work.encoder)
            else:
                features, banked = work.banked(work.bank)
                mtlkit.backward([], banks=[banked], strategy=strategy, features=features, shared=work.encoder)
            mtlkit.step(optimizer)

    return steps


def torchjd(work: Workload, name: str) -> Callable[[int], None]:
    """Return the loop with an aggregator of torchjd."""
    from torchjd import aggregation  # noqa: PLC0415 - it need not be there
    from torchjd.autojac import jac_to_grad, mtl_backward  # noqa: PLC0415

    aggregator = getattr(aggregation, name)()
    optimizer = torch.optim.Adam([*work.encoder.parameters(), *work.heads.parameters()])

    def steps(count: int) -> None:
        for _ in range(count):
            features, losses = work.forward()
            mtl_backward(losses, features=features)
            jac_to_grad(work.encoder.parameters(), aggregator)
            optimizer.step()
            optimizer.zero_grad()

    return steps


def measure(work: Workload, names: list[str], rounds: int) -> dict[str, float]:
    """Return the ratio of each contender to the plain loop, and the plain loop's milliseconds a step."""
    contenders = {"plain": plain(work.copy())}
    contenders |= {name: weighed(work.copy(), name) for name in names}
    if importlib.util.find_spec("torchjd") and len(work.inputs) == 1 and work.bank is None:
        contenders |= {f"torchjd {name}": torchjd(work.copy(), name) for name in ("UPGrad", "MGDA", "PCGrad")}
    order, shuffled = list(contenders), random.Random(SEED)  # noqa: S311 - no secret
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + WARMUP):
        shuffled.shuffle(order)
        for name in order:
            contenders[name](1)
            started = time.process_time()
            contenders[name](work.steps)
            if number >= WARMUP:
                seconds[name].append((time.process_time() - started) / work.steps)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, seconds["plain"], strict=True))
        for name, times in seconds.items()
    }
    return {**ratios, "plain": statistics.median(seconds["plain"]) * 1e3}


def main() -> None:
    """Print the ratios, workload by workload and column by column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--workload", action="append", default=[])
    parser.add_argument("--strategy", action="append", default=[])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names = chosen.strategy or [name for column in COLUMNS.values() for name in column]
    found = {}
    for work in workloads():
        if chosen.workload and work.name not in chosen.workload:
            continue
        ratios = found[work.name] = measure(work, names, chosen.rounds)
        print(f"{work.name}: the plain loop takes {ratios['plain']:.3f} ms a step")
        columns = {**COLUMNS, "torchjd": [name for name in ratios if name.startswith("torchjd")]}
        for (column, members), target in itertools.zip_longest(columns.items(), TARGETS[work.name]):
            each = {name: ratios[name] for name in members if name in ratios}
            if each:
                aim = (
                    "" if target is None else f", aim {target:.2f}: {'met' if max(each.values()) <= target else 'not'}"
                )
                print(f"  {column:36} {min(each.values()):.2f} to {max(each.values()):.2f}{aim}")
                print("    " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in each.items()))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
