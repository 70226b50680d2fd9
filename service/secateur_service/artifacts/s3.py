"""The production object store: anything that speaks S3, through the MinIO client.

This is the only module that imports `minio` (pinned exactly: its next release changes its signatures) and the only one
that knows its errors. The client gets our own connection pool, because its default waits five minutes for a response.

The client's `put_object` cannot send `If-None-Match: *`, which makes `put_new` atomic; a presigned PUT can. For stores
that ignore the header we look first, which leaves a race that the job store's fence closes.

Every upload request carries a digest of its body, which the store verifies before accepting it: the client's own
requests have SHA-256 in their signature, or Content-MD5 where TLS protects the rest; ours have Content-MD5.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, IncompleteRead, MaxRetryError, ReadTimeoutError, SSLError

from secateur._foreign import detail_of
from secateur_service.artifacts.port import (
    BUCKET_NOT_FOUND,
    FORBIDDEN,
    NOT_SUPPORTED,
    OBJECT_NOT_FOUND,
    OBJECT_TRUNCATED,
    REFUSED,
    TIMEOUT,
    UNAVAILABLE,
    UNREACHABLE,
    ObjectInfo,
    check_key,
)
from secateur_service.errors import AttemptError, PermanentError, TransientError

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 60.0
RETRIES = 4
BACKOFF_SECONDS = 0.2
RETRIED_STATUSES = (429, 500, 502, 503, 504)
PART_BYTES = 64 * 2**20
UPLOAD_TRIES = 3
MAX_URL_SECONDS = 7 * 24 * 3600  # the most that signature version 4 allows

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_FORBIDDEN_CODES = {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
_TRANSIENT_CODES = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
}


class _Told:
    """A file that reports how many bytes are read."""

    def __init__(self, file: BinaryIO, on_read: Callable[[int], None]) -> None:
        self._file, self._on_read = file, on_read

    def read(self, size: int = -1) -> bytes:
        """Read as from a file."""
        piece: bytes = self._file.read(size)
        self._on_read(len(piece))
        return piece


class S3Store:
    """Objects of one bucket below one prefix."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        endpoint: str,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        retries: int = RETRIES,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            bucket: An existing bucket.
            prefix: Path within the bucket, without slashes at its ends; may be empty.
            endpoint: `http://host:port` or `https://host[:port]`.
            access_key: Access key.
            secret_key: Secret key.
            region: The bucket's region; the client does not look it up.
            retries: Retries of a request after a broken connection or a 5xx response.
            read_timeout_seconds: Longest silence of the store within a response.
        """
        address = urlsplit(endpoint)
        if address.scheme not in {"http", "https"} or not address.hostname or address.path not in {"", "/"}:
            raise PermanentError(
                f"S3 endpoint {endpoint!r} is not an address; expected http://host:port or https://host",
                reason=REFUSED,
            )
        self._bucket = bucket
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._endpoint = endpoint
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=read_timeout_seconds),
            maxsize=8,
            ca_certs=certifi.where(),
            retries=urllib3.Retry(
                total=retries,
                redirect=0,
                backoff_factor=BACKOFF_SECONDS,
                backoff_jitter=BACKOFF_SECONDS,
                status_forcelist=RETRIED_STATUSES,
                raise_on_status=False,  # the response says more than "too many retries"
            ),
        )
        self._client = Minio(
            address.netloc,
            access_key=access_key,
            secret_key=secret_key,
            secure=address.scheme == "https",
            region=region,
            http_client=self._http,
        )

    def put_file(self, path: Path, key: str, media_type: str, on_read: Callable[[int], None] = lambda _: None) -> None:
        """Upload a file, in parts if it is large; a broken upload is repeated from the start."""
        name = self._name(key)

        def upload() -> None:
            with path.open("rb") as file:
                told = cast("BinaryIO", _Told(file, on_read))
                size = path.stat().st_size
                self._client.put_object(self._bucket, name, told, size, content_type=media_type, part_size=PART_BYTES)

        self._repeat(f"uploading {key}", upload)

    def put_bytes(self, key: str, content: bytes, media_type: str) -> None:
        """Upload a small object in one request."""
        self._put(key, content, {"Content-Type": media_type})

    def put_new(self, key: str, content: bytes, media_type: str) -> bool:
        """Upload a small object in one request, which the store refuses if the key is taken."""
        if self.stat(key) is not None:
            return False
        headers = {"Content-Type": media_type}
        tolerated = (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_IMPLEMENTED)
        status = self._put(key, content, {**headers, "If-None-Match": "*"}, accepted=tolerated)
        if status == HTTPStatus.NOT_IMPLEMENTED:  # the store refuses the condition instead of ignoring it
            status = self._put(key, content, headers)
        return status == HTTPStatus.OK

    def get_bytes(self, key: str) -> bytes:
        """Read a small object."""
        return b"".join(self._read(key))

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file beside the target and rename it."""
        partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                for piece in self._read(key):
                    file.write(piece)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask for an object's size."""
        name = self._name(key)
        try:
            with self._translated(f"looking at {key}"):
                size = self._client.stat_object(self._bucket, name).size
        except PermanentError as error:
            if error.reason == OBJECT_NOT_FOUND:
                return None
            raise
        assert size is not None
        return ObjectInfo(size_bytes=size)

    def list_keys(self, prefix: str) -> Iterator[str]:
        """List page by page."""
        for key, _ in self.list_objects(prefix):
            yield key

    def list_objects(self, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
        """List page by page; an object's version is its ETag."""
        with self._translated(f"listing {prefix}"):
            for entry in self._client.list_objects(self._bucket, self._prefix + prefix, recursive=True):
                if entry.object_name is not None and not entry.is_dir:
                    info = ObjectInfo(size_bytes=entry.size or 0, version=entry.etag or "")
                    yield entry.object_name.removeprefix(self._prefix), info

    def read_range(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Read a part of an object."""
        return self._read(key, offset=start, length=stop - start)

    def delete(self, key: str) -> None:
        """Remove an object."""
        name = self._name(key)
        with self._harmless_where_absent(f"removing {key}"):
            self._client.remove_object(self._bucket, name)

    def abort_uploads(self, prefix: str) -> int:
        """Abort multipart uploads that were never completed; the client has no public calls for this.

        If a store does not list them, its own expiry of uploads must do.
        """
        aborted, start, action = 0, self._prefix + prefix, f"removing unfinished uploads to {prefix}"
        uploads = self._list_uploads(start, action)
        while uploads:  # the client cannot ask for the next page, but aborted uploads are not listed again
            for name, upload_id in uploads:
                with self._harmless_where_absent(action):
                    self._client._abort_multipart_upload(self._bucket, name, upload_id)
                aborted += 1
            uploads = [found for found in self._list_uploads(start, action) if found not in uploads]
        return aborted

    def download_url(self, key: str, expires_seconds: float) -> tuple[str, datetime | None]:
        """A presigned URL; its lifetime is cut to the seven days that S3 allows."""
        lifetime = timedelta(seconds=min(max(expires_seconds, 1), MAX_URL_SECONDS))
        now = datetime.now(UTC)
        with self._translated(f"signing an address for {key}"):
            url = self._client.presigned_get_object(self._bucket, self._name(key), expires=lifetime, request_date=now)
        return url, now + lifetime

    def uri(self, key: str) -> str:
        """The `s3` URI."""
        return f"s3://{self._bucket}/{self._name(key)}"

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _list_uploads(self, start: str, action: str) -> list[tuple[str, str]]:
        """Names and ids of one page of unfinished uploads."""
        found: list[tuple[str, str]] = []
        with self._harmless_where_absent(action):
            for upload in self._client._list_multipart_uploads(self._bucket, prefix=start).uploads:
                # Some stores send names percent-encoded without saying so.
                name = upload.object_name if upload.object_name.startswith(start) else unquote(upload.object_name)
                found.append((name, upload.upload_id or ""))
        return found

    def _put(self, key: str, content: bytes, headers: dict[str, str], *, accepted: tuple[int, ...] = ()) -> int:
        """PUT through a presigned URL, which can carry headers that `put_object` cannot.

        Returns:
            The status: 200, or one of `accepted`.
        """
        with self._translated(f"uploading {key}"):
            url = self._client.get_presigned_url("PUT", self._bucket, self._name(key), expires=timedelta(seconds=900))
            digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
            answer = self._http.request("PUT", url, body=content, headers={**headers, "Content-MD5": digest})
            if answer.status != HTTPStatus.OK and answer.status not in accepted:
                raise self._failure(f"uploading {key}", answer.status, _code_in(answer.data.decode(errors="replace")))
            return answer.status

    def _read(self, key: str, *, offset: int = 0, length: int = 0) -> Iterator[bytes]:
        """The object's content, or a part of it, in pieces; raises if fewer bytes arrive than were announced."""
        with self._translated(f"reading {key}"):
            answer = self._client.get_object(self._bucket, self._name(key), offset=offset, length=length)
            try:
                announced = answer.headers.get("Content-Length")
                received = 0
                for piece in answer.stream(2**20):
                    received += len(piece)
                    yield piece
            finally:
                answer.close()
                answer.release_conn()
        if announced is not None and received != int(announced):
            raise TransientError(f"reading {key}: {received} of {announced} bytes came", reason=OBJECT_TRUNCATED)

    def _repeat(self, action: str, request: Callable[[], object]) -> None:
        for tries in range(1, UPLOAD_TRIES + 1):
            try:
                with self._translated(action):
                    request()
            except TransientError:
                if tries == UPLOAD_TRIES:
                    raise
                time.sleep(BACKOFF_SECONDS * 2**tries * (1 + random.random()))  # noqa: S311 - jitter
            else:
                return

    @contextmanager
    def _harmless_where_absent(self, action: str) -> Iterator[None]:
        """For removals: ignore errors for what does not exist or what the store does not support."""
        try:
            with self._translated(action):
                yield
        except PermanentError as error:
            if error.reason not in {OBJECT_NOT_FOUND, NOT_SUPPORTED}:
                raise

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        """Convert minio's and urllib3's errors to the port's, with the bucket's name but without credentials."""
        try:
            yield
        except AttemptError:
            raise
        except S3Error as error:
            raise self._failure(action, error.response.status, error.code or "") from error
        except InvalidResponseError as error:
            raise self._failure(action, error._code, _code_in(error._body or "")) from error
        except ServerError as error:
            raise self._failure(action, error.status_code, "") from error
        except ParseError as error:
            raise self._failure(action, HTTPStatus.BAD_GATEWAY, "") from error
        except HTTPError as error:
            raise self._broken(action, error) from error
        except (MinioException, ValueError) as error:
            raise PermanentError(
                f"{action}: no request can be made of it ({detail_of(error)}); check the keys and the "
                f"name of the bucket {self._bucket}",
                reason=REFUSED,
            ) from error

    def _failure(self, action: str, status: int, code: str) -> AttemptError:
        """The job's error for a response of the store, whose own text is left out because it may quote the request."""
        said = f"{self._endpoint} answered {status} {code if _CODE.fullmatch(code) else ''}".strip()
        if code == "NoSuchBucket":
            remedy = "create it or choose another destination"
            return PermanentError(f"{action}: there is no bucket {self._bucket}; {remedy}", reason=BUCKET_NOT_FOUND)
        if code == "NotImplemented" or status == HTTPStatus.NOT_IMPLEMENTED:
            return PermanentError(f"{action}: {said}", reason=NOT_SUPPORTED)
        if code in {"NoSuchKey", "NoSuchVersion", "NoSuchUpload"} or (status == HTTPStatus.NOT_FOUND and not code):
            return PermanentError(f"{action}: the bucket {self._bucket} has no such object", reason=OBJECT_NOT_FOUND)
        if code in _TRANSIENT_CODES or status in RETRIED_STATUSES:
            return TransientError(f"{action}: {said}", reason=UNAVAILABLE)
        if code in _FORBIDDEN_CODES or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            remedy = f"check the access key and its rights on the bucket {self._bucket}"
            return PermanentError(f"{action}: {said}; {remedy}", reason=FORBIDDEN)
        return PermanentError(f"{action}: {said}", reason=REFUSED)

    def _broken(self, action: str, error: HTTPError) -> AttemptError:
        """The job's error for a failed connection."""
        cause = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
        if isinstance(cause, SSLError):
            remedy = "check the store's certificate"
            return PermanentError(
                f"{action}: no TLS with {self._endpoint}: {detail_of(cause)}; {remedy}", reason=REFUSED
            )
        if isinstance(cause, ReadTimeoutError):
            return TransientError(f"{action}: {self._endpoint} did not answer in time", reason=TIMEOUT)
        if isinstance(cause, IncompleteRead):
            return TransientError(f"{action}: the answer broke off", reason=OBJECT_TRUNCATED)
        return TransientError(f"{action}: cannot reach {self._endpoint}: {detail_of(cause)}", reason=UNREACHABLE)


def _code_in(body: str) -> str:
    """S3's error code from a response that is XML but not declared as such, as some stores send it."""
    code = re.search(r"<Code>([^<]*)</Code>", body)
    return code[1] if code else ""
