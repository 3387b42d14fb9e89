"""mtan, against equations 1 and 2 with every layer written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mtlkit.architectures import MTAN
from mtlkit.architectures.mtan import _Carry, _fitted


def normalised(x, axes, layer):
    """Normalise over some axes, and scale and shift the channels, which are the last axis."""
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def by_channel(x):
    """Return rows with their channels last."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def back(x):
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def mask(layers, seen):
    """h(g(seen)): at each position an affine map, norm and ReLU, then another, norm and sigmoid."""
    first, norm, _, second, other_norm, _ = layers
    x = by_channel(seen)
    axes = (1, 2, 3) if x.ndim == 4 else (-1,)
    x = x @ first.weight.flatten(1).T + first.bias
    x = normalised(x, axes, norm).clamp(min=0)
    x = x @ second.weight.flatten(1).T + second.bias
    return back(normalised(x, axes, other_norm).sigmoid())


def carried(layer, before, after):
    """f of what was attended to before, in the shape of what comes after."""
    if before.ndim == after.ndim == 4:
        x = F.conv2d(before, layer.layer.weight, layer.layer.bias, padding=1)
        x = back(normalised(by_channel(x), (1, 2, 3), layer.norm)).clamp(min=0)
        times = x.shape[2] // after.shape[2], x.shape[3] // after.shape[3]
        return x.unfold(2, times[0], times[0]).unfold(3, times[1], times[1]).amax((-1, -2))
    places = before.flatten(2).transpose(1, 2) if before.ndim == 4 else before
    x = places @ layer.layer.weight.T + layer.layer.bias
    x = normalised(x, (-1,), layer.norm).clamp(min=0)
    return x.amax(1) if after.ndim == 2 < x.ndim else x


@pytest.mark.parametrize("kind", ["mlp", "deep mlp", "cnn", "maps", "sentences"])
def test_a_task_attends_to_what_each_stage_makes(build, kind):
    built = build(MTAN, kind, n_tasks=2)
    architecture, rows = built.architecture, built.rows
    (encoder,) = built.made
    made = [encoder.through(0, rows, encoder.context(rows))]
    for index in range(1, len(encoder.stages())):
        made.append(encoder.through(index, made[-1], encoder.context(rows)))
    for task, features in enumerate(built.features(0, 1)):
        attended = mask(architecture.masks[task][0], made[0]) * made[0]
        for index in range(1, len(made)):
            carry = carried(architecture.carry[index - 1], attended, made[index])
            seen = back(torch.cat([by_channel(made[index]), by_channel(carry)], -1))
            attended = mask(architecture.masks[task][index], seen) * made[index]
        torch.testing.assert_close(features, attended, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((1, 6), (1, 3), [[1, 3, 5]]),
        ((1, 7), (1, 3), [[2, 4, 6]]),  # windows of 3, 2 apart
        ((1, 3), (1, 3), [[0, 1, 2]]),
        ((1, 2), (1, 5), [[0, 0, 0, 1, 1]]),
        ((2, 2), (1, 4), [[2, 2, 3, 3]]),
    ],
)
def test_maps_are_fitted_by_maxima_or_repeated(before, after, expected):
    maps = torch.arange(before[0] * before[1]).double().reshape(1, 1, *before)
    assert torch.equal(_fitted(maps, after)[0, 0], torch.tensor(expected).double())


@pytest.mark.parametrize(
    ("before", "after"), [((4, 3, 3), (5, 6)), ((5, 6), (4, 2, 2)), ((6,), (5, 3)), ((6,), (4, 2, 2)), ((5, 6), (9, 3))]
)
def test_what_was_attended_to_takes_the_shape_of_the_next_stage(before, after):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        carry, rows = _Carry(before, after), torch.randn(2, *before)
    made = carry(rows)
    assert made.shape == (2, *after)
    torch.testing.assert_close(made[:1], carry(rows[:1]))
    assert made.ne(0).any()


def test_the_network_and_what_carries_attention_on_are_shared(build, trained_by, assert_all_train):
    built = build(MTAN, "cnn")
    assert_all_train(built)
    shared = set(map(id, built.architecture.shared_parameters()))
    names = {name for name, each in built.architecture.named_parameters() if id(each) in shared}
    assert names == {name for name in trained_by(built, 0) if not name.startswith("masks.0.")}
    assert names == {name for name in trained_by(built, 2) if not name.startswith("masks.2.")}
    assert built.architecture.last_shared_layer() is built.made[0].last_layer()


def test_the_encoder_runs_once_for_all_tasks(build):
    built = build(MTAN, "mlp")
    calls = []
    built.made[0].layers[0].register_forward_hook(lambda *_: calls.append(1))
    built.features(0, 1, 2)
    assert calls == [1]


@pytest.mark.parametrize(("kind", "said"), [("closed", "stages of an encoder, and Closed has"), ("scales", "several")])
def test_what_it_cannot_serve_is_refused(build, kind, said):
    with pytest.raises(ValueError, match=f"mtan .*{said}"):
        build(MTAN, kind)
