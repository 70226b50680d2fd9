"""JSON that others wrote: what it says in its own words when it cannot be taken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.bounded import JsonLimits, UnreadableJsonError, parse_json

LIMITS = JsonLimits(1 << 20, 10_000)


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_every_text_of_characters_is_taken_however_it_is_escaped(content):
    for ascii_only in (True, False):
        assert parse_json(json.dumps(content, ensure_ascii=ascii_only).encode(), LIMITS) == content


@given(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF, categories=["Cs"]), st.text(), st.booleans())
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(half, beside, is_key):
    text = beside + half + "x"
    content = {text: 1} if is_key else {"a": [{"b": text}]}
    with pytest.raises(UnreadableJsonError, match="half of a surrogate pair"):
        parse_json(json.dumps(content).encode(), LIMITS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" + b"9" * 5000 + b"]", "it has a number of thousands of digits"),
        (b'"\xff"', r"it is not UTF-8 \(byte 1\)"),
        (b"[" * 500 + b"]" * 500, "it is nested deeper than 64 levels"),
        *((b"[" * n + b'"\\u0041"' + b"]" * n, "it is nested deeper than 64 levels") for n in range(900, 1000, 9)),
    ],
)
def test_python_gives_no_advice(content, said):
    with pytest.raises(UnreadableJsonError, match=f"^{said}$"):
        parse_json(content, LIMITS)
