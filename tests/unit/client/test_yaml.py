"""YAML that others wrote ends in data or in one error with a line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur._yaml import UnreadableYamlError, YamlLimits, parse_yaml

LIMITS = YamlLimits(1 << 16)


def refusal(text):
    with pytest.raises(UnreadableYamlError) as caught:
        parse_yaml(text.encode(), LIMITS)
    return caught.value.line, str(caught.value)


def test_a_directive_may_say_that_it_is_the_yaml_that_is_read():
    assert parse_yaml(b"%YAML 1.2\n---\nlanguages: [no, 2:4]\n", LIMITS) == {"languages": ["no", "2:4"]}
    for version in ("1.0", "1.1"):
        line, said = refusal(f"%YAML {version}\n---\na: no\n")
        assert (line, said) == (1, "it says that it is another version of YAML; write it in YAML 1.2")


@pytest.mark.parametrize("value", ["!!bool x", "!!int x", "!!float x", "2026-99-99", "9" * 5000, "!!int ''"])
@pytest.mark.parametrize("before", ["", "a: 1\n", "a: [x, {b: 2026-01-01}]\n\n"])
def test_a_value_that_is_not_what_it_says_is_named_with_its_line(before, value):
    line, said = refusal(f"{before}z: {value}\n")
    assert line == before.count("\n") + 1
    assert said.endswith("put it between quotes to make it a text")


FAULTS = {
    "a:\n\tb: 1": (2, 1, "indent with spaces"),
    "model: {uri: [": (1, 15, "the text ends within a bracket"),
    'a: 1\nb: "x\nc: 2\n': (2, 4, "the quote that opens here is never closed"),
    "a: 1\nb: 'x\n---\n": (2, 4, "the quote that opens here is never closed"),
    "a: [1, 2\nb: 3\n": (1, 4, "close it with ], and put a comma"),
    "a: {x: 1\nb: 3\n": (1, 4, "close it with }, and put a comma"),
    "a: {b: [c}\n": (1, 8, "close it with ]"),
    "a: {b: c}}\n": (1, 10, "} is one too many"),
    "a: 1\nb: 1\na: 2\n": (3, 1, "the key a is there twice; keep one"),
    "a:\n  b: 1\n c: 2\n": (3, 2, "begin all keys of a mapping in one column"),
    "- a\nb: c\n": (2, 1, "begin all keys of a mapping in one column"),
    "a: 1\n  b: 2\n": (2, 4, "indent the line like those it goes with"),
    "a: b: c\n": (1, 5, "put a text with a colon between quotes"),
    "a\nb: 1\n": (2, 2, "end the key above with a colon"),
    "a: 1\nb\n": (2, 1, "write `key: value`"),
    "a: @x\n": (1, 4, "no value begins with @; put the value between quotes"),
    "a: *.weight\n": (1, 4, "begins with * is an alias"),
    "a: !foo x\n": (1, 4, "!foo is a tag"),
    "a: 'b' c\n": (1, 8, "there is more behind a value that has ended"),
    "a: 1\n---\nb: 2\n": (2, 1, "a second document begins here"),
    "a: |2x\n": (1, 6, "begin the text on the next line"),
    'a: "C:\\q"\n': (1, 8, r"\q means nothing between double quotes; use single quotes"),
    "%FOO\na: 1\n": (2, 1, "begins with % is a directive"),
    "<<: 3\n": (1, 5, "the key << takes mappings alone"),
    "a: x\0y\n": (1, 5, "the character U+0000 may not be in YAML; take it out"),
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_told_with_its_place_and_a_remedy(text):
    with pytest.raises(UnreadableYamlError) as caught:
        parse_yaml(text.encode(), LIMITS)
    line, column, said = FAULTS[text]
    assert said in str(caught.value)
    assert caught.value.place == f", line {line}, column {column}"


def test_other_encodings_are_told():
    for content, place, said in (
        ("größe: 1".encode("latin-1"), ", line 1, column 3", "the byte 0xf6 is not UTF-8; save the file as UTF-8"),
        ("a: ü\nbä: ".encode() + b"\xff", ", line 2, column 5", "the byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a: 1".encode("utf-16"), "", "it is UTF-16; save it as UTF-8"),
    ):
        with pytest.raises(UnreadableYamlError) as caught:
            parse_yaml(content, LIMITS)
        assert (caught.value.place, str(caught.value)) == (place, said)


LEAKED = re.compile(r"while |<[a-z ]+>|expected |found |codec|document_start|in \"")


@given(st.text(alphabet=st.sampled_from("%!&*[]{}:,-?|>'\"#ab1 \n\t\\~<="), max_size=60))
def test_no_text_ends_otherwise_or_in_words_of_the_library(text):
    said = ""
    try:
        parse_yaml(text.encode(), LIMITS)
    except UnreadableYamlError as error:
        said = str(error)
    assert not LEAKED.search(said)
