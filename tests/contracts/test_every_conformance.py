"""The kit finds what may be wrong with any component: its metadata, its options, and what its import does."""

from __future__ import annotations

import sys

import pytest

from mtlkit.builtins import BUILTINS
from mtlkit.hookspecs import KINDS
from mtlkit.resolve import _FACTS
from mtlkit.testing import Nonconformance, isolated
from mtlkit.testing.every import CHECKS, FACTS
from mtlkit.testing.subject import Subject

BY_NAME = {check.name: check for check in CHECKS}
BOUNDS = "mtlkit>=0.1,<0.2"
REST = ...  # a defect that leaves little to be tested

ENCODER = '''
import os, sys
import mtlkit
from mtlkit.encoders import MLP

class Wave(MLP):
    """A sound encoder."""

wave = mtlkit.plugin(Wave)
'''
ELSEWHERE = '\nif "pytest" not in sys.modules:  # in a process of its own\n    '

TASK = '''
import mtlkit

class Wave(mtlkit.Task):
    """Two options."""

    def __init__(self, *, {options}):
        {body}

    def source(self): ...
    def head(self, features): ...
    def loss(self, output, target): ...
    def metrics(self): ...

wave = mtlkit.plugin(Wave)
'''


def task(options, body="pass"):
    return TASK.format(options=options, body=body)


# check, the kind, the module, what is said of it, and the checks that cannot but fail with it
DEFECTS = [
    ("loads_by_its_entry_point", "encoders", "raise OSError('no vineyard')", "cannot be loaded .*no vineyard", REST),
    ("loads_by_its_entry_point", "encoders", "wave = 3", "cannot be loaded .*has no hook of mtlkit", REST),
    (
        "loads_by_its_entry_point",
        "encoders",
        ENCODER + ELSEWHERE + "raise KeyError('pytest')",
        "is loaded here, and a process that has imported nothing else of yours cannot load it: .*KeyError: 'pytest'",
        (),
    ),
    (
        "loads_by_its_entry_point",
        "encoders",
        ENCODER + ELSEWHERE + "os._exit(3)",
        "cannot load it: the process ended with the exit status 3",
        (),
    ),
    (
        "has_a_summary",
        "encoders",
        ENCODER.replace('"""A sound encoder."""', "pass"),
        "The class Wave has no docstring of its own. Its first line is",
        (),
    ),
    (
        "has_a_summary",
        "encoders",
        ENCODER.replace("A sound encoder", "A" * 100),
        r"begins its docstring with a line of 101 characters: 'AAA.*at most 100",
        (),
    ),
    (
        "options_have_a_schema",
        "tasks",
        task("width: int = 3").replace("self, *,", "self,"),
        "takes 'width', which is not keyword-only. Beside its options, a task is given nothing: put the",
        (),
    ),
    (
        "options_have_a_schema",
        "tasks",
        task("a: int = 3, **options"),
        r"takes \*\*options: options are named one by one",
        (),
    ),
    ("options_have_a_schema", "tasks", task("width=3"), "Option 'width' of wave.Wave has no type annotation", ()),
    (
        "options_have_defaults",
        "tasks",
        task("width: int, height: int = 3"),
        r"options without a default: width\. .*conformance\(\.\.\., options={'width': \.\.\.}\)",
        (),
    ),
    (
        "options_survive_a_run_folder",
        "tasks",
        task("width: int = 'wide'"),
        "are {'width': 'wide'}, and its own schema refuses them: Cannot use 'wide'.* A default is of the type",
        (),
    ),
    (
        "options_survive_a_run_folder",
        "tasks",
        task("width: Annotated[int, BeforeValidator(lambda width: width + 1)] = 3").replace(
            "import mtlkit", "import mtlkit\nfrom typing import Annotated\nfrom pydantic import BeforeValidator"
        ),
        "The options of acme:wave were {'width': 3}, and once written and read again {'width': 4}",
        (),
    ),
    (
        "options_survive_a_run_folder",
        "tasks",
        task("width: int = 3", "raise ValueError('too wide')"),
        "Constructing acme:wave from the options {'width': 3}, as --resume does, raised ValueError: too wide",
        (),
    ),
    (
        "options_survive_a_run_folder",
        "tasks",
        task("widths: list[int] = [1]", "widths.append(2)"),
        r"changed its options to {'widths': \[1, 2, 2\]}. They are the configuration's own",
        (),
    ),
    ("importing_prints_nothing", "encoders", ENCODER + "print('hello')", r"printed 'hello\\n'", ()),
    ("importing_prints_nothing", "encoders", ENCODER + ELSEWHERE + "os.write(2, b'hello')", "printed 'hello'", ()),
    (
        "importing_needs_no_network",
        "encoders",
        ENCODER + ELSEWHERE + "import urllib.request; urllib.request.urlopen('http://203.0.113.1')",
        r"uses the network: socket.getaddrinfo\('203.0.113.1', 80\)",
        (),
    ),
    (
        "importing_needs_no_network",
        "encoders",
        ENCODER + ELSEWHERE + "import socket; socket.socket().connect_ex(('203.0.113.1', 80))",
        r"uses the network: socket.connect\(\('203.0.113.1', 80\)\)",
        (),
    ),
    (
        "importing_is_quick",
        "encoders",
        ENCODER + ELSEWHERE + "import time; time.sleep(0.6)",
        r"takes 0\.[67] seconds, torch not counted, and may take 0\.5",
        (),
    ),
    (
        "importing_changes_no_global_setting",
        "encoders",
        ENCODER + ELSEWHERE + "import torch; torch.set_default_dtype(torch.float64)",
        r"changes torch's default dtype \(torch.float32, now torch.float64\)",
        (),
    ),
]

SETTINGS = {
    "random.seed(0)": "Python's random state",
    "numpy.random.rand()": "NumPy's random state",
    "numpy.seterr(all='raise')": "NumPy's handling of floating-point errors",
    "torch.rand(())": "torch's random state",
    "torch.set_grad_enabled(False)": r"whether torch records gradients \(True, now False\)",
    "torch.backends.cudnn.benchmark = True": "torch.backends.cudnn.benchmark",
    "torch.set_num_threads(3)": "torch's number of threads",
    "torch.set_default_device('meta')": "torch's default device",
    "warnings.simplefilter('ignore')": r"warnings.filters \(\d+ entries, now \d+ entries\)",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)": "the handler of SIGTERM",
    "sys.excepthook = print": "sys.excepthook",
    "sys.stdout = sys.stderr": "sys.stdout",
    "sys.path.append('vineyard')": "sys.path",
    "os.environ['GRAPES'] = 'red'": r"the environment variable GRAPES \(unset, now red\)",
    "del os.environ['PATH']": r"the environment variable PATH \(.*, now unset\)",
    "os.chdir('/')": r"the working directory \(.*, now /\)",
    "logging.basicConfig(level='INFO')": r"the level of the root logger .*, the handlers of the root logger",
}


@pytest.fixture
def provide(install):
    """Return a function that installs the distribution acme with one component, wave, and returns it as a subject."""

    def provided(kind, module, *, requires=(BOUNDS,), modules=(), **settings):
        install(
            "acme",
            entry_points={kind: {"wave": "wave:wave"}},
            modules={"wave": module, **dict(modules)},
            requires=requires,
        )
        return Subject.of("acme:wave", **settings)

    return provided


def failures(subject):
    found = {}
    for check in CHECKS:
        try:
            check.run(subject)
        except Nonconformance as failure:
            found[check.name] = str(failure)
    return found


@pytest.mark.parametrize(("name", "kind", "module", "message", "also"), DEFECTS)
def test_a_defect_is_found(provide, name, kind, module, message, also):
    subject = provide(kind, module, import_seconds=0.5)
    with pytest.raises(Nonconformance, match=message):
        BY_NAME[name].run(subject)
    if also is not REST:
        assert failures(subject).keys() == {name, *also}


def test_every_check_has_a_defect():
    elsewhere = {"its_distribution_bounds_mtlkit"}
    assert {name for name, *_ in DEFECTS} | elsewhere == BY_NAME.keys()


@pytest.mark.parametrize("name", [f"mtlkit:{name}" for _, name, _ in BUILTINS])
def test_what_ships_passes(name):
    assert failures(Subject.of(name)) == {}


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("encoders", ENCODER),
        ("tasks", task("width: int = 3, names: tuple[str, ...] = ('a', 'b'), note: str | None = None")),
        ("tasks", task("width: float = 1, widths: 'list[int]' = (1, 2)")),
    ],
)
def test_what_is_sound_passes(provide, kind, module):
    assert failures(provide(kind, module)) == {}


def test_an_option_without_a_default_may_be_given(provide):
    assert failures(provide("tasks", task("width: int"), options={"width": 3})) == {}


class TestBounds:
    @pytest.mark.parametrize(
        ("requires", "message"),
        [
            ((), "acme 1.0 has no lower bound for the version of mtlkit; it requires nothing of it"),
            (("mtlkit",), "no lower bound .*; it requires 'mtlkit'"),
            (("mtlkit>=0.1",), "no upper bound .*; it requires 'mtlkit>=0.1'. In pyproject.toml"),
            (("mtlkit<0.2",), "no lower bound"),
            (("mtlkit>=0.1,!=0.2",), "no upper bound"),
            (("mtlkit>=0.1,<0.2; extra == 'all'",), "no lower bound"),
        ],
    )
    def test_what_is_missing_is_told(self, provide, requires, message):
        with pytest.raises(Nonconformance, match=message):
            BY_NAME["its_distribution_bounds_mtlkit"].run(provide("encoders", ENCODER, requires=requires))

    @pytest.mark.parametrize(
        "requires",
        [
            ("mtlkit>=0.1,<0.2",),
            ("mtlkit>=0.1", "MTLKIT<1"),
            ("mtlkit~=0.1",),
            ("mtlkit==0.1.*",),
            ("mtlkit @ file:///src/mtlkit",),
        ],
    )
    def test_bounds_have_many_spellings(self, provide, requires):
        BY_NAME["its_distribution_bounds_mtlkit"].run(provide("encoders", ENCODER, requires=requires))


class TestGlobalSettings:
    CHECK = BY_NAME["importing_changes_no_global_setting"]

    @pytest.mark.parametrize(("statement", "message"), SETTINGS.items())
    def test_a_change_is_found(self, provide, statement, message):
        module = f"import logging, numpy, os, random, signal, sys, torch, warnings\n{statement}\n{ENCODER}"
        with pytest.raises(Nonconformance, match=f"changes {message}"):
            self.CHECK.run(provide("encoders", module))

    def test_what_another_package_changes_is_not_its_doing(self, provide):
        sets = {"grapes": "import os, warnings\nos.environ['GRAPES'] = 'red'\nwarnings.simplefilter('ignore')\n"}
        self.CHECK.run(provide("encoders", f"import grapes\n{ENCODER}", modules=sets))
        with pytest.raises(Nonconformance, match="GRAPES"):
            self.CHECK.run(
                provide("encoders", f"import grapes\n{ENCODER}\nos.environ['GRAPES'] = 'white'", modules=sets)
            )


class TestTheOtherProcess:
    def test_it_sees_nothing_of_what_was_loaded_before(self, provide):
        first = isolated.observed(provide("encoders", ENCODER + "sys.modules['vineyard'] = sys\nprint('first')"))
        second = isolated.observed(provide("encoders", ENCODER + "assert 'vineyard' not in sys.modules"))
        assert (first.printed, second.printed, second.error) == ("first\n", "", "")

    def test_it_looks_once(self, provide, tmp_path):
        log = tmp_path / "log"
        subject = provide("encoders", f"open({str(log)!r}, 'a').write('loaded ')\n{ENCODER}")
        for name in ("importing_prints_nothing", "importing_needs_no_network", "importing_is_quick"):
            BY_NAME[name].run(subject)
        assert log.read_text() == "loaded "

    def test_it_has_this_environment(self, provide, monkeypatch):
        monkeypatch.setenv("GRAPES", "red")
        monkeypatch.delenv("HOME")
        seen = isolated.observed(provide("encoders", f"{ENCODER}print(os.environ['GRAPES'], 'HOME' in os.environ)"))
        assert seen.printed == "red False\n"

    def test_it_hashes_otherwise(self, provide, monkeypatch):
        seen = isolated.observed(provide("encoders", f"{ENCODER}print(hash('grape'))"))
        assert int(seen.printed) != hash("grape")

    def test_one_that_takes_too_long_is_ended(self, provide, monkeypatch):
        monkeypatch.setattr(isolated, "LIMIT_S", 5.0)
        subject = provide("commands", "import time\ntime.sleep(60)")
        monkeypatch.setattr(isolated, "LIMIT_S", 0.5)
        assert isolated.observed(subject).error == "it took longer than 0.5 seconds"
        monkeypatch.setattr(isolated, "LIMIT_S", 60.0)
        assert "KeyError" in isolated.observed(provide("commands", "raise KeyError")).error

    def test_one_that_does_not_start_says_why(self):
        with pytest.raises(RuntimeError, match=r"does not start: (.|\n)*KeyError: 'nothing'"):
            isolated._Server("nothing").ask(isolated.Request("encoders", "mlp"))

    def test_this_one_is_left_alone(self, provide):
        isolated.observed(provide("encoders", ENCODER))
        assert "wave" not in sys.modules


def test_the_facts_are_those_that_the_assembly_gives():
    assert {kind: _FACTS[kind] for kind in FACTS} == FACTS
    assert {*FACTS, "commands"} == {*KINDS}
