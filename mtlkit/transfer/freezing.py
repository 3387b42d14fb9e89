"""Freezing: parts of encoders that are not trained, for the whole run or until their turn comes.

What is frozen needs no gradient, and rests: it is in evaluation mode while the rest of the model is in training mode,
so that neither the statistics of batch normalisation drift nor dropout acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from mtlkit.encoders.base import Encoder
from mtlkit.errors import closest

__all__ = ["Rest", "Thawing", "encoders_of", "levels_of", "rest_of_level", "rest_of_names", "will_be_trained"]


def encoders_of(module: nn.Module) -> dict[str, Encoder]:
    """Return the encoders within a module by name; one that stands within another belongs to that one."""
    found: dict[str, Encoder] = {}
    for name, part in module.named_modules():
        if isinstance(part, Encoder) and not any(not outer or name.startswith(f"{outer}.") for outer in found):
            found[name] = part
    return found


def levels_of(encoder: Encoder) -> list[nn.Module]:
    """Return the levels of an encoder, from its rows to its features.

    Raises:
        ValueError: If it says of none, or some of its parameters are in none of them.
    """
    levels = list(encoder.levels())
    if not levels:
        raise ValueError(f"{type(encoder).__name__} does not say of which stages it is made")
    held = {id(parameter) for level in levels for parameter in level.parameters()}
    beside = [name for name, parameter in encoder.named_parameters() if id(parameter) not in held]
    if beside:
        raise ValueError(f"{type(encoder).__name__} has parameters in none of its stages: {', '.join(beside[:3])}")
    return levels


def will_be_trained(parameter: nn.Parameter) -> bool:
    """Return whether a parameter is trained, now or once it is thawed."""
    return parameter.requires_grad or getattr(parameter, "thaws", False)


@dataclass(frozen=True)
class Rest:
    """A part of an encoder that is frozen.

    Attributes:
        encoder: The encoder.
        modules: The modules that rest.
        parameters: Those of its parameters that would be trained if it were not.
    """

    encoder: Encoder
    modules: Sequence[nn.Module]
    parameters: Sequence[nn.Parameter]

    def begin(self) -> None:
        """Freeze it."""
        for parameter in self.parameters:
            parameter.requires_grad = False
        self._rest([*self.encoder.resting, *self.modules])

    def end(self) -> None:
        """Have it trained."""
        for parameter in self.parameters:
            parameter.requires_grad = True
        awake = set(map(id, self.modules))
        self._rest([module for module in self.encoder.resting if id(module) not in awake])

    def _rest(self, modules: Sequence[nn.Module]) -> None:
        self.encoder.resting = tuple(modules)
        self.encoder.train(self.encoder.training)


def rest_of_level(encoder: Encoder, number: int) -> Rest:
    """Return a level of an encoder as what can be frozen.

    Raises:
        ValueError: If there is no such level.
    """
    levels = levels_of(encoder)
    if not 0 <= number < len(levels):
        raise ValueError(
            f"{type(encoder).__name__} has {len(levels)} stages, numbered from 0 to {len(levels) - 1}, and there is no "
            f"stage {number}"
        )
    return Rest(encoder, (levels[number],), _trained(levels[number].parameters()))


def rest_of_names(encoder: Encoder, pattern: str) -> Rest:
    """Return the parameters of a pattern as what can be frozen; modules all of whose parameters are among them rest.

    Args:
        encoder: The encoder.
        pattern: The name of a parameter, or of a module that it is in; ``*``, ``?`` and ``[...]`` stand for letters.

    Raises:
        ValueError: If it matches no name.
    """
    named = dict(encoder.named_parameters())
    chosen = {id(parameter) for name, parameter in named.items() if _matches(name, pattern)}
    if not chosen:
        children = [name for name, _ in encoder.named_children()]
        remedy = closest(pattern, children, kind="It is made of")
        raise ValueError(f"{type(encoder).__name__} has no parameter by the name {pattern!r}. {remedy}")
    modules: list[tuple[str, nn.Module]] = []
    for name, module in encoder.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer, _ in modules)
        own = {id(parameter) for parameter in module.parameters()}
        if own and own <= chosen and not inside:
            modules.append((name, module))
    parameters = _trained(parameter for parameter in named.values() if id(parameter) in chosen)
    return Rest(encoder, tuple(module for _, module in modules), parameters)


class Thawing:
    """Gradual unfreezing: what is frozen is thawed part by part, the last one first (Howard, Ruder, ACL 2018).

    Section 3.3 of "Universal language model fine-tuning for text classification". What is thawed at a step depends on
    the number of the step alone, so that a run which goes on from a checkpoint needs no state of this.

    Args:
        parts: What is thawed together, in the order in which it is thawed; all are frozen now.
        every: Steps from the start to the first, and from each to the next.
    """

    def __init__(self, parts: Sequence[Sequence[Rest]], every: int) -> None:
        self.parts = parts
        self.every = every
        self.thawed = 0
        for part in parts:
            for rest in part:
                for parameter in rest.parameters:
                    parameter.thaws = True  # type: ignore[attr-defined]  # for will_be_trained()

    def at(self, step: int) -> None:
        """Thaw what is to be trained at a step, counted from 0, and freeze what is not."""
        thawed = min(step // self.every, len(self.parts))
        for number, part in enumerate(self.parts):
            if (number < thawed) != (number < self.thawed):
                for rest in part:
                    if number < thawed:
                        rest.end()
                    else:
                        rest.begin()
        self.thawed = thawed


def _trained(parameters: Iterable[nn.Parameter]) -> tuple[nn.Parameter, ...]:
    return tuple(parameter for parameter in parameters if parameter.requires_grad)


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern is of a parameter's name, or of a module's that it is in."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))
