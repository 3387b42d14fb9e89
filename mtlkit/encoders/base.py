"""What every encoder is: a module that turns input rows into features that all tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import nn

from mtlkit.specs import FeatureSpec

__all__ = ["Encoder", "last_weighted_layer"]


def last_weighted_layer(module: nn.Module) -> Any:
    """Return the last layer of `module`, in order of registration, that has a weight matrix or kernel.

    Raises:
        ValueError: If no layer has one.
    """
    layer = _last_within(module)
    if layer is None:
        raise ValueError(f"{type(module).__name__} has no layer with a weight matrix or kernel")
    return layer


def _last_within(module: nn.Module) -> nn.Module | None:
    """Look from the end, and no further than it takes: this is asked in every step of training."""
    for child in reversed(module._modules.values()):  # noqa: SLF001 - as modules() does
        found = None if child is None else _last_within(child)
        if found is not None:
            return found
    weight = getattr(module, "weight", None)
    return module if isinstance(weight, nn.Parameter) and weight.ndim > 1 else None


class Encoder(nn.Module):
    """The base class of encoders.

    A subclass takes the :class:`~mtlkit.specs.InputSpec` of its rows as ``inputs``, then its options, keyword-only,
    typed and with defaults: they are what a configuration may set. It sets :attr:`features` truthfully.

    Most encoders are a chain of stages. One that says so by :meth:`stages` need not write :meth:`forward`, can be
    frozen from its input on and trained at a learning rate for each stage, and serves architectures that join several
    encoders between their stages. Rows and features are a tensor, or a mapping of tensors by name, as the two specs say
    (:data:`~mtlkit.tensors.Tensors`).

    Attributes:
        features: The shape of one row of what :meth:`forward` returns.
        row_by_row: Whether the class's own code makes the features of a row of that row alone, in training mode too,
            and remembers nothing of it: batches of several sources then go through the encoder as one, which is
            quicker, unless a module within it has statistics of the batch, or is unknown. A class says so of itself;
            one that is derived from it says so again. Modules of your own within an encoder say so likewise.
        resting: The modules within it that are frozen: they stay in evaluation mode.
    """

    features: FeatureSpec
    row_by_row: ClassVar[bool] = False
    resting: tuple[nn.Module, ...] = ()

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's own signature
        """Put it in training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self.resting:
            if module is self:
                super().train(mode=False)
            else:
                module.eval()
        return self

    def forward(self, inputs: Any) -> Any:
        """Turn a batch of rows ``[B, *inputs.shape]`` into features ``[B, *features.shape]``.

        Where the :class:`~mtlkit.specs.InputSpec` has parts, the rows are a mapping of tensors by those names; where
        :attr:`features` has, a dict of tensors is returned.
        """
        stages = self.stages()
        if not stages:
            raise NotImplementedError(f"{type(self).__name__} has neither stages nor a forward() of its own")
        context, hidden = self.context(inputs), inputs
        for index in range(len(stages)):
            hidden = self.through(index, hidden, context)
        return hidden

    def stages(self) -> Sequence[nn.Module]:
        """Return the stages from input to features, in order; none, by default, for an encoder that is no chain.

        What one stage returns is what the next one takes, one tensor ``[B, *]`` but for the rows that the first one
        takes, and what the last one returns are the features. Every parameter is in exactly one stage.
        """
        return ()

    def levels(self) -> Sequence[nn.Module]:
        """Return the parts from input to features, in order, that are frozen, or trained at rates of their own.

        They are the stages by default. An encoder that is no chain, such as one that makes features of several scales,
        may still have an order. Every parameter is in exactly one of them.
        """
        return self.stages()

    def context(self, inputs: Any) -> Any:
        """Return what stages need to know of the rows beside what comes through them, such as where padding is."""
        return None

    def through(self, index: int, hidden: Any, context: Any) -> Any:
        """Return what the stage of a number makes of what the one before it made.

        Args:
            index: Its number, from 0.
            hidden: What the stage before it returned; the rows, for the first.
            context: What :meth:`context` says of the rows.
        """
        return self.stages()[index](hidden)

    def prepare(self, rows: Any) -> None:
        """See the training rows ``[N, *]`` once, before the first step, where something is to be read off them.

        Of rows that are not held in memory they are some, evenly spaced, or of a stream those that come first.

        What is learned from them, such as the mean of each column, is kept in buffers, so that a checkpoint holds it.
        """

    def last_layer(self) -> nn.Module:
        """Return the layer whose weights stand last before the features; GradNorm measures there.

        The default is the layer registered last that has a weight of two dimensions or more. Override it
        where the order of registration is not the order of computation.
        """
        layer: nn.Module = last_weighted_layer(self)
        return layer
