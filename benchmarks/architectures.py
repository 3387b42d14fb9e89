"""What each architecture costs beside hard sharing: parameters, a training step and an evaluation, as ratios.

Usage: .venv/bin/python benchmarks/architectures.py [--rounds N] [--tasks T] [--encoder NAME]... [--json FILE]

Every architecture has its default options. The gates of `dselect-k decided` have all come to the same k experts; the
search of `ltb found` is over, and has left every task a branch of its own. All of them train on the same batch, with a
linear head and a squared loss for each task, by mtlkit.backward with fixed weights and a fused Adam. They run on one
thread, in turn, round by round, so that a machine whose speed drifts slows all of them; what is printed is the median
over the rounds of each one's time divided by that of hard sharing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mtlkit
from mtlkit.options import signature_of
from mtlkit.registry import Registry

SEED, WARMUP, STEPS = 0, 1, 2
ENCODERS: dict[str, tuple[mtlkit.InputSpec, dict[str, Any]]] = {
    "tabular": (mtlkit.InputSpec((64,)), {"width": 256, "depth": 4, "blocks": "residual"}),
    "cnn": (mtlkit.InputSpec((1, 28, 28)), {"channels": (16, 32), "layers": (128,)}),
    "transformer": (mtlkit.InputSpec((16,), (1000,) * 16), {"width": 64, "depth": 2, "heads": 4}),
}
BATCH = 64


def decide(architecture: Any) -> None:
    """Put the gates of dselect-k at the first k experts, and end the search of ltb with a branch for each task."""
    with torch.no_grad():
        for gate in getattr(architecture, "gates", ()):
            codes = torch.tensor([[expert >> digit & 1 for digit in range(gate.digits)] for expert in range(gate.k)])
            gate.codes.copy_(2.0 * codes - 1)
        if isinstance(architecture, mtlkit.architectures.LTB):
            architecture.batches.fill_(architecture.search)
            for theta in architecture.parents:
                theta.fill_diagonal_(1)
            for number, theta in enumerate(architecture.leaves):
                theta[number] = 1


class Contender:
    """A model of an architecture, and what it does in a round."""

    def __init__(self, name: str, encoder: str, n_tasks: int) -> None:
        torch.manual_seed(SEED)
        registry = Registry.discover(plugins=False)
        short, _, state = name.partition(" ")
        kind = registry.load(registry.find("architectures", short))
        inputs, options = ENCODERS[encoder]
        make = registry.load(registry.find("encoders", encoder))
        facts = {"make_encoder": lambda: make(inputs, **options), "n_tasks": n_tasks, "inputs": inputs}
        self.architecture = kind(**{fact: facts[fact] for fact in signature_of(kind).facts})
        if state:
            decide(self.architecture)
        self.parameters = sum(parameter.numel() for parameter in self.architecture.parameters())
        heads = {str(task): nn.Linear(self.architecture.features.size, 1) for task in range(n_tasks)}
        self.model = mtlkit.MultiTaskModel(self.architecture, heads)
        self.strategy = mtlkit.strategies.Fixed(n_tasks)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        shape = (BATCH, *inputs.shape)
        self.rows = torch.randint(1000, shape) if inputs.categories else torch.randn(shape)
        self.targets = torch.randn(n_tasks, BATCH, 1)

    def train(self) -> None:
        """Take steps."""
        self.model.train()
        for _ in range(STEPS):
            features = self.model.encode(self.rows)
            outputs: list[Tensor] = list(self.model.decode(features).values())
            losses = [(o - t).square().mean() for o, t in zip(outputs, self.targets, strict=True)]
            mtlkit.backward(losses, strategy=self.strategy)
            penalty = self.architecture.penalty()
            if penalty is not None:
                penalty.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self) -> None:
        """Make the outputs of all tasks."""
        self.model.eval()
        for _ in range(STEPS):
            self.model(self.rows)


def timed(function: Callable[[], None]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(encoder: str, n_tasks: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return the ratios of each architecture to hard sharing: parameters, training, evaluation."""
    registry = Registry.discover(plugins=False)
    names = [record.name for record in registry.usable("architectures")]
    names += ["dselect-k decided", "ltb found"]
    contenders = {name: Contender(name, encoder, n_tasks) for name in sorted(names)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds + WARMUP):
        for name, each in contenders.items():
            spent = timed(each.train), timed(each.evaluate)
            if number >= WARMUP:
                seconds[name].append(spent)
    base = contenders["hard-sharing"].parameters
    found = {}
    for name, each in contenders.items():
        pairs = list(zip(seconds[name], seconds["hard-sharing"], strict=True))
        training, evaluation = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        found[name] = (each.parameters / base, training, evaluation)
    return found


def main() -> None:
    """Print a table of Markdown for each encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--encoder", action="append", default=[], choices=list(ENCODERS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(name, chosen.tasks, chosen.rounds) for name in chosen.encoder or ENCODERS}
    heads = [f"{name}: {what}" for name in found for what in ("parameters", "training", "evaluation")]
    print(f"| {chosen.tasks} tasks | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name in next(iter(found.values())):
        print(f"| `{name}` | {' | '.join(f'{ratio:.2f}' for each in found.values() for ratio in each[name])} |")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
