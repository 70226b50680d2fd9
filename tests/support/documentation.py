"""The blocks of code in the documentation, with where they stand."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = "<!-- written from"
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code: the page, the language that its fence names (of an indented one: `shell`), and the text."""

    page: str
    language: str
    text: str

    def __str__(self):
        return f"{self.page}: {self.text.strip().splitlines()[0][:60]}"


def blocks(path):
    """Every block of a page, in order: fenced ones by language, then indented ones."""
    content = path.read_text(encoding="utf-8")
    page = path.relative_to(ROOT).as_posix()
    fenced = [Block(page, found[1], found[2]) for found in _FENCED.finditer(content)]
    rest = _FENCED.sub("", content)
    indented = [re.sub(r"^ {4}", "", found[0], flags=re.MULTILINE) for found in _INDENTED.finditer(rest)]
    return [*fenced, *(Block(page, "shell", text) for text in indented)]


def all_blocks(*languages):
    """The blocks of all pages in one of these languages."""
    return [block for path in PAGES for block in blocks(path) if block.language in languages]


def commands(text):
    """The commands in a text of a shell, one a line: continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        command = re.sub(r"\s#.*$", "", line).strip()
        for part in re.split(r"\s(?:&&|\|\|?|;)\s|\$\(", command):
            if part and not part.startswith("#"):
                yield part.strip(" )&")
