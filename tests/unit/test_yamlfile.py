"""What YAML is read, what is refused and where, and what is written back."""

from __future__ import annotations

import enum
import math
import os
import pathlib
import re

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtlkit.errors import ConfigError, Problem
from mtlkit.yamlfile import Document, dotted, dump, load, parse, parse_scalar

RUN = """\
# A comment, so that line numbers matter.
strategy:
  name: mgda
  "rate": 1e-3
tasks:
  - name: digits
    weight: 2
  - {name: parity, weight: 0.5}
seed:
"""

LIKE_OTHER_SCALARS = ["", "~", "null", "true", "010", "0o7", "0x1F", "+1", "1.", "1e3", ".inf", ".NaN"]
LIKE_YAML_1_1 = ["no", "on", "Yes", "y", "1:30", "2024-01-01", "1_000", "0b11", "<<", "="]
LIKE_A_NUMBER = [
    "0O17",
    "-0x1F",
    "1e",
    ".",
    ".e3",
    "+",
    "-.nan",
    "inf",
    "nan",
    ".iNF",
    "1 2",
    "\u0661",
    "1\u00b2",
]
LIKE_SYNTAX = ["- a", "a: b", "# a", "a #b", "!a", "&a", "*a", "@a", "%a", "---", "...", "?", "{", "'", '"']
ODD_CHARACTERS = [" a ", "a\nb\n", "\n", "\t", "a\r\nb", "\x00", "\x85", "a \u2028", "\u2029", "\ufeff", "😀"]

LAUGHS = "a: &a [lol, lol]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def refusal(text: str) -> Problem:
    """Return the one problem that parse has with a text."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "run.yaml")
    (problem,) = caught.value.problems
    return problem


class TestScalars:
    @pytest.mark.parametrize("text", ["null", "Null", "NULL", "~", ""])
    def test_null(self, text):
        assert parse(f"a: {text}").data == {"a": None}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("true", True),
            ("True", True),
            ("TRUE", True),
            ("false", False),
            ("False", False),
            ("FALSE", False),
            ("0", 0),
            ("-0", 0),
            ("+12", 12),
            ("-7", -7),
            ("010", 10),
            ("0o17", 15),
            ("0x1F", 31),
            ("9" * 500, 10**500 - 1),
            ("1e-3", 0.001),
            ("1e3", 1000.0),
            ("1E+20", 1e20),
            (".5", 0.5),
            ("-.5e1", -5.0),
            ("1.", 1.0),
            (".inf", math.inf),
            ("+.Inf", math.inf),
            ("-.INF", -math.inf),
        ],
    )
    def test_core_schema(self, text, value):
        read = parse_scalar(text)
        assert read == value
        assert type(read) is type(value)

    @pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
    def test_not_a_number(self, text):
        read = parse_scalar(text)
        assert isinstance(read, float)
        assert math.isnan(read)

    @pytest.mark.parametrize("text", [*LIKE_YAML_1_1, *LIKE_A_NUMBER, "tRUE", "nULL"])
    def test_everything_else_is_a_string(self, text):
        assert parse(text).data == text

    @pytest.mark.parametrize("text", ["'1'", '"1"', "|-\n  1", ">-\n  1"])
    def test_quoted_and_block_scalars_are_strings(self, text):
        assert parse(f"a: {text}").data == {"a": "1"}

    def test_merge_key_is_a_plain_key(self):
        document = parse("base: &base {a: 1}\nrun:\n  <<: *base\n  b: 2\n")
        assert document.data == {"base": {"a": 1}, "run": {"<<": {"a": 1}, "b": 2}}

    def test_pyyaml_itself_is_left_as_it_was(self):
        assert yaml.safe_load("[no, 1e-3, 010]") == [False, "1e-3", 8]
        assert yaml.safe_dump({"a": "1e3"}) == "a: 1e3\n"


class TestDocuments:
    @pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "---", "---\n...\n", "\ufeff"])
    def test_empty_text_holds_none(self, text):
        document = parse(text, "run.yaml")
        assert document.data is None
        assert re.fullmatch(r"run\.yaml:[12]:[14]", document.location(("seed",)))

    def test_byte_order_mark_takes_no_column(self):
        document = parse("\ufeffa: 1", "run.yaml")
        assert document.data == {"a": 1}
        assert document.location(("a",)) == "run.yaml:1:4"

    def test_keys_keep_their_order(self):
        assert list(parse("b: 1\na: 2\nc: 3\n").data) == ["b", "a", "c"]

    def test_aliases_give_each_place_its_own_copy(self):
        data = parse("a: &x {rate: [1]}\nb: *x\n").data
        assert data == {"a": {"rate": [1]}, "b": {"rate": [1]}}
        assert data["a"] is not data["b"]
        assert data["a"]["rate"] is not data["b"]["rate"]


class TestPlaces:
    @pytest.mark.parametrize(
        ("path", "place"),
        [
            ((), "run.yaml:2:1"),
            (("strategy",), "run.yaml:3:3"),
            (("strategy", "name"), "run.yaml:3:9"),
            (("strategy", "rate"), "run.yaml:4:11"),
            (("tasks",), "run.yaml:6:3"),
            (("tasks", 0), "run.yaml:6:5"),
            (("tasks", 0, "weight"), "run.yaml:7:13"),
            (("tasks", 1, "weight"), "run.yaml:8:28"),
            (("seed",), "run.yaml:9:6"),
        ],
    )
    def test_of_values(self, path, place):
        assert parse(RUN, "run.yaml").location(path) == place

    @pytest.mark.parametrize(
        ("path", "place"),
        [
            (("strategy",), "run.yaml:2:1"),
            (("strategy", "rate"), "run.yaml:4:3"),
            (("tasks", 1, "weight"), "run.yaml:8:20"),
            (("seed",), "run.yaml:9:1"),
        ],
    )
    def test_of_keys(self, path, place):
        assert parse(RUN, "run.yaml").key_location(path) == place

    @pytest.mark.parametrize(
        ("path", "place"),
        [
            (("nothing",), "run.yaml:2:1"),
            (("strategy", "missing", "deeper"), "run.yaml:3:3"),
            (("tasks", 7, "weight"), "run.yaml:6:3"),
        ],
    )
    def test_nearest_parent_stands_in_for_what_is_missing(self, path, place):
        document = parse(RUN, "run.yaml")
        assert document.location(path) == place
        assert document.key_location(path) == place

    def test_list_item_has_no_key_but_a_value(self):
        assert parse(RUN, "run.yaml").key_location(("tasks", 1)) == "run.yaml:8:5"

    def test_aliased_value_is_placed_where_it_is_written(self):
        document = parse("a: &x\n  rate: 1\nb: *x\n", "run.yaml")
        assert document.location(("b", "rate")) == "run.yaml:2:9"
        assert document.key_location(("b",)) == "run.yaml:3:1"

    def test_columns_count_characters(self):
        assert parse("{é😀: 1}", "run.yaml").location(("é😀",)) == "run.yaml:1:6"

    def test_windows_line_ends(self):
        assert parse("a: 1\r\nb: 2\r\n", "run.yaml").location(("b",)) == "run.yaml:2:4"

    def test_plain_data_has_none(self):
        document = Document.from_data({"a": [1]})
        assert document.source == "<config>"
        assert document.location(("a", 0)) == ""
        assert document.key_location(("a",)) == ""


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "place", "what"),
        [
            ("a: !!python/object/apply:os.system [ls]", "1:4", "Tag '!!python/object/apply:os.system'"),
            ("a: !!str 1", "1:4", "Tag '!!str'"),
            ("a:\n  - !local {}", "2:5", "Tag '!local'"),
            ("! a", "1:1", "Tag '!'"),
            ("!<tag:example.org,2000:x> a", "1:1", "Tag 'tag:example.org,2000:x'"),
            ("a: 1\nb: 2\na: 3\n", "3:1", "Duplicate key 'a' (first at run.yaml:1:1)"),
            ("x:\n  - {a: 1, 'a': 2}", "2:12", "Duplicate key 'a' (first at run.yaml:2:6)"),
            ("1: a", "1:1", "A key must be a string, not the int '1'"),
            ("a: {1.5: b}", "1:5", "A key must be a string, not the float '1.5'"),
            ("null: a", "1:1", "A key must be a string, not the null 'null'"),
            ("{? : a}", "1:3", "A key must be a string, not the null ''"),
            ("true: a", "1:1", "A key must be a string, not the bool 'true'"),
            ("[a]: b", "1:1", "A key must be a string, not a list"),
            ("? {a: b}\n: c", "1:3", "A key must be a string, not a mapping"),
            ("a: " + "9" * 501, "1:4", "An int of 501 digits"),
            ("a: 0x" + "F" * 5000, "1:4", "An int of 5002 digits"),
            ("9" * 999 + ": 1", "1:1", "An int of 999 digits"),
            ("a: &x [1, *x]", "1:11", "Alias '*x' is inside the value that it repeats"),
            ("&x {a: {b: *x}}", "1:12", "Alias '*x' is inside the value that it repeats"),
            ("a: *x", "1:4", "undefined alias 'x'"),
            ("a: &x 1\nb: &x 2", "2:4", "duplicate anchor 'x'; first occurrence (run.yaml:1:4)"),
            ("a: 1\n---\nb: 2\n", "2:1", "expected a single document"),
            ("a: b: c", "1:5", "mapping values are not allowed here"),
            ("a:\n\tb: 1", "2:1", r"found character '\t'"),
            ("a:\n  - 'b\n", "3:1", "while scanning a quoted scalar (run.yaml:2:5)"),
            ("a: [1, 2", "1:9", "expected ',' or ']'"),
            ("a: @b", "1:4", "found character '@'"),
            ("a: 1\r\nb: \x07", "2:4", "Character U+0007"),
            ("a: \x00", "1:4", "Character U+0000"),
            ("\ufeff\x01", "1:1", "Character U+0001"),
            ("a: '\ud800'", "1:5", "Character U+D800"),
            (r'a: "\ud83d\ude00"', "1:4", "half a character"),
            (r'"\ud800": 1', "1:1", "half a character"),
            (r'a: "\UFFFFFFFF"', "1:7", "Not valid YAML"),
            (r'a: "\U00110000"', "1:7", "Not valid YAML"),
            ("%YAML 1." + "1" * 5000 + "\n--- a", "1:9", "Not valid YAML"),
            ("%YAML 2.0\n--- a", "1:1", "incompatible YAML document"),
        ],
    )
    def test_says_what_and_where(self, text, place, what):
        problem = refusal(text)
        assert problem.location == f"run.yaml:{place}"
        assert what in problem.what
        assert problem.remedy

    @pytest.mark.parametrize(
        "text",
        [
            "a: !" + "t" * 900,
            "'" + "k" * 900 + "': 1\n'" + "k" * 900 + "': 2\n",
            "a: &" + "x" * 900 + " [*" + "x" * 900 + "]",
            "a: *" + "x" * 900,
            "0." + "1" * 900 + ": 1",
        ],
    )
    def test_repeats_no_more_than_the_beginning_of_what_is_long(self, text):
        assert len(str(refusal(text))) < 400

    def test_names_the_setting_where_it_can(self):
        assert refusal("optim:\n  lr: 1\n  lr: 2\n").path == "optim.lr"

    def test_reads_as_a_sentence(self):
        assert str(refusal("optim:\n  lr: 1\n  lr: 2\n")) == (
            "Duplicate key 'lr' (first at run.yaml:2:3) at optim.lr (run.yaml:3:3). Keep one of them."
        )

    @pytest.mark.parametrize("shape", ["[" * 51, "- " * 51, "{a: " * 51, "? " * 51, "[" * 100_000])
    def test_deep_nesting(self, shape):
        assert "Nested more than 50 levels" in refusal(shape).what

    def test_fifty_levels_are_fine(self):
        assert parse("[" * 50 + "]" * 50).data

    def test_nesting_through_aliases(self):
        text = "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 20 + "*a" + "]" * 20
        assert "Nested more than 50 levels" in refusal(text).what

    def test_a_hundred_aliases_are_fine(self):
        text = "[&x 1" + ", *x" * 100
        assert parse(f"{text}]").data == [1] * 101
        assert refusal(f"{text}, *x]").what == "More than 100 aliases"

    @pytest.mark.parametrize("text", [LAUGHS, "[" + "1," * 100_000 + "]"], ids=["aliases", "items"])
    def test_crowds(self, text):
        assert "More than 100000 keys and values" in refusal(text).what

    def test_size(self):
        assert parse("#" * 1_000_000).data is None
        assert "larger than 1000000 bytes" in refusal("#" * 1_000_001).what
        assert "larger than 1000000 bytes" in refusal("#" + "é" * 500_000).what


class TestLoad:
    def test_reads_a_file(self, tmp_path):
        path = tmp_path / "run.yaml"
        path.write_bytes(b"\xef\xbb\xbfname: \xc3\xa9t\xc3\xa9\n")
        document = load(path)
        assert document.data == {"name": "été"}
        assert document.source == str(path)
        assert document.location(("name",)) == f"{path}:1:7"

    @pytest.mark.parametrize(
        ("content", "place", "what"),
        [
            (b"a: 1\nb: \xc3\xa9\xff\n", ":2:5", "Byte 0xFF is not UTF-8"),
            ("a: 1".encode("utf-16"), ":1:1", "is not UTF-8"),
            (b"#" * 1_000_001, ":1:1000001", "larger than 1000000 bytes"),
            (b"a: 1\n" * 250_000, ":200001:1", "larger than 1000000 bytes"),
            ("a: 1\n".encode("utf-32"), ":1:1", "is not UTF-8"),
            (b"a: [", ":1:5", "Not valid YAML"),
        ],
    )
    def test_refuses_content(self, tmp_path, content, place, what):
        path = tmp_path / "run.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=re.escape(what)) as caught:
            load(path)
        assert caught.value.problems[0].location == f"{path}{place}"

    @pytest.mark.parametrize("name", ["missing.yaml", ".", "null\0character"])
    def test_names_a_path_that_cannot_be_read(self, tmp_path, name):
        path = tmp_path / name
        with pytest.raises(ConfigError, match=f"cannot be read.*{re.escape(str(path))}"):
            load(path)

    def test_a_name_in_no_encoding(self, tmp_path):
        path = tmp_path / os.fsdecode(b"caf\xe9.yaml")
        path.write_text("a: [", encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.problems[0].location == f"{path}:1:5"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        path = tmp_path / "run.yaml"
        os.mkfifo(path)
        with pytest.raises(ConfigError, match="It is a named pipe, not a file"):
            load(path)

    @pytest.mark.skipif(not pathlib.Path("/dev/zero").exists(), reason="there is no device without end")
    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
    def test_a_device_is_not_read(self, tmp_path, device):
        path = tmp_path / "run.yaml"
        path.symlink_to(device)
        with pytest.raises(ConfigError, match="cannot be read"):
            load(path)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no file is closed to root")
    def test_a_file_without_permission(self, tmp_path):
        path = tmp_path / "run.yaml"
        path.touch(mode=0)
        with pytest.raises(ConfigError, match="Permission denied"):
            load(path)


class TestParseScalar:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("", ""),
            ('""', ""),
            ("null", None),
            ("gradnorm", "gradnorm"),
            ("[64, 32]", [64, 32]),
            ("{a: 1}", {"a": 1}),
            ("runs/2024-01-01", "runs/2024-01-01"),
            ("https://example.org:80", "https://example.org:80"),
        ],
    )
    def test_reads_as_parse_does(self, text, value):
        assert parse_scalar(text) == value

    @pytest.mark.parametrize("text", ["[64", "@x", "*.csv", "!x", "{a: 1, a: 2}"])
    def test_refuses_what_parse_refuses(self, text):
        with pytest.raises(ConfigError, match="<value>:1:"):
            parse_scalar(text)


class TestOverride:
    def test_replaces_a_value_and_its_places(self):
        before = parse(RUN, "run.yaml")
        after = before.override(("strategy",), {"name": "pcgrad"}, "command line")
        assert after.data["strategy"] == {"name": "pcgrad"}
        assert after.location(("strategy", "name")) == "command line"
        assert after.key_location(("strategy", "rate")) == "command line"
        assert after.key_location(("strategy",)) == "command line"
        assert after.location(("tasks", 0, "weight")) == "run.yaml:7:13"
        assert after.source == "run.yaml"

    def test_leaves_the_original_alone(self):
        before = parse(RUN, "run.yaml")
        value = {"deep": [1]}
        after = before.override(("tasks", 0, "weight"), value, "command line")
        after.data["tasks"][1]["name"] = "changed"
        after.data["tasks"][0]["weight"]["deep"].append(2)
        assert before == parse(RUN, "run.yaml")
        assert before.location(("tasks", 0, "weight")) == "run.yaml:7:13"
        assert value == {"deep": [1]}

    def test_makes_missing_mappings(self):
        after = parse(RUN, "run.yaml").override(("optim", "adam", "lr"), 0.1, "command line")
        assert after.data["optim"] == {"adam": {"lr": 0.1}}
        assert list(after.data)[-1] == "optim"
        assert after.key_location(("optim",)) == "command line"
        assert after.location(("optim", "adam", "lr")) == "command line"

    def test_fills_a_null_that_keeps_its_key(self):
        after = parse(RUN, "run.yaml").override(("seed", "torch"), 3, "command line")
        assert after.data["seed"] == {"torch": 3}
        assert after.key_location(("seed",)) == "run.yaml:9:1"
        assert after.location(("seed", "torch")) == "command line"

    @pytest.mark.parametrize("document", [Document.from_data(None), Document.from_data({}), parse("")])
    def test_starts_from_nothing(self, document):
        assert document.override(("a", "b"), 1, "MTLKIT_A").data == {"a": {"b": 1}}

    def test_of_the_whole(self):
        after = parse(RUN, "run.yaml").override((), {"a": 1}, "command line")
        assert after.data == {"a": 1}
        assert after.location(("a",)) == "command line"

    def test_of_plain_data_places_only_what_it_sets(self):
        after = Document.from_data({"a": {"x": 1}}).override(("a", "y"), 2, "command line")
        assert after.data == {"a": {"x": 1, "y": 2}}
        assert after.location(("a", "y")) == "command line"
        assert after.location(("a", "x")) == ""
        assert after.location(("a",)) == ""

    def test_of_an_aliased_value_changes_one_use(self):
        after = parse("a: &x {rate: 1}\nb: *x\n").override(("b", "rate"), 2, "command line")
        assert after.data == {"a": {"rate": 1}, "b": {"rate": 2}}

    @pytest.mark.parametrize(
        ("path", "what"),
        [
            (("tasks", 2), "Cannot set 'tasks[2]': 'tasks' is a list of 2"),
            (("tasks", -1, "name"), "Cannot set 'tasks[-1].name': 'tasks' is a list of 2"),
            (("tasks", "digits"), "Cannot set 'tasks.digits': 'tasks' is a list of 2"),
            (("strategy", 0), "Cannot set 'strategy[0]': 'strategy' is a mapping"),
            (("strategy", "name", "x"), "Cannot set 'strategy.name.x': 'strategy.name' is 'mgda'"),
            (("seed", 0), "Cannot set 'seed[0]': 'seed' is None"),
            (("new", 0), "Cannot set 'new[0]': 'new' is None"),
            ((0,), "Cannot set '[0]': the whole configuration is a mapping"),
        ],
    )
    def test_refuses_a_path_that_does_not_fit(self, path, what):
        with pytest.raises(ConfigError) as caught:
            parse(RUN, "run.yaml").override(path, 1, "command line")
        (problem,) = caught.value.problems
        assert problem.what == what
        assert problem.path == dotted(path)
        assert problem.location == "command line"
        assert problem.remedy


class TestWithout:
    def test_removes_a_key_and_its_places(self):
        before = parse(RUN, "run.yaml")
        after = before.without(("tasks", 1, "weight"))
        assert after.data["tasks"] == [{"name": "digits", "weight": 2}, {"name": "parity"}]
        assert after.location(("tasks", 1, "weight")) == "run.yaml:8:5"
        assert after.location(("tasks", 0, "weight")) == "run.yaml:7:13"
        assert before == parse(RUN, "run.yaml")

    @pytest.mark.parametrize("path", [("x",), ("seed", "x"), ("strategy", "name", "x"), ("tasks", 5, "x"), ()])
    def test_of_what_is_absent_changes_nothing(self, path):
        assert parse(RUN).without(path) == parse(RUN)


class TestDump:
    def test_is_block_style_in_the_given_order(self):
        data = {"tasks": [{"name": "été", "weight": 0.5}], "empty": {}, "none": None, "layers": (64, 32)}
        assert dump(data) == ("tasks:\n- name: été\n  weight: 0.5\nempty: {}\nnone: null\nlayers:\n- 64\n- 32\n")

    @pytest.mark.parametrize(
        "text",
        [*LIKE_OTHER_SCALARS, *LIKE_YAML_1_1, *LIKE_A_NUMBER, *LIKE_SYNTAX, *ODD_CHARACTERS, "x " * 200],
    )
    def test_strings_stay_strings(self, text):
        assert parse(dump(text)).data == text
        assert parse(dump({text: [text]})).data == {text: [text]}

    @pytest.mark.parametrize("number", [1e20, 1e-3, 1e-7, 5e-324, 1.0, -0.0, math.inf, -math.inf])
    def test_floats_stay_floats(self, number):
        read = parse(dump({"x": number})).data["x"]
        assert isinstance(read, float)
        assert repr(read) == repr(number)

    def test_nan(self):
        assert math.isnan(parse(dump(math.nan)).data)

    def test_writes_no_anchors(self):
        shared = {"rate": 1}
        assert dump({"a": shared, "b": shared}) == "a:\n  rate: 1\nb:\n  rate: 1\n"

    @pytest.mark.parametrize(
        ("data", "what"),
        [
            ({"path": pathlib.PurePosixPath("a")}, "PurePosixPath"),
            ([b"bytes"], "bytes"),
            ({"a": {1, 2}}, "set"),
            (enum.Enum("Mode", "FAST").FAST, "Mode"),
            ({"a": {1: 2}}, "keys of a mapping must be strings, not 1"),
        ],
    )
    def test_refuses_what_it_could_not_read_back(self, data, what):
        with pytest.raises(TypeError, match=what):
            dump(data)


text = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)
yamlish = st.lists(
    st.sampled_from([*"ab01.-+:,?![]{}&*#|>'\"%@\\ \n\t~<=", "- ", ": ", "&a ", "*a", "---\n", "\\U", "%YAML 1."])
    | st.characters()
).map("".join)


@settings(deadline=None)
@given(plain)
def test_what_is_dumped_is_read_back(data):
    read = parse(dump(data)).data
    assert read == data
    assert repr(read) == repr(data)  # True is not 1, and 1 is not 1.0


@settings(deadline=None)
@given(st.text(st.characters()) | yamlish)
@example("a: &a [*a]")
@example('"\\UFFFFFFFF"')
def test_any_text_is_read_or_refused_with_a_place(text):
    try:
        document = parse(text, "run.yaml")
    except ConfigError as error:
        (problem,) = error.problems
        assert re.fullmatch(r"run\.yaml:\d+:\d+", problem.location)
        assert problem.what
    else:
        assert re.fullmatch(r"run\.yaml:\d+:\d+", document.location(()))
