"""The ``task-embedding`` architecture: one encoder, whose normalisations a vector for each task scales and shifts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtlkit.architectures.base import Architecture
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Positive

__all__ = ["TaskEmbedding"]


class TaskEmbedding(Architecture):
    """Normalisations conditioned on the task (FiLM; Perez, Strub, de Vries et al., AAAI 2018).

    Each task t has a vector e_t. In each LayerNorm and GroupNorm of the one encoder, whose own scale and shift are
    gamma and beta, the normalised x becomes for task t

        (gamma + G e_t) * x + beta + H e_t

    with matrices G and H for each of them that all tasks share, 0 at first, so that every task begins with the same
    features. FiLM conditions feature maps so on a question; on the task, conditional normalisation of a transformer is
    what tasknet does as an option: there a layer's update passes through two learned gates, each the sigmoid of a
    number, and is left out at random in a tenth of the passes; by default tasknet adds e_t to the first token instead.

    Departures from both: no gates, no random leaving out. Batch normalisation is left alone: its statistics would be of
    several tasks' passes.

    The encoder, G and H are shared, and the encoder's last layer stands last; e_t is a task's own. The encoder is
    computed once for each task that takes part.

    Args:
        make_encoder: Builds the encoder; called once.
        n_tasks: The number of tasks.
        size: The number of entries of e_t.

    Raises:
        ValueError: If the encoder has no LayerNorm or GroupNorm with a scale.
    """

    def __init__(self, make_encoder: Callable[[], Encoder], n_tasks: int, *, size: Positive = 16) -> None:
        super().__init__()
        self.encoder = make_encoder()
        self.features = self.encoder.features
        known = dict(self.encoder.named_parameters())
        modules = self.encoder.named_modules()
        norms = [name for name, module in modules if isinstance(module, nn.LayerNorm | nn.GroupNorm)]
        names = [f"{name}.{part}" for name in norms for part in ("weight", "bias")]
        self.names = [name for name in names if name in known]
        if not self.names:
            raise ValueError(
                "task-embedding scales and shifts in the LayerNorm and GroupNorm layers of an encoder, and "
                f"{type(self.encoder).__name__} has none that it can"
            )
        self.maps = nn.ParameterList(torch.zeros(known[name].numel(), size) for name in self.names)
        self.embeddings = nn.ParameterList(torch.randn(size) for _ in range(n_tasks))

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        return [functional_call(self.encoder, self._conditioned(task), (inputs,)) for task in tasks]

    def _conditioned(self, task: int) -> dict[str, Tensor]:
        """Return the scales and shifts for a task, by their names in the encoder."""
        own = {name: self.encoder.get_parameter(name) for name in self.names}
        added = [matrix @ self.embeddings[task] for matrix in self.maps]
        return {name: p + more.reshape(p.shape) for (name, p), more in zip(own.items(), added, strict=True)}

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.maps]

    def last_shared_layer(self) -> nn.Module:
        return self.encoder.last_layer()
