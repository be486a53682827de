"""Command templates: every word stays one argument, whatever is put into it."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_runner.errors import UsageError
from dask_runner.workloads import template

_KNOWN = ("input", "output", "first")


def _arguments(words, env=None):
    """What a program gets when bash runs the words."""
    script = b"printf '%s\\0' " + b" ".join(
        word.encode("utf-8", "surrogateescape") for word in words
    )
    done = subprocess.run(
        ["/bin/bash", "-c", script], capture_output=True, check=True, env=env or {}
    )
    return [part.decode("utf-8", "surrogateescape") for part in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize(
    "hostile",
    [
        "a b", "a'b", 'a"b', "$(touch owned)", "`touch owned`", "a\nb", "*", "~", "-rf", "a;b",
        "{input}", "$HOME", "\\", "", "#x", "!x", "a\udcffb",
    ],
)  # fmt: skip
def test_values_survive_as_one_argument(hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "prog --in={input} {output} 'x {first}'"
    words = template.from_text(text, _KNOWN, where="test").shell_words(
        {"input": hostile, "output": hostile, "first": hostile}
    )
    assert _arguments(words) == ["prog", f"--in={hostile}", hostile, f"x {hostile}"]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
def test_any_value_is_one_argument(value):
    words = template.from_text("{input}", _KNOWN, where="test").shell_words({"input": value})
    assert _arguments(words) == [value]


def test_variables_of_the_setup_are_expanded_and_dollars_can_be_had():
    words = template.from_text("$A/x ${B}y $$A '$C d' {{}}", _KNOWN, where="test").shell_words({})
    env = {"A": "a a", "B": "", "C": "*"}
    assert _arguments(words, env) == ["a a/x", "y", "$A", "* d", "{}"]


def test_a_variable_that_is_not_set_is_an_error_and_not_an_empty_word():
    words = template.from_text("$NOT_SET/bin/x", _KNOWN, where="test").shell_words({})
    done = subprocess.run(["/bin/bash", "-c", words[0]], capture_output=True, check=False, env={})
    assert done.returncode != 0
    assert b"NOT_SET: is not set after the setup" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x {inptu}", "unknown placeholder {inptu}"),
        ("x {}", "unknown placeholder {}"),
        ("x {", "a lone '{'"),
        ("x }", "a lone '}'"),
        ("x | y", "'|' needs a shell"),
        ("x > log", "'>' needs a shell"),
        ("x 2>&1", "'2>&1' needs a shell"),
        ("x && y", "'&&' needs a shell"),
        ("x 'y", "No closing quotation"),
        ("", "the command is empty"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_read(text, said):
    with pytest.raises(UsageError) as caught:
        template.from_text(text, _KNOWN, where="the command of step 'simulate'")
    assert said in caught.value.message
    assert "the command of step 'simulate'" in caught.value.message


def test_words_of_a_shell_keep_their_dollars():
    parsed = template.from_words(["$HOME", "$$"], (), where="test", variables=False)
    assert _arguments(parsed.shell_words({})) == ["$HOME", "$$"]
