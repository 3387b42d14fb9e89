"""The backward pass, cut at the features: each head once, then the encoder once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mtlkit.gradients.differentiation import (
    accumulate,
    backpropagate,
    differentiate,
    filled,
    room_beside,
    scaled,
    stacked,
)
from mtlkit.gradients.feature_rows import FeatureRows
from mtlkit.gradients.heads import (
    HeadGradients,
    differentiate_at_once,
    differentiate_linear,
    differentiate_one_by_one,
)
from mtlkit.gradients.last_layer import rows_at_last_layer
from mtlkit.gradients.losses import StepLosses
from mtlkit.gradients.places import UNREACHED
from mtlkit.gradients.walk import Place, are_apart, edge_of, reach
from mtlkit.strategies.rows import gramian_of, norms_of_each

__all__ = ["Cut"]


class Cut:
    """The backward pass, cut at the features.

    All heads are backpropagated at once, each to its own parameters, if they have no parameter and no operation in
    common; otherwise the losses are differentiated one by one.

    Where a loss reaches a weight of the encoder past the features as well (a penalty on the weights, a skip
    connection), there is no place to cut: then each loss is differentiated whole, which is as exact and costs more.

    Args:
        losses: The losses L_i.
        features: The tensors z.
        weights: W, to be measured at; None to measure at the features.
        loss_scale: What the losses are multiplied by.
    """

    def __init__(
        self, losses: StepLosses, features: Sequence[Tensor], weights: Sequence[Tensor] | None, loss_scale: float
    ) -> None:
        self.losses = losses
        self.features = features
        self.weights = weights
        self.loss_scale = loss_scale
        self.border = {edge_of(z) for z in features}
        made_by = dict.fromkeys(z.grad_fn for z in features if z.grad_fn)  # one operation may have made several
        self.behind = reach((edge for node in made_by for edge in node.next_functions), self.border)
        self.is_clean = True
        found = None
        if len(features) == 1:
            found = differentiate_linear(losses, features[0], self.behind.leaves, loss_scale)
        if found is None:
            found = self._differentiate(losses, features, loss_scale)
        self.parts, self.own = found
        if len(self.parts) == 1 and len(self.parts[0].tasks) == len(losses):
            return
        silent = set(range(len(losses))).difference(*(part.tasks for part in self.parts))
        if silent:
            raise ValueError(
                f"the loss of {losses.names[min(silent)]} does not depend on the features that were given; pass what "
                "its head is computed from, before any detach()"
            )

    def _differentiate(self, losses: StepLosses, features: Sequence[Tensor], loss_scale: float) -> HeadGradients:
        """Backpropagate heads of any kind, and take down whether there is a place to cut."""
        units = [reach([edge_of(unit.root)], self.border) for unit in losses.units]
        self.is_clean = not self.behind.met_border and all(
            each.leaves.keys().isdisjoint(self.behind.leaves) for each in units
        )
        found = None
        if self.is_clean and are_apart(units):
            found = differentiate_at_once(losses, features, units, loss_scale)
        if found is None:
            leaves = [list(self._leaves_of(root).values()) if self.is_clean else [] for root in losses.roots]
            found = differentiate_one_by_one(losses, features, leaves, loss_scale)
        return found

    def _leaves_of(self, root: Place) -> dict[int, Tensor]:
        """Return the leaves that a loss reaches before the features."""
        return reach([edge_of(root)], self.border).leaves

    def gramian(self) -> Tensor:
        """Return the inner products of the tasks' gradients ``[K, K]``, in float64 on the CPU."""
        if self.weights is not None:
            total = gramian_of(self._rows_at_weights(self.weights))
        elif len(self.parts) == 1:
            total = self.parts[0].gramian()
        else:
            total = self._sum_of_gramians()
        return total if self.loss_scale == 1 else total / self.loss_scale**2

    def _sum_of_gramians(self) -> Tensor:
        n_tasks = len(self.losses)
        tasks = [task for part in self.parts for task in part.tasks]
        if sorted(tasks) == list(range(n_tasks)) == list(range(len(self.parts))):
            norms = norms_of_each([part.rows() for part in self.parts])  # features for each task: nothing to multiply
            return torch.diag(torch.from_numpy(norms[np.argsort(tasks)] ** 2))
        total = torch.zeros(n_tasks, n_tasks, dtype=torch.float64)
        for part in self.parts:
            index = torch.tensor(part.tasks, dtype=torch.int64)
            total[index[:, None], index] += part.gramian()
        return total

    def jacobian(self) -> Tensor:
        """Return the tasks' gradients ``[K, P]``."""
        if self.weights is not None:
            return self._rows_at_weights(self.weights) / self.loss_scale
        columns = []
        for part, z in zip(self.parts, self.features, strict=True):
            rows = part.rows()
            columns.append(rows.new_zeros(len(self.losses), z.numel()))
            columns[-1][part.tasks] = rows / self.loss_scale
        return torch.cat(columns, 1)

    def backward(self, factors: Sequence[float], head_factors: Sequence[float], direction: Tensor | None) -> None:
        """Add to ``.grad`` what is made of the tasks' gradients; see :class:`~mtlkit.gradients.graph.Graph`."""
        if not self.is_clean:
            self._backward_whole(factors, head_factors, direction)
            return
        places, gradients = self._heads(head_factors)
        if direction is None:
            self._accumulate_combined(places, gradients, factors)
            return
        direction = direction * self.loss_scale
        if self.weights is None:
            for z, given in zip(self.features, direction.split([z.numel() for z in self.features]), strict=True):
                places.append(z)
                gradients.append(given.reshape(z.shape).to(z))
            accumulate(places, gradients)
            return
        accumulate(places, gradients)
        parts = direction.split([weight.numel() for weight in self.weights])
        accumulate(self.weights, [part.reshape(w.shape).to(w) for w, part in zip(self.weights, parts, strict=True)])
        known = {id(weight) for weight in self.weights}
        others = [leaf for key, leaf in self.behind.leaves.items() if key not in known]
        self._accumulate_combined([], [], factors, others)

    def _heads(self, factors: Sequence[float]) -> tuple[list[Place], list[Tensor]]:
        """Return the heads' parameters, and their gradients times the factor of the task."""
        leaves, gradients = scaled(self.own, factors)
        self.own.clear()
        for part in self.parts:
            more = part.at_layers(factors)
            leaves += more[0]
            gradients += more[1]
        return leaves, gradients

    def _accumulate_combined(
        self,
        places: list[Place],
        gradients: list[Tensor],
        factors: Sequence[float],
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """Backpropagate what the features get in the combination, and what is given for other places."""
        places += [z for z, part in zip(self.features, self.parts, strict=True) if part.tasks]
        gradients += [part.combined(factors) for part in self._parts_for_good() if part.tasks]
        accumulate(places, gradients, inputs, room=room_beside(self.behind.leaves.values()))

    def _parts_for_good(self) -> Iterator[FeatureRows]:
        """Yield what comes back to each z, and forget it: it would take up memory while the encoder's turn comes."""
        while self.parts:
            yield self.parts.pop(0)

    def _backward_whole(
        self, factors: Sequence[float], head_factors: Sequence[float], direction: Tensor | None
    ) -> None:
        if direction is not None:
            raise ValueError(
                "a loss reaches the encoder past the features as well, so a gradient given at the features cannot be "
                "backpropagated for it; use a strategy that weighs the losses"
            )
        if factors == head_factors:
            backpropagate(*self.losses.seeded([factor * self.loss_scale for factor in factors]))
            return
        places: list[Tensor] = []
        gradients: list[Tensor] = []
        for root, factor, head_factor in zip(self.losses.roots, factors, head_factors, strict=True):
            leaves = [*{**self._leaves_of(root), **self.behind.leaves}.values()]
            found = differentiate([root], leaves, self.losses.seed(self.loss_scale))
            for leaf, gradient in zip(leaves, found, strict=True):
                if gradient is not None:
                    places.append(leaf)
                    gradients.append(gradient * (factor if id(leaf) in self.behind.leaves else head_factor))
        accumulate(places, gradients)

    def _rows_at_weights(self, weights: Sequence[Tensor]) -> Tensor:
        """Return the tasks' gradients ``[K, P]`` at W, times the loss scale."""
        n_tasks = len(self.losses)
        if self.is_clean and len(weights) == 1:
            known = rows_at_last_layer(weights[0], self.features, self.parts, n_tasks, self.behind.uses)
            if known is not None:
                return known
        rows = []
        for task, root in enumerate(self.losses.roots):
            if self.is_clean:
                pairs = [
                    (z, part.rows()[part.tasks.index(task)].reshape(z.shape).to(z))
                    for z, part in zip(self.features, self.parts, strict=True)
                    if task in part.tasks
                ]
                gradients = differentiate([z for z, _ in pairs], weights, [gradient for _, gradient in pairs])
            else:
                gradients = differentiate([root], weights, self.losses.seed(self.loss_scale))
            if all(gradient is None for gradient in gradients):
                raise ValueError(UNREACHED)
            rows.append(filled(gradients, weights))
        return stacked(rows)
