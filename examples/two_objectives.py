"""Two objectives in the plane, from the paper on CAGrad: where does each strategy end?

Usage: python examples/two_objectives.py [--steps N] [--strategy NAME]...

The objectives (Liu, Liu, Jin, Stone, Liu, NeurIPS 2021, appendix) have steep valleys whose gradients conflict. Their
Pareto set lies at x2 = -8.355, x1 from -7 to 7; in its middle, at (0, -8.355), both are -15.092. The plain mean gets
stuck in a valley from two of the three starts.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

import mtlkit
from mtlkit.registry import Registry

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0))
STRATEGIES: dict[str, dict[str, Any]] = {
    "fixed": {"alpha": [0.5, 0.5]},
    "mgda": {},
    "pcgrad": {"seed": 0},
    "cagrad": {"c": 0.5},
    "imtl-g": {},
    "nash-mtl": {},
    "famo": {"lower_bound": -21.0},  # the objectives are below 0, and above this
    "aligned-mtl": {},
    "upgrad": {},
    "config": {},
}
RATE = 1e-3
# Where each objective has its valley, at 0.5 x1 = VALLEYS + SIDES tanh(x2), and its bowl: one entry for each, so that
# both are computed at once.
VALLEYS = torch.tensor([-3.5, 3.5], dtype=torch.float64)
SIDES = torch.tensor([1.0, -1.0], dtype=torch.float64)
BOWLS = torch.tensor([7.0, -7.0], dtype=torch.float64)


def objectives(x: Tensor) -> tuple[Tensor, ...]:
    """Return both objectives at x ``[2]``."""
    x1, x2 = x
    gate, side = (x2 / 2).tanh(), x2.tanh()
    valleys = (VALLEYS - 0.5 * x1 + SIDES * side).abs().clamp(min=5e-6).log() + 6  # [2] above x2 = 0
    bowls = ((x1 - BOWLS) ** 2 + 0.1 * (x2 + 8) ** 2) / 10 - 20  # [2] below
    return (gate.clamp(min=0) * valleys + (-gate).clamp(min=0) * bowls).unbind()


def descend(name: str, start: tuple[float, float], steps: int) -> Tensor:
    """Return where a strategy comes to from a start ``[2]``."""
    registry = Registry.discover(plugins=False)
    strategy: mtlkit.Strategy = registry.load(registry.find("strategies", name))(2, **STRATEGIES[name])
    x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = torch.optim.Adam([x], lr=RATE, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        mtlkit.backward(objectives(x), strategy=strategy, features=x, shared=[x])
        optimizer.step()
        if strategy.watches_step:
            with torch.no_grad():
                strategy.observe(torch.stack(objectives(x)))
    return x.detach()


def main() -> None:
    """Print where each strategy ends, and what the objectives are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--strategy", action="append", choices=list(STRATEGIES))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("| strategy | start | end | f1 | f2 |\n|---|---|---|---|---|")
    for name in chosen.strategy or STRATEGIES:
        for start in STARTS:
            end = descend(name, start, chosen.steps)
            first, second = (float(value) for value in objectives(end))
            print(f"| {name} | {start} | ({end[0]:.3f}, {end[1]:.3f}) | {first:.3f} | {second:.3f} |", flush=True)


if __name__ == "__main__":
    main()
