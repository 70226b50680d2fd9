"""Markdown from what the code says of itself: paragraphs, tables, and docstrings in Google's style."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 120
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")
_ENTRY = re.compile(r"^(\*{0,2}\w+): (.*)$", re.DOTALL)
_SECTION_TITLES = {"Args": "Arguments", "Yields": "Yields"}


def generated(source: str, command: str = "make docs") -> str:
    """The first line of a page, so that nobody edits it by hand."""
    return f"<!-- written from {source} by `{command}`; edit that -->"


def paragraph(text: str, *, indent: str = "") -> str:
    """A paragraph, filled to the width of the documentation."""
    joined = " ".join(text.split())
    return textwrap.fill(
        joined,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def item(text: str) -> str:
    """An item of a list."""
    return paragraph(text, indent="- ")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def code(text: str) -> str:
    """An indented block of code."""
    return textwrap.indent(text.strip("\n"), "    ", lambda line: bool(line.strip()))


def docstring(text: str | None) -> str:
    """A docstring in Google's style as Markdown: its sections become lists under a bold word."""
    parts: list[str] = []
    for block in _blocks(inspect.cleandoc(text or "")):
        title, _, body = block.partition("\n")
        section = _SECTION.match(title)
        if section is None:
            is_code = all(line.startswith("    ") for line in block.splitlines() if line)
            parts.append(block if is_code else paragraph(block))
            continue
        name = _SECTION_TITLES.get(section[1], section[1])
        entries = [_entry(entry) for entry in _entries(textwrap.dedent(body))]
        if section[1] in ("Returns", "Yields"):
            parts.append(paragraph(f"**{name}:** {' '.join(body.split())}"))
        else:
            parts.append("\n".join([f"**{name}**\n", *entries]))
    return "\n\n".join(parts)


def _blocks(text: str) -> list[str]:
    return [block.strip("\n") for block in re.split(r"\n{2,}", text) if block.strip()]


def _entries(body: str) -> list[str]:
    """The entries of a section: each begins at the margin, and further lines are indented."""
    return [entry for entry in re.split(r"\n(?=\S)", body) if entry.strip()]


def _entry(text: str) -> str:
    found = _ENTRY.match(text)
    return item(text if found is None else f"`{found[1]}`: {found[2]}")
