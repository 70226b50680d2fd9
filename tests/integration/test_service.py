"""The whole service as its users meet it: submit, watch, result; whatever is killed, the state stays true."""

import hashlib
import json
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import secateur
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.control.janitor import Janitor
from secateur_service.executors.workdir import LocalFolders
from support import worker_forks
from support.models import save_corpora, save_model, spec_data
from support.pace import PACED, Pace
from support.service import WITH_WORKERS, Service, checkpoint_digests, folder_of
from support.vocabularies import save_scene
from support.waiting import HANG_SECONDS, until


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    files = folder / "files"
    save_model(
        files / "model",
        "llama",
        dtype=torch.bfloat16,
        num_hidden_layers=8,
    )
    save_corpora(files)
    service = Service(folder, **WITH_WORKERS, **PACED)
    yield service
    service.close()


@pytest.fixture(autouse=True)
def _runs(service):
    """A test that fails while the server is down does not take the others with it."""
    if service.process.poll() is not None:
        service.start()


@pytest.fixture
def pace(service):
    pace = Pace(service.data_dir)
    pace.hold()
    yield pace
    pace.let_go()


@pytest.fixture
def client(service):
    with secateur.Client(service.endpoint, reconnect_seconds=HANG_SECONDS) as client:
        yield client


def data_of(service, **pruning):
    files = service.file_root
    return spec_data(files / "model", files / "calibration", files / "evaluation", **pruning)


def test_a_job_runs_from_submission_to_a_downloaded_checkpoint(service, client, tmp_path):
    job = client.submit(data_of(service, method="wanda", pattern="2:4"))
    events = list(job.watch(after_sequence=0))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    states = [str(event.state) for event in events if isinstance(event, secateur.StateEvent)]
    assert states == ["QUEUED", "RUNNING", "SUCCEEDED"]
    stages = [str(event.stage) for event in events if isinstance(event, secateur.StageEvent)]
    assert stages == ["FETCHING", "SAMPLING", "PRUNING", "PACKAGING", "PUBLISHING"]
    blocks = [event.index for event in events if isinstance(event, secateur.BlockEvent)]
    assert blocks == list(range(8))
    result = job.result(timeout_seconds=HANG_SECONDS)
    assert result.sparsity == 0.5
    assert list(result.languages) == ["de", "uk", "en"]
    assert result.report["sparsity"]["pruned_layers"] == 0.5
    job.download(tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint")
    stored = Path(result.manifest_uri.removeprefix("file://")).read_bytes()
    assert hashlib.sha256(stored).hexdigest() == result.manifest_sha256


def test_a_job_runs_although_the_server_is_killed_at_once_after_the_acknowledgement(service, client):
    job = client.submit(data_of(service, method="magnitude", sparsity=0.5))
    service.kill()
    service.lose_workers()
    service.start()
    assert str(job.wait(timeout_seconds=HANG_SECONDS).state) == "SUCCEEDED"


def test_killing_worker_server_and_watchers_leaves_true_states_and_the_same_bytes(service, client, pace):
    pace.let_go()
    undisturbed = client.submit(data_of(service, method="sparsegpt", sparsity=0.5)).result(timeout_seconds=HANG_SECONDS)
    pace.hold()
    job = client.submit(data_of(service, method="sparsegpt", sparsity=0.5))
    history = []
    watcher = threading.Thread(target=lambda: history.extend(job.watch(after_sequence=0)), daemon=True)
    watcher.start()
    command = [sys.executable, "-m", "secateur", "watch", job.name, "--endpoint", service.endpoint]
    foreign = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def blocks():
        return len(service.store.blocks(job.name.partition("/")[2]))

    until(lambda: blocks() >= 2 or pace.step())
    foreign.kill()
    foreign.wait()
    pace.step()
    killed = until(service.worker_pids)[0]
    worker_forks.kill(killed)  # in the middle of a block, most often
    until(lambda: set(service.worker_pids()) - {killed} or pace.step())
    until(lambda: blocks() >= 4 or pace.step())
    service.kill()  # the worker goes on as an orphan
    assert service.worker_pids()
    service.start()
    until(lambda: blocks() >= 5 or pace.step())
    service.kill()
    service.lose_workers()  # now both are gone
    service.start()
    pace.let_go()
    result = job.result(timeout_seconds=HANG_SECONDS)
    watcher.join(HANG_SECONDS)
    assert not watcher.is_alive()
    assert [event.sequence for event in history] == list(range(1, history[-1].sequence + 1))
    assert history[-1].sequence == job.get().last_sequence
    finished = [event.index for event in history if isinstance(event, secateur.BlockEvent)]
    assert sorted(finished) == list(range(8)), "a finished block was computed again"
    assert job.get().attempt >= 2
    folders = [folder_of(found) for found in (undisturbed, result)]
    assert checkpoint_digests(undisturbed) == checkpoint_digests(result) != {}
    reports = [json.loads((folder / "report" / "report.json").read_text()) for folder in folders]
    for report in reports:
        report.pop("job")
    assert reports[0] == reports[1]


def janitor(service):
    """One for which every time is over."""
    return Janitor(
        service.store,
        service.store.retention,
        LocalFolders(service.data_dir),
        lambda _: DirectoryStore(service.data_dir / "artifacts"),
        agents=service.store.agents,
        leftovers_seconds=0,
        jobs_seconds=0,
        pause_seconds=1,
    )


def test_a_retried_job_goes_on_with_the_finished_blocks_and_publishes_the_same_bytes(service, client, pace):
    pace.let_go()
    undisturbed = client.submit(data_of(service, method="sparsegpt", sparsity=0.6)).result(timeout_seconds=HANG_SECONDS)
    pace.hold()
    job = client.submit(data_of(service, method="sparsegpt", sparsity=0.6))
    with pytest.raises(secateur.PreconditionError, match="only a job that has failed or was cancelled"):
        job.retry()
    until(lambda: len(service.store.blocks(job.name.partition("/")[2])) >= 4 or pace.step())
    job.cancel()
    pace.let_go()
    assert str(job.wait(timeout_seconds=HANG_SECONDS).state) == "CANCELLED"
    request_id = str(uuid.uuid4())
    retried = job.retry(request_id=request_id)
    assert job.retry(request_id=request_id).name == retried.name != job.name
    with pytest.raises(secateur.AlreadyExistsError):
        job.retry({"execution.max_attempts": 1}, request_id=request_id)
    assert (retried.get().retry_of, job.get().retry_of) == (job.name, None)
    result = retried.result(timeout_seconds=HANG_SECONDS)
    assert str(job.get().state) == "CANCELLED"
    computed = [event.index for event in retried.watch(after_sequence=0) if isinstance(event, secateur.BlockEvent)]
    assert len(computed) < 8, "finished blocks were computed again"
    assert computed == list(range(8 - len(computed), 8))
    assert checkpoint_digests(result) == checkpoint_digests(undisturbed) != {}
    left = service.data_dir / "artifacts" / job.name.partition("/")[2]
    assert list(left.rglob("*.safetensors")), "its blocks waited for the retry"
    janitor(service).clean()
    janitor(service).clean()  # after the retry, what it retried
    assert not left.exists()
    assert checkpoint_digests(result) == checkpoint_digests(undisturbed)


def test_a_job_is_retried_on_the_command_line(service, client):
    job = client.submit(data_of(service))
    job.cancel()
    job.wait(timeout_seconds=HANG_SECONDS)
    command = [sys.executable, "-m", "secateur", "retry", job.name, "--endpoint", service.endpoint]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"resumes {job.name}" in finished.stderr
    retried = client.job(finished.stdout.strip())
    assert str(retried.wait(timeout_seconds=HANG_SECONDS).state) == "SUCCEEDED"


def test_a_job_that_kills_its_worker_each_time_ends_with_the_reason(service, client):
    data = data_of(service)
    data["execution"] = {"max_attempts": 2}
    job = client.submit(data)
    killed = set()
    while not job.get().state.is_terminal:
        for pid in set(service.worker_pids()) - killed:
            killed.add(pid)
            worker_forks.kill(pid)
        time.sleep(0.02)
    with pytest.raises(secateur.JobFailedError) as caught:
        job.result()
    assert caught.value.reason == "WORKER_KILLED"
    assert "SIGKILL" in str(caught.value)
    assert job.get().attempt == 2


def test_a_running_job_is_cancelled_within_a_block_and_its_log_tells_of_it(service, client, pace):
    job = client.submit(data_of(service))
    until(lambda: service.store.blocks(job.name.partition("/")[2]))
    job.cancel()
    pace.let_go()
    with pytest.raises(secateur.JobCancelledError):
        job.result(timeout_seconds=HANG_SECONDS)
    assert str(job.get().state) == "CANCELLED"
    assert job.cancel().state == job.get().state  # again changes nothing


def test_a_failed_job_says_why_in_its_failure_and_its_log(service, client):
    data = data_of(service)
    broken = save_model(service.file_root / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    data["model"] = {"uri": broken.as_uri()}
    job = client.submit(data)
    with pytest.raises(secateur.JobFailedError) as caught:
        job.result(timeout_seconds=HANG_SECONDS)
    assert caught.value.reason == "NON_FINITE"
    assert "model.norm.weight" in str(caught.value)


def test_a_job_that_exceeds_a_limit_fails_and_its_report_can_be_read_for_ever(service, client, tmp_path):
    model = service.file_root / "words"
    if not model.exists():
        save_scene(model)
    data = {**data_of(service), "model": {"uri": model.as_uri()}, "limits": {"languages": {"en": 0.0}}}
    del data["pruning"]
    data["calibration"]["languages"] = ["uk"]
    data["shrink"] = {"vocabulary": {"extra_tokens": 0.02}}  # English takes many more tokens
    job = client.submit(data)
    with pytest.raises(secateur.JobFailedError) as caught:
        job.result(timeout_seconds=HANG_SECONDS)
    assert caught.value.reason == "LIMIT_EXCEEDED"
    assert "limits.languages: " in str(caught.value)
    janitor(service).clean()
    report = job.report()
    assert "LIMIT_EXCEEDED" in {verdict["kind"] for verdict in report["verdicts"]}
    digest = report["model"]["digest"]
    (stored,), _ = service.store.jobs_of_models([digest], except_for=[], limit=1)
    assert stored.id == job.name.removeprefix("pruneJobs/")
    language, growth = job.get().worst_growth
    (lost,) = [entry["perplexity_ratio"] for entry in report["evaluation"] if entry["language"] == language]
    assert growth == pytest.approx(lost, abs=1e-6)
    assert job.name in {listed.name for listed in client.list_jobs(order_by="worst_growth")}
    job.download(tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"manifest.json", "plan.json", "provenance.json", "report/report.html", "report/report.json"}
    command = [sys.executable, "-m", "secateur", "report", job.name, "--endpoint", service.endpoint]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    output, dense = report["output"]["parameters"], report["model"]["parameters"]
    assert f"parameters {output} of {dense}" in shown
    assert "en (English): bits per byte grew by" in shown


def bad_specs(service):
    good = data_of(service)

    def changed(part, **fields):
        merged = {**good[part], **fields}
        return {**good, part: {name: value for name, value in merged.items() if value is not None}}

    return [
        (changed("calibration", languages=[{"language": "xq"}]), ["calibration.languages[0].language"]),
        (changed("calibration", languages=[{"language": "fr"}]), ["calibration.languages[0].language"]),
        (changed("pruning", sparsity=1.5), ["pruning.sparsity"]),
        (changed("pruning", sparsity=float("nan")), ["pruning.sparsity"]),
        (changed("pruning", sparsity=None, pattern="3:2"), ["pruning.pattern"]),
        (changed("calibration", languages=[{"language": "de", "weight": 0}]), ["calibration.languages"]),
        (changed("model", uri="file:///etc"), ["model.uri"]),
        (changed("model", uri=(service.file_root / "calibration").as_uri()), ["model.uri"]),
        (changed("evaluation", corpus=f"{service.file_root.as_uri()}/../../etc"), ["evaluation.corpus"]),
        ({**good, "output": {"destination": "s3://elsewhere/x"}}, ["output.destination"]),
        (
            {**changed("pruning", sparsity=2.0), "model": {"uri": "http://host/model"}},
            ["model.uri", "pruning.sparsity"],
        ),
    ]


def test_bad_input_is_refused_over_grpc_with_every_field_and_stores_nothing(service, client):
    before = len(list(client.list_jobs()))
    for data, fields in bad_specs(service):
        with pytest.raises(secateur.InvalidSpecError) as caught:
            client.submit(data)
        assert sorted(violation.field for violation in caught.value.violations) == fields
        assert all(len(violation.description) > 20 for violation in caught.value.violations)
    assert len(list(client.list_jobs())) == before


def test_bad_input_is_refused_on_the_command_line_with_exit_code_3(service, tmp_path):
    for number, (data, fields) in enumerate(bad_specs(service)[:4]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(json.dumps(data))
        command = [sys.executable, "-m", "secateur", "submit", str(path), "--endpoint", service.endpoint]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 3, finished.stderr
        assert fields[0] in finished.stderr
        assert "Traceback" not in finished.stderr
