"""What may be wrong with the labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mtlkit.audit.checks import check
from mtlkit.audit.examined import Examined, Labels, and_list
from mtlkit.findings import Finding, Level

__all__: list[str] = []

MOSTLY = 0.5  # the fraction of rows without a label that is worth telling
RARE = 0.02  # of the rows of the most frequent class
LARGE = 100.0  # a mean or a standard deviation of a target beyond which its loss drowns the others


def _classifications(examined: Examined) -> Iterator[tuple[Labels, int]]:
    for labels in examined.labels:
        if labels.bound.task.n_classes is not None:
            yield labels, labels.bound.task.n_classes


@check
def splits_have_labels(examined: Examined) -> Iterator[Finding]:
    """Every split has labelled rows of every task."""
    for labels in examined.labels:
        for split in ("validation", "test"):
            if not labels.labelled[split].any():
                yield Finding(
                    Level.ERROR,
                    f"none of the {len(labels.labelled[split])} rows of '{split}' has a label",
                    "The task cannot be evaluated there: label some, or let it be carved from the training rows.",
                    labels.about,
                )


@check
def labels_are_there(examined: Examined) -> Iterator[Finding]:
    """Most training rows have a label."""
    for labels in examined.labels:
        labelled = labels.labelled["train"]
        missing = 1 - float(labelled.float().mean())
        if missing > MOSTLY:
            yield Finding(
                Level.WARNING,
                f"{missing:.0%} of {len(labelled)} training rows have no label",
                "Such rows are left out for this task alone. Where all of a batch are, the task is absent from the "
                "step: a larger batch_size makes that rarer.",
                labels.about,
            )


@check
def classes_are_known(examined: Examined) -> Iterator[Finding]:
    """Every label is a class, from 0 to n_classes - 1."""
    for labels, n_classes in _classifications(examined):
        for split in labels.columns:
            classes = labels.classes(split)
            bad = classes[(classes < 0) | (classes >= n_classes)].unique().tolist()
            if bad:
                yield Finding(
                    Level.ERROR,
                    f"labels of '{split}' are {and_list(bad)}, and n_classes is {n_classes}",
                    f"Number the classes from 0 to {n_classes - 1}; a row without a label is marked "
                    f"{labels.bound.task.missing}.",
                    labels.about,
                )


@check
def classes_are_trained(examined: Examined) -> Iterator[Finding]:
    """Every class has training rows."""
    for labels, n_classes in _classifications(examined):
        trained = set(labels.classes("train").tolist())
        wanted = set(labels.classes("validation").tolist()) | set(labels.classes("test").tolist())
        wanted &= set(range(n_classes))
        untrained = sorted(wanted - trained)
        if untrained:
            yield Finding(
                Level.ERROR,
                f"no training row is of class {and_list(untrained)}, and rows of validation or test are",
                "No such row can be told right. Split the rows anew, by class.",
                labels.about,
            )
        unused = sorted(set(range(n_classes)) - trained - wanted)
        if unused:
            yield Finding(
                Level.WARNING,
                f"no row is of class {and_list(unused)}, and n_classes is {n_classes}",
                "Set n_classes to the number of classes that there are, or see whether rows were left out.",
                labels.about,
            )


@check
def classes_are_balanced(examined: Examined) -> Iterator[Finding]:
    """No class is very rare among the training rows."""
    for labels, n_classes in _classifications(examined):
        counts = labels.class_counts(n_classes)
        rare = ((counts > 0) & (counts < RARE * counts.max())).nonzero().flatten().tolist()
        if rare:
            told = ", ".join(f"{index} ({int(counts[index])})" for index in rare[:5])
            yield Finding(
                Level.WARNING,
                f"{len(rare)} of {n_classes} classes are rare: class {told}, against {int(counts.max())} of the most "
                "frequent",
                "Draw the classes alike (sampling: balanced), weigh the loss, or choose a metric that averages over "
                "classes.",
                labels.about,
            )


@check
def targets_vary(examined: Examined) -> Iterator[Finding]:
    """The training targets are not all the same."""
    for labels in examined.labels:
        known = labels.columns["train"][labels.labelled["train"]]
        if len(known) > 1 and bool((known == known[:1]).all()):
            value = known.flatten()[0].item()
            yield Finding(
                Level.ERROR,
                f"all {len(known)} labelled training rows have the target {value:g}",
                "There is nothing to learn. See whether the column was read wrongly.",
                labels.about,
            )


@check
def targets_are_finite(examined: Examined) -> Iterator[Finding]:
    """No target is infinite."""
    for labels in examined.labels:
        for split, column in labels.columns.items():
            bad = column.isinf().reshape(len(column), -1).any(1).nonzero().flatten().tolist()
            if bad:
                yield Finding(
                    Level.ERROR,
                    f"{len(bad)} of {len(column)} targets of '{split}' are infinite: rows {and_list(bad, 3)}",
                    "The loss of such a row is not finite, and the run stops at it. NaN marks a row without a label.",
                    labels.about,
                )


@check
def targets_are_scaled(examined: Examined) -> Iterator[Finding]:
    """Regression targets are of ordinary size."""
    for labels in examined.labels:
        column = labels.columns["train"][labels.labelled["train"]]
        if labels.bound.task.n_classes is not None or not column.is_floating_point() or len(column) < 2:  # noqa: PLR2004
            continue
        values = column.reshape(len(column), -1).double().nan_to_num(0, 0, 0)
        size = float(torch.maximum(values.mean(0).abs(), values.std(0)).max())
        if size > LARGE:
            yield Finding(
                Level.WARNING,
                f"targets have a mean or a standard deviation of {size:.3g}",
                "Its loss will drown the other tasks'. Scale the target over the training rows.",
                labels.about,
            )


@check
def labels_agree(examined: Examined) -> Iterator[Finding]:
    """Training rows with the same inputs have the same label."""
    for group, hashes in zip(examined.experiment.groups, examined.hashes, strict=True):
        for index in group.tasks:
            labels = examined.labels[index]
            if labels.bound.task.n_classes is None:
                continue
            column, labelled = labels.columns["train"], labels.labelled["train"].tolist()
            told: dict[bytes, object] = {}
            at_odds = 0
            for digest, value, known in zip(hashes["train"], column.tolist(), labelled, strict=True):
                if known:
                    at_odds += told.setdefault(digest, value) != value
            if at_odds:
                yield Finding(
                    Level.WARNING,
                    f"{at_odds} training rows have a label other than that of a row with the same inputs",
                    "One of the two is wrong, or the inputs lack what tells the rows apart.",
                    labels.about,
                )


@check
def no_input_is_the_target(examined: Examined) -> Iterator[Finding]:
    """No input column gives the target away."""
    for labels in examined.labels:
        target = labels.columns["train"]
        labelled = labels.labelled["train"]
        if target.ndim > 2 or int(labelled.sum()) < 3:  # noqa: PLR2004 - a column, and rows enough to say so
            continue
        target = target.reshape(len(target), -1)[labelled].double()
        for column in examined.columns:
            if labels.bound.label not in column.about:
                continue
            rows = column.rows["train"]
            values = rows.reshape(len(rows), -1)[labelled].double()
            if target.shape[1] != 1 or values.shape[1] == 0:
                continue
            same = _follows(values, target[:, 0]).nonzero().flatten().tolist()
            if same:
                yield Finding(
                    Level.WARNING,
                    f"the target is given away by input column {and_list(same)}: it is a linear function of it in "
                    "every training row",
                    "Leave the column out, unless it will be there when the model is used.",
                    column.about,
                )


def _follows(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return which columns ``[F]`` the target is a linear function of, within rounding."""
    centred, wanted = values - values.mean(0), target - target.mean()
    spread = centred.square().sum(0) * wanted.square().sum()
    aligned = (centred * wanted[:, None]).sum(0).square()
    return (spread > 0) & (aligned >= spread * (1 - 1e-9))
