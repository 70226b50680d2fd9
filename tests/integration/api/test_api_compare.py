"""ComparePruneJobs: reads what was published, and says of every job and field what is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.api.comparing import MAX_RELATED
from secateur_service.artifacts.manifest import Manifest, ManifestFile
from secateur_service.evaluation.comparison import MAX_JOBS
from secateur_service.evaluation.html import render_html
from secateur_service.jobs.job import JobResult
from support.api import Api, refused
from support.reports import make_report


def publish(api: Api, content: bytes, page: bytes = b"", digest: str = "ab" * 32) -> str:
    """Play a worker that publishes a report, perhaps with its page; returns the job's name."""
    job = api.running_job()
    folder = Path(api.settings.destinations[0].removeprefix("file://")) / job.id
    (folder / "report").mkdir(parents=True)
    contents = {"report/report.json": content, **({"report/report.html": page} if page else {})}
    files = []
    for path, each in contents.items():
        (folder / path).write_bytes(each)
        sha256 = hashlib.sha256(each).hexdigest()
        files.append(ManifestFile(path=path, size_bytes=len(each), sha256=sha256, media_type="text/plain"))
    manifest = Manifest(job_id=job.id, attempt=1, files=tuple(files), resolved_spec={}, report_sha256=files[0].sha256)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    api.store.commit_manifest(job.id, 1, manifest.digest())
    uri = (folder / "manifest.json").as_uri()
    api.store.succeed(job.id, 1, JobResult(uri, manifest.digest(), 0.5, (), model_digest=digest))
    return f"pruneJobs/{job.id}"


def german(api: Api) -> str:
    return publish(api, make_report(ratios={"de": 1.1, "en": 1.4}, mix={"de": 1.0}).to_bytes())


def english(api: Api) -> str:
    return publish(api, make_report(ratios={"de": 1.5, "en": 1.2}, mix={"en": 1.0}).to_bytes())


async def ask(api: Api, *names: str, **fields: Any) -> service_pb.ComparePruneJobsResponse:
    return await api.stub.ComparePruneJobs(service_pb.ComparePruneJobsRequest(names=names, **fields))


async def test_jobs_are_compared_by_what_they_published(api: Api):
    names = [german(api), english(api)]
    found = MessageToDict((await ask(api, *names, target_languages=["DE"])).comparison)
    assert [job["name"] for job in found["jobs"]] == names
    assert all(job["seconds"] >= 0 for job in found["jobs"])
    assert {column["language"]: column["best"] for column in found["columns"]} == {"de": ["A"], "en": ["B"]}
    assert found["recommendation"]["chosen"]["job"] == "A"
    assert found["recommendation"]["languages"] == ["de"]


async def test_the_page_comes_only_where_it_is_asked_for(api: Api):
    name = german(api)
    assert (await ask(api, name)).html == ""
    assert (await ask(api, name, include_html=True)).html.startswith("<!doctype html>")


async def test_related_jobs_are_the_newest_of_the_model_and_the_named_one_decides_what_compares(api: Api):
    spec = make_report().spec | {"evaluation": {"corpus": "file:///other"}}
    other_text = make_report(spec=spec, tokens=4000).to_bytes()
    named = publish(api, other_text)
    publish(api, make_report().to_bytes(), digest="cd" * 32)
    unreadable = publish(api, b'{"schema_version": "1", "evaluation": []}')
    names = [german(api) for _ in range(MAX_RELATED)]
    found = MessageToDict((await ask(api, named, include_related=True)).comparison)
    assert [job["name"] for job in found["jobs"]] == [named, *names[::-1]]
    assert found["related"]["left_out"] == 1
    assert found["related"]["unreadable"] == {}
    assert [bool(job["differences"]) for job in found["jobs"]] == [False, *[True] * MAX_RELATED]
    found = MessageToDict((await ask(api, *names, include_related=True)).comparison)
    assert found["related"]["jobs"] == ["U"]
    assert list(found["related"]["unreadable"]) == [unreadable]
    assert "related" not in MessageToDict((await ask(api, named)).comparison)


async def test_the_page_of_a_report_gets_a_section_about_the_others_when_it_is_asked_for(api: Api):
    report = make_report(ratios={"de": 1.1, "en": 1.4}, mix={"de": 1.0})
    page = render_html(report)
    name = publish(api, report.to_bytes(), page)

    async def shown() -> str:
        return (await api.stub.GetPruneReport(service_pb.GetPruneReportRequest(name=name, include_html=True))).html

    assert (await api.stub.GetPruneReport(service_pb.GetPruneReportRequest(name=name))).html == ""
    assert await shown() == page.decode()
    other = english(api)
    found = await shown()
    assert "Other jobs on this model" in found
    assert other in found
    older = publish(api, b'{"schema_version": "1", "evaluation": []}', b"<html>old</html>")
    request = service_pb.GetPruneReportRequest(name=older, include_html=True)
    assert (await api.stub.GetPruneReport(request)).html == "<html>old</html>"
    assert f"Not comparable: <code><bdi>{older}</bdi></code>." in await shown()


async def test_as_many_jobs_as_are_allowed_fit_into_what_a_stock_client_accepts(api: Api):
    languages = [f"q{first}{second}" for first in "abcdefgh" for second in "abcdefgh"]
    report = make_report(ratios=dict.fromkeys(languages, 1.2), mix={languages[0]: 1.0}).to_bytes()
    names = [publish(api, report) for _ in range(MAX_JOBS)]
    answer = await ask(api, *names, include_html=True)
    assert len(answer.comparison["jobs"]) == MAX_JOBS
    assert answer.ByteSize() < 4 * 2**20


async def test_a_job_without_a_report_is_refused_by_name(api: Api):
    job = api.running_job()
    api.store.request_cancel(job.id)
    refusal = await refused(ask(api, f"pruneJobs/{job.id}"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_SUCCEEDED")
    assert job.id in refusal.message


async def test_a_report_of_an_earlier_release_is_refused_by_name(api: Api):
    names = [german(api), publish(api, b'{"schema_version": "1", "evaluation": []}')]
    refusal = await refused(ask(api, *names))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REPORT_NOT_COMPARABLE")
    assert refusal.metadata["job"] == names[1]
    assert names[1] in refusal.message


async def test_a_report_that_was_changed_is_not_compared(api: Api):
    name = german(api)
    folder = Path(api.settings.destinations[0].removeprefix("file://")) / name.removeprefix("pruneJobs/")
    (folder / "report" / "report.json").write_bytes(b"{}")
    refusal = await refused(ask(api, name))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "RESULT_DAMAGED")


async def test_a_job_that_does_not_exist_is_not_found(api: Api):
    assert (await refused(ask(api, german(api), "pruneJobs/nope"))).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        ({"names": []}, {"names"}),
        ({"names": [f"pruneJobs/j{number}" for number in range(MAX_JOBS + 1)]}, {"names"}),
        ({"names": ["pruneJobs/a", "nope", "pruneJobs/a", "pruneJobs/A"]}, {"names[1]", "names[2]", "names[3]"}),
        ({"target_languages": ["de", "not a tag"]}, {"target_languages[1]"}),
        ({"target_languages": ["de"] * 501}, {"target_languages"}),
        ({"max_growth": 0.05}, {"max_growth"}),
        ({"max_growth": float("nan")}, {"max_growth"}),
    ],
)
async def test_every_rule_that_a_request_breaks_is_named(api: Api, fields: dict[str, Any], broken: set[str]):
    refusal = await refused(
        api.stub.ComparePruneJobs(service_pb.ComparePruneJobsRequest(**{"names": ["pruneJobs/a"], **fields}))
    )
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == broken
