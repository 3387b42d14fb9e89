"""The resnet encoder is the network of the paper's table 1."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mtlkit import FeatureSpec, InputSpec
from mtlkit.encoders import ResNet

TINY = 1 / 16  # 4 channels, where the paper has 64
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def normal(x, state, name, norm):
    """Return images normalised by running statistics, or over groups of channels."""
    weight, bias = (state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    if norm == "batch":
        mean, variance = (state[f"{name}.running_{part}"][:, None, None] for part in ("mean", "var"))
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias
    groups = x.reshape(len(x), math.gcd(8, x.shape[1]), -1)
    centred = groups - groups.mean(2, keepdim=True)
    return (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape) * weight + bias


def reference(encoder, x, depth, norm, *, small):
    """Return the maps of all four layers, worked out from the weights alone."""
    state = encoder.state_dict()

    def convolved(x, name, kernel, stride=1):
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=kernel // 2)

    h = F.relu(normal(convolved(x, "conv1", *((3, 1) if small else (7, 2))), state, "bn1", norm))
    h = h if small else F.max_pool2d(h, 3, 2, 1)
    maps = []
    for layer, count in enumerate(BLOCKS[depth], 1):
        for index in range(count):
            name = f"layer{layer}.{index}"
            stride = 2 if layer > 1 and index == 0 else 1
            kernels = (1, 3, 1) if depth == 50 else (3, 3)
            halving = 1 if depth == 50 else 0
            f = h
            for number, kernel in enumerate(kernels):
                f = convolved(f, f"{name}.conv{number + 1}", kernel, stride if number == halving else 1)
                f = normal(f, state, f"{name}.bn{number + 1}", norm)
                f = F.relu(f) if number < len(kernels) - 1 else f
            if f"{name}.downsample.0.weight" in state:
                h = normal(convolved(h, f"{name}.downsample.0", 1, stride), state, f"{name}.downsample.1", norm)
            h = F.relu(f + h)
        maps.append(h)
    return maps


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize(("norm", "stem"), [("group", "small"), ("batch", "classic")])
def test_it_computes_what_the_paper_draws(stirred, numbers, depth, norm, stem):
    options = {"depth": depth, "width": TINY, "norm": norm, "stem": stem}
    x = numbers(2, 3, 20, 17)
    maps = stirred(ResNet, InputSpec((3, 20, 17)), **options, output="maps").eval()
    expected = reference(maps, x, depth, norm, small=stem == "small")
    received = maps(x)
    assert list(received) == ["layer1", "layer2", "layer3", "layer4"]
    for (name, made), known in zip(received.items(), expected, strict=True):
        torch.testing.assert_close(made, known)
        assert made.shape == (2, *maps.features.parts[name].shape)
    vector = stirred(ResNet, InputSpec((3, 20, 17)), **options).eval()
    torch.testing.assert_close(vector(x), expected[-1].mean((2, 3)))
    assert vector.features == FeatureSpec((expected[-1].shape[1],))


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_it_has_as_many_parameters_as_is_published(depth, parameters):
    with torch.device("meta"):
        encoder = ResNet(InputSpec((3, 224, 224)), depth=depth, norm="batch")
    of_the_classifier = 1000 * (encoder.features.size + 1)
    assert sum(p.numel() for p in encoder.parameters()) == parameters - of_the_classifier


def test_its_weights_have_the_names_that_published_ones_have():
    with torch.device("meta"):
        names = set(ResNet(InputSpec((3, 224, 224)), depth=50, norm="batch").state_dict())
    assert len(names) == 318  # of torchvision's 320, those that are not the classifier's
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.num_batches_tracked",
        "layer3.5.bn3.bias",
        "layer4.2.bn2.running_var",
    } <= names


@pytest.mark.parametrize("stem", ["small", "classic"])
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("sides", [(1, 1), (2, 9), (7, 8), (33, 5)])
def test_images_of_any_size_become_what_it_says(sides, depth, stem):
    for output in ("vector", "maps"):
        encoder = ResNet(InputSpec((1, *sides)), depth=depth, width=TINY, stem=stem, output=output).eval()
        made = encoder(torch.zeros(2, 1, *sides))
        if output == "vector":
            assert made.shape == (2, *encoder.features.shape)
        else:
            shapes = {name: (2, *part.shape) for name, part in encoder.features.parts.items()}
            assert {name: tuple(maps.shape) for name, maps in made.items()} == shapes


@pytest.mark.parametrize(("sides", "kernel"), [((64, 64), 3), ((64, 65), 7), ((65, 8), 7), ((8, 8), 3)])
def test_images_of_up_to_64_pixels_have_a_stem_that_keeps_them_whole(sides, kernel):
    encoder = ResNet(InputSpec((1, *sides)), width=TINY)
    assert encoder.conv1.kernel_size == (kernel, kernel)
    first = ResNet(InputSpec((1, *sides)), width=TINY, output="maps").features.parts["layer1"]
    assert first.shape[1:] == (sides if kernel == 3 else tuple(math.ceil(side / 4) for side in sides))


def test_a_block_that_begins_as_what_goes_past_it(numbers):
    encoder = ResNet(InputSpec((1, 8, 8)), width=TINY, zero_init=True).double()
    x = numbers(2, 4, 8, 8)
    torch.testing.assert_close(encoder.layer1(x), x.relu())
    assert not torch.allclose(ResNet(InputSpec((1, 8, 8)), width=TINY).double().layer1(x), x.relu())


def test_convolutions_start_by_the_number_of_outputs():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight = ResNet(InputSpec((3, 8, 8)), width=0.5).layer4[1].conv2.weight.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.01)


def test_levels_hold_each_parameter_once_whatever_the_output():
    for output in ("vector", "maps"):
        encoder = ResNet(InputSpec((1, 8, 8)), width=TINY, output=output)
        held = [id(p) for level in encoder.levels() for p in level.parameters()]
        assert len(encoder.levels()) == 5
        assert sorted(held) == sorted(map(id, encoder.parameters()))
        assert bool(encoder.stages()) == (output == "vector")


@pytest.mark.parametrize(
    "inputs", [InputSpec((8,)), InputSpec((8, 8)), InputSpec(parts={"image": InputSpec((1, 8, 8))})]
)
def test_what_is_no_image_is_refused(inputs):
    with pytest.raises(ValueError, match=r"resnet takes images of shape \(channels, height, width\), and a row here"):
        ResNet(inputs)
