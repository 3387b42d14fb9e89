"""The nearer a level is to the rows, the slower it learns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit import InputSpec, MultiTaskModel, heads
from mtlkit.architectures import CrossStitch, HardSharing
from mtlkit.encoders import MLP, ViT
from mtlkit.transfer import encoders_of, layered, rest_of_level


def model(architecture=HardSharing, layers=(4, 4, 4), **facts):
    shared = architecture(lambda: MLP(InputSpec((3,)), layers=layers), n_tasks=2, **facts)
    return MultiTaskModel(shared, {"a": heads.Linear(shared.features, 2), "b": heads.Linear(shared.features, 1)})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.floats(0.01, 1), st.floats(0.1, 0.99))
def test_each_level_learns_at_the_rate_of_the_one_above_it_times_the_decay(depth, rate, decay):
    built = model(layers=(4,) * depth)
    groups = layered(built, encoders_of(built).values(), rate=rate, decay=decay)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(built.parameters())) == sum(len(group["params"]) for group in groups)
    expected = rate
    assert all(rates[id(parameter)] == rate for parameter in built.heads.parameters())
    for stage in reversed(built.architecture.encoder.stages()):
        expected *= decay
        assert [rates[id(parameter)] for parameter in stage.parameters()] == pytest.approx([expected] * 2)


def test_the_first_group_is_that_of_the_full_rate():
    built = model()
    first, *others = layered(built, encoders_of(built).values(), rate=0.1, decay=0.5)
    assert first["lr"] == 0.1
    assert set(map(id, first["params"])) == set(map(id, built.heads.parameters()))
    assert [group["lr"] for group in others] == [0.05, 0.025, 0.0125]


def test_several_encoders_learn_alike_and_what_joins_them_at_the_full_rate():
    built = model(CrossStitch, inputs=InputSpec((3,)))
    groups = layered(built, encoders_of(built).values(), rate=1.0, decay=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    first, second = encoders_of(built).values()
    assert [rates[id(p)] for p in first.parameters()] == [rates[id(p)] for p in second.parameters()]
    inside = {id(p) for encoder in (first, second) for p in encoder.parameters()}
    beside = [rates[id(p)] for p in built.architecture.parameters() if id(p) not in inside]
    assert beside
    assert set(beside) == {1.0}


def test_a_step_of_gradient_descent_is_as_long_as_the_rate_says():
    encoder = MLP(InputSpec((3,)), layers=(4, 4), activation="identity").double()
    before = [parameter.detach().clone() for parameter in encoder.parameters()]
    optimizer = torch.optim.SGD(layered(encoder, [encoder], rate=0.1, decay=0.5))
    encoder(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    for old, new, rate in zip(before, encoder.parameters(), (0.025, 0.025, 0.05, 0.05), strict=True):
        torch.testing.assert_close(new, old - rate * new.grad)


def test_what_is_frozen_for_good_is_in_no_group():
    encoder = MLP(InputSpec((3,)), layers=(4, 4))
    rest_of_level(encoder, 0).begin()
    groups = layered(encoder, [encoder], rate=0.1, decay=0.5)
    assert [len(group["params"]) for group in groups] == [2]


def test_a_transformer_counts_as_in_beit():
    """Layer i of L blocks, patches being 0 and the head L + 1, learns at decay^(L + 1 - i)."""
    encoder = ViT(InputSpec((1, 4, 4)), width=4, depth=3, heads=1)
    groups = layered(encoder, [encoder], rate=1.0, decay=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert {rates[id(p)] for p in encoder.patches.parameters()} == {0.5**4}
    assert [rates[id(block.linear1.weight)] for block in encoder.blocks] == [0.5**3, 0.5**2, 0.5]
