"""The reference pages are what the code says; every page's links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["authors/reference.md", "cli.md", "encoders.md", "strategies.md", "architectures.md"])
def test_a_generated_page_is_what_the_code_says(generator, monkeypatch, name):
    monkeypatch.setenv("MTLKIT_PLUGINS", "")
    path = ROOT / "docs" / name
    write = generator.FILES[path]
    assert path.read_text(encoding="utf-8") == write(), "Run `make reference`, and look at what changed."


def test_it_leaves_nothing_of_the_markup_behind(generator):
    text = generator.reference()
    assert ":class:" not in text
    assert "``" not in text.replace("```", "")
    assert text.count("```") % 2 == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", prose):
        assert (page.parent / target).exists(), target
