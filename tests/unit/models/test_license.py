import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secateur_service.models.license import IDENTIFIERS, License, UnreadableCardError, read_license

REPOSITORY = "https://huggingface.co/org/name/blob/abc"


def card(**fields):
    return ("---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items()) + "---\n# x").encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"---\nlicense: cc-by-4.0\nlanguage: no\n---\n# x", License("cc-by-4.0")),
        (b"\xef\xbb\xbf---\r\nlicense: MIT\r\n---\r\n", License("mit")),
        (b"---\nlanguage: de\n---\n", None),
        (b"# no front matter", None),
        (b"", None),
        (b"---\nlicense: [apache-2.0]\n---\n", License("apache-2.0")),
        (b"---\nlicense: [a, b]\n---\n", None),
        (b"---\nlicense: {a: b}\n---\n", None),
        (b"---\nlicense: my own terms\n---\n", License("other", "my-own-terms")),
        (b"---\nlicense: other\n---\n", License("other")),
        (b"---\nlicense: '\\e[31m'\n---\n", None),
        (b"---\n- a list\n---\n", None),
        (b"---\nlicense: mit\ndate: 2023-02-30\nversion: 1_0\nbig: 0x" + b"f" * 400 + b"\n---\n", License("mit")),
        (b"---\nlicense: !!python/object/apply:os.system {a: b}\n---\n", None),
        (card(license="other", license_name="Garden License 1.0"), License("other", "garden-license-1.0")),
        (card(license="mit", license_name="unneeded"), License("mit")),
        (card(license="mit", license_link="https://x.example/a"), License("mit", None, "https://x.example/a")),
        (card(license="mit", license_link="LICENSE"), License("mit", None, "LICENSE")),
        (card(license="mit", license_link="TERMS.md"), License("mit", None, f"{REPOSITORY}/TERMS.md")),
        (card(license="mit", license_link="javascript:alert(1)"), License("mit")),
        (card(license="mit", license_link="../../etc"), License("mit")),
        (card(license="mit", license_link="https://user:pw@x.example/"), License("mit")),
        (card(license="mit", license_link="https://[broken"), License("mit")),
        (card(license="mit", license_link="https://x.example/a b"), License("mit")),
        (card(license="mit", license_link=["LICENSE"]), License("mit")),
    ],
)
def test_the_license_is_read_from_the_base_models_card(content, expected):
    assert read_license(content, ["LICENSE", "TERMS.md"], REPOSITORY) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"---\n{ broken\n---\n",
        b"---\nlicense: mit\n\xff\xfe\n---\n",
        b"---\nlicense: " + b"[" * 60_000 + b"\n---\n",
        b"---\nlicense: mit\nx: " + b"y" * 200_000 + b"\n---\n",
        b"---\nlicense: mit\n\tx: 1\n---\n",
        b"---\nlicense: mit\nlicense: apache-2.0\n---\n",
        b"---\na: &a [*a]\nlicense: *b\n---\n",
    ],
)
def test_front_matter_that_cannot_be_read_says_so(content):
    with pytest.raises(UnreadableCardError, match="front matter"):
        read_license(content)


LINES = st.one_of(
    st.sampled_from(
        [
            "license: apache-2.0",
            "license: 2023-02-30",
            "date: 2023-02-30",
            "<<: *a",
            "a: &a {<<: *a}",
            "l0: &l0 [x, x, x, x, x, x, x, x, x]",
            "l1: &l1 [*l0, *l0, *l0, *l0, *l0, *l0, *l0, *l0]",
            "l2: &l2 [*l1, *l1, *l1, *l1, *l1, *l1, *l1, *l1]",
            "license: *l2",
            "license: !!binary ////",
            "license: !!timestamp x",
            "? [complex, key]",
            "%YAML 9.9",
            "...",
            "license: |",
            "  - 1:2:3",
            "license: .nan",
            "0o9: 1e999",
        ]
    ),
    st.text(max_size=30),
)


@example(["l0: &l0 [x, x]", *(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 90)), "license: *l89"])
@given(st.lists(LINES, max_size=8))
def test_whatever_front_matter_says_it_is_a_license_of_the_hub_none_or_unreadable(lines):
    content = ("---\n" + "\n".join(lines) + "\n---\n").encode("utf-8", "surrogatepass")
    try:
        found = read_license(content)
    except UnreadableCardError:
        return
    if found is not None:
        assert found.identifier in IDENTIFIERS
        assert found.name is None or re.fullmatch("[a-z0-9._+-]+", found.name)
