"""Background: one thing at a time that is done in a thread of its own while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Background"]

T = TypeVar("T")


class Abandoned(Exception):  # noqa: N818 - nobody waits for what was to be done, so it is no error of anybody's
    """What was begun is not wanted any more."""


class Background(Generic[T]):
    """Does one thing at a time in the background.

    What it raises is raised in the thread that asks next, once, as it is. The process does not wait for the thread
    when it ends.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._outcome: list[T] = []
        self._error: BaseException | None = None
        self._done: list[T] = []
        self._is_abandoned = threading.Event()

    def start(self, job: Callable[[], T]) -> None:
        """Begin something, once what was begun before is done."""
        self.wait()
        thread = threading.Thread(target=self._run, args=(job,), name="mtlkit-background", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread to spare
            self._run(job)
        else:
            self._thread = thread

    def wait(self) -> None:
        """Wait until nothing is being done, and raise what it raised."""
        if self._thread is not None:
            self._thread.join()
        self._settle()

    def done(self) -> list[T]:
        """Return what came of everything that was done since this was asked last, and raise what it raised."""
        if self._thread is None or not self._thread.is_alive():
            self._settle()
        done, self._done = self._done, []
        return done

    def abandon(self) -> None:
        """Let what is being done break off where it asks, and wait for it no more."""
        self._is_abandoned.set()
        self._thread = None

    def go_on(self) -> None:
        """Is called by what is being done, where it could break off.

        Raises:
            Abandoned: If it is to.
        """
        if self._is_abandoned.is_set():
            raise Abandoned

    def _run(self, job: Callable[[], T]) -> None:
        try:
            self._outcome = [job()]
        except BaseException as error:  # noqa: BLE001 - for the thread that asks next
            if not self._is_abandoned.is_set():
                self._error = error

    def _settle(self) -> None:
        self._thread = None
        self._done += self._outcome
        error, self._outcome, self._error = self._error, [], None
        if error is not None:
            raise error
