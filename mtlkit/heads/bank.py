"""A bank of heads: alike linear heads over the same features, computed as one.

Letters: T heads, O outputs of each, B rows of D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.heads.binary import Binary
from mtlkit.heads.linear import Linear
from mtlkit.heads.mlp import MLP
from mtlkit.heads.regression import Regression

__all__ = ["HeadBank", "likeness"]

Likeness = tuple[object, ...]


class HeadBank(nn.Module):
    """T alike linear heads over the same features: one matrix ``[T * O, D]`` in place of T matrices.

    The heads that it is made of go on to work each by itself, with the same values: their layers become views of the
    bank's rows. The bank holds the parameters, for the optimizer, and the heads hold them in the state dict, by the
    names and in the shapes that they have without a bank; the bank itself has no entry there.

    Args:
        heads: The heads; each has its linear layer replaced.

    Raises:
        ValueError: If there are none, or they are not alike.
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        likenesses = {likeness(head) for head in heads}
        if len(likenesses) != 1 or None in likenesses:
            raise ValueError(
                "a bank takes linear heads of one class and size: mtlkit.heads.Linear, Regression, Binary or MLP, "
                f"without hidden layers; received {', '.join(type(head).__name__ for head in heads) or 'none'}"
            )
        layers = [_layer(head) for head in heads]
        self.shape = tuple(_shape(heads[0]))
        self.size = layers[0].in_features
        self.width = math.prod(self.shape)
        self.n_heads = len(heads)
        self.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))  # [T * O, D]
        self.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))  # [T * O]
        for index, head in enumerate(heads):
            _last(head).output = _Rows(self, index)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features ``[B, *features.shape]`` into the outputs of all heads side by side ``[B, T * O]``."""
        flat = features if features.ndim == 2 else features.reshape(len(features), self.size)  # noqa: PLR2004 - [B, D]
        return F.linear(flat, self.weight, self.bias)

    def apart(self, outputs: Tensor) -> Tensor:
        """Tell the outputs of the heads apart: ``[B, T, *shape]``, with the shape that each gives for a row."""
        return outputs.reshape(len(outputs), self.n_heads, *self.shape)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: FBT001 - as torch has it
        """Save nothing: the heads do."""

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,  # noqa: FBT001 - as torch has it
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load nothing: the heads do."""
        if strict:
            unexpected_keys += [key for key in state_dict if key.startswith(prefix)]


class _Rows(nn.Module):
    """The linear layer of one head, whose parameters are rows of a bank's."""

    def __init__(self, bank: HeadBank, index: int) -> None:
        super().__init__()
        self._bank = (bank,)  # not a submodule, or each head would hold all heads' parameters
        self.rows = slice(index * bank.width, (index + 1) * bank.width)

    @property
    def weight(self) -> Tensor:
        """The weight ``[O, D]``."""
        return self._bank[0].weight[self.rows]

    @property
    def bias(self) -> Tensor:
        """The bias ``[O]``."""
        return self._bank[0].bias[self.rows]

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)

    def _save_to_state_dict(self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool) -> None:  # noqa: FBT001 - as torch has it
        for name, rows in (("weight", self.weight), ("bias", self.bias)):
            destination[prefix + name] = rows if keep_vars else rows.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,  # noqa: FBT001 - as torch has it
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {prefix + "weight": self.weight.detach(), prefix + "bias": self.bias.detach()}
        for key, rows in own.items():
            given = state_dict.get(key)
            if given is None:
                missing_keys += [key] if strict else []
            elif given.shape != rows.shape:
                error_msgs.append(
                    f"size mismatch for {key}: copying a param with shape {given.shape} from checkpoint, the shape in "
                    f"current model is {rows.shape}."
                )
            else:
                rows.copy_(given)
        if strict:
            unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in own]


def likeness(head: nn.Module) -> Likeness | None:
    """Return what heads have in common that can stand in one bank; None for one that cannot stand in any.

    Those that can are linear heads of this package itself, with one linear layer that nothing was done to: a subclass
    may compute something else, and a hook may too.
    """
    if type(head) not in {Linear, MLP, Regression, Binary}:
        return None
    last = _last(head)
    if isinstance(last, MLP) and len(last.hidden):
        return None
    layer = _layer(head)
    if type(layer) is not nn.Linear or any(map(_is_hooked, head.modules())):
        return None
    if not all(type(each) is nn.Parameter and each.requires_grad for each in (layer.weight, layer.bias)):
        return None
    return type(head), _shape(head), layer.in_features, layer.weight.dtype, layer.weight.device


def _last(head: Any) -> Any:
    """Return the module whose ``output`` is the linear layer."""
    return head.map if isinstance(head, Regression) else head


def _layer(head: nn.Module) -> nn.Linear:
    layer: nn.Linear = _last(head).output
    return layer


def _shape(head: nn.Module) -> tuple[int, ...]:
    return head.shape if isinstance(head, Regression) else (_layer(head).out_features,)


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks  # noqa: SLF001 - there is no other way to see them
    )
