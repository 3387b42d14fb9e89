"""The registry: metadata is read, nothing is imported until it is asked for, and a broken plugin says whose it is."""

from __future__ import annotations

import importlib.metadata
import pickle
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtlkit
from mtlkit.builtins import BUILTINS
from mtlkit.encoders import MLP
from mtlkit.errors import ConfigError, PluginError
from mtlkit.registry import Handle, Origin, Record, Registry, Rule, State
from mtlkit.registry.distributions import pip_install
from mtlkit.registry.names import normal

LISTENER = """
import mtlkit

class Log:
    @mtlkit.hookimpl
    def {hook}(self, event): ...

log = Log()
"""
TASK = "import mtlkit\nclass Wine(mtlkit.Task): 'Wine.'\nwine = mtlkit.plugin(Wine)\n"
NOT_IMPORTED = "raise AssertionError('listing must not import')\n"


def tasks(*names: str) -> dict[str, dict[str, str]]:
    """Return entry points that lead nowhere, for what is not to be loaded."""
    return {"tasks": {name: f"nowhere:{re.sub('[^a-z]', '_', name)}" for name in names}}


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


def status(name: str, registry: Registry | None = None) -> tuple[str, str]:
    """Return the state of a component by its qualified name, and the reason."""
    registry = registry or Registry.discover()
    (found,) = {registry.status(record) for record in registry.records() if record.qualified == name}
    return str(found.state), found.reason


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

    def test_the_others_are_remembered(self, install):
        first = install("acme-mtl", "1.0", entry_points=tasks("wine"))
        install("Acme_MTL", "2.0", entry_points=tasks("wine"))
        assert Registry.discover().distributions["acme-mtl"].duplicates == [("1.0", str(first))]

    @pytest.mark.parametrize("first", ["egg-info", "dist-info"])
    def test_what_an_installer_recorded_comes_before_what_a_build_left(self, install, first):
        for egg_info in (first == "dist-info", first != "dist-info"):  # the one laid last is first on the path
            version = "1.0" if egg_info else "2.0"
            install("Acme.MTL", version, entry_points=tasks(f"wine-{version}"), egg_info=egg_info)
        acme = Registry.discover().distributions["acme-mtl"]
        assert (acme.version, [record.name for record in acme.records]) == ("2.0", ["wine-2.0"])
        assert [version for version, _ in acme.duplicates] == ["1.0"]

    def test_what_a_build_left_will_do_alone(self, install):
        install("acme-mtl", "1.0", entry_points=tasks("wine"), egg_info=True)
        assert found("tasks", "wine").qualified == "acme-mtl:wine"

    def test_an_entry_point_may_ask_for_extras(self, install):
        install("acme", entry_points={"tasks": {"wine": "acme_wine : wine [fast]"}}, modules={"acme_wine": TASK})
        assert found("tasks", "wine").value == "acme_wine:wine"
        assert loaded("tasks", "wine").__name__ == "Wine"

    @pytest.mark.parametrize(
        ("metadata", "editable", "text", "command"),
        [
            (None, False, None, "pip install acme-mtl==1.2"),
            (
                {"url": "file:///home/a b", "dir_info": {"editable": True}},
                True,
                "/home/a b (editable)",
                "-e '/home/a b'",
            ),
            (
                {"url": "file:///home/acme", "dir_info": {}},
                False,
                "file:///home/acme",
                "'acme-mtl @ file:///home/acme'",
            ),
            (
                {"url": "https://x.org/acme.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
                False,
                "git+https://x.org/acme.git@c0ffee",
                "pip install 'acme-mtl @ git+https://x.org/acme.git@c0ffee'",
            ),
            (
                {
                    "url": "https://x.org/a.git",
                    "vcs_info": {"vcs": "git", "commit_id": "c0f"},
                    "subdirectory": "py/acme",
                },
                False,
                "git+https://x.org/a.git@c0f#subdirectory=py/acme",
                "pip install 'acme-mtl @ git+https://x.org/a.git@c0f#subdirectory=py/acme'",
            ),
            (
                {"url": "https://x.org/acme-1.2.whl", "archive_info": {}},
                False,
                "https://x.org/acme-1.2.whl",
                "pip install 'acme-mtl @ https://x.org/acme-1.2.whl'",
            ),
        ],
    )
    def test_where_it_was_installed_from(self, install, metadata, editable, text, command):
        install("acme-mtl", "1.2", entry_points=tasks("wine"), direct_url=metadata)
        origin = Registry.discover().distributions["acme-mtl"].origin
        assert pip_install("acme-mtl", "1.2", origin).endswith(command)
        assert (str(origin) if origin else None) == text
        if origin:
            assert origin.editable is editable
            assert Origin.from_dict(origin.to_dict()) == origin

    @pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"url": 3, "vcs_info": []}', "\xff"])
    def test_where_it_was_installed_from_may_be_torn(self, install, text):
        site = install("acme", entry_points=tasks("wine"))
        (site / "acme-1.0.dist-info" / "direct_url.json").write_bytes(text.encode("latin-1"))
        assert Registry.discover().distributions["acme"].origin is None

    def test_one_folder_on_the_path_twice_counts_once(self, install, monkeypatch):
        monkeypatch.syspath_prepend(str(install("acme", entry_points=tasks("wine"))))
        assert found("tasks", "wine").distribution == "acme"

    def test_one_that_was_half_removed_is_passed_over(self, install):
        site = install("acme", entry_points=tasks("wine"))
        (site / "rest-1.0.dist-info").mkdir()
        assert found("tasks", "wine").distribution == "acme"

    @pytest.mark.parametrize(
        ("text", "is_told"),
        [
            ("[mtlkit.tasks]\nwine\n", True),
            ("[mtlkit.tasks]\nros\xe9 = a:b\n", True),
            ("no section\n", False),
            ("[mtlkit.tasks\nwine = a:b\n", False),
            ("[other]\nros\xe9 = a:b\n", False),
        ],
    )
    def test_one_whose_entry_points_cannot_be_read_harms_no_other(self, install, text, is_told):
        install("acme", entry_points=tasks("wine"))
        site = install("torn")
        (site / "torn-1.0.dist-info" / "entry_points.txt").write_bytes(text.encode("latin-1"))
        assert found("tasks", "wine").distribution == "acme"
        assert (list(Registry.discover().unreadable) == ["torn"]) is is_told
        if is_told:
            with pytest.raises(
                PluginError, match=r"torn 1.0: its entry points cannot be read .* Reinstall it: pip install"
            ):
                found("tasks", "torn:wine")

    def test_one_whose_metadata_is_no_text_harms_no_other(self, install):
        install("acme", entry_points=tasks("wine"))
        site = install("torn", entry_points=tasks("cheese"))
        (site / "torn-1.0.dist-info" / "METADATA").write_bytes(b"Name: torn\nVersion: 1.0\nAuthor: Ren\xe9\n")
        assert found("tasks", "wine").distribution == "acme"
        assert list(Registry.discover().unreadable) == ["torn"]

    def test_what_requires_what_cannot_be_read_requires_nothing(self, install):
        requires = ["mtlkit<0.1; os_name ~= 'abc'", "mtlkit<<1", "mtlkit<0.1; extra == 'old'", "mtlkit>=0.1"]
        install("acme", entry_points=tasks("wine"), requires=requires)
        assert found("tasks", "wine").distribution == "acme"
        assert [str(each) for each in Registry.discover().distributions["acme"].own_requirements] == ["mtlkit>=0.1"]

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

    @pytest.mark.parametrize("name", ["CAFÉ", "cafe\u0301", "caf\u00e9", "acme:Cafe\u0301", "ACME:café"])
    def test_case_and_normal_form_do_not_count(self, install, name):
        install("acme", entry_points=tasks("Cafe\u0301"))
        assert found("tasks", name) == Record("tasks", "caf\u00e9", "acme", "1.0", "nowhere:_afe_")

    @given(st.text(max_size=5))
    def test_the_one_spelling_is_of_every_case_and_form(self, name):
        spelled = normal(name)
        assert normal(spelled) == spelled
        assert all(normal(unicodedata.normalize(form, name)) == spelled for form in ("NFC", "NFD"))
        assert normal(name.casefold()) == spelled

    @pytest.mark.parametrize(("one", "other"), [("Wine", "wine"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "straße")])
    def test_two_that_are_one_name_in_one_distribution(self, install, one, other):
        entries = {one: "acme_a:wine", other: "acme_b:wine"}
        install("acme", "1.2", entry_points={"tasks": entries, "encoders": {one: "acme_c:wave"}})
        for name in (one, f"acme:{other}"):
            message = broken("tasks", name)
            assert "acme has 2 components of this kind whose names are the same in NFC and without case" in message
            assert "and they lead to acme_a:wine, acme_b:wine" in message
            assert "(acme 1.2, entry point mtlkit.tasks: " in message
        registry = Registry.discover()
        twins = [record for record in registry.records("tasks") if record.distribution == "acme"]
        assert [registry.status(twin).state for twin in twins] == [State.BROKEN, State.BROKEN]
        assert found("encoders", other).value == "acme_c:wave"

    def test_one_component_spelt_twice_is_one(self, install):
        install("acme", entry_points={"tasks": {"Wine": "acme_a:wine", "wine": "acme_a:wine"}})
        assert found("tasks", "wine").value == "acme_a:wine"

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("acme:wine", "a name holds no ':', which stands between a distribution and a name"),
            ("red wine", "a name holds no spaces and no control characters"),
            ("wine\u200b", "a name holds no spaces and no control characters"),
            ("wine\t2", "a name holds no spaces and no control characters"),
        ],
    )
    @pytest.mark.parametrize("prefix", ["", "other-mtl:"])
    def test_a_name_that_cannot_be(self, install, name, reason, prefix):
        install("other-mtl", entry_points=tasks(name))
        assert reason in broken("tasks", f"{prefix}{name}")

    @pytest.mark.parametrize("value", ["acme", "a.b:c.d", "acme_wine:wine"])
    def test_what_an_entry_point_may_lead_to(self, install, value):
        install("acme", entry_points={"tasks": {"wine": value}})
        assert found("tasks", "wine").value == value

    @pytest.mark.parametrize("value", ["a b:c", ".acme:wine", "acme:", "acme:wine:red", "acme-mtl:wine", "3:x", "a..b"])
    def test_what_an_entry_point_cannot_lead_to(self, install, value):
        install("acme", entry_points={"tasks": {"wine": value}})
        assert f"its entry point leads to {value!r}, which is no module:attribute" in broken("tasks", "wine")

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
        expected = ("ambiguous", "acme-mtl:wine (acme-mtl 1.2) and zeta:wine (zeta 0.3) have one name")
        assert status("acme-mtl:wine") == status("zeta:wine") == expected
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
        known = [record.name for record in Registry.discover().records("strategies")]
        assert {"fixed", "gradnorm"} <= set(known)
        assert unknown("strategies", "gradnrom") == (
            f"Unknown strategy 'gradnrom'. Did you mean 'gradnorm'? Known: {', '.join(sorted(known))}."
        )

    def test_ambiguous_names_are_offered_qualified(self, install):
        install("acme", entry_points={"encoders": {"mlp": "nowhere:mlp"}})
        assert "Known: cnn, identity, acme:mlp, mtlkit:mlp, resnet, " in unknown("encoders", "tree")

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

    @pytest.mark.parametrize("name", [":", ":mlp", "::", "", ":mtlkit:mlp"])
    def test_a_name_that_names_no_distribution(self, name):
        assert "Unknown encoder" in unknown("encoders", name)

    @pytest.mark.parametrize("name", ["no such thing:mlp", "../..:mlp", "-r requirements:mlp", "a;b:mlp", "mlp:"])
    def test_no_command_is_made_of_what_is_no_name(self, name):
        # It would be pasted into a shell; and what can be no distribution does not have mtlkit's own encoder.
        with pytest.raises((ConfigError, PluginError)) as caught:
            found("encoders", name)
        assert "pip install" not in str(caught.value) or name == "mlp:"

    def test_a_file_that_was_not_given(self):
        with pytest.raises(
            PluginError, match=r"comes from the file 'my_tasks.py', .*Give it: --plugin my_tasks.py, or"
        ):
            found("tasks", "my_tasks.py:wine")


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

    def test_a_module_may_be_the_plugin_of_several_groups(self, install):
        module = (
            "import mtlkit\nclass Wine(mtlkit.Task): 'Wine.'\n@mtlkit.hookimpl\ndef mtlkit_task():\n    return Wine\n"
            "@mtlkit.hookimpl\ndef mtlkit_run_finished(event): ...\n"
        )
        entry_points = {"tasks": {"wine": "acme_module"}, "plugins": {"log": "acme_module"}}
        install("acme", entry_points=entry_points, modules={"acme_module": module})
        assert loaded("tasks", "wine").__name__ == "Wine"
        assert loaded("plugins", "log").__name__ == "acme_module"

    def test_only_what_is_asked_for_is_imported(self, install):
        install(
            "acme", entry_points={"tasks": {"wine": "acme_wine:wine"}}, modules={"acme_wine": "raise RuntimeError\n"}
        )
        assert loaded("encoders", "mlp") is MLP
        assert "acme_wine" not in sys.modules

    @pytest.mark.parametrize(
        ("module", "cause"),
        [
            ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all' ("),
            ("raise ImportError('torchvision is too old')\n", "ImportError: torchvision is too old"),
            ("1 / 0\n", "ZeroDivisionError: division by zero"),
            ("def wine(:\n", "SyntaxError"),
            ("import sys; sys.exit(3)\n", "SystemExit: 3"),
            ("class Odd(BaseException): pass\nraise Odd('odd')\n", "Odd: odd"),
            ("vine = 1\n", "its entry point leads to 'wine' in acme_bad, which has none. Did you mean 'vine'? Write"),
            ("class Odd(Exception):\n    __str__ = None\nraise Odd\n", "importing it raised Odd ("),
            ("class Odd(Exception):\n    def __str__(self): 1 / 0\nraise Odd\n", "importing it raised Odd ("),
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
        remedies = ("Reinstall or update acme-mtl, or tell its authors.", "Install what provides 'nowhere_at_all'; if ")
        assert any(
            remedy in message for remedy in (*remedies, "Write wine = mtlkit.plugin(YourClass) in acme_bad, or ")
        )

    def test_a_module_that_is_not_there(self, install):
        install("acme-mtl", "1.2", entry_points=tasks("wine"))
        message = broken("tasks", "wine")
        assert "ModuleNotFoundError: No module named 'nowhere'. Reinstall or update acme-mtl" in message

    def test_a_module_in_a_package_says_itself_what_it_lacks(self, install):
        modules = {"acme.__init__": "", "acme.wine": "import nowhere_at_all\n"}
        install("acme-mtl", entry_points={"tasks": {"wine": "acme.wine"}}, modules=modules)
        assert "No module named 'nowhere_at_all' (" in broken("tasks", "wine")
        assert "wine.py:1)" in broken("tasks", "wine")

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
            (
                "number",
                "what its entry point leads to, 42, has no hook of mtlkit. Write wine = mtlkit.plugin(YourClass)",
            ),
            ("nothing", "what its entry point leads to, None, has no hook of mtlkit. Write wine = mtlkit.plugin(YourC"),
            (
                "bare",
                "leads to the class Bare itself, a task, and a plugin that answers with it is needed. Write wine ",
            ),
            (
                "no_answer",
                "its hook mtlkit_task must return a subclass of mtlkit.Task; it returned None. Write wine = ",
            ),
            (
                "an_encoder",
                "answers mtlkit_encoder, and an entry point of the group mtlkit.tasks must answer mtlkit_task",
            ),
            ("explodes", "looking at what it leads to raised RuntimeError: do not look. Reinstall or update acme"),
            (
                "no_class",
                "must return a subclass of mtlkit.Task; it returned 'wine'. Write wine = mtlkit.plugin(YourCla",
            ),
            ("an_instance", "must return a subclass of mtlkit.Task; it returned <acme_broken.NoTask object at 0x"),
            (
                "no_task",
                "must return a subclass of mtlkit.Task; it returned <class 'acme_broken.NoTask'>. Write wine = ",
            ),
        ],
    )
    def test_what_is_no_plugin_of_a_task(self, install, attribute, received):
        value = f"acme_broken:{attribute}"
        install("acme", "1.2", entry_points={"tasks": {"wine": value}}, modules=("acme_broken",))
        message = broken("tasks", "wine")
        assert f"(acme 1.2, entry point mtlkit.tasks: wine = {value})" in message
        assert received in message

    @pytest.mark.parametrize(
        ("attribute", "cause"),
        [
            ("raises", "its hook mtlkit_task raised KeyError: 'vineyard'"),
            ("exits", "its hook mtlkit_task raised SystemExit: 5"),
            (
                "wrong_arguments",
                "its hook mtlkit_task asks for the argument 'registry', which it is not given. Allowed: ",
            ),
            ("unknown_hook", "it implements the hook 'mtlkit_taks', and there is none. Did you mean 'mtlkit_task'? Ho"),
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


class TestStates:
    def test_all_is_ok_that_nothing_is_known_against(self, install):
        install("acme", entry_points=tasks("wine"))  # that it leads nowhere shows when it is loaded
        assert status("acme:wine") == ("ok", "")
        assert status("mtlkit:mlp") == ("ok", "")

    def test_one_that_failed_to_load_is_broken_from_then_on(self, install):
        install("acme", entry_points=tasks("wine"))
        registry = Registry.discover()
        record = registry.find("tasks", "wine")
        with pytest.raises(PluginError):
            registry.load(record)
        assert registry.status(record).state is State.BROKEN
        assert "No module named 'nowhere'" in registry.status(record).reason

    @pytest.mark.parametrize(
        ("requires", "state"),
        [
            ("mtlkit>=0.1,<0.4", "ok"),
            ("mtlkit", "ok"),
            ("MTLkit[extra]>=0.1", "ok"),
            ("mtlkit<0.1", "incompatible"),
            ("mtlkit>=9", "incompatible"),
            ("mtlkit>=9; python_version < '3'", "ok"),
            ("other>=9", "ok"),
        ],
    )
    def test_what_a_distribution_requires_decides(self, install, requires, state):
        install("acme", "1.2", entry_points=tasks("wine"), modules={"nowhere": NOT_IMPORTED}, requires=[requires])
        reason = f"acme 1.2 requires {requires}, and this is mtlkit {mtlkit.__version__}; it was not imported"
        assert status("acme:wine") == (state, "" if state == "ok" else reason)
        if state == "incompatible":
            message = broken("tasks", "wine")
            assert (
                f"is incompatible (acme 1.2, entry point mtlkit.tasks: wine = nowhere:wine): {reason}. Look" in message
            )
            assert "pip install --upgrade acme. Or install the mtlkit that it is made for: pip install " in message
            assert "nowhere" not in sys.modules

    def test_one_that_may_not_be_used_makes_no_name_ambiguous(self, install):
        install("acme", entry_points=tasks("wine"))
        install("zeta", entry_points=tasks("wine"), requires=["mtlkit>=9"])
        assert found("tasks", "wine").distribution == "acme"
        assert status("acme:wine")[0] == "ok"
        registry = Registry.discover().narrowed("the test", deny=["acme"])
        with pytest.raises(PluginError, match="is disabled"):
            registry.find("tasks", "wine")

    def test_a_file_has_the_names_of_its_plugins(self, tmp_path, forget):
        file = tmp_path / "my_wines.py"
        file.write_text(f"{TASK}Wine_2 = wine\n", encoding="utf-8")
        registry = Registry.discover(files=[file])
        record = registry.find("tasks", "my_wines.py:WINE_2")
        assert (record.name, record.value, record.version[:7]) == ("wine_2", "my_wines:Wine_2", "sha256:")
        assert registry.load(record).__module__ == "my_wines"
        assert registry.files == {"my_wines.py": file}

    def test_a_file_with_one_name_twice(self, tmp_path, forget):
        file = tmp_path / "my_wines.py"
        file.write_text(f"{TASK}Wine = mtlkit.plugin(Wine)\n", encoding="utf-8")
        registry = Registry.discover(files=[file])
        for name in ("wine", "my_wines.py:wine"):
            with pytest.raises(
                PluginError, match=r"and they lead to my_wines:Wine, my_wines:wine\. Rename all but one"
            ):
                registry.find("tasks", name)


class TestRules:
    @pytest.mark.parametrize(
        ("variable", "allowed"),
        [
            (None, ["acme", "zeta"]),
            ("", []),
            (" , ", []),
            ("Acme", ["acme"]),
            ("zeta", ["zeta"]),
            ("zeta,acme,other", ["acme", "zeta"]),
        ],
    )
    def test_the_environment_says_which(self, install, monkeypatch, variable, allowed):
        for name in ("acme", "zeta"):
            install(name, entry_points=tasks(f"{name}-wine"), modules={"nowhere": NOT_IMPORTED})
        if variable is not None:
            monkeypatch.setenv("MTLKIT_PLUGINS", variable)
        usable = [record.distribution for record in Registry.discover().usable("tasks")]
        assert [name for name in ("acme", "zeta") if name in usable] == allowed
        assert {each.distribution for each in Registry.discover(plugins=False).usable()} == {"mtlkit"}
        if "acme" not in allowed:
            allows = "zeta, and not acme" if allowed else "no plugin"
            assert broken("tasks", "acme-wine") == (
                "The task 'acme-wine' is disabled (acme 1.0, entry point mtlkit.tasks: acme-wine = nowhere:acme_wine): "
                f"the environment variable MTLKIT_PLUGINS allows {allows}. Add acme there."
            )

    @pytest.mark.parametrize("variable", ["acme mtl", "-r x", "acme,../x"])
    def test_the_environment_may_be_wrong(self, monkeypatch, variable):
        monkeypatch.setenv("MTLKIT_PLUGINS", variable)
        with pytest.raises(
            ConfigError, match=r"the environment variable MTLKIT_PLUGINS names .* no distribution's name"
        ):
            Registry.discover()

    @pytest.mark.parametrize(
        ("rule", "left"),
        [
            ({}, ["acme", "zeta"]),
            ({"allow": ["ACME"]}, ["acme"]),
            ({"allow": []}, []),
            ({"deny": ["acme"]}, ["zeta"]),
            ({"allow": ["acme", "zeta"], "deny": ["Zeta"]}, ["acme"]),
            ({"allow": ["other"]}, []),
        ],
    )
    def test_a_registry_can_be_narrowed(self, install, rule, left):
        for name in ("acme", "zeta"):
            install(name, entry_points=tasks(f"{name}-wine"))
        whole = Registry.discover()
        narrow = whole.narrowed("run.yaml", **rule)
        assert [each.distribution for each in narrow.usable("tasks") if each.distribution in {"acme", "zeta"}] == left
        assert narrow.records() == whole.records()
        assert whole.status(whole.find("tasks", "acme-wine")).state is State.OK  # as it was
        assert narrow.load(narrow.find("encoders", "mlp")) is MLP

    def test_and_narrowed_again_but_not_widened(self, install, monkeypatch):
        for name in ("acme", "zeta"):
            install(name, entry_points=tasks(f"{name}-wine"))
        monkeypatch.setenv("MTLKIT_PLUGINS", "acme")
        registry = Registry.discover().narrowed("run.yaml", allow=["acme", "zeta"])
        assert status("zeta:zeta-wine", registry)[1].startswith("the environment variable MTLKIT_PLUGINS allows acme")
        again = registry.narrowed("another", deny=["acme"])
        assert status("acme:acme-wine", again) == ("disabled", "another denies acme")

    def test_what_is_left_out_is_not_loaded_either(self, install):
        install("acme", entry_points=tasks("wine"), modules={"nowhere": NOT_IMPORTED})
        record = found("tasks", "wine")
        with pytest.raises(PluginError, match="The task 'wine' is disabled"):
            Registry.discover().narrowed("run.yaml", deny=["acme"]).load(record)
        assert "nowhere" not in sys.modules

    def test_what_was_given_is_narrowed_too(self):
        record = Record("tasks", "wine", "acme", "1.0", "acme:wine")
        registry = Registry([record]).narrowed("run.yaml", deny=["acme"])
        assert registry.records() == [record]
        assert registry.usable() == []

    @pytest.mark.parametrize("names", [{"deny": ["mtlkit"]}, {"deny": ["a b"]}, {"allow": [""]}])
    def test_a_rule_that_cannot_be(self, names):
        with pytest.raises(
            ConfigError, match=r"run.yaml (denies mtlkit itself|names '.*', which is no distribution's name)"
        ):
            Rule.of("run.yaml", **names)

    @pytest.mark.parametrize(
        ("requirement", "message"),
        [
            ("acme", ""),
            ("ACME>=1.2,<2", ""),
            ("mtlkit>=0.1", ""),
            ("acme>=2; python_version < '3'", ""),
            ("acme>=2; os_name ~= 'x'", ""),
            ("acme>=2", "acme>=2 is required, and acme 1.2 is installed. Install what is: pip install 'acme>=2'"),
            (
                "nowhere[fast]>=1",
                "nowhere[fast]>=1 is required, and nowhere is not installed. Install it: pip install 'nowhere[fast",
            ),
            ("mtlkit>=9", "mtlkit>=9 is required, and mtlkit 0"),
            ("torn", ""),
            ("torn>=1", "torn>=1 is required, and torn ? is installed"),
            ("plain.pkg==1.0", ""),
            ("zeta", "zeta is required, and zeta 1.0 requires mtlkit>=9, and this is mtlkit"),
        ],
    )
    def test_what_is_required(self, install, requirement, message):
        install("acme", "1.1", entry_points=tasks("wine"), egg_info=True)
        install("acme", "1.2", entry_points=tasks("wine"))
        install("acme", "1.0", entry_points=tasks("wine"), egg_info=True)
        install("zeta", entry_points=tasks("wine"), requires=["mtlkit>=9"])
        install("plain-pkg")
        site = install("torn", entry_points=tasks("cheese"))
        (site / "torn-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\n", encoding="utf-8")
        registry = Registry.discover()
        if not message:
            registry.check_required(requirement)
            return
        with pytest.raises(PluginError) as caught:
            registry.check_required(requirement)
        assert message in str(caught.value)

    def test_what_is_required_may_not_be_left_out(self, install):
        install("acme", entry_points=tasks("wine"))
        with pytest.raises(PluginError, match=r"^acme is required, and run.yaml denies acme. Take it out there.$"):
            Registry.discover().narrowed("run.yaml", deny=["acme"]).check_required("acme")


class TestHandles:
    def test_one_makes_its_component_anywhere(self, acme):
        acme("colour")
        handle = pickle.loads(pickle.dumps(Handle("tasks", "acme-mtl:colour", {"width": 6})))  # noqa: S301 - our own
        task = handle()
        assert (type(task).__name__, task.width) == ("Colour", 6)
        assert handle == Handle("tasks", "acme-mtl:colour", {"width": 6})
        assert type(handle()) is handle.load()

    def test_one_of_what_is_gone_says_so(self):
        with pytest.raises(PluginError, match="'acme-mtl', which is not installed"):
            Handle("tasks", "acme-mtl:colour")()

    def test_it_imports_nothing_to_be_made(self):
        assert pickle.dumps(Handle("tasks", "nowhere:wine", files=("nowhere.py",)))


class TestFiles:
    @pytest.fixture
    def write(self, tmp_path, forget):
        def write_file(text: str, name: str = "my_wines.py") -> Path:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return path

        return write_file

    @staticmethod
    def refused(*files: Path) -> str:
        with pytest.raises(PluginError) as caught:
            Registry.discover(files=files)
        return str(caught.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1 / 0\n", "my_wines.py cannot be imported: ZeroDivisionError: division by zero ("),
            ("\ndef oops()\n", "my_wines.py cannot be imported: SyntaxError: expected ':' (my_wines.py, line 2)."),
            ("import sys\nsys.exit(3)\n", "my_wines.py cannot be imported: SystemExit: 3 ("),
            ("import nowhere_at_all\n", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all' ("),
            ("x = 1\n", "my_wines.py holds no plugin. Each component is a line such as: wine = mtlkit.plugin(Wine)"),
        ],
    )
    def test_one_that_is_no_plugin(self, write, text, message):
        assert message in self.refused(write(text))

    def test_one_that_is_not_there(self, tmp_path):
        assert self.refused(tmp_path / "gone.py").endswith("gone.py cannot be read: No such file or directory.")

    @pytest.mark.parametrize("name", ["my-wines.py", "my_wines.txt", "3.py", ".py"])
    def test_one_that_python_cannot_import(self, write, name):
        assert "cannot be a plugin: a Python file is needed" in self.refused(write(TASK, name))

    @pytest.mark.parametrize(("name", "what"), [("json.py", "json/__init__.py"), ("sys.py", "a part of Python")])
    def test_one_of_the_name_of_another_module(self, write, name, what):
        message = self.refused(write(TASK, name))
        assert f"{name} cannot be imported as '{name[:-3]}': that is " in message
        assert f"{what} already. Give the file a name of its own." in message

    def test_two_of_one_name_are_told_of_before_either_is_imported(self, write):
        both = write("raise SystemExit\n", "a/wines.py"), write("raise SystemExit\n", "b/wines.py")
        assert self.refused(*both) == f"Two plugins are files called wines.py: {both[0]} and {both[1]}. Rename one."
        registry = Registry.discover()
        with pytest.raises(PluginError, match="Two plugins are files called"):
            registry.narrowed("run.yaml", files=both)

    def test_one_of_two_ways_to_the_same(self, write, tmp_path):
        file = write(TASK)
        registry = Registry.discover(files=[file, tmp_path / "elsewhere" / ".." / "my_wines.py"])
        assert registry.files == {"my_wines.py": file}
        again = registry.narrowed("run.yaml", files=[tmp_path / "elsewhere" / ".." / "my_wines.py"])
        assert again.files == {"my_wines.py": file}

    def test_one_that_changed_is_imported_anew(self, write):
        first = Registry.discover(files=[write(TASK)])
        assert first.load(first.find("tasks", "wine")).__doc__ == "Wine."
        second = Registry.discover(files=[write(TASK.replace("'Wine.'", "'Wine, longer.'").replace("wine =", "red ="))])
        assert second.load(second.find("tasks", "red")).__doc__ == "Wine, longer."
        assert [each.name for each in second.records("tasks") if each.distribution == "my_wines.py"] == ["red"]
        assert first.records() != second.records()

    def test_one_that_holds_what_cannot_be_looked_into(self, write):
        text = "class Lazy:\n    def __getattr__(self, name): raise RuntimeError(name)\nlazy = Lazy()\n"
        registry = Registry.discover(files=[write(TASK + text)])
        assert registry.find("tasks", "wine").distribution == "my_wines.py"

    def test_one_that_the_environment_leaves_out(self, write, monkeypatch):
        file = write("raise SystemExit\n")
        with pytest.raises(PluginError, match=r"run.yaml names the file .*my_wines.py, and --no-plugins allows no "):
            Registry.discover(plugins=False).narrowed("run.yaml", files=[file])
        monkeypatch.setenv("MTLKIT_PLUGINS", "acme")
        with pytest.raises(
            PluginError, match=r"MTLKIT_PLUGINS allows acme, .* on the command line: --plugin .*my_wines.py"
        ):
            Registry.discover().narrowed("run.yaml", files=[file])
        assert Registry.discover().narrowed("run.yaml", deny=["my_wines.py"], files=[file]).files == {}

    def test_one_that_the_command_line_or_the_environment_names(self, write, monkeypatch):
        file = write(TASK)
        registry = Registry.discover(plugins=False, files=[file])
        assert registry.find("tasks", "wine").distribution == "my_wines.py"
        monkeypatch.setenv("MTLKIT_PLUGINS", "my_wines.py")
        registry = Registry.discover().narrowed("run.yaml", files=[file])
        assert registry.find("tasks", "wine").distribution == "my_wines.py"
        assert status("my_wines.py:wine", registry.narrowed("run.yaml", allow=["acme"]))[0] == "disabled"


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
