"""What several folders of tests share: fake distributions, laid on sys.path without pip."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
EntryPoints = Mapping[str, Mapping[str, str]]  # by kind, such as "tasks", then by name: "module:attribute"


@pytest.fixture
def lay(tmp_path):
    """Return a function that lays a distribution out in a folder of its own, as an installer would, and returns it.

    Modules are given by the text of each, or by the name of a file of tests/fixtures.
    """
    count = 0

    def lay_out(
        name: str,
        version: str = "1.0",
        *,
        entry_points: EntryPoints | None = None,
        modules: Mapping[str, str] | tuple[str, ...] = (),
        summary: str = "A distribution that the tests made up.",
    ) -> Path:
        nonlocal count
        count += 1
        site = tmp_path / f"site-{count}"
        metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\n", encoding="utf-8"
        )
        lines: list[str] = []
        for kind, entries in (entry_points or {}).items():
            lines += [f"[mtlkit.{kind}]", *(f"{entry} = {value}" for entry, value in entries.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if isinstance(modules, tuple):
            for module in modules:
                shutil.copy(FIXTURES / f"{module}.py", site)
        else:
            for module, text in modules.items():
                path = site.joinpath(*module.split("."))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".py").write_text(text, encoding="utf-8")
        return site

    return lay_out


@pytest.fixture
def install(lay, monkeypatch):
    """Return a function that lays a distribution out and puts it first on sys.path, for the length of the test."""
    before = set(sys.modules)
    sites: list[Path] = []

    def put_on_path(*arguments, **options) -> Path:
        site = lay(*arguments, **options)
        monkeypatch.syspath_prepend(str(site))
        sites.append(site)
        return site

    yield put_on_path
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin and any(site in Path(origin).parents for site in sites):
            del sys.modules[name]


@pytest.fixture
def acme(install) -> Callable[..., Path]:
    """Return a function that installs tasks of tests/fixtures/acme.py by name: ``acme("colour", "price")``."""

    def install_tasks(*names: str, version: str = "1.2") -> Path:
        tasks = {name: f"acme:{name.replace('-', '_')}" for name in names}
        return install("acme-mtl", version, entry_points={"tasks": tasks}, modules=("acme",))

    return install_tasks
