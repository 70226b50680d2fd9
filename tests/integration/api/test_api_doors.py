"""TLS and tokens of a running server: who is let in, what is exchanged under open calls, what the log says."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.api.server import SERVICE
from secateur_service.api.tokens import CALLER, TokenEntry, edited_tokens, new_token
from secateur_service.errors import NotFoundError
from support import waiting
from support.api import Api, StartApi, Watch, refused, spec_message
from support.certificates import Authority, put, served_name

INFO = service_pb.GetServiceInfoRequest()
EXPIRY = "secateur_certificate_expiry_timestamp_seconds"
Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def keep(path: Path, name: str, expires: datetime | None = None) -> Metadata:
    """Add a token to a file; what a call shows then."""
    token, digest = new_token()
    with edited_tokens(path) as entries:
        entries.append(TokenEntry(name=name, sha256=digest, created=datetime.now(UTC), expires=expires))
    return bearer(token)


async def until(condition: Callable[[], bool]) -> None:
    """Ask in a thread, for what is asked answers in this loop."""
    await asyncio.to_thread(waiting.until, condition)


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


async def test_a_certificate_is_exchanged_while_a_watch_is_open_and_new_connections_get_the_new_one(
    start_api: StartApi, authority: Authority
):
    pair, later = authority.issue("first"), authority.issue("second", days=60)
    trust = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    api = await start_api(credentials=trust, tls_certificate=pair.certificate, tls_key=pair.key)
    job = api.running_job()
    watch = api.watch(job)
    assert (await watch.read()).HasField("snapshot")
    assert await asyncio.to_thread(served_name, api.server.address) == "first"
    assert api.metrics.registry.get_sample_value(EXPIRY) == pair.expires

    pair.replace(later)
    await until(lambda: served_name(api.server.address) == "second")
    assert api.metrics.registry.get_sample_value(EXPIRY) == later.expires
    async with grpc.aio.secure_channel(api.server.address, trust) as channel:
        assert (await service_grpc.PruneServiceStub(channel).GetServiceInfo(INFO)).version
    api.store.request_cancel(job.id)
    assert (await watch.read()).sequence == 3  # over the connection of the first one


async def test_a_broken_certificate_is_told_and_the_one_in_use_stays(start_api: StartApi, authority: Authority):
    pair, other = authority.issue("first"), authority.issue("second")
    with capture_logs() as lines:
        api = await start_api(tls_certificate=pair.certificate, tls_key=pair.key)
        put(pair.certificate, other.certificate.read_bytes())  # the key is still the first one's
        await until(lambda: any(line["log_level"] == "error" for line in lines))
        assert await asyncio.to_thread(served_name, api.server.address) == "first"
        put(pair.key, other.key.read_bytes())
        await until(lambda: served_name(api.server.address) == "second")
    [error] = [line for line in lines if line["log_level"] == "error"]
    assert "tls_key" in error["error"]
    assert "PRIVATE" not in str(lines)


async def test_without_tls_there_is_no_expiry_to_alarm_anybody(api: Api):
    assert api.metrics.registry.get_sample_value(EXPIRY) is None
    assert EXPIRY.removeprefix("secateur_") not in {family.name for family in api.metrics.registry.collect()}


async def test_a_server_with_tls_does_not_answer_in_the_clear(start_api: StartApi, authority: Authority):
    pair = authority.issue("server")
    api = await start_api(tls_certificate=pair.certificate, tls_key=pair.key)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.stub.GetServiceInfo(INFO)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_with_a_client_authority_only_its_certificates_get_a_connection_and_it_can_be_exchanged(
    start_api: StartApi, authority: Authority, tmp_path: Path
):
    pair, mine = authority.issue("server"), authority.issue("client")
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger", "stranger")
    theirs = stranger.issue("client")
    clients_ca = tmp_path / "clients.pem"
    put(clients_ca, authority.certificate.read_bytes())
    api = await start_api(tls_certificate=pair.certificate, tls_key=pair.key, tls_client_ca=clients_ca)

    async def code_of(*own: bytes) -> grpc.StatusCode:
        credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *own)
        async with grpc.aio.secure_channel(api.server.address, credentials) as channel:
            call = service_grpc.PruneServiceStub(channel).GetServiceInfo(INFO)
            return await call.code()

    shown_mine = mine.key.read_bytes(), mine.certificate.read_bytes()
    shown_theirs = theirs.key.read_bytes(), theirs.certificate.read_bytes()
    assert await code_of(*shown_mine) == grpc.StatusCode.OK
    assert await code_of() == grpc.StatusCode.UNAVAILABLE
    assert await code_of(*shown_theirs) == grpc.StatusCode.UNAVAILABLE
    put(clients_ca, stranger.certificate.read_bytes())
    while await code_of(*shown_mine) == grpc.StatusCode.OK:
        await asyncio.sleep(0.05)
    assert await code_of(*shown_mine) == grpc.StatusCode.UNAVAILABLE
    assert await code_of(*shown_theirs) == grpc.StatusCode.OK


async def test_every_method_but_those_of_health_wants_a_token_before_anything_is_parsed(
    start_api: StartApi, tokens_file: Path
):
    keep(tokens_file, "ci")
    api = await start_api(tokens_file=tokens_file)
    rubbish = b"\xff\xff\xff"
    for method in service_pb.DESCRIPTOR.services_by_name["PruneService"].methods:
        path = f"/{SERVICE}/{method.name}"
        if method.server_streaming:
            refusal = await refused(anext(aiter(api.channel.unary_stream(path)(rubbish))))
        else:
            refusal = await refused(api.channel.unary_unary(path)(rubbish))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"), method.name
        assert refusal.retry_seconds is None
        labels = {"method": path, "code": "UNAUTHENTICATED"}
        read = partial(api.metrics.registry.get_sample_value, "secateur_rpc_requests_total", labels)
        await until(lambda read=read: read() == 1)  # it is counted when it has been sent
    health = health_pb2_grpc.HealthStub(api.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status
    watched = health.Watch(health_pb2.HealthCheckRequest())
    assert (await anext(aiter(watched))).status


async def test_reflection_wants_a_token(start_api: StartApi, tokens_file: Path):
    metadata = keep(tokens_file, "ci")
    api = await start_api(tokens_file=tokens_file)
    stub = reflection_pb2_grpc.ServerReflectionStub(api.channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    refusal = await refused(anext(aiter(stub.ServerReflectionInfo(iter(asked)))))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
    (answer,) = [answer async for answer in stub.ServerReflectionInfo(iter(asked), metadata=metadata)]
    assert answer.list_services_response.service


async def test_a_watch_shows_its_token_when_it_opens_and_goes_on_when_it_is_revoked(
    start_api: StartApi, tokens_file: Path
):
    metadata, other = keep(tokens_file, "ci"), keep(tokens_file, "other")
    api = await start_api(tokens_file=tokens_file)
    job = api.running_job()
    request = service_pb.WatchPruneJobRequest(name=f"pruneJobs/{job.id}")
    watch = aiter(api.stub.WatchPruneJob(request, metadata=metadata))
    assert (await anext(watch)).HasField("snapshot")
    with edited_tokens(tokens_file) as entries:
        del entries[0]
    while await api.stub.GetServiceInfo(INFO, metadata=metadata).code() == grpc.StatusCode.OK:
        await asyncio.sleep(0.05)
    refusal = await refused(anext(aiter(api.stub.WatchPruneJob(request, metadata=metadata))))
    assert refusal.reason == "TOKEN_INVALID"
    api.store.request_cancel(job.id)
    assert (await anext(watch)).sequence == 3
    assert (await api.stub.GetServiceInfo(INFO, metadata=other)).version


@pytest.mark.parametrize("content", [b'{"version": 1, "tok', None])
async def test_a_damaged_or_missing_file_is_told_and_lets_in_whom_the_last_good_one_did(
    start_api: StartApi, tokens_file: Path, content: bytes | None
):
    metadata = keep(tokens_file, "ci")
    with capture_logs() as lines:
        api = await start_api(tokens_file=tokens_file)
        if content is None:
            tokens_file.unlink()
        else:
            put(tokens_file, content)
        await until(lambda: any(line["log_level"] == "error" for line in lines))
        assert (await api.stub.GetServiceInfo(INFO, metadata=metadata)).version
        assert (await refused(api.stub.GetServiceInfo(INFO))).reason == "TOKEN_MISSING"
    assert str(tokens_file) in next(line["error"] for line in lines if line["log_level"] == "error")


async def test_the_log_names_the_caller_and_why_another_was_refused_but_never_a_token(
    start_api: StartApi, tokens_file: Path
):
    good = keep(tokens_file, "ci")
    old = keep(tokens_file, "old", datetime.now(UTC) - timedelta(seconds=1))
    calls: list[Metadata] = [good, old, bearer("sct_" + "w" * 43), ()]
    with capture_logs() as lines:
        api = await start_api(tokens_file=tokens_file)
        for metadata in calls:
            await api.stub.GetServiceInfo(INFO, metadata=metadata).code()
        await until(lambda: sum(line["event"] == "call" for line in lines) == len(calls))  # it is logged after its end
    told = [line for line in lines if line["event"] == "call"]
    assert [line.get("reason") for line in told] == [None, "TOKEN_EXPIRED", "TOKEN_INVALID", "TOKEN_MISSING"]
    assert [line.get("caller") for line in told[1:]] == ["old", None, None]
    assert all(line["peer"] for line in told[1:])
    assert not any(value.removeprefix("Bearer ") in str(lines) for metadata in calls for _, value in metadata)


async def test_whoever_serves_a_call_can_know_whose_it_is(start_api: StartApi, tokens_file: Path):
    seen: list[Any] = []

    def admit(_data: Any) -> Any:
        seen.append(CALLER.get())
        raise NotFoundError("enough")

    mine, yours = keep(tokens_file, "mine"), keep(tokens_file, "yours")
    api = await start_api(admit, tokens_file=tokens_file)
    request = service_pb.CreatePruneJobRequest(spec=spec_message())
    for metadata in (mine, yours, mine):
        await refused(api.stub.CreatePruneJob(request, metadata=metadata))
    assert seen == ["mine", "yours", "mine"]
    assert CALLER.get() is None


async def test_one_token_has_no_more_than_its_share_of_the_watches(start_api: StartApi, tokens_file: Path):
    mine, yours = keep(tokens_file, "mine"), keep(tokens_file, "yours")
    api = await start_api(tokens_file=tokens_file, max_watchers=5, max_watchers_per_caller=3)
    request = service_pb.WatchPruneJobRequest(name=f"pruneJobs/{api.new_job().id}")

    def watch(token: Metadata) -> Watch:
        return Watch(api.stub.WatchPruneJob(request, metadata=token))

    held = [watch(mine) for _ in range(3)]
    for each in held:
        await each.read()
    refusal = await refused(watch(mine).read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS_OF_CALLER")
    assert refusal.metadata == {"limit": "3", "caller": "mine"}
    others = [watch(yours) for _ in range(2)]
    for each in others:
        await each.read()
    assert (await refused(watch(yours).read())).reason == "TOO_MANY_WATCHERS"
    held[0].cancel()
    await until(lambda: api.metrics.registry.get_sample_value("secateur_watch_streams") == 4)
    assert (await watch(mine).read()).HasField("snapshot")


@pytest.mark.parametrize("seed", range(3))
async def test_bytes_that_are_no_message_are_an_invalid_argument_without_a_defect(start_api: StartApi, seed: int):
    api, rng = await start_api(), random.Random(seed)
    with capture_logs() as lines:
        for method in service_pb.DESCRIPTOR.services_by_name["PruneService"].methods:
            path = f"/{SERVICE}/{method.name}"
            for _ in range(20):
                # A number of a field that never ends, a length that is none, a group without an end, and more behind.
                wrong = rng.choice([b"\xff" * 11, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b", b"\x0a\x05ab", b"\x07"])
                rubbish = wrong if rng.random() < 0.5 else wrong + rng.randbytes(rng.randint(1, 64))
                call = api.channel.unary_stream if method.server_streaming else api.channel.unary_unary
                answer = call(path)(rubbish)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await (anext(aiter(answer)) if method.server_streaming else answer)
                code = await answer.code()
                # What is behind may make a message of it, of which every field is unknown.
                assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (method.name, rubbish)
                if rubbish == wrong:
                    assert code is grpc.StatusCode.INVALID_ARGUMENT, (method.name, rubbish)
    assert not [line for line in lines if line["log_level"] == "error" or "exc_info" in line]


@pytest.mark.parametrize("path", ["/no.such.Service/Method", f"/{SERVICE}/NoSuchMethod", "/x", "/"])
async def test_a_method_that_does_not_exist_is_unimplemented(start_api: StartApi, path: str):
    api = await start_api()
    call = api.channel.unary_unary(path)(b"\xff")
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_that_is_asked_rubbish_says_so(start_api: StartApi):
    api = await start_api()
    call = api.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
        iter([b"\xff" * 11])
    )
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
