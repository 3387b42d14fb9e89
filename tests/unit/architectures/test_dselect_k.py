"""dselect-k, against the products and sums of the paper, worked out code by code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtlkit.architectures import DSelectK
from mtlkit.architectures.dselect_k import Selectors, smooth_step


def step(value, gamma):
    if value <= -gamma / 2:
        return 0.0
    if value >= gamma / 2:
        return 1.0
    return -2 / gamma**3 * value**3 + 3 / (2 * gamma) * value + 0.5


def selector(codes, n, gamma):
    """Return r(v) over n experts: the product of S or 1 - S by the binary digits of each; codes left over wrap."""
    digits = len(codes)
    found = [0.0] * n
    for code in range(2**digits):
        product = 1.0
        for digit, value in enumerate(codes):
            product *= step(value, gamma) if code >> digit & 1 else 1 - step(value, gamma)
        found[code % n] += product
    return found


def gate(scores, codes, n, gamma):
    powers = [math.exp(score) for score in scores]
    chosen = [selector(each, n, gamma) for each in codes]
    return [sum(p / sum(powers) * r[i] for p, r in zip(powers, chosen, strict=True)) for i in range(n)]


def spread(built, scale):
    """Draw the codes of static gates wide, so that some steps are at their ends."""
    with torch.no_grad():
        for each in built.architecture.gates:
            each.codes.mul_(scale)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_the_smooth_step_is_cubic_between_its_ends(gamma):
    values = torch.linspace(-2 * gamma, 2 * gamma, 41, dtype=torch.float64, requires_grad=True)
    found = smooth_step(values, gamma)
    expected = torch.tensor([step(value, gamma) for value in values.detach().tolist()], dtype=torch.float64)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-14, atol=1e-15)
    (slope,) = torch.autograd.grad(found.sum(), values)
    inside = values.detach().abs() < gamma / 2
    cubic = -6 / gamma**3 * values.detach() ** 2 + 3 / (2 * gamma)
    torch.testing.assert_close(slope, torch.where(inside, cubic, 0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("experts", "k"), [(2, 1), (4, 2), (8, 3), (3, 2), (5, 2)])
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_a_static_gate_is_the_same_for_all_rows(build, experts, k, gamma):
    built = build(DSelectK, experts=experts, k=k, gamma=gamma)
    spread(built, 2)
    made = [encoder(built.rows) for encoder in built.made]
    for task, features in enumerate(built.features(0, 1, 2)):
        own = built.architecture.gates[task]
        weights = gate(own.scores.tolist(), own.codes.tolist(), experts, gamma)
        assert sum(weights) == pytest.approx(1, abs=1e-12)
        expected = sum(weight * each for weight, each in zip(weights, made, strict=True))
        torch.testing.assert_close(features, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("kind", "experts"), [("mlp", 4), ("cnn", 5), ("maps", 3)])
def test_a_gate_per_example_computes_its_codes_from_the_row(build, kind, experts):
    built = build(DSelectK, kind, experts=experts, k=2, gate="per-example")
    made = [encoder(built.rows) for encoder in built.made]
    own = built.architecture.gates[1]
    (features,) = built.features(1)
    for row in range(6):
        x = built.rows[row].flatten()
        scores = (own.score_layer.weight @ x + own.score_layer.bias).tolist()
        codes = (own.code_layer.weight @ x + own.code_layer.bias).reshape(2, -1).tolist()
        weights = gate(scores, codes, experts, 1.0)
        expected = sum(weight * each[row] for weight, each in zip(weights, made, strict=True))
        torch.testing.assert_close(features[row], expected, rtol=1e-11, atol=1e-13)


def test_gates_per_example_of_categories_look_at_the_mean_of_the_experts(build):
    built = build(DSelectK, "sentences", experts=2, k=1, gate="per-example")
    first, second = (encoder(built.rows) for encoder in built.made)
    own = built.architecture.gates[0]
    (features,) = built.features(0)
    for row in range(6):
        seen = (first[row] + second[row]).mean(0) / 2
        at = step(float(own.code_layer.weight.detach() @ seen.detach() + own.code_layer.bias.detach()), 1.0)
        torch.testing.assert_close(features[row], (1 - at) * first[row] + at * second[row], rtol=1e-11, atol=1e-13)


@given(
    experts=st.integers(2, 9),
    codes=st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=3),
    gamma=st.floats(0.1, 4),
)
def test_weights_are_a_convex_combination_of_at_most_k_experts_once_decided(experts, codes, gamma):
    with torch.random.fork_rng():
        own = Selectors(experts, len(codes), gamma=gamma, size=None).double()
        with torch.no_grad():
            own.codes.copy_(torch.tensor(codes)[:, : own.digits])
            weights, chosen = own(None), own.selections(None)
    assert bool((weights >= 0).all())
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(chosen.sum(1), torch.ones(len(codes)).double(), rtol=0, atol=1e-12)
    if bool((own.codes.abs() >= gamma / 2).all()):
        assert int(weights.ne(0).sum()) <= len(codes)


@pytest.mark.parametrize("experts", [4, 5])
def test_a_decided_gate_takes_k_experts_and_computes_no_other(build, experts):
    built = build(DSelectK, experts=experts, k=2)
    calls = []
    for number, expert in enumerate(built.architecture.experts):
        expert.register_forward_hook(lambda *_, number=number: calls.append(number))
    with torch.no_grad():
        for each, codes in zip(built.architecture.gates, [(1, 3), (3, 3), (0, 2)], strict=True):
            digits = [[1.0 if code >> digit & 1 else -1.0 for digit in range(each.digits)] for code in codes]
            each.codes.copy_(torch.tensor(digits))
    first, second = built.features(0, 1)
    assert calls == [1, 3]
    torch.testing.assert_close(second, built.made[3](built.rows), rtol=1e-12, atol=1e-14)
    share = built.architecture.gates[0].scores.softmax(0)
    expected = share[0] * built.made[1](built.rows) + share[1] * built.made[3](built.rows)
    torch.testing.assert_close(first, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("experts", "gate_kind"), [(4, "static"), (5, "static"), (4, "per-example")])
def test_the_penalty_is_the_entropy_of_the_selectors_of_the_tasks_that_took_part(build, experts, gate_kind):
    built = build(DSelectK, experts=experts, k=2, gate=gate_kind, entropy=0.3)
    own = built.architecture.gates
    built.features(0, 2)
    penalty = built.architecture.penalty()
    expected = 0.0
    for task in (0, 2):
        if gate_kind == "static":
            chosen = [[selector(codes, experts, 1.0) for codes in own[task].codes.tolist()]]
        else:
            layer = own[task].code_layer
            codes = (built.rows @ layer.weight.T + layer.bias).reshape(6, 2, -1).tolist()
            chosen = [[selector(each, experts, 1.0) for each in row] for row in codes]
        entropies = [sum(-r * math.log(r + 1e-6) for each in row for r in each) for row in chosen]
        expected += 0.3 * sum(entropies) / len(entropies)
    assert penalty.item() == pytest.approx(expected, rel=1e-12)
    penalty.backward()
    trained = {name for name, each in built.architecture.named_parameters() if each.grad is not None}
    assert trained
    assert all(name.startswith(("gates.0.code", "gates.2.code")) for name in trained)


@pytest.mark.parametrize("gate_kind", ["static", "per-example"])
def test_the_penalty_may_be_paid_once_the_losses_were_backpropagated(build, gate_kind):
    built = build(DSelectK, gate=gate_kind)
    built.features(0, 1)[1].sum().backward()
    built.architecture.penalty().backward()  # no graph of it was freed


def test_there_is_no_penalty_for_what_was_not_trained(build):
    built = build(DSelectK)
    architecture = built.architecture
    assert architecture.penalty() is None
    built.features(0)
    assert architecture.penalty() is not None
    assert architecture.penalty() is None  # it was paid
    with torch.no_grad():
        built.features(0)
    architecture.eval()
    built.features(1)
    assert architecture.penalty() is None
    free = build(DSelectK, entropy=0.0)
    free.features(0)
    assert free.architecture.penalty() is None


def test_the_penalty_makes_a_gate_decide(build):
    built = build(DSelectK, n_tasks=1, entropy=1.0)
    optimizer = torch.optim.Adam(built.architecture.parameters(), lr=0.05)
    for _ in range(60):
        features = built.features(0)[0]
        optimizer.zero_grad()
        (0 * features.sum()).backward()
        built.architecture.penalty().backward()
        optimizer.step()
    (own,) = built.architecture.gates
    selections = own.selections(None)
    assert torch.equal(selections.sum(1), torch.ones(2).double())
    assert torch.equal(selections.ne(0).sum(1), torch.ones(2).long())


@pytest.mark.parametrize("gate_kind", ["static", "per-example"])
def test_every_parameter_trains(build, assert_all_train, gate_kind):
    assert_all_train(build(DSelectK, gate=gate_kind))


def test_a_gate_is_trained_by_its_task_alone(build, trained_by):
    built = build(DSelectK)
    assert {name for name in trained_by(built, 1) if "gates" in name} == {"gates.1.codes", "gates.1.scores"}
    assert {id(each) for each in built.architecture.shared_parameters()} == {
        id(each) for encoder in built.made for each in encoder.parameters()
    }
    assert built.architecture.last_shared_layer() == [encoder.last_layer() for encoder in built.made]


def test_it_begins_without_a_preference():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = Selectors(8, 3, gamma=1.0, size=None)(None)
    torch.testing.assert_close(weights, torch.full((8,), 1 / 8), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("scales", {}, "dselect-k takes features that are one tensor, and Scales makes several"),
        ("mlp", {"experts": 3, "k": 4}, "k is how many of the experts a task selects: at most 3; received 4"),
    ],
)
def test_what_it_cannot_serve_is_refused(build, kind, options, said):
    with pytest.raises(ValueError, match=said):
        build(DSelectK, kind, **options)
