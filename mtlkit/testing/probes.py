"""Probes: ask a plugin's code, and watch what it does to the world around it."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtlkit.testing.checks import Nonconformance, require

__all__ = ["RandomStates", "asking", "require_construction_leaves_random_state", "require_silence", "seeded"]


@contextlib.contextmanager
def asking(whom: str) -> Iterator[None]:
    """Turn what a plugin's own code raises in here into a Nonconformance.

    Args:
        whom: What was asked, as a sentence begins: ``"The encoder's forward()"``.
    """
    __tracebackhide__ = True
    try:
        yield
    except Nonconformance:
        raise
    except Exception as error:
        raise Nonconformance(f"{whom} raised {type(error).__name__}: {error}") from error


class RandomStates(NamedTuple):
    """The states of the global random generators, by whose they are."""

    python: Any
    numpy: Any
    torch: Tensor

    @classmethod
    def now(cls) -> RandomStates:
        """Return the states as they are."""
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002 - what is watched

    def restore(self) -> None:
        """Put the states back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002 - what is put back
        torch.set_rng_state(self.torch)

    def changed(self) -> list[str]:
        """Return whose states are others now."""
        now = RandomStates.now()
        same = {
            "Python's": self.python == now.python,
            "NumPy's": all(np.array_equal(a, b) for a, b in zip(self.numpy, now.numpy, strict=True)),
            "torch's": torch.equal(self.torch, now.torch),
        }
        return [name for name, equal in same.items() if not equal]


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed the global random generators in here, and put them back as they were."""
    before = RandomStates.now()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator is the one that a plugin may draw from
    torch.default_generator.manual_seed(seed)  # torch.manual_seed() would seed the accelerators too
    try:
        yield
    finally:
        before.restore()


def require_construction_leaves_random_state(build: Callable[[], object], what: str) -> None:
    """Require that building draws from torch's global generator at most, and seeds none.

    Args:
        build: Builds one; it may raise only Nonconformance.
        what: What is built, as a sentence begins.
    """
    after = []
    for seed in (1, 2):
        with seeded(seed):
            before = RandomStates.now()
            build()
            others = [name for name in before.changed() if name != "torch's"]
            after.append(torch.get_rng_state())
        require(
            not others,
            f"{what} changed {' and '.join(others)} global random state when it was constructed",
            "A run seeds torch before it: draw from torch, or from a generator of its own.",
        )
    require(
        not torch.equal(*after),
        f"{what} seeded torch's global random generator when it was constructed",
        "A run has seeded it already; where a seed of its own is needed, use torch.Generator().manual_seed(seed).",
    )


def require_silence(act: Callable[[], object], what: str) -> None:
    """Require that nothing is written to standard output or standard error.

    Args:
        act: What is done; it may raise only Nonconformance.
        what: Who does it, as a sentence begins.
    """
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python prints warnings, and it is not the plugin that does
        act()
    text = written.getvalue()
    require(
        not text,
        f"{what} printed {text if len(text) < 80 else text[:80] + '...'!r}",  # noqa: PLR2004 - a line of text
        "Standard output is the command's own, --json included: use logging, or raise what is wrong.",
    )
