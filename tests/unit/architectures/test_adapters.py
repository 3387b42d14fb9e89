"""adapters: a bottleneck of each task's own after each stage, worked out by matrices."""

from __future__ import annotations

import math

import pytest
import torch

from mtlkit import InputSpec
from mtlkit.architectures import Adapters
from mtlkit.encoders import MLP


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def adapted(adapter, hidden):
    x = hidden.permute(0, 2, 3, 1) if hidden.ndim == 4 else hidden  # the channels last
    inner = gelu(x @ adapter.down.weight.flatten(1).T + adapter.down.bias)
    added = inner @ adapter.up.weight.flatten(1).T + adapter.up.bias
    return hidden + (added.permute(0, 3, 1, 2) if hidden.ndim == 4 else added)


@pytest.mark.parametrize("kind", ["mlp", "deep mlp", "cnn", "maps", "sentences"])
def test_each_stage_is_followed_by_a_bottleneck_of_the_tasks_own(build, kind):
    built = build(Adapters, kind, n_tasks=2, width=3)
    (encoder,), rows = built.made, built.rows
    for task, features in enumerate(built.features(0, 1)):
        hidden = rows
        for index, adapter in enumerate(built.architecture.adapters[task]):
            assert adapter.down.weight.shape[0] == 3
            hidden = adapted(adapter, encoder.through(index, hidden, encoder.context(rows)))
        torch.testing.assert_close(features, hidden, rtol=1e-12, atol=1e-14)


def test_an_adapter_begins_as_the_identity():
    inputs = InputSpec((4,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = Adapters(lambda: MLP(inputs), 2, inputs)
        rows = torch.randn(5, 4)
    expected = architecture.encoder(rows)
    assert all(torch.equal(features, expected) for features in architecture(rows, [0, 1]))


def test_the_encoder_is_shared_and_adapters_are_not(build, trained_by, assert_all_train):
    built = build(Adapters, "cnn")
    assert_all_train(built)
    shared = set(map(id, built.architecture.shared_parameters()))
    names = {name for name, each in built.architecture.named_parameters() if id(each) in shared}
    assert names == {name for name in trained_by(built, 1) if not name.startswith("adapters.1.")}
    assert built.architecture.last_shared_layer() is built.made[0].last_layer()


def test_the_first_stage_runs_once_for_all_tasks(build):
    built = build(Adapters, "mlp")
    calls = []
    for number, stage in enumerate(built.made[0].stages()):
        stage.register_forward_hook(lambda *_, number=number: calls.append(number))
    built.features(0, 2)
    assert calls == [0, 1, 1]


@pytest.mark.parametrize(("kind", "said"), [("closed", "stages of an encoder, and Closed has"), ("scales", "several")])
def test_what_it_cannot_serve_is_refused(build, kind, said):
    with pytest.raises(ValueError, match=f"adapters .*{said}"):
        build(Adapters, kind)
