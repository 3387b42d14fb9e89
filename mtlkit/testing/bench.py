"""Bench: a task that is being tested, with its rows loaded once and a stand-in for the encoder."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from mtlkit.data.splits import Given
from mtlkit.engine.forward import wide
from mtlkit.specs import FeatureSpec
from mtlkit.task import Source, Split, Task
from mtlkit.tensors import listed
from mtlkit.testing.checks import Nonconformance, require
from mtlkit.testing.probes import RandomStates, asking, seeded
from mtlkit.testing.rows import in_columns
from mtlkit.testing.subject import Subject

__all__ = ["Bench", "Observed", "bench_of"]

ROWS = 64
FEATURES = (FeatureSpec((16,)), FeatureSpec((8, 4, 4)))  # what most encoders make, and maps for a head that needs them


class Observed(NamedTuple):
    """What a part of a task did beside its work.

    Attributes:
        what: Which part.
        printed: What it printed.
        changed: Whose global random state it changed.
    """

    what: str
    printed: str
    changed: list[str]


def bench_of(subject: Subject) -> Bench:
    """Return the bench of a task, made when it is first asked for."""
    bench: Bench = subject.kept.setdefault("bench", Bench(subject))
    return bench


class Bench:
    """A task on the bench. What a part of it raises becomes a Nonconformance; what it prints and draws is noted.

    Args:
        subject: The task.

    Attributes:
        observed: What each part did beside its work, each time that it was asked.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.observed: list[Observed] = []
        self._held: dict[str, Split] = {}
        self._heads = 0

    # --- the parts of a task ---

    @functools.cached_property
    def task(self) -> Task:
        """The task, constructed with the subject's options."""
        return self.another_task()

    def another_task(self) -> Task:
        """Construct the task once more."""
        options = self._subject.checked_options()
        with self._watching("Its constructor"):
            task: Task = self._subject.component(**options)
        return task

    @functools.cached_property
    def source(self) -> Source:
        """The task's source."""
        return self.source_of(self.task)

    def source_of(self, task: Task) -> Source:
        """Return the source of a task, which must be one."""
        with self._watching("source()"):
            source: object = task.source()
        require(
            isinstance(source, Source),
            f"source() returned {type(source).__name__}",
            "Return an instance of a subclass of mtlkit.Source, best a frozen dataclass.",
        )
        assert isinstance(source, Source)  # noqa: S101 - for the type checker
        return source

    @functools.cached_property
    def given(self) -> Mapping[str, Given]:
        """The splits as the source gives them, loaded once."""
        return self.load()

    @functools.cached_property
    def splits(self) -> Mapping[str, Split]:
        """The rows in columns, loaded once: some of them, where the source gives them in another way."""
        return self.in_columns(self.given)

    def in_columns(self, splits: Mapping[str, Given]) -> Mapping[str, Split]:
        """Return rows in columns: some of those that have to be read."""
        with self._watching("Reading its rows"):
            return in_columns(splits)

    def load(self) -> Mapping[str, Given]:
        """Load the splits from the source, which must have names, ``train`` among them."""
        with self._watching("splits()"):
            splits: object = self.source.splits()
        remedy = (
            "Return {'train': mtlkit.Split(inputs, {'target': targets})}, and 'validation' and 'test' if there are."
        )
        require(isinstance(splits, Mapping), f"splits() returned {type(splits).__name__}", remedy)
        assert isinstance(splits, Mapping)  # noqa: S101 - for the type checker
        for name, split in splits.items():
            require(isinstance(split, Given), f"splits() returned {type(split).__name__} for {name!r}", remedy)
        require("train" in splits, f"splits() returned {', '.join(map(repr, splits)) or 'no split'}", remedy)
        return splits

    def column(self, name: str) -> Tensor:
        """Return the task's targets in a split, as a run would have them."""
        split = self.splits[name]
        require(
            self.task.target in split.targets,
            f"The task learns the target column {self.task.target!r}, and split {name!r} has "
            f"{', '.join(map(repr, split.targets)) or 'none'}",
            "Set the attribute 'target' of the task to the name of its column.",
        )
        return self._prepared(name).targets[self.task.target]

    def labelled(self, target: Tensor) -> Tensor:
        """Return which rows have a label, as booleans ``[B]``."""
        with self._watching("labelled()"):
            given: object = self.task.labelled(target)
        received = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        require(
            isinstance(given, Tensor) and given.dtype is torch.bool and given.shape == (len(target),),
            f"labelled() returned {received} for targets of shape {tuple(target.shape)}",
            f"Return booleans of shape ({len(target)},), one for each row.",
        )
        assert isinstance(given, Tensor)  # noqa: S101 - for the type checker
        return given

    def loss(self, output: Tensor, target: Tensor, *, broadcasting: bool = True) -> Tensor:
        """Return the loss, which must be a scalar tensor.

        Args:
            output: What the head made.
            target: The targets.
            broadcasting: False to refuse that PyTorch broadcasts the one against the other.
        """
        loss = self.any_loss(output, target, broadcasting=broadcasting)
        received = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{type(loss).__name__} {loss!r}"
        require(
            isinstance(loss, Tensor) and loss.ndim == 0,
            f"loss() returned {received} for an output of shape {tuple(output.shape)} and targets of shape "
            f"{tuple(target.shape)}",
            "Return a tensor that holds one number, the mean over the rows: reduction='mean'.",
        )
        assert isinstance(loss, Tensor)  # noqa: S101 - for the type checker
        return loss

    def any_loss(self, output: Tensor, target: Tensor, *, broadcasting: bool = True) -> object:
        """Return what the loss is, whatever it is."""
        shapes = f"an output of shape {tuple(output.shape)} and targets of shape {tuple(target.shape)}"
        with self._watching(f"loss(), given {shapes} and dtype {target.dtype},"), warnings.catch_warnings():
            if not broadcasting:
                warnings.filterwarnings("error", message="Using a target size")
            return self.task.loss(output, target)

    def metrics(self) -> dict[str, Metric]:
        """Return the task's metrics, begun anew."""
        with self._watching("metrics()"):
            given: object = self.task.metrics()
        remedy = "Return torchmetrics objects by name, the headline first: {'accuracy': MulticlassAccuracy(10)}."
        require(isinstance(given, Mapping), f"metrics() returned {type(given).__name__}", remedy)
        assert isinstance(given, Mapping)  # noqa: S101 - for the type checker
        require(given, "metrics() returned no metric", remedy)
        for name, metric in given.items():
            require(isinstance(metric, Metric), f"metrics() returned {type(metric).__name__} for {name!r}", remedy)
            with asking(f"The metric {name!r}, asked to reset(),"):
                metric.reset()
        return dict(given)

    def update(self, metric: Metric, name: str, output: Tensor, target: Tensor) -> None:
        """Update a metric as an evaluation would."""
        shapes = f"an output of shape {tuple(output.shape)} and targets of shape {tuple(target.shape)}"
        with asking(f"The metric {name!r}, updated with {shapes} and dtype {target.dtype},"), _quiet():
            metric.update(wide(output.detach()), target)

    # --- rows to try it on ---

    @functools.cached_property
    def rows(self) -> Tensor:
        """The numbers of some training rows with a label, from all over the split."""
        labelled = self.labelled(self.column("train")).nonzero().flatten()
        require(
            len(labelled),
            "labelled() says that no training row has a label",
            "A floating-point target marks a row without a label by NaN, an integer target by the task's 'missing'.",
        )
        chosen = torch.linspace(0, len(labelled) - 1, min(ROWS, len(labelled))).long()
        return labelled[chosen]

    @functools.cached_property
    def target(self) -> Tensor:
        """The targets of these rows."""
        return self.column("train")[self.rows]

    def features(self, spec: FeatureSpec) -> Tensor:
        """Return features of these rows, as an encoder might make them: a random linear map of the scaled inputs."""
        inputs = [part[self.rows] for part in listed(self._prepared("train").inputs)]
        values = torch.cat([part.reshape(len(part), -1).to(torch.float32) for part in inputs], 1).nan_to_num(0, 0, 0)
        values = (values - values.mean(0)) / (values.std(0, correction=0) + 1e-3)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(values.shape[1], spec.size, generator=generator) / math.sqrt(values.shape[1])
        bias = torch.randn(spec.size, generator=generator)
        features: Tensor = (values @ weight + bias).unflatten(1, spec.shape)
        return features

    # --- heads ---

    @functools.cached_property
    def spec(self) -> FeatureSpec:
        """The shape of features that the task's head takes."""
        failures = []
        # A tag for each place of a sequence needs features of as many places.
        sequences = [FeatureSpec((self.target.shape[1], 16))] if self.target.ndim > 1 else []
        for spec in [*FEATURES, *sequences]:
            try:
                self.run(self._head(spec), self.features(spec)[:2])
            except Nonconformance as failure:
                failures.append(failure)
            else:
                return spec
        raise failures[0]

    def head(self, seed: int = 0) -> nn.Module:
        """Make a head from a seed of torch; Python's and NumPy's generators are in a state of their own each time."""
        return self._head(self.spec, seed)

    def _head(self, spec: FeatureSpec, seed: int = 0) -> nn.Module:
        what = f"head(), given features of shape {spec.shape},"
        self._heads += 1
        with self._watching(what, seed=self._heads):
            torch.default_generator.manual_seed(seed)
            head: object = self.task.head(spec)
        require(
            isinstance(head, nn.Module),
            f"head() returned {type(head).__name__}",
            "Return a torch module, such as mtlkit.heads.Linear(features, 10).",
        )
        assert isinstance(head, nn.Module)  # noqa: S101 - for the type checker
        return head

    def run(self, head: nn.Module, features: Tensor | None = None, *, training: bool = False, seed: int = 0) -> Tensor:
        """Return what a head makes of features, which must be a tensor."""
        features = self.features(self.spec) if features is None else features
        mode = "training" if training else "evaluation"
        with seeded(seed), _quiet(), asking(f"The head, in {mode} mode on features of shape {tuple(features.shape)},"):
            head.train(training)
            output: object = head(features)
        require(isinstance(output, Tensor), f"The head made {type(output).__name__}", "Its forward() returns a tensor.")
        assert isinstance(output, Tensor)  # noqa: S101 - for the type checker
        return output

    # --- parts ---

    def _prepared(self, name: str) -> Split:
        """Return a split as a run would hold it."""
        if name not in self._held:
            self._held[name] = self.splits[name].to(torch.device("cpu"), torch.float32)
        return self._held[name]

    @contextlib.contextmanager
    def _watching(self, what: str, *, seed: int = 20_000) -> Iterator[None]:
        """Note what a part of the task does beside its work, and put the random states back."""
        written = io.StringIO()
        with seeded(seed), contextlib.redirect_stdout(written), contextlib.redirect_stderr(written), _quiet():
            before = RandomStates.now()
            try:
                with asking(what):
                    yield
            finally:
                self.observed.append(Observed(what, written.getvalue(), before.changed()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pass over warnings: Python prints them, and a plugin's tests may turn them into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
