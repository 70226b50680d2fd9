"""Orders, and page tokens: opaque to callers, bound to filter and order of the list they continue (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from dataclasses import asdict
from typing import Any

from secateur_service.errors import FieldViolation, InvalidRequestError
from secateur_service.jobs.filters import NEWEST_FIRST, Filter, Order, OrderKey, Place

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
_MAX_TOKEN_CHARACTERS = 1024
_LARGEST_NUMBER = 2**63 - 1
_KEYS = tuple(key.value for key in OrderKey)


def check_page_size(page_size: int) -> int:
    """The number of jobs to return: 50 for 0, at most 500.

    Raises:
        InvalidRequestError: it is negative.
    """
    if page_size < 0:
        raise InvalidRequestError([FieldViolation("page_size", f"{page_size} is negative; 0 gives the default")])
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def parse_order(text: str) -> Order:
    """The order that `order_by` asks for (AIP-132).

    Raises:
        InvalidRequestError: there is no such order.
    """
    if not text.strip():
        return NEWEST_FIRST
    key, *direction = text.split()
    if key not in _KEYS or direction not in ([], ["asc"], ["desc"]):
        remedy = f"not an order; expected {', '.join(_KEYS)} or one of them with desc, e.g. create_time desc"
        raise InvalidRequestError([FieldViolation("order_by", remedy)])
    return Order(OrderKey(key), descending=direction == ["desc"])


def encode_token(after: Place | None, wanted: Filter, order: Order) -> str:
    """The token for the page after a place; empty if there is no such page."""
    if after is None:
        return ""
    content = json.dumps({"after": after, "list": _digest(wanted, order)}, separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def decode_token(token: str, wanted: Filter, order: Order) -> Place | None:
    """The place in a token; None for the first page.

    Raises:
        InvalidRequestError: the token is not one of ours, or belongs to a list with another filter or order.
    """
    if not token:
        return None
    after, listed = _content(token)
    place = _place(after)
    if place is None:
        raise InvalidRequestError([FieldViolation("page_token", "not a token of this service; start without one")])
    if listed != _digest(wanted, order):
        remedy = "belongs to a list with other states, labels, times or another order; repeat those, or start without"
        raise InvalidRequestError([FieldViolation("page_token", remedy)])
    return place


def _digest(wanted: Filter, order: Order) -> str:
    """What stands for filter and order in a token, since labels may be long."""
    canonical = json.dumps([asdict(wanted), asdict(order)], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _place(after: Any) -> Place | None:
    """A place that the database can look for; None for anything else."""
    if not isinstance(after, list) or len(after) != 2:
        return None
    value, number = after
    is_figure = type(value) is float and not math.isnan(value)
    is_time = type(value) is int and abs(value) <= _LARGEST_NUMBER
    is_number = type(number) is int and 0 <= number <= _LARGEST_NUMBER
    return (value, number) if (is_figure or is_time) and is_number else None


def _content(token: str) -> tuple[Any, Any]:
    """The place and the list in a token; None for both if it is too long to decode, or not one of ours."""
    if len(token) > _MAX_TOKEN_CHARACTERS:
        return None, None
    try:
        padded = token + "=" * (-len(token) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return content["after"], content.get("list")
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, None
