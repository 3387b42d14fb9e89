"""What every encoder promises: rows in, features of the shape that it says out, with a last layer to measure at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.testing.checks import Checks, Nonconformance, require
from mtlkit.testing.modules import ROWS, Trial, is_nonzero, require_weighted
from mtlkit.testing.probes import asking, seeded
from mtlkit.testing.subject import Subject

__all__ = ["CHECKS"]

CHECKS = Checks()

# A table's row, a series, a grey image, a colour image.
USUAL_INPUTS = (InputSpec((7,)), InputSpec((3, 8)), InputSpec((1, 8, 8)), InputSpec((3, 16, 16)))


def _told(inputs: InputSpec) -> str:
    return f"The encoder for rows of shape {inputs.shape}"


def _make(subject: Subject, inputs: InputSpec) -> Any:
    """Build one.

    Raises:
        ValueError: If it refuses rows of this shape.
        Nonconformance: If it fails otherwise.
    """
    with asking("Its options"):
        options = subject.checked_options()
    try:
        return subject.component(inputs, **options)
    except ValueError:
        raise
    except Exception as error:
        raise Nonconformance(
            f"Constructing it for rows of shape {inputs.shape} raised {type(error).__name__}: {error}. "
            "Refuse rows that it cannot take with a ValueError which says what it does take."
        ) from error


def _run(encoder: nn.Module, rows: Tensor) -> Sequence[Tensor]:
    received = encoder(rows)
    require(
        isinstance(received, Tensor),
        f"The encoder's forward() returned {type(received).__name__}",
        "Return one tensor of features.",
    )
    return [received]


def _rows(inputs: InputSpec) -> list[Tensor]:
    """Return rows to try, the usual ones first: standard-normal numbers; then 0s and 1s, for one that looks rows up."""
    generator = torch.Generator().manual_seed(0)
    shape = (ROWS, *inputs.shape)
    return [torch.randn(shape, generator=generator), torch.randint(2, shape, generator=generator)]


def _trial(subject: Subject, inputs: InputSpec) -> Trial:
    """Return an encoder to try with rows that it takes.

    Raises:
        ValueError: If it refuses rows of this shape.
        Nonconformance: If it cannot be built, or cannot take rows of the shape that it was built for.
    """
    with seeded():
        encoder = _make(subject, inputs)
    failures: list[Nonconformance] = []
    for rows in _rows(inputs):
        trial = Trial(_told(inputs), lambda: _make(subject, inputs), _run, rows)
        try:
            trial.evaluate(encoder)
        except Nonconformance as failure:
            failures.append(failure)
        else:
            return trial
    raise failures[0]


def _trials(subject: Subject) -> list[Trial]:
    """Return an encoder for each shape of rows that it takes; what fails for another is for the first check to say."""
    trials: list[Trial] = []
    failures: list[Exception] = []
    for inputs in subject.inputs or USUAL_INPUTS:
        try:
            trials.append(_trial(subject, inputs))
        except (Nonconformance, ValueError) as failure:
            failures.append(failure)
    if not trials:
        broken = [failure for failure in failures if isinstance(failure, Nonconformance)]
        raise broken[0] if broken else _refused_all(subject, failures)
    return trials


def _refused_all(subject: Subject, failures: Sequence[Exception]) -> Nonconformance:
    shapes = ", ".join(str(inputs.shape) for inputs in subject.inputs or USUAL_INPUTS)
    return Nonconformance(
        f"It takes rows of none of the shapes {shapes}; for the last it said: {failures[-1]}. "
        "Name shapes that it takes: conformance(..., inputs=[(3, 32, 32)])."
    )


@CHECKS
def rows_it_does_not_take_are_refused(subject: Subject) -> None:
    """It takes rows of some shape, and refuses others with a ValueError when it is constructed."""
    failures: list[Exception] = []
    for inputs in subject.inputs or USUAL_INPUTS:
        try:
            _trial(subject, inputs)
        except ValueError as refusal:
            failures.append(refusal)
            require(
                not subject.inputs,
                f"It refuses rows of shape {inputs.shape}, which it is to be tested with: {refusal}",
                "Name only shapes that it takes.",
            )
            require(
                str(refusal),
                f"It refuses rows of shape {inputs.shape} with a ValueError that says nothing",
                "Say which shapes it takes.",
            )
    if len(failures) == len(subject.inputs or USUAL_INPUTS):
        raise _refused_all(subject, failures)


@CHECKS
def features_are_what_it_says(subject: Subject) -> None:
    """Its features are ``[B, *features.shape]``, in both modes and for every batch size."""
    for trial in _trials(subject):
        encoder = trial.build()
        features = _features(trial, encoder)
        for n in (2, 5):
            trial.require_features(trial.train(encoder, trial.rows[:n]), features, n)
            trial.require_features(trial.evaluate(encoder, trial.rows[:n]), features, n)


@CHECKS
def one_row_can_be_encoded(subject: Subject) -> None:
    """A batch of one row is encoded in evaluation mode."""
    for trial in _trials(subject):
        trial.require_single_row()


@CHECKS
def features_are_finite(subject: Subject) -> None:
    """Its features of standard-normal rows are finite."""
    for trial in _trials(subject):
        trial.require_finite()


@CHECKS
def every_parameter_is_trained(subject: Subject) -> None:
    """Gradients reach each of its trainable parameters, and are not all zero."""
    for trial in _trials(subject):
        encoder = trial.build()
        named = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        # Some layers act in one mode alone.
        trained = trial.gradients(trial.train(encoder), list(named.values()))
        evaluated = trial.gradients(trial.evaluate(encoder, gradients=True), list(named.values()))
        unreached = [name for name, a, b in zip(named, trained, evaluated, strict=True) if a is None and b is None]
        require(
            not unreached,
            f"{trial.what} has parameters that its features do not depend on: {', '.join(unreached[:3])}",
            "Use them in forward() without detach() or torch.no_grad(), leave them out, or freeze them: "
            "requires_grad_(False).",
        )
        require(
            not named or any(map(is_nonzero, [*trained, *evaluated])),
            f"{trial.what} has a gradient of zero at every parameter",
            "Nothing can be learned from there: look at the initial weights.",
        )


@CHECKS
def last_layer_is_the_one_before_the_features(subject: Subject) -> None:
    """last_layer() is a layer of its own whose weight the features depend on."""
    for trial in _trials(subject):
        encoder = trial.build()
        with asking(f"{trial.what}, asked for its last_layer(),"):
            layer = encoder.last_layer()  # type: ignore[operator]
        weight = require_weighted(layer, encoder, trial.what, "last_layer")
        if weight.requires_grad:
            (gradient,) = trial.gradients(trial.train(encoder), [weight])
            require(
                gradient is not None,
                f"{trial.what} answered last_layer() with {layer}, and its features do not depend on that layer's "
                "weight",
                "The default is the layer registered last that has a weight: override last_layer() where another one "
                "stands before the features.",
            )


@CHECKS
def evaluation_mode_reaches_every_layer(subject: Subject) -> None:
    """eval() puts every one of its layers in evaluation mode."""
    for trial in _trials(subject):
        trial.require_evaluation_mode_everywhere()


@CHECKS
def evaluation_is_deterministic(subject: Subject) -> None:
    """In evaluation mode the same rows give the same features, bit for bit."""
    for trial in _trials(subject):
        trial.require_deterministic_evaluation()


@CHECKS
def evaluation_draws_no_random_numbers(subject: Subject) -> None:
    """In evaluation mode it leaves the global random state as it is."""
    for trial in _trials(subject):
        trial.require_no_random_numbers_in_evaluation()


@CHECKS
def rows_are_independent_in_evaluation(subject: Subject) -> None:
    """In evaluation mode the features of a row do not depend on the other rows of the batch."""
    for trial in _trials(subject):
        trial.require_independent_rows()


@CHECKS
def rows_are_not_changed(subject: Subject) -> None:
    """The rows that it is given are left as they are."""
    for trial in _trials(subject):
        trial.require_unchanged_inputs()


@CHECKS
def state_goes_through_a_checkpoint(subject: Subject) -> None:
    """An encoder of another seed with its state makes the same features, bit for bit."""
    for trial in _trials(subject):
        trial.require_state_round_trip()


@CHECKS
def the_same_seed_gives_the_same_weights(subject: Subject) -> None:
    """Two encoders that are built from the same seed are equal."""
    for trial in _trials(subject):
        trial.require_same_seed_same_weights()


@CHECKS
def construction_leaves_random_state_alone(subject: Subject) -> None:
    """Its construction draws from torch's global generator at most, and seeds none."""
    for trial in _trials(subject):
        trial.require_construction_leaves_random_state()


@CHECKS
def float64_is_kept(subject: Subject) -> None:
    """After .double() it computes in float64."""
    for trial in _trials(subject):
        trial.require_float64()


@CHECKS
def copies_stand_alone(subject: Subject) -> None:
    """A deep copy makes the same features, whatever happens to the original."""
    for trial in _trials(subject):
        trial.require_copies()


@CHECKS
def nothing_is_printed(subject: Subject) -> None:
    """It prints nothing when it is constructed and run."""
    for trial in _trials(subject):
        trial.require_silence()


def _features(trial: Trial, encoder: nn.Module) -> FeatureSpec:
    features = getattr(encoder, "features", None)
    require(
        isinstance(features, FeatureSpec),
        f"{trial.what} has {features!r} as its attribute 'features'",
        "Set the shape of one row of what forward() returns: self.features = mtlkit.FeatureSpec((128,)).",
    )
    assert isinstance(features, FeatureSpec)  # noqa: S101 - for the type checker
    return features
