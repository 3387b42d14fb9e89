"""Undo: what a step changes before it is known to be good, kept so that it can be taken back.

The weights, their gradients' momenta and the optimizer's state change last, once all that goes into them was looked at.
Before that, a strategy has learned from the losses, the forward pass has moved statistics such as those of batch
normalisation, and random numbers and rows were drawn. All of that is small, but for what strategies remember of whole
gradients, which they replace and never write over.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.experiment import Experiment
from mtlkit.strategies.rows import Rows

__all__ = ["Undo"]


class Undo:
    """What a step may change before it is known to be good.

    Args:
        experiment: What is trained.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._strategy = _Buffers(experiment.strategy)
        self._model = _Buffers(experiment.model)
        self.remember()

    def remember(self) -> None:
        """Keep everything as it is: a step begins."""
        experiment = self._experiment
        with torch.no_grad():
            self._strategy.remember()
            self._model.remember()
        self._random = torch.get_rng_state()
        self._random_cuda = torch.cuda.get_rng_state(experiment.device) if experiment.device.type == "cuda" else None
        self._streams: list[dict[str, Any]] = [stream.state() for stream in experiment.streams]

    def restore(self) -> None:
        """Go back to where the step began, but for the rows that were drawn; no gradient is left."""
        experiment = self._experiment
        self.forget_what_was_learned()
        torch.set_rng_state(self._random)
        if self._random_cuda is not None:
            torch.cuda.set_rng_state(self._random_cuda, experiment.device)
        experiment.optimizer.zero_grad()

    def forget_what_was_learned(self) -> None:
        """Put back the state of the strategy and the statistics of the model."""
        self._strategy.restore()
        self._model.restore()

    def rewind(self) -> None:
        """Go back to where the step began, the rows included."""
        self.restore()
        for stream, state in zip(self._experiment.streams, self._streams, strict=True):
            stream.restore(state)

    def mend(self) -> None:
        """Put back each statistic of the model that is not finite any more: no weight is moved."""
        self._model.restore(only_spoilt=True)


class _Buffers:
    """The buffers of a module, as they were when :meth:`remember` was last called."""

    def __init__(self, module: nn.Module) -> None:
        self._places = [(each, name) for each in module.modules() for name in each._buffers]  # noqa: SLF001 - each once
        self._replaced = [place for place, each in enumerate(self._places) if _is_replaced(*each)]
        self._seen: list[Tensor | None] = []
        self._kept: list[Tensor | None] = [None] * len(self._places)
        self._alike: list[tuple[list[Tensor], list[int]]] = []  # copies that are made in one go, and of what

    def remember(self) -> None:
        """Keep them as they are."""
        live = [module._buffers[name] for module, name in self._places]  # noqa: SLF001
        if len(self._seen) < len(live) or not all(map(operator.is_, live, self._seen)):  # the same, as a rule
            if any(map(_differ, live, self._kept)):
                self._make_room(live)
            self._seen = live
        for copies, places in self._alike:
            torch._foreach_copy_(copies, [each for place in places if (each := live[place]) is not None])
        for place in self._replaced:
            self._kept[place] = live[place]

    def restore(self, *, only_spoilt: bool = False) -> None:
        """Put them back; with `only_spoilt`, those that are not finite now and were then."""
        with torch.no_grad():
            for (module, name), kept in zip(self._places, self._kept, strict=True):
                live = module._buffers[name]  # noqa: SLF001
                if only_spoilt and not (_is_finite(kept) and not _is_finite(live)):
                    continue
                if kept is None or live is None or _is_replaced(module, name) or _differ(live, kept):
                    is_shared = kept is None or _is_replaced(module, name)
                    module._buffers[name] = kept if is_shared else kept.clone()  # type: ignore[union-attr] # noqa: SLF001
                else:
                    live.copy_(kept)

    def _make_room(self, live: list[Tensor | None]) -> None:
        kinds: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[int]]] = {}
        for place, ((module, name), each) in enumerate(zip(self._places, live, strict=True)):
            self._kept[place] = None
            if each is not None and not _is_replaced(module, name):
                self._kept[place] = copy = each.clone()
                copies, places = kinds.setdefault((each.dtype, each.device), ([], []))
                copies.append(copy)
                places.append(place)
        self._alike = list(kinds.values())


def _is_replaced(module: nn.Module, name: str) -> bool:
    """Return whether a buffer is replaced when it changes, so that it can be kept as it is."""
    return name == "values" and isinstance(module, Rows)


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether one cannot be copied over the other as it is."""
    if one is None or other is None:
        return one is not other
    return one.shape != other.shape or one.dtype != other.dtype or one.device != other.device


def _is_finite(tensor: Tensor | None) -> bool:
    return tensor is None or not tensor.is_floating_point() or bool(tensor.isfinite().all())
