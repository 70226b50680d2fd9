"""Identifiers: makes job ids, and checks the resource names, labels and request ids that callers send."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from secateur._terminal import first_unsafe
from secateur_service.api.conversion import NAME_PREFIX
from secateur_service.errors import FieldViolation, InvalidRequestError

MAX_LABELS = 64
MAX_LABEL_CHARACTERS = 63

# Crockford's base 32: no i, l, o, u; sorts in numeric order.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_DIGITS = 9
_RANDOM_DIGITS = 13
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def new_job_id(now_seconds: float) -> str:
    """A new id of 22 characters: nine for the time in milliseconds, so that ids sort by age, then 65 random bits."""
    return _base32(int(now_seconds * 1000), _TIME_DIGITS) + _base32(
        secrets.randbits(5 * _RANDOM_DIGITS), _RANDOM_DIGITS
    )


def parse_job_name(name: str, field: str = "name") -> str:
    """The id in a resource name, which a field of a request holds.

    Raises:
        InvalidRequestError: it is not the name of a job.
    """
    job_id = name.removeprefix(NAME_PREFIX)
    if not name.startswith(NAME_PREFIX) or not _ID.fullmatch(job_id):
        remedy = "not the name of a job; expected pruneJobs/ and an id of lower-case letters, digits and dashes"
        raise InvalidRequestError([FieldViolation(field, remedy)])
    return job_id


def check_id_prefix(prefix: str) -> list[FieldViolation]:
    """The rules that the beginning of an id breaks; an empty one is every id's."""
    if not prefix or _ID.fullmatch(prefix):
        return []
    return [FieldViolation("id_prefix", "no id begins so; expected lower-case letters, digits and dashes")]


def check_labels(labels: Mapping[str, str]) -> list[FieldViolation]:
    """The rules that the labels break."""
    violations = []
    if len(labels) > MAX_LABELS:
        violations.append(FieldViolation("labels", f"{len(labels)} labels are too many; at most {MAX_LABELS}"))
    for key, value in list(labels.items())[:MAX_LABELS]:
        shown = key[:MAX_LABEL_CHARACTERS]
        if not 1 <= len(key) <= MAX_LABEL_CHARACTERS:
            remedy = f"a key of {len(key)} characters; expected 1 to {MAX_LABEL_CHARACTERS}"
            violations.append(FieldViolation(f"labels[{shown}]", remedy))
        if len(value) > MAX_LABEL_CHARACTERS:
            remedy = f"a value of {len(value)} characters; at most {MAX_LABEL_CHARACTERS}"
            violations.append(FieldViolation(f"labels[{shown}]", remedy))
        unsafe = first_unsafe(key + value)
        if unsafe is not None:
            remedy = f"there is a character that no terminal shows in it ({unsafe}); leave it out"
            violations.append(FieldViolation(f"labels[{shown}]", remedy))
    return violations


def check_request_id(request_id: str) -> list[FieldViolation]:
    """The rules that a request id breaks; an empty id means there is none."""
    if not request_id or _UUID.fullmatch(request_id):
        return []
    return [FieldViolation("request_id", "not a UUID; expected e.g. the output of `uuidgen`, or nothing")]


def _base32(number: int, digits: int) -> str:
    return "".join(_ALPHABET[number >> (5 * position) & 31] for position in reversed(range(digits)))
