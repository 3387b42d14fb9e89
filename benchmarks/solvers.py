"""What each solver of mtlkit.solvers takes for one Gram matrix, in microseconds, by the number of tasks.

Usage: OPENBLAS_NUM_THREADS=1 .venv/bin/python benchmarks/solvers.py [ROUNDS]

The gradients are random, of 4096 numbers each, with norms that differ by up to a hundred. They are laid once without
order, so that half of all pairs conflict a little, and once around ten centres and their opposites, so that many
conflict a lot. What is printed is the median over the rounds. One thread, because matrices as small as these gain
nothing by a second one, and lose much where another process has its core.

Then, at random, what mtlkit's strategies take for the Gram matrix of few tasks in a tensor, in microseconds too. Within
a training step it is two to three times as much, since the step leaves nothing of them in the processor's caches.

Where TorchJD is installed, the same is printed for its methods beside mtlkit's strategies, both asked for the weights
from a Gram matrix in a tensor: the milliseconds of each, and how many times as long TorchJD takes. Of what takes long,
the rounds are as many as fit into two seconds.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mtlkit import strategies
from mtlkit.solvers import (
    cagrad_weights,
    dual_cone,
    min_norm_point,
    nash_weights,
    project_to_simplex,
    simplex_qp,
)

SIZES = (2, 8, 32, 139)
PARAMETERS = 4096
SOLVERS: dict[str, Callable[[np.ndarray], object]] = {
    "project_to_simplex": lambda gramian: project_to_simplex(gramian[0]),
    "min_norm_point (mgda)": min_norm_point,
    "simplex_qp (sdmgrad, lambda 0.3)": lambda gramian: simplex_qp(gramian, 0.3 * gramian.mean(axis=1)),
    "cagrad_weights (c 0.5)": lambda gramian: cagrad_weights(gramian, 0.5),
    "nash_weights (nash-mtl)": nash_weights,
    "nash_weights (fairgrad, alpha 2)": lambda gramian: nash_weights(gramian, 2.0),
    "dual_cone (upgrad)": lambda gramian: dual_cone(gramian, np.eye(len(gramian))),
    "dual_cone (dualproj)": lambda gramian: dual_cone(gramian, np.full((1, len(gramian)), 1 / len(gramian))),
}


FEW = (2, 4, 8)
STRATEGIES = {
    "mgda": strategies.MGDA,
    "cagrad": strategies.CAGrad,
    "pcgrad": strategies.PCGrad,
    "gradvac": strategies.GradVac,
    "nash-mtl": strategies.NashMTL,
    "fairgrad": strategies.FairGrad,
    "aligned-mtl": strategies.AlignedMTL,
    "upgrad": strategies.UPGrad,
    "dualproj": strategies.DualProj,
    "sdmgrad": strategies.SDMGrad,
    "imtl-g": strategies.IMTLG,
    "config": strategies.ConFIG,
    "modo": strategies.MoDo,
    "gradnorm": strategies.GradNorm,
}

BUDGET_S = 2.0


def peers() -> dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]]:
    """Return mtlkit's strategies and TorchJD's weightings, by method: what makes one for a number of tasks."""
    from torchjd import aggregation  # noqa: PLC0415 - it need not be there

    found = {
        "upgrad": (strategies.UPGrad, lambda _: aggregation.UPGradWeighting()),
        "dualproj": (strategies.DualProj, lambda _: aggregation.DualProjWeighting()),
        "mgda": (strategies.MGDA, lambda _: aggregation.MGDAWeighting()),
        "aligned-mtl": (strategies.AlignedMTL, lambda _: aggregation.AlignedMTLWeighting()),
        "imtl-g": (strategies.IMTLG, lambda _: aggregation.IMTLGWeighting()),
        "pcgrad": (strategies.PCGrad, lambda _: aggregation.PCGradWeighting()),
        "gradvac": (strategies.GradVac, lambda _: aggregation.GradVacWeighting()),
        "sdmgrad": (strategies.SDMGrad, lambda _: aggregation.SDMGradWeighting()),
        "modo": (strategies.MoDo, lambda _: aggregation.MoDoWeighting()),
    }
    if importlib.util.find_spec("scipy"):
        found["fairgrad"] = (strategies.FairGrad, lambda _: aggregation.FairGradWeighting(2.0))
    if importlib.util.find_spec("cvxpy"):
        found["cagrad"] = (strategies.CAGrad, lambda _: aggregation.CAGradWeighting(0.5))
        if importlib.util.find_spec("ecos"):
            found["nash-mtl"] = (strategies.NashMTL, lambda n: aggregation.NashMTL(n).weighting)
    return found


def gramian(size: int, generator: np.random.Generator, *, centres: int = 0) -> np.ndarray:
    """Return the Gram matrix of random gradients, around so many centres and their opposites; 0 for none."""
    gradients = generator.normal(size=(size, PARAMETERS))
    if centres:
        middle = generator.normal(size=(centres, PARAMETERS))[generator.integers(centres, size=size)]
        gradients += generator.choice([-1.0, 1.0], size=(size, 1)) * middle
    gradients *= 10 ** generator.uniform(-1, 1, size=(size, 1))
    return gradients @ gradients.T


def median(solve: Callable[[np.ndarray], object], matrix: np.ndarray, rounds: int) -> float:
    """Return the median of the seconds that it takes."""
    times: list[float] = []
    while len(times) < rounds and sum(times) < BUDGET_S:
        started = time.perf_counter()
        solve(matrix)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def among_few(rounds: int, generator: np.random.Generator) -> None:
    """Print what mtlkit's strategies take for few tasks."""
    print(f"{'strategies':32}" + "".join(f"{f'T = {size}':>10}" for size in FEW))
    matrices = [gramian(size, generator) for size in FEW]
    for name, strategy_class in STRATEGIES.items():
        row = ""
        for size, matrix in zip(FEW, matrices, strict=True):
            ask, losses, given = strategy_class(size).weights, torch.ones(size).double(), torch.from_numpy(matrix)
            seconds = median(lambda _, ask=ask, losses=losses, given=given: ask(losses, given), matrix, rounds)
            row += f"{seconds * 1e6:10.0f}"
        print(f"{name:32}{row}")


def beside(matrices: dict[int, np.ndarray], rounds: int) -> None:
    """Print what mtlkit's strategies and TorchJD's weightings take, and the ratio."""
    print(f"{'mtlkit, TorchJD [ms], ratio':32}" + "".join(f"{f'T = {size}':>28}" for size in matrices))
    for name, (ours, theirs) in peers().items():
        row = ""
        for size, matrix in matrices.items():
            strategy, weighting, losses = ours(size), theirs(size), torch.ones(size, dtype=torch.float64)
            given = torch.from_numpy(matrix)
            if name == "nash-mtl":  # which takes the gradients, or any with the same inner products
                values, vectors = torch.linalg.eigh(given)
                roots = vectors * values.clamp(min=0).sqrt()
                slow = median(lambda _, ask=weighting, roots=roots: ask(roots), matrix, rounds)
            else:
                slow = median(lambda _, ask=weighting, given=given: ask(given), matrix, rounds)
            fast = median(
                lambda _, ask=strategy.weights, losses=losses, given=given: ask(losses, given), matrix, rounds
            )
            row += f"{fast * 1e3:9.2f}{slow * 1e3:10.2f}{slow / fast:9.1f}"
        print(f"{name:32}{row}")


def main() -> None:
    """Print the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    generator = np.random.default_rng(0)
    matrices = {(centres, size): gramian(size, generator, centres=centres) for centres in (0, 10) for size in SIZES}
    for centres in (0, 10):
        name = f"around {centres} centres" if centres else "at random"
        print(f"{name:32}" + "".join(f"{f'T = {size}':>10}" for size in SIZES))
        for solver, solve in SOLVERS.items():
            times = [median(solve, matrices[centres, size], rounds) for size in SIZES]
            print(f"{solver:32}" + "".join(f"{seconds * 1e6:10.0f}" for seconds in times))
    among_few(rounds, generator)
    if importlib.util.find_spec("torchjd") is None:
        print("TorchJD is not installed: pip install 'torchjd[full]'")
        return
    warnings.filterwarnings("ignore", category=UserWarning)  # cvxpy's, of problems that it does not like
    for centres in (0, 10):
        print("around 10 centres" if centres else "at random")
        beside({size: matrices[centres, size] for size in SIZES[1:]}, rounds)


if __name__ == "__main__":
    main()
