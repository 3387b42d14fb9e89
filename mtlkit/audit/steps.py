"""What may be wrong with a step: losses, gradients, and what is not trained."""

from __future__ import annotations

from collections.abc import Iterator

from mtlkit.audit.checks import check_of_steps
from mtlkit.audit.examined import Examined, and_list
from mtlkit.findings import Finding, Level
from mtlkit.tensors import told

__all__: list[str] = []

APART = 100.0  # how many times larger one task's gradient may be before weights of 1 leave the other untrained


@check_of_steps
def losses_are_finite(examined: Examined) -> Iterator[Finding]:
    """The loss of the first batch is finite for every task."""
    for task in examined.trial.tasks:
        if not task.is_finite:
            yield Finding(
                Level.ERROR,
                f"the loss of the first batch is {task.loss:g}",
                f"Its head made outputs of {told(task.output)}, {task.finite:.0%} of them finite.",
                (task.label,),
            )


@check_of_steps
def gradients_are_finite(examined: Examined) -> Iterator[Finding]:
    """The gradients of the first batch are finite for every task."""
    for task in examined.trial.tasks:
        if task.is_finite and not task.has_finite_gradient:
            yield Finding(
                Level.ERROR,
                f"the loss of the first batch is {task.loss:g}, and its gradient is not finite",
                "Look for a square root, a logarithm or a division at 0 in the head or the loss.",
                (task.label,),
            )


@check_of_steps
def losses_reach_what_is_shared(examined: Examined) -> Iterator[Finding]:
    """Every task trains what is shared."""
    for task in examined.trial.tasks:
        if task.is_finite and task.shared_norm == 0:
            yield Finding(
                Level.ERROR,
                "the gradient of its loss is 0 at everything that is shared",
                "It learns by its head alone, and teaches the others nothing: look for a detach() in the head, or for "
                "initial weights of 0.",
                (task.label,),
            )


@check_of_steps
def everything_is_trained(examined: Examined) -> Iterator[Finding]:
    """Some loss depends on every parameter that is to be trained."""
    names = examined.trial.untrained
    if names:
        yield Finding(
            Level.WARNING,
            f"no loss depends on {len(names)} parameters: {and_list(names, 3)}",
            "They stay as they are: leave them out, or freeze them.",
        )


@check_of_steps
def gradients_are_of_like_size(examined: Examined) -> Iterator[Finding]:
    """No task's gradient drowns another's, where the weights are constant."""
    tasks = [task for task in examined.trial.tasks if task.is_finite and task.shared_norm > 0]
    if len(tasks) > 1 and examined.trial.has_constant_weights:
        sizes = {task.label: task.weight * task.shared_norm for task in tasks}
        largest, smallest = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
        if sizes[largest] > APART * sizes[smallest]:
            yield Finding(
                Level.WARNING,
                f"the weighted gradient of '{largest}' is {sizes[largest] / sizes[smallest]:.0f} times that of "
                f"'{smallest}' at the shared parameters",
                "The smaller one will hardly be heard. Scale the targets, set the tasks' weights, or choose a strategy "
                "that balances them, such as gradnorm or uncertainty.",
                (largest, smallest),
            )
