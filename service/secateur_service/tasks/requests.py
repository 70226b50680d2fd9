"""What a model is asked for a task: how probable texts are after others. Plain data, without the harness."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from secateur_service.calibration.languages import parse_language

_WITH_SCRIPT = re.compile(r"_([a-z]{3})_([A-Z][a-z]{3})$")  # belebele_deu_Latn
_LAST_PART = re.compile(r"_([A-Za-z-]+)$")
_ISO_639_1 = 2


@dataclass(frozen=True)
class Request:
    """Tokens to be scored after others.

    Attributes:
        tokens: ids of the context and of what is scored.
        scored: how many of the last tokens are scored, at least 1 and fewer than all.
    """

    tokens: tuple[int, ...]
    scored: int


@dataclass(frozen=True)
class Answer:
    """What a model says to a request.

    Attributes:
        log_likelihood: of the scored tokens, in nats.
        is_greedy: whether each of them is the most probable one.
    """

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True)
class RequestSet:
    """All that a model is asked, in its tokens.

    Attributes:
        requests: in the order of the items.
        parts: how many of them belong to each text of the tasks, in order: long ones are asked for in parts.
    """

    requests: Sequence[Request]
    parts: Sequence[int]

    def joined(self, answers: Sequence[Answer]) -> list[Answer]:
        """Answers for the texts of the tasks, from one for each request."""
        found, start = [], 0
        for count in self.parts:
            some = answers[start : start + count]
            start += count
            found.append(Answer(sum(part.log_likelihood for part in some), all(part.is_greedy for part in some)))
        return found


@dataclass(frozen=True)
class Scores:
    """A metric of a task, item by item.

    Attributes:
        task: its name.
        language: BCP 47; None if neither the task nor its name says.
        metric: the harness' name.
        values: one for each item, in the order of the items.
        aggregate: makes the figure of all items, or of some.
        is_mean: whether that is the mean.
        items: digest of the items and of what was asked of them.
        higher_is_better: None if the task does not say.
    """

    task: str
    language: str | None
    metric: str
    values: Sequence[Any]
    aggregate: Callable[[Sequence[Any]], float]
    is_mean: bool
    items: str = ""
    higher_is_better: bool | None = None

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether every item is one or the other, so that the mean is a share of items."""
        return all(isinstance(value, int | float) and value in (0, 1) for value in self.values)

    @property
    def has_amount(self) -> bool:
        """Whether an amount of the metric means something; see `secateur._task_loss`."""
        return self.is_right_or_wrong or self.higher_is_better is True


def language_of(name: str, stated: object, evaluated: Sequence[str]) -> str | None:
    """The language of a task: what its `metadata` states, else the end of its name, as in `xnli_de`; None if unknown.

    Names end in many things. A code of two letters counts, one of three with a script, and an evaluated language.
    """
    if isinstance(stated, str):
        return _known(stated)
    with_script, last = _WITH_SCRIPT.search(name), _LAST_PART.search(name)
    if with_script:
        return _known("-".join(with_script.groups()))
    found = _known(last[1]) if last else None
    return found if last and (len(last[1]) == _ISO_639_1 or found in evaluated) else None


def _known(tag: str) -> str | None:
    try:
        return str(parse_language(tag))
    except ValueError:
        return None
