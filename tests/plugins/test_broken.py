"""Plugins that are broken, each in a way of its own: each says so when it is asked for, and harms nobody before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import mtlkit
from mtlkit.cli import main
from mtlkit.errors import PluginError
from mtlkit.registry import Registry

TASK = "import mtlkit\nclass Wine(mtlkit.Task): 'Wine.'\n"
HOOK = f"{TASK}class Plugin:\n    @mtlkit.hookimpl\n    {{hook}}\nwine = Plugin()\n"
ANSWER = f"{TASK}class Plugin:\n    @mtlkit.hookimpl\n    def mtlkit_task(self): {{body}}\nwine = Plugin()\n"
RUN_HOOKS = "import mtlkit, pluggy\nclass Log:\n{body}\nwine = mtlkit.plugin(Log)\n"
PLUGIN = "Write wine = mtlkit.plugin(YourClass) in bad_module, and let the entry point lead to bad_module:wine."
AUTHORS = "Reinstall or update bad-mtl, or tell its authors."
NOT_AWAITED = "Write it as a plain function; it may start what is async by asyncio.run()."


@dataclass(frozen=True)
class Broken:
    """What is wrong with a distribution, and what is to be said of it: parts of the reason, and the remedy."""

    reason: str
    remedy: str
    module: str | None = TASK
    kind: str = "tasks"
    name: str = "wine"
    value: str = "bad_module:wine"
    entry_points: str = ""
    requires: tuple[str, ...] = ()
    imported: bool = True
    state: str = "ok"  # as far as metadata tells


BROKEN = {
    # --- its module ---
    "raises": Broken("importing it raised ValueError: no grapes (", AUTHORS, "raise ValueError('no grapes')\n"),
    "raises-what-cannot-be-said": Broken(
        "importing it raised Odd (", AUTHORS, "class Odd(Exception):\n    def __str__(self): 1 / 0\nraise Odd\n"
    ),
    "syntax-error": Broken("importing it raised SyntaxError: expected ':' (", AUTHORS, "def wine()\n", imported=False),
    "exits": Broken("importing it raised SystemExit: 0 (", AUTHORS, "import sys\nsys.exit(0)\n"),
    "missing-dependency": Broken(
        "importing it raised ModuleNotFoundError: No module named 'vineyard' (",
        "Install what provides 'vineyard'; if bad-mtl should have brought it, tell its authors.",
        "import vineyard.red\n",
    ),
    "missing-module": Broken("ModuleNotFoundError: No module named 'bad_module'", AUTHORS, None, imported=False),
    "missing-attribute": Broken(
        "its entry point leads to 'wine' in bad_module, which has none",
        "Did you mean 'Wine'? Write wine = mtlkit.plugin(YourClass) in bad_module, or correct the entry point.",
    ),
    "missing-attribute-of-an-attribute": Broken(
        "its entry point leads to 'plugin' in Wine, which has none",
        "Write plugin = mtlkit.plugin(YourClass) in Wine, or correct the entry point.",
        value="bad_module:Wine.plugin",
    ),
    # --- what its entry point leads to ---
    "no-hook-in-a-module": Broken("the module bad_module has no hook of mtlkit", PLUGIN, value="bad_module"),
    "no-hook": Broken("leads to, <function wine at 0x", PLUGIN, f"{TASK}def wine(): return Wine\n"),
    "cannot-be-looked-into": Broken(
        "looking at what it leads to raised SystemExit: 4",
        AUTHORS,
        "class Odd:\n    @property\n    def grape(self): raise SystemExit(4)\nwine = Odd()\n",
    ),
    "cannot-be-shown": Broken(
        "what its entry point leads to, <Odd>, has no hook of mtlkit",
        PLUGIN,
        "class Odd:\n    def __repr__(self): 1 / 0\nwine = Odd()\n",
    ),
    "the-task-itself": Broken(
        "its entry point leads to the class Wine itself, a task, and a plugin that answers with it is needed",
        "Write wine = mtlkit.plugin(Wine) in bad_module, and let the entry point lead to bad_module:wine.",
        value="bad_module:Wine",
    ),
    "a-class-that-is-no-task": Broken(
        "its entry point leads to the class Wine, which is no mtlkit.Task",
        PLUGIN,
        "class Wine: ...\n",
        value="bad_module:Wine",
    ),
    "a-class-not-an-instance": Broken(
        "its entry point leads to the class Plugin, and an instance of it is needed, whose methods can be called",
        "Write plugin = Plugin() in bad_module, and let the entry point lead to bad_module:plugin.",
        HOOK.format(hook="def mtlkit_task(self): return Wine"),
        value="bad_module:Plugin",
    ),
    "a-coroutine": Broken(
        "its entry point leads to something async, and plugins are called, not awaited",
        NOT_AWAITED,
        "async def make(): ...\nwine = make()\n",
    ),
    "an-async-function": Broken("leads to something async", NOT_AWAITED, "async def wine(): ...\n"),
    "an-async-generator": Broken("leads to something async", NOT_AWAITED, "async def wine(): yield\n"),
    # --- its hooks ---
    "misspelt-hook": Broken(
        "it implements the hook 'mtlkit_taks', and there is none",
        "Did you mean 'mtlkit_task'? Hooks: mtlkit_task, mtlkit_encoder, mtlkit_architecture, mtlkit_strategy, ",
        HOOK.format(hook="def mtlkit_taks(self): return Wine"),
    ),
    "hook-with-an-unknown-argument": Broken(
        "its hook mtlkit_task asks for the argument 'registry', which it is not given",
        "Allowed: none.",
        HOOK.format(hook="def mtlkit_task(self, registry): return Wine"),
    ),
    "hook-with-an-argument-by-name": Broken(
        "its hook mtlkit_run_started takes 'event' by name alone, and hooks are called by position",
        "Take out the '*' before it.",
        HOOK.format(hook="def mtlkit_run_started(self, *, event): ..."),
        kind="plugins",
    ),
    "marked-for-another-project": Broken(
        "its function mtlkit_task is marked as a hook of the project 'pytest', not of mtlkit",
        "Set @mtlkit.hookimpl above mtlkit_task in bad_module.",
        f"import pluggy\n{TASK}@pluggy.HookimplMarker('pytest')\ndef mtlkit_task(): return Wine\n",
        value="bad_module",
    ),
    "marked-for-another-project-under-another-name": Broken(
        "its function pytest_configure is marked as a hook of the project 'pytest', not of mtlkit",
        "Set @mtlkit.hookimpl above pytest_configure in bad_module.",
        "import pluggy\n@pluggy.HookimplMarker('pytest')\ndef pytest_configure(): ...\n",
        value="bad_module",
    ),
    "unmarked-function": Broken(
        "its function mtlkit_task is not marked as a hook",
        "Set @mtlkit.hookimpl above mtlkit_task in bad_module.",
        f"{TASK}def mtlkit_task(): return Wine\n",
        value="bad_module",
    ),
    "async-hook": Broken(
        "its hook mtlkit_task is async, and hooks are called, not awaited",
        NOT_AWAITED,
        HOOK.format(hook="async def mtlkit_task(self): return Wine"),
    ),
    "async-generator-hook": Broken(
        "its hook mtlkit_task is async, and hooks are called, not awaited",
        NOT_AWAITED,
        HOOK.format(hook="async def mtlkit_task(self): yield Wine"),
    ),
    "hook-wrapper": Broken(
        "its hook mtlkit_task wraps others, and it is the only one there is",
        "Return the class instead.",
        f"{TASK}@mtlkit.hookimpl(wrapper=True)\ndef mtlkit_task():\n    yield\n    return Wine\n",
        value="bad_module",
    ),
    "hook-of-another-group": Broken(
        "it answers mtlkit_encoder, and an entry point of the group mtlkit.tasks must answer mtlkit_task",
        "Declare it in the group mtlkit.encoders, or answer mtlkit_task.",
        "import mtlkit\nclass Wave(mtlkit.Encoder): 'Wave.'\nwine = mtlkit.plugin(Wave)\n",
    ),
    "run-hook-where-a-task-is-needed": Broken(
        "it answers mtlkit_run_started, and an entry point of the group mtlkit.tasks must answer mtlkit_task",
        "Declare it in the group mtlkit.plugins, or answer mtlkit_task.",
        HOOK.format(hook="def mtlkit_run_started(self, event): ..."),
    ),
    "task-where-run-hooks-are-needed": Broken(
        "it answers mtlkit_task, and an entry point of the group mtlkit.plugins must answer mtlkit_run_hooks",
        "Declare it in the group mtlkit.tasks, or answer mtlkit_run_hooks.",
        f"{TASK}wine = mtlkit.plugin(Wine)\n",
        kind="plugins",
    ),
    "hook-raises": Broken(
        "its hook mtlkit_task raised KeyError: 'vineyard'", AUTHORS, ANSWER.format(body="raise KeyError('vineyard')")
    ),
    "hook-exits": Broken(
        "its hook mtlkit_task raised SystemExit: 5", AUTHORS, ANSWER.format(body="raise SystemExit(5)")
    ),
    # --- what its hook answers ---
    "answers-an-instance": Broken(
        "its hook mtlkit_task must return a subclass of mtlkit.Task; it returned <bad_module.Plugin object at 0x",
        PLUGIN,
        ANSWER.format(body="return self"),
    ),
    "answers-a-string": Broken(
        "its hook mtlkit_task must return a subclass of mtlkit.Task; it returned 'Wine'",
        PLUGIN,
        ANSWER.format(body="return 'Wine'"),
    ),
    "answers-nothing": Broken(
        "its hook mtlkit_task must return a subclass of mtlkit.Task; it returned None",
        PLUGIN,
        ANSWER.format(body="..."),
    ),
    "answers-a-class-of-another-kind": Broken(
        "its hook mtlkit_task must return a subclass of mtlkit.Task; it returned <class 'mtlkit.encoders.mlp.MLP'>",
        PLUGIN,
        ANSWER.format(body="from mtlkit.encoders import MLP; return MLP"),
    ),
    "answers-what-cannot-be-shown": Broken(
        "must return a subclass of mtlkit.Task; it returned <Odd>",
        PLUGIN,
        "class Odd:\n    def __repr__(self): 1 / 0\n" + ANSWER.format(body="return Odd()"),
    ),
    # --- its metadata ---
    "unreadable": Broken(
        "its entry points cannot be read (",
        "Reinstall it: pip install --force-reinstall bad-mtl",
        entry_points="[mtlkit.tasks]\nwine\n",
        imported=False,
        state="broken",
    ),
    "invalid-value": Broken(
        "its entry point leads to 'bad-module:wine', which is no module:attribute",
        "Tell the authors of bad-mtl.",
        value="bad-module:wine",
        imported=False,
        state="broken",
    ),
    "colliding-names": Broken(
        "bad-mtl has 2 components of this kind whose names are the same in NFC and without case, 'ros\u00e9', and they "
        "lead to bad_module:red, bad_module:wine",
        "Tell the authors of bad-mtl.",
        name="ros\u00e9",
        entry_points="[mtlkit.tasks]\nRose\u0301 = bad_module:wine\nros\u00e9 = bad_module:red\n",
        value="bad_module:red",
        imported=False,
        state="broken",
    ),
    "name-with-a-space": Broken(
        "it is called 'red wine', and a name holds no spaces and no control characters",
        "Tell the authors of bad-mtl.",
        name="red wine",
        imported=False,
        state="broken",
    ),
    "name-with-a-colon": Broken(
        "it is called 'red:wine', and a name holds no ':', which stands between a distribution and a name",
        "Tell the authors of bad-mtl.",
        name="red:wine",
        imported=False,
        state="broken",
    ),
    "incompatible": Broken(
        f"bad-mtl 1.2 requires mtlkit<0.1, and this is mtlkit {mtlkit.__version__}; it was not imported",
        "Look for a release that admits it: pip install --upgrade bad-mtl. Or install the mtlkit that it is made for: "
        "pip install 'mtlkit<0.1'.",
        requires=("mtlkit<0.1",),
        imported=False,
        state="incompatible",
    ),
    # --- hooks of runs ---
    "run-hooks-misspelt": Broken(
        "it implements the hook 'mtlkit_run_begun', and there is none",
        "Did you mean 'mtlkit_run_started'? Hooks: mtlkit_run_started, mtlkit_step_recorded, ",
        RUN_HOOKS.format(body="    @mtlkit.hookimpl\n    def mtlkit_run_begun(self, event): ..."),
        kind="plugins",
    ),
    "run-hooks-unmarked": Broken(
        "its function mtlkit_run_started is not marked as a hook",
        "Set @mtlkit.hookimpl above mtlkit_run_started in bad_module.",
        RUN_HOOKS.format(
            body="    def mtlkit_run_started(self, event): ...\n    @mtlkit.hookimpl\n"
            "    def mtlkit_run_finished(self, event): ..."
        ),
        kind="plugins",
    ),
    "run-hooks-marked-for-another-project": Broken(
        "importing it raised TypeError: mtlkit.plugin() takes a subclass of mtlkit.Task, Encoder, Architecture or "
        "Strategy, a class with methods that are marked with mtlkit.hookimpl, or a click command; received <class '",
        AUTHORS,
        RUN_HOOKS.format(body="    @pluggy.HookimplMarker('pytest')\n    def mtlkit_run_started(self, event): ..."),
        kind="plugins",
    ),
    "run-hooks-async": Broken(
        "its hook mtlkit_run_started is async, and hooks are called, not awaited",
        NOT_AWAITED,
        RUN_HOOKS.format(body="    @mtlkit.hookimpl\n    async def mtlkit_run_started(self, event): ..."),
        kind="plugins",
    ),
    "run-hooks-with-an-unknown-argument": Broken(
        "its hook mtlkit_run_started asks for the arguments 'step', 'loss', which it is not given",
        "Allowed: event.",
        RUN_HOOKS.format(body="    @mtlkit.hookimpl\n    def mtlkit_run_started(self, step, loss): ..."),
        kind="plugins",
    ),
    "run-hooks-class-itself": Broken(
        "its entry point leads to the class Log itself, and a plugin that answers with it is needed",
        "Write wine = mtlkit.plugin(Log) in bad_module, and let the entry point lead to bad_module:wine.",
        RUN_HOOKS.format(body="    @mtlkit.hookimpl\n    def mtlkit_run_started(self, event): ..."),
        kind="plugins",
        value="bad_module:Log",
    ),
    "run-hooks-instance": Broken(
        "its hook mtlkit_run_hooks must return a class with hooks of runs; it returned 3",
        PLUGIN.replace("YourClass", "YourHooks"),
        HOOK.format(hook="def mtlkit_run_hooks(self): return 3"),
        kind="plugins",
    ),
    "run-hooks-without-any": Broken(
        "the class Wine has no hook of mtlkit",
        PLUGIN.replace("YourClass", "YourHooks"),
        HOOK.format(hook="def mtlkit_run_hooks(self): return Wine"),
        kind="plugins",
    ),
    # --- commands ---
    "command-that-is-none": Broken(
        "its hook mtlkit_command must return a click command; it returned <class 'bad_module.Wine'>",
        PLUGIN.replace("YourClass", "your_click_command"),
        HOOK.format(hook="def mtlkit_command(self): return Wine"),
        kind="commands",
    ),
    "command-not-made-a-plugin": Broken(
        "leads to, <Command wine>, has no hook of mtlkit",
        PLUGIN.replace("YourClass", "your_click_command"),
        "import click\n@click.command()\ndef wine(): ...\n",
        kind="commands",
    ),
}


@pytest.fixture
def imported(tmp_path) -> Path:
    """A folder in which each broken module that is imported leaves a file of its name."""
    path = tmp_path / "imported"
    path.mkdir()
    return path


@pytest.fixture
def install_broken(install, imported):
    """Return a function that installs one of the broken distributions; by default as ``bad-mtl 1.2``."""

    def install_one(case: Broken, name: str = "bad-mtl", module: str = "bad_module") -> Path:
        marker = f"open({str(imported / module)!r}, 'w').close()\n"
        modules = {} if case.module is None else {module: marker + case.module}
        value = case.value.replace("bad_module", module)
        entry_points = {case.kind: {case.name: value}}
        site = install(name, "1.2", entry_points=entry_points, modules=modules, requires=case.requires)
        if case.entry_points:
            (metadata,) = site.glob("*.dist-info")
            (metadata / "entry_points.txt").write_text(
                case.entry_points.replace("bad_module", module), encoding="utf-8"
            )
        return site

    return install_one


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_it_says_what_is_wrong_when_it_is_asked_for(install_broken, imported, case):
    install_broken(case)
    registry = Registry.discover()
    with pytest.raises(PluginError) as caught:
        registry.load(registry.find(case.kind, f"bad-mtl:{case.name}"))
    error, details = caught.value, caught.value.to_dict()
    assert error.exit_code == details["exit_code"] == 3
    assert (details["kind"], details["distribution"], details["version"]) == ("PluginError", "bad-mtl", "1.2")
    assert case.reason in details["reason"]
    assert details["remedy"].startswith(case.remedy)
    assert f"{details['reason']}. {details['remedy']}" in str(error)
    assert "bad-mtl 1.2" in str(error)
    assert ".." not in str(error).replace("...", "")
    if not case.reason.startswith("its entry points cannot"):
        entry_point = f"mtlkit.{case.kind}: {case.name} = {case.value}"
        assert details["entry_point"] == entry_point
        assert f"(bad-mtl 1.2, entry point {entry_point})" in str(error)
    assert (imported / "bad_module").exists() is case.imported


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_a_command_ends_with_no_traceback(install_broken, case):
    install_broken(case)
    done = CliRunner().invoke(main, ["show", case.kind, f"bad-mtl:{case.name}"], prog_name="mtlkit")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith(f"Error: The {case.kind.removesuffix('s')} '")
    assert "Traceback" not in done.stderr
    as_json = CliRunner().invoke(main, ["show", case.kind, f"bad-mtl:{case.name}", "--json"], prog_name="mtlkit")
    error = json.loads(as_json.stdout)["error"]
    assert case.reason in error["reason"]
    assert error["distribution"] == "bad-mtl"


@pytest.fixture
def all_broken(install_broken):
    """Every broken distribution at once, each with a module of its own."""
    for number, case in enumerate(BROKEN.values()):
        install_broken(case, f"bad-mtl-{number:02d}", f"bad_module_{number:02d}")


class TestAllAtOnce:
    def test_a_run_of_other_tasks_is_not_harmed(self, all_broken, imported, acme, tmp_path):
        acme("colour", "price")
        settings = {
            "run": {"name": "wines", "dir": str(tmp_path)},
            "tasks": ["colour", "price"],
            "encoder": {"layers": [4]},
            "training": {"steps": 2, "device": "cpu", "threads": 1},
        }
        run = mtlkit.train(settings)
        assert run.steps == 2
        step, results = mtlkit.evaluate(run.folder)
        assert (step, list(results)) == (run.best_step, ["colour", "price"])
        assert list(imported.iterdir()) == []

    @pytest.mark.parametrize("arguments", [["list"], ["plugins", "list"], ["--help"], ["list", "commands"]])
    def test_what_lists_them_imports_none(self, all_broken, imported, acme, arguments):
        acme("colour")
        done = CliRunner().invoke(main, arguments, prog_name="mtlkit")
        assert done.exit_code == 0, done.output
        assert list(imported.iterdir()) == []

    def test_each_is_listed_with_its_state(self, all_broken):
        done = CliRunner().invoke(main, ["plugins", "list", "--json"], prog_name="mtlkit")
        shown = {each["distribution"]: each for each in json.loads(done.stdout)}
        for number, (name, case) in enumerate(BROKEN.items()):
            each = shown[f"bad-mtl-{number:02d}"]
            states = {part["state"] for part in each["components"]} - {"ambiguous"}
            assert states <= {case.state}, name  # what else is wrong shows when it is loaded
            assert bool(each["unreadable"]) is (name == "unreadable")
