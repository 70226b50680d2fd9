"""Arguments of a wrong type, refused by name: a text is a collection too, of letters, and would be taken for one."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

from secateur._config import LONGEST_SECONDS
from secateur._errors import FieldViolation, InvalidRequestError
from secateur._spec import described


def texts(values: Iterable[str], field: str) -> tuple[str, ...]:
    """The texts that an argument lists.

    Raises:
        InvalidRequestError: it is one text, no list, or lists something else.
    """
    given: Any = values
    if isinstance(given, str):
        raise _refused(field, f"expected a list, not {described(str(given))}; a single one goes into a list as well")
    if not isinstance(given, Iterable):
        raise _refused(field, f"expected a list, not {described(given)}")
    listed = tuple(given)
    for position, item in enumerate(listed):
        if not isinstance(item, str):
            raise _refused(f"{field}[{position}]", f"expected a text, not {described(item)}")
    return listed


def number(value: float | None, field: str) -> float | None:
    """The number that an argument is, if it is given.

    Raises:
        InvalidRequestError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _refused(field, f"expected a number, not {described(value)}")
    return float(value)


def timeout(seconds: float | None, name: str = "timeout_seconds") -> float | None:
    """The time limit of a wait, if there is one.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative, NaN or longer than a year, which gRPC takes for a time that is over.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, Real):
        raise TypeError(f"{name}: expected a number of seconds, not {described(seconds)}; None waits without a limit")
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(
            f"{name}: expected from 0 to {LONGEST_SECONDS} seconds, a year, not {described(seconds)}; None waits "
            "without a limit"
        )
    return float(seconds)


def _refused(field: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError([FieldViolation(field, problem)])
