"""Every call of autograd, in the few forms that are needed, and gradients laid out as rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.autograd.graph import Node, _engine_run_backward

from mtlkit.gradients.walk import Place

__all__ = [
    "accumulate",
    "backpropagate",
    "differentiate",
    "filled",
    "is_heard",
    "let_go",
    "paired",
    "room_beside",
    "scaled",
    "stacked",
    "tapped",
    "unflattened",
]

_ENGINE: Any = Variable._execution_engine  # noqa: SLF001 - what torch.autograd.backward and grad call
_ORDINARY = frozenset({Tensor, nn.Parameter})
COPIED = 2**12
"""Bytes of a gradient that a leaf may as well copy."""


def differentiate(
    outputs: Sequence[Place], inputs: Sequence[Place], gradients: Sequence[Tensor], *, keep: bool = True
) -> list[Tensor | None]:
    """Differentiate, None where an input is not reached; the graph is kept unless told otherwise.

    Raises:
        ValueError: If the graph is to be kept, and was compiled so that it cannot be.
    """
    if not inputs:
        return []
    with _unheard(inputs):
        try:
            found = _run(outputs, gradients, inputs, keep=keep, accumulate=False)
        except RuntimeError as error:
            if "donated buffer" not in str(error):
                raise
            raise ValueError(
                "this takes a backward pass for each task, and the encoder was compiled to use up in one pass what it "
                "keeps for it: set torch._functorch.config.donated_buffer = False before it is compiled, or compare "
                "gradients at the features"
            ) from error
    return list(found)


def backpropagate(roots: Sequence[Place], gradients: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> None:
    """Add to ``.grad`` of the leaves, of all if none are named, and let go of the graph."""
    _run(roots, gradients, inputs, keep=False, accumulate=True)


def _run(
    roots: Sequence[Place], gradients: Sequence[Tensor], inputs: Sequence[Place], *, keep: bool, accumulate: bool
) -> tuple[Tensor | None, ...]:
    """Run autograd's engine, past what torch.autograd does first: the engine checks shapes and dtypes itself.

    On a small model those checks take as long as the pass.
    """
    # What the wrapper adds is for the threads of other devices, and a debugging log.
    run = _ENGINE.run_backward if gradients[0].is_cpu else _engine_run_backward
    is_graph_wanted, may_miss_inputs = False, True
    found: tuple[Tensor | None, ...] = run(
        tuple(roots), tuple(gradients), keep, is_graph_wanted, tuple(inputs), may_miss_inputs, accumulate
    )
    return found


def is_heard(tensor: Tensor) -> bool:
    """Return whether somebody hears of what comes back to a tensor: a hook on it, or who has it retain its gradient."""
    return bool(tensor._backward_hooks) or tensor.retains_grad  # noqa: SLF001


def _unheard(places: Sequence[Place]) -> AbstractContextManager[None]:
    """Keep a pass that measures from tensors' own hooks and retained gradients: what is for them is the final pass.

    Autograd calls the hooks of what it differentiates with respect to, so that each would act on a gradient twice.
    """
    heard = [place for place in places if isinstance(place, Tensor) and is_heard(place)]
    return _silenced(heard) if heard else nullcontext()


@contextmanager
def _silenced(heard: Sequence[Tensor]) -> Iterator[None]:
    kept = [(dict(tensor._backward_hooks or {}), tensor.grad if tensor.retains_grad else None) for tensor in heard]  # noqa: SLF001
    for tensor in heard:
        if tensor._backward_hooks:  # noqa: SLF001
            tensor._backward_hooks.clear()  # noqa: SLF001
    try:
        yield
    finally:
        for tensor, (hooks, gradient) in zip(heard, kept, strict=True):
            if hooks:
                tensor._backward_hooks.update(hooks)  # type: ignore[union-attr] # noqa: SLF001
            if tensor.retains_grad:
                tensor.grad = gradient


def tapped(nodes: Sequence[Node], hear: Callable[[Node, Tensor], object]) -> AbstractContextManager[None]:
    """Tell of what comes back to the first output of each operation that a pass goes on through, as it comes by.

    Where one does, what it is said to have found there is what came before the hooks on the output had acted on it.
    """
    return _taps_at(nodes, hear) if nodes else nullcontext()


@contextmanager
def _taps_at(nodes: Sequence[Node], hear: Callable[[Node, Tensor], object]) -> Iterator[None]:

    def tap(node: Node, back: Sequence[Tensor | None]) -> None:
        if back[0] is not None:
            hear(node, back[0])

    taps = [node.register_prehook(functools.partial(tap, node)) for node in nodes]
    try:
        yield
    finally:
        for each in taps:
            each.remove()


def room_beside(leaves: Iterable[Tensor]) -> int:
    """Return how many bytes of gradients may as well be held through a pass that gives these leaves theirs.

    A fifth of the leaves is a twentieth of what they take with their gradients and the two moments of Adam.
    """
    return sum(leaf.nbytes for leaf in leaves) // 5


def accumulate(
    places: Sequence[Place], gradients: list[Tensor], inputs: Sequence[Tensor] | None = None, *, room: int = 0
) -> None:
    """Backpropagate gradients from where they are given; into leaves by autograd, so that hooks on them hear of it.

    All that is given is given in one pass: there are hooks that wait for the gradients of several leaves.

    Args:
        places: Tensors in the graph, leaves among them, or edges of it.
        gradients: What each is given; a leaf may keep one as it is. The list is emptied.
        inputs: The leaves that it goes to; None for all.
        room: How many bytes may as well be held through the pass.
    """
    if not places or inputs == []:
        return
    # The engine holds on to what its roots are given: that would be copied by leaves, and be there for the whole pass.
    roots = list(places)
    inner: list[int] = []  # the places of tensors that are no leaves
    held = 0
    with torch.enable_grad():
        for number, place in enumerate(places):
            if not isinstance(place, Tensor):
                continue
            size = gradients[number].nbytes
            if not place.is_leaf:
                inner.append(number)
                held += size
            elif size > COPIED and type(place) in _ORDINARY:
                roots[number] = place.view_as(place)  # it makes a view of what it is given, which a leaf keeps
        if held > room:
            given = [gradients[number] for number in inner]
            root = let_go([places[number] for number in inner], given)
            for number in reversed(inner):
                del roots[number], gradients[number]
            roots.append(root)
            gradients.append(root.detach())
    backpropagate(roots, gradients, inputs or ())
    gradients.clear()


def let_go(places: Sequence[Place], gradients: list[Tensor]) -> Tensor:
    """Return a scalar from which, whatever its seed, each tensor among the places gets the gradient that is given.

    The list is emptied in the pass: the engine holds on to what its roots themselves are given.
    """
    with torch.enable_grad():
        root: Tensor = _Given.apply(gradients, *places)  # type: ignore[no-untyped-call]
    return root


class _Given(torch.autograd.Function):
    """A scalar whose gradients are given and let go of."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return gradients[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        given = (None, *ctx.gradients)
        ctx.gradients.clear()
        return given


def paired(leaves: Iterable[Tensor], gradients: Iterator[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    """Take a gradient for each leaf, and return the leaves that have one, each with it."""
    return [(leaf, gradient) for leaf in leaves if (gradient := next(gradients)) is not None]


def scaled(
    own: Sequence[Sequence[tuple[Tensor, Tensor]]], factors: Sequence[float]
) -> tuple[list[Place], list[Tensor]]:
    """Return the parameters of all tasks' heads, and their gradients times the factor of each task ``[K]``."""
    if not any(own):
        return [], []
    leaves: list[Place] = [leaf for pairs in own for leaf, _ in pairs]
    gradients = [gradient for pairs in own for _, gradient in pairs]
    scales = [factor for factor, pairs in zip(factors, own, strict=True) for _ in pairs]
    if all(scale == 1 for scale in scales):
        return leaves, gradients
    return leaves, list(torch._foreach_mul(gradients, scales))  # noqa: SLF001 - as torch.optim does


def filled(gradients: Sequence[Tensor | None], places: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients with zeros where there is none."""
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, places, strict=True)]


def stacked(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return gradients given in parts as rows ``[K, P]``, in float32 at least."""
    rows = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in gradients])
    return rows.float() if rows.dtype in {torch.float16, torch.bfloat16} else rows


def unflattened(flat: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the parts ``[P]`` of a gradient in the shapes of the places that it is for, as views."""
    parts: Sequence[Tensor] = torch._C._nn.unflatten_dense_tensors(flat, list(like))  # noqa: SLF001 - as torch.distributed does
    return parts
