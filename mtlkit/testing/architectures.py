"""What every architecture promises: features for each task that is asked for, and what is shared between them."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtlkit.architectures.base import Architecture
from mtlkit.builtins import BUILTINS
from mtlkit.encoders.base import Encoder
from mtlkit.encoders.cnn import CNN
from mtlkit.encoders.mlp import MLP
from mtlkit.encoders.tabular import Tabular
from mtlkit.errors import NonFiniteError
from mtlkit.gradients import Outlook, backward, look_ahead
from mtlkit.options import signature_of
from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.strategies.base import Over, Strategy
from mtlkit.tensors import Tensors
from mtlkit.testing.checks import Checks, Nonconformance, require
from mtlkit.testing.modules import (
    Trial,
    is_close,
    is_nonzero,
    other_rows,
    require_weighted,
    rows_of,
    told_rows,
)
from mtlkit.testing.probes import asking, seeded
from mtlkit.testing.subject import Subject

__all__ = ["CHECKS"]

CHECKS = Checks()

NUMBERS = (1, 2, 3)  # of tasks
IMAGE_DIMENSIONS = 3


class Maps(Encoder):
    """An encoder whose features keep the image's height and width."""

    def __init__(self, inputs: InputSpec) -> None:
        super().__init__()
        channels, height, width = inputs.shape
        self.layer = nn.Conv2d(channels, 4, 3, padding=1)
        self.features = FeatureSpec((4, height, width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Turn images into maps ``[B, 4, height, width]``."""
        return torch.tanh(self.layer(inputs))


MakeEncoder = Callable[[], Encoder]


def _encoders(subject: Subject) -> Iterator[tuple[str, InputSpec, MakeEncoder]]:
    """Yield the encoders to build it on: what to call each, its rows, and the function that makes one."""
    for inputs in subject.inputs or (InputSpec((4,)), InputSpec((1, 6, 6))):
        if inputs.parts or inputs.categories:
            tabular = functools.partial(Tabular, inputs, width=5, embedding=3, activation="tanh")
            yield f"tabular encoders for {told_rows(inputs)}", inputs, tabular
        elif len(inputs.shape) == IMAGE_DIMENSIONS:
            cnn = functools.partial(CNN, inputs, channels=(4,), layers=(5,), activation="tanh")
            yield f"cnn encoders for rows of shape {inputs.shape}", inputs, cnn
            maps = functools.partial(Maps, inputs)
            yield f"encoders of features (4, height, width) for rows of shape {inputs.shape}", inputs, maps
        else:
            mlp = functools.partial(MLP, inputs, layers=(6, 5), activation="tanh")
            yield f"mlp encoders for rows of shape {inputs.shape}", inputs, mlp


class _Case(NamedTuple):
    """An architecture on encoders of one sort, for some number of tasks.

    Attributes:
        n_tasks: The number of tasks.
        make_on: Builds one more on encoders that the given function makes.
        make_encoder: Makes an encoder of this sort.
        trial: One that is asked for the features of all tasks, with rows.
    """

    n_tasks: int
    make_on: Callable[[MakeEncoder], Architecture]
    make_encoder: MakeEncoder
    trial: Trial

    @property
    def what(self) -> str:
        return self.trial.what

    def build(self) -> Architecture:
        with seeded():
            return self.make_on(self.make_encoder)

    def asked_for(self, tasks: Sequence[int]) -> Trial:
        """Return a trial of the same architecture that is asked for the features of these tasks."""
        return replace(self.trial, run=functools.partial(_run, tasks=tasks))

    def shared_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        with asking(f"{self.what}, asked for its shared_parameters(),"):
            return list(architecture.shared_parameters())

    def gradients(
        self, architecture: Architecture, parameters: Sequence[nn.Parameter]
    ) -> tuple[list[list[Tensor | None]], list[list[Tensor | None]]]:
        """Return for each task the gradient of its features at each parameter, in training and in evaluation mode.

        Some layers act in one mode alone.
        """
        trained, evaluated = self.trial.train(architecture), self.trial.evaluate(architecture, gradients=True)
        return (
            [self.trial.gradients([features], parameters) for features in trained],
            [self.trial.gradients([features], parameters) for features in evaluated],
        )

    def reached(self, architecture: Architecture, parameters: Sequence[nn.Parameter]) -> list[list[bool]]:
        """Return for each task which parameters its features depend on, in one mode or the other."""
        modes = self.gradients(architecture, parameters)
        return [
            [a is not None or b is not None for a, b in zip(*pair, strict=True)] for pair in zip(*modes, strict=True)
        ]

    def moved(self, architecture: Architecture, parameters: Sequence[nn.Parameter]) -> list[list[bool]]:
        """Return for each task at which parameters its gradient is not zero, in one mode or the other."""
        modes = self.gradients(architecture, parameters)
        return [
            [is_nonzero(a) or is_nonzero(b) for a, b in zip(*pair, strict=True)] for pair in zip(*modes, strict=True)
        ]


def _run(architecture: nn.Module, rows: Tensors, *, tasks: Sequence[int]) -> list[Tensor]:
    remedy = "Return a list with one tensor of features for each task that was asked for."
    received = architecture(rows, list(tasks))
    require(isinstance(received, list | tuple), f"forward() returned {type(received).__name__}", remedy)
    others = [type(each).__name__ for each in received if not isinstance(each, Tensor)]
    require(not others, f"forward() returned a list with {', '.join(others)} in it", remedy)
    require(
        len(received) == len(tasks),
        f"forward() returned {len(received)} tensors when it was asked for the tasks {list(tasks)}",
        remedy,
    )
    return list(received)


def _make(subject: Subject, inputs: InputSpec, n_tasks: int, make_encoder: MakeEncoder) -> Architecture:
    """Build one.

    Raises:
        ValueError: If it refuses encoders of this sort, or this number of tasks.
        Nonconformance: If it fails otherwise.
    """
    facts = {"make_encoder": make_encoder, "n_tasks": n_tasks, "inputs": inputs}
    with asking("Its options"):
        options = subject.checked_options()
        asked = subject.signature.facts
    unknown = [fact for fact in asked if fact not in facts]
    require(
        not unknown,
        f"Its constructor takes {', '.join(unknown)}, which no run has to give",
        "What it is given is called make_encoder, n_tasks and inputs; options are keyword-only, after *.",
    )
    try:
        architecture: Architecture = subject.component(**{fact: facts[fact] for fact in asked}, **options)
    except ValueError:
        raise
    except Exception as error:
        raise Nonconformance(
            f"Constructing it for {n_tasks} tasks raised {type(error).__name__}: {error}. "
            "Refuse an encoder that it cannot share with a ValueError which says what it needs."
        ) from error
    return architecture


def _case(subject: Subject, told: str, inputs: InputSpec, make_encoder: MakeEncoder, n_tasks: int) -> _Case:
    """Return one case.

    Raises:
        ValueError: If it refuses encoders of this sort, or this number of tasks.
        Nonconformance: If it cannot be built, or cannot take the rows that its encoders take.
    """
    rows = rows_of(inputs)
    trial = Trial(
        f"The architecture for {n_tasks} task{'s' if n_tasks > 1 else ''} on {told}",
        functools.partial(_make, subject, inputs, n_tasks, make_encoder),
        functools.partial(_run, tasks=range(n_tasks)),
        rows,
        other_rows(rows, inputs),
    )
    trial.evaluate(trial.build())
    return _Case(n_tasks, functools.partial(_make, subject, inputs, n_tasks), make_encoder, trial)


def _cases(subject: Subject) -> list[_Case]:
    """Return it on each sort of encoder, for each number of tasks; what fails there is for the first check to say."""
    cases: list[_Case] = []
    failures: list[Exception] = []
    for (told, inputs, make_encoder), n_tasks in itertools.product(_encoders(subject), NUMBERS):
        try:
            cases.append(_case(subject, told, inputs, make_encoder, n_tasks))
        except (Nonconformance, ValueError) as failure:
            failures.append(failure)
    if not cases:
        broken = [failure for failure in failures if isinstance(failure, Nonconformance)]
        raise broken[0] if broken else _refused_all(failures)
    return cases


def _refused_all(failures: Sequence[Exception]) -> Nonconformance:
    return Nonconformance(
        f"It takes no sort of encoder; it said: {failures[0]}. "
        "An architecture is built on whichever encoder is configured: look no further into it than its features."
    )


@CHECKS
def any_number_of_tasks_can_share(subject: Subject) -> None:
    """It is built for one, two and three tasks on some sort of encoder, and refuses others with a ValueError."""
    refusals: dict[str, list[Exception]] = {}
    for told, inputs, make_encoder in _encoders(subject):
        refusals[told] = []
        for n_tasks in NUMBERS:
            try:
                _case(subject, told, inputs, make_encoder, n_tasks)
            except ValueError as refusal:
                refusals[told].append(refusal)
        require(
            len(refusals[told]) in {0, len(NUMBERS)},
            f"It takes {told}, and yet not for every number of tasks: {next(iter(refusals[told]), '')}",
            "Any number of tasks from 1 may share: a baseline trains each task alone, on the same architecture.",
        )
    if all(refusals.values()):
        raise _refused_all(list(itertools.chain(*refusals.values())))


@CHECKS
def encoders_are_made_for_it(subject: Subject) -> None:
    """It calls make_encoder at least once, and every encoder that it made is one of its submodules."""
    for case in _cases(subject):
        made: list[Encoder] = []

        def make_encoder(case: _Case = case, made: list[Encoder] = made) -> Encoder:
            made.append(case.make_encoder())
            return made[-1]

        with seeded():
            architecture = case.make_on(make_encoder)
        require(made, f"{case.what} called make_encoder not once", "The encoder that is configured is what is shared.")
        own = set(map(id, architecture.modules()))
        lost = sum(id(encoder) not in own for encoder in made)
        require(
            not lost,
            f"{case.what} made {len(made)} encoders, and {lost} of them are none of its submodules",
            "Keep each as an attribute or in an nn.ModuleList: a plain list hides it from the optimizer and from "
            "checkpoints.",
        )


@CHECKS
def features_are_what_it_says(subject: Subject) -> None:
    """It returns one tensor ``[B, *features.shape]`` for each task that is asked for, whichever they are."""
    for case in _cases(subject):
        architecture = case.build()
        features = _features(case, architecture)
        for size in range(1, case.n_tasks + 1):
            for tasks in itertools.permutations(range(case.n_tasks), size):
                trial = case.asked_for(tasks)
                for n in (2, 5):
                    trial.require_features(trial.train(architecture, trial.first(n)), features, n)
                    trial.require_features(trial.evaluate(architecture, trial.first(n)), features, n)


@CHECKS
def features_follow_the_tasks_asked_for(subject: Subject) -> None:
    """A task is given the same features in evaluation mode, whichever others are asked for and in whatever order."""
    for case in _cases(subject):
        architecture = _stirred(case)
        together = case.trial.evaluate(architecture)
        for size in range(1, case.n_tasks + 1):
            for tasks in itertools.permutations(range(case.n_tasks), size):
                for task, features in zip(tasks, case.asked_for(tasks).evaluate(architecture), strict=True):
                    require(
                        is_close(features, together[task]),
                        f"{case.what} made other features for task {task} when it was asked for the tasks "
                        f"{list(tasks)} than when it was asked for all",
                        "The tasks that are asked for are numbers of tasks, not places: return their features in that "
                        "order.",
                    )


@CHECKS
def shared_features_are_one_tensor(subject: Subject) -> None:
    """Where tasks share features, they are given one and the same tensor."""
    for case in _cases(subject):
        received = case.trial.evaluate(_stirred(case))
        for (i, one), (j, other) in itertools.combinations(enumerate(received), 2):
            require(
                one is other or not torch.equal(one, other),
                f"{case.what} made equal features for the tasks {i} and {j} in two tensors",
                "Compute them once and return that tensor for both, so that it is backpropagated once.",
            )


@CHECKS
def one_row_can_be_encoded(subject: Subject) -> None:
    """A batch of one row is encoded in evaluation mode."""
    for case in _cases(subject):
        case.trial.require_single_row()


@CHECKS
def features_are_finite(subject: Subject) -> None:
    """Its features of standard-normal rows are finite."""
    for case in _cases(subject):
        case.trial.require_finite()


@CHECKS
def shared_parameters_are_its_own(subject: Subject) -> None:
    """shared_parameters() are some of its parameters, each once."""
    for case in _cases(subject):
        architecture = case.build()
        shared = case.shared_parameters(architecture)
        own = set(map(id, architecture.parameters()))
        strange = [type(each).__name__ for each in shared if id(each) not in own]
        require(
            not strange,
            f"{case.what} counts as shared what is none of its parameters ({', '.join(strange[:3])})",
            "Return parameters of its submodules, themselves and not their data.",
        )
        require(
            len(set(map(id, shared))) == len(shared),
            f"{case.what} counts {len(shared) - len(set(map(id, shared)))} parameters as shared more than once",
            "Their gradients would count more than once.",
        )
        require(
            shared or case.n_tasks == 1,
            f"{case.what} shares no parameter",
            "Return the parameters that more than one task trains.",
        )


@CHECKS
def shared_parameters_are_those_that_tasks_share(subject: Subject) -> None:
    """shared_parameters() are the parameters that more than one task trains."""
    for case in _cases(subject):
        if case.n_tasks == 1:
            continue
        architecture = case.build()
        listed = set(map(id, case.shared_parameters(architecture)))
        named = {name: each for name, each in architecture.named_parameters() if each.requires_grad}
        reached = case.reached(architecture, list(named.values()))
        # A computation for all tasks at once gives a gradient of zero where there is none: it counts for no sharing.
        moved = case.moved(architecture, list(named.values()))
        for task, reaches in enumerate(reached):
            require(
                any(yes and id(each) in listed for yes, each in zip(reaches, named.values(), strict=True))
                or not any(id(each) in listed for each in named.values()),
                f"{case.what} makes features for task {task} that depend on none of its shared_parameters()",
                "Let every task use what is shared, without detach() or torch.no_grad().",
            )
        for place, (name, parameter) in enumerate(named.items()):
            tasks = [task for task in range(case.n_tasks) if reached[task][place]]
            require(
                len(tasks) > 1 or id(parameter) not in listed,
                f"{case.what} counts '{name}' as shared, and it is trained by {_numbered(tasks)}",
                "shared_parameters() are those that more than one task trains.",
            )
            tasks = [task for task in range(case.n_tasks) if moved[task][place]]
            require(
                len(tasks) < 2 or id(parameter) in listed,  # noqa: PLR2004 - two make sharing
                f"{case.what} does not count '{name}' as shared, and it is trained by {_numbered(tasks)}",
                "shared_parameters() are all that more than one task trains: strategies compare gradients there.",
            )


@CHECKS
def last_shared_layer_is_shared_by_all(subject: Subject) -> None:
    """last_shared_layer() is a layer of its own, or several; every task depends on a weight there, and it is shared."""
    for case in _cases(subject):
        architecture = case.build()
        with asking(f"{case.what}, asked for its last_shared_layer(),"):
            answer = architecture.last_shared_layer()
            layers = list(answer) if isinstance(answer, list | tuple) else [answer]
        remedy = "Return the last layer that all tasks share: GradNorm compares their gradients there."
        require(layers, f"{case.what} answered last_shared_layer() with no layer", remedy)
        weights = [require_weighted(layer, architecture, case.what, "last_shared_layer") for layer in layers]
        if not all(weight.requires_grad for weight in weights):
            continue
        for task, reached in enumerate(case.reached(architecture, weights)):
            require(
                any(reached),
                f"{case.what} answered last_shared_layer() with {answer}, and the features of task {task} do not "
                "depend on a weight there",
                remedy,
            )
        shared = set(map(id, case.shared_parameters(architecture)))
        for layer, weight in zip(layers, weights, strict=True):
            require(
                case.n_tasks == 1 or id(weight) in shared,
                f"{case.what} answered last_shared_layer() with {layer}, and its shared_parameters() do not have that "
                "layer's weight",
                remedy,
            )


@CHECKS
def every_strategy_can_weigh_it(subject: Subject) -> None:
    """With each strategy that mtlkit ships, a backward pass gives finite gradients."""
    for case in _cases(subject):
        for strategy in _strategies(case.n_tasks):
            architecture = case.build()
            parameters = [each for each in architecture.parameters() if each.requires_grad]
            if not parameters:
                continue
            if case.n_tasks == 1 and strategy.over is Over.PARAMETERS:
                continue  # a task alone need share nothing
            told = f"{case.what}, trained with the strategy {type(strategy).__name__},"
            overflown = False
            with asking(told):
                try:
                    ahead = _outlook(case, architecture, strategy)
                    features = case.trial.train(architecture)
                    backward(_losses(features), strategy=strategy, features=features, shared=architecture, ahead=ahead)
                except NonFiniteError:
                    overflown = True
            require(not overflown, f"{told} had NaN or infinite gradients", _FINITE)
            gradients = [each.grad for each in parameters if each.grad is not None]
            require(
                gradients and all(bool(gradient.isfinite().all()) for gradient in gradients),
                f"{told} had {'NaN or infinite' if gradients else 'no'} gradients",
                _FINITE,
            )


_FINITE = "Look for a division by a deviation that may be 0, or a detach()."


@CHECKS
def evaluation_mode_reaches_every_layer(subject: Subject) -> None:
    """eval() puts every one of its layers in evaluation mode."""
    for case in _cases(subject):
        case.trial.require_evaluation_mode_everywhere()


@CHECKS
def evaluation_is_deterministic(subject: Subject) -> None:
    """In evaluation mode the same rows give the same features, bit for bit."""
    for case in _cases(subject):
        case.trial.require_deterministic_evaluation()


@CHECKS
def evaluation_draws_no_random_numbers(subject: Subject) -> None:
    """In evaluation mode it leaves the global random state as it is."""
    for case in _cases(subject):
        case.trial.require_no_random_numbers_in_evaluation()


@CHECKS
def rows_are_independent_in_evaluation(subject: Subject) -> None:
    """In evaluation mode the features of a row do not depend on the other rows of the batch."""
    for case in _cases(subject):
        case.trial.require_independent_rows()


@CHECKS
def rows_are_apart_where_it_says_so(subject: Subject) -> None:
    """If it says row_by_row, the features of a row are its own in training too, and a pass changes no buffer."""
    for case in _cases(subject):
        case.trial.require_rows_apart()


@CHECKS
def rows_are_not_changed(subject: Subject) -> None:
    """The rows that it is given are left as they are."""
    for case in _cases(subject):
        case.trial.require_unchanged_inputs()


@CHECKS
def state_goes_through_a_checkpoint(subject: Subject) -> None:
    """An architecture of another seed with its state makes the same features, bit for bit."""
    for case in _cases(subject):
        case.trial.require_state_round_trip()


@CHECKS
def the_same_seed_gives_the_same_weights(subject: Subject) -> None:
    """Two architectures that are built from the same seed are equal."""
    for case in _cases(subject):
        case.trial.require_same_seed_same_weights()


@CHECKS
def construction_leaves_random_state_alone(subject: Subject) -> None:
    """Its construction draws from torch's global generator at most, and seeds none."""
    for case in _cases(subject):
        case.trial.require_construction_leaves_random_state()


@CHECKS
def float64_is_kept(subject: Subject) -> None:
    """After .double() it computes in float64."""
    for case in _cases(subject):
        case.trial.require_float64()


@CHECKS
def copies_stand_alone(subject: Subject) -> None:
    """A deep copy makes the same features, whatever happens to the original."""
    for case in _cases(subject):
        case.trial.require_copies()


@CHECKS
def nothing_is_printed(subject: Subject) -> None:
    """It prints nothing when it is constructed and run."""
    for case in _cases(subject):
        case.trial.require_silence()


def _stirred(case: _Case) -> Architecture:
    """Return an architecture whose weights are no initial ones, under which tasks may look alike that are not."""
    architecture = case.build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=0.1)
    return architecture


def _losses(features: Sequence[Tensor]) -> list[Tensor]:
    """Return a loss of each task's features ``[B, *]``: how far their mean is from a number of its own."""
    return [(z.reshape(len(z), -1).mean(1) - 1 - task).square().mean() for task, z in enumerate(features)]


def _outlook(case: _Case, architecture: Architecture, strategy: Strategy) -> Outlook | None:
    """Return what a strategy that looks ahead has to know, from the rows of the trial as those that were held out."""
    if not strategy.looks_ahead:
        return None

    def run() -> list[Tensor]:
        return _losses(case.trial.train(architecture))

    optimizer = torch.optim.SGD(architecture.parameters(), lr=0.01)
    return look_ahead(strategy, training=run, held_out=run, model=architecture, optimizer=optimizer)


def _strategies(n_tasks: int) -> list[Strategy]:
    """Return one strategy of each sort that ships, with its default options."""
    facts = {
        "n_tasks": n_tasks,
        "loss_kinds": ["regression"] * n_tasks,
        "n_classes": [None] * n_tasks,
        "labels": [f"task {task}" for task in range(n_tasks)],
    }
    made: list[Strategy] = []
    with seeded():
        for kind, _, place in BUILTINS:
            if kind == "strategies":
                module, _, name = place.partition(":")
                component = getattr(importlib.import_module(module), name)
                made.append(component(**{fact: facts[fact] for fact in signature_of(component).facts}))
    return made


def _features(case: _Case, architecture: Architecture) -> FeatureSpec:
    features = getattr(architecture, "features", None)
    require(
        isinstance(features, FeatureSpec),
        f"{case.what} has {features!r} as its attribute 'features'",
        "Set the shape of one row of what each head is given: self.features = self.encoder.features.",
    )
    assert isinstance(features, FeatureSpec)  # noqa: S101 - for the type checker
    return features


def _numbered(tasks: Sequence[int]) -> str:
    return f"the tasks {', '.join(map(str, tasks))}" if tasks else "none"
