"""``backward``: measure what the strategy needs, ask it for weights, fill ``.grad``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mtlkit.errors import NonFiniteError
from mtlkit.gradients.bank import BankLosses, joined, one_by_one
from mtlkit.gradients.cut import Cut
from mtlkit.gradients.graph import Graph, differentiated
from mtlkit.gradients.losses import Losses, check, named, non_finite
from mtlkit.gradients.measurement import Measurement
from mtlkit.gradients.outlook import Outlook
from mtlkit.gradients.places import Features, Shared, features_of
from mtlkit.strategies.base import Needs, Over, Strategy, Weighting

__all__ = ["backward"]

Heads = Literal["weighted", "plain"]


def backward(  # noqa: PLR0913 - one for each thing that a loop may know
    losses: Losses,
    *,
    strategy: Strategy,
    features: Features | None = None,
    shared: Shared | None = None,
    preference: Tensor | None = None,
    tasks: Tensor | None = None,
    scale: float = 1.0,
    loss_scale: float = 1.0,
    heads: Heads = "weighted",
    measure: Over | None = None,
    ahead: Outlook | None = None,
    banks: Sequence[BankLosses] = (),
) -> Measurement:
    """Backpropagate the weighted losses: this in place of ``sum(losses).backward()``.

    It adds to ``.grad`` of the encoder, of the heads, and of the strategy's own parameters, which belong in an
    optimizer: see :meth:`Strategy.parameter_groups`.

    Args:
        losses: One scalar for each task present, in the order of the strategy's tasks.
        strategy: What weighs them.
        features: What the encoder returned: a tensor for each batch, or several, in a mapping by name; needed where
            gradients at the features or at the last shared layer are.
        shared: The encoder, for a strategy that needs gradients at its weights; or a model or an architecture (whatever
            has ``shared_parameters()`` and ``last_shared_layer()``), a single layer, parameters.
        preference: A constant factor on each task's weight ``[K]``; the strategy itself does not see it, but one that
            combines gradients itself is given them so scaled.
        tasks: The indices of the tasks present ``[K]``; None where all are.
        scale: A factor on everything that is added to ``.grad``, such as 1/n where n passes are accumulated.
        loss_scale: A factor on the losses while they are backpropagated, for half precision: what
            ``GradScaler.get_scale()`` says. ``.grad`` is left scaled by it, for ``GradScaler.step``; the strategy sees
            gradients without it. Where they overflow, the strategy is not asked, and GradScaler skips the step.
        heads: Whether a head gets its loss's gradient ``weighted`` like the shared parameters, or ``plain``.
        measure: Where to measure the gradients for a strategy that needs none.
        banks: The losses of tasks whose heads are one linear layer; those in `losses` take the places that are left.
        ahead: What :func:`look_ahead` saw; needed where the strategy looks ahead, but for one in evaluation mode.

    Returns:
        The losses, the weights applied and what was measured.

    Raises:
        ValueError: If a loss is no scalar or depends on nothing that can be trained, their number does not fit, or
            the features, the shared parameters or an outlook are needed and missing, or no loss reaches them.
        NonFiniteError: If a loss, or a gradient that the strategy needs, is NaN or infinite; nothing is changed.
    """
    names, each = named(losses)
    check(names, each, strategy, tasks, preference, banks)
    _check_outlook(ahead, strategy, tasks)
    with torch.enable_grad():
        root = joined(each, banks)
        names, each = one_by_one(names, each, banks)
    stacked = root.detach()
    if not stacked.isfinite().all():
        raise NonFiniteError(non_finite("loss", names, stacked.isfinite(), stacked))
    seen = stacked.to(_device(strategy), torch.float64)

    over = measure if strategy.needs is Needs.LOSSES else strategy.over
    graph = differentiated(names, each, over, features, shared, strategy, loss_scale)
    gramian = None
    if graph is not None:
        gramian = graph.gramian().to(seen.device)
        finite = gramian.diagonal().isfinite()
        if not finite.all():
            if loss_scale != 1:  # an overflow, which GradScaler looks for in .grad, and answers
                torch.autograd.backward(each, [torch.full_like(loss, loss_scale) for loss in each])
                return Measurement(stacked, torch.ones_like(stacked))
            raise NonFiniteError(non_finite("gradient", names, finite, gramian.diagonal().sqrt()))

    if ahead is not None:
        strategy.foresee(ahead.slopes.to(seen.device), tasks)
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
        graph = Cut(names, each, features_of(features, strategy), None, loss_scale) if separate else None
    if graph is None:
        torch.autograd.backward(root, factors * loss_scale)
    else:
        direction = weighting.direction
        graph.backward(factors, head_factors, None if direction is None else direction * scale)
    return Measurement(stacked, applied.to(stacked.device), gramian)


def _asked(
    strategy: Strategy,
    losses: Tensor,
    gramian: Tensor | None,
    graph: Graph | None,
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


def _check_outlook(ahead: Outlook | None, strategy: Strategy, tasks: Tensor | None) -> None:
    name = type(strategy).__name__
    if ahead is None:
        if strategy.looks_ahead and strategy.training:
            raise ValueError(
                f"{name} learns from held-out rows: call mtlkit.look_ahead() before the forward pass, and pass what it "
                "returns as ahead="
            )
        return
    if not strategy.looks_ahead:
        raise ValueError(f"{name} does not look ahead: ahead= is for a strategy that does")
    seen, present = (list(range(strategy.n_tasks)) if each is None else each.tolist() for each in (ahead.tasks, tasks))
    if seen != present:
        raise ValueError(f"the losses are of the tasks {present}, and look_ahead() saw the tasks {seen}")


def _device(strategy: Strategy) -> torch.device:
    state: Tensor | None = next(strategy.parameters(), None)
    if state is None:
        state = next(strategy.buffers(), None)
    return torch.device("cpu") if state is None else state.device
