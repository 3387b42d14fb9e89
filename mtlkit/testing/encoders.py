"""What every encoder promises: rows in, features of the shape that it says out, with a last layer to measure at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.encoders.base import Encoder
from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.tensors import Tensors, apply, rows_in, told
from mtlkit.testing.checks import Checks, Nonconformance, require
from mtlkit.testing.modules import (
    ROWS,
    Trial,
    are_equal,
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

# A row of numbers, a text of tokens, a table's row, a series, a grey image, a colour image.
USUAL_INPUTS = (
    InputSpec((7,)),
    InputSpec((6,), categories=(5,) * 6),
    InputSpec(parts={"numeric": InputSpec((3,)), "categorical": InputSpec((2,), categories=(4, 3))}),
    InputSpec((3, 8)),
    InputSpec((1, 8, 8)),
    InputSpec((3, 16, 16)),
)


def _told(inputs: InputSpec) -> str:
    return f"The encoder for {told_rows(inputs)}"


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
            f"Constructing it for {told_rows(inputs)} raised {type(error).__name__}: {error}. "
            "Refuse rows that it cannot take with a ValueError which says what it does take."
        ) from error


def _prepared(subject: Subject, inputs: InputSpec, rows: Tensors) -> Any:
    """Build one, and show it rows as training rows."""
    encoder = _make(subject, inputs)
    with asking(f"{_told(inputs)}, asked to prepare() for rows of {told(rows)},"), torch.no_grad():
        encoder.prepare(apply(Tensor.clone, rows))
    return encoder


def _run(encoder: nn.Module, rows: Tensors) -> Sequence[Tensor]:
    return _tensors(encoder, encoder(rows))


def _tensors(encoder: nn.Module, received: object) -> list[Tensor]:
    """Return the features one by one, in the order in which the encoder says of them."""
    parts = getattr(getattr(encoder, "features", None), "parts", {})
    if not parts:
        require(
            isinstance(received, Tensor),
            f"The encoder's forward() returned {type(received).__name__}",
            "Return one tensor of features.",
        )
        assert isinstance(received, Tensor)  # noqa: S101 - for the type checker
        return [received]
    names = ", ".join(map(repr, parts))
    is_complete = isinstance(received, Mapping) and received.keys() == parts.keys()
    shown = ", ".join(map(repr, received)) if isinstance(received, Mapping) else type(received).__name__
    remedy = f"It says that its features are {names}: return a dict with a tensor for each."
    require(is_complete, f"The encoder's forward() returned {shown}", remedy)
    assert isinstance(received, Mapping)  # noqa: S101 - for the type checker
    tensors = [received[name] for name in parts]
    others = [type(each).__name__ for each in tensors if not isinstance(each, Tensor)]
    require(not others, f"The encoder's forward() returned a dict with {', '.join(others)} in it", remedy)
    return tensors


def _rows(inputs: InputSpec) -> list[Tensors]:
    """Return rows to try, the usual ones first; of numbers, 0s and 1s too, for one that looks rows up."""
    rows = [rows_of(inputs)]
    if not inputs.parts and not inputs.categories:
        generator = torch.Generator().manual_seed(0)
        rows.append(torch.randint(2, (ROWS, *inputs.shape), generator=generator))
    return rows


def _trial(subject: Subject, inputs: InputSpec) -> Trial:
    """Return an encoder to try with rows that it takes.

    Raises:
        ValueError: If it refuses rows of this shape.
        Nonconformance: If it cannot be built, or cannot take rows of the shape that it was built for.
    """
    with seeded():
        _make(subject, inputs)
    failures: list[Nonconformance] = []
    for rows in _rows(inputs):
        make = functools.partial(_prepared, subject, inputs, rows)
        trial = Trial(_told(inputs), make, _run, rows, other_rows(rows, inputs))
        try:
            trial.evaluate(trial.build())
        except Nonconformance as failure:
            failures.append(failure)
        else:
            return trial
    raise failures[0]


def _trials(subject: Subject) -> list[Trial]:
    """Return an encoder for each shape of rows that it takes; what fails for another is for the first check to say."""
    return [trial for _, trial in _trials_by_inputs(subject)]


def _trials_by_inputs(subject: Subject) -> list[tuple[InputSpec, Trial]]:
    trials: list[tuple[InputSpec, Trial]] = []
    failures: list[Exception] = []
    for inputs in subject.inputs or USUAL_INPUTS:
        try:
            trials.append((inputs, _trial(subject, inputs)))
        except (Nonconformance, ValueError) as failure:
            failures.append(failure)
    if not trials:
        broken = [failure for failure in failures if isinstance(failure, Nonconformance)]
        raise broken[0] if broken else _refused_all(subject, failures)
    return trials


def _refused_all(subject: Subject, failures: Sequence[Exception]) -> Nonconformance:
    shapes = ", ".join(map(str, subject.inputs or USUAL_INPUTS))
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
                f"It refuses {told_rows(inputs)}, which it is to be tested with: {refusal}",
                "Name only shapes that it takes.",
            )
            require(
                str(refusal),
                f"It refuses {told_rows(inputs)} with a ValueError that says nothing",
                "Say which shapes it takes.",
            )
    if len(failures) == len(subject.inputs or USUAL_INPUTS):
        raise _refused_all(subject, failures)


@CHECKS
def features_are_what_it_says(subject: Subject) -> None:
    """Its features are ``[B, *features.shape]``, or a dict of such tensors, in both modes and for every batch size."""
    for trial in _trials(subject):
        encoder = trial.build()
        features = _features(trial, encoder)
        for n in (2, 5):
            for received in (trial.train(encoder, trial.first(n)), trial.evaluate(encoder, trial.first(n))):
                parts = features.parts or {"": features}
                for (name, part), tensor in zip(parts.items(), received, strict=True):
                    trial.require_features([tensor], part, n, name)


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
    """last_layer() is a layer of its own whose weight the features depend on, if there is anything to train."""
    for trial in _trials(subject):
        encoder = trial.build()
        if not list(encoder.parameters()):
            continue
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
def stages_are_a_chain(subject: Subject) -> None:
    """If it says of stages(), its rows become its features from one to the next, a tensor between each two."""
    for trial in _trials(subject):
        encoder = trial.build()
        if not _parts_of(trial, encoder, "stages"):
            continue
        whole, chained = trial.evaluate(encoder), replace(trial, run=_chained).evaluate(encoder)
        require(
            len(whole) == len(chained) and all(map(is_close, whole, chained)),
            f"{trial.what} makes other features by its forward() than through its stages() one after another",
            "Leave forward() to mtlkit.Encoder, which goes by the stages; or return no stages where it is no chain.",
        )


@CHECKS
def each_parameter_is_in_one_stage(subject: Subject) -> None:
    """If it says of stages(), or of levels(), each of its parameters is in exactly one of them."""
    for trial in _trials(subject):
        encoder = trial.build()
        for method in ("stages", "levels"):
            parts = _parts_of(trial, encoder, method)
            held = [id(parameter) for part in parts for parameter in set(part.parameters())]
            for name, parameter in encoder.named_parameters() if parts else ():
                require(
                    held.count(id(parameter)) == 1,
                    f"{trial.what} has '{name}' in {held.count(id(parameter)) or 'none'} of its {method}()",
                    "By them parameters are frozen and given learning rates: each belongs in exactly one.",
                )


@CHECKS
def what_it_prepares_is_in_its_state(subject: Subject) -> None:
    """What it reads off the training rows by prepare() goes through a checkpoint."""
    for inputs, trial in _trials_by_inputs(subject):
        prepared: Any = trial.build(1)
        if type(prepared).prepare is Encoder.prepare:
            continue
        with seeded(2):
            restored = _make(subject, inputs)
        with asking(f"{trial.what}, given the state of one that was prepared,"):
            restored.load_state_dict(prepared.state_dict())
        first, second = trial.evaluate(prepared), trial.evaluate(restored)
        require(
            all(map(is_close, first, second)),
            f"{trial.what} made other features once the state of one that was prepared was loaded into one that was "
            "not",
            "Keep what prepare() learns in buffers: register_buffer() in the constructor, copy_() in prepare().",
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
def rows_are_apart_where_it_says_so(subject: Subject) -> None:
    """If it says row_by_row, the features of a row are its own in training too, and a pass changes no buffer."""
    for trial in _trials(subject):
        trial.require_rows_apart()


@CHECKS
def rows_are_not_changed(subject: Subject) -> None:
    """The rows that it is given are left as they are, by prepare() too."""
    for inputs, trial in _trials_by_inputs(subject):
        trial.require_unchanged_inputs()
        given = apply(Tensor.clone, trial.rows)
        with seeded(), torch.no_grad():
            _make(subject, inputs).prepare(given)
        require(
            are_equal(given, trial.rows),
            f"{trial.what} changed the training rows that it was given, in prepare()",
            "They are the dataset's own: no operation in place (sub_, -=) before the first copy.",
        )


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


def _parts_of(trial: Trial, encoder: nn.Module, method: str) -> Sequence[nn.Module]:
    """Return the stages or levels that an encoder says of."""
    with asking(f"{trial.what}, asked for its {method}(),"):
        ask: Callable[[], object] = getattr(encoder, method)
        answer = ask()
    is_listed = isinstance(answer, Sequence) and all(isinstance(each, nn.Module) for each in answer)
    require(is_listed, f"{trial.what} answered {method}() with {answer!r}", "Return a list of torch modules.")
    return answer if isinstance(answer, Sequence) else ()


def _chained(encoder: Any, rows: Tensors) -> Sequence[Tensor]:
    """Return what rows become from stage to stage."""
    hidden: Any = rows
    context = encoder.context(rows)
    count = len(encoder.stages())
    for index in range(count):
        hidden = encoder.through(index, hidden, context)
        require(
            index == count - 1 or (isinstance(hidden, Tensor) and len(hidden) == rows_in(rows)),
            f"Stage {index} of the encoder made {told(hidden)} of {rows_in(rows)} rows",
            "Every stage but the last makes one tensor [B, *], which the next one takes.",
        )
    return _tensors(encoder, hidden)
