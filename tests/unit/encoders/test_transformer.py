"""The transformer encoder attends to what is no padding, and to nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from mtlkit import FeatureSpec, InputSpec
from mtlkit.encoders import Transformer
from mtlkit.encoders.attention import sinusoids

SMALL = {"width": 8, "depth": 2, "heads": 2, "expansion": 2}
TOKENS = InputSpec((5,), categories=(7, 4, 7, 7, 2))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("pool", ["mean", "first", "none"])
def test_padding_is_as_if_it_were_not_there(stirred, attended, pool, positions):
    encoder = stirred(Transformer, TOKENS, padding=0, pool=pool, positions=positions, **SMALL)
    rows = torch.tensor([[3, 1, 6, 5, 1], [2, 3, 4, 0, 0], [5, 0, 0, 0, 0]])
    codes = encoder.embed.positions
    for row, features in zip(rows, encoder(rows), strict=True):
        there = row[row != 0]
        sequence = attended(encoder.embed.units.weight[there] + codes[: len(there)], encoder)
        expected = {"mean": sequence.mean(0), "first": sequence[0]}.get(pool)
        if expected is None:
            expected = torch.cat([sequence, torch.zeros(5 - len(there), 8)])
        torch.testing.assert_close(features, expected)
    assert encoder.features == FeatureSpec((5, 8) if pool == "none" else (8,))


@pytest.mark.parametrize("training", [True, False])
def test_a_row_of_padding_alone_has_features_of_0_and_harms_no_gradient(stirred, training):
    encoder = stirred(Transformer, TOKENS, padding=0, **SMALL).train(training)
    features = encoder(torch.tensor([[0, 0, 0, 0, 0], [1, 2, 0, 0, 0]]))
    assert features[0].eq(0).all()
    assert features[1].ne(0).all()
    features.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    with torch.no_grad():
        assert encoder(torch.zeros(2, 5, dtype=torch.int64)).eq(0).all()


def test_padding_may_stand_first(stirred, attended):
    encoder = stirred(Transformer, TOKENS, padding=6, **SMALL)
    row = torch.tensor([6, 6, 3, 1, 2])
    sequence = attended(encoder.embed.units.weight[row[2:]] + encoder.embed.positions[2:], encoder)
    torch.testing.assert_close(encoder(row[None])[0], sequence.mean(0))


def test_vectors_are_mapped_by_a_linear_layer(stirred, attended, numbers):
    encoder = stirred(Transformer, InputSpec((4, 3)), **SMALL)
    rows = numbers(2, 4, 3)
    units = encoder.embed.units
    for row, features in zip(rows, encoder(rows), strict=True):
        sequence = attended(row @ units.weight.T + units.bias + encoder.embed.positions, encoder)
        torch.testing.assert_close(features, sequence.mean(0))


def test_sinusoids_are_those_of_the_paper():
    codes = sinusoids(6, 4)
    for position in range(6):
        for pair in range(2):
            angle = position / 10_000 ** (2 * pair / 4)
            assert codes[position, pair] == pytest.approx(math.sin(angle), abs=1e-6)
            assert codes[position, 2 + pair] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "options", "size"),
    [
        (TOKENS, {}, 7),
        (TOKENS, {"padding": 9}, 10),
        (TOKENS, {"vocabulary": 30}, 30),
        (InputSpec((5,)), {"vocabulary": 11}, 11),
    ],
)
def test_the_vocabulary_is_what_the_rows_say_or_the_option(inputs, options, size):
    encoder = Transformer(inputs, **SMALL, **options)
    assert encoder.embed.units.num_embeddings == size


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_tokens_are_whole_numbers_of_any_dtype(dtype):
    encoder = Transformer(TOKENS, padding=0, **SMALL).eval()
    rows = torch.tensor([[3, 1, 6, 0, 0]])
    assert torch.equal(encoder(rows.to(dtype)), encoder(rows))


@pytest.mark.parametrize(
    ("inputs", "options", "said"),
    [
        (InputSpec((5,)), {}, r"transformer takes sequences.*has shape \(5,\) of numbers that are no tokens"),
        (InputSpec((1, 8, 8)), {}, r"transformer takes sequences.*has shape \(1, 8, 8\)"),
        (InputSpec(), {"vocabulary": 5}, r"transformer takes sequences.*has shape \(\)"),
        (InputSpec(parts={"text": TOKENS}), {}, r"transformer takes sequences.*has shape \{text: \(5,\)\}"),
        (TOKENS, {"vocabulary": 6}, "a vocabulary of 6 tokens, from 0 up, is too small: there is a token 6"),
        (TOKENS, {"vocabulary": 7, "padding": 7}, "too small: there is a token 7"),
        (InputSpec((5, 3)), {"padding": 0}, "are of tokens, and the rows here are vectors: 5 of 3 numbers each"),
        (TOKENS, {"heads": 3}, "width 8 cannot be split among 3 heads; it can among 1, 2, 4, 8"),
        (TOKENS, {"width": 3, "heads": 1, "positions": "sinusoidal"}, "need an even width; received 3"),
    ],
)
def test_what_is_no_sequence_is_refused(inputs, options, said):
    with pytest.raises(ValueError, match=said):
        Transformer(inputs, **SMALL | options)
