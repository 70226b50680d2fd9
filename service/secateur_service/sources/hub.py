"""Repositories on the hub, accessed through huggingface_hub.

The library finds commits, builds URLs and headers, waits when throttled, and classifies errors. Bytes are read by range
through its session, because its own downloads start afresh in every process: what a killed worker had fetched of a
file of many gigabytes would be lost.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from secateur._foreign import detail_of
from secateur_service.durable import write_durably
from secateur_service.errors import TransientError
from secateur_service.sources.reference import HubReference, ReferenceRefusedError
from secateur_service.sources.remote import DataSet, RemoteFile

TIMEOUT_SECONDS = 20.0
RETRIES = 2
WAIT_SECONDS = 1.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PARTIAL_CONTENT = 206
_THROTTLED = 429
_FORBIDDEN = (401, 403)


class Hub:
    """The hub at one endpoint, with one token.

    Args:
        endpoint: `https://huggingface.co`, or a mirror of it.
        token: an account's token; None for public repositories only.
        memory: folder for the results of earlier look-ups. A commit is looked up once, and a resumed job does not need
            the hub for what it has fetched.
        offline: never ask the hub; only what was looked up and fetched before is available.
    """

    def __init__(self, endpoint: str, token: str | None, *, memory: Path, offline: bool = False) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.token = token
        self.offline = offline
        self._memory = memory
        self._token: str | bool = token or False
        self._api = HfApi(endpoint=self.endpoint, token=self._token)

    def open(self, reference: HubReference) -> HubFolder:
        """Find the commit of a repository's revision, and its files.

        Raises:
            ReferenceRefusedError: there is no such repository or revision, or it is private or gated.
            TransientError: the hub cannot be reached, or asks to try later.
        """
        remembered = self._recall(reference)
        if remembered is not None and (self.offline or remembered.revision == reference.revision):
            return remembered
        if self.offline:
            raise ReferenceRefusedError(
                f"{reference} was not fetched before, and the service is offline; unset SECATEUR_HUB_OFFLINE"
            )
        folder = self._look_up(reference)
        for revision in {reference.revision, folder.revision}:
            self._remember(replace(reference, revision=revision), folder)
        return folder

    def describe(self, reference: HubReference) -> DataSet:
        """Find the commit of a data set's revision, and the configurations that its card lists.

        For data sets with too many files to list them all.

        Raises:
            ReferenceRefusedError, TransientError: as for `open`; also refused if the service is offline.
        """
        if self.offline:
            raise ReferenceRefusedError(f"{reference} is read while a job runs, and the service is offline")
        with self.translated(reference):
            info = self._api.dataset_info(
                reference.repository, revision=reference.revision, expand=["sha", "cardData"], timeout=TIMEOUT_SECONDS
            )
            self._api.auth_check(reference.repository, repo_type="dataset", token=self._token)
        configs = info.card_data.get("configs") if info.card_data else None
        entries = configs if isinstance(configs, list) else []  # untrusted, written by the author
        configurations = [str(entry["config_name"]) for entry in entries if "config_name" in entry]
        return DataSet(self._commit(reference, info.sha), frozenset(configurations) or None)

    def _commit(self, reference: HubReference, named: str | None) -> str:
        if named is None or not _COMMIT.fullmatch(named):
            raise ReferenceRefusedError(f"{self.endpoint} names no commit of {reference}; check SECATEUR_HUB_ENDPOINT")
        return named

    def _look_up(self, reference: HubReference) -> HubFolder:
        with self.translated(reference):
            look_up = self._api.model_info if reference.kind == "model" else self._api.dataset_info
            info = look_up(
                reference.repository, revision=reference.revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
        files = {
            sibling.rfilename: RemoteFile(sibling.rfilename, sibling.size, sibling.lfs.sha256 if sibling.lfs else None)
            for sibling in info.siblings or ()
            if sibling.size is not None
        }
        return HubFolder(self, reference, self._commit(reference, info.sha), files)

    def _remember(self, reference: HubReference, folder: HubFolder) -> None:
        content = {"commit": folder.revision, "files": [asdict(file) for file in folder.files.values()]}
        self._memory.mkdir(parents=True, exist_ok=True)
        write_durably(self._place(reference), json.dumps(content).encode())

    def _recall(self, reference: HubReference) -> HubFolder | None:
        place = self._place(reference)
        if not place.exists():
            return None
        content = json.loads(place.read_bytes())
        files = {file["name"]: RemoteFile(**file) for file in content["files"]}
        return HubFolder(self, reference, content["commit"], files)

    def _place(self, reference: HubReference) -> Path:
        return self._memory / (hashlib.sha256(f"{self.endpoint} {reference}".encode()).hexdigest()[:32] + ".json")

    def read(self, url: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) at a URL, in pieces."""
        if self.offline:
            raise ReferenceRefusedError("not all of it was fetched before, and the service is offline")
        headers = {
            **build_hf_headers(token=self._token),
            "Accept-Encoding": "identity",
            "Range": f"bytes={start}-{stop - 1}",
        }
        broken: httpx2.HTTPError | None = None
        with http_stream_backoff(
            "GET",
            url,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            max_retries=RETRIES,
            base_wait_time=WAIT_SECONDS,
            follow_redirects=True,
        ) as response:
            hf_raise_for_status(response)
            try:
                yield from _part(response, start, stop)
            except httpx2.HTTPError as error:  # the library would repeat the request
                broken = error
        if broken is not None:
            raise broken

    @contextmanager
    def translated(self, reference: HubReference) -> Iterator[None]:
        """Convert the library's errors to ours, with the remedy and without the token."""
        page = f"{self.endpoint}/{'datasets/' if reference.kind == 'dataset' else ''}{reference.repository}"
        try:
            yield
        except GatedRepoError as error:
            raise ReferenceRefusedError(
                f"{page} is gated; accept its terms there and set SECATEUR_HUB_TOKEN to a token of that account"
            ) from error
        except RepositoryNotFoundError as error:
            raise ReferenceRefusedError(
                f"there is no {page}, or it is private; check the name, or set SECATEUR_HUB_TOKEN to a token that may "
                "read it"
            ) from error
        except RevisionNotFoundError as error:
            raise ReferenceRefusedError(
                f"{page} has no revision {reference.revision}; use one of its branches, tags or commits"
            ) from error
        except EntryNotFoundError as error:
            raise ReferenceRefusedError(f"a file of {reference} is gone; choose another revision") from error
        except HFValidationError as error:
            raise ReferenceRefusedError(
                "not the name of a repository; use hf://org/name or hf://datasets/org/name"
            ) from error
        except HfHubHTTPError as error:
            raise self._failure(error, page) from error
        except (httpx2.HTTPError, OSError) as error:
            raise TransientError(
                f"the service cannot reach {self.endpoint}: {detail_of(error)}; check its network and "
                "SECATEUR_HUB_ENDPOINT, or name files that it has",
                reason="HUB_UNREACHABLE",
            ) from error

    def _failure(self, error: HfHubHTTPError, page: str) -> Exception:
        status = error.response.status_code
        if status == _THROTTLED:
            return TransientError(f"{self.endpoint} answers too many requests; try again later", reason="HUB_THROTTLED")
        if status in _FORBIDDEN:
            return ReferenceRefusedError(f"{page} may not be read (HTTP {status}); check SECATEUR_HUB_TOKEN")
        if status >= 500:
            return TransientError(f"{self.endpoint} answers HTTP {status}; try again later", reason="HUB_UNAVAILABLE")
        return ReferenceRefusedError(f"{page} cannot be read (HTTP {status})")


class HubFolder:
    """A repository at a commit."""

    def __init__(self, hub: Hub, reference: HubReference, commit: str, files: Mapping[str, RemoteFile]) -> None:
        self._hub = hub
        self._reference = reference
        self.revision = commit
        self.files = files

    @property
    def identity(self) -> str:
        """Endpoint, repository and commit."""
        return f"{self._hub.endpoint} {self._reference.kind} {self._reference.repository} {self.revision}"

    def read(self, file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
        """Read a range of a file."""
        if stop <= start:
            return
        url = hf_hub_url(
            self._reference.repository,
            file.name,
            repo_type=self._reference.kind,
            revision=self.revision,
            endpoint=self._hub.endpoint,
        )
        with self._hub.translated(self._reference):
            yield from self._hub.read(url, start, stop)


def _part(response: httpx2.Response, start: int, stop: int) -> Iterator[bytes]:
    """The bytes [start, stop) from a response; if the server ignores ranges, skip what precedes them."""
    is_partial = response.status_code == _PARTIAL_CONTENT
    skip, left = 0 if is_partial else start, stop - start
    for piece in response.iter_raw():  # as they arrive: pieces buffered into larger ones would be lost on a break
        wanted = piece[skip : skip + left]
        skip = max(0, skip - len(piece))
        left -= len(wanted)
        if wanted:
            yield wanted
        if not left:
            return
