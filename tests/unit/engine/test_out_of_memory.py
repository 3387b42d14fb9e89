"""Memory that runs out in training: nothing is tried again, what was saved is whole, and what takes less is named."""

import pytest
import torch

from mtlkit.engine.run import RunFolder
from mtlkit.errors import ConfigError

TOO_MUCH = 2**50  # numbers, of which no machine has room for


def allocate():
    """Ask the CPU's allocator, which refuses."""
    torch.empty(TOO_MUCH)


def cuda():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a capacity of 1 GiB.")


def python():
    raise MemoryError


@pytest.fixture(name="greedy")
def fixture_greedy(toy):
    """Return a function that makes a task which runs out of memory, from some training steps or an evaluation on."""

    def greedy(run_out, *, part="loss", after=6, evaluating=False):
        class Greedy(toy.Side):
            calls = 0
            healed = False

            def loss(self, output, target):
                if evaluating or torch.is_grad_enabled():
                    type(self).calls += len(target) == 16
                if part == "loss" and self.calls > after and torch.is_grad_enabled() != evaluating and not self.healed:
                    run_out()
                return super().loss(output, target)

        return Greedy

    return greedy


@pytest.mark.parametrize(
    ("run_out", "said"),
    [(allocate, "can't allocate memory"), (cuda, "CUDA out of memory"), (python, "more memory than there is")],
    ids=["the CPU's allocator", "CUDA", "Python"],
)
class TestInAStep:
    def test_says_which_sizes_take_less_and_what_is_saved(self, train, greedy, tmp_path, run_out, said):
        with pytest.raises(ConfigError) as caught:
            train(tasks_given={"side": greedy(run_out)}, training={"accumulate": 1})
        (problem,) = caught.value.problems
        assert (problem.path, caught.value.exit_code) == ("training.batch_size", 2)
        assert said in str(problem)
        assert "\n" not in str(problem)
        assert "training.batch_size=8 training.accumulate=2" in problem.remedy
        newest, damaged = RunFolder.open(tmp_path / "toy").saves.latest()
        assert (newest.name, damaged) == ("step-000004", [])
        assert f"The checkpoint {newest} is whole." in problem.remedy
        assert problem.remedy.endswith(f"mtlkit resume {tmp_path / 'toy'}")

    def test_is_not_tried_again(self, train, greedy, run_out, said):
        task = greedy(run_out)
        with pytest.raises(ConfigError, match="memory"):
            train(tasks_given={"side": task})
        assert task.calls == 7

    def test_goes_on_to_the_same_end_once_there_is_memory(self, train, greedy, weights, run_out, said):
        task = greedy(run_out)
        with pytest.raises(ConfigError):
            train(tasks_given={"side": task})
        task.healed = True
        resumed = train(tasks_given={"side": task}, resume=True)
        whole = train(run={"name": "whole"})
        assert weights(resumed.folder) == weights(whole.folder)
        for name in ("metrics.jsonl", "done.json"):
            assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_in_an_evaluation_is_about_its_batches(train, greedy):
    task = greedy(cuda, evaluating=True)
    with pytest.raises(ConfigError) as caught:
        train(tasks_given={"side": task}, evaluation={"batch_size": 16})
    (problem,) = caught.value.problems
    assert problem.path == "evaluation.batch_size"
    assert "evaluation.batch_size=8" in problem.remedy


def test_where_a_batch_has_one_row_is_about_the_model(train, toy):
    class Greedy(toy.Side):
        calls = 0

        def loss(self, output, target):
            type(self).calls += torch.is_grad_enabled()
            if self.calls > 6:
                cuda()
            return super().loss(output, target)

    with pytest.raises(ConfigError, match="A batch has one row already: take a smaller model"):
        train(tasks_given={"side": Greedy}, training={"batch_size": 1})
