"""Calls to the REST interface of a cluster: with a token from a file, with limits, and with errors of our own.

Nothing is retried here: the loop comes again, and asks anew what there is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import certifi
import urllib3
from urllib3.exceptions import HTTPError

from secateur._foreign import detail_of
from secateur._redaction import redact_text
from secateur_service.bounded import JsonLimits, UnreadableJsonError, parse_json
from secateur_service.errors import CapacityError

REFUSED = "CAPACITY_REFUSED"
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 15.0
# The list of a large cluster's jobs, which are not all ours.
_LIMITS = JsonLimits(size_bytes=64 << 20, values=2_000_000)
_SHOWN_CHARACTERS = 300


class Rest:
    """A server that takes and gives JSON."""

    def __init__(self, url: str, *, token_file: Path | None = None, ca_file: Path | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: `http://host:port` or `https://host:port`, perhaps with a path.
            token_file: holds a bearer token, and is read for every call, because tokens are exchanged.
            ca_file: PEM file of the authorities to trust; None: the public ones.
        """
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            retries=False,
            ca_certs=certifi.where() if ca_file is None else str(ca_file),
        )

    def call(
        self,
        method: str,
        path: str,
        *,
        fields: dict[str, str] | None = None,
        body: Any = None,
        answers: tuple[int, ...] = (),
    ) -> tuple[int, Any]:
        """The status and the content of the answer; None for content that is empty or was not asked for.

        Args:
            method: of HTTP.
            path: below the server's URL.
            fields: of the query.
            body: is sent as JSON.
            answers: statuses that the caller understands, besides those of success.

        Raises:
            CapacityError: there is no answer, it is none of those, or it cannot be read.
        """
        url = f"{self._url}{path}"
        if fields:
            url += "?" + urlencode(fields)
        try:
            with self._http.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=self._headers(),
                redirect=False,
                preload_content=False,
            ) as response:
                status = response.status
                content = response.read(_LIMITS.size_bytes + 1)
        except (HTTPError, OSError) as error:
            raise CapacityError(f"{self._url} does not answer: {detail_of(error)}") from error
        if status in answers:
            return status, _parsed(content, self._url) if 200 <= status < 300 else None
        if not 200 <= status < 300:
            reason = REFUSED if 300 <= status < 500 and status not in (408, 429) else None
            raise CapacityError(f"{method} {url} was answered with {status}{_said(content)}", reason=reason)
        return status, _parsed(content, self._url)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token_file is not None:
            try:
                token = self._token_file.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise CapacityError(
                    f"capacity_token_file {self._token_file} cannot be read: {detail_of(error)}", reason=REFUSED
                ) from error
            if not token.isascii() or not token.isprintable() or " " in token or not token:
                raise CapacityError(f"capacity_token_file {self._token_file} holds no token", reason=REFUSED)
            headers["Authorization"] = f"Bearer {token}"
        return headers


def _parsed(content: bytes, url: str) -> Any:
    if not content:
        return None
    try:
        return parse_json(content, _LIMITS)
    except UnreadableJsonError as error:
        raise CapacityError(f"{url} sent an answer that cannot be read: {error}", reason=REFUSED) from error


def _said(content: bytes) -> str:
    """What the server said, on one line."""
    text = content[: 16 * _SHOWN_CHARACTERS].decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        pass
    else:
        if isinstance(found, dict):
            text = str(found.get("message") or found.get("msg") or found)
    text = " ".join(redact_text(text).split())
    return f": {text[:_SHOWN_CHARACTERS]}" if text else ""
