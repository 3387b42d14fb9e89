"""A small problem of several tasks, for a strategy to weigh."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.errors import NonFiniteError
from mtlkit.gradients import Measurement, Outlook, backward, look_ahead
from mtlkit.strategies.base import Needs, Strategy, Weighting
from mtlkit.testing.checks import require
from mtlkit.testing.probes import asking, seeded

__all__ = ["TRIAL_RATE", "Problem", "answers_of", "listed", "n_classes_of", "optimizer_of", "train", "weigh"]

ROWS, INPUTS, FEATURES, OUTPUTS = 6, 4, 3, 3
TRIAL_RATE = 0.1  # of the trial steps of a strategy that looks ahead


def n_classes_of(kind: str, task: int) -> int | None:
    """Return how many classes the task of a number has, if its loss is of the kind of a classification."""
    return 3 + task if kind == "classification" else None


class Problem(nn.Module):
    """An encoder, and for each task's number a head and a loss of its kind: the same whichever others are with it.

    Args:
        kinds: The kinds of loss; that of task t is ``kinds[t % len(kinds)]``.
        tasks: The numbers of the tasks, which may repeat.
        dtype: The dtype of all its numbers.

    Attributes:
        factors: What each task's loss is multiplied by.
    """

    def __init__(self, kinds: Sequence[str], tasks: Sequence[int], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.kinds = [kinds[task % len(kinds)] for task in tasks]
        self.tasks = list(tasks)
        with seeded():
            self.encoder = nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, FEATURES))
            self.rows = torch.randn(ROWS, INPUTS).to(dtype)
            self.held_out = torch.randn(ROWS, INPUTS).to(dtype)
        self.factors = [1.0] * len(self.tasks)
        self.heads = nn.ModuleList(map(_head, self.kinds, self.tasks))
        self.to(dtype)

    def losses(self, features: Tensor) -> list[Tensor]:
        """Return the loss of each task."""
        return [
            _loss(kind, task, head(features)) * factor
            for kind, task, head, factor in zip(self.kinds, self.tasks, self.heads, self.factors, strict=True)
        ]

    def backward(self, strategy: Strategy, present: Sequence[int] | None = None, **arguments: Any) -> Measurement:
        """Backpropagate, with an outlook on held-out rows for a strategy that looks ahead.

        Args:
            strategy: What weighs the losses.
            present: The places of the tasks that are present; None where all are.
            arguments: What else :func:`mtlkit.backward` is to be given.
        """
        if strategy.looks_ahead:
            arguments["ahead"] = self.look_ahead(strategy, present)
        features = self.encoder(self.rows)
        losses = self.losses(features)
        if present is not None:
            losses = [losses[place] for place in present]
            arguments["tasks"] = torch.tensor(present)
        return weigh(losses, strategy, features=features, shared=self.encoder, **arguments)

    def look_ahead(self, strategy: Strategy, present: Sequence[int] | None = None) -> Outlook:
        """Return what a run would show to a strategy that looks ahead, the same tasks present in both batches.

        Nothing, no objective, where the trial step leads too far.
        """
        places = range(len(self.tasks)) if present is None else present
        tasks = None if present is None else torch.tensor(present)

        def losses_on(rows: Tensor) -> list[Tensor]:
            every = self.losses(self.encoder(rows))
            return [every[place] for place in places]

        nothing = Outlook(torch.zeros(0, len(places), dtype=torch.float64), tasks)
        with asking(f"mtlkit.look_ahead() with {_told(tasks)} present"):
            try:
                ahead = look_ahead(
                    strategy,
                    training=lambda: losses_on(self.rows),
                    held_out=lambda: losses_on(self.held_out),
                    model=self,
                    optimizer=torch.optim.SGD(self.parameters(), lr=TRIAL_RATE),
                    tasks=tasks,
                    held_out_tasks=tasks,
                )
            except NonFiniteError as error:
                if error.what == "held-out loss":
                    return nothing
                raise
        return ahead if ahead.slopes.isfinite().all() else nothing

    @torch.no_grad()
    def observe(self, strategy: Strategy, present: Sequence[int] | None = None) -> None:
        """Tell a strategy what a run tells it after a step."""
        if strategy.watches_step:
            losses = torch.stack(self.losses(self.encoder(self.rows))).double()
            tasks = None if present is None else torch.tensor(present)
            with asking("observe()"):
                strategy.observe(losses if present is None else losses[list(present)], tasks)

    def combination(self, shared: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Return sum_i w_i g_i for each parameter by name, from one differentiation for each task.

        Args:
            shared: The weights at the encoder's parameters ``[T]``.
            own: The weights at the heads' ``[T]``.
        """
        named = dict(self.named_parameters())
        total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
        for index, loss in enumerate(self.losses(self.encoder(self.rows))):
            gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    total[name] += (shared if name.startswith("encoder") else own)[index] * gradient
        return total


def weigh(losses: Sequence[Tensor], strategy: Strategy, **arguments: Any) -> Measurement:
    """Backpropagate by :func:`mtlkit.backward`; what a strategy breaks of it is a Nonconformance."""
    present = _told(arguments.get("tasks"))
    values = listed(torch.stack(list(losses)).detach())
    with asking(f"mtlkit.backward() with {present} present, of losses {values},"):
        try:
            measured = backward(losses, strategy=strategy, **arguments)
        except NonFiniteError as error:
            require(
                error.what != "weight",
                f"weights() answered what is no number with {present} present, of losses {values}: "
                f"{str(error).rstrip('.')}",
                "Divide by nothing that may be 0: tasks may be alike, and losses and gradients may vanish.",
            )
            raise
    require(
        tuple(measured.weights.shape) == (len(losses),),
        f"weights() returned weights of shape {tuple(measured.weights.shape)} with {present} present",
        f"Return one for each task present: {(len(losses),)}.",
    )
    return measured


@contextlib.contextmanager
def answers_of(strategy: Strategy) -> Iterator[list[Weighting]]:
    """Yield a list that what the strategy answers in here is added to, as it is then."""
    answers: list[Weighting] = []

    def recorded(method: Callable[..., Weighting]) -> Callable[..., Weighting]:
        def answer(*arguments: Any, **options: Any) -> Weighting:
            received = method(*arguments, **options)
            if isinstance(received, Weighting):
                tensors = {name: value for name, value in received._asdict().items() if isinstance(value, Tensor)}
                copies = {name: value.detach().clone() for name, value in tensors.items()}
                answers.append(received._replace(**copies))
            return received

        return answer

    method = "combine" if strategy.needs is Needs.JACOBIAN else "weights"
    vars(strategy)[method] = recorded(getattr(strategy, method))
    try:
        yield answers
    finally:
        del vars(strategy)[method]


def listed(values: Iterable[float] | Tensor) -> str:
    """Return numbers as a message shows them."""
    return f"[{', '.join(f'{float(value):.4g}' for value in values)}]"


def optimizer_of(problem: Problem, strategy: Strategy) -> torch.optim.Optimizer:
    """Return an optimizer with a memory, over what both of them learn."""
    with asking("parameter_groups(), given to torch.optim.Adam,"):
        groups = strategy.parameter_groups()
        return torch.optim.Adam([{"params": list(problem.parameters())}, *groups], lr=0.01)


def train(problem: Problem, strategy: Strategy, steps: int, optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    """Train both, each step an epoch, and return the weights of each step ``[steps, T]``."""
    optimizer = optimizer_of(problem, strategy) if optimizer is None else optimizer
    weights: list[Tensor] = []
    for _ in range(steps):
        optimizer.zero_grad()
        weights.append(problem.backward(strategy).weights.double().clone())
        optimizer.step()
        problem.observe(strategy)
        with asking("end_epoch()"):
            strategy.end_epoch()
    return torch.stack(weights)


def _told(tasks: Tensor | None) -> str:
    return "all tasks" if tasks is None else f"the tasks {tasks.tolist()}"


def _head(kind: str, task: int) -> nn.Module:
    with seeded(task):
        return nn.Linear(FEATURES, n_classes_of(kind, task) or OUTPUTS)


def _loss(kind: str, task: int, output: Tensor) -> Tensor:
    if kind == "classification":
        return F.cross_entropy(output, torch.arange(len(output)) % output.shape[1])
    if kind == "laplace":
        return (output + task).abs().mean()
    return (output - 1 - task).square().mean()
