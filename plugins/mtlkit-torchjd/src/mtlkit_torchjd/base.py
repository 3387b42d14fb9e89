"""Base: what asks TorchJD, with the tasks that are present in a step.

Letters: T tasks in all, K tasks present; M the Gram matrix ``[K, K]`` of their gradients; J the gradients ``[K, P]``.

TorchJD has as many objectives as its matrix has rows, and forgets what it knows where their number changes; here a task
may be absent from a step. So a weighting is made anew in each step, for the tasks present, and what one knows from step
to step is held here, for every task, in buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

import mtlkit

__all__ = [
    "NotNegative",
    "Positive",
    "Seed",
    "TorchJDStrategy",
    "aggregation",
    "extra",
    "of_present",
    "per_task",
    "present_in",
]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def aggregation() -> ModuleType:
    """Return TorchJD's weightings, imported when they are first asked for: with all its solvers that takes seconds."""
    import torchjd.aggregation  # noqa: PLC0415

    return torchjd.aggregation


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn TorchJD's ImportError for a package that one method needs into an error that says what to install.

    Args:
        name: The extra of this distribution that brings the package.

    Raises:
        PluginError: Where the package is missing.
    """
    try:
        yield
    except ImportError as error:
        missing = str(error).partition(". ")[0].lstrip("_")
        raise mtlkit.errors.PluginError(
            f"TorchJD's {missing}. Install it with: pip install 'mtlkit-torchjd[{name}]'."
        ) from error


def per_task(name: str, values: Sequence[float] | None, n_tasks: int) -> Tensor | None:
    """Return an option that is one number for each task ``[T]``; None where it is not given.

    Raises:
        ValueError: If there is not one for each task.
    """
    if values is None:
        return None
    if len(values) != n_tasks:
        raise ValueError(f"{name} needs one number for each of the {n_tasks} tasks; received {len(values)}")
    return torch.tensor(values, dtype=torch.float64)


def of_present(values: Tensor | None, present: Tensor) -> Tensor | None:
    """Return the numbers of the tasks present ``[K]`` of those of all ``[T]``, if there are any."""
    return None if values is None else values[present]


def present_in(tasks: Tensor | None, n_tasks: int) -> Tensor:
    """Return the numbers of the tasks present ``[K]``, on the CPU."""
    return torch.arange(n_tasks) if tasks is None else tasks.cpu()


class TorchJDStrategy(mtlkit.Strategy):
    """A strategy whose weights TorchJD works out from the Gram matrix: :meth:`ask` is all there is to it.

    TorchJD is asked on the CPU and in float64, with the tasks in the order of their numbers: what draws random numbers,
    or breaks ties, then answers the same in whichever order they are named.

    Attributes:
        plain_heads: Whether each head gets its loss's own gradient, as where a weight may be 0 or negative: a head
            would not learn then, or climb its loss.
    """

    needs: ClassVar[mtlkit.Needs] = mtlkit.Needs.GRAMIAN
    over: ClassVar[mtlkit.Over | None] = mtlkit.Over.PARAMETERS
    plain_heads: bool = False

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> mtlkit.Weighting:
        if gramian is None:
            raise ValueError(f"{type(self).__name__} needs the Gram matrix of the tasks' gradients")
        present, order = present_in(tasks, self.n_tasks).sort()
        weights = torch.empty_like(losses)
        with torch.no_grad():
            answer = self.ask(gramian.detach().cpu()[order[:, None], order], present)
            weights[order.to(losses.device)] = answer.to(losses)
        return mtlkit.Weighting(weights, head_weights=torch.ones_like(weights) if self.plain_heads else None)

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        """Return the weights ``[K]``.

        Args:
            gramian: M ``[K, K]``, in float64 on the CPU.
            present: The numbers of the tasks present ``[K]``, ascending.
        """
        answer: Tensor = self.weighting(present)(gramian)
        return answer

    def weighting(self, present: Tensor) -> Any:
        """Return TorchJD's weighting for the tasks present ``[K]``."""
        raise NotImplementedError
