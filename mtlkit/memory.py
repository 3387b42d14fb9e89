"""Memory: how much of it this process may have, what asks for more before it is made, and which errors say so."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Budget", "asked_for_by", "ran_out", "setting_of", "total"]

# What torch and Python say where an allocation failed, or where a size is beyond what a machine can count.
_RAN_OUT = re.compile(
    "can't allocate memory|not enough memory|Storage size calculation overflowed|multiplication overflow|"
    "Overflow when unpacking|tensor with negative dimension|too large to convert|cannot fit 'int'|array is too big|"
    "numel overflow"
)
_MAKES: Sequence[Callable[..., torch.Tensor]] = (
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.arange, torch.linspace),
    *(torch.rand, torch.randn),
)
_NOTE = "How much is asked for here: "
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, or that a size is beyond all memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    kinds = RuntimeError | ValueError | OverflowError | TypeError
    return isinstance(error, kinds) and _RAN_OUT.search(str(error)) is not None


@contextlib.contextmanager
def asked_for_by(setting: str) -> Iterator[None]:
    """Let an error that says that memory ran out say as well which setting decides how much is asked for here."""
    try:
        yield
    except Exception as error:
        if ran_out(error):
            error.add_note(_NOTE + setting)
        raise


def setting_of(error: BaseException) -> str | None:
    """Return the setting that :func:`asked_for_by` noted on an error, if it did."""
    notes: Sequence[str] = getattr(error, "__notes__", ())
    return next((note.removeprefix(_NOTE) for note in notes if note.startswith(_NOTE)), None)


def total() -> int:
    """Return how many bytes of memory this process may have at most: of the machine, its container, its limit."""
    found = [math.inf]
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):  # there is none, or it says "max"
            found.append(int((_CONTROL_GROUP / name).read_text(encoding="utf-8")))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - which Windows lacks

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            found.append(soft)
    least = min(found)
    return 2**63 - 1 if least == math.inf else int(least)


class Budget(TorchFunctionMode):
    """While it is active, modules are made of no more memory than there is: asking for more is refused at once.

    Otherwise the system may end the process while it fills the memory that it was promised, and nothing could be told.
    What is counted is what torch.empty and the like make, as the constructors of torch.nn do.

    Raises:
        torch.OutOfMemoryError: Within, at the call that asks for too much.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = self._total = total()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count what a call makes, then make it."""
        kwargs = kwargs or {}
        if func in _MAKES:
            alike = {key: value for key, value in kwargs.items() if key not in {"generator", "out", "pin_memory"}}
            like = func(*args, **alike | {"device": "meta"})  # which has a size, and no memory
            if torch.device(kwargs.get("device") or "cpu").type == "cpu":
                self._left -= like.numel() * like.element_size()
            if self._left < 0:
                raise torch.OutOfMemoryError(
                    f"tensors of {(self._total - self._left) / 1e9:.3g} GB are asked for, and this process may have "
                    f"{self._total / 1e9:.3g} GB"
                )
        return func(*args, **kwargs)
