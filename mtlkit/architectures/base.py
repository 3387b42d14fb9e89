"""What every architecture is: how the tasks share encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    """

    features: FeatureSpec

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        """Encode a batch for the tasks that use it.

        Args:
            inputs: The rows ``[B, *]`` of one source.
            tasks: The indices of the tasks that share this batch.

        Returns:
            The features for each of these tasks, in their order; where tasks share features it is one and the same
            tensor, or dict of tensors, so that it is backpropagated once.
        """
        raise NotImplementedError

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that more than one task trains."""
        raise NotImplementedError

    def last_shared_layer(self) -> nn.Module:
        """Return the last layer that all tasks share: where GradNorm compares the tasks' gradients."""
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """Return a scalar that the architecture's own parameters pay beside the tasks' losses; None where they do not.

        It is asked for once in each backward pass, after the losses were backpropagated, and no strategy weighs it.
        """
        return None
