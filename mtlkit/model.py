"""MultiTaskModel: stems, an architecture over encoders, and a head for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mtlkit.architectures.base import Architecture
from mtlkit.heads.bank import HeadBank
from mtlkit.tensors import Tensors, are_alike, joined, parted, rows_in

__all__ = ["MultiTaskModel"]


class MultiTaskModel(nn.Module):
    """One network for several tasks.

    Args:
        architecture: How the tasks share the encoder.
        heads: One module for each task, by the task's label, in the order in which the architecture counts them.
        stems: What the rows of a task pass through before they reach the encoder, by the task's label, where its rows
            are not what the encoder takes. Tasks that share a batch have one stem between them, the same module.
        banks: The banks that some of the heads are in, which hold their parameters: see
            :class:`~mtlkit.heads.HeadBank`.
    """

    def __init__(
        self,
        architecture: Architecture,
        heads: Mapping[str, nn.Module],
        stems: Mapping[str, nn.Module] | None = None,
        banks: Sequence[HeadBank] = (),
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.labels = tuple(heads)
        # nn.ModuleDict refuses its own attributes' names as keys, and a task may well be called 'values'.
        self.heads = nn.ModuleDict({f"task_{label}": head for label, head in heads.items()})
        # A stem of several tasks is held once, by the first of them, so that a checkpoint holds it once.
        self.stems = nn.ModuleDict()
        self._stem_of: dict[str, str] = {}
        for label, stem in (stems or {}).items():
            key = next((key for key, known in self.stems.items() if known is stem), f"task_{label}")
            self.stems[key] = stem
            self._stem_of[label] = key
        self.banks = nn.ModuleList(banks)

    def head(self, label: str) -> nn.Module:
        """Return the head of one task."""
        return self.heads[f"task_{label}"]

    def stem(self, label: str) -> nn.Module | None:
        """Return what the rows of one task pass through before the encoder; None where they go straight to it."""
        key = self._stem_of.get(label)
        return None if key is None else self.stems[key]

    def features(self, inputs: Tensors, tasks: Sequence[int]) -> list[Tensors]:
        """Return the features of a batch for the tasks of these indices, which share it.

        Raises:
            ValueError: If the tasks do not share a stem.
        """
        made: list[Tensors] = self.architecture(self._stemmed(inputs, tasks) if self._stem_of else inputs, tasks)
        return made

    def features_of_each(self, batches: Sequence[Tensors], tasks: Sequence[Sequence[int]]) -> list[Tensors] | None:
        """Return the features of several batches, one for each, from one pass of all through the architecture.

        None where their rows are not of one kind once they have passed through their stems.

        Args:
            batches: The rows of each.
            tasks: The indices of the tasks that share it. All tasks share features.
        """
        stemmed = [
            self._stemmed(batch, each) if self._stem_of else batch for batch, each in zip(batches, tasks, strict=True)
        ]
        if not are_alike(stemmed):
            return None
        features = self.architecture(joined(stemmed), [task for each in tasks for task in each])[0]
        return parted(features, [rows_in(batch) for batch in stemmed])

    def _stemmed(self, inputs: Tensors, tasks: Sequence[int]) -> Tensors:
        """Return what the stem of the tasks makes of the rows."""
        stems = {id(stem): stem for stem in (self.stem(self.labels[task]) for task in tasks)}
        if len(stems) > 1:
            labels = " and ".join(repr(self.labels[task]) for task in tasks)
            raise ValueError(f"the rows of {labels} pass through several stems, so they cannot share a batch")
        (stem,) = stems.values()
        made: Tensors = inputs if stem is None else stem(inputs)
        return made

    def encode(self, inputs: Tensors, labels: Sequence[str] | None = None) -> dict[str, Tensors]:
        """Return the features ``[B, *features.shape]`` for each of these tasks; for all by default."""
        labels = self.labels if labels is None else labels
        indices = [self.labels.index(label) for label in labels]
        return dict(zip(labels, self.features(inputs, indices), strict=True))

    def decode(self, features: Mapping[str, Tensors]) -> dict[str, Tensor]:
        """Return each task's output from its features."""
        return {label: self.head(label)(z) for label, z in features.items()}

    def forward(self, inputs: Tensors, labels: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the output of each of these tasks for a batch ``[B, *]``; of all tasks by default."""
        return self.decode(self.encode(inputs, labels))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that more than one task trains: the architecture's, and those of stems of several."""
        users = list(self._stem_of.values())
        stems = [stem for key, stem in self.stems.items() if users.count(key) > 1]
        return [*self.architecture.shared_parameters(), *(p for stem in stems for p in stem.parameters())]

    def last_shared_layer(self) -> nn.Module | Sequence[nn.Module]:
        """Return the last layer that the tasks share, or several that stand side by side."""
        return self.architecture.last_shared_layer()
