"""Reports and artifacts of jobs: read through the manifest, and only when they are what was published."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import grpc
import pytest

from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.artifacts.manifest import Manifest, ManifestFile
from secateur_service.jobs.job import Job, JobResult
from support.api import Api, refused

REPORT = json.dumps(
    {"schema_version": "1", "languages": {"de": {"dense": 10.5, "pruned": 12.0}}, "n": [1, None]}
).encode()


def _publish(api: Api) -> tuple[Job, Path]:
    """Play a worker that publishes a report and one checkpoint file."""
    job = api.running_job()
    folder = Path(api.settings.destinations[0].removeprefix("file://")) / job.id
    contents = {"report/report.json": REPORT, "checkpoint/config.json": b"{}"}
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(content)
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    manifest = Manifest(
        job_id=job.id,
        attempt=1,
        files=tuple(
            ManifestFile(path=path, size_bytes=len(content), sha256=digests[path], media_type="application/json")
            for path, content in contents.items()
        ),
        resolved_spec={},
        report_sha256=digests["report/report.json"],
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    api.store.commit_manifest(job.id, 1, manifest.digest())
    uri = (folder / "manifest.json").as_uri()
    api.store.succeed(job.id, 1, JobResult(uri, manifest.digest(), 0.5, ()))
    return job, folder


async def _report(api: Api, job: Job) -> service_pb.PruneReport:
    return await api.stub.GetPruneReport(service_pb.GetPruneReportRequest(name=f"pruneJobs/{job.id}"))


async def _artifacts(api: Api, job: Job) -> service_pb.ListArtifactsResponse:
    return await api.stub.ListArtifacts(service_pb.ListArtifactsRequest(name=f"pruneJobs/{job.id}"))


async def test_the_report_is_the_published_one(api: Api):
    job, _ = _publish(api)
    report = (await _report(api, job)).report
    assert report["languages"]["de"]["pruned"] == 12.0
    assert list(report["n"]) == [1, None]


async def test_artifacts_are_the_manifest_and_all_that_it_names_with_urls_that_work(api: Api):
    job, folder = _publish(api)
    artifacts = {artifact.path: artifact for artifact in (await _artifacts(api, job)).artifacts}
    assert set(artifacts) == {"manifest.json", "report/report.json", "checkpoint/config.json"}
    for path, artifact in artifacts.items():
        content = Path(artifact.download_url.removeprefix("file://")).read_bytes()
        assert content == (folder / path).read_bytes()
        assert (artifact.size_bytes, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert not artifact.HasField("download_url_expire_time")


async def test_a_job_without_a_result_is_a_failed_precondition(api: Api):
    job = api.running_job()
    for call in (_report(api, job), _artifacts(api, job)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_SUCCEEDED")
        assert refusal.metadata["state"] == "RUNNING"


@pytest.mark.parametrize("damage", ["manifest changed", "report changed", "report gone", "manifest gone"])
async def test_what_is_not_what_was_published_is_not_shown(api: Api, damage: str):
    job, folder = _publish(api)
    name, _, how = damage.partition(" ")
    file = folder / {"manifest": "manifest.json", "report": "report/report.json"}[name]
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b" ")
    refusal = await refused(_report(api, job))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "RESULT_DAMAGED")


async def test_a_job_is_deleted_once_it_has_ended_with_its_result_where_that_is_asked_for(api: Api):
    (kept, kept_folder), (removed, removed_folder) = (_publish(api) for _ in range(2))
    for folder in (kept_folder, removed_folder):
        (folder / "mine.txt").touch()
        (folder / f"checkpoint/model-block-0-{'a' * 12}.safetensors").touch()

    async def delete(job: Job, **fields: bool) -> service_pb.DeletePruneJobResponse:
        request = service_pb.DeletePruneJobRequest(name=f"pruneJobs/{job.id}", **fields)
        return await api.stub.DeletePruneJob(request)

    assert (await delete(kept)).deleted_files == 1, "what an attempt left"
    files = sorted(path.name for path in kept_folder.rglob("*") if path.is_file())
    assert files == ["config.json", "manifest.json", "mine.txt", "report.json"]
    (removed_folder / "checkpoint/config.json").unlink()  # as a call does that is interrupted
    assert (await delete(removed, delete_artifacts=True)).deleted_files == 4
    assert [path.name for path in removed_folder.rglob("*") if path.is_file()] == ["mine.txt"]
    assert (await refused(delete(removed))).code == grpc.StatusCode.NOT_FOUND
    refusal = await refused(delete(api.running_job()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_ENDED")


async def test_a_replaced_result_is_deleted_only_by_its_owner(api: Api):
    job, folder = _publish(api)
    (folder / "manifest.json").write_text("{}")
    name = f"pruneJobs/{job.id}"
    asked = service_pb.DeletePruneJobRequest(name=name, delete_artifacts=True)
    assert (await refused(api.stub.DeletePruneJob(asked))).code == grpc.StatusCode.DATA_LOSS
    await api.stub.DeletePruneJob(service_pb.DeletePruneJobRequest(name=name))
    assert (folder / "checkpoint/config.json").exists()
