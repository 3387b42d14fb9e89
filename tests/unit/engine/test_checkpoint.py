"""Checkpoints: what is saved comes back, what was tampered with does not, and nothing is lost to a failed write."""

import errno
import math
import pickletools
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtlkit.engine import checkpoint
from mtlkit.engine.checkpoint import writing
from mtlkit.errors import CheckpointError, StorageError

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["$tensor", "$items", "$tuple", "$", "a/b", "a", "b", "", "__metadata__"]
)
tensors = st.builds(
    lambda dtype, shape, seed: (
        torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype).transpose(0, -1)
    ),
    st.sampled_from(DTYPES),
    st.sampled_from([(1,), (3,), (0,), (2, 3), (2, 0, 3)]),
    st.integers(0, 9),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | names | tensors | st.just(torch.tensor(math.pi))
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(names | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def assert_same(before, after):
    """Compare state trees: types, order, NaN and the dtypes of tensors included."""
    assert type(after) is type(before)
    if isinstance(before, torch.Tensor):
        assert after.dtype == before.dtype
        assert torch.equal(after, before)
    elif isinstance(before, dict):
        assert list(after) == list(before)
        assert list(map(type, after)) == list(map(type, before))
        for key, value in before.items():
            assert_same(value, after[key])
    elif isinstance(before, list | tuple):
        assert len(after) == len(before)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    elif isinstance(before, float) and math.isnan(before):
        assert math.isnan(after)
    else:
        assert after == before


def round_trip(state):
    """Return what comes back of a part of a state."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "here", step=3, model=nn.Linear(1, 1), state={"part": state})
        assert checkpoint.verify(Path(folder) / "here") == 3
        return checkpoint.load_state(Path(folder) / "here")["part"]


class Tied(nn.Module):
    """Two layers with one weight matrix."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


@pytest.fixture(name="model")
def fixture_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture(name="saved")
def fixture_saved(tmp_path, model):
    """A whole checkpoint."""
    folder = tmp_path / "step-000007"
    checkpoint.save(folder, step=7, model=model, state={"seen": torch.arange(5), "rows": [1, 2]})
    return folder


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(trees)
    def test_of_any_state(self, state):
        assert_same(state, round_trip(state))

    @pytest.mark.parametrize(
        "state",
        [
            {"a/b": torch.zeros(2), "a": {"b": torch.ones(2)}},
            {1: torch.zeros(2), "1": torch.ones(2)},
            [{"": {"": torch.zeros(2)}, "/": torch.ones(2)}],
        ],
        ids=["slash in a key", "a number and its digits", "empty keys"],
    )
    def test_keeps_apart_tensors_at_paths_that_read_alike(self, state):
        assert_same(state, round_trip(state))

    @pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Rprop", "NAdam"])
    def test_of_an_optimizer(self, name):
        model = nn.Linear(2, 2)
        options = {"momentum": 0.9} if name == "SGD" else {}
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, **options)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert_same(optimizer.state_dict(), round_trip(optimizer.state_dict()))

    def test_of_weights(self, saved, model):
        other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        checkpoint.load_weights(saved, other)
        assert_same(dict(model.state_dict()), dict(other.state_dict()))

    def test_of_tied_weights(self, tmp_path):
        model, other = Tied(), Tied()
        checkpoint.save(tmp_path / "tied", step=1, model=model)
        checkpoint.load_weights(tmp_path / "tied", other)
        assert torch.equal(other.first.weight, model.first.weight)
        assert other.second.weight is other.first.weight

    def test_of_memory_that_tensors_share(self):
        rows = torch.arange(6.0)
        assert_same([rows, rows[2:4], rows.view(2, 3).T], round_trip([rows, rows[2:4], rows.view(2, 3).T]))

    def test_saving_leaves_the_tensors_alone(self, model):
        before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
        round_trip({"weights": dict(model.state_dict())})
        for name, tensor in model.state_dict().items():
            assert tensor.data_ptr() == before[name][0]
            assert torch.equal(tensor, before[name][1])


class TestFiles:
    def test_are_those_documented_and_no_pickle(self, saved):
        assert sorted(path.name for path in saved.iterdir()) == [
            "manifest.json",
            "state.json",
            "state.safetensors",
            "weights.safetensors",
        ]
        for path in saved.iterdir():
            content = path.read_bytes()
            assert not content.startswith((b"\x80", b"PK"))
            with pytest.raises(ValueError, match=r"opcode|exhausted|expected|not enough"):
                list(pickletools.genops(content))

    def test_weights_alone_have_no_state(self, tmp_path, model):
        checkpoint.save(tmp_path / "best", step=1, model=model)
        assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["manifest.json", "weights.safetensors"]
        with pytest.raises(CheckpointError, match=r"best has no state"):
            checkpoint.load_state(tmp_path / "best")

    def test_are_the_same_bytes_each_time(self, tmp_path, saved, model):
        checkpoint.save(tmp_path / "again", step=7, model=model, state={"seen": torch.arange(5), "rows": [1, 2]})
        for path in saved.iterdir():
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()

    def test_nothing_else_is_left_beside_them(self, saved):
        assert list(saved.parent.iterdir()) == [saved]


class TestDamage:
    @pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "state.json"])
    @pytest.mark.parametrize("where", [0, -1])
    def test_flipped_bit(self, saved, name, where):
        content = bytearray((saved / name).read_bytes())
        content[where] ^= 1
        (saved / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is damaged: its SHA-256"):
            checkpoint.verify(saved)

    @pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "state.json"])
    def test_missing_file(self, saved, name):
        (saved / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name}: No such file"):
            checkpoint.verify(saved)

    @pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "state.json"])
    def test_file_that_became_a_folder(self, saved, name):
        (saved / name).unlink()
        (saved / name).mkdir()
        with pytest.raises(CheckpointError, match=name):
            checkpoint.verify(saved)

    def test_missing_folder_and_manifest(self, saved, tmp_path):
        with pytest.raises(CheckpointError, match=r"nowhere: No such file"):
            checkpoint.verify(tmp_path / "nowhere")
        (saved / "manifest.json").unlink()
        with pytest.raises(CheckpointError, match=r"manifest\.json: No such file"):
            checkpoint.verify(saved)

    def test_manifest_cut_short_anywhere(self, saved):
        manifest = saved / "manifest.json"
        content = manifest.read_bytes()
        for length in range(0, len(content.rstrip()), 7):
            manifest.write_bytes(content[:length])
            with pytest.raises(CheckpointError, match=r"manifest\.json"):
                checkpoint.verify(saved)

    @pytest.mark.parametrize(
        "content",
        [
            b"\xff\xfe",
            b"null",
            b"[]",
            b"{}",
            b'"text"',
            b'{"schema_version": 1, "step": "x", "sha256": {}}',
            b'{"schema_version": 1, "step": null, "sha256": {}}',
            b'{"schema_version": 1, "step": Infinity, "sha256": {}}',
            b'{"schema_version": 1, "step": 1, "sha256": 5}',
            b'{"schema_version": 1, "step": 1, "sha256": ["ab", 1]}',
            b"[" * 100_000,
        ],
        ids=lambda content: content[:60].decode(errors="replace"),
    )
    def test_manifest_that_is_none(self, saved, content):
        (saved / "manifest.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            checkpoint.verify(saved)

    @pytest.mark.parametrize(
        ("kept", "missing"),
        [([], "weights.safetensors"), (["state.json", "state.safetensors"], "weights.safetensors")]
        + [
            (["weights.safetensors", name], "one of state.json and state.safetensors")
            for name in ("state.json", "state.safetensors")
        ],
    )
    def test_manifest_that_does_not_vouch_for_all(self, saved, kept, missing, change_manifest):
        change_manifest(saved, lambda manifest: {**manifest, "files": {n: manifest["files"][n] for n in kept}})
        with pytest.raises(CheckpointError, match=f"does not vouch for {missing}|vouches for {missing}"):
            checkpoint.verify(saved)

    @pytest.mark.parametrize("version", [0, -1, True, "2", 2.0, None])
    def test_schema_version_that_is_none(self, saved, version, change_manifest):
        change_manifest(saved, lambda manifest: {**manifest, "schema_version": version})
        with pytest.raises(CheckpointError, match=rf"manifest\.json is no manifest: its schema_version is {version!r}"):
            checkpoint.verify(saved)

    @pytest.mark.parametrize(
        ("mtlkit", "needed"),
        [
            ("0.9.1", r"It needs mtlkit 0\.9\.1, which wrote it, or a newer one: pip install 'mtlkit>=0\.9\.1'"),
            ("0.9'; rm -rf ~", r"does not say which mtlkit wrote it.* pip install --upgrade mtlkit\."),
            (None, "does not say which mtlkit wrote it"),
        ],
    )
    def test_newer_schema_version_says_what_it_needs(self, saved, mtlkit, needed, change_manifest):
        change_manifest(saved, lambda manifest: {**manifest, "schema_version": 99, "mtlkit": mtlkit})
        with pytest.raises(
            CheckpointError, match=f"has schema version 99, and mtlkit .* reads versions 1 to 2.*{needed}"
        ):
            checkpoint.verify(saved)

    def test_newer_schema_version_with_other_keys(self, saved):
        (saved / "manifest.json").write_text('{"schema_version": 3, "contents": []}', encoding="utf-8")
        with pytest.raises(CheckpointError, match="schema version 3"):
            checkpoint.verify(saved)

    def test_newer_schema_version_by_damage(self, saved):
        path = saved / "manifest.json"
        path.write_bytes(path.read_bytes().replace(b'"schema_version": 2', b'"schema_version": 3'))
        with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: its seal"):
            checkpoint.verify(saved)

    @pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "folder/../../outside", "..", ".", "", "a\x00b"])
    def test_manifest_that_names_other_files(self, saved, name, change_manifest):
        (saved.parent / "outside").write_text("x", encoding="utf-8")
        entry = {"bytes": 1, "sha256": "0" * 64}
        change_manifest(saved, lambda manifest: {**manifest, "files": {**manifest["files"], name: entry}})
        with pytest.raises(CheckpointError, match=r"names the file .*, and a checkpoint has weights"):
            checkpoint.verify(saved)

    @pytest.mark.parametrize("state", [b"{", b'{"$tensor": "/nothing"}', b'{"$items": [1]}', b'{"$tuple": 3}', b"\xff"])
    def test_state_that_is_none(self, saved, state, reseal):
        (saved / "state.json").write_bytes(state)
        reseal(saved)
        with pytest.raises(CheckpointError, match=r"state\.json is no state of a run"):
            checkpoint.load_state(saved)

    def test_weights_of_another_model(self, saved):
        with pytest.raises(CheckpointError, match=r"weights\.safetensors does not fit this model"):
            checkpoint.load_weights(saved, nn.Linear(3, 4))

    def test_weights_that_are_no_safetensors(self, saved, model, reseal):
        (saved / "weights.safetensors").write_bytes(b"PK\x03\x04")
        reseal(saved)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors cannot be read as a file of safetensors"):
            checkpoint.load_weights(saved, model)


class TestFailedWrite:
    """The disk is full, or the program is ended, in the middle of a write."""

    @pytest.fixture(name="full_disk")
    def fixture_full_disk(self, monkeypatch):
        def refuse(path, _):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(writing, "write_file", refuse)

    @pytest.mark.usefixtures("full_disk")
    def test_says_which_file_and_why(self, tmp_path, model):
        with pytest.raises(StorageError, match=r"write the checkpoint .*weights\.safetensors: No space left") as caught:
            checkpoint.save(tmp_path / "best", step=1, model=model)
        assert caught.value.exit_code == 7

    def test_leaves_an_older_one_and_no_temporary_sibling(self, saved, model, request):
        before = {path.name: path.read_bytes() for path in saved.iterdir()}
        request.getfixturevalue("full_disk")
        with pytest.raises(StorageError):
            checkpoint.save(saved, step=8, model=model)
        assert checkpoint.verify(saved) == 7
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
        assert list(saved.parent.iterdir()) == [saved]

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    def test_at_the_last_moment_leaves_an_older_one(self, saved, model, monkeypatch, error):
        errors = [error]

        def refuse_once(source, target, *, really=Path.rename):
            if Path(target) == saved and errors:
                raise errors.pop()
            return really(source, target)

        monkeypatch.setattr(Path, "rename", refuse_once)
        monkeypatch.setattr(Path, "replace", refuse_once)
        with pytest.raises((StorageError, KeyboardInterrupt)):
            checkpoint.save(saved, step=8, model=model)
        assert checkpoint.verify(saved) == 7

    def test_by_ctrl_c_leaves_no_temporary_sibling(self, saved, model, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(writing, "write_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(saved, step=8, model=model)
        assert list(saved.parent.iterdir()) == [saved]

    def test_by_a_kill_is_cleared_away_by_the_next(self, tmp_path, model):
        left = tmp_path / ".best.tmp"
        left.mkdir()
        (left / "half").write_text("x", encoding="utf-8")
        checkpoint.save(tmp_path / "best", step=1, model=model)
        assert checkpoint.verify(tmp_path / "best") == 1
        assert not left.exists()

    def test_where_nothing_may_be_written(self, tmp_path, model):
        (tmp_path / "file").write_text("x", encoding="utf-8")
        with pytest.raises(StorageError, match="write the checkpoint"):
            checkpoint.save(tmp_path / "file" / "best", step=1, model=model)

    def test_overwrites_in_the_end(self, saved, model):
        checkpoint.save(saved, step=8, model=model)
        assert checkpoint.verify(saved) == 8
        assert not (saved / "state.json").exists()
