"""What may be wrong with the inputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mtlkit.audit.checks import check
from mtlkit.audit.examined import Examined, and_list
from mtlkit.findings import Finding, Level

__all__: list[str] = []

LARGE = 100.0  # a mean or a standard deviation beyond which an encoder learns slowly, or not at all
FAR = 1.0  # standard deviations that the mean of a column may differ by between splits
ENOUGH = 30  # rows for a mean to say something
IMAGE = 3  # dimensions


@check
def inputs_are_finite(examined: Examined) -> Iterator[Finding]:
    """No input is NaN or infinite."""
    for column in examined.columns:
        for split, rows in column.rows.items():
            bad = (~rows.isfinite()).flatten(1).any(1) if rows.ndim > 1 else ~rows.isfinite()
            if column.is_prepared:  # the encoder may fill NaN in; infinity it cannot
                bad = rows.isinf().flatten(1).any(1) if rows.ndim > 1 else rows.isinf()
            if bad.any():
                where = and_list(bad.nonzero().flatten().tolist(), 3)
                yield Finding(
                    Level.ERROR,
                    f"{int(bad.sum())} of {len(rows)} rows of '{split}' have inputs that are NaN or infinite: rows "
                    f"{where}",
                    "One of them makes every weight NaN. Fill them in, leave these rows out, or use an encoder that "
                    "fills in what is missing, such as tabular.",
                    column.about,
                )


@check
def features_vary(examined: Examined) -> Iterator[Finding]:
    """No column of the training rows is constant."""
    for column in examined.columns:
        rows = column.rows["train"]
        # The corners of many images are dark in all of them: of an image, a whole channel counts.
        values = rows.movedim(1, 0).flatten(1).T if rows.ndim == 1 + IMAGE else rows.reshape(len(rows), -1)
        if len(rows) < 2 or values.shape[1] == 0:  # noqa: PLR2004 - one row varies in nothing
            continue
        constant = (values == values[:1]).all(0).nonzero().flatten().tolist()
        if constant:
            what = "channel" if rows.ndim == 1 + IMAGE else "column"
            yield Finding(
                Level.WARNING,
                f"{len(constant)} of {values.shape[1]} input {what}s are the same in every training row: {what} "
                f"{and_list(constant)}",
                "Nothing can be learned from them; leave them out, or see whether they were read wrongly.",
                column.about,
            )


@check
def inputs_are_scaled(examined: Examined) -> Iterator[Finding]:
    """Inputs are of ordinary size."""
    for column in examined.columns:
        rows = column.rows["train"]
        if column.is_prepared or not rows.is_floating_point() or len(rows) < 2:  # noqa: PLR2004 - for a deviation
            continue
        values = rows.reshape(len(rows), -1).double().nan_to_num(0, 0, 0)
        size = torch.maximum(values.mean(0).abs(), values.std(0))
        large = (size > LARGE).nonzero().flatten().tolist()
        if large:
            yield Finding(
                Level.WARNING,
                f"{len(large)} of {values.shape[1]} input columns have a mean or a standard deviation beyond "
                f"{LARGE:g}, the largest {float(size.max()):.3g}: column {and_list(large)}",
                "Scale them, such as to mean 0 and standard deviation 1 over the training rows.",
                column.about,
            )


@check
def categories_are_seen_in_training(examined: Examined) -> Iterator[Finding]:
    """Every category of the validation and test rows is in the training rows."""
    for column in examined.columns:
        if column.rows["train"].is_floating_point() or column.rows["train"].ndim > 2:  # noqa: PLR2004 - pixels
            continue
        train = column.rows["train"].reshape(len(column.rows["train"]), -1)
        for split in ("validation", "test"):
            rows = column.rows[split].reshape(len(column.rows[split]), -1)
            unseen = [(place, _missing(rows[:, place], train[:, place])) for place in range(train.shape[1])]
            unseen = [(place, values) for place, values in unseen if values]
            if unseen:
                place, values = unseen[0]
                yield Finding(
                    Level.WARNING,
                    f"{len(unseen)} input columns of '{split}' hold categories that no training row has; column "
                    f"{place} holds {and_list(values)}",
                    "What the network makes of them is not learned: map them to one 'other', or split the rows anew.",
                    column.about,
                )


def _missing(values: Tensor, known: Tensor) -> list[int]:
    return sorted(set(values.unique().tolist()) - set(known.unique().tolist()))


@check
def splits_are_alike(examined: Examined) -> Iterator[Finding]:
    """The inputs of validation and test are distributed like those of training."""
    for column in examined.columns:
        if not column.rows["train"].is_floating_point():
            continue
        train = _flat(column.rows["train"])
        if len(train) < ENOUGH:
            continue
        scale = train.std(0).clamp(min=1e-12)
        for split in ("validation", "test"):
            rows = _flat(column.rows[split])
            if len(rows) < ENOUGH:
                continue
            apart = (rows.mean(0) - train.mean(0)).abs() / scale
            far = ((apart > FAR) & (train.std(0) > 0)).nonzero().flatten().tolist()
            if far:
                yield Finding(
                    Level.WARNING,
                    f"the means of {len(far)} of {train.shape[1]} input columns differ between 'train' and '{split}' "
                    f"by more than {FAR:g} standard deviation: column {and_list(far)}",
                    "The result on that split says little of the training, or the splits were not drawn alike.",
                    column.about,
                )


def _flat(rows: Tensor) -> Tensor:
    return rows.reshape(len(rows), -1).double().nan_to_num(0, 0, 0)
