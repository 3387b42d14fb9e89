"""The strategies ``pcgrad`` and ``gradvac``: each gradient is changed where it conflicts with another.

>>> PCGrad(2).weights(torch.ones(2).double(), torch.eye(2).double()).weights.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

import math
from itertools import chain
from operator import add
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtlkit.solvers.few import Rows, dot, norms_of
from mtlkit.strategies.base import GramianStrategy, Needs, Over, Weighting
from mtlkit.strategies.draws import Draws
from mtlkit.strategies.numbers import tensor_of, write

__all__ = ["GradVac", "PCGrad"]

Array = np.ndarray


class PCGrad(GramianStrategy):
    """Projecting conflicting gradients (Yu, Kumar, Gupta et al., NeurIPS 2020, algorithm 1).

    For each i, over the other tasks j in a random order, where gh_i . g_j < 0:

        gh_i <- gh_i - (gh_i . g_j) / ||g_j||^2 g_j,  d = sum_i gh_i

    with gh_i = g_i at the start, and g_j as it was. Each gh_i is a combination of the gradients, so that the Gram
    matrix is all that is needed.

    Args:
        n_tasks: The number of tasks.
        seed: Seeds the orders; None takes the seed that torch was seeded with, in a run the run's own.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def __init__(self, n_tasks: int, *, seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None) -> None:
        super().__init__(n_tasks)
        self.draws = Draws(seed)

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        gramian = self._given(gramian)
        if len(gramian) == 2:  # noqa: PLR2004 - whom else should the one meet?
            if self.training:
                self.draws.skip()
            return Weighting(tensor_of(_project_two(gramian.tolist()), gramian))
        keys = _keys(self.draws.next(advance=self.training), self.n_tasks, tasks)
        return Weighting(
            self.solved(
                lambda m: _project(m, keys.argsort(1).numpy()),
                gramian,
                few=lambda rows: _project_few(rows, _orders(keys.tolist())),
            )
        )


class GradVac(GramianStrategy):
    """Gradient vaccine (Wang, Tsvetkov, Firat, Cao, ICLR 2021).

    As ``pcgrad``, but towards the cosine phi_hat_ij that the two tasks' gradients usually have: with phi the cosine of
    gh_i and g_j, where phi < phi_hat_ij,

        gh_i <- gh_i + ||gh_i|| (phi_hat sqrt(1 - phi^2) - phi sqrt(1 - phi_hat^2)) / (||g_j|| sqrt(1 - phi_hat^2)) g_j
        phi_hat_ij <- (1 - beta) phi_hat_ij + beta phi

    Departure from the paper: it sets its goals layer by layer by default; here they are those of the whole gradient,
    one of the granularities that it compares.

    Args:
        n_tasks: The number of tasks.
        beta: How fast the usual cosine follows.
        seed: Seeds the orders; None takes the seed that torch was seeded with, in a run the run's own.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    goals: Tensor  # [T, T] phi_hat

    def __init__(
        self,
        n_tasks: int,
        *,
        beta: Annotated[float, Field(ge=0, le=1)] = 0.01,
        seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None,
    ) -> None:
        super().__init__(n_tasks)
        self.beta = beta
        self.draws = Draws(seed)
        self.register_buffer("goals", torch.zeros(n_tasks, n_tasks, dtype=torch.float64))

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        gramian = self._given(gramian)
        keys = _keys(self.draws.next(advance=self.training), self.n_tasks, tasks)
        goals: Rows = (self.goals if tasks is None else self.goals[tasks[:, None], tasks]).tolist()
        weights = self.solved(
            lambda m: _vaccinate(m, keys.argsort(1).numpy(), goals, self.beta),
            gramian,
            few=lambda rows: _vaccinate_few(rows, _orders(keys.tolist()), goals, self.beta),
        )
        if self.training:
            if tasks is None:
                write(list(chain.from_iterable(goals)), self.goals.view(-1))
            else:
                self.goals[tasks[:, None], tasks] = self.goals.new_tensor(goals)
        return Weighting(weights)


def _keys(generator: torch.Generator, n_tasks: int, tasks: Tensor | None) -> Tensor:
    """Return for each task present the numbers that all who are present are put in order by ``[K, K]``.

    Numbers are drawn for every task, so that the order of two does not depend on which others are there.
    """
    keys = torch.rand(n_tasks, n_tasks, generator=generator, dtype=torch.float64)
    if tasks is None:
        return keys
    chosen = tasks.cpu()
    return keys[chosen[:, None], chosen]


def _orders(keys: Rows) -> list[list[int]]:
    """Return for each task an order of all ``[K, K]``, by their places, as ``argsort`` does."""
    return [sorted(range(len(row)), key=row.__getitem__) for row in keys]


def _project(gramian: Array, orders: Array) -> Array:
    """Return the sum of the projected gradients' coefficients ``[K]``."""
    every = np.arange(len(gramian))
    coefficients = np.eye(len(gramian))  # [K, K]: row i is gh_i in terms of the g
    squares = np.diag(gramian)
    for others in orders.T:  # others[i] is the task that gh_i meets now
        products = np.einsum("ik,ki->i", coefficients, gramian[:, others])
        conflict = (products < 0) & (others != every) & (squares[others] > 0)
        if conflict.any():
            rows, met = every[conflict], others[conflict]
            coefficients[rows, met] -= products[conflict] / squares[met]
    return np.asarray(coefficients.sum(0))


def _project_few(gramian: Rows, orders: list[list[int]]) -> list[float]:
    """Do so in plain numbers."""
    total = [0.0] * len(gramian)
    for i, others in enumerate(orders):
        images = gramian[i]  # gh_i . g_k
        total[i] += 1
        for j in others:
            if images[j] < 0 and j != i and gramian[j][j] > 0:
                share = images[j] / gramian[j][j]
                total[j] -= share
                images = [image - share * each for image, each in zip(images, gramian[j], strict=True)]
    return total


def _project_two(gramian: Rows) -> list[float]:
    """Do so for two gradients, which meet but once."""
    (a, b), (_, c) = gramian
    met = min(b, 0.0)
    return [1 - met / a if a > 0 else 1.0, 1 - met / c if c > 0 else 1.0]


def _vaccinate(gramian: Array, orders: Array, kept: Rows, beta: float) -> Array:
    """Return the sum of the changed gradients' coefficients ``[K]``; the goals kept are brought up to date in place."""
    goals = np.array(kept)
    every = np.arange(len(gramian))
    coefficients, images = np.eye(len(gramian)), gramian.copy()  # images[i, k] is gh_i . g_k
    norms = np.sqrt(np.diag(gramian).clip(min=0))
    for others in orders.T:
        own = np.sqrt((images * coefficients).sum(1).clip(min=0))  # ||gh_i||
        products = images[every, others]
        meets = (others != every) & (own > 0) & (norms[others] > 0)
        rows, met = every[meets], others[meets]
        cosine = (products[meets] / (own[meets] * norms[met])).clip(-1, 1)
        goal = goals[rows, met]
        sine, goal_sine = np.sqrt(1 - cosine**2), np.sqrt((1 - goal**2).clip(min=0))
        short = (cosine < goal) & (goal_sine > 0)
        change = own[meets][short] * (goal * sine - cosine * goal_sine)[short] / (norms[met] * goal_sine)[short]
        coefficients[rows[short], met[short]] += change
        images[rows[short]] += change[:, None] * gramian[met[short]]
        goals[rows, met] = (1 - beta) * goal + beta * cosine
    kept[:] = goals.tolist()
    return np.asarray(coefficients.sum(0))


def _vaccinate_few(gramian: Rows, orders: list[list[int]], goals: Rows, beta: float) -> list[float] | None:
    """Do so in plain numbers, where no gradient is 0."""
    norms = norms_of(gramian)
    if norms is None:
        return None
    total = [0.0] * len(gramian)
    for i, others in enumerate(orders):
        coefficients, images = [0.0] * len(gramian), gramian[i]
        coefficients[i] = 1.0
        for j in others:
            own = math.sqrt(max(dot(images, coefficients), 0.0))  # ||gh_i||
            if j == i or not own > 0:
                continue
            cosine, goal = min(max(images[j] / (own * norms[j]), -1.0), 1.0), goals[i][j]
            goal_sine = math.sqrt(max(1 - goal**2, 0.0))
            if cosine < goal and goal_sine > 0:
                change = own * (goal * math.sqrt(1 - cosine**2) - cosine * goal_sine) / (norms[j] * goal_sine)
                coefficients[j] += change
                images = [image + change * each for image, each in zip(images, gramian[j], strict=True)]
            goals[i][j] = (1 - beta) * goal + beta * cosine
        total = list(map(add, total, coefficients))
    return total
