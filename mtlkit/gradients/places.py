"""The places where tasks' gradients are compared, from whatever a loop has at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from mtlkit.encoders.base import Encoder, last_weighted_layer
from mtlkit.gradients.walk import edge_of
from mtlkit.strategies.base import Strategy
from mtlkit.transfer.freezing import will_be_trained

__all__ = ["UNREACHED", "Features", "Shared", "Sharing", "features_of", "last_weights", "parameters_of", "trained"]

UNREACHED = "the features do not depend on the shared parameters that were given"


class Sharing(Protocol):
    """Whatever knows which of its weights the tasks share, such as an architecture, or a whole model."""

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that more than one task trains."""

    def last_shared_layer(self) -> nn.Module | Sequence[nn.Module]:
        """Return the last layer that the tasks share, or several that stand side by side."""


Features = Tensor | Mapping[str, "Features"] | Sequence["Features"]
Shared = Sharing | nn.Module | Iterable[nn.Parameter]


def features_of(features: Features | None, strategy: Strategy) -> list[Tensor]:
    """Return each tensor among the features that can be differentiated at, once.

    Raises:
        ValueError: If there are none.
    """
    if features is None:
        raise ValueError(
            f"{type(strategy).__name__} needs the tasks' gradients: pass what the encoder returned as features="
        )
    found = trained(features)
    if not found:
        raise ValueError(
            "the features need no gradient, so nothing shared can be measured: is the encoder frozen, or was it called "
            "under torch.no_grad()?"
        )
    return found


def trained(features: Features | None) -> list[Tensor]:
    """Return each tensor among the features that can be differentiated at, once; none where there are none."""
    if features is None:
        return []
    if isinstance(features, list) and len(features) == 1:
        features = features[0]
    if isinstance(features, Tensor):
        return [features] if features.requires_grad else []
    return list({edge_of(tensor): tensor for tensor in _tensors(features) if tensor.requires_grad}.values())


def parameters_of(shared: Shared) -> list[Tensor]:
    """Return the shared parameters that are trained, or will be: what remembers gradients finds each at its place."""
    sharing = _sharing(shared)
    if sharing is not None:
        parameters = sharing.shared_parameters()
    elif not isinstance(shared, nn.Module):
        parameters = cast("Iterable[nn.Parameter]", shared)
    elif type(shared).parameters is nn.Module.parameters:
        parameters = dict.fromkeys(_parameters_within(shared))
    else:
        parameters = shared.parameters()
    return [parameter for parameter in parameters if will_be_trained(parameter)]


def _parameters_within(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield what parameters() does, in its order, in less time: this is asked in every step of training."""
    for parameter in module._parameters.values():  # noqa: SLF001
        if parameter is not None:
            yield parameter
    for child in module._modules.values():  # noqa: SLF001
        if child is not None:
            yield from _parameters_within(child)


def last_weights(shared: Shared) -> list[Tensor]:
    """Return the weight of each last shared layer that is trained; of parameters, all."""
    sharing = _sharing(shared)
    if sharing is not None:
        found = sharing.last_shared_layer()
        layers = [found] if isinstance(found, nn.Module) else list(found)
    elif isinstance(shared, Encoder):
        layers = [shared.last_layer()]
    elif isinstance(shared, nn.Module):
        layers = [shared]
    else:
        return parameters_of(shared)
    weights: list[nn.Parameter] = [last_weighted_layer(layer).weight for layer in layers]
    return [weight for weight in weights if weight.requires_grad]


def _sharing(shared: Shared) -> Sharing | None:
    kind = type(shared)  # a module itself would look for what it lacks in three more places
    says = hasattr(kind, "shared_parameters") and hasattr(kind, "last_shared_layer")
    return cast("Sharing", shared) if says else None


def _tensors(features: Features) -> Iterator[Tensor]:
    if isinstance(features, Tensor):
        yield features
    else:
        for each in features.values() if isinstance(features, Mapping) else features:
            yield from _tensors(each)
