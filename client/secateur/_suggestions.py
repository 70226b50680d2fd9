"""What somebody may have meant who wrote a name that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_LEAST_PREFIX = 3
_LEAST_LIKENESS, _SLIP_LIKENESS = 0.7, 0.9
_OTHER_WORDS = {
    "succeeded": ("done", "success", "successful", "finished", "complete", "completed", "ok"),
    "failed": ("failure", "error", "broken"),
    "queued": ("pending", "waiting", "created"),
    "running": ("active", "started", "working"),
    "cancelled": ("aborted", "stopped", "killed"),
    "created": ("date", "time", "newest", "age"),
}
"""What people call the states of a job, and what a list is sorted by."""


def close_to(text: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest; None if none is near.

    It is the same but for case and punctuation, or longer, or a slip away, or the longest that the text begins or ends
    with, or else alike.
    """
    plain = {_plain(name): name for name in known}
    wanted = _plain(text)
    if wanted in plain:
        return plain[wanted]
    longer = [name for key, name in plain.items() if len(wanted) >= _LEAST_PREFIX and key.startswith(wanted)]
    if len(longer) == 1:
        return longer[0]
    alike = difflib.get_close_matches(wanted, plain, n=1, cutoff=_LEAST_LIKENESS)
    if alike and difflib.SequenceMatcher(None, alike[0], wanted).ratio() >= _SLIP_LIKENESS:
        return plain[alike[0]]
    words = _words(text)
    within = [name for name in plain.values() if _begins_or_ends(words, _words(name))]
    return max(within, key=len) if within else plain[alike[0]] if alike else None


def word_for(text: object, known: Iterable[str]) -> str | None:
    """The known name that a word of people stands for, such as SUCCEEDED for `done`, or that is nearest."""
    if not isinstance(text, str):
        return None
    names = list(known)
    plain = _plain(text)
    by_word = (name for name in names if plain in _OTHER_WORDS.get(name.casefold(), ()))
    return next(by_word, None) or close_to(text, names)


def did_you_mean(names: Sequence[str]) -> str:
    """The question, such as `did you mean de (German) or ka (Georgian)?`; empty without names."""
    return f"did you mean {' or '.join(names)}?" if names else ""


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.casefold())


def _begins_or_ends(words: Sequence[str], part: Sequence[str]) -> bool:
    return bool(part) and part in (words[: len(part)], words[-len(part) :])
