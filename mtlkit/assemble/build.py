"""Build: everything that a run is made of, from a resolved configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mtlkit.assemble.learning import check_place, optimizer_of, schedule_of, strategy_of
from mtlkit.assemble.network import ENTRY_BY_ENTRY, architecture_of, banked, common_row, prepare, stem_of
from mtlkit.assemble.plan import mixing_of, plan_of
from mtlkit.assemble.refusals import refusals
from mtlkit.assemble.sources import bound_task, source_groups
from mtlkit.data.splits import derived_seed
from mtlkit.errors import PluginError
from mtlkit.experiment import Experiment
from mtlkit.finetune import freeze, load_pretrained
from mtlkit.memory import Budget
from mtlkit.model import MultiTaskModel
from mtlkit.resolve import Resolved

__all__ = ["build"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32, "float16": torch.float32}


def build(resolved: Resolved, pretrained: Mapping[str, Tensor] | None = None) -> Experiment:
    """Build everything that a run is made of; the global random state is left as it was.

    Args:
        resolved: The configuration.
        pretrained: The weights that the encoders begin with, by name; None where others are to be loaded anyway.

    Raises:
        ConfigError: If a component refuses its options.
        PluginError: If a plugin's own code fails.
        DataError: If the rows do not fit one another or the tasks.
    """
    config, device = resolved.config, resolved.device
    seed, dtype = config.run.seed, _DTYPES[config.training.precision]
    tasks = [bound_task(resolved, index) for index in range(len(resolved.tasks))]
    groups = source_groups(resolved, tasks, dtype)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), Budget():
        stems = [stem_of(resolved, tasks, group) for group in groups]
        architecture = architecture_of(resolved, common_row(tasks, groups, stems))
        heads: dict[str, nn.Module] = {}
        for bound, part in zip(tasks, resolved.tasks, strict=True):
            # By its label alone, so that a task starts from the same head whichever others it is trained with.
            torch.manual_seed(derived_seed(seed, "head", bound.label))
            with refusals(resolved, part, part.path), bound.blame("head"):
                heads[bound.label] = bound.task.head(architecture.features)
            if not isinstance(heads[bound.label], nn.Module):
                raise PluginError(f"The head of task '{bound.label}' is no torch module ({bound.provider}).")
        strategy = strategy_of(resolved, tasks)
    if architecture.shares_features and resolved.optimizer.component in ENTRY_BY_ENTRY:
        groups = [banked(tasks, heads, group) for group in groups]
    if strategy.looks_ahead:
        groups = [dataclasses.replace(group, held_out=group.stream.another("held out")) for group in groups]
    of_tasks = {
        tasks[index].label: stem
        for group, stem in zip(groups, stems, strict=True)
        for index in group.tasks
        if stem is not None
    }
    banks = [bank.heads for group in groups for bank in group.banks]
    model = MultiTaskModel(architecture, heads, of_tasks, banks).to(device, dtype)
    prepare(architecture, groups, stems)
    if pretrained is not None:  # after that: weights are worth what they were trained beside, such as means of columns
        load_pretrained(resolved, model, pretrained)
    strategy.to(device)
    plan = plan_of(resolved, tasks, groups)
    thawing = freeze(resolved, model, steps_per_epoch=plan.steps_per_epoch)
    check_place(resolved, model, strategy)
    return Experiment(
        model=model,
        tasks=tasks,
        groups=groups,
        mixing=mixing_of(resolved, tasks, groups),
        strategy=strategy,
        optimizer=optimizer_of(resolved, model, strategy),
        scaler=torch.amp.GradScaler(device.type, enabled=plan.autocast is torch.float16),
        schedule=schedule_of(config),
        plan=plan,
        device=device,
        thawing=thawing,
    )
