"""The server around the methods: health, reflection, request ids, defects, metrics, draining."""

from __future__ import annotations

import asyncio
import sqlite3

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.api.server import SERVICE
from secateur_service.spec import parse_spec
from support.api import Admitted, Api, StartApi, refusal_of, refused
from support.waiting import HANG_SECONDS, until_async

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def _health(api: Api, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(api.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_draining_ends_readiness_watches_and_new_jobs_but_not_the_process(api: Api):
    job = api.new_job()
    watch = api.watch(job)
    assert (await watch.read()).HasField("snapshot")
    assert await _health(api, SERVICE) == SERVING
    await api.server.drain()
    assert await _health(api, SERVICE) == NOT_SERVING
    assert await _health(api, "") == SERVING
    for call in (watch.read(), api.create(), api.watch(job).read()):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert refusal.retry_seconds is not None
    assert (await api.stub.GetPruneJob(service_pb.GetPruneJobRequest(name=f"pruneJobs/{job.id}"))).state


async def test_reflection_names_the_services_and_describes_the_api(api: Api):
    stub = reflection_pb2_grpc.ServerReflectionStub(api.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_service_info_says_what_the_settings_and_the_code_allow(start_api: StartApi, tmp_path):
    api = await start_api(file_roots=[tmp_path], devices=["cpu", "cpu"])
    info = await api.stub.GetServiceInfo(service_pb.GetServiceInfoRequest())
    assert {"magnitude", "wanda", "sparsegpt"} <= set(info.methods)
    assert list(info.orders) == ["block", "true_sequential", "dense"]
    assert list(info.policies) == ["weights", "proportional", "temperature", "minimax"]
    assert list(info.allocations) == ["uniform", "owl", "multilingual"]
    assert "llama" in info.architectures
    assert list(info.devices) == ["cpu", "cpu"]
    assert list(info.file_roots) == [str(tmp_path)]
    assert list(info.destinations) == list(api.settings.destinations)
    assert info.max_request_bytes == api.settings.max_request_bytes
    assert info.version


@pytest.mark.parametrize(("sent", "kept"), [("trace-7.a_b", True), ("two words; drop", False), ("x" * 65, False)])
async def test_a_fit_request_id_comes_back_and_another_is_replaced(api: Api, sent: str, kept: bool):
    call = api.stub.GetServiceInfo(service_pb.GetServiceInfoRequest(), metadata=(("x-request-id", sent),))
    await call
    returned = dict(await call.trailing_metadata())["x-request-id"]
    assert (returned == sent) == kept
    assert returned
    failing = api.stub.GetPruneJob(
        service_pb.GetPruneJobRequest(name="pruneJobs/nobody"), metadata=(("x-request-id", sent),)
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await failing
    assert (dict(caught.value.trailing_metadata())["x-request-id"] == sent) == kept


async def test_a_defect_is_internal_with_an_incident_id_and_its_cause_only_in_the_log(start_api: StartApi):
    def broken(_data):
        raise RuntimeError("the password is hunter2")

    api = await start_api(admit=broken)
    with capture_logs() as lines:
        refusal = await refused(api.create())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "hunter2" not in refusal.message
    incident = refusal.metadata["incident_id"]
    assert incident in refusal.message
    (logged,) = [line for line in lines if line.get("incident_id") == incident]
    assert isinstance(logged["exc_info"], RuntimeError)


async def test_the_event_loop_answers_while_the_database_is_locked(start_api: StartApi):
    admitted = []

    def admit(data):
        admitted.append(data)
        return Admitted(parse_spec({**data, "output": {"destination": "file:///results"}}))

    api = await start_api(admit)
    blocker = sqlite3.connect(api.settings.data_dir / "secateur.sqlite3", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        blocked = asyncio.gather(*(api.create() for _ in range(4)))
        await until_async(lambda: len(admitted) == 4)
        assert await _health(api, SERVICE) == SERVING
        await api.stub.GetServiceInfo(service_pb.GetServiceInfoRequest())
        assert not blocked.done()
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert all(job.state == pb.JOB_STATE_QUEUED for job in await blocked)


async def test_calls_are_counted_by_method_and_code_and_timed(api: Api):
    await api.create()
    await refused(api.stub.GetPruneJob(service_pb.GetPruneJobRequest(name="nonsense")))
    with pytest.raises(grpc.aio.AioRpcError):
        await _health(api, "unknown.Service")

    def count(method: str, code: str) -> float | None:
        labels = {"method": method, "code": code}
        return api.metrics.registry.get_sample_value("secateur_rpc_requests_total", labels)

    assert count(f"/{SERVICE}/CreatePruneJob", "OK") == 1
    assert count(f"/{SERVICE}/GetPruneJob", "INVALID_ARGUMENT") == 1
    await until_async(lambda: count("/grpc.health.v1.Health/Check", "NOT_FOUND") == 1)  # after its caller has heard
    timed = {"method": f"/{SERVICE}/CreatePruneJob"}
    assert api.metrics.registry.get_sample_value("secateur_rpc_duration_seconds_count", timed) == 1


async def test_a_second_server_on_the_same_port_fails_and_says_so(start_api: StartApi):
    first = await start_api()
    with pytest.raises(OSError, match=f"cannot listen on {first.server.address}"):
        await start_api(listen=first.server.address)


async def test_an_unknown_method_is_unimplemented(api: Api):
    call = api.channel.unary_unary(f"/{SERVICE}/DeleteEverything")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_stopping_cancels_what_does_not_end_within_the_grace(start_api: StartApi):
    api = await start_api()
    watch = api.watch(api.new_job())
    await watch.read()
    await asyncio.wait_for(api.server.stop(grace_seconds=0.2), HANG_SECONDS)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await watch.read()


async def test_errors_of_the_store_are_unavailable_and_may_be_retried(api: Api):
    data_dir = api.settings.data_dir
    data_dir.rename(data_dir.with_name("away"))
    api.store.close()  # what was open would go on working
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.stub.GetPruneJob(service_pb.GetPruneJobRequest(name="pruneJobs/any"))
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert refusal.retry_seconds is not None
