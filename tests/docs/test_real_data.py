"""The examples on real data: their sources read the files, and their configurations train. They need the data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml

import mtlkit
from mtlkit.registry import Registry

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "real_data"
DATA = Path(os.environ.get("MTLKIT_DATA") or ROOT.parent / "shared" / "data")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="MTLKIT_DATA names no folder with the data")


@pytest.fixture
def trained(tmp_path, monkeypatch, forget):
    """Return a function that trains the run of an example with other settings, and gives its result."""
    monkeypatch.setenv("MTLKIT_DATA", str(DATA))

    def train(name, **settings):
        config = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
        files = [EXAMPLES / each for each in config.pop("plugins")["files"]]
        config["run"]["dir"] = str(tmp_path)
        for section, values in settings.items():
            config[section] = {**config.get(section, {}), **values}
        return mtlkit.train(config, registry=Registry.discover(files=files))

    return train


FEW = {"device": "cpu", "threads": 1, "epochs": None}


def test_spoken_digits_are_images_of_the_official_split(trained):
    run = trained("spoken", training={**FEW, "steps": 8}, encoder={"channels": [4, 4, 8, 8]})
    assert run.results["spoken_digit"].rows == run.results["speaker"].rows == 300
    assert run.results["speaker"].loss < 2.5


def test_sources_of_two_sizes_meet(trained):
    run = trained("two_sizes", training={**FEW, "steps": 25}, schedule={"name": "constant"})
    assert run.results["mnist_digit"].rows == 2000
    assert run.results["mnist_digit"].metrics["accuracy"] > 0.4  # of ten
    assert run.results["digit"].metrics["accuracy"] > 0.4


def test_no_task_of_the_census_sees_its_label_or_the_others(forget):
    registry = Registry.discover(files=[EXAMPLES / "census.py"])
    task = registry.load(registry.find("tasks", "income"))(folder=str(DATA))
    splits = task.source().splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 79809, "validation": 9976, "test": 9977}
    rows = splits["test"]
    assert rows.inputs["numeric"].shape[1] + rows.inputs["categorical"].shape[1] == 42 - 3
    for target in rows.targets.values():
        for column in rows.inputs["categorical"].unbind(1):
            # A column that tells the label in every row would be the label under another name.
            purest = [target[column == value].double().mean() for value in column.unique()]
            assert not all(mean in {0, 1} for mean in purest)


@pytest.mark.slow
def test_spoken_digits_and_speakers_are_told_apart(trained):
    run = trained("spoken", training={"device": "cpu"})
    assert run.results["spoken_digit"].metrics["accuracy"] >= 0.95
    assert run.results["speaker"].metrics["accuracy"] >= 0.97


@pytest.mark.slow
def test_two_sizes_learn_from_one_encoder(trained):
    run = trained("two_sizes", training={"device": "cpu"})
    assert run.results["mnist_digit"].metrics["accuracy"] >= 0.96
    assert run.results["digit"].metrics["accuracy"] >= 0.96
    assert torch.isfinite(torch.tensor(run.results["digit"].loss))


@pytest.mark.slow
def test_people_of_the_census_are_rows_of_a_table(trained):
    run = trained("census", training={"device": "cpu"})
    assert run.results["income"].rows == 9977
    assert run.results["income"].metrics["auc"] > 0.93
    assert run.results["never_married"].metrics["auc"] > 0.98
