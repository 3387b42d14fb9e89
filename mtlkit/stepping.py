"""A step of an optimizer, without what torch does around it for somebody who watches, where nobody does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as hooks_of_all

__all__ = ["step"]

_WRAPPER = Optimizer.profile_hook_step(lambda _: None).__code__  # of what torch makes of the step of each class


def step(optimizer: Optimizer) -> None:
    """Let an optimizer take its step and forget the gradients: ``optimizer.step()`` and ``optimizer.zero_grad()``.

    It does just what these do. Where no profiler runs, no hook waits for the step and nobody has put something of his
    own in place of a method, it goes past what torch wraps around them for such: some 75 microseconds, which is a
    twentieth of a step of a small model.

    Args:
        optimizer: The optimizer; after the step, its parameters have no ``.grad``.
    """
    bare = _bare_step(optimizer)
    if bare is None:
        optimizer.step()
    else:
        bare(optimizer)
    if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in vars(optimizer):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _bare_step(optimizer: Optimizer) -> Callable[[Optimizer], Any] | None:
    """Return the step of the optimizer's class as it was written; None where it may not be what should be called."""
    wrapped = type(optimizer).step
    if getattr(wrapped, "__code__", None) is not _WRAPPER:
        return None
    if "step" in vars(optimizer):  # where a scheduler puts one that counts
        return None
    hooks = (
        optimizer._optimizer_step_pre_hooks,  # noqa: SLF001 - torch has no other way to ask
        optimizer._optimizer_step_post_hooks,  # noqa: SLF001
        hooks_of_all._global_optimizer_pre_hooks,  # noqa: SLF001
        hooks_of_all._global_optimizer_post_hooks,  # noqa: SLF001
    )
    is_watched = any(hooks) or torch.autograd._profiler_enabled()  # type: ignore[attr-defined] # noqa: SLF001
    if is_watched or type(optimizer)._optimizer_step_code is not Optimizer._optimizer_step_code:  # noqa: SLF001
        return None
    bare: Callable[[Optimizer], Any] | None = getattr(wrapped, "__wrapped__", None)
    return bare
