"""Convex quadratic programs with sign constraints, as the complementarity problem that their KKT conditions are.

Given a symmetric matrix A and a vector r, both of n + m rows, find z with

    s = A z - r,    z_i >= 0, s_i >= 0 and z_i s_i = 0 for i < n,    s_i = 0 for i >= n.

The last m unknowns are free: they are the multipliers of equality constraints. With m = 0 and A positive definite this
is min 0.5 z'Az - r'z over z >= 0. A solution is one to a tolerance: no s_i falls short, or differs from the 0 that it
should be, by more than TOLERANCE times the sum of the absolute terms that it is computed from, |A||z| + |r|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtlkit.solvers.gramian import Array

__all__ = ["TOLERANCE", "Mask", "Problem", "Result", "active_set"]

TOLERANCE = 1e-10

_PATIENCE = 5  # steps without fewer violations, after which block pivoting is taken to cycle
_TINY = float(np.finfo(np.float64).tiny)

Mask = NDArray[np.bool_]


class Problem(NamedTuple):
    """One problem.

    Attributes:
        matrix: A ``[n + m, n + m]``.
        right: r ``[n + m]``.
        bounded: n, how many unknowns are no less than 0; the rest are free.
    """

    matrix: Array
    right: Array
    bounded: int

    def solve(self, right: Array, support: Mask) -> Array:
        """Solve A z = right on the rows and columns of the support; z is 0 elsewhere."""
        rows = support.nonzero()[0]
        z = np.zeros_like(right)
        if rows.size == right.size:
            z[:] = np.linalg.solve(self.matrix, right)
        else:
            z[rows] = np.linalg.solve(self.matrix[rows[:, None], rows], right[rows])
        return z

    def slack(self, z: Array) -> tuple[Array, Array]:
        """Return s = A z - r, and how much of it may be rounding ``[n + m]``."""
        allowed = np.abs(self.matrix) @ np.abs(z)
        allowed += np.abs(self.right)
        allowed *= TOLERANCE
        return self.matrix @ z - self.right, allowed


class Result(NamedTuple):
    """What came out.

    Attributes:
        z: The solution; where none was found, the last feasible point ``[n + m]``.
        found: Whether it is the solution.
        systems: The number of linear systems that were solved.
    """

    z: Array
    found: bool
    systems: int


def active_set(problem: Problem, support: Mask, start: Callable[[], Array], *, limit: int) -> Result:
    """Solve by block pivoting, and by the primal method where that gives up.

    Args:
        problem: The problem; its matrix positive definite on the bounded unknowns.
        support: Which unknowns to take for non-zero at first ``[n + m]``, the free ones among them.
        start: Returns where the primal method starts ``[n + m]``: feasible, and the solution on its own support.
        limit: The most linear systems to solve.
    """
    z, systems = _block_pivoting(problem, support, limit)
    if z is not None:
        return Result(z, found=True, systems=systems)
    result = _primal(problem, start(), limit - systems)
    return result._replace(systems=systems + result.systems)


def _block_pivoting(problem: Problem, support: Mask, limit: int) -> tuple[Array | None, int]:
    """Solve by exchanging every violating index at once (Judice, Pires, Computers Ops. Res. 1994).

    It takes a few steps where it converges, which is nearly always; where it may be cycling it gives up.
    """
    bounded = problem.bounded
    fewest, patience = bounded + 1, _PATIENCE
    for step in range(1, limit + 1):
        try:
            z = problem.solve(problem.right, support)
        except np.linalg.LinAlgError:
            return None, step
        slack, allowed = problem.slack(z)
        kept = np.where(support, z >= 0, slack >= -allowed)  # a NaN is not kept
        kept[bounded:] = True
        wrong = kept.size - int(np.count_nonzero(kept))
        if not wrong:
            return _refined(problem, z, slack, allowed, support), step
        if wrong < fewest:
            fewest, patience = wrong, _PATIENCE
        elif patience:
            patience -= 1
        else:
            return None, step
        support = support == kept
    return None, limit


def _primal(problem: Problem, z: Array, limit: int) -> Result:
    """Solve by entering the worst index and leaving at the first bound (Wolfe, Math. Programming 1976).

    The objective falls with every step, so it ends; there are as many steps as indices that enter or leave.
    """
    bounded = problem.bounded
    support = z > 0
    support[bounded:] = True
    entered = -1
    for step in range(1, limit + 1):
        try:
            target = problem.solve(problem.right, support)
        except np.linalg.LinAlgError:
            return Result(z, found=False, systems=step)
        if not np.isfinite(target).all():
            return Result(z, found=False, systems=step)
        blocking = support & (target < 0)
        blocking[bounded:] = False
        rows = blocking.nonzero()[0]
        if entered in rows:  # it was to rise: what is left to gain is rounding
            return Result(z, found=False, systems=step)
        if rows.size:
            ratios = z[rows] / (z[rows] - target[rows])
            z = z + ratios.min() * (target - z)
            np.maximum(z[:bounded], 0.0, out=z[:bounded])
            leaving = rows[ratios <= ratios.min()]
            z[leaving] = 0.0
            support[leaving] = False
            continue
        z = target
        slack, allowed = problem.slack(z)
        shortfall = np.where(support, 0.0, slack / (allowed + _TINY))
        entered = int(shortfall.argmin())
        if shortfall[entered] >= -1:
            settled = _refined(problem, z, slack, allowed, support)
            return Result(z if settled is None else settled, found=settled is not None, systems=step)
        support[entered] = True
    return Result(z, found=False, systems=limit)


def _refined(problem: Problem, z: Array, slack: Array, allowed: Array, support: Mask) -> Array | None:
    """Return z once its residual on the support is within the tolerance, after a correction or two; else None."""
    for _ in range(3):
        if ((np.abs(slack) <= allowed) >= support).all():
            return z
        z = z - problem.solve(slack, support)
        if not (z[: problem.bounded] >= 0).all():
            return None
        slack, allowed = problem.slack(z)
    return None
