"""Encoders of each kind, and architectures on them in float64, for a formula to be worked out beside.

Letters: B rows; T tasks.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mtlkit import Encoder, FeatureSpec, InputSpec
from mtlkit.encoders import CNN, MLP, Tabular

VECTOR, IMAGE, TEXT = InputSpec((4,)), InputSpec((1, 6, 6)), InputSpec((5,), categories=(7,) * 5)


class Sentences(Encoder):
    """Tokens to a sequence of vectors: an embedding, then two layers with a norm each; token 0 is padding."""

    def __init__(self, inputs, width=6):
        super().__init__()
        self.embedding = nn.Embedding(max(inputs.categories), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Tanh()) for _ in range(2)
        )
        self.features = FeatureSpec((*inputs.shape, width))

    def stages(self):
        return [self.embedding, *self.blocks]

    def context(self, inputs):
        return inputs.ne(0)

    def through(self, index, hidden, context):
        made = self.stages()[index](hidden)
        return made * context[..., None] if index else made


class Maps(Encoder):
    """Images to maps of their own size, in two stages."""

    def __init__(self, inputs, channels=4):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs.shape[0], channels, 3, padding=1), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Tanh())
        self.features = FeatureSpec((channels, *inputs.shape[1:]))

    def stages(self):
        return [self.first, self.second]


class Scales(Maps):
    """Images to maps of two sizes, by name."""

    def __init__(self, inputs):
        super().__init__(inputs)
        self.features = FeatureSpec(parts={"fine": self.features, "coarse": FeatureSpec((4, 3, 3))})

    def through(self, index, hidden, context):
        made = super().through(index, hidden, context)
        return {"fine": made, "coarse": nn.functional.avg_pool2d(made, 2)} if index else made


class Closed(Encoder):
    """An encoder that does not say of which stages it is made."""

    def __init__(self, inputs):
        super().__init__()
        self.layer = nn.Linear(inputs.size, 5)
        self.features = FeatureSpec((5,))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1)).tanh()


KINDS = {
    "mlp": (VECTOR, lambda: MLP(VECTOR, layers=(6, 5), activation="tanh")),
    "deep mlp": (VECTOR, lambda: MLP(VECTOR, layers=(6, 6, 7, 5), activation="tanh")),
    "cnn": (IMAGE, lambda: CNN(IMAGE, channels=(4, 8), layers=(5,), activation="tanh")),
    "maps": (IMAGE, lambda: Maps(IMAGE)),
    "sentences": (TEXT, lambda: Sentences(TEXT)),
    "scales": (IMAGE, lambda: Scales(IMAGE)),
    "table": (VECTOR, lambda: Tabular(VECTOR, width=5, depth=2)),
    "closed": (VECTOR, lambda: Closed(VECTOR)),
}


class Built:
    """An architecture on encoders of one kind.

    Attributes:
        architecture: The architecture, in float64.
        made: The encoders that it was made of, in order.
        rows: Rows ``[6, *]`` for it.
        n_tasks: The number of tasks.
    """

    def __init__(self, component, kind, n_tasks, options):
        inputs, make = KINDS[kind]
        self.n_tasks, self.made = n_tasks, []

        def make_encoder():
            self.made.append(make())
            return self.made[-1]

        facts = {"make_encoder": make_encoder, "n_tasks": n_tasks, "inputs": inputs}
        taken = {name: facts[name] for name in component.__init__.__annotations__ if name in facts}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.architecture = component(**taken, **options).double()
            with torch.no_grad():  # away from what is zero or equal at first
                for parameter in self.architecture.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            shape = (6, *inputs.shape)
            self.rows = torch.randint(7, shape) if inputs.categories else torch.randn(shape).double()
            if kind == "table":
                self.rows[1, 2] = torch.nan  # a number that is missing

    def features(self, *tasks):
        return self.architecture(self.rows, list(tasks))

    def gradients(self, *tasks):
        """Return the gradient of each parameter by name, from a sum of squares over the features of these tasks."""
        copied = copy.deepcopy(self.architecture)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            features = copied(self.rows, list(tasks))
        sum((z - 1).square().sum() for z in features).backward()
        return {name: parameter.grad for name, parameter in copied.named_parameters()}


@pytest.fixture(name="build")
def fixture_build():
    """Return a function that builds an architecture in float64 on encoders of a kind, its parameters stirred."""

    def build(component, kind="mlp", n_tasks=3, **options):
        return Built(component, kind, n_tasks, options)

    return build


@pytest.fixture(name="assert_all_train")
def fixture_assert_all_train():
    """Return a function that asserts that every parameter gets a gradient that is not zero, from all tasks together."""

    def assert_all_train(built):
        for name, gradient in built.gradients(*range(built.n_tasks)).items():
            assert gradient is not None, name
            assert gradient.ne(0).any(), name

    return assert_all_train


@pytest.fixture(name="trained_by")
def fixture_trained_by():
    """Return a function that says by name which parameters the features of some tasks train."""

    def trained_by(built, *tasks):
        gradients = built.gradients(*tasks)
        return {name for name, gradient in gradients.items() if gradient is not None and gradient.ne(0).any()}

    return trained_by
