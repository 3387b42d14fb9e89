"""What each solver of mtlkit.solvers takes for one Gram matrix, in microseconds, by the number of tasks.

Usage: OPENBLAS_NUM_THREADS=1 .venv/bin/python benchmarks/solvers.py [ROUNDS]

The gradients are random, of 4096 numbers each, with norms that differ by up to a hundred. They are laid once without
order, so that half of all pairs conflict a little, and once around ten centres and their opposites, so that many
conflict a lot. What is printed is the median over the rounds. One thread, because matrices as small as these gain
nothing by a second one, and lose much where another process has its core.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

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
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        solve(matrix)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


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


if __name__ == "__main__":
    main()
