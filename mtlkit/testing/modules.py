"""What encoders and architectures, torch modules both, promise alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mtlkit.encoders.base import last_weighted_layer
from mtlkit.encoders.row_by_row import is_row_by_row
from mtlkit.specs import FeatureSpec, InputSpec
from mtlkit.tensors import Tensors, apply, joined, named, told
from mtlkit.testing.checks import require
from mtlkit.testing.probes import (
    RandomStates,
    asking,
    require_construction_leaves_random_state,
    require_silence,
    seeded,
)

__all__ = [
    "ROWS",
    "Trial",
    "are_equal",
    "is_close",
    "is_nonzero",
    "other_rows",
    "require_weighted",
    "rows_of",
    "told_rows",
]

ROWS = 6


def told_rows(inputs: InputSpec) -> str:
    """Tell what rows are, as a sentence goes on: ``rows of shape (7,)``."""
    return f"rows of shape {inputs}{' of whole numbers' if inputs.categories else ''}"


def rows_of(inputs: InputSpec) -> Tensors:
    """Return some rows: standard-normal numbers, or categories and tokens drawn from as many as there are."""
    parts = {name: _drawn(part) for name, part in inputs.parts.items()}
    return parts or _drawn(inputs)


def _drawn(inputs: InputSpec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if not inputs.categories:
        return torch.randn(ROWS, *inputs.shape, generator=generator)
    counts = torch.tensor(inputs.categories)
    rows = torch.randint(1 << 30, (ROWS, len(counts)), generator=generator) % counts
    rows[0] = counts - 1  # as large as they come
    return rows


def other_rows(rows: Tensors, inputs: InputSpec) -> Tensors:
    """Return rows that differ from these in every value, where there are two to choose from."""
    specs = inputs.parts or {"": inputs}
    others = {name: _others(part, specs[name]) for name, part in named(rows).items()}
    return others[""] if isinstance(rows, Tensor) else others


def _others(rows: Tensor, inputs: InputSpec) -> Tensor:
    return (rows + 1) % torch.tensor(inputs.categories) if inputs.categories else 1 - rows


@dataclass(frozen=True)
class Trial:
    """A module that a plugin makes, with rows to try it on. Every method that requires raises Nonconformance.

    Attributes:
        what: What it is, as a sentence begins: ``"The encoder for rows of shape (7,)"``.
        make: Builds one more, from the random state as it is; it may raise only Nonconformance.
        run: Runs one on rows, and returns every tensor of features; it may raise anything.
        rows: The rows ``[B, *]``, or a mapping of their parts.
        others: Rows that differ from them in every value.
    """

    what: str
    make: Callable[[], nn.Module]
    run: Callable[[nn.Module, Any], Sequence[Tensor]]
    rows: Tensors
    others: Tensors

    def build(self, seed: int = 0) -> nn.Module:
        """Build one more from a seed."""
        with seeded(seed):
            return self.make()

    def first(self, n: int) -> Tensors:
        """Return the first rows."""
        return _first(self.rows, n)

    def train(self, module: nn.Module, rows: Tensors | None = None) -> list[Tensor]:
        """Run it in training mode, where random numbers may be drawn."""
        with seeded():
            return self._call(module, rows, "training")

    def evaluate(self, module: nn.Module, rows: Tensors | None = None, *, gradients: bool = False) -> list[Tensor]:
        """Run it in evaluation mode, from the same random state each time."""
        with seeded(), torch.set_grad_enabled(gradients):
            return self._call(module, rows, "evaluation")

    def _call(self, module: nn.Module, rows: Tensors | None, mode: str) -> list[Tensor]:
        # Whether it writes to them is one method's affair alone.
        return self._call_on(module, _copied(self.rows if rows is None else rows), mode)

    def _call_on(self, module: nn.Module, rows: Tensors, mode: str) -> list[Tensor]:
        with asking(f"{self.what}, run in {mode} mode on rows of {told(rows)},"):
            if mode == "training":
                module.train()
            else:
                module.eval()
            received = list(self.run(module, rows))
        for tensor in received:
            require(
                tensor.is_floating_point() and tensor.ndim > 0,
                f"{self.what} made features of dtype {tensor.dtype} and shape {tuple(tensor.shape)}",
                "Features are floating-point numbers, in as many rows as there were.",
            )
        return received

    def gradients(self, outputs: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """Return the gradient at each parameter of a sum over outputs with unequal weights; None where none arrives."""
        live = [output for output in outputs if output.requires_grad]
        if not live or not parameters:
            return [None] * len(parameters)
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(output.shape, generator=generator).to(output.dtype) for output in live]
        with asking(f"{self.what}, backpropagated,"):
            return list(torch.autograd.grad(live, list(parameters), weights, allow_unused=True, retain_graph=True))

    def require_features(self, received: Sequence[Tensor], features: FeatureSpec, n: int, name: str = "") -> None:
        """Require of every tensor that it holds `n` rows of the shape that was promised."""
        part = f" '{name}' of shape" if name else ""
        for tensor in received:
            require(
                tuple(tensor.shape) == (n, *features.shape),
                f"{self.what} says features{part} {features.shape}, and made shape {tuple(tensor.shape)} of {n} rows",
                f"Return {(n, *features.shape)}, or say the true shape of a row: "
                f"self.features = mtlkit.FeatureSpec({tuple(tensor.shape[1:])}).",
            )

    def require_single_row(self) -> None:
        """Require that a batch of one row makes features of one row, in evaluation mode."""
        module = self.build()
        single, pair = self.evaluate(module, self.first(1)), self.evaluate(module, self.first(2))
        for one, two in zip(single, pair, strict=True):
            require(
                one.shape == (1, *two.shape[1:]),
                f"{self.what} made shape {tuple(one.shape)} of a batch of one row, and {tuple(two.shape)} of two",
                "A squeeze() without a dimension drops the batch's too: name the dimension.",
            )

    def require_finite(self) -> None:
        """Require finite features in both modes."""
        module = self.build()
        for mode, received in (("training", self.train(module)), ("evaluation", self.evaluate(module))):
            for tensor in received:
                require(
                    tensor.isfinite().all(),
                    f"{self.what} made NaN or infinite features of ordinary rows in {mode} mode",
                    "Look for a division by a deviation that may be 0, or a logarithm or root of what may be.",
                )

    def require_evaluation_mode_everywhere(self) -> None:
        """Require that eval() reaches every layer."""
        module = self.build()
        with asking(f"{self.what}, asked for its train() and eval(),"):
            module.train()
            module.eval()
        training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
        require(
            not training,
            f"{self.what} was put in evaluation mode, and {', '.join(training[:3])} stayed in training mode",
            "An override of train(mode) passes the mode on: super().train(mode).",
        )

    def require_deterministic_evaluation(self) -> None:
        """Require that two passes in evaluation mode are equal bit for bit."""
        module = self.build()
        with seeded(), torch.no_grad():
            first, second = (self._call(module, None, "evaluation") for _ in range(2))
        require(
            _equal(first, second),
            f"{self.what} made different features of the same rows in evaluation mode, {_apart(first, second)} apart",
            "Nothing random, and nothing that remembers the last batch, belongs in evaluation mode: a dropout of "
            "torch.nn.functional needs training=self.training.",
        )

    def require_no_random_numbers_in_evaluation(self) -> None:
        """Require that a pass in evaluation mode leaves every global generator as it was."""
        module = self.build()
        with seeded(), torch.no_grad():
            before = RandomStates.now()
            self._call(module, None, "evaluation")
            changed = before.changed()
        require(
            not changed,
            f"{self.what} changed {' and '.join(changed)} global random state in evaluation mode",
            "An evaluation in the middle of a run would change the rest of it: draw where self.training is true.",
        )

    def require_independent_rows(self) -> None:
        """Require that in evaluation mode the features of a row are its own."""
        module = self.build()
        self.train(module)  # what batch normalisation has seen then is no longer what it began with
        received = self.evaluate(module)
        fewer = self.first(2)
        mixed = joined([fewer, apply(lambda part: part[2:], self.others)])
        for company, rows in (("beside other rows", mixed), ("in a smaller batch", fewer)):
            alike = self.evaluate(module, rows)
            require(
                all(is_close(a[:2], b[:2]) for a, b in zip(received, alike, strict=True)),
                f"{self.what} made other features of the same row {company} in evaluation mode, "
                f"{_apart([a[:2] for a in received], [b[:2] for b in alike])} apart",
                "Statistics of a batch are for training: in evaluation mode use what training has stored, as "
                "torch.nn.BatchNorm2d does.",
            )

    def require_rows_apart(self) -> None:
        """Require, of one that says so, that in training too the features of a row are its own, and leave nothing.

        One that is made of modules which mix rows, or are unknown, is not asked, whatever it says.
        """
        module = self.build()
        if not is_row_by_row(module):
            return
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with seeded(), torch.no_grad():
            before = RandomStates.now()
            received = self._call(module, None, "training")
            draws = bool(before.changed())
        fewer = self.first(2)
        company = {"beside other rows": joined([fewer, apply(lambda part: part[2:], self.others)])}
        if not draws:  # for another number of rows, other numbers would be drawn
            company["in a smaller batch"] = fewer
        remedy = (
            "It says row_by_row, and is given the rows of several sources as one batch: leave that out, or see to it "
            "that a row knows of no other."
        )
        for which, rows in company.items():
            with torch.no_grad():
                alike = self.train(module, rows)
            require(
                all(is_close(a[:2], b[:2]) for a, b in zip(received, alike, strict=True)),
                f"{self.what} made other features of the same row {which} in training mode, "
                f"{_apart([a[:2] for a in received], [b[:2] for b in alike])} apart",
                remedy,
            )
        changed = [name for name, buffer in module.named_buffers() if not torch.equal(buffer, buffers[name])]
        require(not changed, f"{self.what} changed its {', '.join(changed[:3])} when it was run in training", remedy)

    def require_unchanged_inputs(self) -> None:
        """Require that the rows are not written to."""
        module = self.build()
        for mode in ("training", "evaluation"):
            given = _copied(self.rows)
            with seeded(), torch.no_grad():
                self._call_on(module, given, mode)
            require(
                are_equal(given, self.rows),
                f"{self.what} changed the rows that it was given, in {mode} mode",
                "They are the dataset's own: no operation in place (relu_, inplace=True, +=) before the first copy.",
            )

    def require_state_round_trip(self) -> None:
        """Require that a checkpoint holds all that the features depend on."""
        module, restored = self.build(1), self.build(2)
        self.train(module)  # so that running statistics have moved
        with asking(f"{self.what}, saved to a checkpoint and loaded from it,"):
            state = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
            restored.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)))
        first, second = self.evaluate(module), self.evaluate(restored)
        require(
            _equal(first, second),
            f"{self.what} made other features once its state was loaded into another one of another seed, "
            f"{_apart(first, second)} apart",
            "All that it computes with belongs in nn.Parameter, register_buffer() or a submodule: state_dict() holds "
            "these alone.",
        )

    def require_same_seed_same_weights(self) -> None:
        """Require that two of one seed are equal."""
        first, second = self.build(3), self.build(3)
        ours, others = first.state_dict(), second.state_dict()
        different = [name for name, value in ours.items() if not _same(value, others.get(name))]
        require(
            not different and ours.keys() == others.keys(),
            f"{self.what} starts from other weights each time that it is built from the same seed: "
            f"{', '.join(different[:3]) or 'other names'}",
            "Draw them from torch's global generator, which the run seeds.",
        )

    def require_construction_leaves_random_state(self) -> None:
        """Require that construction draws from torch's generator at most."""
        require_construction_leaves_random_state(self.make, self.what)

    def require_float64(self) -> None:
        """Require that .double() makes it compute in float64."""
        module = self.build().double()
        rows = apply(lambda part: part.double() if part.is_floating_point() else part, self.rows)
        for tensor in self.evaluate(module, rows):
            require(
                tensor.dtype is torch.float64,
                f"{self.what} made features of dtype {tensor.dtype} after .double(), from rows of {told(rows)}",
                "A run of precision float64 is in it throughout: cast nothing to a fixed dtype, and make constants "
                "with dtype=inputs.dtype, or with register_buffer().",
            )

    def require_copies(self) -> None:
        """Require that a deep copy computes the same, by itself."""
        module = self.build()
        with asking(f"{self.what}, copied by copy.deepcopy(),"):
            copied = copy.deepcopy(module)
        expected = self.evaluate(module)
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                tensor.zero_()
        received = self.evaluate(copied)
        require(
            _equal(expected, received),
            f"{self.what}, copied by copy.deepcopy(), made other features once the original was changed, "
            f"{_apart(expected, received)} apart",
            "A copy shares no tensor with the original: hold no closure or bound method over self.",
        )

    def require_silence(self) -> None:
        """Require that nothing is printed."""

        def act() -> None:
            module = self.build()
            self.train(module)
            self.evaluate(module)

        require_silence(act, self.what)


def require_weighted(layer: object, module: nn.Module, what: str, method: str) -> nn.Parameter:
    """Require of what was said to be the last layer that it is one with a weight, and return the weight.

    Args:
        layer: What the method returned.
        module: Whose layer it is.
        what: Who was asked, as a sentence begins.
        method: The name of the method.
    """
    require(
        isinstance(layer, nn.Module) and any(layer is part for part in module.modules()),
        f"{what} answered {method}() with {type(layer).__name__}, which is none of its own submodules",
        "Return the layer itself.",
    )
    assert isinstance(layer, nn.Module)  # noqa: S101 - for the type checker
    with asking(f"{what}, asked for its {method}(),"):
        weight: nn.Parameter = last_weighted_layer(layer).weight
    require(
        any(weight is parameter for parameter in module.parameters()),
        f"{what} answered {method}() with a layer whose weight is none of its parameters()",
        "GradNorm measures at this weight.",
    )
    require(
        weight.requires_grad or not any(parameter.requires_grad for parameter in module.parameters()),
        f"{what} answered {method}() with a layer whose weight is frozen",
        "GradNorm measures at this weight: name the last layer that is trained.",
    )
    return weight


def are_equal(one: Tensors, other: Tensors) -> bool:
    """Return whether rows are equal, bit for bit and part for part."""
    ours, others = named(one), named(other)
    return ours.keys() == others.keys() and all(torch.equal(part, others[name]) for name, part in ours.items())


def is_nonzero(gradient: Tensor | None) -> bool:
    """Return whether a gradient arrived and is not zero throughout."""
    return gradient is not None and bool(gradient.to_dense().ne(0).any())


def is_close(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors differ by no more than rounding, which depends on the size of the batch."""
    one, other = one.nan_to_num(), other.nan_to_num()
    largest = float(one.abs().max()) if one.numel() else 0.0
    return one.shape == other.shape and bool(((one - other).abs() <= 1e-5 + 1e-4 * largest).all())


def _first(rows: Tensors, n: int) -> Tensors:
    return apply(lambda part: part[:n], rows)


def _copied(rows: Tensors) -> Tensors:
    return apply(Tensor.clone, rows)


def _same(one: object, other: object) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


def _equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Return whether two answers are equal bit for bit; NaN is, to itself."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> str:
    """Return how far apart two answers are, for a message."""
    if [a.shape for a in one] != [b.shape for b in other]:
        return f"shapes {[tuple(a.shape) for a in one]} and {[tuple(b.shape) for b in other]}"
    return f"{max((float((a - b).abs().max()) for a, b in zip(one, other, strict=True)), default=0.0):.3g}"
