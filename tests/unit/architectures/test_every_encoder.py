"""Every architecture on every encoder that ships, trained by strategies that compare gradients at each place."""

from __future__ import annotations

import importlib
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtlkit import InputSpec, MultiTaskModel, backward
from mtlkit.builtins import BUILTINS
from mtlkit.options import signature_of
from mtlkit.strategies import MGDA, MGDAUB, Fixed, GradNorm
from mtlkit.tensors import apply, listed, rows_in

VECTOR, IMAGE, TEXT = InputSpec((5,)), InputSpec((1, 8, 8)), InputSpec((6,), (9,) * 6)
TABLE = InputSpec(parts={"numeric": InputSpec((3,)), "categorical": InputSpec((2,), (4, 6))})
CHAIN = {"width": 8, "depth": 2, "heads": 2, "expansion": 2}
CASES = {
    "mlp": ("mlp", VECTOR, {"layers": (8, 6)}),
    "cnn": ("cnn", IMAGE, {"channels": (4, 8), "layers": (6,)}),
    "resnet": ("resnet", IMAGE, {"width": 0.0625}),
    "resnet of maps": ("resnet", IMAGE, {"width": 0.0625, "output": "maps"}),
    "vit": ("vit", IMAGE, {**CHAIN, "patch": 4}),
    "transformer": ("transformer", TEXT, {**CHAIN, "padding": 0}),
    "transformer of a sequence": ("transformer", TEXT, {**CHAIN, "pool": "none"}),
    "tabular": ("tabular", TABLE, {"width": 8}),
    "tabular of numbers": ("tabular", VECTOR, {"width": 8, "blocks": "residual"}),
    "identity": ("identity", VECTOR, {}),
}
ENCODERS = {name for kind, name, _ in BUILTINS if kind == "encoders"}
ARCHITECTURES = [name for kind, name, _ in BUILTINS if kind == "architectures"]
ONE_TENSOR = {"mmoe", "cgc", "dselect-k", "ple", "cross-stitch", "mtan", "ltb", "adapters"}
# What an architecture cannot serve: which, on which encoder, and what it says.
REFUSALS = [
    *((name, "resnet of maps", "takes features that are one tensor, and ResNet makes several") for name in ONE_TENSOR),
    *((name, "identity", "shares what an encoder learns, and Identity has no parameters") for name in ONE_TENSOR),
    *(("lora", case, "linear layers of an encoder, and .* has none") for case in ("resnet", "resnet of maps")),
    ("lora", "identity", "linear layers of an encoder, and Identity has none"),
    *(
        ("task-embedding", case, "LayerNorm and GroupNorm layers of an encoder, and .* has none")
        for case in ("mlp", "tabular", "identity")
    ),
]
REFUSED = {(architecture, case): said for architecture, case, said in REFUSALS}


def load(kind, name):
    """Return a class that ships."""
    module, _, attribute = next(place for k, n, place in BUILTINS if (k, n) == (kind, name)).partition(":")
    return getattr(importlib.import_module(module), attribute)


def rows_of(inputs):
    """Return eight rows."""
    if inputs.parts:
        return {name: rows_of(part) for name, part in inputs.parts.items()}
    if inputs.categories:
        return torch.stack([torch.randint(count, (8,)) for count in inputs.categories], 1)
    return torch.randn(8, *inputs.shape)


class Head(nn.Module):
    """A linear layer over all features."""

    def __init__(self, features, outputs):
        super().__init__()
        self.layer = nn.Linear(features.size, outputs)

    def forward(self, features):
        return self.layer(torch.cat([part.flatten(1) for part in listed(features)], 1))


def built(architecture, case, n_tasks=2):
    """Return a model of two tasks, and rows for it."""
    name, inputs, options = CASES[case]
    encoder, component = load("encoders", name), load("architectures", architecture)
    facts = {"make_encoder": lambda: encoder(inputs, **options), "n_tasks": n_tasks, "inputs": inputs}
    made = component(**{fact: facts[fact] for fact in signature_of(component).facts})
    heads = {label: Head(made.features, outputs) for label, outputs in {"a": 3, "b": 1}.items()}
    rows = rows_of(inputs)
    for module in made.modules():
        if isinstance(module, encoder):
            module.prepare(rows)
    return MultiTaskModel(made, heads), rows


def train(model, rows, strategy, steps=3):
    """Take steps, and return the losses of each ``[steps, 2]``."""
    optimizer = torch.optim.Adam([{"params": list(model.parameters())}, *strategy.parameter_groups()], lr=0.01)
    seen = []
    for _ in range(steps):
        features = model.encode(rows)
        outputs = model.decode(features)
        losses = [F.cross_entropy(outputs["a"], torch.arange(8) % 3), outputs["b"].square().mean()]
        optimizer.zero_grad()
        backward(losses, strategy=strategy, features=features, shared=model)
        penalty = model.architecture.penalty()
        if penalty is not None:
            penalty.backward()
        optimizer.step()
        seen.append(torch.stack(losses).detach())
    return torch.stack(seen)


def served():
    return [(a, case) for a in ARCHITECTURES for case in CASES if (a, case) not in REFUSED]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_every_encoder_that_ships_is_tried():
    assert {name for name, _, _ in CASES.values()} == ENCODERS


TRAINED = [
    (*pair, strategy)
    for pair in served()
    for strategy in ("fixed", "gradnorm", "mgda")
    if pair[1] != "identity" or strategy == "fixed"  # nothing is shared there to compare gradients at
]


@pytest.mark.parametrize(("architecture", "case", "strategy"), TRAINED)
def test_three_steps_have_finite_losses(architecture, case, strategy):
    model, rows = built(architecture, case)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    losses = train(model, rows, {"fixed": Fixed, "gradnorm": GradNorm, "mgda": MGDA}[strategy](2))
    assert losses.shape == (3, 2)
    assert losses.isfinite().all()
    assert not torch.equal(losses[0], losses[2])
    moved = [bool((one != other).any()) for one, other in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_strategy_may_compare_gradients_at_the_features(architecture):
    model, rows = built(architecture, "cnn")
    assert train(model, rows, MGDAUB(2)).isfinite().all()
    features = model.encode(rows)
    outputs = model.decode(features)
    measured = backward(
        [outputs["a"].square().mean(), outputs["b"].square().mean()], strategy=MGDAUB(2), features=features
    )
    one = features["a"] is features["b"]
    assert one == (architecture == "hard-sharing")
    assert bool(measured.gramian[0, 1] != 0) == one  # with features of their own, tasks show no conflict there


@pytest.mark.parametrize(("architecture", "case"), sorted(REFUSED))
def test_what_an_architecture_cannot_serve_is_refused(architecture, case):
    said = f"^{architecture} .*{REFUSED[architecture, case]}"
    with pytest.raises(ValueError, match=re.compile(said)):
        built(architecture, case)


@pytest.mark.parametrize(("architecture", "case"), served())
def test_a_task_alone_and_a_task_of_several_are_served(architecture, case):
    model, rows = built(architecture, case)
    model.eval()
    with torch.no_grad():
        both, alone = model.encode(rows), model.encode(rows, ["b"])
    for one, other in zip(listed(both["b"]), listed(alone["b"]), strict=True):
        torch.testing.assert_close(one, other)
    assert rows_in(both["a"]) == 8
    shapes = apply(lambda part: torch.tensor(part.shape[1:]), alone["b"])
    expected = model.architecture.features
    found = (
        {name: tuple(shape.tolist()) for name, shape in shapes.items()} if expected.parts else tuple(shapes.tolist())
    )
    assert found == ({name: part.shape for name, part in expected.parts.items()} if expected.parts else expected.shape)
    single, rows = built(architecture, case, n_tasks=1)
    with torch.no_grad():
        assert single.architecture(rows, [0])
