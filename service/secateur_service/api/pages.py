"""Page tokens: opaque to callers, bound to the filter of the list they continue (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur_service.errors import FieldViolation, InvalidRequestError
from secateur_service.jobs.states import JobState

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
_MAX_TOKEN_CHARACTERS = 1024
_LARGEST_NUMBER = 2**63 - 1


def check_page_size(page_size: int) -> int:
    """The number of jobs to return: 50 for 0, at most 500.

    Raises:
        InvalidRequestError: it is negative.
    """
    if page_size < 0:
        raise InvalidRequestError([FieldViolation("page_size", f"{page_size} is negative; 0 gives the default")])
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


@dataclass(frozen=True)
class Filter:
    """Which jobs a list has.

    Attributes:
        states: in order, each once; all where there is none.
        labels: that a job has to have, all of them.
    """

    states: tuple[JobState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def plain(self) -> dict[str, Any]:
        """What a token has of it; labels may be long, so that a digest stands for them."""
        if not self.labels:
            return {"states": list(self.states)}
        canonical = json.dumps(self.labels, sort_keys=True, separators=(",", ":"))
        return {"states": list(self.states), "labels": hashlib.sha256(canonical.encode()).hexdigest()[:16]}


def encode_token(before: int | None, wanted: Filter) -> str:
    """The token for the page of jobs older than number `before`; empty if there is no such page."""
    if before is None:
        return ""
    content = json.dumps({"before": before, **wanted.plain}, separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def decode_token(token: str, wanted: Filter) -> int | None:
    """The number in a token; None for the first page.

    Raises:
        InvalidRequestError: the token is not one of ours, or belongs to a list with another filter.
    """
    if not token:
        return None
    before, filtered = _content(token)
    if type(before) is not int or not 0 <= before <= _LARGEST_NUMBER:
        raise InvalidRequestError([FieldViolation("page_token", "not a token of this service; start without one")])
    if filtered != wanted.plain:
        remedy = "belongs to a list with other states or labels; repeat those, or start without a token"
        raise InvalidRequestError([FieldViolation("page_token", remedy)])
    return before


def _content(token: str) -> tuple[Any, Any]:
    """The content of a token; None for both parts if it is too long to decode, or not one of ours."""
    if len(token) > _MAX_TOKEN_CHARACTERS:
        return None, None
    try:
        padded = token + "=" * (-len(token) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        before = content.pop("before")
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, None
    return before, content
