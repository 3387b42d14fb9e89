"""The backward pass, cut at the features: each head once, then the encoder once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from mtlkit.gradients.differentiation import accumulate, differentiate, filled, seed, stacked
from mtlkit.gradients.last_layer import LastLayer
from mtlkit.gradients.places import UNREACHED
from mtlkit.gradients.walk import Edge, are_apart, edge_of, reach
from mtlkit.strategies.rows import gramian_of

__all__ = ["Cut"]


class Cut:
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
        edges = [edge_of(z) for z in features]
        border = set(edges)
        self.behind = reach((e for z in features if z.grad_fn for e in z.grad_fn.next_functions), border)
        self.reached = [reach([edge_of(loss)], border) for loss in losses]
        self.is_clean = not self.behind.met_border and all(
            each.leaves.keys().isdisjoint(self.behind.leaves) for each in self.reached
        )
        self.leaves = [list(each.leaves.values()) if self.is_clean else [] for each in self.reached]
        self.at_leaves: list[Sequence[Tensor | None]] = []  # dL_i/dp for each of its head's parameters
        self.at_features: list[list[Tensor | None]] = []  # dL_i/dz for each task, for each z
        if self.is_clean and are_apart(self.reached):
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
        self.last: LastLayer | None = None

    def _differentiate_at_once(self, edges: Sequence[Edge]) -> None:
        places = {edge: place for place, edge in enumerate(edges)}
        self.at_features = [[None] * len(edges) for _ in self.losses]
        handles = []
        for row, each in zip(self.at_features, self.reached, strict=True):
            handles += [node.register_hook(_Tap(node, places, row)) for node in each.readers]
        seeds = [torch.full_like(loss, self.loss_scale) for loss in self.losses]
        wanted = [*self.features, *(leaf for leaves in self.leaves for leaf in leaves)]
        try:
            gradients = iter(differentiate(self.losses, wanted, seeds)[len(self.features) :])
        finally:
            for handle in handles:
                handle.remove()
        self.at_leaves = [[next(gradients) for _ in leaves] for leaves in self.leaves]

    def _differentiate_one_by_one(self) -> None:
        for loss, leaves in zip(self.losses, self.leaves, strict=True):
            gradients = differentiate([loss], [*self.features, *leaves], seed(loss, self.loss_scale))
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
        """Return the inner products of the tasks' gradients ``[K, K]``, in float64 on the CPU."""
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
        """Return the tasks' gradients ``[K, P]``."""
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
        """Add to ``.grad`` what is made of the tasks' gradients; see :class:`~mtlkit.gradients.graph.Graph`."""
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
            accumulate([*scaled, *into])
            return
        # What W gets is at hand already; the rest of the encoder gets its own.
        parts = total.split([weight.numel() for weight in weights])
        at_weights = [(w, part.reshape(w.shape).to(w)) for w, part in zip(weights, parts, strict=True)]
        accumulate([*scaled, *at_weights])
        known = {id(weight) for weight in weights}
        accumulate(into, [leaf for key, leaf in self.behind.leaves.items() if key not in known])

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
            gradients = differentiate([loss], leaves, seed(loss, self.loss_scale))
            own = [factor if id(leaf) in self.behind.leaves else head_factor for leaf in leaves]
            pairs = zip(leaves, gradients, own, strict=True)
            accumulate([(leaf, f.to(g) * g) for leaf, g, f in pairs if g is not None])

    def _rows_at_weights(self, weights: Sequence[Tensor]) -> Tensor:
        """Return the tasks' gradients ``[K, P]`` at W, times the loss scale."""
        if self.is_clean and len(weights) == 1:
            self.last = LastLayer.of(weights[0], self.features, self.parts, len(self.losses), self.behind)
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
                gradients = differentiate([z for z, _ in pairs], weights, [g for _, g in pairs])
            else:
                gradients = differentiate([loss], weights, seed(loss, self.loss_scale))
            if all(gradient is None for gradient in gradients):
                raise ValueError(UNREACHED)
            rows.append(filled(gradients, weights))
        return stacked(rows)


class _Tap:
    """A hook on an operation that reads features: it adds what goes back from there to one task's row."""

    def __init__(self, node: Node, places: Mapping[Edge, int], row: list[Tensor | None]) -> None:
        self.places = [(index, places[edge]) for index, edge in enumerate(node.next_functions) if edge in places]
        self.row = row

    def __call__(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> None:  # noqa: ARG002
        """Hear the gradients with respect to the operation's inputs."""
        for index, place in self.places:
            gradient, before = inputs[index], self.row[place]
            if gradient is not None:
                self.row[place] = gradient if before is None else before + gradient
