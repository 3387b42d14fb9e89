"""What whoever installs plugins is promised: nothing is imported unasked, and whoever fails is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtlkit as package

TASK = "import mtlkit\nclass Wine(mtlkit.Task):\n    '''Guess the wine.'''\nwine = mtlkit.plugin(Wine)\n"
CRASH = "raise RuntimeError('imported')\n"
COUNT = 50


@pytest.fixture
def fifty(lay, tmp_path) -> Path:
    """Fifty distributions in one folder; importing any leaves a file, and importing the seventh takes two seconds."""
    site = tmp_path / "site-packages"
    marker = tmp_path / "imported"
    for number in range(COUNT):
        module = f"'''Wines.'''\nopen({str(marker)!r}, 'w').close()\n{TASK}"
        if number == 7:
            module += "import time\ntime.sleep(2)\n"
        lay(
            f"acme-{number}",
            f"1.{number}",
            entry_points={
                "tasks": {f"wine-{number}": f"acme_{number}:wine"},
                "commands": {f"drink-{number}": f"acme_{number}:drink"},
            },
            modules={f"acme_{number}": module},
            requires=["mtlkit>=0.1"],
            site=site,
        )
    return site


class TestListing:
    @pytest.mark.parametrize("arguments", [["list", "tasks"], ["plugins", "list"], ["--help"]], ids=" ".join)
    def test_fifty_plugins_imports_none(self, fifty, tmp_path, arguments):
        done = subprocess.run(
            [sys.executable, "-m", "mtlkit", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(fifty), "COLUMNS": "200"},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        name = "drink" if arguments == ["--help"] else "wine"
        assert all(f"{name}-{number} " in done.stdout for number in range(COUNT))
        assert not (tmp_path / "imported").exists()

    def test_what_each_is_is_read_from_its_source(self, fifty, monkeypatch, answer, tmp_path):
        monkeypatch.syspath_prepend(str(fifty))
        shown = {each["name"]: each["summary"] for each in answer("list", "tasks")}
        assert shown["wine-7"] == "Guess the wine."
        assert not (tmp_path / "imported").exists()

    def test_what_offers_nothing_is_told_of(self, mtlkit, install):
        install("acme", "1.2", entry_points={"task": {"wine": "acme:wine"}})
        done = mtlkit("plugins", "list")
        assert ["acme", "1.2", "installed", "nothing"] in [line.split() for line in done.stdout.splitlines()]
        assert "acme has no entry point in any group of mtlkit; a name may be misspelt.\n" in done.stderr


class TestABrokenPlugin:
    @pytest.fixture(autouse=True)
    def installed(self, install, acme):
        acme("colour")
        modules = {"zeta_wine": "import mtlkit\n\n\ndef deep():\n    return [][1]\n\n\ndeep()\n"}
        return install("zeta", "0.3", entry_points={"tasks": {"wine": "zeta_wine:wine"}}, modules=modules)

    @pytest.mark.parametrize("command", ["train", "check", "baseline"])
    def test_is_named_with_cause_and_remedy(self, refused, folder, command):
        assert refused(command, "run.yaml", "tasks=[colour, wine]") == (
            "Error: The task 'wine' cannot be loaded (zeta 0.3, entry point mtlkit.tasks: wine = zeta_wine:wine): "
            f"importing it raised IndexError: list index out of range ({folder.parent}/site-2/zeta_wine.py:5). "
            "Reinstall or update zeta, or tell its authors.\n"
        )
        assert not (folder / "runs").exists()

    def test_is_told_of_in_parts_to_a_program(self, mtlkit):
        done = mtlkit("train", "run.yaml", "tasks=[wine]", "--json")
        assert done.exit_code == 3
        for part in ('"distribution": "zeta"', '"version": "0.3"', '"entry_point": "mtlkit.tasks: wine = zeta_wine:'):
            assert part in done.stdout

    def test_shows_where_it_failed_on_request(self, mtlkit):
        done = mtlkit("train", "run.yaml", "tasks=[wine]", "--debug")
        assert done.exit_code == 3
        assert "Traceback (most recent call last):" in done.stderr
        assert 'zeta_wine.py", line 5, in deep\n    return [][1]' in done.stderr
        assert done.stderr.rstrip().endswith("or tell its authors.")

    def test_and_another_are_told_of_together(self, refused, install):
        install("omega", "7", entry_points={"tasks": {"beer": "omega_beer:beer"}})
        error = refused("train", "run.yaml", "tasks=[wine, beer]")
        assert "zeta 0.3, entry point" in error
        assert "omega 7, entry point mtlkit.tasks: beer = omega_beer:beer" in error

    def test_says_nothing_while_it_is_not_asked(self, answer):
        assert answer("train", "run.yaml", "tasks=[colour]")["steps"] == 4


class TestTwoOfOneName:
    @pytest.fixture(autouse=True)
    def installed(self, install, acme):
        acme("colour", "price")
        install("zeta", "0.3", entry_points={"tasks": {"Colour": "acme:colour"}})

    def test_are_told_of_with_both_versions(self, refused):
        assert refused("train", "run.yaml", code=2) == (
            "Error: Ambiguous task 'colour' at tasks[0].name (run.yaml:2:9). Say which one is meant: acme-mtl:colour "
            "(acme-mtl 1.2) and zeta:colour (zeta 0.3).\n"
        )

    @pytest.mark.parametrize("name", ["acme-mtl:colour", "zeta:colour", "Zeta:COLOUR"])
    def test_run_when_they_are_qualified(self, mtlkit, folder, name):
        done = mtlkit("train", "run.yaml", f"tasks=['{name}']")
        assert done.exit_code == 0, done.output
        assert f"name: {name.lower()}\n" in (folder / "runs/first/config.yaml").read_text(encoding="utf-8")

    def test_are_listed_as_ambiguous(self, mtlkit):
        done = mtlkit("plugins", "list")
        assert (
            "zeta:colour is ambiguous: acme-mtl:colour (acme-mtl 1.2) and zeta:colour (zeta 0.3) have one name. Name "
            "it zeta:colour.\n"
        ) in done.stderr

    def test_leave_the_others_be(self, answer):
        assert list(answer("train", "run.yaml", "tasks=[price]")["test"]) == ["price"]


class TestWhichMayBeUsed:
    """The configuration names `colour` of acme-mtl; `zeta` crashes when it is imported."""

    @pytest.fixture(autouse=True)
    def installed(self, install, acme):
        acme("colour", "price")
        entry_points = {"tasks": {"wine": "zeta_wine:wine"}, "commands": {"drink": "zeta_wine:drink"}}
        install("zeta", "0.3", entry_points=entry_points, modules={"zeta_wine": CRASH})

    @pytest.mark.parametrize(
        ("variable", "usable"), [("acme-mtl", {"acme-mtl"}), ("", set()), ("zeta, Acme.MTL", {"acme-mtl", "zeta"})]
    )
    def test_by_the_environment(self, monkeypatch, answer, variable, usable):
        monkeypatch.setenv("MTLKIT_PLUGINS", variable)
        shown = answer("plugins", "list")
        ok = {each["distribution"] for each in shown for part in each["components"] if part["state"] == "ok"}
        assert ok == usable
        assert {each["distribution"] for each in answer("list")} == usable | {"mtlkit"}

    def test_by_the_environment_where_one_is_asked_for(self, monkeypatch, refused, mtlkit):
        monkeypatch.setenv("MTLKIT_PLUGINS", "acme-mtl")
        assert mtlkit("train", "run.yaml").exit_code == 0
        assert refused("check", "run.yaml", "tasks=[wine]") == (
            "Error: The task 'wine' is disabled (zeta 0.3, entry point mtlkit.tasks: wine = zeta_wine:wine): the "
            "environment variable MTLKIT_PLUGINS allows acme-mtl, and not zeta. Add zeta there.\n"
        )
        assert "is disabled (zeta 0.3, entry point mtlkit.commands: drink = " in refused("drink")
        assert "zeta_wine" not in sys.modules

    def test_by_the_environment_if_it_can_be_read(self, monkeypatch, refused):
        monkeypatch.setenv("MTLKIT_PLUGINS", "acme mtl")
        for arguments in (["list"], ["train", "run.yaml"], ["drink"]):
            assert "MTLKIT_PLUGINS names 'acme mtl', which is no distribution's name" in refused(*arguments, code=2)

    def test_by_no_plugins(self, refused, answer):
        assert {each["distribution"] for each in answer("list", "--no-plugins")} == {"mtlkit"}
        assert refused("train", "run.yaml", "--no-plugins", "tasks=[colour]") == (
            "Error: The task 'colour' is disabled (acme-mtl 1.2, entry point mtlkit.tasks: colour = acme:colour): "
            "--no-plugins allows no plugin. Leave out --no-plugins.\n"
        )
        assert "acme" not in sys.modules

    @pytest.mark.parametrize(
        ("rule", "reason"),
        [
            ("plugins.allow=[zeta]", "allows zeta, and not acme-mtl. Add acme-mtl there."),
            ("plugins.allow=[]", "allows no plugin. Add acme-mtl there."),
            ("plugins.deny=[Acme_MTL]", "denies acme-mtl. Take it out there."),
        ],
    )
    def test_by_the_configuration(self, refused, rule, reason):
        error = refused("train", "run.yaml", rule, "tasks=[colour]")
        assert "The task 'colour' is disabled (acme-mtl 1.2, entry point" in error
        assert error.endswith(f" {reason}\n")
        assert "acme" not in sys.modules

    def test_by_the_configuration_that_says_where(self, refused, folder):
        with (folder / "run.yaml").open("a", encoding="utf-8") as file:
            file.write("plugins:\n  deny: [acme-mtl]\n")
        assert "plugins (run.yaml:6:3) denies acme-mtl" in refused("check", "run.yaml", "tasks=[colour]")

    def test_by_the_configuration_which_imports_none_that_it_denies(self, refused, answer):
        assert answer("train", "run.yaml", "plugins.deny=[zeta]")["steps"] == 4
        assert "is disabled" in refused("check", "run.yaml", "tasks=[colour, wine]", "plugins.deny=[zeta]")
        # Nor does one import what it would deny if it were not misspelt.
        refused("check", "run.yaml", "tasks=[wine]", "plugins={deny: [zeta], requires: []}", code=2)
        assert "zeta_wine" not in sys.modules

    def test_by_the_configuration_which_cannot_widen(self, monkeypatch, refused, folder):
        allow = "plugins.allow=[acme-mtl, zeta]"
        assert "--no-plugins allows no plugin" in refused("check", "run.yaml", "tasks=[wine]", allow, "--no-plugins")
        monkeypatch.setenv("MTLKIT_PLUGINS", "acme-mtl")
        assert "MTLKIT_PLUGINS allows acme-mtl, and not zeta" in refused("check", "run.yaml", "tasks=[wine]", allow)
        (folder / "my_wines.py").write_text(CRASH, encoding="utf-8")
        files = "plugins.files=[my_wines.py]"
        for arguments, origin in (
            ([], "MTLKIT_PLUGINS allows acme-mtl, and not my_wines.py"),
            (
                ["--no-plugins"],
                "--no-plugins allows no plugin",
            ),
        ):
            error = refused("check", "run.yaml", files, *arguments)
            assert f"names the file {folder / 'my_wines.py'}, and" in error
            assert f"{origin}: a configuration cannot widen what the environment allows." in error
            assert f"say so on the command line: --plugin {folder / 'my_wines.py'}" in error
        assert {"my_wines", "zeta_wine"}.isdisjoint(sys.modules)

    def test_by_what_it_requires(self, mtlkit, refused):
        met = "plugins.require=['acme-mtl>=1.2,<2', 'zeta', 'mtlkit>=0.1']"
        assert mtlkit("train", "run.yaml", met).exit_code == 0
        assert refused("check", "run.yaml", "plugins.require=['acme-mtl>=1.3']") == (
            "Error: acme-mtl>=1.3 is required, and acme-mtl 1.2 is installed. Install what is: pip install "
            "'acme-mtl>=1.3'\n"
        )
        assert refused("check", "run.yaml", "plugins.require=['omega[fast]~=1.0', 'acme-mtl<1']") == (
            "Error: omega[fast]~=1.0 is required, and omega is not installed. Install it: pip install "
            "'omega[fast]~=1.0'\nacme-mtl<1 is required, and acme-mtl 1.2 is installed. Install what is: pip install "
            "'acme-mtl<1'\n"
        )

    def test_by_what_it_requires_as_pip_spells_it(self, refused, folder):
        with (folder / "run.yaml").open("a", encoding="utf-8") as file:
            file.write("plugins:\n  require:\n    - zeta\n    - acme-mtl=>1.2\n")
        error = refused("check", "run.yaml", code=2)
        assert "'acme-mtl=>1.2' is no requirement such as 'acme-mtl>=1.2' (PEP 508): " in error
        assert "at plugins.require[1] (run.yaml:8:7)" in error
        assert "acme" not in sys.modules

    def test_by_what_it_requires_of_itself(self, install, refused):
        install("omega", "1.0", entry_points={"tasks": {"beer": "omega:beer"}}, requires=["mtlkit<0.1"])
        error = refused("check", "run.yaml", "plugins.require=[omega]")
        assert (
            f"omega is required, and omega 1.0 requires mtlkit<0.1, and this is mtlkit {package.__version__}" in error
        )
