"""What every architecture is: how the tasks share encoders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.specs import FeatureSpec

__all__ = ["Architecture"]


class Architecture(nn.Module):
    """The base class of architectures.

    A subclass takes ``make_encoder``, a function that builds one more encoder of the configured kind each time it is
    called, and ``n_tasks``, then its options, keyword-only, typed and with defaults.

    Attributes:
        features: The shape of one row of the features that each head is given.
    """

    features: FeatureSpec

    def forward(self, inputs: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        """Encode a batch for the tasks that use it.

        Args:
            inputs: The rows ``[B, *]`` of one source.
            tasks: The indices of the tasks that share this batch.

        Returns:
            The features for each of these tasks, in their order; where tasks share features it is one and the same
            tensor, so that it is backpropagated once.
        """
        raise NotImplementedError

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that more than one task trains."""
        raise NotImplementedError

    def last_shared_layer(self) -> nn.Module:
        """Return the last layer that all tasks share: where GradNorm compares the tasks' gradients."""
        raise NotImplementedError
