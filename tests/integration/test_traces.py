"""Traces from the client's call through the queue and the worker to the last upload, at a collector in this process."""

import json
import os
import subprocess
import sys

import pytest

import secateur
from support import worker_forks
from support.collector import Collector
from support.models import save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service
from support.waiting import HANG_SECONDS, until

CREATE = "secateur.v1.PruneService/CreatePruneJob"
BLOCKS = 6

# A program that is traced by the means of OpenTelemetry, and uses the SDK.
PROGRAM = """
import json, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
import secateur

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
with trace.get_tracer("nightly").start_as_current_span("nightly build"):
    with secateur.Client(sys.argv[1]) as client:
        print(client.submit(json.loads(sys.argv[2])).name)
provider.shutdown()
"""


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def service(tmp_path, collector):
    save_model(tmp_path / "files" / "model", "llama", num_hidden_layers=BLOCKS)
    save_corpora(tmp_path / "files")
    # The workers of a server learn from it where their spans go.
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    service = Service(tmp_path, **WITH_WORKERS, **settings)
    yield service
    service.close()


def spec_of(service):
    files = service.file_root
    return spec_data(files / "model", files / "calibration", files / "evaluation", method="wanda", sparsity=0.5)


def test_a_trace_leads_from_the_clients_call_through_the_queue_to_the_uploads(service, collector):

    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_SERVICE_NAME": "pipeline"}
    program = [sys.executable, "-c", PROGRAM, service.endpoint, json.dumps(spec_of(service))]
    name = subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    job_id = name.partition("/")[2]
    with secateur.Client(service.endpoint) as client:
        assert client.job(name).wait(timeout_seconds=HANG_SECONDS).state == "SUCCEEDED"
    attempt, queue, root = (collector.one(name) for name in ("attempt", "queue", "nightly build"))
    called, answered = until(lambda: len(found := collector.named(CREATE)) == 2 and found)
    of_trace = [span for span in collector.spans if span.trace == attempt.trace]
    by_id = {span.id: span for span in of_trace}

    assert (root.parent, root.service) == ("", "pipeline")
    assert (called.service, called.parent) == ("pipeline", root.id)
    assert (answered.service, answered.parent) == ("secateur", called.id)
    assert answered.attributes["rpc.grpc.status_code"] == called.attributes["rpc.grpc.status_code"] == 0

    assert queue.parent == attempt.parent == answered.id
    assert queue.attributes == attempt.attributes == {"secateur.job": job_id, "secateur.attempt": 1}
    assert queue.begin <= queue.end <= attempt.begin
    assert queue.instance == answered.instance != attempt.instance, "the worker is a process of its own"

    stages = [span.name for span in sorted(of_trace, key=lambda span: span.begin) if span.parent == attempt.id]
    assert stages == ["FETCHING", "SAMPLING", "PRUNING", "PACKAGING", "PUBLISHING"]
    blocks = collector.named("block")
    assert [span.attributes["secateur.block"] for span in blocks] == list(range(BLOCKS))
    assert {by_id[span.parent].name for span in blocks} == {"PRUNING"}
    uploads = [span for span in collector.named("object store put") if span.trace == attempt.trace]
    stored = {span.attributes["secateur.object"]: by_id[span.parent].name for span in uploads}
    assert stored[f"{job_id}/manifest.json"] == stored[f"{job_id}/report/report.json"] == "PUBLISHING"
    shards = [stage for key, stage in stored.items() if "/model-block-" in key]
    assert shards == ["PRUNING"] * BLOCKS
    for span in of_trace:
        assert span.error is None
        if span.parent in by_id and span.name not in ("queue", "attempt"):
            assert by_id[span.parent].begin <= span.begin <= span.end <= by_id[span.parent].end, span

    lines = (service.folder / "log").read_text() + "".join(
        path.read_text() for path in service.data_dir.glob(f"work/{job_id}/*.log")
    )
    assert f'"trace_id": "{attempt.trace}"' in lines


def test_a_killed_attempt_is_followed_by_another_in_the_same_trace_and_errors_say_their_reason(service, collector):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    (service.folder / "spec.yaml").write_text(json.dumps(spec_of(service)))
    command = [sys.executable, "-m", "secateur", "submit", str(service.folder / "spec.yaml"), "--endpoint"]
    environment = {**os.environ, "TRACEPARENT": traceparent}
    subprocess.run([*command, service.endpoint], env=environment, capture_output=True, check=True)
    (job,) = service.store.list_jobs(limit=1)[0]
    until(lambda: service.store.blocks(job.id))
    worker_forks.kill(until(service.worker_pids)[0])
    (service.file_root / "model" / "model.safetensors").unlink()  # so that the next attempt fails
    with secateur.Client(service.endpoint) as client:
        ended = client.job(job.id).wait(timeout_seconds=HANG_SECONDS)
        assert ended.state == "FAILED"
        with pytest.raises(secateur.NotFoundError):
            client.job("20260101-000000-aaaaaa").get()
    attempt = collector.one("attempt")
    assert attempt.trace == "0af7651916cd43dd8448eb211c80319c"
    assert attempt.attributes["secateur.attempt"] == 2
    assert attempt.error == ended.failure.reason
    queues = until(lambda: len(found := collector.named("queue")) == 2 and found)
    assert [span.attributes["secateur.attempt"] for span in queues] == [1, 2]
    assert ended.failure.message not in "".join(collector.texts), "messages of errors are for the log"
    (lost,) = until(
        lambda: [
            span
            for span in collector.named("secateur.v1.PruneService/GetPruneJob")
            if span.attributes["rpc.grpc.status_code"] == 5
        ]
    )
    assert lost.error is None, "what the caller did wrong is no error of the server"


def test_strangers_and_probes_leave_no_spans(tmp_path, collector):
    tokens = tmp_path / "tokens"
    create = [sys.executable, "-m", "secateur_service", "tokens", "create", "nightly", "--tokens-file", str(tokens)]
    token = subprocess.run(create, capture_output=True, text=True, check=True).stdout.split()[-1]
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "SECATEUR_TOKENS_FILE": str(tokens)}
    service = Service(tmp_path, **settings)
    try:
        with secateur.Client(service.endpoint) as client, pytest.raises(secateur.UnauthenticatedError):
            client.info()
        ask = [sys.executable, "-m", "secateur_service.health", "--address", service.endpoint]
        subprocess.run(ask, check=True)
        with secateur.Client(service.endpoint, token=token) as client:
            client.info()
        service.process.terminate()
        assert service.process.wait(HANG_SECONDS) == 0
    finally:
        service.close()
    assert [span.name for span in collector.spans] == ["secateur.v1.PruneService/GetServiceInfo"]
    assert collector.spans[0].attributes["rpc.grpc.status_code"] == 0
    assert token not in "".join(collector.texts)


def test_a_collector_that_is_away_hinders_nothing(tmp_path):
    save_model(tmp_path / "files" / "model", "llama", num_hidden_layers=1)
    save_corpora(tmp_path / "files")
    nobody = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    service = Service(tmp_path, **WITH_WORKERS, **nobody)
    try:
        with secateur.Client(service.endpoint) as client:
            assert client.submit(spec_of(service)).wait(timeout_seconds=HANG_SECONDS).state == "SUCCEEDED"
        until(lambda: not service.worker_pids())
        service.process.terminate()
        assert service.process.wait(HANG_SECONDS) == 0
    finally:
        service.close()
