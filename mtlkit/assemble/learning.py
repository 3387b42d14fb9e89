"""What learns: the strategy and the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mtlkit.assemble.refusals import chosen, refusals
from mtlkit.config import RunConfig
from mtlkit.data.splits import derived_seed
from mtlkit.experiment import BoundTask
from mtlkit.finetune import parameter_groups
from mtlkit.gradients.places import last_weights
from mtlkit.model import MultiTaskModel
from mtlkit.resolve import Part, Resolved
from mtlkit.schedule import Schedule
from mtlkit.strategies.base import Over, Strategy
from mtlkit.yamlfile import SettingPath

__all__ = ["check_place", "optimizer_of", "schedule_of", "strategy_of"]

_PLACES = {
    Over.LAST_SHARED: "last layer that they share",
    Over.FEATURES: "features that they share",
    Over.PARAMETERS: "parameters that they share",
}


def strategy_of(resolved: Resolved, tasks: Sequence[BoundTask]) -> Strategy:
    """Build the strategy from what it asks to know of the tasks."""
    part = resolved.strategy
    facts = {
        "n_tasks": len(tasks),
        "loss_kinds": [bound.task.loss_kind for bound in tasks],
        "n_classes": [bound.task.n_classes for bound in tasks],
        "labels": [bound.label for bound in tasks],
    }
    torch.manual_seed(derived_seed(resolved.config.run.seed, "strategy"))
    with refusals(resolved, part, part.path):
        try:
            strategy: Strategy = part.component(**chosen(part, facts), **part.options)
        except ValueError as error:  # most strategies know their tasks by number alone
            numbered = ", ".join(f"{index} '{bound.label}'" for index, bound in enumerate(tasks))
            raise ValueError(f"{error} (tasks: {numbered})") from error
    return strategy


def check_place(resolved: Resolved, model: MultiTaskModel, strategy: Strategy) -> None:
    """Check that something is trained where the tasks' gradients are compared, if they are."""
    diagnostics = resolved.config.diagnostics
    over, who = strategy.over, f"The strategy '{resolved.config.strategy.name}'"
    section: SettingPath = ("strategy",)
    remedy = "Choose a strategy that needs no more than the losses, such as fixed or uncertainty"
    if over is None and diagnostics.every is not None:
        over, who, section = Over(diagnostics.over), "diagnostics", ("diagnostics", "every")
        remedy = "Compare none"
    if over is None or _is_trained_at(model, over):
        return
    transfer = resolved.config.transfer
    if transfer.freeze is not None or transfer.unfreeze is not None:
        section = ("transfer", "unfreeze" if transfer.freeze is None else "freeze")
        remedy = f"Freeze less, so that the last stage is trained from the start. Or: {remedy[:1].lower()}{remedy[1:]}"
    what = f"{who} compares the tasks' gradients at the {_PLACES[over]}, and nothing is trained there"
    raise resolved.problem(what, section, f"{remedy}.")


def _is_trained_at(model: MultiTaskModel, over: Over) -> bool:
    if over is Over.LAST_SHARED:
        try:
            return bool(last_weights(model))
        except ValueError:
            return False  # there is no layer with weights
    parameters = model.shared_parameters()
    if over is Over.FEATURES:  # whatever stands before them, a task's own too
        parameters = [*model.architecture.parameters(), *model.stems.parameters()]
    return any(parameter.requires_grad for parameter in parameters)


def optimizer_of(resolved: Resolved, model: nn.Module, strategy: Strategy) -> torch.optim.Optimizer:
    """Build the optimizer over what the model and the strategy learn."""
    part = resolved.optimizer
    groups = parameter_groups(resolved, model)
    known = {"params", *part.options}  # not every optimizer has weight decay, say
    groups += [{k: v for k, v in group.items() if k in known} for group in strategy.parameter_groups()]
    make: Callable[..., torch.optim.Optimizer] = part.component
    options = dict(part.options)
    if options.get("fused", False) is None and not options.get("foreach") and _can_be_fused(part, resolved.device):
        options["fused"] = True  # one kernel for all parameters, where torch would take several for each
    with refusals(resolved, part, part.path):
        optimizer = make(groups, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _can_be_fused(part: Part, device: torch.device) -> bool:
    """Return whether torch has one kernel for all parameters that does what its others do."""
    if part.component is torch.optim.Adagrad:
        return device.type != "cuda"  # where it has none
    # With momentum, that of SGD fails once a parameter first has a gradient after others had theirs: a head whose task
    # was absent till then, or a stage that is thawed.
    return part.component is not torch.optim.SGD or not part.options["momentum"]


def schedule_of(config: RunConfig) -> Schedule:
    """Return how the learning rates change over the run."""
    options: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in config.schedule.model_dump().items()
    }
    return Schedule(shape=options.pop("name"), **options)
