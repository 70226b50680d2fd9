"""Creating, reading, listing and cancelling jobs over the wire."""

from __future__ import annotations

import asyncio
import math
import re
import uuid

import grpc
import pytest
from google.protobuf import timestamp_pb2

from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.errors import FieldViolation, InvalidSpecError
from secateur_service.jobs.states import JobState
from secateur_service.records.needs import UNKNOWN
from secateur_service.spec import parse_spec
from support.api import ESTIMATE, NEEDS, Admitted, Api, StartApi, refused, spec_message
from support.jobs import result


async def _list(api: Api, **fields):
    return await api.stub.ListPruneJobs(service_pb.ListPruneJobsRequest(**fields))


async def test_a_created_job_is_queued_with_its_defaults_filled_in(api: Api):
    job = await api.create(labels={"team": "search"})
    assert re.fullmatch(r"pruneJobs/[0-9a-z]{22}", job.name)
    assert uuid.UUID(job.uid)
    assert job.state == pb.JOB_STATE_QUEUED
    assert job.spec == spec_message(), "the specification stays as it was submitted"
    assert job.resolved_spec.calibration.samples == 128
    assert job.resolved_spec.output.destination == api.settings.destinations[0]
    assert job.estimate.checkpoint_bytes == ESTIMATE.checkpoint_bytes
    assert job.estimate.flops == ESTIMATE.flops
    assert dict(job.labels) == {"team": "search"}
    assert job.last_sequence == 1
    assert await api.stub.GetPruneJob(service_pb.GetPruneJobRequest(name=job.name)) == job


async def test_a_job_and_a_retry_of_one_whose_needs_nobody_knew_have_the_needs_that_admission_finds(api: Api):
    created = await api.create()
    assert api.store.get(created.name.removeprefix("pruneJobs/")).needs == NEEDS
    old = api.new_job()
    api.store.request_cancel(old.id)
    retried = await api.stub.RetryPruneJob(service_pb.RetryPruneJobRequest(name=f"pruneJobs/{old.id}"))
    assert (old.needs, api.store.get(retried.name.removeprefix("pruneJobs/")).needs) == (UNKNOWN, NEEDS)


async def test_a_repeated_request_id_returns_the_first_job_and_another_body_is_refused(api: Api):
    request_id = str(uuid.uuid4())
    first, *others = await asyncio.gather(*(api.create(request_id=request_id) for _ in range(20)))
    assert all(job == first for job in others)
    assert await api.create(request_id=request_id.upper()) == first
    assert len((await _list(api)).jobs) == 1
    refusal = await refused(api.create(request_id=request_id, labels={"other": "body"}))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_a_repeated_request_is_answered_although_what_it_named_is_gone(start_api: StartApi):
    gone = False

    def admit(data):
        if gone:
            raise InvalidSpecError([FieldViolation("model.uri", "the folder does not exist")])
        return Admitted(parse_spec(data))

    api = await start_api(admit=admit)
    request_id = str(uuid.uuid4())
    first = await api.create(request_id=request_id)
    gone = True
    assert await api.create(request_id=request_id.upper()) == first
    refusal = await refused(api.create(request_id=request_id, labels={"other": "body"}))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    for unknown in ({"request_id": str(uuid.uuid4())}, {"request_id": request_id, "validate_only": True}, {}):
        assert set((await refused(api.create(**unknown))).violations) == {"spec.model.uri"}


async def test_validate_only_answers_what_would_run_and_stores_nothing(api: Api):
    job = await api.create(validate_only=True, request_id=str(uuid.uuid4()))
    assert job.name == ""
    assert job.resolved_spec.calibration.samples == 128
    assert job.estimate.peak_host_bytes == ESTIMATE.peak_host_bytes
    assert not (await _list(api)).jobs


async def test_every_broken_rule_comes_back_at_once_with_its_path_and_remedy(api: Api):
    spec = spec_message(sparsity=math.nan, method="wand")
    spec.calibration.languages[0].language = "klingonisch"
    spec.calibration.samples = 0
    refusal = await refused(api.create(spec=spec, request_id="7", labels={"k": "v" * 64}))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert (refusal.reason, refusal.domain) == ("INVALID_SPEC", "secateur")
    assert set(refusal.violations) == {
        "spec.pruning.sparsity",
        "spec.pruning.method",
        "spec.calibration.languages[0].language",
        "spec.calibration.samples",
        "request_id",
        "labels[k]",
    }
    assert "strictly between 0 and 1" in refusal.violations["spec.pruning.sparsity"]
    assert re.search(r"; and [345] more$", refusal.message)
    assert not (await _list(api)).jobs


async def test_hundreds_of_violations_still_reach_a_stock_client(api: Api):
    spec = spec_message()
    del spec.calibration.languages[:]
    spec.calibration.languages.extend(pb.LanguageWeight(language="ungültig" + "語" * number) for number in range(50))
    refusal = await refused(api.create(spec=spec))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert re.fullmatch(r"and \d+ more; correct these first", refusal.violations[""])
    assert len(refusal.violations) > 5


async def test_too_many_labels_are_refused(api: Api):
    refusal = await refused(api.create(labels={f"k{number}": "" for number in range(65)}))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert set(refusal.violations) == {"labels"}


async def test_an_oversize_request_is_refused_unread(start_api: StartApi):
    api = await start_api(max_request_bytes=1024)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.create(spec=spec_message(method="x" * 2000, sparsity=0.5))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await api.create()).state == pb.JOB_STATE_QUEUED


@pytest.mark.parametrize("name", ["", "pruneJobs/", "jobs/x", "pruneJobs/../x", "pruneJobs/A", "pruneJobs/" + "a" * 64])
async def test_a_malformed_name_is_an_invalid_argument(api: Api, name: str):
    refusal = await refused(api.stub.GetPruneJob(service_pb.GetPruneJobRequest(name=name)))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {"name"}


async def test_an_unknown_job_is_not_found_by_every_method(api: Api):
    name = "pruneJobs/nobody"
    for call in (
        api.stub.GetPruneJob(service_pb.GetPruneJobRequest(name=name)),
        api.stub.CancelPruneJob(service_pb.CancelPruneJobRequest(name=name)),
        api.stub.GetPruneReport(service_pb.GetPruneReportRequest(name=name)),
        api.stub.ListArtifacts(service_pb.ListArtifactsRequest(name=name)),
        api.stub.WatchPruneJob(service_pb.WatchPruneJobRequest(name=name)).read(),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_pages_show_every_job_once_newest_first_while_new_ones_arrive(api: Api):
    names = [f"pruneJobs/{api.new_job().id}" for _ in range(7)]
    seen, token = [], ""
    while True:
        page = await _list(api, page_size=3, page_token=token)
        seen += [job.name for job in page.jobs]
        assert len(page.jobs) <= 3
        token = page.next_page_token
        if not token:
            break
        api.new_job()
    assert seen == names[::-1]


async def test_a_list_can_be_filtered_by_states(api: Api):
    running = api.running_job()
    api.new_job()
    page = await _list(api, states=[pb.JOB_STATE_RUNNING, pb.JOB_STATE_FAILED])
    assert [job.name for job in page.jobs] == [f"pruneJobs/{running.id}"]
    refusal = await refused(_list(api, states=[pb.JOB_STATE_RUNNING, pb.JOB_STATE_UNSPECIFIED, 77]))
    assert set(refusal.violations) == {"states[1]", "states[2]"}


async def test_a_list_can_be_filtered_by_labels(api: Api):
    labels = [{"sweep": "a", "point": str(number)} for number in range(3)]
    names = [f"pruneJobs/{api.new_job(labels=each).id}" for each in labels]
    api.new_job(labels={"sweep": "b"})
    page = await _list(api, labels={"sweep": "a"}, page_size=2)
    rest = await _list(api, labels={"sweep": "a"}, page_size=2, page_token=page.next_page_token)
    assert [job.name for job in (*page.jobs, *rest.jobs)] == names[::-1]
    assert [job.name for job in (await _list(api, labels=labels[1])).jobs] == [names[1]]
    assert set((await refused(_list(api, labels={"": "a"}))).violations) == {"labels[]"}


async def test_a_list_has_an_order_and_ranges_of_times_and_ids(api: Api):
    older, newer = (api.new_job() for _ in range(2))
    oldest_first = await _list(api, order_by="create_time", page_size=1)
    assert [job.name for job in oldest_first.jobs] == [f"pruneJobs/{older.id}"]
    rest = await _list(api, order_by="create_time", page_token=oldest_first.next_page_token)
    assert [job.name for job in rest.jobs] == [f"pruneJobs/{newer.id}"]
    assert not (await _list(api, order_by="end_time desc")).jobs, "none has ended"
    assert len((await _list(api, created_from=older.create_time)).jobs) == 2
    assert not (await _list(api, created_before=older.create_time)).jobs
    assert [job.name for job in (await _list(api, id_prefix=older.id[:9])).jobs] == [f"pruneJobs/{older.id}"]
    year_zero = timestamp_pb2.Timestamp(seconds=-(2**60))
    for wrong in ({"order_by": "name"}, {"id_prefix": "%"}, {"created_from": year_zero}):
        assert set((await refused(_list(api, **wrong))).violations) == set(wrong)


async def test_page_size_has_a_default_a_maximum_and_no_negative_values(api: Api):
    for _ in range(52):
        api.new_job()
    assert len((await _list(api)).jobs) == 50
    assert len((await _list(api, page_size=10_000)).jobs) == 52
    assert set((await refused(_list(api, page_size=-1))).violations) == {"page_size"}


async def test_a_page_never_exceeds_what_a_stock_client_accepts(api: Api):
    labels = {f"{number:063}": "v" * 63 for number in range(64)}
    for _ in range(400):
        api.new_job(labels=labels)
    page = await _list(api, page_size=400)
    assert 0 < len(page.jobs) < 400
    assert page.next_page_token
    rest = await _list(api, page_size=400 - len(page.jobs), page_token=page.next_page_token)
    assert not {job.name for job in page.jobs} & {job.name for job in rest.jobs}


async def test_a_page_token_belongs_to_its_filter_and_foreign_ones_are_refused(api: Api):
    for _ in range(3):
        api.new_job()
    token = (await _list(api, page_size=1)).next_page_token
    assert (await _list(api, page_size=2, page_token=token)).jobs, "the page size may change"
    filtered = {"page_token": token, "states": [pb.JOB_STATE_QUEUED]}, {"page_token": token, "labels": {"a": "b"}}
    for wrong in (*filtered, {"page_token": "%"}, {"page_token": "W10"}):
        assert set((await refused(_list(api, **wrong))).violations) == {"page_token"}


async def test_cancelling_is_idempotent_and_leaves_ended_jobs_alone(api: Api):
    queued, running = api.new_job(), None
    cancel = service_pb.CancelPruneJobRequest(name=f"pruneJobs/{queued.id}")
    first = await api.stub.CancelPruneJob(cancel)
    assert first.state == pb.JOB_STATE_CANCELLED
    assert await api.stub.CancelPruneJob(cancel) == first
    running = api.running_job()
    cancel = service_pb.CancelPruneJobRequest(name=f"pruneJobs/{running.id}")
    assert (await api.stub.CancelPruneJob(cancel)).state == pb.JOB_STATE_CANCELLING
    api.store.cancelled(running.id, 1)
    assert (await api.stub.CancelPruneJob(cancel)).state == pb.JOB_STATE_CANCELLED
    published = api.running_job()
    api.store.commit_manifest(published.id, 1, "a" * 64)
    cancel = service_pb.CancelPruneJobRequest(name=f"pruneJobs/{published.id}")
    assert (await api.stub.CancelPruneJob(cancel)).state == pb.JOB_STATE_RUNNING, "the commit came first"
    api.store.succeed(published.id, 1, result())
    after = await api.stub.CancelPruneJob(cancel)
    assert after.state == pb.JOB_STATE_SUCCEEDED
    assert after.result.languages[0].pruned_perplexity == result().languages[0].pruned_perplexity
    assert api.store.get(published.id).state is JobState.SUCCEEDED
