"""Two objectives in the plane, from the paper on CAGrad: where does each strategy end?

Usage: python examples/two_objectives.py [--steps N] [--strategy NAME]...

The objectives (Liu, Liu, Jin, Stone, Liu, NeurIPS 2021, appendix) have steep valleys whose gradients conflict. Their
Pareto set is a line from (-7, -8.43) to (7, -8.43), bent a little: in its middle, at (0, -8.355), both are -15.092. On
it some convex combination of the gradients is 0, and the last column is the length of the shortest one.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

import mtlkit
from mtlkit.registry import Registry
from mtlkit.solvers import min_norm_point

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0))
STRATEGIES: dict[str, dict[str, Any]] = {
    "fixed": {"alpha": [0.5, 0.5]},
    "mgda": {},
    "pcgrad": {"seed": 0},
    "cagrad": {"c": 0.5},
    "imtl-g": {},
    "nash-mtl": {},
    # The objectives are above -21. They change little in a step, and any decay of the logits outweighs what they say:
    # the authors leave it out here too.
    "famo": {"gamma": 0.0, "lower_bound": -21.0},
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
    """Return both objectives at x ``[2]``; each has two terms, and one of them is 0 above x2 = 0, the other below."""
    x1, x2 = x
    gate = (x2 / 2).tanh()
    if gate > 0:
        valleys = (VALLEYS - 0.5 * x1 + SIDES * x2.tanh()).abs().clamp(min=5e-6).log() + 6  # [2]
        return (gate * valleys).unbind()
    bowls = ((x1 - BOWLS).square() + 0.1 * (x2 + 8).square()) / 10 - 20  # [2]
    return (-gate * bowls).unbind()


def shortest(x: Tensor) -> float:
    """Return the length of the shortest convex combination of both gradients at x ``[2]``."""
    place = x.clone().requires_grad_()
    rows = torch.stack([torch.autograd.grad(each, place, retain_graph=True)[0] for each in objectives(place)])
    return float(torch.linalg.vector_norm(torch.from_numpy(min_norm_point(rows @ rows.T)) @ rows))


def descend(name: str, start: tuple[float, float], steps: int, every: int = 1000) -> Tensor:
    """Return the path of a strategy from a start: where it is at every so many steps, and where it ends ``[N, 2]``."""
    registry = Registry.discover(plugins=False)
    strategy: mtlkit.Strategy = registry.load(registry.find("strategies", name))(2, **STRATEGIES[name])
    x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = torch.optim.Adam([x], lr=RATE, fused=True)
    path = []
    for step in range(steps):
        if step % every == 0:
            path.append(x.detach().clone())
        optimizer.zero_grad()
        mtlkit.backward(objectives(x), strategy=strategy, features=x, shared=[x])
        optimizer.step()
        if strategy.watches_step:
            with torch.no_grad():
                strategy.observe(torch.stack(objectives(x)))
    return torch.stack([*path, x.detach()])


def main() -> None:
    """Print where each strategy ends, what the objectives are there, and how far from stationary it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--strategy", action="append", choices=list(STRATEGIES))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("| strategy | start | end | f1 | f2 | shortest |\n|---|---|---|---|---|---|")
    for name in chosen.strategy or STRATEGIES:
        for start in STARTS:
            end = descend(name, start, chosen.steps)[-1]
            first, second = (float(value) for value in objectives(end))
            place = f"({end[0]:.3f}, {end[1]:.3f})"
            print(f"| {name} | {start} | {place} | {first:.3f} | {second:.3f} | {shortest(end):.3f} |", flush=True)


if __name__ == "__main__":
    main()
