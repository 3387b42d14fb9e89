"""ltb: the search, its temperature, and the tree that it ends in, against direct computations."""

from __future__ import annotations

import copy

import pytest
import torch

from mtlkit.architectures import LTB


def seeded(function, *arguments):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return function(*arguments)


def shares(theta, tau):
    """Return softmax((theta + gumbel noise) / tau) by row, by the inverse transform of what torch draws."""
    noise = -torch.empty_like(theta).exponential_().log()
    powers = ((theta.detach() + noise) / tau).exp()
    return powers / powers.sum(-1, keepdim=True)


@pytest.mark.parametrize("kind", ["mlp", "deep mlp", "cnn", "sentences"])
def test_in_the_search_each_node_takes_a_mixture_of_the_nodes_before(build, kind):
    built = build(LTB, kind, n_tasks=3, branches=2, search=10)
    architecture, rows, encoders = built.architecture, built.rows, built.made
    architecture.batches += 4
    tau = 5.0 * (0.1 / 5.0) ** (4 / 9)
    assert architecture.temperature == pytest.approx(tau, rel=1e-12)

    def by_hand():
        made = [encoder.through(0, rows, encoder.context(rows)) for encoder in encoders]
        for index, theta in enumerate(architecture.parents, 1):
            share = shares(theta, tau)  # [node, parent]
            taken = [sum(share[node, parent] * made[parent] for parent in range(2)) for node in range(2)]
            made = [e.through(index, x, e.context(rows)) for e, x in zip(encoders, taken, strict=True)]
        leaves = [shares(architecture.leaves[task], tau) for task in (2, 0)]
        return [share[0] * made[0] + share[1] * made[1] for share in leaves]

    for features, expected in zip(seeded(built.features, 2, 0), seeded(by_hand), strict=True):
        torch.testing.assert_close(features, expected, rtol=1e-11, atol=1e-13)


def choose(architecture, *choices):
    """Set the likeliest parents: of each node stage by stage, then of the tasks."""
    *parents, leaves = choices
    with torch.no_grad():
        for theta, chosen in zip(architecture.parents, parents, strict=True):
            theta.copy_(torch.nn.functional.one_hot(torch.tensor(chosen), theta.shape[1]))
        for theta, chosen in zip(architecture.leaves, leaves, strict=True):
            theta.copy_(torch.nn.functional.one_hot(torch.tensor(chosen), len(theta)))


@pytest.mark.parametrize("over", ["evaluation", "the search"])
def test_after_the_search_and_in_evaluation_each_takes_its_likeliest_parent(build, over):
    built = build(LTB, "deep mlp", n_tasks=4, branches=3, search=5)
    architecture, rows = built.architecture, built.rows
    # The likeliest parents in stages 2, 3 and 4; then of the tasks. Task 2 shares the leaf of task 0.
    choose(architecture, [0, 0, 2], [1, 0, 1], [2, 1, 0], [0, 1, 0, 2])
    assert architecture.tree() == [[0, 0, 2], [1, 0, 1], [2, 1, 0], [0, 1, 0, 2]]
    if over == "evaluation":
        architecture.eval()
    else:
        architecture.batches.fill_(5)
    stages = [encoder.stages() for encoder in built.made]
    calls = []
    for node, chain in enumerate(stages):
        for stage, module in enumerate(chain):
            module.register_forward_hook(lambda *_, at=(stage, node): calls.append(at))
    first, second, third = built.features(0, 1, 2)
    # task 0: node 0 of stage 4, from 2 of stage 3, from 1 of stage 2, from 0 of stage 1
    # task 1: node 1 of stage 4, from 1 of stage 3, from 0 of stage 2, from 0 of stage 1
    assert sorted(calls) == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 0), (3, 1)]
    expected = stages[0][3](stages[2][2](stages[1][1](stages[0][0](rows))))
    torch.testing.assert_close(first, expected, rtol=1e-13, atol=0)
    expected = stages[1][3](stages[1][2](stages[0][1](stages[0][0](rows))))
    torch.testing.assert_close(second, expected, rtol=1e-13, atol=0)
    assert third is first


def test_the_temperature_falls_geometrically_and_the_search_ends(build):
    built = build(LTB, n_tasks=2, search=4, initial_temperature=8.0, final_temperature=1.0)
    seen = []
    for _ in range(6):
        seen.append((built.architecture.is_searching, round(built.architecture.temperature, 9)))
        seeded(built.features, 0, 1)
    assert seen == [(True, 8.0), (True, 4.0), (True, 2.0), (True, 1.0), (False, 1.0), (False, 1.0)]
    assert int(built.architecture.batches) == 4  # none is counted once it is over


def test_only_batches_of_training_count_and_draw(build):
    built = build(LTB, n_tasks=2)
    architecture = built.architecture
    with torch.no_grad():
        seeded(built.features, 0, 1)  # as when a strategy looks at the losses again after the step
    architecture.eval()
    before = torch.get_rng_state()
    built.features(0, 1)
    assert torch.equal(before, torch.get_rng_state())
    assert int(architecture.batches) == 0
    architecture.train()
    one, other = seeded(built.features, 0, 1), seeded(built.features, 0, 1)
    assert int(architecture.batches) == 2
    assert not torch.equal(one[0], other[0])  # the same draws, at another temperature


def test_its_state_goes_through_a_checkpoint(build):
    built = build(LTB, n_tasks=2, search=3)
    for _ in range(2):
        seeded(built.features, 0, 1)
    restored = copy.deepcopy(built.architecture)
    restored.batches.zero_()
    restored.load_state_dict(built.architecture.state_dict())
    assert restored.temperature == built.architecture.temperature
    for one, other in zip(seeded(built.features, 0, 1), seeded(restored, built.rows, [0, 1]), strict=True):
        assert torch.equal(one, other)


def test_a_low_temperature_draws_parents_with_their_probabilities(build):
    built = build(LTB, n_tasks=1, branches=2, initial_temperature=1e-3, final_temperature=1e-3)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        built.architecture.leaves[0].copy_(torch.tensor([0.8, 0.2]).log())
        for theta in built.architecture.parents:  # the second stages both follow on the first node
            theta.copy_(torch.tensor([[100.0, 0.0], [100.0, 0.0]]))
        hidden = built.made[0].layers[0](built.rows)
        nodes = [encoder.layers[1](hidden) for encoder in built.made]
        drawn = [built.features(0)[0] for _ in range(500)]
    near = [[bool((features - node).abs().max() < 1e-6) for node in nodes] for features in drawn]
    assert sum(map(any, near)) > 480  # the noise may be close to even
    assert sum(first for first, _ in near) / 500 == pytest.approx(0.8, abs=0.06)


def test_what_several_tasks_train_is_what_is_shared(build, trained_by, assert_all_train):
    built = build(LTB, "deep mlp", n_tasks=3)
    assert len(built.made) == 3
    assert_all_train(built)
    by_task = [trained_by(built, task) for task in range(3)]
    several = {name for name in set.union(*by_task) if sum(name in each for each in by_task) > 1}
    shared = set(map(id, built.architecture.shared_parameters()))
    assert several == {name for name, each in built.architecture.named_parameters() if id(each) in shared}
    assert {name for name in by_task[1] if name not in several} == {"leaves.1"}
    assert built.architecture.last_shared_layer() == [encoder.last_layer() for encoder in built.made]


def test_the_tree_is_learned(build):
    """A task whose loss only one of the branches can lower comes to take it."""
    built = build(LTB, "mlp", n_tasks=1, branches=2, search=200)
    architecture = built.architecture
    with torch.no_grad():
        good, bad = built.made
        for parameter in bad.layers[1].parameters():
            parameter.zero_()
        good.layers[1][0].bias.fill_(2)
    theta = [*architecture.parents, *architecture.leaves]
    optimizer = torch.optim.Adam(theta, lr=0.05)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(100):
            (features,) = built.features(0)
            optimizer.zero_grad()
            (features - 1).square().mean().backward()
            optimizer.step()
    assert architecture.tree()[-1] == [0]
    assert float(architecture.leaves[0].detach().softmax(0)[0]) > 0.9


@pytest.mark.parametrize(("kind", "said"), [("closed", "stages of an encoder, and Closed has"), ("scales", "several")])
def test_what_it_cannot_serve_is_refused(build, kind, said):
    with pytest.raises(ValueError, match=f"ltb .*{said}"):
        build(LTB, kind)
