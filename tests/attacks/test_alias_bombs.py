"""A short configuration that would expand without end, by aliases of aliases: refused before it is built."""

from __future__ import annotations

import pytest

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
MANY = "a: &a [1, 2]\n" + "".join(f"b{n}: *a\n" for n in range(101))
WITHIN = "a: &a {b: [*a, *a]}\n"
WIDE = f"a: &a [{', '.join('x' * 2000)}]\nb: [{', '.join(['*a'] * 100)}]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "More than 100000 keys and values, counting all that aliases repeat"),
        (MANY, "More than 100 aliases"),
        (WITHIN, "Alias '*a' is inside the value that it repeats"),
        (WIDE, "More than 100000 keys and values, counting all that aliases repeat"),
    ],
    ids=["billion laughs", "many", "within itself", "wide"],
)
def test_is_refused_where_it_stands(tmp_path, command, text, said):
    (tmp_path / "evil.yaml").write_text(text, encoding="utf-8")
    ended = command("check", "evil.yaml", memory=500_000_000)
    assert ended.code == 2
    assert said in ended.output
    assert "(evil.yaml:" in ended.output
    assert "Traceback" not in ended.output


def test_in_a_run_folder_is_refused_too(run, command):
    (run / "config.yaml").write_text(LAUGHS, encoding="utf-8")
    ended = command("evaluate", run, memory=500_000_000)
    assert ended.code == 2
    assert "More than 100000 keys and values" in ended.output
