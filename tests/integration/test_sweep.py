"""A sweep against a real service: whatever is interrupted, every job exists once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
import torch

import secateur
from secateur_service.jobs.job import EventKind, Failure
from secateur_service.metrics import attempt_figures
from support.models import save_corpora, save_model, spec_data
from support.pace import PACED, Pace
from support.reports import make_report
from support.service import FILES, WITH_WORKERS, Service
from support.waiting import HANG_SECONDS, until

COMMAND = ["env", "--default-signal=INT", sys.executable, "-m", "secateur"]  # what runs in the background ignores it


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    files = tmp_path_factory.mktemp("files")
    save_model(files / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=2)
    save_corpora(files)
    return files


@pytest.fixture
def content(files):
    """A grid of two by two."""
    spec = spec_data(files / "model", files / "calibration", files / "evaluation")
    del spec["calibration"]["languages"]
    mixes = [{"de": 1}, {"de": 0.5, "uk": 0.5}]
    spec["pruning"] = {"sparsity": 0.5}
    return {**spec, "sweep": {"pruning.method": ["wanda", "magnitude"], "calibration.languages": mixes}}


@pytest.fixture
def path(content, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def working(files, tmp_path):
    """A service that runs jobs, block by block."""
    (tmp_path / "working").mkdir()
    service = Service(tmp_path / "working", file_root=files, **WITH_WORKERS, **PACED)
    yield service
    service.close()


@pytest.fixture(scope="module")
def idle(files, tmp_path_factory):
    """A service whose workers the test plays."""
    service = Service(tmp_path_factory.mktemp("idle"), file_root=files)
    yield service
    service.close()


def start(service, *arguments, output):
    environment = {**os.environ, "SECATEUR_ENDPOINT": service.endpoint, "HOME": str(output.parent), "COLUMNS": "200"}
    with output.open("ab") as file:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=environment,
            stdout=file,
            stderr=file,
        )


@pytest.fixture
def sweep(idle, path, tmp_path):
    """Runs the command to its end; its exit code, and what it printed."""

    def run(*arguments, file=path):
        output = tmp_path / "output"
        output.unlink(missing_ok=True)
        code = start(idle, "sweep", file, *arguments, output=output).wait(HANG_SECONDS)
        return code, output.read_text()

    return run


def dense_blocks(service, jobs):
    """How often the attempts that ended ran a block of the dense model, and how often they did not have to."""
    total = Counter()
    for job in jobs:
        for event in service.store.events(job, after=0, limit=1000):
            if event.kind is EventKind.LOG and event.body["message"] == attempt_figures.MESSAGE:
                total.update(event.body["fields"].get(attempt_figures.DENSE_BLOCKS, {}))
    return total


def test_a_sweep_whose_client_and_server_are_killed_has_every_job_once_and_ends_in_the_comparison(
    working, content, path, tmp_path
):
    pace = Pace(working.data_dir)
    pace.hold()
    output = tmp_path / "output"
    client = start(working, "sweep", path, output=output)
    until(lambda: working.store.list_jobs(limit=1)[0])
    client.kill()
    client.wait()
    submitted = {job.id for job in working.store.list_jobs(limit=9)[0]}

    again = start(working, "sweep", path, "--html", tmp_path / "page.html", output=output)
    until(lambda: " of 2 blocks" in output.read_text())  # which of them depends on when it looked
    until(lambda: any(working.store.blocks(job.id) for job in working.store.list_jobs(limit=9)[0]))
    again.send_signal(signal.SIGINT)
    assert again.wait(HANG_SECONDS) == 130
    assert "The same command goes on from here" in output.read_text()
    jobs = {job.id for job in working.store.list_jobs(limit=9)[0]}
    assert submitted <= jobs
    assert len(jobs) == 4

    output.unlink()
    last = start(working, "sweep", path, "--html", tmp_path / "page.html", output=output)
    until(lambda: "RUNNING" in output.read_text())
    working.kill()
    until(lambda: "trying again" in output.read_text())
    working.start()
    pace.let_go()
    assert last.wait(HANG_SECONDS) == 0, output.read_text()
    shown = output.read_text()
    assert {job.id for job in working.store.list_jobs(limit=9)[0]} == jobs
    assert "recommended for" in shown
    assert "A  method=wanda languages={de:1} " in shown
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert dense_blocks(working, jobs) == {"computed": 2, "found": 6}  # once for all

    with secateur.Client(working.endpoint) as sdk:
        made = sdk.sweep(content)
        assert {job.name for job in made.jobs.values()} == {f"pruneJobs/{job}" for job in jobs}
        results = made.result()
        assert list(results) == list(made.points)
        for point, values in made.points.items():
            resolved = results[point].job.resolved_spec
            assert resolved["pruning"]["method"] == values["pruning.method"]
            assert list(resolved["calibration"]["languages"]) == list(values["calibration.languages"])
            assert results[point].job.labels == {"sweep": made.name, "point": point}
        found = made.compare(target_languages=["de"])
        assert [job.name for job in found.jobs.values()] == [job.name for job in made.jobs.values()]
        assert {job.name for job in sdk.list_jobs(labels={"sweep": made.name})} == set(map("pruneJobs/{}".format, jobs))

        async def compared():
            async with secateur.AsyncClient(working.endpoint) as other:
                again = await other.sweep(path)
                watched = [point async for point, job in again.watch() if job.state.is_terminal]
                return watched, await again.compare(target_languages=["de"])

        assert asyncio.run(compared()) == (list(made.points), found)
        working.kill()
        with pytest.raises(secateur.WaitTimeoutError, match="4 of 4"):
            made.wait(timeout_seconds=1)


def play(service, job, *, ratio=None):
    """What a worker would do: publish a report, or fail where there is no ratio."""
    job_id = job.name.removeprefix("pruneJobs/")
    until(lambda: service.store.claim(owner="test", lease_seconds=600).id == job_id)  # older jobs come first
    if ratio is None:
        service.store.release(job_id, 1, Failure("NON_FINITE", "a NaN in layer 3", retryable=False))
    else:
        report = make_report(ratios={"de": ratio}, mix={"de": 1.0}).to_bytes()
        service.publish(job_id, {**FILES, "report/report.json": report})


def test_a_point_without_a_result_stays_so_until_it_is_retried(idle, sweep, content, tmp_path):
    with secateur.Client(idle.endpoint) as client:
        made = client.sweep(content, name="ends")
        first, second, third, fourth = made.jobs.values()
        third.cancel()
        play(idle, first, ratio=1.3)
        play(idle, second)
        play(idle, fourth, ratio=1.1)
        code, shown = sweep("--name", "ends", "--html", tmp_path / "page.html")
        assert code == 1
        assert "method=wanda languages={de:0.5,uk:0.5}: NON_FINITE: a NaN in layer 3" in shown
        assert f"recommended for de (German): {fourth.name} (B)" in shown
        assert "run the same command with --retry" in shown
        assert (tmp_path / "page.html").exists()
        with pytest.raises(secateur.JobFailedError, match="a NaN in layer 3"):
            made.result()

        retried = client.sweep(content, name="ends", retry=True)
        assert repr(client.sweep(content, name="ends", retry=True).jobs) == repr(retried.jobs)
        assert [old.name == new.name for old, new in zip(made.jobs.values(), retried.jobs.values(), strict=True)] == [
            True,
            False,
            False,
            True,
        ]
        assert [job.retry_of for job in retried.get().values()] == [None, second.name, third.name, None]
        for job in list(retried.jobs.values())[1:3]:
            play(idle, job, ratio=1.2)
        code, shown = sweep("--name", "ends", "--max-growth", "1.05", "-o", "json")
        assert code == 10
        value = json.loads(shown)
        assert [point["job"] for point in value["points"]] == [job.name for job in retried.jobs.values()]
        assert {point["state"] for point in value["points"]} == {"SUCCEEDED"}
        assert value["points"][0]["values"] == {"pruning.method": "wanda", "calibration.languages": {"de": 1}}
        assert value["comparison"] == retried.compare(max_growth=1.05).content
        assert sweep("--name", "ends", "--max-growth", "1.25")[0] == 0
        output = tmp_path / "listed"
        assert start(idle, "list", "--label", "sweep=ends", "--limit", "5", output=output).wait(HANG_SECONDS) == 0
        listed = output.read_text().splitlines()
        assert len(listed) == 1 + 5 + 1, "titles, jobs, and that there are more"
        assert all(line.endswith("sweep=ends") and "point=method=" in line for line in listed[1:6])


def test_a_sweep_is_cancelled_as_a_whole_and_does_not_begin_anew_by_itself(idle, sweep, content):
    assert sweep("--name", "stops", "--cancel")[0] == 0
    with secateur.Client(idle.endpoint) as client:
        assert client.find_sweep(content, name="stops").jobs == {}
        made = client.sweep(content, name="stops")
        with pytest.raises(secateur.WaitTimeoutError, match="4 of 4"):
            made.wait(timeout_seconds=0)
        code, shown = sweep("--name", "stops", "--cancel")
        assert (code, shown.count("CANCELLED")) == (0, 4), shown
        code, shown = sweep("--name", "stops")
        assert code == 6, shown
        with pytest.raises(secateur.NotReadyError, match="nothing to compare"):
            made.compare()


def test_one_point_that_is_refused_keeps_all_from_being_submitted(idle, sweep, content, tmp_path):
    before = idle.store.list_jobs(limit=99)[0]
    del content["pruning"]
    content["sweep"]["pruning.sparsity"] = [0.5, 1.5]
    content["sweep"]["pruning.method"] = ["wanda"]
    file = tmp_path / "refused.yaml"
    file.write_text(json.dumps(content))
    for arguments in ([], ["--dry-run"]):
        code, shown = sweep(*arguments, file=file)
        assert code == 3
        assert "pruning.sparsity: " in shown
        assert "(at method=wanda languages={de:1} sparsity=1.5; method=wanda languages={de:0.5,uk:0.5} spar" in shown
    assert idle.store.list_jobs(limit=99)[0] == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--dry-run", "--cancel"], 2, "do not go together"),
        (["--max-growth", "0.05"], 2, "1.05 permits"),
        (["--language", "de=0.5"], 2, "expected a tag such as de"),
        (["--language", "german"], 2, "did you mean de (German)?"),
        (["--language", "zh"], 2, "no point evaluates zh (Chinese); they have de (German)"),
        (["--name", "a/b"], 2, "is no name"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_before_anything_is_submitted(idle, sweep, arguments, code, said):
    before = idle.store.list_jobs(limit=99)[0]
    done, shown = sweep(*arguments)
    assert (done, said in shown) == (code, True), shown
    assert idle.store.list_jobs(limit=99)[0] == before


def test_a_dry_run_shows_every_point_and_submits_nothing(idle, sweep):
    before = idle.store.list_jobs(limit=99)[0]
    code, shown = sweep("--dry-run")
    assert code == 0, shown
    assert shown.count("FLOP") == 5
    assert "method=magnitude languages={de:0.5,uk:0.5} " in shown
    code, shown = sweep("--dry-run", "-o", "json", "--name", "mine")
    plan = json.loads(shown)
    assert plan["sweep"] == "mine"
    assert [point["resolved_spec"]["pruning"]["method"] for point in plan["points"]] == ["wanda"] * 2 + [
        "magnitude"
    ] * 2
    assert idle.store.list_jobs(limit=99)[0] == before
