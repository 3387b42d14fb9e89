"""What several folders of tests share: fake distributions, laid on sys.path without pip, and forged checkpoints."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
EntryPoints = Mapping[str, Mapping[str, str]]  # by kind, such as "tasks", then by name: "module:attribute"


@pytest.fixture
def lay(tmp_path):
    """Return a function that lays a distribution out in a folder of its own, as an installer would, and returns it.

    Modules are given by the text of each, or by the name of a file of tests/fixtures. `site` names the folder instead,
    as where several distributions are in one; `egg_info` lays out what a build leaves in a source folder.
    """
    count = 0

    def lay_out(
        name: str,
        version: str = "1.0",
        *,
        entry_points: EntryPoints | None = None,
        modules: Mapping[str, str] | tuple[str, ...] = (),
        summary: str = "A distribution that the tests made up.",
        requires: Sequence[str] = (),
        direct_url: Mapping[str, Any] | None = None,
        egg_info: bool = False,
        site: Path | None = None,
    ) -> Path:
        nonlocal count
        count += 1
        site = site or tmp_path / f"site-{count}"
        stem = name.replace("-", "_")
        folder = site / (f"{stem}.egg-info" if egg_info else f"{stem}-{version}.dist-info")
        folder.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Summary: {summary}"]
        lines += [f"Requires-Dist: {each}" for each in requires]
        metadata = folder / ("PKG-INFO" if egg_info else "METADATA")
        metadata.write_text("\n".join(lines) + "\n", encoding="utf-8")
        lines = []
        for kind, entries in (entry_points or {}).items():
            lines += [f"[mtlkit.{kind}]", *(f"{entry} = {value}" for entry, value in entries.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if direct_url is not None:
            (folder / "direct_url.json").write_text(json.dumps(direct_url), encoding="utf-8")
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
def forget(tmp_path):
    """Forget, after the test, what it imported from its own folder; return a function that does so at once."""
    before = set(sys.modules)
    path = list(sys.path)

    def forget_all() -> None:
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(tmp_path):
                del sys.modules[name]
        importlib.invalidate_caches()

    yield forget_all
    forget_all()
    sys.path[:] = [each for each in sys.path if each in path or not Path(each).is_relative_to(tmp_path)]


@pytest.fixture
def install(lay, monkeypatch, forget):
    """Return a function that lays a distribution out and puts it first on sys.path, for the length of the test."""

    def put_on_path(*arguments, **options) -> Path:
        site = lay(*arguments, **options)
        monkeypatch.syspath_prepend(str(site))
        return site

    return put_on_path


@pytest.fixture
def uninstall(forget):
    """Return a function that takes a distribution off sys.path again, and forgets what was imported of any."""

    def take_off_path(site: Path) -> None:
        sys.path[:] = [each for each in sys.path if each != str(site)]
        forget()

    return take_off_path


@pytest.fixture
def acme(install) -> Callable[..., Path]:
    """Return a function that installs tasks of tests/fixtures/acme.py by name: ``acme("colour", "price")``."""

    def install_tasks(*names: str, version: str = "1.2", **options: Any) -> Path:
        tasks = {name: f"acme:{name.replace('-', '_')}" for name in names}
        return install("acme-mtl", version, entry_points={"tasks": tasks}, modules=("acme",), **options)

    return install_tasks


@pytest.fixture
def change_manifest() -> Callable[..., None]:
    """Return a function that changes what a checkpoint's manifest says, and seals it again as a forger would."""

    def change(folder: Path, changed: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        path = folder / "manifest.json"
        manifest = dict(changed(json.loads(path.read_text(encoding="utf-8"))))
        manifest.pop("seal", None)
        text = json.dumps(manifest | {"seal": "0" * 64}, indent=2) + "\n"
        seal = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(text.removesuffix("0" * 64 + '"\n}\n') + seal + '"\n}\n', encoding="utf-8")

    return change


@pytest.fixture
def reseal(change_manifest) -> Callable[[Path], None]:
    """Return a function that has a checkpoint's manifest vouch for its files as they are."""

    def vouch(folder: Path) -> None:
        contents = {
            name: (folder / name).read_bytes()
            for name in ("weights.safetensors", "state.safetensors", "state.json")
            if (folder / name).is_file()
        }
        files = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
        change_manifest(folder, lambda manifest: {**manifest, "files": files})

    return vouch
