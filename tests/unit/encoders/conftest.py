"""What the tests of encoders have in common: seeded ones, and attention worked out anew."""

from __future__ import annotations

import math

import pytest
import torch

EPSILON = 1e-5  # of torch's normalisations


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight + bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def block(h, state, prefix, heads):
    """Return what a block of a transformer makes of one sequence ``[L, D]``, head by head."""

    def of(name):
        return state[f"{prefix}.{name}"]

    normal = layer_norm(h, of("norm1.weight"), of("norm1.bias"))
    queries, keys, values = (normal @ of("self_attn.in_proj_weight").T + of("self_attn.in_proj_bias")).chunk(3, 1)
    size = h.shape[1] // heads
    made = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = queries[:, part] @ keys[:, part].T / math.sqrt(size)
        made.append(scores.softmax(1) @ values[:, part])
    h = h + torch.cat(made, 1) @ of("self_attn.out_proj.weight").T + of("self_attn.out_proj.bias")
    normal = layer_norm(h, of("norm2.weight"), of("norm2.bias"))
    hidden = gelu(normal @ of("linear1.weight").T + of("linear1.bias"))
    return h + hidden @ of("linear2.weight").T + of("linear2.bias")


@pytest.fixture(name="attended")
def fixture_attended():
    """Return a function that puts one sequence through all blocks of an encoder and its last normalisation."""

    def attended(h, encoder):
        state = encoder.state_dict()
        for index in range(len(encoder.blocks)):
            h = block(h, state, f"blocks.{index}", encoder.blocks[0].self_attn.num_heads)
        return layer_norm(h, state["pool.norm.weight"], state["pool.norm.bias"])

    return attended


@pytest.fixture(name="stirred")
def fixture_stirred():
    """Return a function that builds an encoder in float64, none of whose weights is 0 or 1."""

    def stirred(component, *arguments, **options):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = component(*arguments, **options).double()
            with torch.no_grad():
                for parameter in encoder.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return encoder

    return stirred


@pytest.fixture(name="numbers")
def fixture_numbers():
    """Return a function that draws standard-normal numbers of a shape, in float64."""
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
