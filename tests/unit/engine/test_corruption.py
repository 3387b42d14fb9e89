"""Corruption: flipped bits, cuts and zeroed ranges in every file of a checkpoint; none loads in silence."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from mtlkit.engine import checkpoint
from mtlkit.engine.run import RunFolder
from mtlkit.errors import CheckpointError

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
FILES = ["manifest.json", "state.json", "state.safetensors", "weights.safetensors"]
N_CASES = [pytest.param(150, id="some"), pytest.param(2000, id="all", marks=pytest.mark.slow)]


def flip(content, chance):
    """Flip a bit, or a few anywhere."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(content, chance):
    """Cut the end off, by a byte or by much."""
    return content[: chance.choice([len(content) - 1, chance.randrange(len(content)), 0])]


def zero(content, chance):
    """Zero a range, such as a sector that was never written."""
    start = chance.randrange(len(content))
    length = min(chance.choice([1, 8, 64, 512, 4096]), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def cases(contents, count):
    """Yield so many changes, by the seed: the name of a file, how it was changed, and what it holds then."""
    number = made = 0
    while made < count:
        chance = random.Random(number)  # noqa: S311 - nothing secret
        name, way = chance.choice(sorted(contents)), chance.choice([flip, cut, zero])
        changed = way(contents[name], chance)
        number += 1
        if changed != contents[name]:
            made += 1
            yield f"{way.__name__} of {name}, seed {number - 1}", name, changed


@pytest.fixture(name="saved")
def fixture_saved(tmp_path):
    """A checkpoint with a bit of everything."""
    torch.manual_seed(0)
    state = {"random": torch.get_rng_state(), "step": 7, "losses": [0.1, float("nan")], "words": {"a": None, "b": True}}
    plugin = {"kind": "tasks", "name": "digit", "distribution": "mtlkit-digits", "version": "0.1.0"}
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
    checkpoint.save(tmp_path / "step-000007", step=7, model=model, state=state, plugins=[plugin])
    return tmp_path / "step-000007"


def load(folder):
    """Load all of a checkpoint."""
    checkpoint.verify(folder)
    checkpoint.read_weights(folder)
    checkpoint.load_state(folder)


def refusal(read, folder):
    """Return what is said of a checkpoint when it is read; nothing where it is read in silence."""
    try:
        read(folder)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("count", N_CASES)
def test_none_loads_in_silence(saved, count):
    contents = {name: (saved / name).read_bytes() for name in FILES}
    load(saved)
    for what, name, changed in cases(contents, count):
        (saved / name).write_bytes(changed)
        assert name in refusal(load, saved), what
        (saved / name).write_bytes(contents[name])
    load(saved)


@pytest.mark.parametrize("count", N_CASES)
def test_each_part_is_refused_by_itself(saved, count):
    """Whatever is read alone is compared as well, so nothing depends on verify() having been called."""
    contents = {name: (saved / name).read_bytes() for name in FILES}
    readers = {
        "weights.safetensors": [checkpoint.read_weights],
        "manifest.json": [checkpoint.read_weights, checkpoint.load_state],
    }
    for what, name, changed in cases(contents, count):
        (saved / name).write_bytes(changed)
        for read in readers.get(name, [checkpoint.load_state]):
            assert name in refusal(read, saved), what
        (saved / name).write_bytes(contents[name])


@pytest.mark.parametrize("count", [pytest.param(40, id="some"), pytest.param(2000, id="all", marks=pytest.mark.slow)])
def test_a_run_falls_back_to_the_newest_whole_one(tmp_path, count):
    model = nn.Linear(2, 2)
    with RunFolder.create(tmp_path / "run", config="seed: 0\n", environment={}) as run:
        older, newest = (run.save(step, model, {"step": step, "rows": torch.arange(step)}, keep=9) for step in (1, 2))
    contents = {name: (newest / name).read_bytes() for name in FILES}
    assert run.saves.latest() == (newest, [])
    for what, name, changed in cases(contents, count):
        (newest / name).write_bytes(changed)
        folder, damaged = run.saves.latest()
        assert folder == older, what
        assert [name in str(error) for error in damaged] == [True], what
        (newest / name).write_bytes(contents[name])


@pytest.mark.parametrize("count", N_CASES)
def test_of_the_first_schema_nothing_but_words_in_the_manifest_loads_in_silence(tmp_path, count):
    """Its manifest has no seal: what it says of the step and of plugins has nothing to be compared with."""
    folder = tmp_path / "step-000004"
    shutil.copytree(GOLDEN / "schema-1" / "run" / "checkpoints" / "step-000004", folder)
    contents = {name: (folder / name).read_bytes() for name in FILES}
    weights = checkpoint.read_weights(folder)
    for what, name, changed in cases(contents, count):
        (folder / name).write_bytes(changed)
        refused = refusal(load, folder)
        assert name in refused or (not refused and name == "manifest.json"), what
        if not refused:
            assert all(torch.equal(tensor, weights[key]) for key, tensor in checkpoint.read_weights(folder).items())
        (folder / name).write_bytes(contents[name])
