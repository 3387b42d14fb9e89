"""task-embedding, against encoders whose normalisations were changed by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mtlkit import InputSpec
from mtlkit.architectures import TaskEmbedding
from mtlkit.encoders import CNN, MLP, Tabular, Transformer


def by_hand(architecture, task, rows):
    """Return the features of a copy of the encoder whose norms scale and shift as for a task."""
    encoder = copy.deepcopy(architecture.encoder)
    vector = architecture.embeddings[task]
    maps = dict(zip(architecture.names, architecture.maps, strict=True))
    with torch.no_grad():
        for name, module in encoder.named_modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.weight += maps.pop(f"{name}.weight") @ vector
                module.bias += maps.pop(f"{name}.bias") @ vector
    assert not maps
    return encoder(rows)


@pytest.mark.parametrize("kind", ["cnn", "sentences"])
def test_every_norm_scales_and_shifts_as_the_tasks_vector_says(build, kind):
    built = build(TaskEmbedding, kind, n_tasks=2, size=3)
    for task, features in enumerate(built.features(0, 1)):
        torch.testing.assert_close(features, by_hand(built.architecture, task, built.rows), rtol=1e-11, atol=1e-13)
    first, second = built.features(0, 1)
    assert not torch.allclose(first, second)


def test_a_norm_by_the_equation():
    inputs = InputSpec((4,))

    class Normed(MLP):
        """A row, normalised."""

        def __init__(self):
            super().__init__(inputs, layers=(4,))
            self.norm = nn.LayerNorm(4)

        def stages(self):
            return [self.norm]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = TaskEmbedding(Normed, 3, size=5).double()
        rows = torch.randn(6, 4).double()
        with torch.no_grad():
            for each in [architecture.encoder.norm.weight, architecture.encoder.norm.bias, *architecture.maps]:
                each.copy_(torch.randn_like(each))
    norm, (scale, shift), e = architecture.encoder.norm, architecture.maps, architecture.embeddings[1]
    centred = rows - rows.mean(1, keepdim=True)
    unit = centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
    expected = (norm.weight + scale @ e) * unit + norm.bias + shift @ e
    torch.testing.assert_close(architecture(rows, [1])[0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("evaluating", [False, True])
def test_it_holds_in_the_blocks_of_a_transformer(evaluating):
    inputs = InputSpec((6,), (9,) * 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = TaskEmbedding(lambda: Transformer(inputs, width=8, depth=2, heads=2, padding=0), 2).double()
        rows = torch.randint(9, (5, 6))
        for each in architecture.maps:
            nn.init.normal_(each, std=0.1)
    assert len(architecture.maps) == 2 * 5  # two norms in each block, one in the end
    architecture.train(not evaluating)
    with torch.set_grad_enabled(not evaluating):  # torch takes a shorter way through a block where it may
        for task, features in enumerate(architecture(rows, [0, 1])):
            torch.testing.assert_close(features, by_hand(architecture, task, rows), rtol=1e-10, atol=1e-12)


def test_every_task_begins_with_the_encoder():
    inputs = InputSpec((1, 6, 6))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = TaskEmbedding(lambda: CNN(inputs), 2)
        rows = torch.randn(3, 1, 6, 6)
    expected = architecture.encoder(rows)
    assert all(torch.equal(features, expected) for features in architecture(rows, [0, 1]))
    assert not torch.equal(*architecture.embeddings)


def test_a_norm_without_a_shift_is_scaled():
    inputs = InputSpec((4,))

    class Scaled(MLP):
        """A layer, then a norm without a shift, and one that has neither."""

        def __init__(self):
            super().__init__(inputs, layers=(4,))
            self.norms = nn.Sequential(nn.LayerNorm(4, bias=False), nn.LayerNorm(4, elementwise_affine=False))

        def stages(self):
            return [*self.layers, self.norms]

    assert TaskEmbedding(Scaled, 1).names == ["norms.0.weight"]


def test_the_encoder_and_the_maps_are_shared_and_the_vectors_are_not(build, trained_by, assert_all_train):
    built = build(TaskEmbedding, "cnn")
    assert_all_train(built)
    shared = set(map(id, built.architecture.shared_parameters()))
    names = {name for name, each in built.architecture.named_parameters() if id(each) in shared}
    assert names == {name for name in trained_by(built, 1) if name != "embeddings.1"}
    assert built.architecture.last_shared_layer() is built.made[0].last_layer()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(InputSpec((4,))),
        lambda: CNN(InputSpec((1, 6, 6)), norm="batch"),
        lambda: Tabular(InputSpec((4,)), blocks="residual", norm="none"),
    ],
)
def test_an_encoder_without_such_norms_is_refused(make):
    name = type(make()).__name__
    with pytest.raises(ValueError, match=f"LayerNorm and GroupNorm layers of an encoder, and {name} has none"):
        TaskEmbedding(make, 2)
