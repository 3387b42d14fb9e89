"""Weights from elsewhere: which of them are an encoder's, and a report of what is not as it should be."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mtlkit.encoders.base import Encoder

__all__ = ["Fit"]

_SHOWN = 3  # names of each kind in a report


@dataclass(frozen=True)
class Fit:
    """How weights from elsewhere fit an encoder.

    Attributes:
        prefix: What stands there before the encoder's own names, such as ``architecture.encoder.``; often nothing.
        matched: The names of the encoder's tensors that have weights of their shape there.
        missing: Those that have none there, each with the nearest name of a tensor there that is nobody's, or "".
        misshapen: Those that have weights of another shape, or of numbers of another kind, each with what differs.
        unexpected: The names, without the prefix, of tensors there that are none of the encoder's.
    """

    prefix: str
    matched: tuple[str, ...]
    missing: Mapping[str, str]
    misshapen: Mapping[str, str]
    unexpected: tuple[str, ...]

    @classmethod
    def of(cls, encoder: Encoder, weights: Mapping[str, Tensor], *, prefix: str | None = None, own: str = "") -> Fit:
        """Find an encoder's weights among those of a file, which may be a whole model's.

        Args:
            encoder: The encoder.
            weights: Tensors by name.
            prefix: What stands before its names; found out by default: that which most of its tensors are found by.
            own: What stands before its names in its own model, which decides where several encoders' weights fit alike.

        Raises:
            ValueError: If there is nothing of the encoder, or the weights of several encoders fit alike.
        """
        ours = encoder.state_dict()
        if prefix is None:
            prefix = _prefix(ours, weights, own)
        theirs = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if ours.keys().isdisjoint(theirs):
            raise ValueError(
                f"none of the encoder's tensors is there{f' by the prefix {prefix!r}' if prefix else ''}: it has "
                f"{_listed(ours)}, and there is {_listed(weights)}"
            )
        differing = {name: _difference(theirs[name], ours[name]) for name in ours if name in theirs}
        unexpected = tuple(name for name in theirs if name not in ours)
        return cls(
            prefix,
            tuple(name for name, difference in differing.items() if not difference),
            {name: _nearest(name, unexpected) for name in ours if name not in theirs},
            {name: difference for name, difference in differing.items() if difference},
            unexpected,
        )

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of the encoder has weights there, and there is nothing more."""
        return not (self.missing or self.misshapen or self.unexpected)

    def load(self, encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights that fit into the encoder, in its own dtype; the others are left as they are."""
        encoder.load_state_dict({name: weights[self.prefix + name] for name in self.matched}, strict=False)

    def __str__(self) -> str:
        """Tell what does not fit: how many of each kind, and the first of them."""
        count = len(self.matched) + len(self.missing) + len(self.misshapen)
        told = []
        if self.missing:
            names = [f"{name} (nearest: {near})" if near else name for name, near in self.missing.items()]
            told.append(f"missing there: {len(self.missing)} of the encoder's {count} tensors, {_listed(names)}")
        if self.misshapen:
            names = [f"{name} ({difference})" for name, difference in self.misshapen.items()]
            told.append(f"of another shape: {len(self.misshapen)} of {count}, {_listed(names)}")
        if self.unexpected:
            told.append(f"not the encoder's: {len(self.unexpected)}, {_listed(self.unexpected)}")
        return "; ".join(told) or f"all {count} tensors fit"


def _prefix(ours: Mapping[str, Tensor], weights: Mapping[str, Tensor], own: str) -> str:
    """Return what stands before the names of the encoder's tensors among the weights.

    Raises:
        ValueError: If there are several that may be meant.
    """
    found: Counter[str] = Counter()
    for name, tensor in weights.items():
        parts = name.split(".")
        for start in range(len(parts)):
            suffix = ".".join(parts[start:])
            if suffix in ours:
                # A name counts, and more so where the shape is the right one.
                found[name.removesuffix(suffix)] += 1 + len(ours) * (not _difference(tensor, ours[suffix]))
    most = max(found.values(), default=0)
    best = [prefix for prefix, count in found.items() if count == most]
    if len(best) <= 1 or own in best:
        return own if own in best else "".join(best)
    raise ValueError(
        f"the weights of {len(best)} encoders fit alike, those that begin with {_listed(best)}: say which is meant"
    )


def _difference(theirs: Tensor, ours: Tensor) -> str:
    if theirs.shape != ours.shape:
        return f"{tuple(theirs.shape)} there, {tuple(ours.shape)} here"
    if theirs.is_floating_point() != ours.is_floating_point():
        return f"{theirs.dtype} there, {ours.dtype} here"
    return ""


def _nearest(name: str, names: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(name, names, 1, 0.6)), "")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") if names else "nothing"
