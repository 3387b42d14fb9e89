"""Fine-tune: what a configuration's ``transfer`` says, done to the encoders of a model that was built."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mtlkit.encoders.base import Encoder
from mtlkit.resolve import Resolved
from mtlkit.transfer import (
    Fit,
    Rest,
    Thawing,
    encoders_of,
    layered,
    levels_of,
    rest_of_level,
    rest_of_names,
    will_be_trained,
)
from mtlkit.yamlfile import SettingPath

__all__ = ["freeze", "load_pretrained", "parameter_groups"]


def load_pretrained(resolved: Resolved, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load the encoders' weights: each encoder's own, where several are there, or the same for all.

    Where not all need fit, a warning tells of those that did not.

    Raises:
        ConfigError: If they do not fit, with a report of what does not.
    """
    transfer = resolved.config.transfer
    for name, encoder in encoders_of(model).items():
        what = f"The weights in {transfer.pretrained} do not fit the encoder {type(encoder).__name__}"
        remedy = "Give the encoder the options that it was trained with."
        path: SettingPath = ("transfer", "pretrained" if transfer.prefix is None else "prefix")
        try:
            fit = Fit.of(encoder, weights, prefix=transfer.prefix, own=f"{name}.")
        except ValueError as error:
            remedy = f"{remedy} Or say what stands before its names there: transfer.prefix."
            raise resolved.problem(f"{what}: {error}", path, remedy) from error
        if not fit.matched or (transfer.strict and not fit.is_whole):
            if fit.matched:
                remedy = f"{remedy} Or load the {len(fit.matched)} that fit: transfer.strict=false."
            raise resolved.problem(f"{what}: {fit}", path, remedy)
        fit.load(encoder, weights)
        if not fit.is_whole:
            loaded = f"{len(fit.matched)} tensors of {name} were loaded from {transfer.pretrained}"
            warnings.warn(f"{loaded}, and its other tensors begin anew: {fit}.", stacklevel=2)


def freeze(resolved: Resolved, model: nn.Module, *, steps_per_epoch: int) -> Thawing | None:
    """Freeze what is to be frozen of each encoder; return what thaws it, where it is to be thawed by and by.

    Raises:
        ConfigError: If an encoder has no such stage, or no such name.
    """
    transfer = resolved.config.transfer
    encoders = list(encoders_of(model).values())
    numbers = transfer.stages
    if transfer.unfreeze is not None and transfer.freeze is None:
        with _placed(resolved, ("transfer", "unfreeze")):
            numbers = list(range(max(len(levels_of(encoder)) for encoder in encoders)))
    items: list[int | str] = [*sorted(set(numbers), reverse=True), *transfer.patterns]
    parts: list[list[Rest]] = []
    for item in items:
        listed = [transfer.freeze.index(item)] if isinstance(transfer.freeze, list) else []
        with _placed(resolved, ("transfer", "freeze", *listed)):
            parts.append([_rest(encoder, item) for encoder in encoders])
    for part in parts:
        for rest in part:
            rest.begin()
    return None if transfer.unfreeze is None else Thawing(parts, transfer.unfreeze.every * steps_per_epoch)


def parameter_groups(resolved: Resolved, model: nn.Module) -> list[dict[str, Any]]:
    """Return the optimizer's groups of the model's parameters, which are trained now or later.

    Raises:
        ConfigError: If learning rates go by stages, and an encoder does not say of any.
    """
    decay = resolved.config.transfer.layer_decay
    if decay == 1:
        return [{"params": [parameter for parameter in model.parameters() if will_be_trained(parameter)]}]
    with _placed(resolved, ("transfer", "layer_decay")):
        rate = float(resolved.optimizer.options["lr"])
        return layered(model, encoders_of(model).values(), rate=rate, decay=decay)


def _rest(encoder: Encoder, item: int | str) -> Rest:
    return rest_of_level(encoder, item) if isinstance(item, int) else rest_of_names(encoder, item)


@contextmanager
def _placed(resolved: Resolved, path: SettingPath) -> Iterator[None]:
    """Give the place of a setting to what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise resolved.problem(str(error).removesuffix("."), path) from error
