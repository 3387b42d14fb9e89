"""Evaluation: exact over rows, whatever the batches; the same again from a run's folder."""

import json
import math
import signal

import pytest
import torch
from torch.nn import functional as F
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

import mtlkit
from mtlkit.engine.evaluate import evaluate
from mtlkit.engine.events import StepFinished
from mtlkit.errors import CheckpointError, ConfigError, PluginError, Stopped

DROPPING = {"name": "mlp", "layers": [8], "dropout": 0.5}
SPLITS = ["train", "validation", "test"]


def plain(results):
    return {label: vars(result) for label, result in results.items()}


@pytest.fixture(name="build")
def fixture_build(configure, registry_with):
    """Return a function that builds an experiment that is not trained yet."""

    def build(*, tasks_given=None, **settings):
        return mtlkit.build(configure(**settings), registry=registry_with(**(tasks_given or {})))

    return build


class TestOfARun:
    def test_says_what_the_run_said(self, train, registry_with):
        run = train(encoder=DROPPING, strategy="gradnorm")
        step, results = mtlkit.evaluate(run.folder, registry=registry_with())
        done = json.loads((run.folder / "done.json").read_text(encoding="utf-8"))
        assert step == done["best_step"]
        assert plain(results) == done["test"] == plain(run.results)

    def test_on_the_validation_split_says_what_it_was_chosen_by(self, train, records, registry_with):
        run = train(optimizer={"name": "adam", "lr": 0.4}, training={"steps": 40})
        _, results = mtlkit.evaluate(str(run.folder), split="validation", registry=registry_with())
        (chosen,) = (
            record
            for record in records(run.folder, "evaluation")
            if record["step"] == run.best_step and record["split"] == "validation"
        )
        assert plain(results) == chosen["tasks"]

    def test_on_every_split(self, train, registry_with):
        run = train()
        results = {split: mtlkit.evaluate(run.folder, split=split, registry=registry_with())[1] for split in SPLITS}
        assert [results[split]["side"].rows for split in SPLITS] == [120, 33, 45]
        assert len({results[split]["side"].loss for split in SPLITS}) == 3

    def test_changes_nothing(self, train, registry_with):
        run = train()
        before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.folder.rglob("*")}
        mtlkit.evaluate(run.folder, registry=registry_with())
        assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.folder.rglob("*")} == before

    def test_that_is_unfinished_takes_the_best_so_far(self, train, registry_with, tmp_path):
        def stop(event):
            if isinstance(event, StepFinished) and event.step == 6:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(Stopped):
            train(listeners=[stop])
        step, results = mtlkit.evaluate(tmp_path / "toy", registry=registry_with())
        assert step == 4
        assert results["side"].rows == 45

    def test_that_was_not_evaluated_yet(self, train, registry_with, tmp_path):
        def stop(event):
            if isinstance(event, StepFinished):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(Stopped):
            train(listeners=[stop])
        with pytest.raises(CheckpointError, match="toy has no weights to evaluate yet") as caught:
            mtlkit.evaluate(tmp_path / "toy", registry=registry_with())
        assert caught.value.exit_code == 5

    def test_that_is_none(self, tmp_path):
        with pytest.raises(CheckpointError, match="nowhere is no run folder: it does not exist"):
            mtlkit.evaluate(tmp_path / "nowhere")

    def test_on_a_split_that_there_is_not(self, train, registry_with):
        run = train(training={"steps": 1})
        with pytest.raises((ConfigError, ValueError), match=r"'tests'.*train, validation"):
            mtlkit.evaluate(run.folder, split="tests", registry=registry_with())

    def test_with_damaged_weights(self, train, registry_with):
        run = train()
        (run.folder / "best" / "weights.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match="damaged"):
            mtlkit.evaluate(run.folder, registry=registry_with())

    def test_whose_plugin_is_gone(self, train, tmp_path):
        run = train()
        with pytest.raises(
            PluginError, match=r"which is not installed\. Bring it back: pip install toy-plugin==1\.2\.3"
        ):
            mtlkit.evaluate(run.folder)


class TestNumbers:
    @pytest.mark.parametrize("split", SPLITS)
    @pytest.mark.parametrize("batch_size", [1, 16, 44, 1000])
    def test_are_those_of_the_whole_split(self, build, toy, split, batch_size):
        """45 rows in batches of 16 or 44 leave a last batch that is smaller, and must count for less."""
        experiment = build(evaluation={"batch_size": batch_size}, training={"precision": "float64"})
        results = evaluate(experiment, split)
        given = toy.Points().splits()[split]
        experiment.model.eval()
        with torch.no_grad():
            outputs = experiment.model(given.inputs.double())
        side, distance = given.targets["side"], given.targets["distance"].double()
        accuracy, mse = MulticlassAccuracy(2, average="micro"), MeanSquaredError()
        assert results["side"].loss == pytest.approx(F.cross_entropy(outputs["side"], side).item(), rel=1e-12)
        assert results["distance"].loss == pytest.approx(F.mse_loss(outputs["distance"], distance).item(), rel=1e-12)
        assert results["side"].metrics == {"accuracy": accuracy(outputs["side"].float(), side).item()}
        expected = mse(outputs["distance"].float(), distance.float()).item()
        assert results["distance"].metrics["mse"] == pytest.approx(expected, rel=1e-6)
        assert list(results["distance"].metrics) == ["mse", "mae"]
        assert results["side"].rows == len(given)

    @pytest.mark.parametrize("batch_size", [7, 1000])
    def test_are_those_of_the_rows_with_a_label(self, build, toy, batch_size):
        tasks = [{"name": name, "options": {"gaps": 3}} for name in ("side", "distance")]
        experiment = build(tasks=tasks, evaluation={"batch_size": batch_size}, training={"precision": "float64"})
        results = evaluate(experiment, "test")
        given = toy.Points(gaps=3).splits()["test"]
        rows = given.targets["side"] != -100
        experiment.model.eval()
        with torch.no_grad():
            output = experiment.model(given.inputs.double())["side"][rows]
        expected = F.cross_entropy(output, given.targets["side"][rows]).item()
        assert results["side"].loss == pytest.approx(expected, rel=1e-12)
        assert results["side"].rows == int(rows.sum()) == 30

    def test_of_no_row_with_a_label_are_none(self, build, toy):
        class Unseen(toy.Points):
            def splits(self):
                splits = super().splits()
                splits["test"].targets["side"][:] = -100
                return splits

        class Side(toy.Side):
            def source(self):
                return Unseen()

        result = evaluate(build(tasks_given={"side": Side}), "test")["side"]
        assert result.rows == 0
        assert math.isnan(result.loss)
        assert math.isnan(result.metrics["accuracy"])

    def test_of_metrics_that_a_task_keeps_are_begun_anew(self, build, toy):
        """An author may well make the metrics once: what they saw before must not count."""

        class Distance(toy.Distance):
            def __init__(self):
                super().__init__()
                self.kept = super().metrics()

            def metrics(self):
                return self.kept

        experiment = build(tasks_given={"distance": Distance}, tasks=["distance"])
        evaluate(experiment, "train")
        result = evaluate(experiment, "test")["distance"]
        assert result.metrics["mse"] == pytest.approx(result.loss, rel=1e-5)


class TestModel:
    @pytest.mark.parametrize("training", [True, False])
    def test_is_left_in_its_mode(self, build, training):
        experiment = build(encoder=DROPPING)
        experiment.model.train(training)
        evaluate(experiment, "test")
        assert all(module.training is training for module in experiment.model.modules())

    def test_is_left_in_its_mode_by_a_failure(self, build, toy):
        class Side(toy.Side):
            def loss(self, output, target):
                return 1 / 0

        experiment = build(tasks_given={"side": Side})
        with pytest.raises(PluginError):
            evaluate(experiment, "test")
        assert experiment.model.training

    def test_drops_nothing_and_draws_nothing(self, build):
        experiment = build(encoder=DROPPING)
        before = torch.get_rng_state()
        assert evaluate(experiment, "test") == evaluate(experiment, "test")
        assert torch.equal(torch.get_rng_state(), before)

    def test_gets_no_gradient_and_keeps_its_weights(self, build):
        experiment = build()
        before = {name: tensor.clone() for name, tensor in experiment.model.state_dict().items()}
        evaluate(experiment, "train")
        assert all(parameter.grad is None for parameter in experiment.model.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in experiment.model.state_dict().items())
