"""The network: stems, the architecture over its encoders, and heads that are computed as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from mtlkit.architectures.base import Architecture
from mtlkit.assemble.refusals import chosen, refusals
from mtlkit.banks import banks_among
from mtlkit.data.in_memory import InMemoryStream
from mtlkit.data.reader import some_rows
from mtlkit.data.splits import derived_seed
from mtlkit.encoders.base import Encoder
from mtlkit.errors import DataError, PluginError
from mtlkit.experiment import BoundTask, SourceGroup
from mtlkit.resolve import Part, Resolved
from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.stems import Chain, Stem
from mtlkit.task import Split
from mtlkit.tensors import joined

__all__ = ["ENTRY_BY_ENTRY", "architecture_of", "banked", "common_row", "prepare", "stem_of"]

# Those that move each entry of a parameter by what became of that entry alone, so that it makes no difference whether
# heads are parameters of their own or rows of one.
ENTRY_BY_ENTRY = {
    torch.optim.ASGD,
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SGD,
}
_PREPARED = 4096  # rows that are read for an encoder to read something off, where they are not in memory


def stem_of(resolved: Resolved, tasks: Sequence[BoundTask], group: SourceGroup) -> nn.Module | None:
    """Return what a group's rows pass through before the encoder; None where they go straight to it."""
    first = tasks[group.tasks[0]]
    named = resolved.stems[group.tasks[0]]
    for index in group.tasks[1:]:
        if _plain_stem(resolved.stems[index]) != _plain_stem(named):
            what = f"Tasks that share a source share its stem, and '{first.label}' and '{tasks[index].label}' differ"
            raise resolved.problem(what, ("tasks", index), "Give them the same stem.")
    inputs = group.row
    torch.manual_seed(derived_seed(resolved.config.run.seed, "stem", *group.origin))
    if named is None:
        with first.blame("stem"):
            declared = group.source.stem(inputs)
        if declared is not None and not isinstance(getattr(declared, "rows", None), InputSpec):
            raise PluginError(
                f"The stem of the source of task '{first.label}' says in its attribute 'rows', an mtlkit.InputSpec, "
                f"what it makes of a row; it has none ({first.provider})."
            )
        return declared
    made: list[Stem] = []
    for part in named:
        with refusals(resolved, part, part.path):
            made.append(part.component(made[-1].rows if made else inputs, **part.options))
    return Chain(made) if made else None


def _plain_stem(named: Sequence[Part] | None) -> object:
    return None if named is None else [(part.component, part.plain_options) for part in named]


def common_row(
    tasks: Sequence[BoundTask], groups: Sequence[SourceGroup], stems: Sequence[nn.Module | None]
) -> InputSpec:
    """Return what a row is to the encoder, once it has passed through its stem."""
    given = [group.row for group in groups]
    rows: list[InputSpec] = [
        row if stem is None else cast("InputSpec", stem.rows) for row, stem in zip(given, stems, strict=True)
    ]
    if any(row.shapes != rows[0].shapes for row in rows):
        shapes = "; ".join(
            f"{' and '.join(repr(tasks[index].label) for index in group.tasks)}: {row}"
            + (f" (made of {before} by its stem)" if row is not before else "")
            for group, row, before in zip(groups, rows, given, strict=True)
        )
        raise DataError(
            f"One encoder takes rows of one shape, and the tasks' sources have several: {shapes}. A stem makes rows "
            "of another shape, such as resize, flatten, patch, linear or embed at tasks[].stem."
        )
    return InputSpec.covering(rows)


def prepare(architecture: Architecture, groups: Sequence[SourceGroup], stems: Sequence[nn.Module | None]) -> None:
    """Show the training rows to the encoders that read something off them; of rows not in memory, some."""
    encoders = [module for module in architecture.modules() if isinstance(module, Encoder)]
    encoders = [encoder for encoder in encoders if type(encoder).prepare is not Encoder.prepare]
    if not encoders:
        return
    inputs = []
    with torch.no_grad():
        for group, stem in zip(groups, stems, strict=True):
            rows = some_rows(group.splits["train"], _PREPARED).inputs
            inputs.append(rows if stem is None else stem.eval()(rows))
            if stem is not None:
                stem.train()
        for encoder in encoders:
            encoder.prepare(inputs[0] if len(inputs) == 1 else joined(inputs))


def architecture_of(resolved: Resolved, inputs: InputSpec) -> Architecture:
    """Build the architecture over encoders of the configured kind."""
    part, made = resolved.architecture, 0
    provider = resolved.encoder.record.provider if resolved.encoder.record else ""

    def make_encoder() -> Encoder:
        nonlocal made
        torch.manual_seed(derived_seed(resolved.config.run.seed, "encoder", made))
        made += 1
        with refusals(resolved, resolved.encoder, resolved.encoder.path):
            encoder: Encoder = resolved.encoder.component(inputs, **resolved.encoder.options)
        if not isinstance(getattr(encoder, "features", None), FeatureSpec):
            raise PluginError(
                f"An encoder says in its attribute 'features', an mtlkit.FeatureSpec, what it makes, and {provider} "
                "has none."
            )
        return encoder

    facts = chosen(part, {"make_encoder": make_encoder, "n_tasks": len(resolved.tasks), "inputs": inputs})
    with refusals(resolved, part, part.path):
        architecture: Architecture = part.component(**facts, **part.options)
    return architecture


def banked(tasks: Sequence[BoundTask], heads: Mapping[str, nn.Module], group: SourceGroup) -> SourceGroup:
    """Make banks of the heads that are alike among the tasks of a source, and put their targets side by side."""
    train, stream = group.splits["train"], group.stream
    if not (isinstance(stream, InMemoryStream) and isinstance(train, Split)):
        return group
    labels = [bound.label for bound in tasks]
    own = {index: heads[labels[index]] for index in group.tasks}
    banks = banks_among({index: tasks[index].task for index in group.tasks}, own, labels, train, stream)
    if not banks:
        return group
    train = train.beside([bank.columns for bank in banks])
    stream = InMemoryStream(train, stream.order, batch_size=stream.batch_size)
    return dataclasses.replace(group, splits={**group.splits, "train": train}, stream=stream, banks=banks)
