"""A pickle in the place of each file of a checkpoint: none is ever opened."""

import io
import pickle

import pytest
import torch

FILES = ["weights.safetensors", "state.safetensors", "state.json", "manifest.json"]


def pickled(canary, *, by_torch, newest_zip=True):
    if not by_torch:
        return pickle.dumps({"weights": canary})
    buffer = io.BytesIO()
    torch.save({"weights": canary}, buffer, _use_new_zipfile_serialization=newest_zip)
    return buffer.getvalue()


@pytest.fixture(name="forged", params=["pickle", "torch.save", "old torch.save"])
def fixture_forged(request, canary):
    """What the file holds."""
    return pickled(canary, by_torch=request.param != "pickle", newest_zip=request.param == "torch.save")


@pytest.mark.parametrize("vouched", [True, False], ids=["vouched for", "not vouched for"])
@pytest.mark.parametrize("name", FILES)
def test_in_the_place_of_a_file_of_the_newest_checkpoint(newest, name, vouched, forged, reseal, assert_refused):
    (newest / name).write_bytes(forged)
    if vouched and name != "manifest.json":
        reseal(newest)
    assert_refused(name, ways=("resume",))


@pytest.mark.parametrize("vouched", [True, False], ids=["vouched for", "not vouched for"])
def test_in_the_place_of_the_best_weights(run, vouched, forged, reseal, assert_refused):
    (run / "best" / "weights.safetensors").write_bytes(forged)
    if vouched:
        reseal(run / "best")
    assert_refused("weights.safetensors", ways=("evaluate", "pretrained"))


@pytest.mark.parametrize("suffix", [".safetensors", "", ".pt", ".pkl", ".zip"])
def test_as_weights_to_begin_with(run, tmp_path, suffix, forged, command):
    (tmp_path / f"weights{suffix}").write_bytes(forged)
    ended = command("train", "run.yaml", "run.name=other", f"transfer.pretrained=weights{suffix}")
    assert ended.code == (2 if suffix in {".pt", ".pkl"} else 5), ended.output
    assert f"weights{suffix}" in ended.output
    assert "Traceback" not in ended.output


def test_beside_the_files_is_never_opened(run, forged, reseal, command):
    for name in ("optimizer.pt", "data.pkl", "__init__.py", "state.pickle"):
        (run / "best" / name).write_bytes(forged)
        (run / "checkpoints" / "step-000006" / name).write_bytes(forged)
    assert command("evaluate", run).code == 0
    assert command("train", "run.yaml", "--resume").code == 0
