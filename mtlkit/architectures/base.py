"""What every architecture is: how the tasks share encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mtlkit.specs import FeatureSpec

__all__ = ["Architecture"]


class Architecture(nn.Module):
    """The base class of architectures.

    A subclass takes ``make_encoder``, a function that builds one more encoder of the configured kind each time it is
    called, ``n_tasks``, and where it needs it ``inputs``, the :class:`~mtlkit.specs.InputSpec` of the rows; then its
    options, keyword-only, typed and with defaults. It refuses, by a ValueError, an encoder that it cannot serve.

    Attributes:
        features: The shape of one row of the features that each head is given.
        shares_features: Whether tasks that share a batch are always given one and the same features, whichever they
            are: many alike heads are then computed at once.
        row_by_row: Whether the class's own code makes the features of a row of that row alone; as for
            :class:`~mtlkit.encoders.Encoder`. Where the tasks share features too, batches of several sources go through
            it as one.
    """

    features: FeatureSpec
    shares_features: ClassVar[bool] = False
    row_by_row: ClassVar[bool] = False

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        """Encode a batch for the tasks that use it.

        Args:
            inputs: The rows ``[B, *]`` of one source.
            tasks: The indices of the tasks that share this batch.

        Returns:
            The features for each of these tasks, in their order; where tasks share features it is one and the same
            tensor, or dict of tensors, so that it is backpropagated once. Tasks with features of their own have no
            inner product there: a strategy that compares gradients at the features sees how large they are, and no
            conflict.
        """
        raise NotImplementedError

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that more than one task trains.

        Where gradients are compared at all of these, what one task alone trains, such as a gate or an adapter of its
        own, is weighted as its head is; elsewhere as the shared parameters are.
        """
        raise NotImplementedError

    def last_shared_layer(self) -> nn.Module | Sequence[nn.Module]:
        """Return the last layer that the tasks share: where GradNorm compares their gradients.

        Where several layers stand side by side there, such as the last ones of the experts of a mixture, they are
        returned together, and the gradients are compared at all their weights. Every task's features depend on one of
        them at least.
        """
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """Return a scalar that the architecture's own parameters pay beside the tasks' losses; None where they do not.

        It is asked for once in each backward pass, after the losses were backpropagated, and no strategy weighs it.
        """
        return None
