"""``backward``: measure what the strategy needs, ask it for weights, fill ``.grad``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from mtlkit.errors import NonFiniteError
from mtlkit.gradients.bank import BankLosses
from mtlkit.gradients.cut import Cut
from mtlkit.gradients.differentiation import backpropagate
from mtlkit.gradients.graph import Graph, differentiated
from mtlkit.gradients.losses import Losses, StepLosses
from mtlkit.gradients.measurement import Measurement
from mtlkit.gradients.outlook import Outlook
from mtlkit.gradients.places import Features, Shared, features_of
from mtlkit.gradients.walk import Place
from mtlkit.solvers.finite import NotFinite
from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.strategies.numbers import diagonal_of

__all__ = ["backward"]

Heads = Literal["weighted", "plain"]

_CPU = torch.device("cpu")


def backward(  # noqa: PLR0913 - one for each thing that a loop may know
    losses: Losses,
    *,
    strategy: Strategy,
    features: Features | None = None,
    shared: Shared | None = None,
    preference: Tensor | None = None,
    tasks: Tensor | None = None,
    scale: float = 1.0,
    loss_scale: float | torch.amp.GradScaler = 1.0,
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
        loss_scale: A factor on the losses while they are backpropagated, for half precision, or the GradScaler that
            knows it. ``.grad`` is left scaled by it, for ``GradScaler.step``; the strategy sees gradients without it.
            Where they overflow, the strategy is not asked, and GradScaler skips the step.
        heads: Whether a head gets its loss's gradient ``weighted`` like the shared parameters, or ``plain``.
        measure: Where to measure the gradients for a strategy that needs none.
        banks: The losses of tasks whose heads are one linear layer; those in `losses` take the places that are left.
        ahead: What :func:`look_ahead` saw; needed where the strategy looks ahead, but for one in evaluation mode.

    Returns:
        The losses, the weights applied and what was measured.

    Raises:
        ValueError: If a loss is no scalar or depends on nothing that can be trained, their number does not fit, or
            the features, the shared parameters or an outlook are needed and missing, or no loss reaches them.
        NonFiniteError: If a loss, a gradient that the strategy needs, or what it should foresee is NaN or infinite:
            nothing is changed then. If a weight that it answers with is: then no ``.grad`` is.
    """
    if ahead is not None or strategy.looks_ahead:
        _check_outlook(ahead, strategy, tasks)
    step = StepLosses.of(losses, banks, strategy, tasks, preference)
    values = step.values
    with _autocast_off(values.device.type):
        if isinstance(loss_scale, torch.amp.GradScaler):
            loss_scale = loss_scale.scale(values.new_ones(())).item()
        _check_finite("loss", step, values.tolist())
        seen = values.to(_device(strategy), torch.float64)
        over = measure if strategy.needs is Needs.LOSSES else strategy.over
        graph = differentiated(step, over, features, shared, strategy, loss_scale)
        gramian = None if graph is None else _at(seen.device, graph.gramian())
        if graph is not None and gramian is not None:
            norms = [math.sqrt(abs(square)) for square in diagonal_of(gramian)]
            if loss_scale != 1 and not all(map(math.isfinite, norms)):
                return _overflown(graph, values)
            _check_finite("gradient", step, norms)
        if ahead is not None:
            _check_outlook_is_finite(ahead)
            strategy.foresee(ahead.slopes.to(seen.device), tasks)
        weighting = _asked(strategy, seen, gramian, graph, tasks, preference)
        applied = _preferred(weighting.weights, preference)
        factors = _factors(applied, scale)
        _check_finite("weight", step, factors, strategy)
        head_factors = factors
        at_heads = torch.ones_like(applied) if heads == "plain" else weighting.head_weights
        if at_heads is not None:
            head_factors = _factors(_preferred(at_heads, preference), scale)
            _check_finite("weight", step, head_factors, strategy)
            if graph is None:
                graph = Cut(step, features_of(features, strategy), None, loss_scale)
        _descend(step, graph, weighting, (factors, head_factors), seen, scale, loss_scale)
        # A copy: an answer may be a view of the strategy's state, which moves on while the weights applied are told of.
        return Measurement(values, _at(values.device, applied.clone() if preference is None else applied), gramian)


def _descend(
    step: StepLosses,
    graph: Graph | None,
    weighting: Weighting,
    factors: tuple[list[float], list[float]],
    losses: Tensor,
    scale: float,
    loss_scale: float,
) -> None:
    """Fill ``.grad`` of the strategy's parameters and of the model's."""
    roots: list[Place] = []
    seeds: list[Tensor] = []
    weights, penalty = weighting.weights, weighting.penalty
    # Where sum(weights * losses) + penalty is what its parameters pay, the losses are constants; so is the preference.
    if weights.requires_grad:
        roots.append(weights)
        seeds.append(losses if scale * loss_scale == 1 else losses * (scale * loss_scale))
    if isinstance(penalty, Tensor) and penalty.requires_grad:
        roots.append(penalty)
        seeds.append(torch.full_like(penalty, scale * loss_scale))
    if graph is None:
        weighted = step.seeded(factors[0] if loss_scale == 1 else [factor * loss_scale for factor in factors[0]])
        roots += weighted[0]
        seeds += weighted[1]
    if roots:
        backpropagate(roots, seeds)
    if graph is not None:
        graph.backward(*factors, None if weighting.direction is None else weighting.direction * scale)


def _overflown(graph: Graph, losses: Tensor) -> Measurement:
    """Leave in ``.grad`` what GradScaler looks for, and answers by a smaller scale and no step."""
    nothing = [math.nan] * len(losses)
    graph.backward(nothing, nothing, None)
    return Measurement(losses, torch.ones_like(losses))


def _preferred(weights: Tensor, preference: Tensor | None) -> Tensor:
    weights = weights.detach()
    return weights if preference is None else weights * preference.to(weights)


def _factors(weights: Tensor, scale: float) -> list[float]:
    return weights.tolist() if scale == 1 else [weight * scale for weight in weights.tolist()]


def _at(device: torch.device, tensor: Tensor) -> Tensor:
    return tensor if tensor.device == device else tensor.to(device)


def _autocast_off(device: str) -> AbstractContextManager[object]:
    """Compute in the dtypes that things have, should the caller be inside of autocast still."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _check_finite(what: str, losses: StepLosses, values: Sequence[float], strategy: Strategy | None = None) -> None:
    if not all(map(math.isfinite, values)):
        places = [place for place, value in enumerate(values) if not math.isfinite(value)]
        bad = [f"{losses.names[place]} ({values[place]})" for place in places]
        by = "" if strategy is None else f", as {type(strategy).__name__} weighs it"
        raise NonFiniteError(f"Non-finite {what} of {', '.join(bad)}{by}.", what=what, places=places)


def _check_outlook_is_finite(ahead: Outlook) -> None:
    if not ahead.slopes.isfinite().all():
        raise NonFiniteError(
            "Non-finite slope of the held-out losses: the trial step led to where a loss is NaN or infinite. A lower "
            "learning rate makes it shorter.",
            what="slope",
        )


def _asked(
    strategy: Strategy,
    losses: Tensor,
    gramian: Tensor | None,
    graph: Graph | None,
    tasks: Tensor | None,
    preference: Tensor | None,
) -> Weighting:
    """Ask the strategy what it makes of the step."""
    try:
        if strategy.needs is not Needs.JACOBIAN or graph is None:
            weighting = strategy.weights(losses, None if strategy.needs is Needs.LOSSES else gramian, tasks)
        else:
            jacobian = graph.jacobian()
            if preference is not None:
                jacobian = jacobian * preference.to(jacobian)[:, None]
            weighting = strategy.combine(losses, jacobian, tasks)
    except NotFinite as error:  # each gradient is finite, and what is made of them overflows
        raise NonFiniteError(f"Non-finite gradients to {type(strategy).__name__}: {error}.", what="gradient") from error
    if weighting.weights.shape != losses.shape:
        raise ValueError(
            f"{type(strategy).__name__} gave weights of shape {tuple(weighting.weights.shape)} for {len(losses)} "
            "losses; it gives one for each task present"
        )
    return weighting


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
    """Return where the strategy's state is; a few look-ups, since a walk through a module takes long."""
    for own in (strategy._parameters, strategy._buffers):  # noqa: SLF001
        for state in own.values():
            if state is not None:
                return state.device
    if not strategy._modules:  # noqa: SLF001
        return _CPU
    return next((state.device for state in (*strategy.parameters(), *strategy.buffers())), _CPU)
