"""A small real model in float64, and the dense gradients of its tasks, which each strategy's equation is tried on.

Letters: K tasks present; B rows, D features, P parameters of the encoder; g_i the gradient of task i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit import backward, look_ahead

ROWS, INPUTS, FEATURES, CLASSES = 7, 4, 5, 3


@dataclass
class Dense:
    """Every gradient there is, one differentiation for each task.

    Attributes:
        losses: ``[K]``.
        rows: The gradients at the encoder's parameters ``[K, P]``.
        features: Those at the features ``[K, B * D]``.
        heads: Those of each task at the parameters of its own head.
    """

    losses: Tensor
    rows: Tensor
    features: Tensor
    heads: list[list[Tensor]]

    @property
    def gramian(self) -> Tensor:
        return self.rows @ self.rows.T


class Network(nn.Module):
    """An encoder and, for each task, a head, a loss of its own kind, and targets of its own.

    Args:
        n_tasks: The number of tasks.
        seed: What everything is drawn from.
        dtype: The dtype of it all.
        scales: What each loss is multiplied by.
        alike: Tasks that are copies of others: {copy: original}.
    """

    def __init__(self, n_tasks, seed=0, *, dtype=torch.float64, scales=None, alike=None):
        super().__init__()
        alike = alike or {}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Linear(INPUTS, 6), nn.Tanh(), nn.Linear(6, FEATURES))
            heads = [nn.Linear(FEATURES, CLASSES) for _ in range(n_tasks)]
            self.rows = torch.randn(ROWS, INPUTS).to(dtype)
            self.targets = [torch.randn(ROWS, CLASSES).to(dtype) for _ in range(n_tasks)]
        for copy, original in alike.items():
            heads[copy].load_state_dict(heads[original].state_dict())
            self.targets[copy] = self.targets[original]
        self.heads = nn.ModuleList(heads)
        self.kinds = [alike.get(task, task) % 3 for task in range(n_tasks)]
        self.scales = scales or [1.0] * n_tasks
        self.to(dtype)

    def losses(self, z):
        return [self.loss(task, head(z)) for task, head in enumerate(self.heads)]

    def loss(self, task, output):
        target, scale = self.targets[task], self.scales[task]
        if self.kinds[task] == 0:
            return F.mse_loss(output, target) * scale
        if self.kinds[task] == 1:
            return F.cross_entropy(output, target.argmax(1)) * scale
        return F.l1_loss(output, target) * scale

    def dense(self, tasks: Sequence[int] | None = None) -> Dense:
        """Differentiate each loss by itself."""
        z = self.encoder(self.rows)
        losses = self.losses(z)
        chosen = range(len(losses)) if tasks is None else tasks
        shared = list(self.encoder.parameters())
        rows, features, heads = [], [], []
        for task in chosen:
            own = list(self.heads[task].parameters())
            found = torch.autograd.grad(losses[task], [z, *shared, *own], retain_graph=True)
            features.append(found[0].flatten())
            rows.append(torch.cat([part.flatten() for part in found[1 : 1 + len(shared)]]))
            heads.append(list(found[1 + len(shared) :]))
        return Dense(
            torch.stack([losses[task].detach() for task in chosen]), torch.stack(rows), torch.stack(features), heads
        )

    def pulled(self, direction: Tensor) -> Tensor:
        """Return what a gradient at the features ``[B * D]`` makes at the encoder's parameters ``[P]``."""
        z = self.encoder(self.rows)
        found = torch.autograd.grad(z, list(self.encoder.parameters()), direction.reshape(z.shape))
        return torch.cat([part.flatten() for part in found])

    def backward(self, strategy, tasks=None, **arguments):
        """Fill ``.grad`` anew; the rows in reverse are held out for a strategy that looks ahead."""
        self.zero_grad()
        if strategy.looks_ahead and strategy.training and "ahead" not in arguments:
            arguments["ahead"] = self.look_ahead(strategy, tasks)
        z = self.encoder(self.rows)
        losses = self.losses(z)
        if tasks is not None:
            losses, arguments["tasks"] = [losses[task] for task in tasks], torch.tensor(tasks)
        return backward(losses, strategy=strategy, features=z, shared=self.encoder, **arguments)

    def look_ahead(self, strategy, tasks=None):
        """Return what a strategy that looks ahead is shown of a step of 0.05."""
        chosen = range(len(self.heads)) if tasks is None else tasks

        def of(rows):
            losses = self.losses(self.encoder(rows))
            return [losses[task] for task in chosen]

        present = None if tasks is None else torch.tensor(tasks)
        return look_ahead(
            strategy,
            training=lambda: of(self.rows),
            held_out=lambda: of(self.rows.flip(0)),
            model=self,
            optimizer=torch.optim.SGD(self.parameters(), lr=0.05),
            tasks=present,
            held_out_tasks=present,
        )

    @property
    def shared_gradient(self) -> Tensor:
        """What the encoder's parameters were given ``[P]``."""
        return torch.cat([parameter.grad.flatten() for parameter in self.encoder.parameters()])

    def assert_shared(self, expected, rtol=1e-9, atol=1e-12):
        torch.testing.assert_close(self.shared_gradient, torch.as_tensor(expected), rtol=rtol, atol=atol)

    def assert_heads(self, factors, dense, tasks=None):
        """Check that the head of each task got its own gradient times a factor, and the heads of no others got any."""
        chosen = list(range(len(self.heads))) if tasks is None else list(tasks)
        for task, factor, gradients in zip(chosen, torch.as_tensor(factors).tolist(), dense.heads, strict=True):
            for parameter, gradient in zip(self.heads[task].parameters(), gradients, strict=True):
                torch.testing.assert_close(parameter.grad, factor * gradient, rtol=1e-9, atol=1e-13)
        for task in set(range(len(self.heads))) - set(chosen):
            assert all(parameter.grad is None for parameter in self.heads[task].parameters())

    @torch.no_grad()
    def step(self, lr=0.05):
        """Descend along ``.grad``, as plain SGD does."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.sub_(lr * parameter.grad)


@pytest.fixture(scope="session", name="network")
def fixture_network():
    """The class of the model, which a test makes its own of."""
    return Network


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Compute on one thread: there is nothing here to share among several, and waiting for one another takes long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
