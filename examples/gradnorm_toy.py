"""GradNorm's toy: regressions that differ in nothing but their scale (Chen et al., ICML 2018, section 4).

Usage: python examples/gradnorm_toy.py [--tasks K] [--seeds N] [--steps N]

f_i(x) = sigma_i tanh((B + eps_i) x) with x in R^250 and 100 outputs; B ~ N(0, 10) is common, eps_i ~ N(0, 3.5) is each
task's own. A trunk of four layers of 100 units, a linear head for each task, squared error. What counts is the sum of
the test losses, each relative to its first: a strategy does well that does not let the largest scale have it all.

The paper does not say what x is drawn from, nor the batch, the rates and the length: here x ~ N(0, 1/250), so that the
argument of tanh has the deviation of a matrix entry, batches have 100 rows, and Adam 0.001 for the network.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from torch import Tensor, nn

import mtlkit
from mtlkit.strategies import Fixed, GradNorm, Uncertainty

INPUTS, OUTPUTS, WIDTH, BATCH, TEST_ROWS = 250, 100, 100, 100, 1000
COMMON, OWN, SCALES = 10.0, 3.5, 50.0  # standard deviations
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}  # Student's quantiles, by the number of seeds


class Toy:
    """The tasks of one seed."""

    def __init__(self, n_tasks: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        common = COMMON * self.normal(OUTPUTS, INPUTS)
        self.maps = [common + OWN * self.normal(OUTPUTS, INPUTS) for _ in range(n_tasks)]
        self.scales = [1.0, 100.0] if n_tasks == 2 else (SCALES * self.normal(n_tasks)).abs().tolist()  # noqa: PLR2004

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(*shape, generator=self.generator)

    def rows(self, count: int) -> tuple[Tensor, list[Tensor]]:
        """Return inputs ``[count, 250]`` and each task's targets ``[count, 100]``."""
        x = self.normal(count, INPUTS) / INPUTS**0.5
        return x, [scale * torch.tanh(x @ each.T) for scale, each in zip(self.scales, self.maps, strict=True)]


def relative_loss(n_tasks: int, seed: int, strategy: mtlkit.Strategy, steps: int) -> float:
    """Train with a strategy, and return the sum over tasks of the test loss relative to its first value."""
    toy = Toy(n_tasks, seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before in (INPUTS, WIDTH, WIDTH, WIDTH):
        layers += [nn.Linear(before, WIDTH), nn.ReLU()]
    trunk = nn.Sequential(*layers)
    heads = nn.ModuleList(nn.Linear(WIDTH, OUTPUTS) for _ in range(n_tasks))
    model = [*trunk.parameters(), *heads.parameters()]
    optimizer = torch.optim.Adam([{"params": model}, *strategy.parameter_groups()], lr=1e-3, fused=True)
    test = toy.rows(TEST_ROWS)

    def losses(x: Tensor, targets: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        z = trunk(x)
        return z, [nn.functional.mse_loss(head(z), target) for head, target in zip(heads, targets, strict=True)]

    with torch.no_grad():
        first = [float(loss) for loss in losses(*test)[1]]
    for _ in range(steps):
        z, each = losses(*toy.rows(BATCH))
        optimizer.zero_grad()
        mtlkit.backward(each, strategy=strategy, features=z, shared=trunk)
        optimizer.step()
    with torch.no_grad():
        return sum(float(loss) / start for loss, start in zip(losses(*test)[1], first, strict=True))


def interval(values: list[float], digits: int) -> str:
    """Return the mean of values with a 95% interval, by Student's t; the mean alone where there is but one."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) not in T_975:
        return mean
    half = T_975[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"


def main() -> None:
    """Print each strategy's mean over the seeds, and by how much it differs from equal weights on the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15_000)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    n_tasks = chosen.tasks
    strategies = {
        "equal": lambda: Fixed(n_tasks),
        "gradnorm": lambda: GradNorm(n_tasks, alpha=0.12),
        "uncertainty": lambda: Uncertainty(n_tasks, ["regression"] * n_tasks),
    }
    print(f"| strategy | sum of relative test losses, K = {n_tasks} | more than equal | seeds |\n|---|---|---|---|")
    equal: list[float] = []
    for name, make in strategies.items():
        values = [relative_loss(n_tasks, seed, make(), chosen.steps) for seed in range(chosen.seeds)]
        equal = equal or values
        more = [value - other for value, other in zip(values, equal, strict=True)]
        shown = ", ".join(f"{value:.3f}" for value in values)
        beside = "" if values is equal else interval(more, 2)
        print(f"| {name} | {interval(values, 3)} | {beside} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
