"""The doctor: what a plugin does when it is loaded is told of, and harms neither this process nor another plugin."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from mtlkit.doctor import Entry, Examined, Finding, Level, examine
from mtlkit.doctor.findings import about_distribution
from mtlkit.errors import PluginError
from mtlkit.registry import Registry, State

SOUND = """
import mtlkit

class Log:
    @mtlkit.hookimpl
    def mtlkit_epoch_finished(self, event): ...

log = mtlkit.plugin(Log)
"""
COMMAND = """
import click
import mtlkit

@click.command()
def go(): ...

go = mtlkit.plugin(go)
"""
CRASHING_HOOK = """
import ctypes
import mtlkit

class Crashes:
    @mtlkit.hookimpl
    def mtlkit_run_hooks(self):
        ctypes.string_at(0)

crashes = Crashes()
"""
REQUIRED = ("mtlkit>=0.1,<0.4",)


def require(site: Path, *requirements: str) -> None:
    (metadata,) = site.glob("*.dist-info/METADATA")
    with metadata.open("a", encoding="utf-8") as file:
        file.writelines(f"Requires-Dist: {requirement}\n" for requirement in requirements)


@pytest.fixture
def plugin(install):
    """Return a function that installs a distribution with one component a module, ``log``, or those that are given."""

    def install_plugin(
        text: str | Mapping[str, str],
        name: str = "acme",
        *,
        entry_points: Mapping[str, Mapping[str, str]] | None = None,
        requires: tuple[str, ...] = REQUIRED,
    ) -> Path:
        modules = {name.replace("-", "_"): text} if isinstance(text, str) else text
        entry_points = entry_points or {"plugins": {"log": f"{next(iter(modules))}:log"}}
        site = install(name, entry_points=entry_points, modules=modules)
        require(site, *requires)
        return site

    return install_plugin


def examined(name: str = "acme", timeout: float = 30.0) -> Examined:
    (found,) = examine(Registry.discover(), [name], timeout=timeout).plugins
    return found


def only(found: Examined) -> Entry:
    (entry,) = found.entries
    return entry


def broken(found: Examined) -> str:
    """Return why its one component is broken."""
    assert found.state is State.BROKEN
    entry = only(found)
    assert entry.status.state is State.BROKEN
    assert entry.status.remedy
    (error,) = [each for each in found.findings if each.level is Level.ERROR]
    assert (error.what, error.remedy, error.about) == (entry.status.reason, entry.status.remedy, ("plugins log",))
    return entry.status.reason


def warned(found: Examined) -> str:
    """Return the one warning of a plugin that works."""
    assert found.state is State.OK
    (finding,) = found.findings
    assert finding.level is Level.WARNING
    assert finding.remedy
    return str(finding)


def is_running(process: int) -> bool:
    command = ["ps", "-o", "stat=", "-p", str(process)]  # a zombie is one that no longer runs
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")  # whatever its priority adds to that


class TestWhatIsSound:
    def test_is_ok(self, plugin):
        plugin(SOUND)
        found = examined()
        assert found.state is State.OK
        assert found.findings == []
        assert only(found).import_seconds > 0
        assert only(found).torch_at_import is False

    def test_one_module_is_timed_once(self, plugin):
        plugin(SOUND + "also = log\n", entry_points={"plugins": {"also": "acme:also", "log": "acme:log"}})
        first, second = examined().entries
        assert first.import_seconds is not None
        assert second.import_seconds is None
        assert (first.torch_at_import, second.torch_at_import) == (False, False)

    def test_what_is_ambiguous_is_loaded_and_noted(self, plugin):
        plugin(SOUND)
        plugin(SOUND, "zeta")
        found = examined()
        assert found.state is State.AMBIGUOUS
        assert only(found).import_seconds is not None
        (note,) = found.findings
        assert note.level is Level.NOTE
        assert "zeta:log" in note.what
        assert note.remedy == "Name it acme:log."

    def test_a_name_leaves_out_the_others(self, plugin, tmp_path):
        plugin(SOUND)
        plugin(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n{SOUND}", "zeta")
        assert examined().distribution.name == "acme"
        assert not (tmp_path / "imported").exists()

    def test_an_unknown_name(self, plugin):
        plugin(SOUND)
        with pytest.raises(PluginError, match=r"No plugin of mtlkit is called 'acne'. Did you mean 'acme'\?"):
            examined("acne")

    def test_the_environment_is_the_same(self, plugin, monkeypatch):
        monkeypatch.setenv("ACME_LICENCE", "yes")
        plugin(f"import os\nassert os.environ['ACME_LICENCE'] == 'yes'\n{SOUND}")
        assert examined().state is State.OK


class TestWhatIsBroken:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("def f():\n    1 / 0\n\nf()\n", "importing it raised ZeroDivisionError: division by zero ({}:2)"),
            ("import sys\nsys.exit(3)\n", "importing it raised SystemExit: 3 ({}:2)"),
            ("raise KeyboardInterrupt\n", "loading it raised KeyboardInterrupt ({}:1)"),
            ("import os\nos._exit(4)\n", "importing it ended the process with exit status 4"),
            ("import os\nos.kill(os.getpid(), 9)\n", "importing it ended the process by SIGKILL (killed)"),
            ("import os\nos.killpg(0, 15)\n", "importing it ended the process by SIGTERM (terminated)"),
            ("import os\nif os.fork():\n    os._exit(0)\n", "importing it ended the process with exit status 0"),
            (
                "import ctypes\nctypes.string_at(0)\n",
                "importing it crashed Python by SIGSEGV (segmentation fault) ({}:2)",
            ),
            ("import os\nos.closerange(3, 99)\n", "importing it closed file descriptors that are not its own"),
            (
                "import nowhere_to_be_found\n",
                "importing it raised ModuleNotFoundError: No module named 'nowhere_to_be_found'",
            ),
        ],
    )
    def test_by_its_import(self, plugin, text, reason):
        site = plugin(text)
        assert broken(examined()).startswith(reason.format(site / "acme.py"))

    def test_a_module_that_is_gone(self, plugin):
        (plugin(SOUND) / "acme.py").unlink()
        assert broken(examined()).startswith("importing it raised ModuleNotFoundError: No module named 'acme'")

    def test_a_misspelt_hook(self, plugin):
        plugin(SOUND.replace("epoch_finished", "epoch_finishd"))
        found = examined()
        assert "'mtlkit_epoch_finishd'" in broken(found)
        assert "Did you mean 'mtlkit_epoch_finished'?" in only(found).status.remedy

    def test_by_its_metadata_alone_it_is_not_imported(self, plugin, tmp_path):
        plugin(
            f"open({str(tmp_path / 'imported')!r}, 'w').close()\n",
            entry_points={"plugins": {"log": "acme is not a module"}},
        )
        assert "no module:attribute" in broken(examined())
        assert not (tmp_path / "imported").exists()

    def test_entry_points_that_cannot_be_read(self, plugin):
        (entry_points,) = plugin(SOUND).glob("*.dist-info/entry_points.txt")
        entry_points.write_text("[mtlkit.plugins]\nlog\n", encoding="utf-8")
        found = examined()
        assert found.state is State.BROKEN
        assert found.findings[0].level is Level.ERROR
        assert "cannot be read" in found.findings[0].what

    def test_what_it_says_fits_a_terminal(self, plugin):
        plugin(f"raise ValueError('\\x1b[31mred\\n\\nline\\ud800' + 'x' * {10**6})\n")
        reason = broken(examined())
        assert reason.startswith("importing it raised ValueError: [31mred line x")
        assert reason.isprintable()
        assert len(reason) < 1000

    def test_an_exception_that_cannot_be_told(self, plugin):
        plugin("class Bad(Exception):\n    def __str__(self):\n        raise Bad\n\nraise Bad\n")
        assert broken(examined()).startswith("importing it raised Bad (")


class TestOneThatTakesTooLong:
    def test_it_is_ended_with_what_it_started(self, plugin, tmp_path):
        site = plugin(
            "import os, subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            f"open({str(tmp_path / 'processes')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
            "time.sleep(600)\n"
        )
        found = examined(timeout=1)
        assert broken(found) == f"importing it took longer than 1 s, and was ended ({site / 'acme.py'}:4)"
        assert "--timeout" in only(found).status.remedy
        processes = (tmp_path / "processes").read_text(encoding="utf-8").split()
        assert [is_running(int(process)) for process in processes] == [False, False]

    def test_a_second_one_of_its_module_is_not_tried(self, plugin, tmp_path):
        plugin(
            f"import time\nopen({str(tmp_path / 'imports')!r}, 'a').write('x')\ntime.sleep(600)\n",
            entry_points={"plugins": {"also": "acme:also", "log": "acme:log"}},
        )
        found = examined(timeout=1)
        assert [each.status.state for each in found.entries] == [State.BROKEN, State.BROKEN]
        assert (tmp_path / "imports").read_text(encoding="utf-8") == "x"
        (finding,) = found.findings
        assert finding.about == ("plugins also", "plugins log")

    def test_one_that_prints_for_ever(self, plugin):
        plugin("while True:\n    print('y' * 1000)\n")
        found = examined(timeout=1)
        assert "took longer than 1 s" in found.findings[0].what
        assert "it prints when it is loaded" in found.findings[1].what


class TestWhatItDoesBeside:
    def test_it_prints_a_megabyte(self, plugin, capfd):
        plugin(f"print('x' * {10**6})\n{SOUND}")
        text = warned(examined())
        assert text.startswith("plugins log: it prints when it is loaded, 1000001 bytes that begin with 'xxx")
        assert capfd.readouterr() == ("", "")

    def test_what_one_prints_is_not_laid_to_another(self, plugin):
        plugin(
            {"first": SOUND, "second": f"import os\nos.write(2, b'hello')\n{SOUND}", "third": SOUND},
            entry_points={"plugins": {f"log{i}": f"{m}:log" for i, m in enumerate(("first", "second", "third"))}},
        )
        assert warned(examined()).startswith("plugins log1: it prints when it is loaded, 5 bytes")

    @pytest.mark.parametrize(
        "how", ["os.close(1)", "os.dup2(os.open(os.devnull, 1), 1)", "sys.stdout.close()", "sys.stdout = sys.stderr"]
    )
    def test_it_closes_or_replaces_stdout(self, plugin, how):
        after = f"import os\nos.write(1, b'')\nprint(end='', flush=True)\n{SOUND}"
        plugin(
            {"first": f"import os, sys\n{how}\n{SOUND}", "second": after},
            entry_points={"plugins": {"log": "first:log", "other": "second:log"}},
        )
        found = examined()
        assert "plugins log: importing it closes or replaces stdout" in warned(found)
        assert [each.status.state for each in found.entries] == [State.OK, State.OK]

    def test_it_forks_and_both_come_back(self, plugin):
        plugin(f"import os\nos.fork()\n{SOUND}")
        found = examined()
        assert "plugins log: importing it forks the process, once" in warned(found)
        assert len(found.entries) == 1

    @pytest.mark.parametrize("shown", ["default", "ignore"])
    def test_it_uses_what_is_deprecated(self, plugin, monkeypatch, shown):
        monkeypatch.setenv("PYTHONWARNINGS", shown)
        site = plugin(
            "import warnings\nfrom mtlkit.hookspecs import deprecated\n"
            "warnings.warn(deprecated('the argument step', since=(0, 2), instead='event.step'))\n" + SOUND
        )
        text = warned(examined())
        assert "issued ContractWarning: The argument step is deprecated since mtlkit 0.2" in text
        assert f"({site / 'acme.py'}:3)" in text

    def test_a_warning_that_users_do_not_see(self, plugin):
        plugin(f"import warnings\nwarnings.warn('old', DeprecationWarning)\n{SOUND}")
        assert examined().findings == []


class TestTorch:
    """A module called torch stands for the real one, which takes seconds."""

    @pytest.fixture
    def torch(self, install) -> None:
        install("torch-that-is-quick", modules={"torch": ""})

    def test_a_command_that_imports_it(self, plugin, torch):
        plugin(f"import torch\n{COMMAND}", entry_points={"commands": {"go": "acme:go"}})
        found = examined()
        assert only(found).torch_at_import is True
        assert warned(found).startswith("commands go: importing it imports torch")

    def test_a_command_does_not_answer_for_another(self, plugin, torch):
        plugin(
            {"first": f"import torch\n{COMMAND}", "second": COMMAND, "third": SOUND},
            entry_points={"commands": {"go": "first:go", "run": "second:go"}, "plugins": {"log": "third:log"}},
        )
        found = examined()
        assert [each.torch_at_import for each in found.entries] == [True, False, False]
        assert warned(found).startswith("commands go: ")


class TestSeveralInOneDistribution:
    @pytest.mark.parametrize("text", ["import os\nos._exit(4)\n", "import ctypes\nctypes.string_at(0)\n"])
    def test_the_second_is_examined_though_the_first_ends_the_process(self, plugin, text):
        plugin({"first": text, "second": SOUND}, entry_points={"plugins": {"a": "first:log", "b": "second:log"}})
        found = examined()
        assert [each.status.state for each in found.entries] == [State.BROKEN, State.OK]

    def test_so_it_is_in_one_module_whose_hook_ends_the_process(self, plugin):
        plugin(CRASHING_HOOK + SOUND, entry_points={"plugins": {"crashes": "acme:crashes", "log": "acme:log"}})
        found = examined()
        assert [each.status.state for each in found.entries] == [State.BROKEN, State.OK]
        assert "loading it crashed Python by SIGSEGV" in found.entries[0].status.reason


class TestWhatIsNotImported:
    @pytest.fixture
    def marker(self, plugin, tmp_path) -> Path:
        """Install a plugin that leaves a file when it is imported."""
        site = plugin(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n{SOUND}", requires=("mtlkit>=0.1,<9",))
        require(site)
        return tmp_path / "imported"

    def test_the_marker_works(self, marker):
        assert examined().state is State.OK
        assert marker.exists()

    def test_what_is_disabled(self, marker, monkeypatch):
        monkeypatch.setenv("MTLKIT_PLUGINS", "")
        found = examined()
        assert not marker.exists()
        assert found.state is State.DISABLED
        (note,) = found.findings
        assert note.level is Level.NOTE
        assert "MTLKIT_PLUGINS" in note.what

    def test_what_is_incompatible(self, marker, install, tmp_path):
        (metadata,) = tmp_path.glob("site-*/acme-1.0.dist-info/METADATA")
        metadata.write_text(metadata.read_text(encoding="utf-8").replace("0.1,<9", "7,<9"), encoding="utf-8")
        found = examined()
        assert not marker.exists()
        assert found.state is State.INCOMPATIBLE
        (note,) = found.findings
        assert "requires mtlkit<9,>=7" in note.what


def about(name: str = "acme") -> list[Finding]:
    """Return what an installed distribution's metadata leads to."""
    return list(about_distribution(Registry.discover().distributions[name]))


class TestRequirements:
    @pytest.mark.parametrize(
        "requires",
        [
            ("mtlkit>=0.1,<0.4",),
            ("mtlkit~=0.1.0",),
            ("mtlkit==0.1.0",),
            ("mtlkit>=0.1", "mtlkit<0.4"),
            ("MTLkit>0,<=1",),
        ],
    )
    def test_bounds_on_both_sides(self, plugin, requires):
        plugin(SOUND, requires=requires)
        assert about() == []

    @pytest.mark.parametrize(
        ("requires", "what"),
        [
            ((), "it does not require mtlkit"),
            (("mtlkit>=9; python_version<'3'",), "it does not require mtlkit"),
            (("mtlkit",), "with no lower and no upper bound"),
            (("mtlkit>=0.1",), "it requires mtlkit>=0.1, with no upper bound"),
            (("mtlkit<1,!=0.5",), "with no lower bound"),
        ],
    )
    def test_a_bound_is_missing(self, plugin, requires, what):
        plugin(SOUND, requires=requires)
        (finding,) = about()
        assert finding.level is Level.WARNING
        assert what in finding.what
        assert '"mtlkit>=0.1,<0.4"' in finding.remedy

    def test_what_is_installed_does_not_meet_them(self, plugin):
        extra = "not-for-us; extra == 'more'"
        plugin(SOUND, requires=(*REQUIRED, "numpy<1", "nowhere-to-be-found>=2", "pluggy>1", extra, "what is this?"))
        unreadable, old, absent = about()
        assert "'what is this?' cannot be read" in unreadable.what
        assert old.what.startswith("it requires numpy<1, and numpy ")
        assert old.remedy == "Install what is: pip install 'numpy<1'"
        assert absent.what == "it requires nowhere-to-be-found>=2, and nowhere-to-be-found is not installed"
        assert absent.remedy == "Install it: pip install 'nowhere-to-be-found>=2'"


class TestInstallations:
    def test_twice(self, install, plugin):
        first = install("acme", "0.9", entry_points={"plugins": {"log": "acme:log"}})
        second = plugin(SOUND)
        (finding,) = about()
        assert finding.what == f"it is installed more than once: 1.0 in {second}, and 0.9 in {first}"
        assert "pip uninstall acme" in finding.remedy

    def test_a_group_that_is_misspelt(self, plugin):
        plugin(SOUND, entry_points={"plugin": {"log": "acme:log"}})
        (finding,) = about()
        assert "the group mtlkit.plugin, and mtlkit has no such group" in finding.what
        assert "Did you mean 'mtlkit.plugins'?" in finding.remedy

    @pytest.fixture
    def editable(self, plugin, tmp_path):
        """Return a function that installs a folder's project editably, whose pyproject.toml now says what is given."""

        def install_editable(project: str | None) -> Path:
            folder = tmp_path / "a project"
            folder.mkdir()
            if project is not None:
                (folder / "pyproject.toml").write_text(project, encoding="utf-8")
            (metadata,) = plugin(SOUND).glob("*.dist-info")
            origin = {"url": folder.as_uri(), "dir_info": {"editable": True}}
            (metadata / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
            return folder

        return install_editable

    @pytest.mark.parametrize(
        ("entry_points", "change"),
        [
            ('Log = "acme:log"\nmore = "acme:more"', "plugins more is new"),
            ("", "plugins log is gone"),
            ('log = "acme.log:log"', "plugins log leads to acme.log:log, and to acme:log as it is installed"),
        ],
    )
    def test_an_editable_one_that_has_changed(self, editable, entry_points, change):
        folder = editable(f'[project]\nname = "acme"\n[project.entry-points."mtlkit.plugins"]\n{entry_points}\n')
        (finding,) = about()
        assert finding.what.endswith(f"are not those that are installed: {change}")
        assert finding.remedy == f"Install it again: pip install -e '{folder}'"

    @pytest.mark.parametrize(
        "project",
        [
            '[project]\nname = "acme"\n[project.entry-points."mtlkit.plugins"]\nLOG = "acme : log"\n',
            '[project]\nname = "acme"\ndynamic = ["entry-points"]\n',
            "[tool.something]\n",
            "not toml",
            None,
        ],
    )
    def test_an_editable_one_that_has_not_or_does_not_say(self, editable, project):
        editable(project)
        assert about() == []

    def test_an_editable_one_whose_folder_is_gone(self, editable):
        folder = editable(None)
        folder.rmdir()
        (finding,) = about()
        assert finding.what == f"it is an editable install of {folder}, and that folder is gone"

    def test_the_environment_names_what_is_not_there(self, plugin, monkeypatch):
        plugin(SOUND)
        monkeypatch.setenv("MTLKIT_PLUGINS", "acme,acne,pluggy,mtlkit")
        absent, bare = examine(Registry.discover(), ["acme"]).findings
        assert absent.what == "MTLKIT_PLUGINS names acne, which is not installed"
        assert "Did you mean 'acme'?" in absent.remedy
        assert bare.what == "MTLKIT_PLUGINS names pluggy, which is installed and has no components of mtlkit"


class TestFiles:
    @pytest.fixture
    def file(self, tmp_path):
        """Return a function that writes a plugin into a file, and returns what the doctor finds."""

        def examine_file(text: str, **options) -> Examined:
            path = tmp_path / "acme_tasks.py"
            path.write_text(text, encoding="utf-8")
            (found,) = examine(Registry.discover(), ["acme_tasks.py"], files=[path, path], **options).plugins
            return found

        return examine_file

    def test_one_that_is_sound(self, file, monkeypatch):
        monkeypatch.setenv("MTLKIT_PLUGINS", "")  # which does not bind a file that is named
        found = file(f"print('hello')\n{SOUND}")
        assert warned(found).startswith("plugins log: it prints when it is loaded, 6 bytes")
        assert only(found).import_seconds is not None

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("import os\nos._exit(0)\n", "importing it ended the process with exit status 0"),
            ("import sys\nsys.exit(1)\n", "SystemExit: 1"),
            ("import time\ntime.sleep(600)\n", "importing it took longer than 1 s"),
            ("", "holds no plugin"),
        ],
    )
    def test_one_that_is_broken(self, file, text, what):
        found = file(text, timeout=1)
        assert found.state is State.BROKEN
        assert found.entries == []
        (finding,) = found.findings
        assert what in finding.what
        assert finding.remedy

    def test_two_of_one_name(self, tmp_path):
        with pytest.raises(PluginError, match=r"Two plugins are files called a\.py"):
            examine(Registry.discover(), files=[tmp_path / "a.py", tmp_path / "b" / "a.py"])


def test_no_descriptor_is_left_open(plugin):
    plugin(SOUND)
    plugin("import os\nos._exit(4)\n", "zeta")
    before = len(list(Path("/dev/fd").iterdir()))
    examine(Registry.discover(), ["acme", "zeta"])
    assert len(list(Path("/dev/fd").iterdir())) == before
