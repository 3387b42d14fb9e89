"""What may be wrong with the splits."""

from __future__ import annotations

from collections.abc import Iterator

from mtlkit.audit.checks import check
from mtlkit.audit.examined import Examined
from mtlkit.data.reader import row_count
from mtlkit.findings import Finding, Level

__all__: list[str] = []

FEW = 20  # rows of a split beyond which its result says something
MANY = 0.05  # the fraction of training rows that repeat others


@check
def splits_are_apart(examined: Examined) -> Iterator[Finding]:
    """No row of validation or test is in another split."""
    for group, hashes in zip(examined.experiment.groups, examined.hashes, strict=True):
        for split, others in (("validation", ("train",)), ("test", ("train", "validation"))):
            for other in others:
                known = set(hashes[other])
                both = sum(digest in known for digest in hashes[split])
                if both:
                    # A warning, since people in a census are alike by chance too.
                    yield Finding(
                        Level.WARNING,
                        f"{both} of {len(hashes[split])} rows of '{split}' have the inputs of a row of '{other}'",
                        "The result on them may show memory, not learning: leave them out of one of the two, unless "
                        "rows of so few values are alike by chance.",
                        examined.about(group),
                    )


@check
def rows_are_distinct(examined: Examined) -> Iterator[Finding]:
    """Few training rows repeat others."""
    for group, hashes in zip(examined.experiment.groups, examined.hashes, strict=True):
        n = len(hashes["train"])
        repeated = n - len(set(hashes["train"]))
        if repeated > MANY * n:
            yield Finding(
                Level.WARNING,
                f"{repeated} of {n} training rows have the inputs of another",
                "They count several times; leave the copies out if they are not meant to.",
                examined.about(group),
            )


@check
def splits_are_large_enough(examined: Examined) -> Iterator[Finding]:
    """Every split has rows enough, and the training rows fill a batch."""
    for group, splits, wanted in zip(examined.experiment.groups, examined.splits, examined.batch_sizes, strict=True):
        for split in ("validation", "test"):
            if len(splits[split]) < FEW:
                yield Finding(
                    Level.WARNING,
                    f"'{split}' has {len(splits[split])} rows",
                    f"With fewer than {FEW}, chance decides much of its result: hold out a larger fraction "
                    f"(evaluation.{split}), or more rows.",
                    examined.about(group),
                )
        rows = row_count(group.splits["train"])
        if rows is not None and rows < wanted:
            yield Finding(
                Level.WARNING,
                f"'train' has {rows} rows, and a batch is to have {wanted}",
                "Every batch is then the whole split: set batch_size lower.",
                examined.about(group),
            )
