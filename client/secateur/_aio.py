"""The asynchronous client: the same operations, run on the current event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, Unpack

from secateur._artifact import Architecture, Artifact, ServiceInfo
from secateur._channel import connection
from secateur._comparison import Comparison
from secateur._config import load_config
from secateur._download import Downloaded
from secateur._download_flow import ProgressCallback, download
from secateur._drive import AsyncDriver
from secateur._event import Event, LogEvent
from secateur._filter import job_filter
from secateur._flow import Contact
from secateur._gate import Gate
from secateur._job import Job, JobResult, JobState, Plan, job_name
from secateur._operations import Operations
from secateur._options import SpecOptions, prune_spec
from secateur._report import Report
from secateur._spec import SpecSource
from secateur._spec_warning import warn_of
from secateur._sweep_flow import (
    SweepJobs,
    cancel_sweep,
    compare_sweep,
    find_sweep,
    get_sweep,
    plan_sweep,
    submit_sweep,
    sweep_results,
    watch_sweep,
)
from secateur._watch import Reconnect


class AsyncJobHandle:
    """A job on the service; the async version of `JobHandle`."""

    def __init__(self, driver: AsyncDriver, operations: Operations, name: str) -> None:
        self._driver = driver
        self._operations = operations
        self._name = name

    def __repr__(self) -> str:
        return f"<secateur.AsyncJobHandle {self._name}>"

    @property
    def name(self) -> str:
        """Resource name, `pruneJobs/{id}`."""
        return self._name

    async def get(self) -> Job:
        """See `JobHandle.get`."""
        return await self._driver.run(self._operations.get(self._name))

    def watch(self, after_sequence: int | None = None, *, timeout_seconds: float | None = None) -> AsyncIterator[Event]:
        """See `JobHandle.watch`; iterate with `async for`."""
        return self._driver.iterate(self._operations.watch(self._name, after_sequence, timeout_seconds))

    def logs(self, *, follow: bool = False) -> AsyncIterator[LogEvent]:
        """See `JobHandle.logs`; iterate with `async for`."""
        return self._driver.iterate(self._operations.logs(self._name, follow=follow))

    async def wait(self, timeout_seconds: float | None = None) -> Job:
        """See `JobHandle.wait`."""
        return await self._driver.run(self._operations.wait(self._name, timeout_seconds))

    async def result(self, timeout_seconds: float | None = None) -> JobResult:
        """See `JobHandle.result`."""
        return await self._driver.run(self._operations.result(self._name, timeout_seconds))

    async def report(self) -> Report:
        """See `JobHandle.report`."""
        return await self._driver.run(self._operations.report(self._name))

    async def report_page(self) -> str:
        """See `JobHandle.report_page`."""
        return await self._driver.run(self._operations.report_page(self._name))

    async def gate(
        self,
        max_growth: float | None = None,
        *,
        max_task_loss: float | None = None,
        languages: Collection[str] = (),
        tasks: Collection[str] = (),
        bits_per_byte: bool = False,
        sure: bool = False,
    ) -> Gate:
        """See `JobHandle.gate`."""
        return await self._driver.run(
            self._operations.gate(
                self._name,
                max_growth=max_growth,
                max_task_loss=max_task_loss,
                languages=languages,
                tasks=tasks,
                bits_per_byte=bits_per_byte,
                sure=sure,
            )
        )

    async def cancel(self) -> Job:
        """See `JobHandle.cancel`."""
        return await self._driver.run(self._operations.cancel(self._name))

    async def delete(self, *, artifacts: bool = False) -> int:
        """See `JobHandle.delete`."""
        return await self._driver.run(self._operations.delete(self._name, artifacts=artifacts))

    async def retry(self, changes: Mapping[str, Any] | None = None, *, request_id: str | None = None) -> AsyncJobHandle:
        """See `JobHandle.retry`."""
        job = await self._driver.run(self._operations.retry(self._name, request_id, changes))
        return AsyncJobHandle(self._driver, self._operations, job.name)

    async def artifacts(self) -> list[Artifact]:
        """See `JobHandle.artifacts`."""
        return await self._driver.run(self._operations.artifacts(self._name))

    async def download(
        self,
        folder: str | os.PathLike[str],
        *,
        progress: ProgressCallback | None = None,
        local_files: bool | None = None,
    ) -> Downloaded:
        """See `JobHandle.download`; `progress` is called from a thread."""
        return await self._driver.run(
            download(self._operations, self._name, folder, progress=progress, local_files=local_files)
        )


class AsyncSweep:
    """The jobs of a sweep; the async version of `Sweep`."""

    def __init__(self, driver: AsyncDriver, operations: Operations, found: SweepJobs) -> None:
        self._driver = driver
        self._operations = operations
        self._grid = found.grid
        self._names = {point: job.name for point, job in found.jobs.items()}

    def __repr__(self) -> str:
        return f"<secateur.AsyncSweep {self.name}: {len(self._names)} of {len(self._grid.points)} jobs>"

    @property
    def name(self) -> str:
        """See `Sweep.name`."""
        return self._grid.name

    @property
    def points(self) -> dict[str, dict[str, object]]:
        """See `Sweep.points`."""
        return {point.name: dict(point.values) for point in self._grid.points}

    @property
    def jobs(self) -> dict[str, AsyncJobHandle]:
        """See `Sweep.jobs`."""
        return {point: AsyncJobHandle(self._driver, self._operations, name) for point, name in self._names.items()}

    async def get(self) -> dict[str, Job]:
        """See `Sweep.get`."""
        return await self._driver.run(get_sweep(self._operations, self._names))

    def watch(self) -> AsyncIterator[tuple[str, Job]]:
        """See `Sweep.watch`; iterate with `async for`."""
        return self._driver.iterate(watch_sweep(self._operations, self._names))

    async def wait(self, timeout_seconds: float | None = None) -> dict[str, Job]:
        """See `Sweep.wait`."""
        return await self._driver.run(watch_sweep(self._operations, self._names, timeout_seconds))

    async def result(self, timeout_seconds: float | None = None) -> dict[str, JobResult]:
        """See `Sweep.result`."""
        return await self._driver.run(sweep_results(self._operations, self._names, timeout_seconds))

    async def compare(
        self, *, target_languages: Iterable[str] = (), max_growth: float | None = None, html: bool = False
    ) -> Comparison:
        """See `Sweep.compare`."""
        return await self._driver.run(
            compare_sweep(self._operations, self._names, target_languages, max_growth, html=html)
        )

    async def cancel(self) -> dict[str, Job]:
        """See `Sweep.cancel`."""
        return await self._driver.run(cancel_sweep(self._operations, self._names))


class AsyncClient:
    """Talks to a Secateur service; the async version of `Client`. Belongs to the event loop in which it is created.

        async with secateur.AsyncClient("localhost:50051") as client:
            job = await client.submit("spec.yaml")
            async for event in job.watch():
                print(event)

    Raises:
        ConfigError: the configuration cannot be used.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        certificate_file: str | None = None,
        key_file: str | None = None,
        timeout_seconds: float | None = None,
        reconnect_seconds: float | None = None,
    ) -> None:
        arguments = {
            "endpoint": endpoint,
            "token": token,
            "ca_file": ca_file,
            "certificate_file": certificate_file,
            "key_file": key_file,
            "timeout_seconds": timeout_seconds,
            "reconnect_seconds": reconnect_seconds,
        }
        self.config = load_config(arguments)
        made = connection(self.config)
        self._driver = AsyncDriver(made)
        self._operations = Operations(
            self.config.timeout_seconds,
            Reconnect(self.config.reconnect_seconds),
            local=made.local,
            contact=Contact(speaks_tls=made.speaks_tls),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def prune(
        self,
        model: str,
        *,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        **options: Unpack[SpecOptions],
    ) -> AsyncJobHandle:
        """See `Client.prune`."""
        return await self._submitted(prune_spec(model, **options), labels, request_id)

    async def submit(
        self, spec: SpecSource, *, labels: Mapping[str, str] | None = None, request_id: str | None = None
    ) -> AsyncJobHandle:
        """See `Client.submit`."""
        return await self._submitted(spec, labels, request_id)

    async def _submitted(
        self, spec: SpecSource, labels: Mapping[str, str] | None, request_id: str | None
    ) -> AsyncJobHandle:
        """Submit a job; its warnings name the line that awaits our caller."""
        job = await self._driver.run(self._operations.create(spec, labels, request_id))
        warn_of(job, stacklevel=3)
        return self.job(job.name)

    async def plan(self, spec: SpecSource, *, labels: Mapping[str, str] | None = None) -> Plan:
        """See `Client.plan`."""
        return await self._driver.run(self._operations.plan(spec, labels))

    async def sweep(self, spec: SpecSource, *, name: str | None = None, retry: bool = False) -> AsyncSweep:
        """See `Client.sweep`."""
        found = await self._driver.run(submit_sweep(self._operations, spec, name, retry=retry))
        return AsyncSweep(self._driver, self._operations, found)

    async def find_sweep(self, spec: SpecSource, *, name: str | None = None) -> AsyncSweep:
        """See `Client.find_sweep`."""
        found = await self._driver.run(find_sweep(self._operations, spec, name))
        return AsyncSweep(self._driver, self._operations, found)

    async def plan_sweep(self, spec: SpecSource, *, name: str | None = None) -> dict[str, Plan]:
        """See `Client.plan_sweep`."""
        return await self._driver.run(plan_sweep(self._operations, spec, name))

    def job(self, name: str) -> AsyncJobHandle:
        """See `Client.job`."""
        return AsyncJobHandle(self._driver, self._operations, job_name(name))

    async def find_job(self, text: str) -> AsyncJobHandle:
        """See `Client.find_job`."""
        return self.job(await self._driver.run(self._operations.find(text)))

    def list_jobs(
        self,
        *,
        states: Collection[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        since: datetime | timedelta | None = None,
        before: datetime | timedelta | None = None,
        order_by: str = "",
        page_size: int = 0,
    ) -> AsyncIterator[Job]:
        """See `Client.list_jobs`; iterate with `async for`."""
        return self._driver.iterate(
            self._operations.list_jobs(job_filter(states, labels, since, before), order_by, page_size)
        )

    async def compare(
        self,
        jobs: Iterable[str],
        *,
        target_languages: Iterable[str] = (),
        max_growth: float | None = None,
        html: bool = False,
        related: bool = False,
    ) -> Comparison:
        """See `Client.compare`."""
        return await self._driver.run(
            self._operations.compare(jobs, target_languages, max_growth, html=html, related=related)
        )

    async def info(self) -> ServiceInfo:
        """See `Client.info`."""
        return await self._driver.run(self._operations.info())

    async def architecture(self, model_type: str) -> Architecture:
        """See `Client.architecture`."""
        return await self._driver.run(self._operations.architecture(model_type))

    async def close(self) -> None:
        """See `Client.close`."""
        await self._driver.close()
