"""The only autograd code: measure the tasks' gradients, weigh the losses, fill ``.grad``.

Letters: K tasks present; z the features, one tensor for each batch; L_i the losses; W the weights of the last shared
layer; P shared parameters.

Where a strategy needs gradients, the backward pass is cut at the features. Each loss is backpropagated to z and to its
head once, which a plain backward would do too; what the strategy asked for is computed from the dL_i/dz; the encoder is
backpropagated once, for the weighted sum. No second derivative is ever taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from mtlkit.architectures.base import Architecture
from mtlkit.encoders.base import Encoder, last_weighted_layer
from mtlkit.errors import NonFiniteError
from mtlkit.strategies.base import Needs, Over, Strategy

__all__ = ["Measurement", "backward"]

Losses = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Shared = nn.Module | Iterable[nn.Parameter]


@dataclass(frozen=True)
class Measurement:
    """What one backward pass saw and did.

    Attributes:
        losses: The losses before weighting ``[K]``.
        weights: The weights that were applied to them ``[K]``.
        gramian: The inner products of the unweighted gradients ``[K, K]``; None where the strategy needed none.
    """

    losses: Tensor
    weights: Tensor
    gramian: Tensor | None = None

    @property
    def gradient_norms(self) -> Tensor | None:
        """The norm of each task's unweighted gradient ``[K]``; None where none was measured."""
        return None if self.gramian is None else self.gramian.diagonal().clamp(min=0).sqrt()


def backward(
    losses: Losses,
    *,
    strategy: Strategy,
    features: Tensor | Sequence[Tensor] | None = None,
    shared: Shared | None = None,
    preference: Tensor | None = None,
    tasks: Tensor | None = None,
    scale: float = 1.0,
) -> Measurement:
    """Backpropagate the weighted losses: this in place of ``sum(losses).backward()``.

    It adds to ``.grad`` of the encoder, of the heads, and of the strategy's own parameters, which belong in an
    optimizer: see :meth:`Strategy.parameter_groups`.

    Args:
        losses: One scalar for each task present, in the order of the strategy's tasks.
        strategy: What weighs them.
        features: What the encoder returned, one tensor for each batch; needed where the strategy needs gradients.
        shared: The encoder, for a strategy that needs gradients at its weights; or an architecture, a single layer,
            parameters.
        preference: A constant factor on each task's weight ``[K]``; the strategy itself does not see it.
        tasks: The indices of the tasks present ``[K]``; None where all are.
        scale: A factor on everything that is added to ``.grad``, such as 1/n where n passes are accumulated.

    Returns:
        The losses, the weights applied and what was measured.

    Raises:
        ValueError: If a loss is no scalar or depends on nothing that can be trained, their number does not fit, or
            the features or the shared parameters are needed and missing, or not reached by a loss.
        NonFiniteError: If a loss, or a gradient that the strategy needs, is NaN or infinite; nothing is changed.
    """
    names, each = _named(losses)
    _check(names, each, strategy, tasks, preference)
    stacked = torch.stack([loss.detach() for loss in each])
    if not stacked.isfinite().all():
        raise NonFiniteError(_non_finite("loss", names, stacked.isfinite(), stacked))
    seen = stacked.to(_device(strategy), torch.float64)

    cut = None
    gramian = None
    if strategy.needs is Needs.GRAMIAN:
        cut = _Cut(names, each, _features(features, strategy))
        gramian = cut.gramian(strategy.over, shared).to(seen.device)
        if not gramian.diagonal().isfinite().all():
            raise NonFiniteError(
                _non_finite("gradient", names, gramian.diagonal().isfinite(), gramian.diagonal().sqrt())
            )

    weighting = strategy.weights(seen, gramian, tasks)
    own = weighting.weights
    if own.requires_grad:  # the strategy's parameters: the losses are constants to them, and so is the preference
        ((own * seen).sum() + weighting.penalty).mul(scale).backward()
    applied = own.detach() if preference is None else own.detach() * preference.to(own)
    factors = (applied * scale).to(stacked)
    if cut is None:
        torch.autograd.backward(each, list(factors.unbind()))
    else:
        cut.backward(factors)
    return Measurement(stacked, applied.to(stacked.device), gramian)


class _Cut:
    """The backward pass, cut at the features.

    Where a loss reaches a weight of the encoder past the features as well (a penalty on the weights, a skip
    connection), there is no place to cut: then each loss is differentiated whole, which is as exact and costs more.

    Args:
        names: What to call each loss in an error.
        losses: The losses L_i.
        features: The tensors z.
    """

    def __init__(self, names: Sequence[str], losses: Sequence[Tensor], features: Sequence[Tensor]) -> None:
        self.losses = losses
        self.features = features
        border = set(map(_edge, features))
        behind = _reach((e for z in features if z.grad_fn for e in z.grad_fn.next_functions), border)
        reached = [_reach([_edge(loss)], border, features) for loss in losses]
        self.is_clean = not behind.met_border and all(each.leaves.keys().isdisjoint(behind.leaves) for each in reached)
        self.at_features: list[list[Tensor | None]] = []  # dL_i/dz for each task, for each z
        self.at_leaves: list[list[tuple[Tensor, Tensor | None]]] = []  # each head's parameters, with dL_i/dp
        for name, loss, each in zip(names, losses, reached, strict=True):
            leaves = list(each.leaves.values()) if self.is_clean else []
            gradients = _grad([loss], [*features, *leaves])
            at_features = list(gradients[: len(features)])
            if all(gradient is None for gradient in at_features):
                raise ValueError(
                    f"the loss of {name} does not depend on the features that were given; pass what its head is "
                    "computed from, before any detach()"
                )
            self.at_features.append(at_features)
            self.at_leaves.append(list(zip(leaves, gradients[len(features) :], strict=True)))

    def gramian(self, over: Over | None, shared: Shared | None) -> Tensor:
        """Return the inner products of the tasks' gradients ``[K, K]``."""
        if over is Over.FEATURES:
            return _gramian([_filled(row, self.features) for row in self.at_features])
        if shared is None:
            raise ValueError("this strategy compares gradients at shared weights: pass the encoder as shared=")
        parameters = _last_weights(shared) if over is Over.LAST_SHARED else _parameters(shared)
        if not parameters:
            raise ValueError("no shared parameter requires a gradient, and this strategy compares gradients there")
        return _gramian([self._at(parameters, task) for task in range(len(self.losses))])

    def backward(self, factors: Tensor) -> None:
        """Add the gradient of sum_i factors_i L_i to ``.grad`` of every parameter."""
        if not self.is_clean:
            torch.autograd.backward(self.losses, list(factors.unbind()))
            return
        for factor, at_leaves in zip(factors, self.at_leaves, strict=True):
            reached = [(leaf, factor.to(g) * g) for leaf, g in at_leaves if g is not None]
            if reached:  # accumulated by autograd, so that hooks on a parameter hear of it
                torch.autograd.backward([leaf for leaf, _ in reached], [gradient for _, gradient in reached])
        used: list[Tensor] = []
        sums: list[Tensor] = []
        for feature, column in zip(self.features, zip(*self.at_features, strict=True), strict=True):
            # The weights are not rounded to the features' dtype, which may be a short one.
            parts = [
                factor * gradient for factor, gradient in zip(factors, column, strict=True) if gradient is not None
            ]
            if parts:
                used.append(feature)
                sums.append(torch.stack(parts).sum(0).to(feature.dtype))
        torch.autograd.backward(used, sums)

    def _at(self, parameters: Sequence[Tensor], task: int) -> list[Tensor]:
        """Return the gradient of one loss at shared parameters."""
        if self.is_clean:
            pairs = [(z, g) for z, g in zip(self.features, self.at_features[task], strict=True) if g is not None]
            gradients = _grad([z for z, _ in pairs], parameters, [g for _, g in pairs])
        else:
            gradients = _grad([self.losses[task]], parameters)
        if all(gradient is None for gradient in gradients):
            raise ValueError("the features do not depend on the shared parameters that were given")
        return _filled(gradients, parameters)


def _filled(gradients: Sequence[Tensor | None], places: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients with zeros where there is none."""
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, places, strict=True)]


def _grad(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], gradients: Sequence[Tensor] | None = None
) -> Sequence[Tensor | None]:
    """Differentiate, None where an input is not reached; the graph is kept.

    Tasks may share a part of it beyond the features, and it goes when the losses do anyway.
    """
    return torch.autograd.grad(outputs, inputs, gradients, retain_graph=True, allow_unused=True)


def _gramian(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the inner products ``[K, K]`` of gradients given in parts, in float64 on the CPU.

    Each row is scaled to a largest entry of 1 first, so that neither 1e-30 nor 1e30 leaves float32 when squared.
    """
    rows = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in gradients])  # [K, P]
    if rows.dtype in {torch.float16, torch.bfloat16}:
        rows = rows.float()
    largest = rows.abs().amax(1, keepdim=True)  # [K, 1]
    rows = rows / torch.where(largest > 0, largest, 1)
    scale = largest.cpu().double()
    products = (rows @ rows.T).cpu().double()
    # Each norm by itself: a matrix product may round equal rows differently, and equal norms are then not equal.
    products.diagonal().copy_(rows.square().sum(1))
    return products * scale * scale.T


_Edge = tuple[Node | None, int]  # an operation, and which of its outputs


class _Reach(NamedTuple):
    """What a walk through the graph came to.

    Attributes:
        leaves: The leaves, by identity.
        met_border: Whether it came to the border.
    """

    leaves: dict[int, Tensor]
    met_border: bool


def _edge(tensor: Tensor) -> _Edge:
    return tensor.grad_fn, tensor.output_nr


def _reach(start: Iterable[_Edge], border: AbstractSet[_Edge], outside: Sequence[Tensor] = ()) -> _Reach:
    """Walk from `start` towards the leaves, never past the border; leaves in `outside` do not count."""
    barred = set(map(id, outside))
    leaves: dict[int, Tensor] = {}
    met_border = False
    seen: set[Node] = set()
    ahead = list(start)
    while ahead:
        node, number = ahead.pop()
        if node is None or node in seen:
            continue
        if (node, number) in border:
            met_border = True
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # only the node that accumulates into a leaf has one
        if leaf is not None and id(leaf) not in barred:
            leaves[id(leaf)] = leaf
        ahead += node.next_functions
    return _Reach(leaves, met_border)


def _last_weights(shared: Shared) -> list[Tensor]:
    if not isinstance(shared, nn.Module):
        return _parameters(shared)
    layer = shared
    if isinstance(shared, Architecture):
        layer = shared.last_shared_layer()
    elif isinstance(shared, Encoder):
        layer = shared.last_layer()
    weight: nn.Parameter = last_weighted_layer(layer).weight
    return [weight] if weight.requires_grad else []


def _parameters(shared: Shared) -> list[Tensor]:
    if isinstance(shared, Architecture):
        shared = shared.shared_parameters()
    parameters = shared.parameters() if isinstance(shared, nn.Module) else shared
    return [parameter for parameter in parameters if parameter.requires_grad]


def _named(losses: Losses) -> tuple[list[str], list[Tensor]]:
    if isinstance(losses, Mapping):
        return [f"'{name}'" for name in losses], list(losses.values())
    if isinstance(losses, Tensor) and losses.ndim != 1:
        raise ValueError(f"losses given as one tensor need shape [K]; received {tuple(losses.shape)}")
    each = list(losses.unbind() if isinstance(losses, Tensor) else losses)
    return [f"task {index}" for index in range(len(each))], each


def _check(
    names: Sequence[str],
    losses: Sequence[Tensor],
    strategy: Strategy,
    tasks: Tensor | None,
    preference: Tensor | None,
) -> None:
    expected = strategy.n_tasks if tasks is None else len(tasks)
    if len(losses) != expected:
        raise ValueError(f"received {len(losses)} losses for {expected} tasks")
    if preference is not None and preference.shape != (expected,):
        shape = tuple(preference.shape)
        raise ValueError(f"preference needs one factor for each of the {expected} losses; received shape {shape}")
    for name, loss in zip(names, losses, strict=True):
        if loss.ndim != 0:
            raise ValueError(f"the loss of {name} must be a scalar; received shape {tuple(loss.shape)}")
        if not loss.requires_grad:
            raise ValueError(f"the loss of {name} depends on nothing that can be trained")


def _features(features: Tensor | Sequence[Tensor] | None, strategy: Strategy) -> list[Tensor]:
    if features is None:
        raise ValueError(
            f"{type(strategy).__name__} needs the tasks' gradients: pass what the encoder returned as features="
        )
    each = [features] if isinstance(features, Tensor) else list(features)
    each = list({id(tensor): tensor for tensor in each}.values())
    for tensor in each:
        if not tensor.requires_grad:
            raise ValueError(
                "the features need no gradient, so nothing shared can be measured: is the encoder frozen, or was it "
                "called under torch.no_grad()?"
            )
    return each


def _device(strategy: Strategy) -> torch.device:
    state: Tensor | None = next(strategy.parameters(), None)
    if state is None:
        state = next(strategy.buffers(), None)
    return torch.device("cpu") if state is None else state.device


def _non_finite(what: str, names: Sequence[str], finite: Tensor, values: Tensor) -> str:
    bad = [f"{n} ({v})" for n, f, v in zip(names, finite.tolist(), values.tolist(), strict=True) if not f]
    return f"Non-finite {what} of {', '.join(bad)}."
