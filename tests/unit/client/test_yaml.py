"""YAML that others wrote ends in data or in one error with a line."""

import contextlib

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


@given(st.text(alphabet=st.sampled_from("%!&*[]{}:,-?|>'\"#ab1 \n\t\\~<="), max_size=60))
def test_no_text_ends_otherwise(text):
    with contextlib.suppress(UnreadableYamlError):
        parse_yaml(text.encode(), LIMITS)
