"""``mtlkit plugins doctor``: what it prints, to a person and to a program, and how it ends."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOUND = """
import mtlkit

class Log:
    @mtlkit.hookimpl
    def mtlkit_epoch_finished(self, event): ...

log = mtlkit.plugin(Log)
"""


@pytest.fixture
def plugin(install):
    """Return a function that installs a distribution with one component, ``acme-log``."""

    def install_plugin(text: str = SOUND, name: str = "acme", requires: str = "mtlkit>=0.1,<0.4") -> Path:
        site = install(name, entry_points={"plugins": {f"{name}-log": f"{name}:log"}}, modules={name: text})
        (metadata,) = site.glob("*.dist-info/METADATA")
        with metadata.open("a", encoding="utf-8") as file:
            file.write(f"Requires-Dist: {requires}\n")
        return site

    return install_plugin


class TestForAPerson:
    def test_nothing_is_wrong(self, mtlkit, plugin):
        plugin()
        done = mtlkit("plugins", "doctor", "ACME")
        assert done.exit_code == 0, done.output
        heading, row, empty, last = done.stdout.splitlines()
        assert heading.split() == ["plugin", "kind", "name", "state", "import", "torch"]
        assert row.split()[:5] == ["acme", "1.0", "plugins", "acme-log", "ok"]
        assert row.split()[-1] == "no"
        assert (empty, last) == ("", "1 plugin: 1 ok.")
        assert done.stderr == ""

    def test_findings_stand_below_the_table_the_worst_first(self, mtlkit, plugin):
        plugin()
        site = plugin("print('hello')\n1 / 0\n", "zeta", "mtlkit>=0.1")
        done = mtlkit("plugins", "doctor", "acme", "zeta")
        assert done.exit_code == 3
        table, findings, last = done.stdout.split("\n\n")
        assert len(table.splitlines()) == 3
        lines = findings.splitlines()
        assert lines[0] == "zeta 1.0"
        assert lines[1].startswith(
            "  error    plugins zeta-log: importing it raised ZeroDivisionError: division by zero"
        )
        assert f"({site / 'zeta.py'}:2)" in lines[1]
        assert lines[2] == "           Reinstall or update zeta, or tell its authors."
        assert [line[:11] for line in lines[3::2]] == ["  warning  "] * 2
        assert last == "2 plugins: 1 ok, 1 broken; 2 warnings.\n"

    def test_no_plugin_is_installed(self, mtlkit, monkeypatch):
        monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: [])
        done = mtlkit("plugins", "doctor")
        assert done.exit_code == 0
        assert done.stdout.startswith("No plugin is installed.")

    def test_no_plugins(self, mtlkit, plugin):
        plugin("1 / 0\n")
        done = mtlkit("plugins", "doctor", "acme", "--no-plugins")
        assert done.exit_code == 0
        assert "disabled" in done.stdout.splitlines()[1]
        assert done.stdout.endswith("1 plugin: 1 disabled.\n")

    def test_a_file_that_is_broken_stops_no_other(self, mtlkit, folder, plugin):
        plugin()
        (folder / "work.py").write_text("import os\nos._exit(0)\n", encoding="utf-8")
        done = mtlkit("plugins", "doctor", "acme", "work.py", "--plugin", "work.py")
        assert done.exit_code == 3
        assert done.stdout.endswith("2 plugins: 1 ok, 1 broken.\n")

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["acne"], 3, "No plugin of mtlkit is called 'acne'"),
            (["a b"], 2, "no distribution can be called 'a b'"),
            (["--timeout", "0"], 2, "--timeout"),
            (["--timeout", "nan"], 2, "--timeout"),
        ],
    )
    def test_what_cannot_be(self, mtlkit, plugin, arguments, code, message):
        plugin("1 / 0\n")
        done = mtlkit("plugins", "doctor", *arguments)
        assert done.exit_code == code
        assert done.stdout == ""
        assert message in done.stderr


class TestForAProgram:
    def test_one_value(self, mtlkit, plugin, monkeypatch):
        plugin(f"print('hello')\n{SOUND}")
        monkeypatch.setenv("MTLKIT_PLUGINS", "acme, acne")
        done = mtlkit("plugins", "doctor", "acme", "--json")
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
        value = json.loads(done.stdout)
        (found,) = value["plugins"]
        (component,) = found.pop("components")
        assert 0 < component.pop("import_seconds") < 60
        assert component == {
            "kind": "plugins",
            "name": "acme-log",
            "qualified": "acme:acme-log",
            "entry_point": "mtlkit.plugins: acme-log = acme:log",
            "state": "ok",
            "reason": "",
            "remedy": "",
            "torch_at_import": False,
        }
        (finding,) = found.pop("findings")
        assert finding.keys() == {"level", "what", "remedy", "about"}
        assert (finding["level"], finding["about"]) == ("warning", ["plugins acme-log"])
        assert found.keys() == {"distribution", "version", "location", "origin", "state"}
        assert [each["what"] for each in value["findings"]] == ["MTLKIT_PLUGINS names acne, which is not installed"]
        assert value["counts"] == {"ok": 1, "warnings": 2}

    def test_what_is_broken(self, mtlkit, plugin):
        plugin("import sys\nsys.exit(3)\n")
        done = mtlkit("plugins", "doctor", "acme", "--json")
        assert done.exit_code == 3
        (found,) = json.loads(done.stdout)["plugins"]
        (component,) = found["components"]
        assert found["state"] == component["state"] == "broken"
        assert component["reason"].startswith("importing it raised SystemExit: 3")
        assert component["import_seconds"] is None
        assert component["torch_at_import"] is None

    def test_tasks_import_torch_and_that_is_no_warning(self, mtlkit):
        done = mtlkit("plugins", "doctor", "mtlkit-digits", "--json")
        assert done.exit_code == 0, done.output
        (found,) = json.loads(done.stdout)["plugins"]
        assert [each["state"] for each in found["components"]] == ["ok"] * 4
        assert [each["torch_at_import"] for each in found["components"]] == [True] * 4
        assert [each["import_seconds"] is None for each in found["components"]] == [False, True, True, True]
        assert found["findings"] == []


def start(site: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start it in a process of its own, where a signal and a closed pipe can reach it."""
    return subprocess.Popen(
        [sys.executable, "-m", "mtlkit", "plugins", "doctor", *arguments],
        env=os.environ | {"PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_ends_what_it_started(plugin, tmp_path):
    marker = tmp_path / "process"
    site = plugin(
        f"import os, time\nopen({str(tmp_path / 'new')!r}, 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(marker)!r})\ntime.sleep(600)\n"
    )
    with start(site, "acme") as running:
        until = time.monotonic() + 30
        while not marker.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 130
    assert stdout == ""
    assert stderr.startswith("Stopped at once.")
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text(encoding="utf-8")), 0)


def test_a_reader_that_has_gone(plugin):
    with start(plugin(), "acme") as running:
        running.stdout.close()
        assert "Traceback" not in running.stderr.read()
    assert running.returncode == 1
