"""cross-stitch, against equation 1 worked out task by task and stage by stage."""

from __future__ import annotations

import pytest
import torch

from mtlkit import InputSpec
from mtlkit.architectures import CrossStitch
from mtlkit.encoders import MLP


def weighed(alpha, hidden):
    """Return alpha times hidden rows ``[6, *]``, for a number, or one for each channel."""
    if alpha.ndim == 0:
        return alpha * hidden
    shape = {2: (1, -1), 3: (1, 1, -1), 4: (1, -1, 1, 1)}[hidden.ndim]
    return alpha.reshape(shape) * hidden


@pytest.mark.parametrize("per", ["stage", "channel"])
@pytest.mark.parametrize("kind", ["mlp", "deep mlp", "cnn", "maps", "sentences"])
def test_each_stage_takes_a_mixture_of_what_the_stages_before_made(build, kind, per):
    built = build(CrossStitch, kind, n_tasks=3, per=per)
    rows, encoders, units = built.rows, built.made, built.architecture
    assert len(encoders) == 3
    hidden = [encoder.through(0, rows, encoder.context(rows)) for encoder in encoders]
    for index in range(1, len(encoders[0].stages())):
        unit = units.between[index - 1]
        mixed = [sum(weighed(unit[task, s], hidden[s]) for s in range(3)) for task in range(3)]
        hidden = [e.through(index, x, e.context(rows)) for e, x in zip(encoders, mixed, strict=True)]
    expected = [sum(weighed(units.last[task][s], hidden[s]) for s in range(3)) for task in range(3)]
    for features, other in zip(built.features(0, 1, 2), expected, strict=True):
        torch.testing.assert_close(features, other, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(built.features(1)[0], expected[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("per", ["stage", "channel"])
def test_a_unit_begins_as_a_convex_combination(per):
    def built(n_tasks, **options):
        inputs = InputSpec((4,))
        return CrossStitch(lambda: MLP(inputs, layers=(6, 5)), n_tasks, inputs, per=per, **options)

    three = built(3, own=0.7)
    expected = torch.tensor([[0.7, 0.15, 0.15], [0.15, 0.7, 0.15], [0.15, 0.15, 0.7]])
    wide = expected if per == "stage" else expected[..., None].expand(3, 3, 6)
    torch.testing.assert_close(three.between[0].detach(), wide)
    last = expected if per == "stage" else expected[..., None].expand(3, 3, 5)
    torch.testing.assert_close(torch.stack(list(three.last)).detach(), last)
    alone = built(1, own=0.7)
    assert bool((alone.last[0] == 1).all())
    assert bool((alone.between[0] == 1).all())


@pytest.mark.parametrize("kind", ["deep mlp", "sentences"])
def test_what_several_tasks_train_is_what_is_shared(build, trained_by, assert_all_train, kind):
    built = build(CrossStitch, kind)
    assert_all_train(built)
    by_task = [trained_by(built, task) for task in range(3)]
    several = {name for name in set.union(*by_task) if sum(name in each for each in by_task) > 1}
    shared = set(map(id, built.architecture.shared_parameters()))
    assert several == {name for name, each in built.architecture.named_parameters() if id(each) in shared}
    assert {name for name in by_task[1] if name not in several} == {"last.1"}
    assert built.architecture.last_shared_layer() == [encoder.last_layer() for encoder in built.made]


def test_an_encoder_without_stages_is_refused(build):
    with pytest.raises(ValueError, match="cross-stitch acts between the stages of an encoder, and Closed has none"):
        build(CrossStitch, "closed")
