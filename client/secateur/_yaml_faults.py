"""What is wrong with a text that is not YAML, in words of the person who wrote it, and what to do.

The library's own messages speak of its tokens and states (`expected <block end>, but found '<scalar>'`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

_SHOWN_CHARACTERS = 40
_QUOTES = "put the value between quotes"


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where.

    Attributes:
        problem: with the remedy.
        line: counted from 1; None if it is not a single place.
        column: likewise.
    """

    problem: str
    line: int | None = None
    column: int | None = None


# What the library says; what we say, of the parts that it quotes; whether the fault is where the thing began.
_PROBLEMS: list[tuple[str, Callable[[re.Match[str]], str], bool]] = [
    (r"found character '\\t'", lambda _: "a tab stands where spaces belong; indent with spaces", False),
    (r"found character '(.+)' that", lambda m: f"no value begins with {m[1]}; {_QUOTES}", False),
    (
        r"scanning a quoted scalar.*unexpected (?:end of stream|document separator)",
        lambda _: "the quote that opens here is never closed; close it, or double a quote that is part of a text",
        True,
    ),
    (
        r"expected ',' or '(\]|\})'",
        lambda m: (
            f"the bracket that opens here is not closed where it should be; close it with {m[1]}, "
            "and put a comma between two entries"
        ),
        True,
    ),
    (
        r"flow node.*but found '<stream end>'",
        lambda _: "the text ends within a bracket; give the value that belongs here, and close the bracket",
        False,
    ),
    (r'found duplicate key "([^"]*)"', lambda m: f"the key {_short(m[1])} is there twice; keep one", False),
    (r"found duplicate anchor", lambda _: f"an anchor (&name) is there twice; rename one, or {_QUOTES}", False),
    (
        r"found undefined alias",
        lambda _: f"a value that begins with * is an alias, and nothing has its name; {_QUOTES}",
        False,
    ),
    (
        r"constructor for the tag '([^']*)'",
        lambda m: f"{_short(m[1])} is a tag, and none is known here; leave it out, or {_QUOTES}",
        False,
    ),
    (
        r"another document",
        lambda _: "a second document begins here; keep one, without a line `---` behind it",
        False,
    ),
    (
        r"mapping values are not allowed",
        lambda _: (
            "no colon belongs here; indent the line like those it goes with, put a text with a colon between quotes, "
            "or end the key above with a colon"
        ),
        False,
    ),
    (r"could not find expected ':'", lambda _: "a key has no colon behind it; write `key: value`", True),
    (
        r"but found '(\]|\}|,)'",
        lambda m: f"{m[1]} is one too many, or a value is missing before it; take it out, or {_QUOTES}",
        False,
    ),
    (
        r"but found '(?:<scalar>|<anchor>|<alias>|<tag>|\[|\{)'",
        lambda _: f"there is more behind a value that has ended; {_QUOTES}, all of it",
        False,
    ),
    (
        r"expected <block end>",
        lambda _: "the line is indented like nothing above it; begin all keys of a mapping in one column",
        False,
    ),
    (
        r"scanning a (?:block|literal|folded) scalar|chomping or indentation",
        lambda _: "nothing but a line break belongs behind | or >; begin the text on the next line",
        False,
    ),
    (
        r"unknown escape character '(.)'",
        lambda m: rf"\{m[1]} means nothing between double quotes; use single quotes",
        False,
    ),
    (
        r"directive|<document start>",
        lambda _: "a line that begins with % is a directive, and no such one is known; take it out",
        False,
    ),
    (r"for merging", lambda _: "the key << takes mappings alone; rename it, or put it between quotes", False),
]


def fault_of(error: YAMLError, text: str) -> Fault:
    """What the library found, for people."""
    if isinstance(error, ReaderError):
        before = text[: error.position]
        problem = f"the character U+{ord(text[error.position]):04X} may not be in YAML; take it out"
        return Fault(problem, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    if not isinstance(error, MarkedYAMLError):
        return Fault(f"a value cannot be read; {_QUOTES}")
    said = f"{error.context or ''} {error.problem or ''}"
    matches = ((re.search(pattern, said, re.DOTALL), tell, began) for pattern, tell, began in _PROBLEMS)
    found = next(((match, tell, began) for match, tell, began in matches if match), None)
    mark = error.problem_mark or error.context_mark
    problem = f"this cannot be read; {_QUOTES}"
    if found is not None:
        match, tell, began = found
        problem = tell(match)
        mark = (began and error.context_mark) or mark
    return Fault(problem) if mark is None else Fault(problem, mark.line + 1, mark.column + 1)


def undecodable(content: bytes, error: UnicodeDecodeError) -> Fault:
    """Where bytes are not UTF-8."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Fault("it is UTF-16; save it as UTF-8")
    before = content[: error.start]
    column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
    problem = f"the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
    return Fault(problem, before.count(b"\n") + 1, column)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
