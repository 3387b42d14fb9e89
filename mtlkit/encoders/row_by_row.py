"""Whether a network makes something of each row by itself, so that batches of several sources may go through it as one.

Known of PyTorch's own layers by their kind; of any other, if its class says so by ``row_by_row = True``. What is not
known is taken for a network whose rows depend on one another, as they do by batch statistics.
"""

from __future__ import annotations

from torch import nn

__all__ = ["is_linear", "is_row_by_row"]

_BY_ENTRY: frozenset[type[nn.Module]] = frozenset(
    {
        *(nn.Identity, nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid),
        *(nn.LogSigmoid, nn.Softplus, nn.Hardtanh, nn.ReLU6, nn.Hardsigmoid, nn.Hardswish, nn.SELU, nn.Softshrink),
    }
)
_HOLDING: frozenset[type[nn.Module]] = frozenset(
    {nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Flatten}
)
_BY_ROW: frozenset[type[nn.Module]] = _BY_ENTRY.union(
    _HOLDING,
    {
        *(nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear, nn.Embedding, nn.Unflatten),
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
        *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.PReLU, nn.CELU),
        *(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder),
    },
)


def is_row_by_row(network: nn.Module) -> bool:
    """Return whether every module in it is known to treat each row by itself, in training too, and to keep no state."""
    return all(_is_plain(module) and (_says_so(module) or type(module) in _BY_ROW) for module in network.modules())


def is_linear(network: nn.Module) -> bool:
    """Return whether all that can be trained in it are linear layers, with nothing but activations between them.

    Where it is row by row too, the gradients of tasks are told apart by rows: see :mod:`mtlkit.gradients`. Of a class
    that says ``row_by_row`` it is taken for granted that what it does itself is no more than to lead from one to
    another; where it is more, nothing becomes wrong, and each task takes a backward pass. What is compiled is one
    operation by the time that gradients come.
    """
    if any(module._compiled_call_impl is not None for module in network.modules()):  # noqa: SLF001
        return False
    return all(
        type(module) is nn.Linear
        or (
            (_says_so(module) or type(module) in _BY_ENTRY | _HOLDING)
            and not any(True for _ in module.parameters(recurse=False))
        )
        for module in network.modules()
    )


def _says_so(module: nn.Module) -> bool:
    """Return whether its class itself says so: a class derived from it may do otherwise."""
    return vars(type(module)).get("row_by_row") is True


def _is_plain(module: nn.Module) -> bool:
    """Return whether it does what its class does, and no more: a hook may count passes, or look at all rows."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)  # noqa: SLF001
    remembers = isinstance(module, nn.Embedding) and module.max_norm is not None  # it scales the vectors that it reads
    return not any(hooks) and "forward" not in vars(module) and not remembers
