"""The registry: metadata is read, nothing is imported until it is asked for, and a broken plugin says whose it is."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

import mtlkit
from mtlkit.builtins import BUILTINS
from mtlkit.encoders import MLP
from mtlkit.errors import ConfigError, PluginError
from mtlkit.registry import Record, Registry

LISTENER = """
import mtlkit

class Log:
    @mtlkit.hookimpl
    def {hook}(self, event): ...

log = Log()
"""
NOT_IMPORTED = "raise AssertionError('listing must not import')\n"


def tasks(*names: str) -> dict[str, dict[str, str]]:
    """Return entry points that lead nowhere, for what is not to be loaded."""
    return {"tasks": {name: f"nowhere:{name}" for name in names}}


def found(kind: str, name: str) -> Record:
    return Registry.discover().find(kind, name)


def loaded(kind: str, name: str) -> object:
    registry = Registry.discover()
    return registry.load(registry.find(kind, name))


def broken(kind: str, name: str) -> str:
    """Return how loading a component is refused."""
    with pytest.raises(PluginError) as caught:
        loaded(kind, name)
    assert caught.value.exit_code == 3
    return str(caught.value)


def unknown(kind: str, name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        found(kind, name)
    assert caught.value.exit_code == 2
    return str(caught.value)


class TestDiscovery:
    def test_what_ships_is_there(self):
        records = Registry.discover().records()
        assert {(r.kind, r.name, r.value) for r in records if r.distribution == "mtlkit"} == set(BUILTINS)
        assert all(r.version == mtlkit.__version__ for r in records if r.distribution == "mtlkit")

    def test_a_distribution_is_read_from_its_metadata(self, install):
        install("Acme.MTL", "2.0", entry_points=tasks("wine"), modules={"nowhere": NOT_IMPORTED})
        assert found("tasks", "wine") == Record("tasks", "wine", "acme-mtl", "2.0", "nowhere:wine")

    def test_it_imports_nothing(self, install, tmp_path):
        marker = tmp_path / "imported"
        module = f"open({str(marker)!r}, 'w').close()\nraise SystemExit\n"
        install("acme", entry_points=tasks("wine"), modules={"nowhere": module})
        registry = Registry.discover()
        record = registry.find("tasks", "wine")
        assert record in registry.records("tasks")
        assert not marker.exists()
        with pytest.raises(PluginError):
            registry.load(record)
        assert marker.exists()

    def test_records_are_sorted_and_by_kind(self, install):
        install("acme", entry_points=tasks("zebra", "ant") | {"encoders": {"wave": "nowhere:wave"}})
        registry = Registry.discover()
        assert registry.records() == sorted(registry.records())
        mine = [r.name for r in registry.records("tasks") if r.distribution == "acme"]
        assert mine == ["ant", "zebra"]
        assert [r.name for r in registry.records("encoders") if r.distribution == "acme"] == ["wave"]

    def test_other_groups_are_left_alone(self, install):
        install("acme", entry_points={"nonsense": {"wine": "nowhere:wine"}})
        assert "wine" not in {record.name for record in Registry.discover().records()}

    def test_one_distribution_found_twice_counts_once(self, install):
        install("acme-mtl", "1.0", entry_points=tasks("wine", "old"))
        install("Acme_MTL", "2.0", entry_points=tasks("wine"))
        registry = Registry.discover()
        assert registry.find("tasks", "wine").version == "2.0"  # first on sys.path, and so the one that imports
        assert not registry.is_ambiguous(registry.find("tasks", "wine"))
        assert "old" not in {record.name for record in registry.records("tasks")}

    def test_one_folder_on_the_path_twice_counts_once(self, install, monkeypatch):
        monkeypatch.syspath_prepend(str(install("acme", entry_points=tasks("wine"))))
        assert found("tasks", "wine").distribution == "acme"

    def test_one_that_was_half_removed_is_passed_over(self, install):
        site = install("acme", entry_points=tasks("wine"))
        (site / "rest-1.0.dist-info").mkdir()
        assert found("tasks", "wine").distribution == "acme"

    @pytest.mark.parametrize("text", ["[mtlkit.tasks]\nwine\n", "no section\n", "[mtlkit.tasks\nwine = a:b\n"])
    def test_one_whose_entry_points_cannot_be_read_harms_no_other(self, install, text):
        install("acme", entry_points=tasks("wine"))
        site = install("torn")
        (site / "torn-1.0.dist-info" / "entry_points.txt").write_text(text, encoding="utf-8")
        assert found("tasks", "wine").distribution == "acme"

    def test_one_without_a_version_harms_no_other(self, install):
        install("acme", entry_points=tasks("wine"))
        site = install("torn", entry_points=tasks("cheese", "bread"))
        (site / "torn-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\n", encoding="utf-8")
        assert found("tasks", "wine").distribution == "acme"

    def test_a_registry_may_hold_what_it_is_given(self):
        record = Record("tasks", "wine", "acme", "1.0", "acme:wine")
        registry = Registry([record, record])
        assert registry.records() == [record]
        assert registry.records("encoders") == []


class TestNames:
    def test_short_and_qualified(self, install):
        install("acme-mtl", entry_points=tasks("wine"))
        assert found("tasks", "wine") == found("tasks", "acme-mtl:wine")

    @pytest.mark.parametrize("name", ["acme-mtl:wine", "Acme_MTL:wine", "acme.mtl:wine"])
    def test_a_distribution_goes_by_any_of_its_spellings(self, install, name):
        install("acme-mtl", entry_points=tasks("wine"))
        assert found("tasks", name).qualified == "acme-mtl:wine"

    def test_what_ships_has_qualified_names_too(self):
        assert loaded("encoders", "mtlkit:mlp") is MLP

    def test_one_name_in_two_kinds_is_no_clash(self, install):
        install("acme", entry_points={"tasks": {"mlp": "nowhere:mlp"}})
        assert found("encoders", "mlp").distribution == "mtlkit"
        assert found("tasks", "mlp").distribution == "acme"

    def test_two_distributions_with_one_name(self, install):
        install("acme-mtl", "1.2", entry_points=tasks("wine"))
        install("zeta", "0.3", entry_points=tasks("wine"))
        message = unknown("tasks", "wine")
        assert "Ambiguous task 'wine'" in message
        assert "acme-mtl:wine (acme-mtl 1.2) and zeta:wine (zeta 0.3)" in message
        assert found("tasks", "zeta:wine").version == "0.3"
        assert found("tasks", "acme-mtl:wine").version == "1.2"
        registry = Registry.discover()
        assert all(registry.is_ambiguous(r) for r in registry.records("tasks") if r.name == "wine")

    def test_what_ships_wins_over_nobody(self, install):
        install("acme", "1.0", entry_points={"encoders": {"mlp": "nowhere:mlp"}})
        message = unknown("encoders", "mlp")
        assert "acme:mlp (acme 1.0)" in message
        assert f"mtlkit:mlp (mtlkit {mtlkit.__version__})" in message
        assert loaded("encoders", "mtlkit:mlp") is MLP

    def test_an_unknown_name_is_answered_with_the_known_ones(self):
        assert unknown("strategies", "gradnrom") == (
            "Unknown strategy 'gradnrom'. Did you mean 'gradnorm'? Known: fixed, gradnorm, uncertainty."
        )

    def test_ambiguous_names_are_offered_qualified(self, install):
        install("acme", entry_points={"encoders": {"mlp": "nowhere:mlp"}})
        assert "Known: cnn, acme:mlp, mtlkit:mlp." in unknown("encoders", "tree")

    def test_an_unknown_task_is_answered_with_where_tasks_come_from(self, install):
        install("acme", entry_points=tasks("wine"))
        message = unknown("tasks", "wien")
        assert "Did you mean 'wine'? Installed: " in message
        assert "Tasks come from plugins: install the one that provides it." in message

    def test_a_name_that_its_distribution_does_not_have(self, install):
        install("acme", entry_points=tasks("wine"))
        assert "Unknown task 'acme:wien'. Did you mean 'wine'?" in unknown("tasks", "acme:wien")

    @pytest.mark.parametrize("kind", ["tasks", "encoders"])
    def test_a_distribution_that_is_not_installed(self, kind):
        with pytest.raises(PluginError) as caught:
            found(kind, "acme-nowhere:wine")
        assert caught.value.exit_code == 3
        assert "'acme-nowhere', which is not installed" in str(caught.value)
        assert "pip install acme-nowhere" in str(caught.value)

    @pytest.mark.parametrize("name", [":", ":wine", "::", ""])
    def test_a_name_that_names_no_distribution(self, name):
        assert "Unknown task" in unknown("tasks", name)

    @pytest.mark.parametrize("name", ["no such thing:wine", "../..:wine", "-r requirements:wine", "a;b:wine"])
    def test_no_command_is_made_of_what_is_no_name(self, name):
        # It would be pasted into a shell.
        with pytest.raises((ConfigError, PluginError)) as caught:
            found("tasks", name)
        assert "pip install" not in str(caught.value)


class TestLoading:
    def test_a_plugin(self, acme):
        acme("colour")
        component = loaded("tasks", "colour")
        assert component.__name__ == "Colour"
        assert issubclass(component, mtlkit.Task)

    @pytest.mark.parametrize(("kind", "name", "value"), BUILTINS)
    def test_what_ships(self, kind, name, value):
        component = loaded(kind, name)
        assert f"{component.__module__}:{component.__name__}" == value

    def test_a_module_may_be_the_plugin(self, install):
        module = (
            "import mtlkit\nclass Wine(mtlkit.Task): 'Wine.'\n@mtlkit.hookimpl\ndef mtlkit_task():\n    return Wine\n"
        )
        install("acme", entry_points={"tasks": {"wine": "acme_module"}}, modules={"acme_module": module})
        assert loaded("tasks", "wine").__name__ == "Wine"

    def test_only_what_is_asked_for_is_imported(self, install):
        install(
            "acme", entry_points={"tasks": {"wine": "acme_wine:wine"}}, modules={"acme_wine": "raise RuntimeError\n"}
        )
        assert loaded("encoders", "mlp") is MLP
        assert "acme_wine" not in sys.modules

    @pytest.mark.parametrize(
        ("module", "cause"),
        [
            ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
            ("raise ImportError('torchvision is too old')\n", "ImportError: torchvision is too old"),
            ("1 / 0\n", "ZeroDivisionError: division by zero"),
            ("def wine(:\n", "SyntaxError"),
            ("import sys; sys.exit(3)\n", "SystemExit: 3"),
            ("class Odd(BaseException): pass\nraise Odd('odd')\n", "Odd: odd"),
            ("other = 1\n", "AttributeError"),
            ("\x00", "null bytes"),
        ],
    )
    def test_a_module_that_cannot_be_imported(self, install, module, cause):
        install("acme-mtl", "1.2", entry_points={"tasks": {"wine": "acme_bad:wine"}}, modules={"acme_bad": module})
        message = broken("tasks", "wine")
        assert message.startswith(
            "The task 'wine' cannot be loaded (acme-mtl 1.2, entry point mtlkit.tasks: wine = acme_bad:wine): "
        )
        assert cause in message
        assert "Reinstall or update acme-mtl, or tell its authors." in message

    def test_a_module_that_is_not_there(self, install):
        install("acme-mtl", "1.2", entry_points=tasks("wine"))
        assert "ModuleNotFoundError: No module named 'nowhere'" in broken("tasks", "wine")

    @pytest.mark.parametrize("value", ["not a module:wine", "acme..bad:x", ":", "a:b:c"])
    def test_an_entry_point_that_is_no_path(self, install, value):
        install("acme", entry_points={"tasks": {"wine": value}})
        assert "The task 'wine' cannot be loaded (acme 1.0" in broken("tasks", "wine")

    def test_ctrl_c_is_not_the_fault_of_the_plugin(self, install):
        modules = {"acme_slow": "raise KeyboardInterrupt\n"}
        install("acme", entry_points={"tasks": {"wine": "acme_slow:wine"}}, modules=modules)
        with pytest.raises(KeyboardInterrupt):
            loaded("tasks", "wine")

    @pytest.mark.parametrize(
        ("attribute", "received"),
        [
            ("number", "no answer to the hook mtlkit_task"),
            ("nothing", "no answer to the hook mtlkit_task"),
            ("bare", "no answer to the hook mtlkit_task"),
            ("no_answer", "no answer to the hook mtlkit_task"),
            ("an_encoder", "no answer to the hook mtlkit_task"),
            ("explodes", "no answer to the hook mtlkit_task"),
            ("no_class", "'wine'"),
            ("an_instance", "NoTask object"),
            ("no_task", "NoTask"),
        ],
    )
    def test_what_is_no_plugin_of_a_task(self, install, attribute, received):
        value = f"acme_broken:{attribute}"
        install("acme", "1.2", entry_points={"tasks": {"wine": value}}, modules=("acme_broken",))
        message = broken("tasks", "wine")
        assert f"(acme 1.2, entry point mtlkit.tasks: wine = {value})" in message
        assert "a subclass of mtlkit.Task is expected, and it gives" in message
        assert received in message
        assert "Let the entry point lead to mtlkit.plugin(YourClass) in acme_broken." in message

    @pytest.mark.parametrize(
        ("attribute", "cause"),
        [
            ("raises", "its hook mtlkit_task raised KeyError: 'vineyard'"),
            ("exits", "its hook mtlkit_task raised SystemExit: 5"),
            ("wrong_arguments", "registry"),
            ("unknown_hook", "mtlkit_taks"),
        ],
    )
    def test_a_plugin_that_breaks_when_it_is_asked(self, install, attribute, cause):
        value = f"acme_broken:{attribute}"
        install("acme", "1.2", entry_points={"tasks": {"wine": value}}, modules=("acme_broken",))
        message = broken("tasks", "wine")
        assert f"(acme 1.2, entry point mtlkit.tasks: wine = {value})" in message
        assert cause in message

    def test_a_plugin_that_listens(self, install):
        modules = {"acme_log": LISTENER.format(hook="mtlkit_run_started")}
        install("acme", entry_points={"plugins": {"log": "acme_log:log"}}, modules=modules)
        assert type(loaded("plugins", "log")).__name__ == "Log"

    def test_a_plugin_that_listens_for_what_never_happens(self, install):
        modules = {"acme_log": LISTENER.format(hook="mtlkit_run_begun")}
        install("acme", entry_points={"plugins": {"log": "acme_log:log"}}, modules=modules)
        assert "mtlkit_run_begun" in broken("plugins", "log")


class TestWhatIsNotUsed:
    @pytest.mark.parametrize("module", ["raise ImportError\n", "import sys; sys.exit(3)\n", "def (:\n"])
    def test_does_no_harm(self, install, acme, module):
        install("bad", entry_points={"tasks": {"bad": "acme_bad:wine"}}, modules={"acme_bad": module})
        acme("colour")
        assert loaded("tasks", "colour").__name__ == "Colour"
        assert found("tasks", "bad").distribution == "bad"

    def test_does_no_harm_by_taking_the_name_of_a_default(self, install, acme):
        acme("colour")
        install("zeta", entry_points={"encoders": {"mlp": "nowhere:mlp"}, "strategies": {"fixed": "nowhere:fixed"}})
        settings = {"tasks": ["colour"], "training": {"device": "cpu", "steps": 1}}
        assert mtlkit.build(settings).labels == ["colour"]


def test_the_digits_are_installed():
    assert importlib.metadata.version("mtlkit-digits")
    assert {"digit", "parity", "rotation", "denoise"} <= {r.name for r in Registry.discover().records("tasks")}
