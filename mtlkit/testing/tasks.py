"""What every task promises: rows that stay the same and apart, a head that fits its loss, and metrics that compute."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import pickle
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from mtlkit.banks import row_losses
from mtlkit.config import Evaluation
from mtlkit.data.row_format import item_of
from mtlkit.data.splits import carve
from mtlkit.data.stream_split import StreamSplit
from mtlkit.errors import DataError
from mtlkit.task import LossKind, Split
from mtlkit.tensors import listed
from mtlkit.testing.bench import Bench, bench_of
from mtlkit.testing.checks import Checks, Nonconformance, require
from mtlkit.testing.isolated import observed
from mtlkit.testing.modules import is_nonzero
from mtlkit.testing.probes import asking, require_construction_leaves_random_state
from mtlkit.testing.rows import as_bytes, digests
from mtlkit.testing.subject import Subject

__all__ = ["CHECKS"]

CHECKS = Checks()
STREAMED = 64  # rows of a stream that are looked at one by one

# --- rows ---


@CHECKS
def splits_hold_a_train_split(subject: Subject) -> None:
    """Its source gives splits by name, 'train' among them."""
    _ = bench_of(subject).splits


@CHECKS
def splits_can_be_completed(subject: Subject) -> None:
    """The splits fit one another, and what is missing can be carved from 'train'."""
    defaults = Evaluation()
    try:
        carve(bench_of(subject).given, validation=defaults.validation, test=defaults.test, seed=0)
    except DataError as error:
        raise Nonconformance(str(error)) from error


@CHECKS
def splits_are_disjoint(subject: Subject) -> None:
    """No row, inputs and target, is in two splits."""
    bench = bench_of(subject)
    rows = {name: _rows(split, bench.task.target) for name, split in bench.splits.items()}
    found = []
    for one, other in itertools.combinations(rows, 2):
        shared = set(rows[one]) & set(rows[other])
        count = sum(row in shared for row in rows[other])
        if count:
            found.append(f"{count} of the {len(rows[other])} rows of {other!r} are in {one!r} too")
    require(
        not found,
        "; ".join(found),
        "A result on rows that were trained on says nothing. If the data themselves hold equal rows, say so: "
        "conformance(..., expected_failures={'splits_are_disjoint': 'the reason'}).",
    )


@CHECKS
def splits_are_the_same_each_time(subject: Subject) -> None:
    """Loaded twice, the rows are equal bit for bit."""
    bench = bench_of(subject)
    different = _differences(digests(bench.splits), digests(bench.in_columns(bench.load())))
    require(
        not different,
        f"splits(), called twice, returned others: {', '.join(different)}",
        "Draw from a generator that splits() makes and seeds itself, such as numpy.random.default_rng(self.seed). Rows "
        "that are to differ each time that they are read are MapSplit(..., random=True).",
    )


@CHECKS
def streams_begin_at_any_row(subject: Subject) -> None:
    """A stream that is begun at a row goes on as one that came there from the first."""
    for name, split in bench_of(subject).given.items():
        if not isinstance(split, StreamSplit):
            continue
        first = _stream(split, name, 0, STREAMED)
        for start in sorted({1, len(first) // 2, len(first) - 1} & set(range(1, len(first)))):
            require(
                _stream(split, name, start, 2) == first[start : start + 2],
                f"The stream of {name!r}, begun at row {start}, goes on with other rows than those that follow there",
                "rows_from(number) returns the rows from that number on: a run that goes on from a checkpoint begins "
                "there, and not at row 0.",
            )


@CHECKS
def other_processes_load_the_same_rows(subject: Subject) -> None:
    """A process that has only its name and options loads the same rows, bit for bit."""
    bench = bench_of(subject)
    seen = observed(subject)
    if not seen.found or seen.error:
        return  # a class that is nowhere but here; or another check tells of the error
    what = f"A new process, given the name {subject.name} and the same options,"
    require(not seen.rows_error, f"{what} could not load the rows: {seen.rows_error}", _SAME_EVERYWHERE)
    different = _differences(digests(bench.splits), seen.digests or {})
    require(not different, f"{what} loaded others: {', '.join(different)}", _SAME_EVERYWHERE)


_SAME_EVERYWHERE = (
    "Rows depend on the source's fields alone: not on what was imported or set before, on hash(), or on the order of a "
    "set, which differ from process to process."
)


@CHECKS
def equal_options_make_equal_sources(subject: Subject) -> None:
    """Sources are equal by value, so that tasks can share them."""
    bench = bench_of(subject)
    source, twin = bench.source, bench.source_of(bench.another_task())
    with asking("The source, compared by ==,"):
        equal, same, other = bool(source == twin), bool(source == source), bool(source == object())  # noqa: PLR0124
    require(
        equal and same,
        "Two tasks of equal options have sources that are not equal",
        "Tasks whose sources are equal share one batch: hold in fields what the rows depend on, and no rows, no "
        "generators and no functions; best in a frozen dataclass.",
    )
    require(
        not other, "The source is equal to object()", "It would be taken for any other: compare types, then fields."
    )


@CHECKS
def inputs_are_finite(subject: Subject) -> None:
    """No input is NaN or infinite."""
    for name, split in bench_of(subject).splits.items():
        for inputs in listed(split.inputs):
            bad = int((~inputs.isfinite()).reshape(len(split), -1).any(1).sum())
            require(
                not bad,
                f"{bad} of the {len(split)} rows of {name!r} have inputs that are NaN or infinite",
                "One of them makes every weight NaN: fill them in, or leave these rows out.",
            )


@CHECKS
def target_is_in_every_split(subject: Subject) -> None:
    """Every split has the target column that the task learns."""
    bench = bench_of(subject)
    for name in bench.splits:
        bench.column(name)


# --- what the task says of itself ---


@CHECKS
def loss_kind_is_known(subject: Subject) -> None:
    """Its loss_kind is one of those that there are."""
    kind, known = bench_of(subject).task.loss_kind, get_args(LossKind)
    require(
        kind in known,
        f"Its loss_kind is {kind!r}",
        f"What the loss is the negative log-likelihood of: {', '.join(map(repr, known))}.",
    )


@CHECKS
def n_classes_fits_the_loss_kind(subject: Subject) -> None:
    """Its n_classes is a number, and set where its loss_kind is 'classification'."""
    task = bench_of(subject).task
    number: object = task.n_classes
    require(
        number is None or (isinstance(number, int) and not isinstance(number, bool) and number > 1),
        f"Its n_classes is {number!r}",
        "It is the number of classes, 2 or more; None where there are none.",
    )
    require(
        number is not None or task.loss_kind != "classification",
        "Its loss_kind is 'classification', and its n_classes is not set",
        "Set it: strategies scale the loss by what a guess among so many classes costs.",
    )


@CHECKS
def targets_are_classes(subject: Subject) -> None:
    """Where it has classes, every target is one of them: from 0 to n_classes - 1."""
    bench = bench_of(subject)
    number: object = bench.task.n_classes
    if not isinstance(number, int):
        return
    for name in bench.splits:
        column = bench.column(name)
        known = column[bench.labelled(column)]
        # A row may have some labels of many, as the pixels of an image have.
        known = known[~known.isnan()] if known.is_floating_point() else known[known != bench.task.missing]
        if not len(known):
            continue
        lowest, highest = known.min().item(), known.max().item()
        require(
            lowest >= 0 and highest < number,
            f"The targets of {name!r} are from {lowest:g} to {highest:g}, and n_classes is {number}",
            f"Number the classes from 0 to {number - 1}. A row without a label is marked by the task's 'missing', here "
            f"{bench.task.missing}.",
        )


@CHECKS
def rows_without_a_label_are_told(subject: Subject) -> None:
    """labelled() says of each row whether it has a label; NaN, and 'missing' among integers, are none."""
    bench = bench_of(subject)
    target = bench.target.clone()  # where every row has a label
    marker = math.nan if target.is_floating_point() else bench.task.missing
    shown = "NaN" if target.is_floating_point() else f"{marker}, the task's 'missing'"
    remedy = f"A row whose target is {shown} has no label: the loss and the metrics are not to see it."
    none = bench.labelled(torch.full_like(target, marker))
    require(
        not none.any(), f"labelled() says that {int(none.sum())} of {len(none)} rows of {shown} have a label", remedy
    )
    target[1::2] = marker
    expected = torch.ones(len(target), dtype=torch.bool)
    expected[1::2] = False
    wrong = int((bench.labelled(target) != expected).sum())
    require(
        not wrong, f"labelled() is wrong about {wrong} of {len(target)} rows, of which every other is {shown}", remedy
    )


# --- the head and the loss ---


@CHECKS
def heads_are_new_each_time(subject: Subject) -> None:
    """head() makes a new module each time that it is called."""
    bench = bench_of(subject)
    first, second = bench.head(1), bench.head(2)
    theirs = {id(parameter) for parameter in second.parameters()}
    shared = [name for name, p in first.named_parameters() if p.requires_grad and id(p) in theirs]
    returned = "the same module" if first is second else f"modules that share {', '.join(shared[:3])}"
    require(
        first is not second and not shared,
        f"head(), called twice, returned {returned}",
        "Make it in head() itself, and keep none on the task: a task may be built, and trained, more than once.",
    )


@CHECKS
def heads_of_one_seed_are_equal(subject: Subject) -> None:
    """Two heads that are made from the same seed of torch are equal."""
    bench = bench_of(subject)
    first, second = bench.head(1), bench.head(1)
    theirs = second.state_dict()
    state = first.state_dict()
    different = [name for name, value in state.items() if not _is_same(value, theirs.get(name))]
    require(
        not different and state.keys() == theirs.keys() and torch.equal(bench.run(first), bench.run(second)),
        f"Two heads of one seed are different: {', '.join(different[:3]) or 'what they make of the same features'}",
        "Draw initial weights from torch's global generator, which the run seeds before it calls head().",
    )


@CHECKS
def heads_are_deterministic_in_evaluation(subject: Subject) -> None:
    """In evaluation mode a head makes the same of the same features, whatever the random state."""
    bench = bench_of(subject)
    head = bench.head()
    first, second = bench.run(head, seed=1), bench.run(head, seed=2)
    require(
        torch.equal(first.nan_to_num(), second.nan_to_num()),
        "The head made different outputs of the same features in evaluation mode",
        "A dropout of torch.nn.functional needs training=self.training; nothing else random belongs in evaluation.",
    )


@CHECKS
def head_state_is_complete(subject: Subject) -> None:
    """A head of another seed, given this one's state_dict(), makes the same of the same features, bit for bit."""
    bench = bench_of(subject)
    head, restored = bench.head(1), bench.head(2)
    bench.run(head, training=True)  # so that running statistics have moved
    with asking("The head, asked for its state_dict(), which another then loads,"):
        restored.load_state_dict(head.state_dict())
    require(
        torch.equal(bench.run(head).nan_to_num(), bench.run(restored).nan_to_num()),
        "The head made other outputs once its state was loaded into another one",
        "All that it computes with belongs in nn.Parameter, register_buffer() or a submodule: a checkpoint holds these "
        "alone.",
    )


@CHECKS
def head_fits_the_loss(subject: Subject) -> None:
    """The loss takes the head's output and the targets as they are, without broadcasting the one to the other."""
    bench = bench_of(subject)
    bench.any_loss(bench.run(bench.head()), bench.target, broadcasting=False)


@CHECKS
def loss_is_a_finite_scalar(subject: Subject) -> None:
    """The loss of ordinary rows is one finite number."""
    bench = bench_of(subject)
    _require_finite(bench.loss(bench.run(bench.head()), bench.target), f"{len(bench.target)} training rows")


@CHECKS
def loss_is_a_mean_over_rows(subject: Subject) -> None:
    """The loss of a batch stays the same when every row is in it twice."""
    bench = bench_of(subject)
    output = bench.run(bench.head())
    once = bench.loss(output, bench.target).item()
    twice = bench.loss(torch.cat([output, output]), torch.cat([bench.target, bench.target])).item()
    require(
        math.isclose(once, twice, rel_tol=1e-3, abs_tol=1e-6) or not math.isfinite(once),
        f"The loss of {len(output)} rows is {once:.6g}, and with each of them twice {twice:.6g}",
        "Return the mean over the rows, reduction='mean': weights and learning rates are set for that, and evaluation "
        "averages batches of unequal size by it.",
    )


@CHECKS
def row_losses_make_up_the_loss(subject: Subject) -> None:
    """Where it gives row_losses(), their mean over any rows is the loss of these rows."""
    bench = bench_of(subject)
    paid_by = row_losses(bench.task)
    if paid_by is None:
        return
    output, target = bench.run(bench.head()), bench.target
    outputs, targets = torch.stack([output, output.flip(0)], 1), torch.stack([target, target.flip(0)], 1)
    with asking(f"row_losses(), given two tasks' outputs {list(outputs.shape)} and targets {list(targets.shape)},"):
        paid: object = paid_by(outputs, targets)
    shape = list(paid.shape) if isinstance(paid, Tensor) else type(paid).__name__
    require(
        isinstance(paid, Tensor) and shape == [len(target), 2],
        f"row_losses() returned {shape} for two tasks' outputs {list(outputs.shape)} and targets {list(targets.shape)}",
        "It returns what each row pays for each task, [B, K].",
    )
    assert isinstance(paid, Tensor)  # noqa: S101 - for the type checker
    for which, rows in {"all": slice(None), "some": slice(0, max(1, len(target) // 3))}.items():
        for task in range(2):
            loss, mean = bench.loss(outputs[rows, task], targets[rows, task]).item(), paid[rows, task].mean().item()
            require(
                _is_close(loss, mean),
                f"The loss of {which} rows is {loss:.6g}, and the mean of what row_losses() says of them {mean:.6g}",
                "Tasks that are computed together pay what row_losses() says: it is the loss, row by row. Leave it out "
                "where the loss is no mean over rows.",
            )


@CHECKS
def gradients_reach_head_and_features(subject: Subject) -> None:
    """The loss depends on the features and on every parameter of the head that is to be trained."""
    bench = bench_of(subject)
    head = bench.head()
    features = bench.features(bench.spec).requires_grad_()
    loss = bench.loss(bench.run(head, features, training=True), bench.target)
    require(loss.requires_grad, "The loss depends on nothing that can be trained", _NO_DETACH)
    named = {name: parameter for name, parameter in head.named_parameters() if parameter.requires_grad}
    gradients: list[Tensor | None]
    with asking("The gradient of the loss"):
        gradients = [*torch.autograd.grad(loss, [features, *named.values()], allow_unused=True)]
    require(gradients[0] is not None, "No gradient of the loss reaches the features", _NO_DETACH)
    unreached = [name for name, gradient in zip(named, gradients[1:], strict=True) if gradient is None]
    require(
        not unreached,
        f"The head has parameters that the loss does not depend on: {', '.join(unreached[:3])}",
        "Use them in forward(), leave them out, or freeze them: requires_grad_(False).",
    )
    require(
        any(map(is_nonzero, gradients)),
        "The gradient of the loss is zero, at the features and at every parameter of the head",
        "Nothing can be learned from there: look at the initial weights.",
    )


_NO_DETACH = "Compute it from the head's output by operations of torch, without detach(), item() or torch.no_grad()."


@CHECKS
def one_row_is_enough(subject: Subject) -> None:
    """A batch of one row can be trained on and evaluated."""
    bench = bench_of(subject)
    head, target = bench.head(), bench.target[:1]
    for training in (True, False):
        output = bench.run(head, bench.features(bench.spec)[:1], training=training)
        _require_finite(bench.loss(output, target, broadcasting=False), "one row")
        for name, metric in bench.metrics().items():
            bench.update(metric, name, output, target)


# --- metrics ---


@CHECKS
def metrics_are_of_torchmetrics(subject: Subject) -> None:
    """metrics() returns torchmetrics objects by name."""
    names: list[object] = list(bench_of(subject).metrics())
    require(
        all(isinstance(name, str) and name for name in names),
        f"metrics() returned metrics by the names {', '.join(map(repr, names))}",
        "A name is a text: reports show it, and checkpoints.best may say it.",
    )


@CHECKS
def headline_has_a_direction(subject: Subject) -> None:
    """The first metric says whether higher is better."""
    name, headline = next(iter(bench_of(subject).metrics().items()))
    require(
        isinstance(headline.higher_is_better, bool),
        f"The first metric, {name!r}, has {headline.higher_is_better!r} as its higher_is_better",
        "It is the headline that runs are compared by: set it to True or False, or put another metric first.",
    )


@CHECKS
def metrics_compute_numbers(subject: Subject) -> None:
    """Each metric of some rows is one finite number."""
    bench = bench_of(subject)
    output = bench.run(bench.head())
    for name, metric in bench.metrics().items():
        value = _value(bench, metric, name, output)
        require(
            math.isfinite(value),
            f"The metric {name!r} of {len(output)} training rows is {value}",
            "It goes into a report, and the headline decides which weights are best.",
        )


@CHECKS
def metrics_begin_anew(subject: Subject) -> None:
    """After reset(), and called for again, a metric knows nothing of what it has seen."""
    bench = bench_of(subject)
    output = bench.run(bench.head())
    for name, metric in bench.metrics().items():
        first = _value(bench, metric, name, output)
        bench.update(metric, name, output.flip(0), bench.target)
        with asking(f"The metric {name!r}, asked to reset(),"):
            metric.reset()
        second = _value(bench, metric, name, output)
        third = _value(bench, bench.metrics()[name], name, output)
        require(
            _is_close(first, second) and _is_close(first, third),
            f"The metric {name!r} of the same rows is {first:.6g}, after reset() {second:.6g}, and called for again "
            f"{third:.6g}",
            "What it remembers is declared by add_state(), which reset() puts back.",
        )


# --- what it does to the world around it ---


@CHECKS
def it_can_be_sent_to_a_process(subject: Subject) -> None:
    """Its class and its source can be pickled."""
    bench = bench_of(subject)
    kind, source = type(bench.task), bench.source
    with asking(f"Pickling the class {kind.__qualname__}"):
        copied = pickle.loads(pickle.dumps(kind))  # noqa: S301 - made here
    require(copied is kind, f"Pickling the class {kind.__qualname__} gave {copied!r}", "Its module has it by its name.")
    with asking(f"Pickling its source, a {type(source).__qualname__},"):
        again = pickle.loads(pickle.dumps(source))  # noqa: S301 - made here
    with asking("The source, compared by ==,"):
        require(
            again == source or source != bench.source_of(bench.another_task()),  # of which another check tells
            "The source is not equal to itself once it was pickled and read again",
            "Another process is sent it so: hold in fields only what can be pickled, such as paths and numbers.",
        )


@CHECKS
def random_state_is_left_alone(subject: Subject) -> None:
    """None of its parts changes a global random state; head() may draw initial weights from torch's."""
    bench = bench_of(subject)
    _rehearse(bench)
    for what, _, changed in bench.observed:
        others = [whose for whose in changed if not (whose == "torch's" and what.startswith("head()"))]
        require(
            not others,
            f"{what.rstrip(',')} changed {' and '.join(others)} global random state",
            "It would change every random number of the run that follows: draw from a generator of its own, such as "
            "numpy.random.default_rng(seed) or torch.Generator().manual_seed(seed).",
        )
    spec = None
    with contextlib.suppress(Nonconformance):
        spec = bench.spec
    if spec is not None:
        require_construction_leaves_random_state(lambda: bench.task.head(spec), "The head")


@CHECKS
def nothing_is_printed(subject: Subject) -> None:
    """None of its parts prints anything."""
    bench = bench_of(subject)
    _rehearse(bench)
    for what, printed, _ in bench.observed:
        require(
            not printed,
            f"{what.rstrip(',')} printed {printed if len(printed) <= 80 else printed[:77] + '...'!r}",  # noqa: PLR2004
            "Standard output is the command's own, --json included: use logging, or raise what is wrong.",
        )


# --- parts ---


def _rehearse(bench: Bench) -> None:
    """Ask every part of a task once; what fails there is for other checks to tell of."""
    for act in (
        lambda: bench.splits,
        lambda: bench.rows,
        bench.head,
        lambda: bench.loss(bench.run(bench.head()), bench.target),
        bench.metrics,
    ):
        with contextlib.suppress(Nonconformance):
            act()


def _stream(split: StreamSplit, name: str, start: int, count: int) -> list[list[bytes]]:
    """Return the first rows of a stream from a row on, as bytes."""
    with asking(f"The stream of {name!r}, begun at row {start},"):
        items = [item_of(each) for each in itertools.islice(split.rows_from(start), count)]
    return [[as_bytes(each[None]).tobytes() for part in item for each in part.values()] for item in items]


def _rows(split: Split, target: str) -> list[bytes]:
    """Return the hash of each row: of its inputs and, where there is one, its target."""
    columns = [as_bytes(part) for part in listed(split.inputs)]
    if target in split.targets:
        columns.append(as_bytes(split.targets[target]))
    rows = np.concatenate(columns, axis=1)
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def _differences(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    return [what for what in {**ours, **theirs} if ours.get(what) != theirs.get(what)]


def _value(bench: Bench, metric: Metric, name: str, output: Tensor) -> float:
    """Update a metric with some rows, and return what it is then."""
    bench.update(metric, name, output, bench.target)
    with asking(f"The metric {name!r}, computed as one number,"):
        return float(metric.compute())


def _require_finite(loss: Tensor, rows: str) -> None:
    require(
        loss.isfinite(),
        f"The loss of {rows} is {loss.item()}",
        "Look for a logarithm or root of what may be 0, or a division by a deviation or a count that may be.",
    )


def _is_same(one: object, other: object) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) or not (math.isfinite(one) or math.isfinite(other))
