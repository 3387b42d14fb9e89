"""What a component is, in a line: read from source text, and no plugin is imported for it."""

from __future__ import annotations

import sys

import pytest

from mtlkit.registry import Registry
from mtlkit.summaries import summary

NEVER = "raise AssertionError('a summary must not import')\n"
WINE = '\nclass Wine:\n    """How good the wine is.\n\n    More of it.\n    """\n'


@pytest.fixture
def summary_of(install):
    """Return a function that installs modules, and gives the summary of the entry point that leads to value."""

    def lookup(value: str, modules: dict[str, str], about: str = "Of the distribution.") -> str:
        install("acme", entry_points={"tasks": {"wine": value}}, modules=modules, summary=about)
        (record,) = [each for each in Registry.discover().records("tasks") if each.qualified == "acme:wine"]
        text = summary(record)
        assert sys.modules.keys().isdisjoint(modules)
        return text

    return lookup


@pytest.mark.parametrize(
    ("line", "attribute"),
    [
        ("wine = mtlkit.plugin(Wine)", "wine"),
        ("wine = plugin(Wine)", "wine"),
        ("red = wine = mtlkit.plugin(Wine)", "wine"),
        ("wine: object = mtlkit.plugin(Wine)", "wine"),
        ("", "Wine"),
    ],
)
def test_of_a_class(summary_of, line, attribute):
    assert summary_of(f"acme:{attribute}", {"acme": f"{NEVER}{WINE}{line}\n"}) == "How good the wine is."


@pytest.mark.parametrize(
    "line", ["from acme.tasks import Wine", "from .tasks import Wine", "from . import tasks\nfrom .tasks import Wine"]
)
def test_of_a_class_from_another_module(summary_of, line):
    modules = {"acme.__init__": f"{NEVER}{line}\nwine = mtlkit.plugin(Wine)\n", "acme.tasks": NEVER + WINE}
    assert summary_of("acme:wine", modules) == "How good the wine is."


def test_of_a_class_under_another_name(summary_of):
    modules = {
        "acme.__init__": f"{NEVER}from acme.tasks import Wine as Bottle\nwine = mtlkit.plugin(Bottle)\n",
        "acme.tasks": NEVER + WINE,
    }
    assert summary_of("acme:wine", modules) == "How good the wine is."


def test_of_a_plugin_from_another_module(summary_of):
    modules = {
        "acme.__init__": f"{NEVER}from acme.tasks import wine\n",
        "acme.tasks": f"{NEVER}{WINE}wine = mtlkit.plugin(Wine)\n",
    }
    assert summary_of("acme:wine", modules) == "How good the wine is."


def test_of_a_module_in_a_package(summary_of):
    modules = {"acme.__init__": NEVER, "acme.deep.__init__": NEVER, "acme.deep.tasks": NEVER + WINE}
    assert summary_of("acme.deep.tasks:Wine", modules) == "How good the wine is."


def test_of_a_module_that_is_the_plugin(summary_of):
    assert summary_of("acme", {"acme": f'"""Wines."""\n{NEVER}'}) == "Wines."


@pytest.mark.parametrize(
    "text",
    [
        "class Wine: ...\nwine = mtlkit.plugin(Wine)\n",
        "def (:\n",
        "\x00",
        "from nowhere import wine\n",
        "from ...... import wine\n",
        "from ......nowhere import wine\n",
    ],
)
def test_of_nothing_that_can_be_read_it_is_that_of_the_distribution(summary_of, text):
    assert summary_of("acme:wine", {"acme": text}) == "Of the distribution."


def test_of_a_command_it_is_that_of_its_function(summary_of):
    text = f"{NEVER}@click.command()\ndef predict():\n    '''Predict a price.'''\nwine = mtlkit.plugin(predict)\n"
    assert summary_of("acme:wine", {"acme": text}) == "Predict a price."


@pytest.mark.parametrize("value", ["nowhere:wine", "acme.nowhere:wine", "acme.deep.er:wine", ":", "a b:c"])
def test_of_nothing_that_can_be_found_it_is_that_of_the_distribution(summary_of, value):
    assert summary_of(value, {"acme": NEVER}) == "Of the distribution."


@pytest.mark.parametrize(
    "modules",
    [
        {"acme.__init__": "from acme import wine\n", "acme.wine": NEVER},
        {"acme.__init__": "from acme.tasks import wine\n", "acme.tasks": "from acme import wine\n"},
    ],
)
def test_of_names_that_lead_in_a_circle(summary_of, modules):
    assert isinstance(summary_of("acme:wine", modules), str)


def test_of_text_in_another_encoding(install):
    site = install("acme", entry_points={"tasks": {"wine": "acme:Wine"}}, summary="Of the distribution.")
    (site / "acme.py").write_bytes(b"class Wine:\n    '''Ros\xe9.'''\n")
    assert summary(Registry.discover().find("tasks", "wine")) == "Of the distribution."


def test_of_what_ships():
    registry = Registry.discover()
    texts = {r.name: summary(r) for r in registry.records() if r.distribution == "mtlkit"}
    assert texts["mlp"] == "Fully connected layers over the flattened row."
    assert all(text.endswith(".") and len(text) < 120 for text in texts.values())


def test_of_the_digits():
    assert summary(Registry.discover().find("tasks", "parity")) == "Whether the digit is odd."
