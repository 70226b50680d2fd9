"""Callers without a good token, against a running server: refused before anything else, and told nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as stubs
from secateur_service.api.tokens import TokenEntry, edited_tokens, new_token
from support.service import Service

GOOD, GOOD_HASH = new_token()
OLD, OLD_HASH = new_token()
REVOKED, _ = new_token()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with edited_tokens(folder / "tokens.json") as entries:
        entries.append(TokenEntry(name="good", sha256=GOOD_HASH, created=yesterday))
        entries.append(TokenEntry(name="old", sha256=OLD_HASH, created=yesterday, expires=yesterday))
    service = Service(folder, SECATEUR_TOKENS_FILE=str(folder / "tokens.json"))
    yield service
    service.close()


def reason_of(service: Service, *values: str, method: str = "ListPruneJobs") -> str:
    """Why a call with these values of `authorization` is refused; empty where it is not."""
    request: Any = {
        "ListPruneJobs": service_pb.ListPruneJobsRequest(),
        "CreatePruneJob": service_pb.CreatePruneJobRequest(),
        "GetPruneJob": service_pb.GetPruneJobRequest(name="pruneJobs/nobody"),
    }[method]
    with grpc.insecure_channel(service.endpoint) as channel:
        ask = getattr(stubs.PruneServiceStub(channel), method)
        call = ask.future(request, metadata=[("authorization", value) for value in values])
        error = call.exception()
        if error is None:
            return ""
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        info = error_details_pb2.ErrorInfo()
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert status_pb2.Status.FromString(details).details[0].Unpack(info)
        assert not any(value.split()[-1] in f"{error.details()} {info}" for value in values)
        return info.reason


def test_a_good_token_is_let_in(service):
    assert reason_of(service, f"Bearer {GOOD}") == ""


def test_a_missing_token_is_refused(service):
    assert reason_of(service) == "TOKEN_MISSING"


def test_a_revoked_token_is_refused_like_one_that_never_was(service):
    assert reason_of(service, f"Bearer {REVOKED}") == "TOKEN_INVALID"


def test_an_expired_token_is_refused_and_one_that_is_almost_it_learns_nothing(service):
    assert reason_of(service, f"Bearer {OLD}") == "TOKEN_EXPIRED"
    assert reason_of(service, f"Bearer {OLD[:-1]}") == "TOKEN_INVALID"


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {GOOD[:-1]}",
        f"Bearer {GOOD}x",
        f"Bearer {GOOD.upper()}",
        f"Bearer {GOOD_HASH}",  # what the file holds opens nothing
        f"Bearer sct_{GOOD_HASH}",
        f"Basic {GOOD}",
        GOOD,
        f"Bearer {GOOD} {GOOD}",
        f"Bearer {GOOD},",
        f"Bearer,{GOOD}",
        "Bearer good",
        "Bearer null",
        "Bearer " + "A" * 8000,
        'Bearer ","caller":"root',
    ],
    ids=[str(number) for number in range(14)],  # the values are others every time
)
def test_a_wrong_token_is_refused(service, value):
    assert reason_of(service, value) == "TOKEN_INVALID"


def test_a_second_header_does_not_smuggle_a_token_past_the_first(service):
    assert reason_of(service, "Bearer wrong", f"Bearer {GOOD}") == "TOKEN_INVALID"
    assert reason_of(service, f"Bearer {GOOD}", "Bearer wrong") == "TOKEN_INVALID"


@pytest.mark.parametrize("method", ["CreatePruneJob", "GetPruneJob"])
def test_a_stranger_learns_neither_what_is_wrong_with_a_request_nor_whether_a_job_exists(service, method):
    assert reason_of(service, method=method) == "TOKEN_MISSING"


def test_the_log_tells_of_every_attempt_and_of_no_token(service):
    reason_of(service, f"Bearer {REVOKED}")
    reason_of(service, f"Bearer {OLD}")
    reason_of(service, f"Bearer {GOOD}")
    log = (Path(service.folder) / "log").read_text()
    calls = [line for line in map(json.loads, log.splitlines()) if line["event"] == "call"][-3:]
    told = [(line["code"], line.get("reason"), line.get("caller")) for line in calls]
    assert told == [
        ("UNAUTHENTICATED", "TOKEN_INVALID", None),
        ("UNAUTHENTICATED", "TOKEN_EXPIRED", "old"),
        ("OK", None, "good"),
    ]
    for secret in (GOOD, OLD, REVOKED, GOOD_HASH, OLD_HASH):
        assert secret not in log
