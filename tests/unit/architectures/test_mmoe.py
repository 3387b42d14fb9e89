"""mmoe, against the paper's sums worked out row by row."""

from __future__ import annotations

import math

import pytest
import torch

from mtlkit.architectures import MMoE


def softmax(logits):
    powers = [math.exp(each) for each in logits.tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("kind", ["mlp", "cnn", "maps", "closed"])
def test_the_features_are_the_experts_weighed_by_the_gate_of_the_task(build, kind):
    built = build(MMoE, kind, experts=3)
    made = [encoder(built.rows) for encoder in built.made]
    assert len(made) == 3
    for task, features in enumerate(built.features(0, 1, 2)):
        matrix = built.architecture.gates[task].layer.weight  # [3, size of a row]
        for row in range(6):
            gate = softmax(matrix @ built.rows[row].flatten())
            expected = sum(weight * expert[row] for weight, expert in zip(gate, made, strict=True))
            torch.testing.assert_close(features[row], expected, rtol=1e-12, atol=1e-14)


def test_the_gates_of_categories_look_at_the_mean_of_the_experts(build):
    built = build(MMoE, "sentences", experts=2)
    first, second = (encoder(built.rows) for encoder in built.made)  # [6, 5, 6]
    (features,) = built.features(1)
    for row in range(6):
        seen = (first[row].sum(0) / 5 + second[row].sum(0) / 5) / 2  # over the positions, then over the experts
        one, other = softmax(built.architecture.gates[1].layer.weight @ seen)
        torch.testing.assert_close(features[row], one * first[row] + other * second[row], rtol=1e-12, atol=1e-14)


def test_the_gates_of_columns_to_be_normalised_look_at_the_mean_of_the_experts(build):
    built = build(MMoE, "table", experts=2)
    assert built.rows.isnan().any()
    first, second = (encoder(built.rows) for encoder in built.made)
    (features,) = built.features(0)
    for row in range(6):
        one, other = softmax(built.architecture.gates[0].layer.weight @ (first[row] + second[row]) / 2)
        torch.testing.assert_close(features[row], one * first[row] + other * second[row], rtol=1e-12, atol=1e-14)


def test_integer_images_are_numbers_to_the_gates(build):
    built = build(MMoE, "mlp")
    gate = built.architecture.gates[0]
    whole = torch.arange(4, dtype=torch.uint8)[None]
    assert torch.equal(gate(whole), gate(whole.double()))


@pytest.mark.parametrize("kind", ["mlp", "sentences"])
def test_every_parameter_trains(build, assert_all_train, kind):
    assert_all_train(build(MMoE, kind))


def test_a_gate_is_trained_by_its_task_alone(build, trained_by):
    built = build(MMoE)
    trained = trained_by(built, 1)
    assert {name for name in trained if name.startswith("gates.")} == {"gates.1.layer.weight"}
    shared = set(map(id, built.architecture.shared_parameters()))
    named = dict(built.architecture.named_parameters())
    assert {name for name in named if id(named[name]) in shared} == {name for name in named if "experts" in name}


def test_the_last_layers_of_all_experts_stand_last(build):
    built = build(MMoE, experts=3)
    assert built.architecture.last_shared_layer() == [encoder.last_layer() for encoder in built.made]


def test_an_encoder_of_several_features_is_refused(build):
    with pytest.raises(
        ValueError, match=r"mmoe takes features that are one tensor, and Scales makes several: \{fine: "
    ):
        build(MMoE, "scales")
