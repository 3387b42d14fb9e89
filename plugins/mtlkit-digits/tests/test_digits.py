"""The four tasks: which rows, which targets, which images are held out, and that they can be learned."""

import importlib.metadata

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import mtlkit
from mtlkit_digits.sources import Digits, NoisyDigits, TurnedDigits
from mtlkit_digits.tasks import Denoise, Digit, Parity, Rotation

TASKS = {"digit": Digit, "parity": Parity, "rotation": Rotation, "denoise": Denoise}
ROWS = {
    "digit": (1433, 364),
    "parity": (1433, 364),
    "rotation": (4 * 1433, 4 * 364),
    "denoise": (1433, 364),
}


@pytest.fixture(name="splits", scope="module")
def fixture_splits():
    """The splits of each task's source."""
    return {name: task().source().splits() for name, task in TASKS.items()}


def clean_images(name, split):
    """Return the images behind a task's rows ``[N, 64]``, as numbers of 0 to 16: without noise, and not turned."""
    if name == "denoise":
        standard = split.targets["clean"].double()
        # Both splits have pixels of 0 and of 1, so what the standardising did can be undone.
        images = (standard - standard.min()) / (standard.max() - standard.min())
    elif name == "rotation":
        images = torch.stack(
            [image.rot90(-turns, (1, 2)) for image, turns in zip(split.inputs, split.targets["turns"], strict=True)]
        )
    else:
        images = split.inputs
    return (images.reshape(len(images), 64) * 16).round().to(torch.uint8)


def as_set(images):
    return {image.numpy().tobytes() for image in images}


class TestSplits:
    @pytest.mark.parametrize("name", TASKS)
    def test_sizes(self, splits, name):
        assert list(splits[name]) == ["train", "test"]
        assert (len(splits[name]["train"]), len(splits[name]["test"])) == ROWS[name]

    @pytest.mark.parametrize("name", TASKS)
    def test_rows_are_images_in_float32(self, splits, name):
        for split in splits[name].values():
            assert split.inputs.shape[1:] == (1, 8, 8)
            assert split.inputs.dtype == torch.float32
            assert split.inputs.min() == 0
            assert split.inputs.max() == 1

    def test_hold_every_image(self, splits):
        images = torch.cat([clean_images("digit", split) for split in splits["digit"].values()])
        assert as_set(images) == as_set(torch.from_numpy(load_digits().data).to(torch.uint8))
        assert len(images) == 1797

    def test_hold_the_digits_of_the_images(self, splits):
        data = load_digits()
        known = {image.astype(np.uint8).tobytes(): digit for image, digit in zip(data.data, data.target, strict=True)}
        for split in splits["digit"].values():
            images = clean_images("digit", split)
            assert [known[image.numpy().tobytes()] for image in images] == split.targets["digit"].tolist()

    def test_hold_a_fifth_of_each_digit_out(self, splits):
        counts = {name: split.targets["digit"].bincount() for name, split in splits["digit"].items()}
        fraction = counts["test"] / (counts["test"] + counts["train"])
        torch.testing.assert_close(fraction, torch.full((10,), 0.2), rtol=0, atol=0.01)

    @pytest.mark.parametrize("tested", TASKS)
    @pytest.mark.parametrize("trained", TASKS)
    def test_no_test_image_of_one_task_is_a_training_image_of_another(self, splits, trained, tested):
        train = as_set(clean_images(trained, splits[trained]["train"]))
        test = as_set(clean_images(tested, splits[tested]["test"]))
        assert len(train) == 1433
        assert len(test) == 364
        assert not train & test

    @pytest.mark.parametrize("name", TASKS)
    def test_are_the_same_each_time(self, splits, name):
        state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002 - it is what is looked at
        again = TASKS[name]().source().splits()
        for split, given in splits[name].items():
            assert torch.equal(again[split].inputs, given.inputs)
            for column, target in given.targets.items():
                assert torch.equal(again[split].targets[column], target)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002


class TestSources:
    def test_of_digit_and_parity_are_equal(self):
        assert Digit().source() == Parity().source() == Digits()

    def test_of_the_others_are_not(self):
        sources = [Digit().source(), Rotation().source(), Denoise().source()]
        assert [[one == other for other in sources] for one in sources] == np.eye(3, dtype=bool).tolist()

    def test_of_noise_are_equal_by_value(self):
        assert Denoise(noise=0.2).source() == NoisyDigits(0.2, 0)
        assert Denoise(noise=0.2).source() != Denoise(noise=0.3).source()
        assert Denoise(noise_seed=1).source() != Denoise(noise_seed=2).source()
        assert Denoise(hidden=16).source() == Denoise(hidden=32).source()


class TestTargets:
    @pytest.mark.parametrize(("name", "n_classes"), [("digit", 10), ("parity", 2), ("rotation", 4)])
    def test_of_classifications_are_all_the_classes(self, splits, name, n_classes):
        assert TASKS[name].n_classes == n_classes
        for split in splits[name].values():
            column = split.targets[TASKS[name].target]
            assert column.unique().tolist() == list(range(n_classes))
            assert not column.is_floating_point()

    def test_parity_is_that_of_the_digit(self, splits):
        for split in splits["parity"].values():
            assert torch.equal(split.targets["parity"], split.targets["digit"] % 2)

    def test_turned_back_every_image_is_an_original(self, splits):
        for name, split in splits["rotation"].items():
            originals = splits["digit"][name].inputs
            back = clean_images("rotation", split).view(4, len(originals), 64)
            assert torch.equal(back, clean_images("digit", splits["digit"][name]).expand(4, -1, -1))
            assert split.targets["turns"].bincount().tolist() == [len(originals)] * 4

    def test_turns_go_round(self):
        split = TurnedDigits().splits()["train"]
        first = split.inputs[:: len(split) // 4]
        for turns, image in enumerate(first):
            assert torch.equal(image, first[0].rot90(turns, (1, 2)))

    def test_clean_pixels_are_standardised_by_the_training_rows(self, splits):
        clean = splits["denoise"]["train"].targets["clean"]
        assert clean.shape == (1433, 64)
        assert clean.dtype == torch.float32
        assert clean.mean().item() == pytest.approx(0, abs=1e-4)
        assert clean.std(correction=0).item() == pytest.approx(1, abs=1e-4)
        test = splits["denoise"]["test"].targets["clean"]
        assert test.min() == clean.min()
        assert test.mean().item() != pytest.approx(0, abs=1e-4)


class TestNoise:
    def test_of_a_seed_is_its_own(self):
        zero, again, one = (NoisyDigits(0.3, seed).splits()["train"].inputs for seed in (0, 0, 1))
        assert torch.equal(zero, again)
        assert not torch.equal(zero, one)

    @pytest.mark.parametrize("noise", [0.05, 0.3])
    def test_is_as_strong_as_asked_for(self, splits, noise):
        noisy = NoisyDigits(noise, 0).splits()["train"].inputs
        clean = splits["digit"]["train"].inputs
        middle = clean == 0.5  # far from the ends, where noise is clipped
        assert (noisy - clean)[middle].std().item() == pytest.approx(noise, rel=0.1)
        assert (noisy - clean)[middle].mean().item() == pytest.approx(0, abs=0.02)


class TestTasks:
    @pytest.mark.parametrize("name", TASKS)
    def test_are_installed(self, name):
        (entry,) = importlib.metadata.entry_points(group="mtlkit.tasks", name=name)
        assert entry.dist.name == "mtlkit-digits"
        registry = mtlkit.Registry.discover()
        assert registry.load(registry.find("tasks", f"mtlkit-digits:{name}")) is TASKS[name]

    @pytest.mark.parametrize("name", TASKS)
    @pytest.mark.parametrize("shape", [(12,), (3, 2, 2)])
    def test_head_fits_loss_and_metrics(self, splits, name, shape):
        task = TASKS[name]()
        target = splits[name]["train"].targets[task.target][:5]
        head = task.head(mtlkit.FeatureSpec(shape))
        output = head(torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)))
        loss = task.loss(output, target)
        assert loss.ndim == 0
        assert loss > 0
        loss.backward()
        assert all(parameter.grad is not None for parameter in head.parameters())
        metrics = task.metrics()
        for metric in metrics.values():
            metric.update(output.detach(), target)
            assert torch.isfinite(metric.compute())
        headline = next(iter(metrics))
        assert headline == ("mse" if name == "denoise" else "accuracy")
        assert metrics[headline].higher_is_better is (name != "denoise")

    @pytest.mark.parametrize("name", TASKS)
    def test_heads_and_metrics_are_new_each_time(self, name):
        task, features = TASKS[name](), mtlkit.FeatureSpec((4,))
        assert task.head(features) is not task.head(features)
        assert all(
            one is not other for one, other in zip(task.metrics().values(), task.metrics().values(), strict=True)
        )

    @pytest.mark.parametrize("name", TASKS)
    def test_say_what_they_are(self, name):
        task = TASKS[name]
        assert task.__doc__.splitlines()[0].endswith(".")
        assert task.loss_kind == ("regression" if name == "denoise" else "classification")

    def test_denoise_takes_its_options(self):
        head = Denoise(hidden=7).head(mtlkit.FeatureSpec((4,)))
        assert [tuple(parameter.shape) for parameter in head.parameters()] == [(7, 4), (7,), (64, 7), (64,)]

    @pytest.mark.parametrize("option", ["noise: 0.0", "hidden: 0", "noise_seed: -1", "noize: 0.1"])
    def test_denoise_refuses_others(self, option):
        name, value = option.split(": ")
        config = {"tasks": [{"name": "denoise", "options": {name: float(value) if "." in value else int(value)}}]}
        with pytest.raises(mtlkit.errors.ConfigError, match=name):
            mtlkit.build(config)


def test_all_four_are_learned_together(tmp_path):
    run = mtlkit.train(
        {
            "run": {"name": "digits", "dir": str(tmp_path)},
            "tasks": list(TASKS),
            "encoder": {"name": "mlp", "layers": [64]},
            "optimizer": {"name": "adamw", "lr": 0.005},
            "training": {"epochs": 3, "batch_size": 64, "threads": 1, "device": "cpu"},
        }
    )
    assert run.results["digit"].metrics["accuracy"] > 0.9
    assert run.results["parity"].metrics["accuracy"] > 0.9
    assert run.results["rotation"].metrics["accuracy"] > 0.8
    assert run.results["denoise"].metrics["mse"] < 0.6
    assert {label: result.rows for label, result in run.results.items()} == {name: ROWS[name][1] for name in TASKS}
