"""Watching jobs: snapshot, order, resumption, heartbeats, ends, slow and vanished readers."""

from __future__ import annotations

import asyncio
import random
import time

import grpc
import grpc.aio
import pytest

from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.jobs.job import EventKind, Failure
from secateur_service.records.needs import Capacity, Needs
from support.api import Api, StartApi, refused
from support.jobs import block, result
from support.waiting import HANG_SECONDS, until_async

TERMINAL = (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)


async def test_a_job_that_fits_nobody_says_why_it_waits_to_whoever_asks_and_to_who_watches_already(api: Api):
    job = api.new_job(needs=Needs(device_bytes=80 * 10**9))
    watch = api.watch(job)
    assert (await watch.read()).snapshot.waiting == ""
    api.store.explain_waiting([Capacity(1, 24 * 10**9, 10**12, 10**12)])
    reason = "needs at least 80.0 GB of device memory; the largest agent seen in ten minutes has 24.0 GB"
    told = await watch.read()
    assert (told.log.level, told.log.message) == ("warning", f"waits: {reason}")
    assert (await api.stub.GetPruneJob(service_pb.GetPruneJobRequest(name=f"pruneJobs/{job.id}"))).waiting == reason
    listed = await api.stub.ListPruneJobs(service_pb.ListPruneJobsRequest())
    assert [each.waiting for each in listed.jobs] == [reason]
    assert (await api.watch(job).read()).snapshot.waiting == reason
    api.store.explain_waiting([Capacity(1, 80 * 10**9, 10**12, 10**12)])
    assert "has been seen" in (await watch.read()).log.message
    assert (await api.watch(job).read()).snapshot.waiting == ""


def _log_event(number: int, size: int = 0) -> tuple[EventKind, dict]:
    body = {"level": "info", "message": f"line {number} " + "x" * size, "fields": {"number": number}}
    return EventKind.LOG, body


def _finish(api: Api, job_id: str) -> None:
    api.store.commit_manifest(job_id, 1, "a" * 64)
    api.store.succeed(job_id, 1, result())


def _open_watches(api: Api) -> float | None:
    return api.metrics.registry.get_sample_value("secateur_watch_streams")


async def test_a_watch_begins_with_a_snapshot_and_ends_well_after_the_terminal_event(api: Api):
    job = api.running_job()
    watch = api.watch(job)
    snapshot = await watch.read()
    assert snapshot.snapshot.state == pb.JOB_STATE_RUNNING
    assert snapshot.sequence == snapshot.snapshot.last_sequence == job.last_sequence
    api.store.append(job.id, 1, [(EventKind.STAGE, {"stage": "PRUNING"})])
    api.store.append(job.id, 1, [(EventKind.PROGRESS, {"blocks_done": 1, "blocks_total": 4, "fraction": 0.25})])
    api.store.record_block(job.id, 1, block(0, snr_db=17.5))
    api.store.append(job.id, 1, [_log_event(5)])
    _finish(api, job.id)
    events = [event async for event in watch]
    assert [event.sequence for event in events] == list(range(job.last_sequence + 1, job.last_sequence + 6))
    stage, progress, pruned, log, state = events
    assert stage.stage.stage == pb.JOB_STAGE_PRUNING
    assert progress.progress.fraction == 0.25
    assert not progress.progress.HasField("eta_seconds")
    assert (pruned.block.index, dict(pruned.block.snr_db)) == (0, {"de": 17.5})
    assert (log.log.level, log.log.fields["number"]) == ("info", 5)
    assert state.state.state == pb.JOB_STATE_SUCCEEDED
    assert all(event.attempt == 1 for event in events)
    assert await watch.code() == grpc.StatusCode.OK


async def test_events_arrive_when_they_are_written_and_wait_for_no_heartbeat(start_api: StartApi):
    api = await start_api(watch_heartbeat_seconds=3600)
    job = api.running_job()
    watch = api.watch(job)
    await watch.read()
    api.store.append(job.id, 1, [_log_event(1)])
    assert (await watch.read()).HasField("log")


async def test_resuming_at_zero_gives_the_whole_history_without_a_snapshot(api: Api):
    job = api.running_job()
    _finish(api, job.id)
    events = [event async for event in api.watch(job, after=0)]
    assert [event.sequence for event in events] == [1, 2, 3]
    assert [event.state.state for event in events] == [
        pb.JOB_STATE_QUEUED,
        pb.JOB_STATE_RUNNING,
        pb.JOB_STATE_SUCCEEDED,
    ]


async def test_a_watch_of_an_ended_job_ends_with_its_snapshot_and_a_resumed_one_at_once(api: Api):
    job = api.running_job()
    api.store.release(job.id, 1, Failure("BAD_MODEL", "not a model", retryable=False, details={"file": "x"}))
    (only,) = [event async for event in api.watch(job)]
    assert only.snapshot.state == pb.JOB_STATE_FAILED
    assert (only.snapshot.failure.reason, dict(only.snapshot.failure.details)) == ("BAD_MODEL", {"file": "x"})
    assert [event async for event in api.watch(job, after=only.sequence)] == []


async def test_a_watch_cannot_resume_after_an_event_that_does_not_exist(api: Api):
    job = api.new_job()
    refusal = await refused(api.watch(job, after=job.last_sequence + 1).read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_OUT_OF_RANGE")
    assert refusal.metadata["last_sequence"] == str(job.last_sequence)
    refusal = await refused(api.watch(job, after=-1).read())
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("seed", range(3))
async def test_random_disconnects_leave_no_gap_and_no_duplicate(start_api: StartApi, seed: int):
    api = await start_api(watch_heartbeat_seconds=0.05)
    job = api.running_job()
    chance = random.Random(seed)

    def work() -> None:
        number = 0
        while number < 900:
            count = chance.randint(1, 300)
            api.store.append(job.id, 1, [_log_event(number + offset) for offset in range(count)])
            number += count
            time.sleep(0.05)
        _finish(api, job.id)

    worker = asyncio.create_task(asyncio.to_thread(work))
    seen: list[int] = []
    reader = random.Random(seed + 100)
    connections = 0
    terminal = False
    while not terminal:
        connections += 1
        watch = api.watch(job, after=seen[-1] if seen else 0)
        async for event in watch:
            if event.HasField("heartbeat"):
                assert event.sequence == (seen[-1] if seen else 0)
                continue
            seen.append(event.sequence)
            terminal = event.state.state in TERMINAL
            if reader.random() < 0.02:
                watch.cancel()
                break
    await worker
    assert connections > 3
    assert seen == list(range(1, api.store.get(job.id).last_sequence + 1))


async def test_a_quiet_watch_sends_heartbeats_that_cover_what_was_sent(start_api: StartApi):
    api = await start_api(watch_heartbeat_seconds=0.1)
    job = api.new_job()
    watch = api.watch(job)
    await watch.read()
    beats = [await watch.read() for _ in range(3)]
    assert all(beat.HasField("heartbeat") and beat.sequence == job.last_sequence for beat in beats)


async def test_a_vanished_reader_frees_its_place(start_api: StartApi):
    api = await start_api(max_watchers=1)
    job = api.new_job()
    watch = api.watch(job)
    await watch.read()
    refusal = await refused(api.watch(job).read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS")
    assert refusal.retry_seconds is not None
    watch.cancel()
    await until_async(lambda: _open_watches(api) == 0)
    assert (await api.watch(job).read()).HasField("snapshot")


async def test_a_reader_that_does_not_read_delays_nobody_and_misses_nothing(api: Api):
    job = api.running_job()
    slow = api.watch(job, after=0)
    await slow.read()
    for number in range(6):
        lines = [_log_event(100 * number + offset, size=8000) for offset in range(100)]
        await asyncio.to_thread(api.store.append, job.id, 1, lines)
    _finish(api, job.id)
    quick = [event.sequence async for event in api.watch(job, after=0)]
    last = api.store.get(job.id).last_sequence
    assert quick == list(range(1, last + 1))
    await api.stub.GetPruneJob(service_pb.GetPruneJobRequest(name=f"pruneJobs/{job.id}"))
    assert _open_watches(api) == 1, "the slow reader's stream waits for it"
    assert [event.sequence async for event in slow] == list(range(2, last + 1))


async def test_hundreds_of_watchers_of_several_jobs_all_see_the_end(api: Api):
    jobs = [api.running_job() for _ in range(3)]
    watches = [api.watch(jobs[number % 3]) for number in range(240)]
    await asyncio.gather(*(watch.read() for watch in watches))
    assert _open_watches(api) == 240
    for job in jobs:
        _finish(api, job.id)

    async def end_of(watch) -> int:
        return [event.state.state async for event in watch][-1]

    ends = await asyncio.wait_for(asyncio.gather(*(end_of(watch) for watch in watches)), HANG_SECONDS)
    assert set(ends) == {pb.JOB_STATE_SUCCEEDED}
