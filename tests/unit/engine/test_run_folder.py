"""The run folder: never overwritten, its records cut back to a checkpoint, the newest whole checkpoint found."""

import json
import os
import re
import sys

import pytest
import torch
from torch import nn

from mtlkit.engine.run import RunFolder
from mtlkit.errors import CheckpointError, ConfigError, StorageError
from mtlkit.locking import Lock


@pytest.fixture(name="model")
def fixture_model():
    torch.manual_seed(0)
    return nn.Linear(2, 2)


@pytest.fixture(name="run")
def fixture_run(tmp_path):
    with RunFolder.create(tmp_path / "run", config="seed: 0\n", environment={"torch": "2"}) as run:
        yield run


@pytest.fixture(name="save")
def fixture_save(run, model):
    """Return a function that saves checkpoints of the steps given."""

    def save(*steps, keep=9):
        return [run.save(step, model, {"step": step}, keep=keep) for step in steps]

    return save


def damage(folder):
    """Cut a checkpoint's weights short."""
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def pull_the_plug(*_):
    raise SystemExit


class TestCreate:
    def test_writes_down_what_the_run_is(self, run):
        seal, _, text = (run.path / "config.yaml").read_text(encoding="utf-8").partition("\n")
        assert (seal[:8], text) == ("# seal: ", "seed: 0\n")
        environment = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
        assert environment == {"torch": "2", "seal": environment["seal"]}
        assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "environment.json", "lock.json"]
        assert [path.name for path in run.path.parent.iterdir()] == ["run"]

    def test_makes_the_folders_above(self, tmp_path):
        RunFolder.create(tmp_path / "a" / "b" / "run", config="", environment={})
        assert (tmp_path / "a" / "b" / "run" / "config.yaml").exists()

    @pytest.mark.parametrize(("taken", "free"), [(["run"], "run-2"), (["run", "run-2", "run-3"], "run-4")])
    def test_never_overwrites_and_offers_a_free_name(self, tmp_path, taken, free):
        for name in taken:
            (tmp_path / name).mkdir()
        (tmp_path / "run" / "config.yaml").write_text("mine", encoding="utf-8")
        with pytest.raises(ConfigError, match="exists already") as caught:
            RunFolder.create(tmp_path / "run", config="other", environment={})
        assert f"run.name={free}." in str(caught.value)
        assert f"mtlkit resume {tmp_path / 'run'}." in str(caught.value)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
        assert (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8") == "mine"

    def test_the_name_offered_works(self, tmp_path):
        (tmp_path / "run").mkdir()
        with pytest.raises(ConfigError) as caught:
            RunFolder.create(tmp_path / "run", config="", environment={})
        name = re.search(r"run\.name=([\w-]+)", str(caught.value))[1]
        RunFolder.create(tmp_path / name, config="", environment={})

    def test_where_a_file_has_the_name(self, tmp_path):
        (tmp_path / "run").write_text("mine", encoding="utf-8")
        with pytest.raises((ConfigError, StorageError), match="run"):
            RunFolder.create(tmp_path / "run", config="", environment={})
        assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"

    @pytest.mark.parametrize("target", ["nowhere", "elsewhere"])
    def test_where_a_link_has_the_name(self, tmp_path, target):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "run").symlink_to(target)
        with pytest.raises(ConfigError, match="exists already"):
            RunFolder.create(tmp_path / "run", config="", environment={})
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_a_long_name_offers_one_that_fits(self, tmp_path):
        (tmp_path / ("x" * 80)).mkdir()
        with pytest.raises(ConfigError, match=rf"run\.name={'x' * 78}-2\."):
            RunFolder.create(tmp_path / ("x" * 80), config="", environment={})

    def test_cut_off_leaves_no_run(self, tmp_path, monkeypatch):
        """A process that dies in the middle cannot clean up after itself; the next one does."""
        monkeypatch.setattr("mtlkit.engine.claiming.shutil.rmtree", lambda *_, **__: None)
        monkeypatch.setattr("mtlkit.engine.claiming.Lock.release", Lock._drop)
        monkeypatch.setattr("mtlkit.engine.run.write_text", pull_the_plug)
        with pytest.raises(SystemExit):
            RunFolder.create(tmp_path / "run", config="", environment={})
        monkeypatch.undo()
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".run.")
        assert left.name.endswith(".new")
        with RunFolder.create(tmp_path / "run", config="", environment={}):
            assert [path.name for path in tmp_path.iterdir()] == ["run"]

    def test_a_failure_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr("mtlkit.engine.run.write_text", pull_the_plug)
        with pytest.raises(SystemExit):
            RunFolder.create(tmp_path / "run", config="", environment={})
        assert not list(tmp_path.iterdir())

    def test_what_another_is_making_is_let_be(self, tmp_path, monkeypatch):
        """A start of the same name, in the middle of another's."""

        def start_another(path, text):
            monkeypatch.undo()
            with RunFolder.create(tmp_path / "run", config="theirs", environment={}):
                path.write_text(text, encoding="utf-8")

        monkeypatch.setattr("mtlkit.engine.run.write_text", start_another)
        with pytest.raises(ConfigError, match="exists already"):
            RunFolder.create(tmp_path / "run", config="mine", environment={})
        assert [path.name for path in tmp_path.iterdir()] == ["run"]
        assert (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8").endswith("\ntheirs")

    def test_where_nothing_can_be_written(self, tmp_path):
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(StorageError, match=f"Cannot create the run folder {tmp_path / 'file'}"):
            RunFolder.create(tmp_path / "file" / "run", config="", environment={})


class TestOpen:
    @pytest.mark.parametrize(
        ("name", "reason"),
        [("empty", "has no config.yaml"), ("file", "has no config.yaml"), ("nowhere", "does not exist")],
    )
    def test_what_is_no_run(self, tmp_path, name, reason):
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"{name} is no run folder: it {reason}"):
            RunFolder.open(tmp_path / name)

    @pytest.mark.parametrize("kind", ["link", "pipe"])
    @pytest.mark.parametrize("place", ["metrics.jsonl", "lock.json", "checkpoints", "checkpoints/step-000001", "best"])
    def test_what_leads_elsewhere_is_refused(self, run, tmp_path, place, kind):
        elsewhere = tmp_path / "mine"
        elsewhere.write_text("mine", encoding="utf-8")
        (run.path / place).unlink(missing_ok=True)
        (run.path / place).parent.mkdir(exist_ok=True)
        if kind == "link":
            (run.path / place).symlink_to(elsewhere)
        else:
            os.mkfifo(run.path / place)
        for lock in (False, True):
            with pytest.raises(CheckpointError, match=f"{place} is (a symbolic link|neither a file nor a folder)"):
                RunFolder.open(run.path, lock=lock)
        assert elsewhere.read_text(encoding="utf-8") == "mine"

    def test_a_link_to_a_run_is_refused(self, run):
        link = run.path.with_name("link")
        link.symlink_to(run.path)
        with pytest.raises(CheckpointError, match=f"{link} is a symbolic link. .*leads to: {run.path.resolve()}"):
            RunFolder.open(link)

    def test_the_folder_of_runs_may_be_a_link(self, run, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "runs").symlink_to(tmp_path / "elsewhere")
        with RunFolder.create(tmp_path / "runs" / "a", config="", environment={}):
            pass
        assert RunFolder.open(tmp_path / "runs" / "a").path.is_dir()

    def test_result_is_none_until_finished(self, run):
        assert RunFolder.open(run.path).result is None
        run.finish({"steps": 3})
        assert RunFolder.open(run.path).result == {"steps": 3}

    @pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]", b"3"])
    def test_damaged_result(self, run, content):
        (run.path / "done.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"done\.json"):
            RunFolder.open(run.path).result  # noqa: B018


class TestCheckpoints:
    @pytest.mark.parametrize("keep", [1, 2, 3])
    def test_the_newest_stay(self, run, save, keep):
        save(1, 2, 3, 4, keep=keep)
        kept = sorted(path.name for path in (run.path / "checkpoints").iterdir())
        assert kept == [f"step-{step:06d}" for step in (1, 2, 3, 4)][-keep:]

    def test_newest_is_by_number(self, run, save):
        save(999_999, 1_000_000, keep=1)
        assert run.saves.latest()[0].name == "step-1000000"

    def test_none_is_no_error(self, run):
        assert run.saves.latest() == (None, [])

    def test_latest_goes_past_damaged_ones(self, run, save):
        first, second, third, fourth = save(1, 2, 3, 4)
        damage(fourth)
        (third / "manifest.json").unlink()
        found, damaged = run.saves.latest()
        assert found == second != first
        assert [str(folder) in str(error) for folder, error in zip([fourth, third], damaged, strict=True)] == [True] * 2

    def test_all_damaged_is_an_error_that_names_each(self, run, save):
        folders = save(1, 2)
        for folder in folders:
            damage(folder)
        with pytest.raises(CheckpointError, match="No checkpoint of the run is whole") as caught:
            run.saves.latest()
        assert all(str(folder) in str(caught.value) for folder in folders)
        assert caught.value.exit_code == 5

    def test_temporary_siblings_are_none(self, run, save):
        (whole,) = save(1)
        (run.path / "checkpoints" / ".step-000002.tmp").mkdir()
        assert run.saves.latest() == (whole, [])

    @pytest.mark.parametrize("name", ["step-000001-copy", "step-old", "step-"])
    def test_other_folders_beside_them_are_let_be(self, run, save, name):
        (whole,) = save(1)
        other = run.path / "checkpoints" / name
        other.mkdir()
        assert run.saves.latest() == (whole, [])
        save(2, 3, keep=1)
        assert other.is_dir()

    def test_of_the_same_step_takes_its_place(self, run, save):
        (folder,) = save(1)
        damage(folder)
        save(1)
        assert run.saves.latest() == (folder, [])


class TestRecords:
    def test_are_lines_of_json(self, run):
        run.append("metrics.jsonl", {"step": 1})
        run.append("metrics.jsonl", {"step": 2})
        assert (run.path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'

    def test_are_on_the_disk_at_once(self, run):
        run.append("metrics.jsonl", {"step": 1})
        assert (run.path / "metrics.jsonl").stat().st_size == run.records.sizes()["metrics.jsonl"] > 0

    def test_are_cut_back_to_their_sizes(self, run):
        run.append("metrics.jsonl", {"step": 1})
        run.append("timings.jsonl", {"step": 1})
        sizes = run.records.sizes()
        before = (run.path / "metrics.jsonl").read_bytes()
        run.append("metrics.jsonl", {"step": 2})
        run.append("timings.jsonl", {"step": 2})
        run.records.truncate(sizes, step=1)
        assert run.records.sizes() == sizes
        assert (run.path / "metrics.jsonl").read_bytes() == before
        run.append("metrics.jsonl", {"step": 3})
        assert (run.path / "metrics.jsonl").read_bytes() == before + b'{"step": 3}\n'

    def test_are_cut_back_by_a_run_opened_again(self, run):
        for step in range(3):
            run.append("metrics.jsonl", {"step": step})
        with RunFolder.open(run.path) as again:
            again.records.truncate({"metrics.jsonl": 12}, step=0)
            again.append("metrics.jsonl", {"step": 9})
        assert (run.path / "metrics.jsonl").read_bytes() == b'{"step": 0}\n{"step": 9}\n'

    @pytest.mark.parametrize("name", ["timings.jsonl", "hook_failures.jsonl"])
    @pytest.mark.parametrize("torn", [b'{"step": 3, "sec', b"[3]\n", b'{"step": null}\n', b'{"step": 2', b"\xff\n"])
    def test_of_times_and_failures_are_cut_back_to_the_step(self, run, name, torn):
        for step in (1, 2):
            run.append(name, {"step": step})
        (run.path / name).write_bytes(before := (run.path / name).read_bytes() + torn)
        run.records.truncate({}, step=2)
        assert (run.path / name).read_bytes() == before.removesuffix(torn)
        run.records.truncate({}, step=1)
        run.append(name, {"step": 3})
        assert (run.path / name).read_bytes() == b'{"step": 1}\n{"step": 3}\n'

    def test_hold_no_size_that_depends_on_times(self, run):
        run.append("metrics.jsonl", {"step": 1})
        run.append("timings.jsonl", {"step": 1, "seconds": 0.1})
        assert run.records.sizes() == {"metrics.jsonl": 12}

    def test_are_never_made_longer_and_what_is_missing_is_told_of(self, run):
        run.append("metrics.jsonl", {"step": 1})
        told = r"metrics\.jsonl was cut short: 9988 bytes of it that a checkpoint remembers are missing"
        with pytest.warns(UserWarning, match=told):
            run.records.truncate({"metrics.jsonl": 10_000}, step=1)
        assert (run.path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
    def test_full_disk_names_the_file_and_is_no_bug_on_the_way_out(self, tmp_path):
        path = tmp_path / "run"
        RunFolder.create(path, config="", environment={})
        run = RunFolder.open(path)
        (path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(StorageError, match=r"No space left on device \(.*metrics\.jsonl\)"), run:
            run.append("metrics.jsonl", {"step": 1})


class TestFinish:
    def test_writes_the_last_file_whole(self, run):
        run.finish({"steps": 3, "test": {"side": {"loss": 0.5}}})
        assert json.loads((run.path / "done.json").read_text(encoding="utf-8"))["test"] == {"side": {"loss": 0.5}}
        assert not list(run.path.glob(".*"))

    def test_failing_leaves_no_half_file(self, run):
        with pytest.raises(TypeError):
            run.finish({"steps": object()})
        assert not (run.path / "done.json").exists()
