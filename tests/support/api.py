"""A running API server for tests, and what clients can learn from its errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.api.server import ApiServer
from secateur_service.jobs.job import Estimate, Job
from secateur_service.jobs.store import SqlJobStore
from secateur_service.metrics.registry import Metrics
from secateur_service.records.needs import Needs
from secateur_service.settings import Settings
from secateur_service.spec import PruneSpec
from support.jobs import new_job

ESTIMATE = Estimate(checkpoint_bytes=1 << 40, peak_host_bytes=2, peak_device_bytes=0, disk_bytes=4, flops=1.5e18)

NEEDS = Needs(host_bytes=3, disk_bytes=4, device_bytes=5, host_bytes_beside_device=2)


@dataclass(frozen=True)
class Admitted:
    resolved: PruneSpec
    estimate: Estimate = ESTIMATE
    needs: Needs = NEEDS


def spec_message(**pruning: Any) -> pb.PruneSpec:
    """A valid specification."""
    return pb.PruneSpec(
        model=pb.ModelSpec(uri="file:///models/tiny"),
        calibration=pb.CalibrationSpec(
            corpus="file:///corpora",
            languages=[pb.LanguageWeight(language="de", weight=0.7), pb.LanguageWeight(language="uk", weight=0.3)],
            sequence_length=64,
        ),
        pruning=pb.PruningSpec(**(pruning or {"method": "wanda", "sparsity": 0.5})),
    )


class Watch:
    """An open watch: read one message, or iterate over the rest."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._messages = aiter(call)

    def __aiter__(self) -> AsyncIterator[pb.PruneJobEvent]:
        return self._messages

    async def read(self) -> pb.PruneJobEvent:
        """The next message."""
        return await anext(self._messages)

    async def code(self) -> grpc.StatusCode:
        """How the stream ended."""
        return await self._call.code()

    def cancel(self) -> None:
        """Go away."""
        self._call.cancel()


@dataclass
class Api:
    """A running server, its store, and a client of it."""

    server: ApiServer
    store: SqlJobStore
    settings: Settings
    metrics: Metrics
    stub: service_grpc.PruneServiceStub
    channel: grpc.aio.Channel

    def new_job(self, **given: Any) -> Job:
        """A queued job, stored without the API."""
        return self.store.create(new_job(destination=self.settings.destinations[0], **given))

    def running_job(self) -> Job:
        """A job whose first attempt runs."""
        job = self.new_job()
        claimed = self.store.claim(owner="test", lease_seconds=600)
        assert claimed is not None
        assert claimed.id == job.id
        return claimed

    def create(self, **fields: Any) -> Awaitable[pb.PruneJob]:
        """Call CreatePruneJob with a valid specification unless another is given."""
        return self.stub.CreatePruneJob(service_pb.CreatePruneJobRequest(**{"spec": spec_message(), **fields}))

    def watch(self, job: Job, after: int | None = None) -> Watch:
        """Call WatchPruneJob."""
        request = service_pb.WatchPruneJobRequest(name=f"pruneJobs/{job.id}", after_sequence=after)
        return Watch(self.stub.WatchPruneJob(request))


StartApi = Callable[..., Awaitable[Api]]


@dataclass(frozen=True)
class Refusal:
    """What a client can learn from an error."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: Mapping[str, str]
    violations: Mapping[str, str]
    retry_seconds: float | None


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """Read all details of an error."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    retry_seconds = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
        if detail.Unpack(retry):
            retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()
    violations = {entry.field: entry.description for entry in bad_request.field_violations}
    return Refusal(
        error.code(), error.details(), info.reason, info.domain, dict(info.metadata), violations, retry_seconds
    )


async def refused(call: Awaitable[Any]) -> Refusal:
    """The error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)
