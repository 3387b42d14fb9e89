"""What every loss-weighting strategy is.

Letters in this package: T tasks in all, K tasks present in the step, P shared parameters; L the losses ``[K]``; g_i the
gradient of L_i over the place that the strategy names; M the Gram matrix of the g_i, ``[K, K]``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mtlkit.errors import NonFiniteError
from mtlkit.solvers.few import FEW, Rows
from mtlkit.strategies.numbers import tensor_of

__all__ = ["GramianStrategy", "Needs", "Over", "Strategy", "Weighting"]


class Needs(enum.Enum):
    """The least that a strategy has to be given, from nothing more upwards."""

    LOSSES = "losses"
    """The losses alone: one plain backward."""

    GRAMIAN = "gramian"
    """The inner products of the per-task gradients too."""

    JACOBIAN = "jacobian"
    """The per-task gradients themselves, ``[K, P]``, for the few methods that are no function of inner products."""


class Over(enum.Enum):
    """Where the per-task gradients are taken."""

    LAST_SHARED = "last-shared"
    """At the weights of the last shared layer, or of each that stands there: K weight gradients of it."""

    FEATURES = "features"
    """At the features: no more than the heads' backward that is needed anyway.

    Tasks with no features in common, such as those with batches of their own, or those whom an architecture gives
    features of their own, count as orthogonal: the Gram matrix is diagonal and shows no conflict.
    """

    PARAMETERS = "parameters"
    """At all shared parameters: a backward through the encoder for each task."""


class Weighting(NamedTuple):
    """What a strategy answers.

    Attributes:
        weights: One weight for each task present ``[K]``. Where it depends on parameters of the strategy, their
            gradient is that of ``sum(weights * losses) + penalty``, the losses held constant.
        penalty: A scalar of the strategy's own that its parameters also pay.
        head_weights: The weights ``[K]`` of the gradients that the heads get, where they are not those of the shared
            parameters.
        direction: The gradient ``[P]`` that the place which the strategy names gets, where it is no weighted sum of the
            tasks'; the weights are then those of the heads, and of what else is shared.
    """

    weights: Tensor
    penalty: Tensor | float = 0.0
    head_weights: Tensor | None = None
    direction: Tensor | None = None


class Strategy(nn.Module):
    """The base class of loss-weighting strategies.

    A subclass takes ``n_tasks`` first, then whichever facts about the tasks it needs, by these names: ``loss_kinds``,
    a sequence of :data:`~mtlkit.task.LossKind`; ``n_classes``, a sequence of numbers or None; ``labels``, a sequence of
    what the run calls them. Then its options, keyword-only, typed and with defaults. All its state lives in parameters
    and buffers, so that a checkpoint holds it; float64 is the dtype for them, since they are T numbers and a gradient's
    square is soon out of float32.

    Attributes:
        needs: The least that :meth:`weights` has to be given.
        over: Where the gradients behind the Gram matrix are taken; None where none are needed.
        watches_step: Whether it wants the same batch's losses again after the model's step, by :meth:`observe`.
        looks_ahead: Whether it wants to know, before each backward pass, how the losses of held-out rows would answer
            to its weights, by :meth:`foresee`. :func:`mtlkit.look_ahead` measures that, by a trial step.
    """

    needs: ClassVar[Needs] = Needs.LOSSES
    over: ClassVar[Over | None] = None
    watches_step: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def __init__(self, n_tasks: int) -> None:
        if n_tasks < 1:
            raise ValueError(f"n_tasks must be at least 1; received {n_tasks}")
        super().__init__()
        self.n_tasks = n_tasks

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        """Weigh the losses of one step.

        It is asked once for each backward pass, and in training mode an adaptive strategy updates its state here.

        Args:
            losses: The losses of the tasks present ``[K]``, detached, in float64.
            gramian: The inner products of their gradients ``[K, K]``, in float64, where :attr:`needs` asks for them.
            tasks: The indices of the tasks present ``[K]``; None where all are. The state of the others is left alone.
        """
        raise NotImplementedError

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> Weighting:
        """Weigh or combine the gradients of one step; asked in place of :meth:`weights` where the gradients are needed.

        Args:
            losses: The losses of the tasks present ``[K]``, detached, in float64.
            jacobian: Their gradients ``[K, P]`` at the place that :attr:`over` names, in the dtype and on the device of
                the model; it may be written over.
            tasks: The indices of the tasks present ``[K]``; None where all are. The state of the others is left alone.
        """
        raise NotImplementedError

    def observe(self, losses: Tensor, tasks: Tensor | None = None) -> None:
        """Hear the losses of the batch that was weighed last, after the model's step.

        Args:
            losses: The losses of the tasks present ``[K]``, detached, in float64.
            tasks: The indices of the tasks present ``[K]``; None where all are.

        Raises:
            NonFiniteError: If a loss is NaN or infinite, and would change what the strategy knows; nothing is changed.
        """

    def trial(self, tasks: Tensor | None = None) -> Tensor:
        """Return the weights ``[K]`` of the trial step of a strategy that looks ahead; no state is changed by it.

        Args:
            tasks: The indices of the tasks present in the training batch ``[K]``; None where all are.
        """
        raise NotImplementedError

    def objectives(self, tasks: Tensor | None = None) -> Tensor:
        """Return what a strategy that looks ahead asks about: sums of held-out losses, a row for each.

        Args:
            tasks: The indices of the tasks present in the held-out batch ``[H]``; None where all are.

        Returns:
            How much the loss of each of these tasks counts in each objective ``[M, H]``, in float64; M may be 0. By
            default there is one objective, the sum of them all.
        """
        return torch.ones(1, self.n_tasks if tasks is None else len(tasks), dtype=torch.float64)

    def foresee(self, slopes: Tensor, tasks: Tensor | None = None) -> None:
        """Hear how the objectives would answer to the weights, before :meth:`weights` is asked for the same batch.

        Args:
            slopes: The derivative of each objective, after the trial step, with respect to the weight of each task
                present in the training batch ``[M, K]``, in float64.
            tasks: The indices of those tasks ``[K]``; None where all are. The state of the others is left alone.

        Raises:
            NonFiniteError: If a slope is NaN or infinite, and would change what the strategy knows; nothing is changed.
        """

    def end_epoch(self) -> None:
        """Hear that an epoch ended, for what is averaged over epochs."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimizer groups for the parameters that are learned along with the model's; none decays."""
        parameters = list(self.parameters())
        return [{"params": parameters, "weight_decay": 0.0}] if parameters else []

    def _require_finite(self, what: str, values: Tensor) -> None:
        """Refuse to learn from what is not finite, by the places of the tasks ``[..., K]``."""
        if not values.isfinite().all():
            bad = (~values.isfinite()).reshape(-1, values.shape[-1]).any(0).nonzero().flatten().tolist()
            told = ", ".join(f"task {place}" for place in bad)
            raise NonFiniteError(
                f"Non-finite {what} of {told}: {type(self).__name__} learns nothing from it.", what=what, places=bad
            )

    def _present(self, tasks: Tensor | None, like: Tensor) -> Tensor:
        """Return the indices of the tasks present ``[K]``."""
        return torch.arange(self.n_tasks, device=like.device) if tasks is None else tasks


class GramianStrategy(Strategy):
    """A strategy whose weights are worked out from the Gram matrix of the step: :meth:`solve` is all there is to it.

    Attributes:
        plain_heads: Whether each head gets its loss's own gradient, as where a weight may be 0 or negative: a head
            would not learn then, or climb its loss.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    plain_heads: ClassVar[bool] = False

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        """Weigh the losses of one step, as :meth:`solve` says; the tasks absent take no part."""
        weights = self.solve(self._given(gramian), losses)
        return Weighting(weights, head_weights=torch.ones_like(weights) if self.plain_heads else None)

    def solve(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return the weights ``[K]`` for a Gram matrix ``[K, K]`` and losses ``[K]``, all in float64."""
        raise NotImplementedError

    def solved(
        self,
        solver: Callable[[np.ndarray], np.ndarray],
        gramian: Tensor,
        few: Callable[[Rows], Sequence[float] | None] | None = None,
    ) -> Tensor:
        """Return what a solver makes of the Gram matrix.

        Args:
            solver: Answers to the Gram matrix as an array on the CPU.
            gramian: M ``[K, K]``.
            few: Answers to few tasks in its place, where it can: to plain numbers, in plain numbers.
        """
        if few is not None and len(gramian) <= FEW:
            answer = few(gramian.tolist())
            if answer is not None:
                return tensor_of(answer, gramian)
        return torch.from_numpy(np.ascontiguousarray(solver(gramian.detach().cpu().numpy()))).to(gramian)

    def _given(self, gramian: Tensor | None) -> Tensor:
        if gramian is None:
            raise ValueError(f"{type(self).__name__} needs the Gram matrix of the tasks' gradients")
        return gramian
