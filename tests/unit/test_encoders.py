"""Encoders say truthfully what they make, and which layer is their last."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtlkit import FeatureSpec, InputSpec
from mtlkit.encoders import CNN, MLP, Encoder
from mtlkit.encoders.base import last_weighted_layer

ACTIVATIONS = ["relu", "leaky-relu", "elu", "gelu", "silu", "tanh", "identity"]
WIDTHS = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)
SEEN = settings(max_examples=40, deadline=None)

builds = [
    pytest.param(lambda **options: MLP(InputSpec((2, 3)), layers=(5, 4), **options), (2, 3), id="mlp"),
    pytest.param(
        lambda **options: CNN(InputSpec((1, 6, 6)), channels=(4, 8), layers=(5, 4), **options), (1, 6, 6), id="cnn"
    ),
]


def built(build, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(**options)


def rows(n, shape):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


@SEEN
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), WIDTHS, st.integers(1, 5))
def test_an_mlp_takes_rows_of_any_shape_and_makes_what_it_says(shape, layers, n):
    encoder = MLP(InputSpec(shape), layers=layers)
    assert encoder.features == FeatureSpec((layers[-1],))
    assert encoder(torch.zeros(n, *shape)).shape == (n, *encoder.features.shape)


def test_an_mlp_takes_rows_of_a_single_number():
    encoder = MLP(InputSpec(()), layers=(3,))
    assert encoder(torch.zeros(4)).shape == (4, 3)


@SEEN
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    WIDTHS,
    WIDTHS,
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["group", "batch", "none"]),
)
def test_a_cnn_takes_images_of_any_size_and_makes_what_it_says(shape, channels, layers, kernel, norm):
    encoder = CNN(InputSpec(shape), channels=channels, kernel=kernel, layers=layers, norm=norm).eval()
    assert encoder.features == FeatureSpec((layers[-1],))
    assert encoder(torch.zeros(2, *shape)).shape == (2, *encoder.features.shape)


def test_an_mlp_computes_a_layer_and_an_activation_for_each_width():
    encoder = built(lambda: MLP(InputSpec((2,)), layers=(3, 2), activation="tanh"))
    first, second = (layer for layer in encoder.modules() if isinstance(layer, nn.Linear))
    x = rows(4, (2,))
    hidden = torch.tanh(x @ first.weight.T + first.bias)
    torch.testing.assert_close(encoder(x), torch.tanh(hidden @ second.weight.T + second.bias))


@pytest.mark.parametrize(("build", "shape"), builds)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_trains_every_parameter(build, shape, activation):
    encoder = built(build, activation=activation)
    encoder(rows(16, shape)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("build", "shape"), builds)
def test_an_unknown_activation_is_refused(build, shape):
    with pytest.raises(ValueError, match=r"unknown activation 'rleu'; known: relu, .*tanh"):
        build(activation="rleu")


@pytest.mark.parametrize(("build", "shape"), builds)
def test_a_row_is_encoded_alike_in_every_company(build, shape):
    encoder, x = built(build), rows(6, shape)
    alone = torch.cat([encoder(row[None]) for row in x])
    torch.testing.assert_close(encoder(x), alone, rtol=1e-4, atol=1e-5)


def test_batch_normalisation_mixes_rows_in_training_alone():
    encoder, x = built(lambda: CNN(InputSpec((1, 6, 6)), channels=(4,), layers=(3,), norm="batch")), rows(6, (1, 6, 6))
    assert not torch.allclose(encoder(x)[:1], encoder(x[:1]))
    encoder.eval()
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("build", "shape"), builds)
def test_dropout_drops_in_training_alone(build, shape):
    encoder, x = built(build, dropout=0.5, activation="tanh"), rows(8, shape)
    with torch.random.fork_rng():
        assert (encoder(x) == 0).any()
        encoder.eval()
        assert torch.equal(encoder(x), encoder(x))
    assert not (encoder(x) == 0).any()


@pytest.mark.parametrize(("build", "shape"), builds)
def test_without_dropout_no_random_number_is_drawn(build, shape):
    encoder, before = built(build), torch.get_rng_state()
    encoder(rows(2, shape))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("build", "shape"), builds)
def test_the_last_layer_is_the_linear_one_before_the_features(build, shape):
    last = built(build).last_layer()
    assert isinstance(last, nn.Linear)
    assert last.weight.shape == (4, 5)


def test_small_images_are_not_pooled_away():
    assert CNN(InputSpec((1, 2, 9)), channels=(3, 3, 3))(torch.zeros(1, 1, 2, 9)).shape == (1, 128)


@pytest.mark.parametrize("shape", [(), (8,), (8, 8), (1, 2, 3, 4)])
def test_a_cnn_refuses_what_is_no_image(shape):
    with pytest.raises(ValueError, match=r"cnn takes images of shape \(channels, height, width\).*the mlp encoder"):
        CNN(InputSpec(shape))


def test_a_cnn_refuses_an_image_among_parts():
    parts = InputSpec(parts={"image": InputSpec((1, 8, 8)), "age": InputSpec((1,))})
    with pytest.raises(ValueError, match=r"a row here has shape \{image: \(1, 8, 8\), age: \(1,\)\}"):
        CNN(parts)


def test_an_mlp_takes_parts_side_by_side_in_the_order_of_the_specification():
    parts = InputSpec(parts={"image": InputSpec((1, 2, 2)), "age": InputSpec(()), "place": InputSpec((3,))})
    apart, whole = built(lambda: MLP(parts, layers=(4,))), built(lambda: MLP(InputSpec((8,)), layers=(4,)))
    image, age, place = rows(5, (1, 2, 2)), rows(5, ()), rows(5, (3,))
    side_by_side = torch.cat([image.flatten(1), age[:, None], place], 1)
    assert torch.equal(apart({"place": place, "age": age, "image": image}), whole(side_by_side))


@pytest.mark.parametrize("inputs", [InputSpec((2,), (3, 9)), InputSpec(parts={"kind": InputSpec((2,), (3, 9))})])
def test_an_mlp_refuses_categories(inputs):
    with pytest.raises(ValueError, match=r"mlp takes numbers, and .* whole numbers of shape \(2,\).*tabular"):
        MLP(inputs)


@pytest.mark.parametrize("kernel", [2, 4])
def test_a_cnn_refuses_an_even_kernel(kernel):
    with pytest.raises(ValueError, match=f"kernel must be odd.*received {kernel}"):
        CNN(InputSpec((1, 8, 8)), kernel=kernel)


def test_the_last_weighted_layer_has_a_matrix_or_a_kernel():
    convolution, linear = nn.Conv2d(1, 2, 3), nn.Linear(2, 2)
    assert last_weighted_layer(nn.Sequential(convolution, nn.GroupNorm(1, 2), nn.ReLU())) is convolution
    assert last_weighted_layer(nn.Sequential(convolution, nn.Sequential(linear), nn.PReLU())) is linear
    assert last_weighted_layer(linear) is linear


def test_without_such_a_layer_it_says_so():
    with pytest.raises(ValueError, match="BatchNorm2d has no layer with a weight matrix or kernel"):
        last_weighted_layer(nn.BatchNorm2d(3))


def test_an_encoder_has_to_compute_something():
    with pytest.raises(NotImplementedError):
        Encoder()(torch.zeros(1))


@pytest.mark.parametrize(("build", "shape"), builds)
def test_stages_are_a_chain_from_rows_to_features(build, shape):
    encoder, x = built(build), rows(4, shape)
    hidden = x
    for stage in encoder.stages():
        hidden = stage(hidden)
    assert torch.equal(hidden, encoder(x))
    staged = [id(parameter) for stage in encoder.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(map(id, encoder.parameters()))


def test_an_encoder_may_tell_its_stages_of_the_rows():
    class Masked(Encoder):
        """A mean over the tokens that are not 0."""

        features = FeatureSpec((2,))

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 2)
            self.mean = nn.Identity()

        def stages(self):
            return [self.embed, self.mean]

        def context(self, inputs):
            return inputs != 0

        def through(self, index, hidden, context):
            if index == 0:
                return self.embed(hidden)
            return (hidden * context[..., None]).sum(1) / context.sum(1, keepdim=True)

    encoder = built(Masked)
    torch.testing.assert_close(encoder(torch.tensor([[3, 0, 4]])), encoder.embed.weight[[3, 4]].mean(0, keepdim=True))
