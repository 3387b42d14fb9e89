"""What an optimizer remembers, taken from a checkpoint that may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["restore_optimizer"]


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Have an optimizer remember what its ``state_dict`` said when it was saved.

    Its options stay its own: the configuration gives them. What it remembers of a parameter has to be of its shape: the
    fused kernels of torch write to the end of the parameter, however short the memory is that they are handed.

    Raises:
        KeyError, TypeError, ValueError: If it is not the state of such an optimizer.
    """
    own = optimizer.state_dict()["param_groups"]
    numbers = [group["params"] for group in own]
    if [list(group["params"]) for group in saved["param_groups"]] != numbers:
        raise ValueError("the optimizer has other parameters")
    state = dict(saved["state"])
    for group, mine in zip(optimizer.param_groups, own, strict=True):
        for parameter, number in zip(group["params"], mine["params"], strict=True):
            remembered = state.get(number, {})
            if not isinstance(remembered, dict):
                raise ValueError(f"what the optimizer remembers of parameter {number} is {remembered!r:.50}")  # noqa: TRY004
            for name, value in remembered.items():
                _require_fit(name, value, parameter, is_exact=bool(group.get("fused")))
    if not state.keys() <= {number for each in numbers for number in each}:
        raise ValueError("the optimizer remembers parameters that it does not have")
    optimizer.load_state_dict({"state": state, "param_groups": own})


def _require_fit(name: Any, value: Any, parameter: Tensor, *, is_exact: bool) -> None:
    """Require that what is remembered of a parameter is of its shape, or is one number.

    Adafactor remembers rows and columns, each with a dimension of one; what is not fused checks shapes for itself.
    """
    if not isinstance(name, str):
        raise ValueError(f"the optimizer remembers a {name!r:.50}")  # noqa: TRY004 - of the file, not of an argument
    if isinstance(value, Tensor):
        shape = tuple(value.shape)
        if name == "step" or (not shape and not is_exact):
            fits = not shape and not value.is_complex()
        elif is_exact:
            fits = shape == tuple(parameter.shape) and not value.is_complex()
        else:
            pairs = zip(shape, parameter.shape, strict=False)
            fits = value.ndim == parameter.ndim and all(mine in {1, its} for mine, its in pairs)
        if not fits:
            raise ValueError(f"the optimizer's {name!r:.50} is of shape {list(shape)}, for one {list(parameter.shape)}")
    elif not (value is None or isinstance(value, int | float)) or is_exact:
        raise ValueError(f"the optimizer's {name!r:.50} is {value!r:.50}")
