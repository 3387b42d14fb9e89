"""MultiTaskModel: an architecture over an encoder, and a head for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mtlkit.architectures.base import Architecture

__all__ = ["MultiTaskModel"]


class MultiTaskModel(nn.Module):
    """One network for several tasks.

    Args:
        architecture: How the tasks share the encoder.
        heads: One module for each task, by the task's label, in the order in which the architecture counts them.
    """

    def __init__(self, architecture: Architecture, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.architecture = architecture
        self.labels = tuple(heads)
        # nn.ModuleDict refuses its own attributes' names as keys, and a task may well be called 'values'.
        self.heads = nn.ModuleDict({f"task_{label}": head for label, head in heads.items()})

    def head(self, label: str) -> nn.Module:
        """Return the head of one task."""
        return self.heads[f"task_{label}"]

    def encode(self, inputs: Tensor, labels: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the features ``[B, *features.shape]`` for each of these tasks; for all by default."""
        labels = self.labels if labels is None else labels
        indices = [self.labels.index(label) for label in labels]
        return dict(zip(labels, self.architecture(inputs, indices), strict=True))

    def decode(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each task's output from its features."""
        return {label: self.head(label)(z) for label, z in features.items()}

    def forward(self, inputs: Tensor, labels: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the output of each of these tasks for a batch ``[B, *]``; of all tasks by default."""
        return self.decode(self.encode(inputs, labels))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that more than one task trains."""
        return self.architecture.shared_parameters()

    def last_shared_layer(self) -> nn.Module:
        """Return the last layer that all tasks share: where GradNorm compares the tasks' gradients."""
        return self.architecture.last_shared_layer()
