"""conformance(): one line in a plugin's own tests becomes a test for every promise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import mtlkit
from mtlkit.encoders import Transformer
from mtlkit.errors import ConfigError, PluginError
from mtlkit.hookspecs import KINDS
from mtlkit.specs import InputSpec
from mtlkit.testing import Nonconformance, checks_of, conformance
from mtlkit.testing.subject import Subject

COMMANDS = '''
"""Commands."""
import click
import mtlkit

@click.command()
def hello():
    """Greet somebody."""

@click.command()
def silent():
    pass

hello = mtlkit.plugin(hello)
silent = mtlkit.plugin(silent)
'''
TESTS = '''
import mtlkit
import mtlkit.testing

class Log:
    """Hears that a run is over."""

    @mtlkit.hookimpl
    def mtlkit_run_finished(self, event): ...

SILENT = {"has_a_summary": "nobody knows what it is"}

test_sound = mtlkit.testing.conformance("acme:hello")
test_class = mtlkit.testing.conformance(Log)
test_broken = mtlkit.testing.conformance("acme:silent")
test_declared = mtlkit.testing.conformance("acme:silent", expected_failures=SILENT)
test_mended = mtlkit.testing.conformance("acme:hello", expected_failures=SILENT)
'''


class Wave(mtlkit.Encoder):
    """An encoder that is not plugged in."""


@pytest.fixture
def acme(install):
    """Install the distribution acme with the entry points that are given, of which nothing is imported."""

    def installed(**kinds):
        entry_points = {kind: {name: f"nowhere:{name}" for name in names} for kind, names in kinds.items()}
        return install("acme", entry_points=entry_points)

    return installed


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What pytest says of a plugin's own tests, by the name of each."""
    folder = tmp_path_factory.mktemp("acme")
    metadata = folder / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\nRequires-Dist: mtlkit>=0.1,<0.2\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(
        "[mtlkit.commands]\nhello = acme:hello\nsilent = acme:silent\n", encoding="utf-8"
    )
    (folder / "acme.py").write_text(COMMANDS, encoding="utf-8")
    (folder / "test_acme.py").write_text(TESTS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-W", "error", "test_acme.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


class TestInPytest:
    def outcomes(self, report, test):
        """Return the outcome of each check of a test."""
        found = {}
        for line in report.splitlines():
            outcome, _, rest = line.partition(" test_acme.py::")
            if rest.startswith(f"{test}["):
                found[rest.partition("[")[2].partition("]")[0]] = outcome
        return found

    def test_every_check_is_a_test_by_its_name(self, report):
        passed = dict.fromkeys([check.name for check in checks_of("commands")], "PASSED")
        assert self.outcomes(report, "test_sound") == passed

    def test_a_class_is_tested_where_it_stands(self, report):
        passed = dict.fromkeys([check.name for check in checks_of("plugins")], "PASSED")
        assert self.outcomes(report, "test_class") == passed

    def test_one_check_fails_and_says_why(self, report):
        outcomes = self.outcomes(report, "test_broken")
        assert [name for name, outcome in outcomes.items() if outcome == "FAILED"] == ["has_a_summary"]
        assert "Nonconformance: The command acme:silent has no docstring. Its first line is what" in report

    def test_one_that_is_declared_does_not_count(self, report):
        outcomes = self.outcomes(report, "test_declared")
        assert [name for name, outcome in outcomes.items() if outcome != "PASSED"] == ["has_a_summary"]
        assert outcomes["has_a_summary"] == "XFAIL"
        assert "nobody knows what it is" in report

    def test_one_that_is_declared_and_holds_fails(self, report):
        outcomes = self.outcomes(report, "test_mended")
        assert [name for name, outcome in outcomes.items() if outcome == "FAILED"] == ["has_a_summary"]
        assert "[XPASS(strict)] nobody knows what it is" in report


class TestDeclaring:
    def marks(self, **arguments):
        test = conformance("mtlkit:mlp", **arguments)
        (parametrized,) = test.pytestmark
        return {parameter.id: parameter.marks for parameter in parametrized.args[1]}

    def test_nothing_is_declared_by_default(self):
        assert set(map(len, self.marks().values())) == {0}

    def test_a_bug_in_the_kit_is_no_expected_failure(self):
        marks = self.marks(expected_failures={"float64_is_kept": "it is of float32"})
        (mark,) = marks.pop("float64_is_kept")
        assert (mark.name, mark.kwargs["raises"], mark.kwargs["strict"]) == ("xfail", Nonconformance, True)
        assert set(map(len, marks.values())) == {0}

    def test_a_check_that_there_is_not(self):
        with pytest.raises(ValueError, match=r"No check is called 'float64_kept'\. Did you mean 'float64_is_kept'\?"):
            self.marks(expected_failures={"float64_kept": "it is of float32"})

    def test_the_test_says_what_it_is(self):
        assert conformance("mlp").__doc__ == "mtlkit:mlp keeps what a component of the encoders promises."


class TestChecks:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_has_a_name_of_its_own_and_a_promise(self, kind):
        checks = checks_of(kind)
        assert len({check.name for check in checks}) == len(checks)
        for check in checks:
            assert check.name.isidentifier()
            assert check.promise.endswith(".")

    def test_those_of_every_kind_come_first(self):
        first = {checks_of(kind)[0].name for kind in KINDS}
        assert first == {"loads_by_its_entry_point"}


class TestNaming:
    def test_it_imports_nothing(self, acme):
        acme(tasks=["wine"])
        assert Subject.of("acme:wine").record.value == "nowhere:wine"

    def test_short_and_qualified(self, acme):
        acme(tasks=["wine"])
        assert Subject.of("wine").name == Subject.of("Acme:WINE").name == "acme:wine"
        assert Subject.of("wine").kind == "tasks"

    def test_a_name_that_there_is_not(self, acme):
        acme(tasks=["wine"])
        with pytest.raises(ConfigError, match=r"Unknown component 'acme:whine'\. Did you mean 'acme:wine'\?"):
            conformance("acme:whine")

    def test_a_name_that_there_is_not_among_its_kind(self, acme):
        acme(tasks=["wine"])
        with pytest.raises(ConfigError, match="Unknown encoder 'acme:wine'"):
            conformance("acme:wine", kind="encoders")

    def test_a_distribution_that_is_not_installed(self):
        with pytest.raises(PluginError, match=r"'vineyard', which is not installed\. Install it: pip install vineyard"):
            conformance("vineyard:wine")

    def test_a_name_of_two_kinds(self, acme):
        acme(tasks=["wine"], encoders=["wine"])
        with pytest.raises(
            ConfigError, match=r"'wine' is one of the tasks and of the encoders\. Say which: kind=\.\.\."
        ):
            conformance("wine")
        assert Subject.of("wine", kind="encoders").kind == "encoders"

    def test_a_name_of_two_distributions(self, acme, install):
        acme(strategies=["wine"])
        install("zeta", entry_points={"strategies": {"wine": "nowhere:wine"}})
        with pytest.raises(
            ConfigError, match=r"Ambiguous strategy 'wine'\. Say which one is meant: acme:wine .*zeta:wine"
        ):
            conformance("wine")
        assert Subject.of("zeta:wine").record.distribution == "zeta"

    def test_a_kind_that_there_is_not(self):
        with pytest.raises(ConfigError, match=r"no components of the kind 'task'\. Did you mean 'tasks'\?"):
            conformance("mlp", kind="task")

    def test_one_that_may_not_be_used(self, acme, monkeypatch):
        acme(tasks=["wine"])
        monkeypatch.setenv("MTLKIT_PLUGINS", "zeta")
        with pytest.raises(PluginError, match="The task 'wine' is disabled"):
            conformance("acme:wine")

    def test_one_that_cannot_be_loaded_does_not_conform(self, acme):
        acme(tasks=["wine"])
        with pytest.raises(Nonconformance, match=r"The task 'wine' cannot be loaded .*No module named 'nowhere'"):
            _ = Subject.of("acme:wine").component


class TestClasses:
    def test_its_kind_is_that_of_its_base(self):
        subject = Subject.of(Wave, inputs=[InputSpec((3, 8))])
        assert (subject.kind, subject.name, subject.component) == ("encoders", "Wave", Wave)

    def test_rows_are_named_by_a_shape_or_by_all_that_they_are(self):
        tokens = InputSpec((3,), categories=(5, 5, 5))
        refusals = next(check for check in checks_of("encoders") if check.name == "rows_it_does_not_take_are_refused")
        conformance(Transformer, inputs=[(3, 4), tokens])(refusals)
        with pytest.raises(Nonconformance, match=r"refuses rows of shape \(3,\), which it is to be tested with"):
            conformance(Transformer, inputs=[(3,), tokens])(refusals)

    def test_a_class_of_no_kind(self):
        with pytest.raises(ConfigError, match=r"received <class 'int'>\. A class derives from mtlkit\.Task, Encoder"):
            conformance(int)

    def test_a_class_of_another_kind(self):
        with pytest.raises(ConfigError, match=r"Wave is no task\. kind='encoders'\."):
            conformance(Wave, kind="tasks")
