"""What every strategy promises: one finite weight for each task present, and state that a checkpoint holds.

Letters: T tasks in all, K tasks present. A task's number says what is known of it, so that the facts go with the task
when the tasks are permuted.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlkit.engine import checkpoint
from mtlkit.errors import NonFiniteError
from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.testing.checks import Checks, Nonconformance, require
from mtlkit.testing.every import FACTS
from mtlkit.testing.probes import (
    RandomStates,
    asking,
    require_construction_leaves_random_state,
    require_silence,
    seeded,
)
from mtlkit.testing.problem import TRIAL_RATE, Problem, answers_of, listed, n_classes_of, optimizer_of, train
from mtlkit.testing.subject import Subject

__all__ = ["CHECKS", "Maker", "ask", "maker_of"]

CHECKS = Checks()

# What the tasks' losses are, by number modulo the length. A strategy may refuse kinds that it cannot weigh, though not
# every combination here.
KINDS = (
    ("classification", "regression", "laplace"),
    ("classification",),
    ("regression",),
    ("laplace",),
    ("other",),
)
ODD = 7  # a number of tasks that is hardly the size of anything else
SCALES = (0.0, 1e-30, 1e-3, 1.0, 1e3, 1e30)
RANDOM = "A strategy that draws random numbers declares this check in expected_failures."


@dataclass(frozen=True)
class Maker:
    """Builds a strategy for the tasks of given numbers, in the given order.

    Attributes:
        subject: What is tested.
        kinds: The kinds of loss; that of task t is ``kinds[t % len(kinds)]``.
        per_task: Whether options that are lists hold a value for each task.
    """

    subject: Subject
    kinds: Sequence[str]
    per_task: bool

    def construct(self, tasks: Sequence[int]) -> Strategy:
        """Build one from the random state as it is; it may raise anything."""
        facts = self.facts(tasks)
        options = self.subject.checked_options()
        if self.per_task:
            for name, value in options.items():
                if isinstance(value, list | tuple) and value:
                    options[name] = [value[task % len(value)] for task in tasks]
        strategy: Strategy = self.subject.component(
            **{fact: facts[fact] for fact in self.subject.signature.facts}, **options
        )
        return strategy

    def facts(self, tasks: Sequence[int]) -> dict[str, Any]:
        """Return what a run would tell it of these tasks."""
        kinds = [self.kinds[task % len(self.kinds)] for task in tasks]
        return {
            "n_tasks": len(tasks),
            "loss_kinds": kinds,
            "n_classes": [n_classes_of(kind, task) for kind, task in zip(kinds, tasks, strict=True)],
            "labels": [f"task {task}" for task in tasks],
        }

    def __call__(self, tasks: Sequence[int], seed: int = 0) -> Strategy:
        """Build one from a seed."""
        with seeded(seed):
            return self.build(tasks)

    def build(self, tasks: Sequence[int]) -> Strategy:
        """Build one from the random state as it is."""
        with asking(f"Its constructor, for {len(tasks)} task{'s' if len(tasks) > 1 else ''},"):
            return self.construct(tasks)

    def problem(self, tasks: Sequence[int], dtype: torch.dtype = torch.float64) -> Problem:
        """Return the problem that these tasks are."""
        return Problem(self.kinds, tasks, dtype)


def maker_of(subject: Subject) -> Maker:
    """Return what builds the strategy for any number of tasks, of kinds of loss that it weighs."""
    with asking("Its options"):
        unknown = [fact for fact in subject.signature.facts if fact not in FACTS["strategies"]]
        subject.checked_options()
    require(
        not unknown,
        f"Its constructor takes {', '.join(unknown)}, which no run has to give",
        "What it is given is called n_tasks, loss_kinds, n_classes and labels; options are keyword-only, after *.",
    )
    refusals: list[ValueError] = []
    for per_task, kinds in itertools.product((False, True), KINDS):
        maker = Maker(subject, kinds, per_task)
        try:
            with seeded():
                maker.construct(range(3))
                maker.construct(range(ODD))
        except ValueError as refusal:
            refusals.append(refusal)
        except Exception:  # noqa: BLE001 - where it is asked again, it says so
            return maker
        else:
            return maker
    raise Nonconformance(
        f"It refuses 3 tasks, or {ODD}, of whatever kinds of loss; it said: {refusals[0]}. "
        "A strategy weighs any number of tasks from 1."
    ) from refusals[0]


def ask(
    strategy: Strategy, losses: Sequence[float] | Tensor, gradients: Tensor, tasks: Sequence[int] | None = None
) -> Weighting:
    """Ask a strategy as a backward pass does, which first tells one that looks ahead how its objectives would answer.

    Args:
        strategy: The strategy.
        losses: The losses of the tasks present ``[K]``.
        gradients: Their gradients ``[K, P]``, of which it is given what it needs.
        tasks: The numbers of the tasks present ``[K]``; None where all are.
    """
    given = torch.as_tensor(losses, dtype=torch.float64).clone()
    present = None if tasks is None else torch.tensor(tasks)
    method = "combine" if strategy.needs is Needs.JACOBIAN else "weights"
    told = f"{method}() of the losses {listed(given)}"
    answer: Any
    if strategy.looks_ahead:
        with asking("objectives() and foresee()"):
            strategy.foresee(_slopes(strategy, gradients, present), present)
    with asking(told):
        if strategy.needs is Needs.JACOBIAN:
            answer = strategy.combine(given, gradients.clone(), present)
        else:
            products = None if strategy.needs is Needs.LOSSES else gradients @ gradients.T
            answer = strategy.weights(given, products, present)
    require(
        isinstance(answer, Weighting) and isinstance(answer.weights, Tensor),
        f"{told} returned {type(answer).__name__}",
        "Return mtlkit.Weighting(weights), with a tensor of one weight for each task present.",
    )
    weighting: Weighting = answer
    return weighting


def _slopes(strategy: Strategy, gradients: Tensor, tasks: Tensor | None) -> Tensor:
    """Return what a strategy that looks ahead is told ``[M, K]`` where held-out gradients are as those of the step."""
    return -TRIAL_RATE * strategy.objectives(tasks) @ (gradients @ gradients.T)


def _weights(
    strategy: Strategy, losses: Sequence[float] | Tensor, gradients: Tensor, tasks: Sequence[int] | None = None
) -> Tensor:
    """Return what a strategy answers, in float64 whatever it answers in."""
    return ask(strategy, losses, gradients, tasks).weights.detach().double()


def _gradients(n_tasks: int, seed: int = 0) -> Tensor:
    """Return gradients ``[K, P]`` of some directions and lengths, of one P throughout."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(n_tasks, 2 * ODD, dtype=torch.float64, generator=generator)
    return gradients * torch.arange(1, n_tasks + 1)[:, None]


def _losses(n_tasks: int, seed: int = 0) -> Tensor:
    """Return positive losses of some sizes."""
    return torch.rand(n_tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5


@CHECKS
def what_it_needs_is_declared(subject: Subject) -> None:
    """Its ``needs`` is one of mtlkit.Needs, and ``over`` says where gradients are taken if it needs them."""
    strategy = maker_of(subject)(range(3))
    needs, over = strategy.needs, strategy.over
    require(
        isinstance(needs, Needs),
        f"needs is {needs!r}",
        "Set needs = mtlkit.Needs.LOSSES, or mtlkit.Needs.GRAMIAN where the gradients' inner products are needed.",
    )
    if needs is Needs.LOSSES:
        require(
            over is None,
            f"It needs losses alone, and over is {over!r}",
            "Set needs = mtlkit.Needs.GRAMIAN if it is to be given gradients' inner products, or leave over out.",
        )
    else:
        require(
            isinstance(over, Over),
            f"It needs {needs.value}, and over is {over!r}",
            "Say where gradients are taken: over = mtlkit.Over.LAST_SHARED, mtlkit.Over.FEATURES or "
            "mtlkit.Over.PARAMETERS.",
        )


@CHECKS
def each_task_present_has_a_weight(subject: Subject) -> None:
    """It answers with one finite float64 weight for each task present, not all of them zero, and a scalar penalty."""
    strategy = maker_of(subject)(range(ODD))
    for step, tasks in enumerate([None, None, [4, 1, 5], [2, 3], None]):
        k = len(tasks) if tasks else ODD
        losses, gradients = _losses(k, step), _gradients(k, step)
        answer = ask(strategy, losses, gradients, tasks)
        told = f"weights() for {k} of {ODD} tasks"
        for which, weights in (("weights", answer.weights), ("head_weights", answer.head_weights)):
            if weights is None:
                continue
            require(
                tuple(weights.shape) == (k,),
                f"{told} returned {which} of shape {tuple(weights.shape)}",
                f"Return one for each task present: {(k,)}.",
            )
            require(
                weights.dtype is torch.float64 and weights.device == losses.device,
                f"{told} returned {which} in {weights.dtype} on {weights.device}",
                f"The losses are in torch.float64 on {losses.device}: compute in that.",
            )
            values = weights.tolist()
            require(
                all(map(math.isfinite, values)) and any(values),
                f"{told} returned the {which} {listed(values)}",
                "Weights are finite, and not all of them zero.",
            )
        penalty = torch.as_tensor(answer.penalty)
        require(
            penalty.ndim == 0 and penalty.isfinite(),
            f"{told} returned the penalty {answer.penalty!r}",
            "Return a finite scalar: the sum over the tasks present.",
        )
        if answer.direction is not None:
            require(
                answer.direction.shape == gradients[0].shape and answer.direction.isfinite().all(),
                f"{told} returned the direction {answer.direction} for gradients of {len(gradients[0])} parameters",
                "Return a finite gradient of the same length as one task's.",
            )


@CHECKS
def no_tasks_are_refused(subject: Subject) -> None:
    """Without any task it raises ValueError when it is constructed."""
    maker = maker_of(subject)
    with asking("Its constructor, for 0 tasks,"), seeded():
        try:
            maker.construct([])
        except ValueError:
            return
    raise Nonconformance(
        "It was constructed for no task. Call super().__init__(n_tasks) first, which raises ValueError."
    )


@CHECKS
def gradients_are_the_weighted_sum(subject: Subject) -> None:
    """A backward pass gives the sum of the tasks' gradients, each times the weight that is told of."""
    maker = maker_of(subject)
    problem, strategy = maker.problem(range(4)), maker(range(4))
    train(problem, strategy, 3)
    for present in (None, [3, 0, 2], [1]):
        tasks = list(range(4)) if present is None else present
        preference = torch.tensor([2.0, 0.5, 1.0, 3.0], dtype=torch.float64)[tasks]
        problem.zero_grad()
        with answers_of(strategy) as answers:
            measured = problem.backward(strategy, present, preference=preference)
        (answer,) = answers
        weights = answer.weights.double() * preference
        own = weights if answer.head_weights is None else answer.head_weights.double() * preference
        size = max(1, float(weights.abs().max()))
        told = f"With the tasks {tasks} present, it answered {listed(answer.weights)}"
        remedy = "weights() only answers with numbers, and leaves them as they are: it takes no gradient and no step."
        require(
            torch.allclose(measured.weights.double(), weights, rtol=1e-10, atol=0),
            f"{told}, and {listed(measured.weights / preference)} was applied",
            remedy,
        )
        expected = problem.combination(_spread(weights, tasks, 4), _spread(own, tasks, 4))
        for name, parameter in problem.named_parameters():
            if answer.direction is not None and name.startswith("encoder"):
                continue  # which is no weighted sum, by its own account
            received = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            require(
                torch.allclose(received, expected[name], rtol=1e-10, atol=1e-12 * size),
                f"{told}, and the gradient at {name} is {_apart(received, expected[name])} off that sum",
                remedy,
            )


@CHECKS
def permuting_the_tasks_permutes_the_weights(subject: Subject) -> None:
    """With the tasks in another order, each has the same weight."""
    maker = maker_of(subject)
    straight = train(maker.problem(range(4)), maker(range(4)), 4)
    for order in ([3, 2, 1, 0], [2, 0, 3, 1], [1, 0, 2, 3]):
        permuted = train(maker.problem(order), maker(order), 4)
        require(
            _close(permuted, straight[:, order]),
            f"With the tasks in the order {order} the last weights are {listed(permuted[-1])}, and with them in order "
            f"{listed(straight[-1][order])} for the same tasks",
            f"Nothing but what is known of a task may tell it from the others. {RANDOM}",
        )


@CHECKS
def tasks_are_told_by_their_numbers(subject: Subject) -> None:
    """The weights are in the order of the tasks that are named as present."""
    maker = maker_of(subject)
    problem, strategy = maker.problem(range(4)), maker(range(4))
    train(problem, strategy, 3)
    strategy.eval()
    expected = problem.backward(strategy).weights.double()
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        received = problem.backward(strategy, order).weights.double()
        require(
            _close(received, expected[order]),
            f"For the tasks {order} it answered {listed(received)}, and for all in order {listed(expected[order])}",
            f"What it knows of a task is at the task's number: self.w[tasks], not self.w[:len(losses)]. {RANDOM}",
        )


@CHECKS
def one_task_is_plain_training(subject: Subject) -> None:
    """A single task, or a single one present, has a positive weight."""
    maker = maker_of(subject)
    refusals: list[ValueError] = []
    for task in range(len(maker.kinds)):
        try:
            with seeded():
                strategy = maker.construct([task])
        except ValueError as refusal:  # of the kind of its loss
            refusals.append(refusal)
            continue
        except Exception:  # noqa: BLE001 - said in the way of the others
            strategy = maker([task])
        for (weight,) in train(maker.problem([task]), strategy, 3).tolist():
            _require_plain(weight, f"A single task, of kind {maker.kinds[task]},")
    if len(refusals) == len(maker.kinds):
        raise Nonconformance(
            f"It refuses a single task: {refusals[0]}. A baseline trains each task alone, with any strategy."
        )
    problem, strategy = maker.problem(range(3)), maker(range(3))
    for task in range(3):
        (weight,) = problem.backward(strategy, [task]).weights.tolist()
        _require_plain(weight, f"Task {task}, alone present of 3,")


def _require_plain(weight: float, which: str) -> None:
    require(
        math.isfinite(weight) and weight > 0,
        f"{which} was given the weight {weight}",
        "Alone, a task is trained as without a strategy, up to a positive factor.",
    )


@CHECKS
def equal_tasks_have_finite_weights(subject: Subject) -> None:
    """Tasks that are one and the same have finite weights, in float32 and float64."""
    maker = maker_of(subject)
    for dtype in (torch.float32, torch.float64):
        weights = train(maker.problem([0, 0, 0], dtype), maker([0, 0, 0]), 5)
        require(
            weights.isfinite().all() and weights.any(1).all(),
            f"Three tasks that are one and the same, in {dtype}, have the weights {listed(weights[-1])}",
            "Their Gram matrix is singular: divide by nothing that may be 0, and solve with a pseudo-inverse.",
        )


@CHECKS
def conflicting_gradients_have_finite_weights(subject: Subject) -> None:
    """Parallel, opposite, orthogonal and vanishing gradients give finite weights."""
    maker = maker_of(subject)
    cases = {
        "parallel": [[1.0, 0.0], [2.0, 0.0]],
        "opposite": [[1.0, 0.0], [-2.0, 0.0]],
        "opposite and equally long": [[1.0, 0.0], [-1.0, 0.0]],
        "orthogonal": [[1.0, 0.0], [0.0, 2.0]],
        "zero but for one": [[1.0, 0.0], [0.0, 0.0]],
        "zero": [[0.0, 0.0], [0.0, 0.0]],
    }
    for told, gradients in cases.items():
        strategy = maker(range(2))
        for _ in range(5):
            weights = _step(strategy, [1.0, 2.0], torch.tensor(gradients, dtype=torch.float64))
            require(
                weights.isfinite().all(),
                f"For gradients that are {told}, {gradients}, it answered {listed(weights)}",
                "Divide by no norm, and by no determinant, that may be 0.",
            )


@CHECKS
def every_scale_has_finite_weights(subject: Subject) -> None:
    """Losses and gradients of 0 and of 1e-30 to 1e30 give finite weights, and no infinity in its state."""
    maker = maker_of(subject)
    combinations = list(itertools.product(SCALES, repeat=3))
    for start in range(0, len(combinations), 4):
        strategy = maker(range(3))
        before = _state_of(strategy)
        for place in range(start, start + 4):
            losses = combinations[place]
            # 85 has no divisor in common with their number: each combination of norms comes once, beside other losses.
            norms = torch.tensor(combinations[(85 * place + 43) % len(combinations)], dtype=torch.float64)
            for told, gradients in (
                ("parallel", norms[:, None] * torch.ones(3) / 3**0.5),
                ("orthogonal", norms.diag()),
            ):
                weights = _step(strategy, losses, gradients)
                case = f"For the losses {listed(losses)} and {told} gradients of the norms {listed(norms)}"
                require(
                    weights.isfinite().all(),
                    f"{case} it answered {listed(weights)}",
                    "Divide by nothing that may be 0, and take the exponential of nothing that may be large.",
                )
                infinite = [
                    name for name, value in strategy.state_dict().items() if _has_infinity(value, before.get(name))
                ]
                require(
                    not infinite,
                    f"{case} its state has an infinity in {', '.join(infinite)}",
                    "It would stay there for the rest of the run.",
                )


@CHECKS
def gradients_stay_finite_in_float32(subject: Subject) -> None:
    """In float32, a loss scaled by 0, 1e-30 or 1e30 leaves every gradient finite."""
    maker = maker_of(subject)
    for scale in (0.0, 1e-30, 1e30):
        problem, strategy = maker.problem(range(3), torch.float32), maker(range(3))
        problem.factors[1] = scale
        for _ in range(3):
            measured = problem.backward(strategy)
            require(
                all(p.grad is None or bool(p.grad.isfinite().all()) for p in problem.parameters()),
                f"With the loss of task 1 times {scale} a gradient left float32; the weights are "
                f"{listed(measured.weights)}",
                "A weight times its gradient has to stay below 3e38.",
            )


@CHECKS
def a_restored_run_goes_on_bit_for_bit(subject: Subject) -> None:
    """Once its state went through a checkpoint, the next steps are the same, bit for bit."""
    maker = maker_of(subject)
    tasks = range(3)
    problem, strategy = maker.problem(tasks), maker(tasks, 1)
    optimizer = optimizer_of(problem, strategy)
    train(problem, strategy, 4, optimizer)
    restored, again = maker.problem(tasks), maker(tasks, 2)
    optimizer_again = optimizer_of(restored, again)
    with tempfile.TemporaryDirectory() as temporary, asking("Its state, saved to a checkpoint and loaded from it,"):
        folder = Path(temporary, "checkpoint")
        state = {"strategy": strategy.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoint.save(folder, step=4, model=problem, state=state)
        checkpoint.load_weights(folder, restored)
        loaded = checkpoint.load_state(folder)
        again.load_state_dict(loaded["strategy"])
        optimizer_again.load_state_dict(loaded["optimizer"])
    remedy = "All its state belongs in parameters and buffers, the state of a random generator too."
    straight, resumed = train(problem, strategy, 4, optimizer), train(restored, again, 4, optimizer_again)
    require(
        torch.equal(straight, resumed),
        f"After a checkpoint the weights went on as {listed(resumed[-1])}, and without it as {listed(straight[-1])}, "
        f"{_apart(straight, resumed)} apart",
        remedy,
    )
    different = _differing(strategy.state_dict(), again.state_dict())
    require(not different, f"After a checkpoint its state went on otherwise in {', '.join(different)}", remedy)


@CHECKS
def state_is_in_float64(subject: Subject) -> None:
    """The floating-point tensors of its state are in float64."""
    state = maker_of(subject)(range(3)).state_dict()
    short = [f"{name} ({value.dtype})" for name, value in state.items() if _is_short(value)]
    require(
        not short,
        f"Its state is in a shorter dtype than float64 in {', '.join(short)}",
        "The square of a gradient is soon out of float32: dtype=torch.float64.",
    )


@CHECKS
def absent_tasks_are_left_alone(subject: Subject) -> None:
    """The state of a task that is absent from a step is not changed by it, nor by the optimizer's step after it.

    State for each task is a tensor with T as its first dimension, or a tensor whose last name is the task's number.
    Other state, such as a count of steps, may change.
    """
    maker = maker_of(subject)
    for present in ([0], [1, 3], [6, 0, 2]):
        problem, strategy = maker.problem(range(ODD)), maker(range(ODD))
        optimizer = optimizer_of(problem, strategy)
        train(problem, strategy, 3, optimizer)
        before = _state_of(strategy)
        optimizer.zero_grad()
        problem.backward(strategy, present)
        after_weights = _state_of(strategy)
        optimizer.step()
        problem.observe(strategy, present)
        after = _state_of(strategy)
        absent = [task for task in range(ODD) if task not in present]
        for by, state in (("weights()", after_weights), ("the step after it", after)):
            for name, value in state.items():
                changed = _changed(name, before[name], value, absent)
                require(
                    not changed,
                    f"With the tasks {present} of {ODD} present, {by} changed {name} of the absent tasks "
                    f"{', '.join(map(str, changed))}",
                    "Update self.state[tasks] alone. An optimizer with a memory moves every parameter that has a "
                    "gradient, a gradient of 0 too: keep one parameter a task, in an nn.ParameterList.",
                )


@CHECKS
def evaluation_changes_no_state(subject: Subject) -> None:
    """In evaluation mode its state stays as it is."""
    maker = maker_of(subject)
    problem, strategy = maker.problem(range(3)), maker(range(3))
    train(problem, strategy, 2)
    strategy.eval()
    before = _state_of(strategy)
    for present in (None, [2, 0]):
        problem.backward(strategy, present)
        changed = _differing(before, strategy.state_dict())
        require(
            not changed,
            f"In evaluation mode weights() changed {', '.join(changed)}",
            "Update the state where self.training is true.",
        )


@CHECKS
def what_it_is_given_is_not_changed(subject: Subject) -> None:
    """The losses, the Gram matrix, the slopes and the numbers of the tasks present are left as they are."""
    maker = maker_of(subject)
    strategy = maker(range(3))
    for order in ([0, 1, 2], [2, 0], [1]):
        gradients = _gradients(len(order))
        given = {"losses": _losses(len(order)), "gramian": gradients @ gradients.T, "tasks": torch.tensor(order)}
        kept = {name: value.clone() for name, value in given.items()}
        if strategy.looks_ahead:
            with asking("objectives() and foresee()"):
                given["slopes"] = _slopes(strategy, gradients, given["tasks"])
                kept["slopes"] = given["slopes"].clone()
                strategy.foresee(given["slopes"], given["tasks"])
        with asking("weights()"):
            if strategy.needs is Needs.JACOBIAN:  # which may be written over
                strategy.combine(given["losses"], gradients, given["tasks"])
            elif strategy.needs is Needs.LOSSES:
                strategy.weights(given["losses"], None, given["tasks"])
            else:
                strategy.weights(given["losses"], given["gramian"], given["tasks"])
        changed = [name for name, value in given.items() if not torch.equal(value, kept[name])]
        require(
            not changed,
            f"{'foresee' if 'slopes' in changed else 'weights'}() changed its argument {' and '.join(changed)}",
            "They are what the run records, too: compute with copies, and with no method whose name ends in '_'.",
        )


@CHECKS
def global_random_state_is_left_alone(subject: Subject) -> None:
    """It draws from a generator of its own; only its construction may draw from torch's."""
    maker = maker_of(subject)
    require_construction_leaves_random_state(lambda: maker.build(range(3)), "The strategy")
    strategy = maker(range(3))
    for mode in ("training", "evaluation"):
        with asking("train()"):
            strategy.train(mode == "training")
        with seeded():
            before = RandomStates.now()
            _step(strategy, _losses(3), _gradients(3))
            changed = before.changed()
        require(
            not changed,
            f"weights() changed {' and '.join(changed)} global random state in {mode} mode",
            "Draw from a torch.Generator of its own, whose state is in a buffer.",
        )


@CHECKS
def the_same_seed_gives_the_same_weights(subject: Subject) -> None:
    """Two strategies that are built from the same seed answer alike, bit for bit."""
    maker = maker_of(subject)
    first, second = (train(maker.problem(range(3)), maker(range(3), 3), 4) for _ in range(2))
    require(
        torch.equal(first, second),
        f"Built twice from the same seed, it came to the weights {listed(first[-1])} and {listed(second[-1])}, "
        f"{_apart(first, second)} apart",
        "Seed its generator from an option, or from a number drawn from torch's when it is constructed.",
    )


@CHECKS
def what_it_learns_is_not_decayed(subject: Subject) -> None:
    """Every group of parameter_groups() sets weight_decay to 0."""
    for group in _groups(maker_of(subject)(range(3))):
        decay = group.get("weight_decay")
        require(
            decay == 0,
            f"A group of parameter_groups() has {'no weight_decay' if decay is None else f'weight_decay {decay}'}",
            "Decay would pull the weights to wherever 0 is for them: set 'weight_decay': 0.0.",
        )


@CHECKS
def what_it_learns_is_trained(subject: Subject) -> None:
    """parameter_groups() are parameters of its own, each once, and a backward pass gives each a gradient."""
    maker = maker_of(subject)
    problem, strategy = maker.problem(range(3)), maker(range(3))
    names = {id(parameter): name for name, parameter in strategy.named_parameters()}
    learned = [parameter for group in _groups(strategy) for parameter in group["params"]]
    require(
        all(id(parameter) in names for parameter in learned),
        "parameter_groups() has tensors in it that are none of its parameters()",
        "A checkpoint holds only what is a parameter or a buffer of it: assign an nn.Parameter to an attribute.",
    )
    require(
        len(learned) == len(set(map(id, learned))),
        "parameter_groups() has a parameter in it twice",
        "It would be stepped twice.",
    )
    for _ in range(3):
        problem.backward(strategy)
    idle = [names[id(parameter)] for parameter in learned if parameter.requires_grad and parameter.grad is None]
    require(
        not idle,
        f"A backward pass gives no gradient to {', '.join(idle)}, which parameter_groups() says is learned",
        "Its gradient is that of sum(weights * losses) + penalty, and is taken where weights depends on parameters: "
        "return weights without detach(), and compute them without torch.no_grad().",
    )


@CHECKS
def what_it_looks_ahead_to_is_declared(subject: Subject) -> None:
    """If it looks ahead, it gives trial weights and objectives for the tasks present, and they change no state."""
    strategy = maker_of(subject)(range(ODD))
    require(
        isinstance(strategy.looks_ahead, bool),
        f"looks_ahead is {strategy.looks_ahead!r}",
        "Set looks_ahead = True if it is to hear of held-out losses, or leave it out.",
    )
    if not strategy.looks_ahead:
        return
    for tasks in (None, [4, 1, 5], [2]):
        present, k = (None, ODD) if tasks is None else (torch.tensor(tasks), len(tasks))
        before = _state_of(strategy)
        with asking("trial() or objectives()"):
            asked: dict[str, Any] = {"trial": strategy.trial(present), "objectives": strategy.objectives(present)}
        for name, answer in asked.items():
            n_dims = 1 if name == "trial" else 2
            fits = isinstance(answer, Tensor) and answer.ndim == n_dims and answer.shape[-1] == k
            require(
                fits and answer.dtype is torch.float64 and answer.isfinite().all(),
                f"{name}() for {k} of {ODD} tasks returned {answer!r}",
                f"Return a finite tensor in torch.float64 of shape {'[K]' if n_dims == 1 else '[M, K]'}, here K = {k}.",
            )
        changed = _differing(before, strategy.state_dict())
        require(
            not changed,
            f"trial() or objectives() changed its state in {', '.join(changed)}",
            "They only tell. What it learns, it learns in foresee(), from what came of the trial step.",
        )


@CHECKS
def an_outlook_that_is_not_finite_leaves_it_finite(subject: Subject) -> None:
    """If it looks ahead, a trial step that led to NaN or infinity leaves its weights and its state finite."""
    maker = maker_of(subject)
    for value in (math.nan, math.inf, -math.inf):
        strategy = maker(range(3))
        if not strategy.looks_ahead:
            return
        slopes = torch.ones(len(strategy.objectives()), 3, dtype=torch.float64)
        slopes[:, 1] = value
        _require_finite_after(strategy, strategy.foresee, slopes, f"foresee() of a slope of {value}", "slopes")


@CHECKS
def a_step_that_led_to_nan_leaves_it_finite(subject: Subject) -> None:
    """If it watches the step, losses that are NaN or infinite after it leave its weights and its state finite."""
    maker = maker_of(subject)
    for value in (math.nan, math.inf, -math.inf):
        problem, strategy = maker.problem(range(3)), maker(range(3))
        if not strategy.watches_step:
            return
        problem.backward(strategy)
        losses = torch.tensor([1.0, value, 2.0], dtype=torch.float64)
        _require_finite_after(strategy, strategy.observe, losses, f"observe() of a loss of {value}", "losses")


def _require_finite_after(
    strategy: Strategy, tell: Callable[[Tensor], None], values: Tensor, what: str, name: str
) -> None:
    """Tell a strategy of values that are not finite, which it may refuse, and look at what it is then."""
    before = _state_of(strategy)
    with asking(what), contextlib.suppress(NonFiniteError):
        tell(values)
    spoilt = [
        name
        for name, state in strategy.state_dict().items()
        if isinstance(state, Tensor) and bool((~state.isfinite() & before[name].isfinite()).any())
    ]
    remedy = f"Leave the state as it is, or raise mtlkit.errors.NonFiniteError, unless {name}.isfinite().all()."
    require(not spoilt, f"After {what} its state is not finite in {' '.join(spoilt)}", remedy)
    weights = _weights(strategy, _losses(3), _gradients(3))
    require(weights.isfinite().all(), f"After {what} it answers {listed(weights)}", remedy)


@CHECKS
def nothing_is_printed(subject: Subject) -> None:
    """It prints nothing when it is constructed and asked."""
    maker = maker_of(subject)

    def act() -> None:
        train(maker.problem(range(3)), maker(range(3)), 2)

    require_silence(act, "The strategy")


def _step(strategy: Strategy, losses: Sequence[float] | Tensor, gradients: Tensor) -> Tensor:
    """Ask a strategy for the weights of all tasks, then tell it what a run would tell it after the step."""
    weights = _weights(strategy, losses, gradients)
    if strategy.training:
        with asking("What a strategy hears after a step"):
            if strategy.watches_step:
                strategy.observe(0.9 * torch.as_tensor(losses, dtype=torch.float64))
            strategy.end_epoch()
    return weights


def _spread(weights: Tensor, present: Sequence[int], n_tasks: int) -> Tensor:
    """Return the weights of all tasks, 0 for those absent."""
    spread = torch.zeros(n_tasks, dtype=torch.float64)
    spread[list(present)] = weights
    return spread


def _groups(strategy: Strategy) -> list[dict[str, Any]]:
    with asking("parameter_groups()"):
        groups = [dict(group) for group in strategy.parameter_groups()]
        return [group | {"params": list(group["params"])} for group in groups]


def _state_of(strategy: Strategy) -> dict[str, Any]:
    with asking("Its state_dict()"):
        return dict(copy.deepcopy(strategy.state_dict()))


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [
        name for name in {**one, **other} if name not in one or name not in other or _differ(one[name], other[name])
    ]


def _differ(one: Any, other: Any) -> bool:
    """Return whether two pieces of state differ in a bit; NaN, which may stand for what is not known yet, is itself."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype is not other.dtype:
            return True
        return not bool(((one == other) | (one.isnan() & other.isnan())).all())
    return bool(one != other)


def _changed(name: str, before: Any, after: Any, absent: Sequence[int]) -> list[int]:
    """Return the tasks among those absent whose part of a piece of state has changed."""
    last = name.rpartition(".")[2]
    if last.isdecimal():  # one tensor for each task
        return [int(last)] if int(last) in absent and _differ(before, after) else []
    if not isinstance(after, Tensor) or after.shape[:1] != (ODD,):
        return []
    return [task for task in absent if _differ(before[task], after[task])]


def _is_short(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype is not torch.float64


def _has_infinity(value: Any, before: Any) -> bool:
    """Return whether there is an infinity in a piece of state that does not stand for what is not known yet."""
    if not isinstance(value, Tensor) or not isinstance(before, Tensor):
        return False
    return bool((value.isinf() & ~(before.isinf() if before.shape == value.shape else value.isnan())).any())


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether weights are equal but for the rounding of another order, which a solver may amplify."""
    largest = float(other.abs().max().nan_to_num())
    return torch.allclose(one, other, rtol=1e-6, atol=1e-8 * largest, equal_nan=True)


def _apart(one: Tensor, other: Tensor) -> str:
    return f"{float((one - other).detach().abs().max()):.3g}"
