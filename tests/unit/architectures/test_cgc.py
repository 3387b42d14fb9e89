"""cgc, against the paper's sums worked out expert by expert."""

from __future__ import annotations

import pytest
import torch

from mtlkit.architectures import CGC


@pytest.mark.parametrize("kind", ["mlp", "maps"])
def test_a_task_takes_of_its_own_experts_and_of_the_shared_ones(build, kind):
    built = build(CGC, kind, n_tasks=3, shared_experts=2, task_experts=3)
    assert len(built.made) == 2 + 3 * 3
    shared, own = built.made[:2], [built.made[2 + 3 * task : 5 + 3 * task] for task in range(3)]
    flat = built.rows.flatten(1)
    for task, features in enumerate(built.features(0, 1, 2)):
        powers = (flat @ built.architecture.gates[task].layer.weight.T).exp()  # [6, 5]
        total = torch.zeros_like(features)
        for number, expert in enumerate([*own[task], *shared]):
            share = powers[:, number] / powers.sum(1)
            total = total + share.reshape(6, *[1] * (features.ndim - 1)) * expert(built.rows)
        torch.testing.assert_close(features, total, rtol=1e-12, atol=1e-14)


def test_the_gates_of_categories_look_at_the_mean_of_what_they_choose_from(build):
    built = build(CGC, "sentences", n_tasks=2, shared_experts=1)
    shared, _, own = (encoder(built.rows) for encoder in built.made)
    (features,) = built.features(1)
    powers = (((own + shared) / 2).mean(1) @ built.architecture.gates[1].layer.weight.T).exp()
    gate = (powers / powers.sum(1, keepdim=True))[:, :, None, None]
    torch.testing.assert_close(features, gate[:, 0] * own + gate[:, 1] * shared, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["mlp", "sentences"])
def test_every_parameter_trains(build, assert_all_train, kind):
    assert_all_train(build(CGC, kind))


def test_what_is_a_tasks_own_is_neither_trained_nor_computed_by_others(build, trained_by):
    built = build(CGC, n_tasks=3)
    assert {name.split(".")[1] for name in trained_by(built, 0, 2) if name.startswith(("own.", "gates."))} == {"0", "2"}
    calls = []
    for expert in built.architecture.own[1]:
        expert.register_forward_hook(lambda *_: calls.append(1))
    built.features(0, 2)
    assert calls == []
    built.features(1)
    assert calls == [1]


def test_the_shared_experts_are_what_is_shared(build):
    built = build(CGC, shared_experts=2)
    expected = [parameter for encoder in built.made[:2] for parameter in encoder.parameters()]
    assert list(map(id, built.architecture.shared_parameters())) == list(map(id, expected))
    assert built.architecture.last_shared_layer() == [encoder.last_layer() for encoder in built.made[:2]]


def test_an_encoder_of_several_features_is_refused(build):
    with pytest.raises(ValueError, match="cgc takes features that are one tensor, and Scales makes several"):
        build(CGC, "scales")
