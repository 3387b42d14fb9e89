"""The only autograd code: measure the tasks' gradients, weigh the losses, fill ``.grad``.

Letters: K tasks present; z the features, one tensor for each batch; L_i the losses; W the weights of the last shared
layer; P shared parameters; J the Jacobian ``[K, P]``, M = J J' the Gram matrix ``[K, K]``.

What a strategy needs decides what is computed, and no more of it than that:

- nothing: one plain backward of the weighted sum;
- gradients at the features or at W: the backward pass is cut at the features. Each loss is backpropagated to z and to
  its head once, which a plain backward would do too; what the strategy asked for is computed from the dL_i/dz; the
  encoder is backpropagated once, for the weighted sum;
- gradients at all shared parameters: each loss is backpropagated once, through its head and the encoder. The rows of J
  are kept and combined, so that nothing is backpropagated again. Memory: J.

No second derivative is ever taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from mtlkit.architectures.base import Architecture
from mtlkit.encoders.base import Encoder, last_weighted_layer
from mtlkit.errors import NonFiniteError
from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.strategies.rows import gramian_of

__all__ = ["Measurement", "backward"]

Losses = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Shared = nn.Module | Iterable[nn.Parameter]
Heads = Literal["weighted", "plain"]


@dataclass(frozen=True)
class Measurement:
    """What one backward pass saw and did.

    Attributes:
        losses: The losses before weighting ``[K]``.
        weights: The weights that were applied to them ``[K]``.
        gramian: The inner products of the unweighted gradients ``[K, K]``; None where none were measured.
    """

    losses: Tensor
    weights: Tensor
    gramian: Tensor | None = None

    @property
    def gradient_norms(self) -> Tensor | None:
        """The norm of each task's unweighted gradient ``[K]``; None where none was measured."""
        return None if self.gramian is None else self.gramian.diagonal().clamp(min=0).sqrt()

    @property
    def cosines(self) -> Tensor | None:
        """The cosine between each two tasks' gradients ``[K, K]``, 0 with a zero gradient; None if not measured."""
        norms = self.gradient_norms
        if self.gramian is None or norms is None:
            return None
        scale = torch.where(norms > 0, norms, 1)
        return (self.gramian / scale / scale[:, None]).clamp(-1, 1)

    @property
    def conflicts(self) -> float | None:
        """The fraction of pairs of tasks whose gradients point apart; None without a measurement, or with one task."""
        if self.gramian is None or len(self.gramian) < 2:  # noqa: PLR2004 - a pair is of two
            return None
        n_tasks = len(self.gramian)
        return float((self.gramian.triu(1) < 0).sum()) / (n_tasks * (n_tasks - 1) / 2)


def backward(  # noqa: PLR0913 - one for each thing that a loop may know
    losses: Losses,
    *,
    strategy: Strategy,
    features: Tensor | Sequence[Tensor] | None = None,
    shared: Shared | None = None,
    preference: Tensor | None = None,
    tasks: Tensor | None = None,
    scale: float = 1.0,
    loss_scale: float = 1.0,
    heads: Heads = "weighted",
    measure: Over | None = None,
) -> Measurement:
    """Backpropagate the weighted losses: this in place of ``sum(losses).backward()``.

    It adds to ``.grad`` of the encoder, of the heads, and of the strategy's own parameters, which belong in an
    optimizer: see :meth:`Strategy.parameter_groups`.

    Args:
        losses: One scalar for each task present, in the order of the strategy's tasks.
        strategy: What weighs them.
        features: What the encoder returned, one tensor for each batch; needed where gradients at the features or at the
            last shared layer are.
        shared: The encoder, for a strategy that needs gradients at its weights; or an architecture, a single layer,
            parameters.
        preference: A constant factor on each task's weight ``[K]``; the strategy itself does not see it, but one that
            combines gradients itself is given them so scaled.
        tasks: The indices of the tasks present ``[K]``; None where all are.
        scale: A factor on everything that is added to ``.grad``, such as 1/n where n passes are accumulated.
        loss_scale: A factor on the losses while they are backpropagated, for half precision: what
            ``GradScaler.get_scale()`` says. ``.grad`` is left scaled by it, for ``GradScaler.step``; the strategy sees
            gradients without it. Where they overflow, the strategy is not asked, and GradScaler skips the step.
        heads: Whether a head gets its loss's gradient ``weighted`` like the shared parameters, or ``plain``.
        measure: Where to measure the gradients for a strategy that needs none.

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

    over = measure if strategy.needs is Needs.LOSSES else strategy.over
    graph = _graph(names, each, over, features, shared, strategy, loss_scale)
    gramian = None
    if graph is not None:
        gramian = graph.gramian().to(seen.device)
        finite = gramian.diagonal().isfinite()
        if not finite.all():
            if loss_scale != 1:  # an overflow, which GradScaler looks for in .grad, and answers
                torch.autograd.backward(each, [torch.full_like(loss, loss_scale) for loss in each])
                return Measurement(stacked, torch.ones_like(stacked))
            raise NonFiniteError(_non_finite("gradient", names, finite, gramian.diagonal().sqrt()))

    weighting = _asked(strategy, seen, gramian, graph, tasks, preference)
    own = weighting.weights
    if own.shape != seen.shape:
        raise ValueError(
            f"{type(strategy).__name__} gave weights of shape {tuple(own.shape)} for {len(seen)} losses; it "
            "gives one for each task present"
        )
    learned = own.requires_grad or (isinstance(weighting.penalty, Tensor) and weighting.penalty.requires_grad)
    if learned:  # the strategy's parameters: the losses are constants to them, and so is the preference
        ((own * seen).sum() + weighting.penalty).mul(scale * loss_scale).backward()
    liked = torch.ones_like(own) if preference is None else preference.to(own)
    applied = own.detach() * liked
    at_heads = applied if weighting.head_weights is None else weighting.head_weights.detach() * liked
    factors = (applied * scale).to(stacked)
    head_factors = (liked * scale if heads == "plain" else at_heads * scale).to(stacked)
    if graph is None:
        separate = heads == "plain" or weighting.head_weights is not None
        graph = _Cut(names, each, _features(features, strategy), None, loss_scale) if separate else None
    if graph is None:
        torch.autograd.backward(each, list((factors * loss_scale).unbind()))
    else:
        direction = weighting.direction
        graph.backward(factors, head_factors, None if direction is None else direction * scale)
    return Measurement(stacked, applied.to(stacked.device), gramian)


def _asked(
    strategy: Strategy,
    losses: Tensor,
    gramian: Tensor | None,
    graph: _Graph | None,
    tasks: Tensor | None,
    preference: Tensor | None,
) -> Weighting:
    """Ask the strategy what it makes of the step."""
    if strategy.needs is Needs.LOSSES:
        return strategy.weights(losses, None, tasks)
    if strategy.needs is Needs.GRAMIAN or graph is None:
        return strategy.weights(losses, gramian, tasks)
    jacobian = graph.jacobian()
    if preference is not None:
        jacobian = jacobian * preference.to(jacobian)[:, None]
    return strategy.combine(losses, jacobian, tasks)


class _Graph(Protocol):
    """The graph of a step, differentiated as far as a strategy asks."""

    def gramian(self) -> Tensor:
        """Return the inner products of the tasks' gradients ``[K, K]``, in float64 on the CPU."""

    def jacobian(self) -> Tensor:
        """Return the tasks' gradients ``[K, P]``."""

    def backward(self, factors: Tensor, head_factors: Tensor, direction: Tensor | None) -> None:
        """Add to ``.grad`` what is made of the tasks' gradients.

        Args:
            factors: The factor of each task ``[K]`` for what is shared.
            head_factors: Its factor for what is its head's.
            direction: What the place measured gets ``[P]``, in place of the weighted sum.
        """


def _graph(
    names: Sequence[str],
    losses: Sequence[Tensor],
    over: Over | None,
    features: Tensor | Sequence[Tensor] | None,
    shared: Shared | None,
    strategy: Strategy,
    loss_scale: float,
) -> _Graph | None:
    """Differentiate the losses as far as the place asks; None where no gradients are asked for."""
    if over is None:
        return None
    found = [] if over is Over.PARAMETERS else _features(features, strategy)
    if over is Over.FEATURES:
        return _Cut(names, losses, found, None, loss_scale)
    if shared is None:
        raise ValueError("this strategy compares gradients at shared weights: pass the encoder as shared=")
    parameters = _last_weights(shared) if over is Over.LAST_SHARED else _parameters(shared)
    if not parameters:
        raise ValueError("no shared parameter requires a gradient, and this strategy compares gradients there")
    if over is Over.LAST_SHARED:
        return _Cut(names, losses, found, parameters, loss_scale)
    return _Whole(names, losses, parameters, loss_scale)


class _Cut:
    """The backward pass, cut at the features.

    All heads are backpropagated at once, each to its own parameters, and hooks on the operations that read the features
    take down what comes from each task. Where that cannot be told apart (heads with a parameter or an operation in
    common), the losses are differentiated one by one.

    Where a loss reaches a weight of the encoder past the features as well (a penalty on the weights, a skip
    connection), there is no place to cut: then each loss is differentiated whole, which is as exact and costs more.

    Args:
        names: What to call each loss in an error.
        losses: The losses L_i.
        features: The tensors z.
        weights: W, to be measured at; None to measure at the features.
        loss_scale: What the losses are multiplied by.
    """

    def __init__(
        self,
        names: Sequence[str],
        losses: Sequence[Tensor],
        features: Sequence[Tensor],
        weights: Sequence[Tensor] | None,
        loss_scale: float,
    ) -> None:
        self.losses = losses
        self.features = features
        self.weights = weights
        self.loss_scale = loss_scale
        edges = [_edge(z) for z in features]
        border = set(edges)
        self.behind = _reach((e for z in features if z.grad_fn for e in z.grad_fn.next_functions), border)
        self.reached = [_reach([_edge(loss)], border) for loss in losses]
        self.is_clean = not self.behind.met_border and all(
            each.leaves.keys().isdisjoint(self.behind.leaves) for each in self.reached
        )
        self.leaves = [list(each.leaves.values()) if self.is_clean else [] for each in self.reached]
        self.at_leaves: list[Sequence[Tensor | None]] = []  # dL_i/dp for each of its head's parameters
        self.at_features: list[list[Tensor | None]] = []  # dL_i/dz for each task, for each z
        if self.is_clean and _are_apart(self.reached):
            self._differentiate_at_once(edges)
        else:
            self._differentiate_one_by_one()
        for name, row in zip(names, self.at_features, strict=True):
            if all(gradient is None for gradient in row):
                raise ValueError(
                    f"the loss of {name} does not depend on the features that were given; pass what its head is "
                    "computed from, before any detach()"
                )
        # For each z, the tasks that use it, and their gradients there [k, numel].
        self.parts = [self._part(place) for place in range(len(features))]
        self.last: _LastLayer | None = None

    def _differentiate_at_once(self, edges: Sequence[_Edge]) -> None:
        places = {edge: place for place, edge in enumerate(edges)}
        self.at_features = [[None] * len(edges) for _ in self.losses]
        handles = []
        for row, each in zip(self.at_features, self.reached, strict=True):
            handles += [node.register_hook(_Tap(node, places, row)) for node in each.readers]
        seeds = [torch.full_like(loss, self.loss_scale) for loss in self.losses]
        wanted = [*self.features, *(leaf for leaves in self.leaves for leaf in leaves)]
        try:
            gradients = iter(_grad(self.losses, wanted, seeds)[len(self.features) :])
        finally:
            for handle in handles:
                handle.remove()
        self.at_leaves = [[next(gradients) for _ in leaves] for leaves in self.leaves]

    def _differentiate_one_by_one(self) -> None:
        for loss, leaves in zip(self.losses, self.leaves, strict=True):
            gradients = _grad([loss], [*self.features, *leaves], _seed(loss, self.loss_scale))
            self.at_features.append(list(gradients[: len(self.features)]))
            self.at_leaves.append(gradients[len(self.features) :])

    def _part(self, place: int) -> tuple[list[int], Tensor | None]:
        tasks = [task for task, row in enumerate(self.at_features) if row[place] is not None]
        rows = [gradient.flatten() for task in tasks if (gradient := self.at_features[task][place]) is not None]
        for task in tasks:
            self.at_features[task][place] = None  # the rows below are all that is needed of it
        if not rows:
            return tasks, None
        stacked = rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)
        return tasks, stacked.float() if stacked.dtype in {torch.float16, torch.bfloat16} else stacked

    def gramian(self) -> Tensor:
        if self.weights is None:
            total = torch.zeros(len(self.losses), len(self.losses), dtype=torch.float64)
            for tasks, rows in self.parts:
                if rows is not None:
                    index = torch.tensor(tasks)
                    total[index[:, None], index] += gramian_of(rows)
        else:
            total = gramian_of(self._rows_at_weights(self.weights))
        return total / self.loss_scale**2

    def jacobian(self) -> Tensor:
        if self.weights is not None:
            return self._rows_at_weights(self.weights) / self.loss_scale
        columns = []
        for (tasks, rows), z in zip(self.parts, self.features, strict=True):
            column = torch.zeros(len(self.losses), z.numel(), dtype=z.dtype if rows is None else rows.dtype)
            column = column.to(z.device)
            if rows is not None:
                column[tasks] = rows / self.loss_scale
            columns.append(column)
        return torch.cat(columns, 1)

    def backward(self, factors: Tensor, head_factors: Tensor, direction: Tensor | None) -> None:
        if not self.is_clean:
            self._backward_whole(factors, head_factors, direction)
            return
        scaled = self._scaled_heads(head_factors)
        into: list[tuple[Tensor, Tensor]] = []
        if direction is not None and self.weights is None:
            parts = (direction * self.loss_scale).split([z.numel() for z in self.features])
            into = [(z, part.reshape(z.shape).to(z)) for z, part in zip(self.features, parts, strict=True)]
        else:
            for (tasks, rows), z in zip(self.parts, self.features, strict=True):
                if rows is not None:
                    into.append((z, (factors[tasks].to(rows) @ rows).reshape(z.shape).to(z)))
        weights = self.weights or ()
        if direction is not None and weights:
            total = direction * self.loss_scale
        elif self.last is not None:
            total = factors.to(self.last.rows) @ self.last.rows
        else:
            _accumulate([*scaled, *into])
            return
        # What W gets is at hand already; the rest of the encoder gets its own.
        parts = total.split([weight.numel() for weight in weights])
        at_weights = [(w, part.reshape(w.shape).to(w)) for w, part in zip(weights, parts, strict=True)]
        _accumulate([*scaled, *at_weights])
        known = {id(weight) for weight in weights}
        _accumulate(into, [leaf for key, leaf in self.behind.leaves.items() if key not in known])

    def _scaled_heads(self, factors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each head's parameters with their gradients, times the factor of the task."""
        leaves: list[Tensor] = []
        gradients: list[Tensor] = []
        scales: list[float] = []
        for factor, own, at_own in zip(factors.tolist(), self.leaves, self.at_leaves, strict=True):
            for leaf, gradient in zip(own, at_own, strict=True):
                if gradient is not None:
                    leaves.append(leaf)
                    gradients.append(gradient)
                    scales.append(factor)
        scaled = torch._foreach_mul(gradients, scales) if leaves else []  # noqa: SLF001 - as torch.optim does
        return list(zip(leaves, scaled, strict=True))

    def _backward_whole(self, factors: Tensor, head_factors: Tensor, direction: Tensor | None) -> None:
        if direction is not None:
            raise ValueError(
                "a loss reaches the encoder past the features as well, so a gradient given at the features cannot be "
                "backpropagated for it; use a strategy that weighs the losses"
            )
        if torch.equal(factors, head_factors):
            torch.autograd.backward(self.losses, list((factors * self.loss_scale).unbind()))
            return
        for loss, factor, head_factor, reached in zip(self.losses, factors, head_factors, self.reached, strict=True):
            leaves = [*{**reached.leaves, **self.behind.leaves}.values()]
            gradients = _grad([loss], leaves, _seed(loss, self.loss_scale))
            own = [factor if id(leaf) in self.behind.leaves else head_factor for leaf in leaves]
            pairs = zip(leaves, gradients, own, strict=True)
            _accumulate([(leaf, f.to(g) * g) for leaf, g, f in pairs if g is not None])

    def _rows_at_weights(self, weights: Sequence[Tensor]) -> Tensor:
        """Return the tasks' gradients ``[K, P]`` at W, times the loss scale."""
        if self.is_clean and len(weights) == 1:
            self.last = _LastLayer.of(weights[0], self.features, self.parts, len(self.losses), self.behind)
            if self.last is not None:
                return self.last.rows
        rows = []
        for task, loss in enumerate(self.losses):
            if self.is_clean:
                pairs = [
                    (z, gradients[tasks.index(task)].reshape(z.shape).to(z))
                    for z, (tasks, gradients) in zip(self.features, self.parts, strict=True)
                    if task in tasks and gradients is not None
                ]
                gradients = _grad([z for z, _ in pairs], weights, [g for _, g in pairs])
            else:
                gradients = _grad([loss], weights, _seed(loss, self.loss_scale))
            if all(gradient is None for gradient in gradients):
                raise ValueError(_UNREACHED)
            rows.append(_filled(gradients, weights))
        return _stacked(rows)


class _Tap:
    """A hook on an operation that reads features: it adds what goes back from there to one task's row."""

    def __init__(self, node: Node, places: Mapping[_Edge, int], row: list[Tensor | None]) -> None:
        self.places = [(index, places[edge]) for index, edge in enumerate(node.next_functions) if edge in places]
        self.row = row

    def __call__(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> None:  # noqa: ARG002
        """Hear the gradients with respect to the operation's inputs."""
        for index, place in self.places:
            gradient, before = inputs[index], self.row[place]
            if gradient is not None:
                self.row[place] = gradient if before is None else before + gradient


class _LastLayer(NamedTuple):
    """The gradients at the weights of a linear layer, from its inputs and what goes back to its outputs.

    Attributes:
        rows: The gradients ``[K, P]``.
    """

    rows: Tensor

    @classmethod
    def of(
        cls,
        weight: Tensor,
        features: Sequence[Tensor],
        parts: Sequence[tuple[list[int], Tensor | None]],
        n_tasks: int,
        behind: _Reach,
    ) -> _LastLayer | None:
        """Work them out, where the features are the outputs of such a layer, or a ReLU or a tanh of them.

        None where they are something else: autograd then finds its own way.
        """
        if len(behind.readers_of.get(id(weight), ())) != len(features):
            return None  # it is used elsewhere too
        rows = torch.zeros(n_tasks, *weight.shape, dtype=weight.dtype, device=weight.device)
        for (tasks, gradients), z in zip(parts, features, strict=True):
            inputs = _inputs_of_linear(z, weight)
            if inputs is None or gradients is None or inputs.dtype != weight.dtype or gradients.dtype != weight.dtype:
                return None
            back = gradients.reshape(len(tasks), *z.shape)  # [k, B, D]
            name = type(z.grad_fn).__name__
            if name == "ReluBackward0":
                back = back * (z.detach() > 0)
            elif name == "TanhBackward0":
                back = back * (1 - z.detach().square())
            found = torch.matmul(back.transpose(1, 2), inputs)  # [k, D, D before]
            if len(tasks) == n_tasks and len(features) == 1:
                rows = found
            else:
                rows[tasks] += found
        return cls(rows.flatten(1))


def _inputs_of_linear(z: Tensor, weight: Tensor) -> Tensor | None:
    """Return the inputs ``[B, D before]`` of the linear layer that made z with this weight; None if none did."""
    node = z.grad_fn
    if node is not None and type(node).__name__ in {"ReluBackward0", "TanhBackward0"}:
        node = node.next_functions[0][0]
    if node is None or type(node).__name__ != "AddmmBackward0" or z.ndim != 2:  # noqa: PLR2004
        return None
    transposed = node.next_functions[2][0]
    if transposed is None or type(transposed).__name__ != "TBackward0":
        return None
    if getattr(transposed.next_functions[0][0], "variable", None) is not weight:
        return None
    inputs = getattr(node, "_saved_mat1", None)
    return inputs if isinstance(inputs, Tensor) else None


class _Whole:
    """Each loss backpropagated once, to all that it reaches; the gradients are kept, to be combined.

    Args:
        names: What to call each loss in an error.
        losses: The losses L_i.
        parameters: The shared parameters.
        loss_scale: What the losses are multiplied by.
    """

    def __init__(
        self, names: Sequence[str], losses: Sequence[Tensor], parameters: Sequence[Tensor], loss_scale: float
    ) -> None:
        self.loss_scale = loss_scale
        reached = [_reach([_edge(loss)], frozenset()).leaves for loss in losses]
        # All that was given, in its order: a strategy that remembers gradients meets each entry at one place, whichever
        # tasks are present and however they reach it.
        wanted = {id(parameter): parameter for parameter in parameters}
        self.shared = list(wanted.values())
        self.is_reached = [any(key in leaves for leaves in reached) for key in wanted]
        sizes = [leaf.numel() for leaf in self.shared]
        starts = dict(zip(wanted, itertools.accumulate(sizes, initial=0), strict=False))
        dtype = torch.float32
        for leaf in self.shared:
            dtype = torch.promote_types(dtype, leaf.dtype)
        self.rows: Tensor | None = None  # [K, P]
        self.others: list[list[tuple[Tensor, Tensor]]] = []  # each head's parameters, with dL_i/dp
        for task, (name, loss, leaves) in enumerate(zip(names, losses, reached, strict=True)):
            if leaves.keys().isdisjoint(wanted):
                raise ValueError(f"the loss of {name} does not depend on the shared parameters that were given")
            gradients = _grad([loss], list(leaves.values()), _seed(loss, loss_scale))
            others = []
            if self.rows is None:
                self.rows = torch.zeros(len(losses), sum(sizes), dtype=dtype, device=self.shared[0].device)
            for (key, leaf), gradient in zip(leaves.items(), gradients, strict=True):
                if gradient is None:
                    continue
                if key in starts:
                    self.rows[task, starts[key] : starts[key] + leaf.numel()] = gradient.flatten()
                else:
                    others.append((leaf, gradient))
            self.others.append(others)

    def gramian(self) -> Tensor:
        return gramian_of(self._kept) / self.loss_scale**2

    def jacobian(self) -> Tensor:
        return self._kept / self.loss_scale

    def backward(self, factors: Tensor, head_factors: Tensor, direction: Tensor | None) -> None:
        for factor, others in zip(head_factors, self.others, strict=True):
            _accumulate([(leaf, factor.to(g) * g) for leaf, g in others])
        kept = self._kept
        total = factors.to(kept) @ kept if direction is None else direction.to(kept) * self.loss_scale
        parts = total.split([leaf.numel() for leaf in self.shared])
        each = zip(self.shared, parts, self.is_reached, strict=True)
        _accumulate([(leaf, part.reshape(leaf.shape).to(leaf)) for leaf, part, reached in each if reached])

    @property
    def _kept(self) -> Tensor:
        if self.rows is None:
            raise ValueError(_UNREACHED)
        return self.rows


_UNREACHED = "the features do not depend on the shared parameters that were given"


def _seed(loss: Tensor, loss_scale: float) -> list[Tensor] | None:
    return None if loss_scale == 1 else [torch.full_like(loss, loss_scale)]


def _accumulate(pairs: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Tensor] | None = None) -> None:
    """Backpropagate gradients from where they are given; into leaves by autograd, so that hooks on them hear of it."""
    if pairs and inputs != []:
        torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs], inputs=inputs)


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


def _stacked(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return gradients given in parts as rows ``[K, P]``, in float32 at least."""
    rows = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in gradients])
    return rows.float() if rows.dtype in {torch.float16, torch.bfloat16} else rows


_Edge = tuple[Node | None, int]  # an operation, and which of its outputs


class _Reach(NamedTuple):
    """What a walk through the graph came to.

    Attributes:
        leaves: The leaves, by identity.
        readers: The operations that read what is at the border.
        readers_of: For each leaf, the operations that read it.
        met_border: Whether it came to the border.
    """

    leaves: dict[int, Tensor]
    readers: set[Node]
    readers_of: dict[int, set[Node]]
    met_border: bool


def _edge(tensor: Tensor) -> _Edge:
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _are_apart(reached: Sequence[_Reach]) -> bool:
    """Return whether no two losses have a parameter, or an operation that reads the features, in common."""
    leaves = [key for each in reached for key in each.leaves]
    readers = [node for each in reached for node in each.readers]
    return len(set(leaves)) == len(leaves) and len(set(readers)) == len(readers)


def _reach(start: Iterable[_Edge], border: AbstractSet[_Edge]) -> _Reach:
    """Walk from `start` towards the leaves, never past the border."""
    leaves: dict[int, Tensor] = {}
    readers: set[Node] = set()
    readers_of: dict[int, set[Node]] = {}
    met_border = False
    seen: set[Node] = set()
    ahead: list[tuple[_Edge, Node | None]] = [(edge, None) for edge in start]
    while ahead:
        (node, number), reader = ahead.pop()
        if node is None:
            continue
        if (node, number) in border:
            met_border = True
            if reader is not None:
                readers.add(reader)
            continue
        leaf = getattr(node, "variable", None)  # only the node that accumulates into a leaf has one
        if leaf is not None:
            leaves[id(leaf)] = leaf
            if reader is not None:
                readers_of.setdefault(id(leaf), set()).add(reader)
            continue
        if node in seen:
            continue
        seen.add(node)
        ahead += [(edge, node) for edge in node.next_functions]
    return _Reach(leaves, readers, readers_of, met_border)


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
