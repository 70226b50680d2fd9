"""The SDK against a real service process; the tests play its workers through the job store."""

import asyncio
import hashlib
import json
import logging
import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

import secateur
from secateur.cli._render import plan_text
from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.jobs.job import Failure
from support.reports import make_report
from support.service import FILES, REPORT, Service
from support.waiting import HANG_SECONDS, until, until_async


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("service"))
    yield service
    service.close()


@pytest.fixture
def own(tmp_path):
    """A service of the test's own, which it may kill, and which has no jobs but the test's."""
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture
def client(service):
    with secateur.Client(service.endpoint, reconnect_seconds=HANG_SECONDS) as client:
        yield client


def in_thread(function, *arguments):
    """Run a function beside the test; `join` raises what it raised."""
    outcome = {}

    def run():
        try:
            outcome["value"] = function(*arguments)
        except Exception as error:  # noqa: BLE001 - handed to the test
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join(seconds=HANG_SECONDS):
        thread.join(seconds)
        assert not thread.is_alive(), "it does not end"
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    return join


def test_a_report_larger_than_a_stock_client_accepts_arrives_whole(service, client):
    figures = {f"x{language}": [1 / (figure + 3) for figure in range(48)] for language in range(24)}
    report = {"blocks": [{"layers": [figures] * 7} for _ in range(80)]}
    job_id = service.running_job()
    service.publish(job_id, {**FILES, "report/report.json": json.dumps(report).encode()})
    name = f"pruneJobs/{job_id}"
    with grpc.insecure_channel(service.endpoint) as channel, pytest.raises(grpc.RpcError, match="4194304"):
        service_grpc.PruneServiceStub(channel).GetPruneReport(service_pb.GetPruneReportRequest(name=name))
    assert client.job(name).result().report == report


def test_the_service_says_what_it_can_do(client):
    info = client.info()
    assert "wanda" in info.methods
    assert "minimax" in info.policies
    assert "owl" in info.allocations
    assert info.destinations[0].startswith("file:///")


def test_a_refused_specification_names_every_field_as_its_yaml_form_does(client):
    with pytest.raises(secateur.InvalidSpecError) as caught:
        client.prune("file:///elsewhere", corpus="file:///c", languages={"xx-yy": 1.0}, sparsity=1.5, labels={"": "v"})
    fields = {violation.field for violation in caught.value.violations}
    assert {"pruning.sparsity", "calibration.languages.xx-yy", "labels[]"} <= fields


def test_a_specification_file_is_judged_like_a_mapping(client, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("model: {uri: file:///elsewhere}\npruning: {sparsity: .nan}\n")
    with pytest.raises(secateur.InvalidSpecError) as caught:
        client.plan(path)
    assert "pruning.sparsity" in {violation.field for violation in caught.value.violations}


def test_a_job_that_does_not_exist_is_not_found_by_any_method(client, tmp_path):
    job = client.job("nope")
    calls = (job.get, job.cancel, job.report, job.artifacts, job.wait, job.result, lambda: job.download(tmp_path))
    for call in (*calls, lambda: next(job.watch()), lambda: next(job.logs())):
        with pytest.raises(secateur.NotFoundError):
            call()


def test_a_job_is_read_with_all_it_has(service, client):
    job_id = service.running_job()
    job = client.job(job_id).get()
    assert (job.id, job.state, job.attempt) == (job_id, secateur.JobState.RUNNING, 1)
    assert job.resolved_spec["calibration"]["languages"] == {"de": 0.75, "uk": 0.25}
    assert job.create_time.tzinfo is not None
    assert job.end_time is None


def test_jobs_are_listed_newest_first_over_all_pages_and_by_state(own):
    with secateur.Client(own.endpoint) as client:
        running = own.running_job()
        queued = [own.queued_job() for _ in range(6)]
        assert [job.id for job in client.list_jobs(page_size=2)] == [*reversed(queued), running]
        assert [job.id for job in client.list_jobs(states=["RUNNING"])] == [running]


def test_logs_are_those_written_so_far_or_all_until_the_end(service, client):
    job_id = service.running_job()
    service.log(job_id, "one", "two")
    job = client.job(job_id)
    assert [event.message for event in job.logs()] == ["one", "two"]
    following = in_thread(lambda: [event.message for event in job.logs(follow=True)])
    service.log(job_id, "three")
    service.publish(job_id, FILES)
    assert following() == ["one", "two", "three"]


def test_a_watch_goes_on_over_killed_servers_without_gap_or_duplicate(own, caplog):
    job_id = own.running_job()
    events = []
    client = secateur.Client(own.endpoint, reconnect_seconds=HANG_SECONDS)
    with client, caplog.at_level(logging.WARNING, logger="secateur"):
        watching = in_thread(lambda: [events.append(event) for event in client.job(job_id).watch(0)])
        for round_number in range(2):
            own.log(job_id, f"before {round_number}")
            until(lambda: any(getattr(event, "message", "") == f"before {round_number}" for event in events))  # noqa: B023
            own.kill()
            own.log(job_id, f"away {round_number}", "more")
            own.start()
        own.publish(job_id, FILES)
        watching()
    assert [event.sequence for event in events] == list(range(1, own.store.get(job_id).last_sequence + 1))
    assert events[-1].state is secateur.JobState.SUCCEEDED
    assert sum("lost the connection" in record.message for record in caplog.records) >= 2


def test_a_watch_gives_up_when_the_service_stays_away(own):
    job_id = own.running_job()
    with secateur.Client(own.endpoint, reconnect_seconds=1) as client:
        watch = client.job(job_id).watch()
        assert next(watch).kind == "snapshot"
        own.kill()
        with pytest.raises(secateur.UnavailableError, match="no contact"):
            list(watch)


def test_a_service_that_is_not_there_is_told_at_once_and_one_that_was_there_is_asked_again(own):
    with secateur.Client(own.endpoint) as known:
        known.info()
        own.kill()
        with secateur.Client(own.endpoint) as client:
            for ask in (client.info, lambda: next(client.job("j").watch())):
                with pytest.raises(secateur.UnavailableError, match="nothing listens there") as caught:
                    ask()
                assert caught.value.reason == "CONNECTION_REFUSED"
        asking = in_thread(known.info)
        own.start()
        assert asking().version


@pytest.mark.parametrize(
    ("code", "error", "calls"),
    [
        (grpc.StatusCode.UNAVAILABLE, None, 3),
        (grpc.StatusCode.INTERNAL, secateur.ServiceFaultError, 1),
        (grpc.StatusCode.DEADLINE_EXCEEDED, secateur.DeadlineError, 1),
    ],
)
def test_a_call_is_repeated_when_the_service_is_unavailable_and_only_then(code, error, calls):
    class FailsTwice(service_grpc.PruneServiceServicer):
        calls = 0

        def GetServiceInfo(self, request, context):  # noqa: ARG002, N802 - gRPC's signature
            self.calls += 1
            if self.calls <= 2:
                context.abort(code, "not now")
            return service_pb.ServiceInfo(version="1")

    server, servicer = grpc.server(ThreadPoolExecutor(2)), FailsTwice()
    service_grpc.add_PruneServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with secateur.Client(f"127.0.0.1:{port}") as client:
            if error is None:
                assert client.info().version == "1"
            else:
                with pytest.raises(error, match="not now"):
                    client.info()
        assert servicer.calls == calls
    finally:
        server.stop(None).wait()


def test_closing_the_client_ends_a_watch_in_another_thread(service):
    client = secateur.Client(service.endpoint)
    watch = client.job(service.running_job()).watch()
    next(watch)
    ending = in_thread(lambda: list(watch))
    client.close()
    with pytest.raises(secateur.ClientClosedError):
        ending()
    with pytest.raises(secateur.ClientClosedError):
        client.info()


def test_waiting_has_a_limit_and_the_job_goes_on(service, client):
    job = client.job(service.running_job())
    with pytest.raises(secateur.WaitTimeoutError):
        job.wait(timeout_seconds=0.5)
    assert job.get().state is secateur.JobState.RUNNING


def test_the_result_has_report_and_figures(service, client):
    job_id = service.running_job()
    service.publish(job_id, FILES)
    result = client.job(job_id).result()
    assert result.report == json.loads(REPORT)
    assert isinstance(result.report["blocks"], int)
    assert result.languages["de"].perplexity_ratio == pytest.approx(1.25)
    assert (result.job.id, result.sparsity) == (job_id, 0.5)


def test_a_job_without_a_result_raises_why(service, client):
    failed = service.running_job()
    service.store.release(failed, 1, Failure("NON_FINITE", "a NaN in layer 3", retryable=False, details={"layer": "3"}))
    with pytest.raises(secateur.JobFailedError, match="a NaN in layer 3") as caught:
        client.job(failed).result()
    assert (caught.value.reason, caught.value.details, caught.value.retryable) == ("NON_FINITE", {"layer": "3"}, False)

    cancelled = client.job(service.queued_job())
    cancelled.cancel()
    with pytest.raises(secateur.JobCancelledError):
        cancelled.result()
    assert cancelled.wait().state is secateur.JobState.CANCELLED

    with pytest.raises(secateur.NotReadyError):
        client.job(service.running_job()).report()


def test_a_download_brings_all_files_with_the_manifest_last(service, client, tmp_path):
    job_id = service.running_job()
    service.publish(job_id, FILES)
    seen = []
    paths = client.job(job_id).download(tmp_path / "out", progress=seen.append)
    assert {path.relative_to(tmp_path / "out").as_posix() for path in paths} == {*FILES, "manifest.json"}
    for path, content in FILES.items():
        assert (tmp_path / "out" / path).read_bytes() == content
    assert seen[-1].path == "manifest.json"
    assert seen[-1].bytes_done == seen[-1].bytes_total


def test_a_file_that_was_changed_in_the_store_is_not_put_into_place(service, client, tmp_path):
    job_id = service.running_job()
    folder = service.publish(job_id, FILES)
    (folder / "checkpoint/config.json").write_bytes(b"[]")
    with pytest.raises(secateur.IntegrityError, match=r"checkpoint/config\.json"):
        client.job(job_id).download(tmp_path / "out")
    assert not (tmp_path / "out/checkpoint/config.json").exists()
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_lost_file_is_named(service, client, tmp_path):
    job_id = service.running_job()
    folder = service.publish(job_id, FILES)
    (folder / "checkpoint/config.json").unlink()
    with pytest.raises(secateur.DownloadError, match=r"config\.json"):
        client.job(job_id).download(tmp_path / "out")


def test_a_damaged_manifest_is_told_from_a_missing_job(service, client):
    job_id = service.running_job()
    folder = service.publish(job_id, FILES)
    (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(secateur.DamagedResultError):
        client.job(job_id).artifacts()


def test_the_same_request_id_gives_the_same_job_and_another_request_is_refused(service, client):
    spec = admissible_spec(service.file_root)
    request_id = str(uuid.uuid4())
    first = client.submit(spec, request_id=request_id, labels={"a": "b"})
    assert client.submit(spec, request_id=request_id, labels={"a": "b"}).name == first.name
    assert client.submit(spec).name != first.name
    with pytest.raises(secateur.AlreadyExistsError):
        client.submit(spec, request_id=request_id)
    assert first.get().labels == {"a": "b"}


def test_what_may_go_wrong_is_a_warning_at_the_line_that_submitted_the_job(service, client):
    spec = admissible_spec(service.file_root)
    spec["calibration"]["languages"] = {"de": 1, "uk": 0}
    with pytest.warns(secateur.SpecWarning, match="uk") as told:
        job = client.submit(spec)
    job.cancel()
    assert [str(warning.message) for warning in told] == list(job.get().estimate.warnings)
    assert {warning.filename for warning in told} == {__file__}


def test_a_dry_run_resolves_and_stores_nothing(service, client):
    before = [job.name for job in client.list_jobs()]
    plan = client.plan(admissible_spec(service.file_root))
    assert plan.resolved_spec["pruning"]["method"] == "sparsegpt"
    assert plan.estimate.checkpoint_bytes > 0
    assert [job.name for job in client.list_jobs()] == before
    mix, evaluation = plan.resolved_spec["calibration"], plan.resolved_spec["evaluation"]
    tokens = mix["samples"] // len(mix["languages"]) * mix["sequence_length"]
    held_out = evaluation["tokens_per_language"] // mix["sequence_length"] * mix["sequence_length"]
    shown = plan_text(plan)
    assert re.search(r"^time +.* on one NVIDIA H100, bound by (computing|(read|writ)ing weights)$", shown, re.MULTILINE)
    for language, weight in mix["languages"].items():
        assert re.search(rf"^{language} \([A-Z].*\) +{weight:.4f} +{tokens:,} +{held_out:,}$", shown, re.MULTILINE)
    assert f"evaluation     {held_out:,} tokens of each language; from short documents, the growth" in shown
    assert f"the growth of perplexity is usually known to ±{plan.estimate.growth_margin:.1%}" in shown
    assert 0 < plan.estimate.growth_margin < 1
    assert "known to" not in plan_text(replace(plan, estimate=replace(plan.estimate, growth_margin=0.0)))


async def test_the_asynchronous_client_does_the_same(own, tmp_path):
    async with secateur.AsyncClient(own.endpoint, reconnect_seconds=HANG_SECONDS) as client:
        assert (await client.info()).version
        spec = admissible_spec(own.file_root)
        spec["calibration"]["languages"] = {"de": 1, "uk": 0}
        with pytest.warns(secateur.SpecWarning, match="uk") as told:
            job = await client.submit(spec)
        assert {warning.filename for warning in told} == {__file__}
        await job.cancel()
        with pytest.raises(secateur.JobCancelledError):
            await job.result()

        job_id = own.running_job()
        job = client.job(job_id)
        events = []

        async def watch():
            async for event in job.watch(0):
                events.append(event)  # noqa: PERF401 - the test looks at it meanwhile

        watching = asyncio.create_task(watch())
        own.log(job_id, "one")
        await until_async(lambda: any(event.kind == "log" for event in events))
        await asyncio.to_thread(own.kill)
        own.log(job_id, "two")
        await asyncio.to_thread(own.start)
        own.publish(job_id, FILES)
        await asyncio.wait_for(watching, HANG_SECONDS)
        assert [event.sequence for event in events] == list(range(1, own.store.get(job_id).last_sequence + 1))
        assert [event.message async for event in job.logs()] == ["one", "two"]
        assert (await job.result()).report == json.loads(REPORT)
        assert {listed.id async for listed in client.list_jobs(page_size=1)} >= {job_id}
        await job.download(tmp_path / "out")
        digest = hashlib.sha256((tmp_path / "out/report/report.json").read_bytes()).hexdigest()
        assert digest == {item.path: item.sha256 for item in await job.artifacts()}["report/report.json"]


def evaluated(service, **changes):
    """A job with a whole report."""
    job_id = service.running_job()
    service.publish(job_id, {**FILES, "report/report.json": make_report(**changes).to_bytes()})
    return job_id


async def test_jobs_are_compared_and_gated_alike_by_both_clients(service, client):
    jobs = [evaluated(service, ratios={"de": ratio}, mix={"de": 1.0}) for ratio in (1.3, 1.1)]
    found = client.compare(jobs, target_languages=["de"], max_growth=1.2, html=True)
    assert found.recommended.name == f"pruneJobs/{jobs[1]}"
    assert found.jobs["A"].languages["de"].growth == pytest.approx(1.3)
    assert found.html.startswith("<!doctype html>")
    assert client.job(jobs[1]).gate(1.2).passed
    async with secateur.AsyncClient(service.endpoint) as other:
        assert await other.compare(jobs, target_languages=["de"], max_growth=1.2, html=True) == found
        refused = await other.job(jobs[0]).gate(1.2, languages=["de"])
    assert (refused.passed, refused.languages[0].passed) == (False, False)
    assert refused == client.job(jobs[0]).gate(1.2)


def test_what_cannot_be_compared_or_gated_is_an_error_with_a_reason(service, client):
    whole, running = evaluated(service), service.running_job()
    old = service.running_job()
    service.publish(old, FILES)
    with pytest.raises(secateur.NotReadyError, match=running):
        client.compare([whole, running])
    with pytest.raises(secateur.NotReadyError):
        client.job(running).gate(1.1)
    with pytest.raises(secateur.PreconditionError, match=old) as caught:
        client.compare([whole, old])
    assert caught.value.reason == "REPORT_NOT_COMPARABLE"
    with pytest.raises(secateur.InvalidRequestError) as refused:
        client.compare([whole, whole], target_languages=["?"])
    assert [violation.field for violation in refused.value.violations] == ["names[1]", "target_languages[0]"]
    for arguments in ({"jobs": whole}, {"target_languages": "de"}, {"max_growth": "1.5"}):
        with pytest.raises(secateur.InvalidRequestError, match=f"^{next(iter(arguments))}: expected a "):
            client.compare(**{"jobs": [whole], **arguments})
    with pytest.raises(secateur.InvalidRequestError, match=r"^states: expected a list, not the text"):
        list(client.list_jobs(states=secateur.JobState.RUNNING))


async def test_cancelling_a_task_ends_its_watch_and_closing_ends_the_others(service):
    job_id = service.running_job()
    client = secateur.AsyncClient(service.endpoint)

    seen = []

    async def watch():
        async for event in client.job(job_id).watch():
            seen.append(event)  # noqa: PERF401 - the test looks at it meanwhile

    first, second = asyncio.create_task(watch()), asyncio.create_task(watch())
    await until_async(lambda: len(seen) == 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(first, HANG_SECONDS)
    await client.close()
    with pytest.raises(secateur.ClientClosedError):
        await asyncio.wait_for(second, HANG_SECONDS)


def admissible_spec(root):
    """A specification that admission accepts: a tiny random model and two texts below the root."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if not (root / "model").exists():
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(root / "model")
        tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(root / "model")
        (root / "text").mkdir()
        for language in ("de", "uk"):
            lines = (" ".join("ab"[int(bit)] for bit in f"{number:011b}") for number in range(2000))
            (root / "text" / f"{language}.txt").write_text("\n".join(lines))
    return secateur.prune_spec(
        (root / "model").as_uri(),
        corpus=(root / "text").as_uri(),
        languages=["de", "uk"],
        sparsity=0.5,
        samples=4,
        sequence_length=16,
        tokens_per_language=64,
        continuations=0,
    )
