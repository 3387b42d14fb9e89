"""ple, against its levels worked out one by one, and what is shared at each."""

from __future__ import annotations

import pytest
import torch

from mtlkit.architectures import CGC, PLE


def taken(gate, seen, experts):
    """Return the sum of the experts' hidden states, weighed by the softmax of the gate's matrix times what is seen."""
    powers = (seen @ gate.layer.weight.T).exp()
    assert powers.shape == (6, len(experts))
    shares = powers / powers.sum(1, keepdim=True)
    wide = [shares[:, number].reshape(6, *[1] * (experts[0].ndim - 1)) for number in range(len(experts))]
    return sum(share * expert for share, expert in zip(wide, experts, strict=True))


def mean_over_positions(hidden):
    return hidden if hidden.ndim == 2 else hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1)


def by_hand(built, parts, n_tasks, n_shared, n_own):
    """Work the levels out, where an expert's stages are cut into these parts."""
    architecture, rows = built.architecture, built.rows
    shared, own = built.made[:n_shared], built.made[n_shared:]
    state = {None: rows, **dict.fromkeys(range(n_tasks), rows)}  # None is what is shared
    for level, part in enumerate(parts):

        def run(expert, hidden, part=part):
            for index in part:
                hidden = expert.through(index, hidden, expert.context(rows))
            return hidden

        made = {task: [run(e, state[task]) for e in own[task * n_own : (task + 1) * n_own]] for task in range(n_tasks)}
        made_shared = [run(expert, state[None]) for expert in shared]
        before, state = state, {}
        for task in range(n_tasks):
            seen = mean_over_positions(before[task]) if level else rows.flatten(1)
            state[task] = taken(architecture.task_gates[level][task], seen, [*made[task], *made_shared])
        if level < len(parts) - 1:
            seen = mean_over_positions(before[None]) if level else rows.flatten(1)
            every = [each for task in range(n_tasks) for each in made[task]]
            state[None] = taken(architecture.shared_gates[level], seen, [*every, *made_shared])
    return [state[task] for task in range(n_tasks)]


@pytest.mark.parametrize(
    ("kind", "levels", "parts"),
    [
        ("mlp", 2, [[0], [1]]),
        ("deep mlp", 3, [[0], [1], [2, 3]]),
        ("deep mlp", 4, [[0], [1], [2], [3]]),
        ("cnn", 3, [[0], [1], [2]]),
        ("cnn", 2, [[0], [1, 2]]),
        ("maps", 2, [[0], [1]]),
    ],
)
def test_the_features_are_what_the_levels_make(build, kind, levels, parts):
    built = build(PLE, kind, n_tasks=3, levels=levels, shared_experts=2, task_experts=2)
    expected = by_hand(built, parts, n_tasks=3, n_shared=2, n_own=2)
    for features, other in zip(built.features(0, 1, 2), expected, strict=True):
        torch.testing.assert_close(features, other, rtol=1e-11, atol=1e-14)
    for task in range(3):  # and alone
        torch.testing.assert_close(built.features(task)[0], expected[task], rtol=1e-11, atol=1e-14)


def test_the_gates_of_categories_look_at_what_the_experts_make(build):
    built = build(PLE, "sentences", n_tasks=2)
    rows, (shared, first, second) = built.rows, built.made
    low = [expert.through(0, rows, None) for expert in (first, second, shared)]
    gates = built.architecture
    states = []
    for gate, experts in [
        (gates.task_gates[0][0], [low[0], low[2]]),
        (gates.task_gates[0][1], [low[1], low[2]]),
        (gates.shared_gates[0], low),
    ]:
        states.append(taken(gate, sum(each.mean(1) for each in experts) / len(experts), experts))
    context = rows.ne(0)
    for task, features in enumerate(built.features(0, 1)):
        made = []
        for expert, state in ((built.made[1 + task], states[task]), (shared, states[2])):
            made.append(expert.through(2, expert.through(1, state, context), context))
        expected = taken(gates.task_gates[1][task], states[task].mean(1), made)
        torch.testing.assert_close(features, expected, rtol=1e-11, atol=1e-14)


def test_with_one_level_it_is_cgc(build):
    one, other = build(PLE, levels=1, shared_experts=2), build(CGC, shared_experts=2)
    names = {"task_gates.0": "gates"}
    state = {key.replace("task_gates.0", names["task_gates.0"]): v for key, v in one.architecture.state_dict().items()}
    other.architecture.load_state_dict(state)
    for features, same in zip(one.features(0, 1, 2), other.architecture(one.rows, [0, 1, 2]), strict=True):
        torch.testing.assert_close(features, same, rtol=1e-14, atol=0)
    assert len(one.architecture.shared_parameters()) == len(other.architecture.shared_parameters())


@pytest.mark.parametrize(("kind", "levels"), [("mlp", 2), ("deep mlp", 3), ("deep mlp", 4), ("sentences", 3)])
def test_what_several_tasks_train_is_what_is_shared(build, trained_by, assert_all_train, kind, levels):
    built = build(PLE, kind, levels=levels)
    assert_all_train(built)
    by_task = [trained_by(built, task) for task in range(3)]
    several = {name for name in set.union(*by_task) if sum(name in each for each in by_task) > 1}
    shared = set(map(id, built.architecture.shared_parameters()))
    assert several == {name for name, each in built.architecture.named_parameters() if id(each) in shared}


def test_the_last_layers_of_the_shared_experts_stand_last(build):
    built = build(PLE, shared_experts=2)
    assert built.architecture.last_shared_layer() == [encoder.last_layer() for encoder in built.made[:2]]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("closed", {}, "ple acts between the stages of an encoder, and Closed has none"),
        ("scales", {}, "ple takes features that are one tensor, and Scales makes several"),
        ("mlp", {"levels": 3}, "each of the 3 levels of ple takes a stage of the encoder, and MLP has 2"),
    ],
)
def test_what_it_cannot_serve_is_refused(build, kind, options, said):
    with pytest.raises(ValueError, match=said):
        build(PLE, kind, **options)
