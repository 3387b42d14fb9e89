"""The ``lora`` architecture: one encoder, whose linear layers each task changes by a matrix of low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from mtlkit.architectures.base import Architecture
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Positive

__all__ = ["LoRA"]


class LoRA(Architecture):
    """Low-rank adaptation (Hu, Shen, Wallis et al., ICLR 2022).

    Each linear layer of the one encoder, of weight W ``[out, in]``, has for task t the weight (equation 3)

        W + alpha / r B_t A_t

    with A_t ``[r, in]``, normal with variance 1 / in at first, and B_t ``[out, r]``, 0 at first, so that every task
    begins with W. In an attention (``nn.MultiheadAttention``), the maps to queries, keys and values have one each.

    Departures: in its experiments the paper adapts the maps to queries and values of a transformer alone, and it trains
    A and B on a W that was trained before. Here W learns too, from all tasks, unless it is frozen.

    The encoder is shared, and its last layer stands last; A_t and B_t are a task's own. The encoder is computed once
    for each task that takes part.

    Args:
        make_encoder: Builds the encoder; called once.
        n_tasks: The number of tasks.
        rank: r.
        alpha: The scale of what is added, before it is divided by r.

    Raises:
        ValueError: If the encoder has no linear layer.
    """

    def __init__(
        self,
        make_encoder: Callable[[], Encoder],
        n_tasks: int,
        *,
        rank: Positive = 8,
        alpha: Annotated[float, Field(gt=0)] = 8.0,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder()
        self.features = self.encoder.features
        known = dict(self.encoder.named_parameters())  # of weights that are tied, the first
        matrices = {name: blocks for name, blocks in _matrices(self.encoder) if name in known}
        if not matrices:
            raise ValueError(
                f"lora changes the linear layers of an encoder, and {type(self.encoder).__name__} has none"
            )
        self.names = list(matrices)
        self.updates: Any = nn.ModuleList(
            nn.ModuleList(_Update(known[name], blocks, rank, alpha / rank) for name, blocks in matrices.items())
            for _ in range(n_tasks)
        )

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        return [functional_call(self.encoder, self._weights(task), (inputs,)) for task in tasks]

    def _weights(self, task: int) -> dict[str, Tensor]:
        """Return the weights that a task changes, by their names in the encoder."""
        updates = zip(self.names, self.updates[task], strict=True)
        return {name: self.encoder.get_parameter(name) + update() for name, update in updates}

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())

    def last_shared_layer(self) -> nn.Module:
        return self.encoder.last_layer()


def _matrices(encoder: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the names that linear layers' weights may have, and how many matrices stand one on the other in each."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear):
            yield f"{name}.weight", 1
        elif isinstance(module, nn.MultiheadAttention):
            yield f"{name}.in_proj_weight", 3  # or where queries, keys and values are of several widths:
            yield from ((f"{name}.{each}_proj_weight", 1) for each in "qkv")


class _Update(nn.Module):
    """scale B A, or several of these one on the other.

    Args:
        weight: What it is added to ``[out, in]``.
        blocks: How many products stand one on the other.
        rank: r.
        scale: The factor.
    """

    def __init__(self, weight: Tensor, blocks: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        after, before = weight.shape
        self.a = nn.Parameter(torch.randn(blocks, rank, before) / before**0.5)
        self.b = nn.Parameter(torch.zeros(blocks, after // blocks, rank))

    def forward(self) -> Tensor:
        """Return the matrix ``[out, in]``."""
        product: Tensor = self.scale * torch.bmm(self.b, self.a)
        return product.flatten(0, 1)
