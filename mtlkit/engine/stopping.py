"""Stopping on SIGINT and SIGTERM between two steps, or two batches of an evaluation, with the run saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["BrokenOff", "StopRequest", "stop_on_signals"]


class BrokenOff(Exception):  # noqa: N818 - it was asked for, so it is no error
    """What was being done was broken off, for the run was asked to stop."""


class StopRequest:
    """Whether the run was asked to stop.

    Attributes:
        signal_number: The signal that asked; None while none has.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def break_off(self) -> None:
        """Is called where what is being done can be broken off.

        Raises:
            BrokenOff: If the run was asked to stop.
        """
        if self:
            raise BrokenOff


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one ends the process at once.

    Python delivers signals to the main thread alone: elsewhere the request simply never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # One that is ignored (under nohup, say) stays so; None is a handler that was not set from Python.
    before = {number: handler for number, handler in before.items() if handler not in {signal.SIG_IGN, None}}

    def note(number: int, _: FrameType | None) -> None:
        request.signal_number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
