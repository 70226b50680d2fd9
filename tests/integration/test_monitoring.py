"""Six real jobs under the eyes of a Prometheus: what alerts and dashboards ask is answered with what happened.

The last test ends the service.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

import secateur
from secateur_service.artifacts.manifest import Manifest
from servers import free_port
from support import worker_forks
from support.dashboards import DASHBOARDS, expressions, filled_in, panels, sql_filled_in
from support.models import save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service
from support.waiting import HANG_SECONDS, until

RULES = Path(__file__).parents[2] / "deploy" / "monitoring" / "alerts.yml"
BLOCKS = 3
GOOD = 3  # and one whose worker is killed, one whose weights are no numbers, one whose place is taken
TOKENS = 6 * 64  # of the calibration text of a job
SUCCEEDED = GOOD + 1


def rules() -> list[dict[str, Any]]:
    return [rule for group in YAML(typ="safe").load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


class Prometheus:
    """Scrapes one address each second, and evaluates the rules as often."""

    def __init__(self, folder: Path, target: str):
        program = shutil.which("prometheus") or pytest.skip("prometheus is not installed")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "secateur", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self._url = f"http://127.0.0.1:{free_port()}"
        command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/series"]
        address = f"--web.listen-address={self._url.removeprefix('http://')}"
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen([*command, address], stderr=log)

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """An instant query: the labels of each series, and its value."""
        address = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=HANG_SECONDS) as answer:
            found = json.load(answer)["data"]["result"]
        return [
            ({name: value for name, value in series["metric"].items() if name != "job"}, float(series["value"][1]))
            for series in found
        ]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def by(label: str, series: list[tuple[dict[str, str], float]]) -> dict[str, float]:
    assert len({labels[label] for labels, _ in series}) == len(series)
    return {labels[label]: value for labels, value in series}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    files = tmp_path_factory.mktemp("files")
    save_model(files / "model", num_hidden_layers=BLOCKS)
    shutil.copytree(files / "model", files / "broken")
    weights = load_file(files / "broken" / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, files / "broken" / "model.safetensors", {"format": "pt"})
    save_corpora(files)
    return files


@pytest.fixture(scope="module")
def database_url(postgres):
    return postgres.create_database()


@pytest.fixture(scope="module")
def service(tmp_path_factory, files, database_url):
    settings = {**WITH_WORKERS, "SECATEUR_DATABASE_URL": database_url, "SECATEUR_DEVICES": "cpu,cpu"}
    settings["SECATEUR_LEASE_SECONDS"] = "60"  # no other attempt may be lost than the one that is killed
    folder = tmp_path_factory.mktemp("service")
    service = Service(folder, file_root=files, metrics=f"127.0.0.1:{free_port()}", **settings)
    yield service
    service.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, service):
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), service.metrics)
    yield prometheus
    prometheus.close()


def take_the_place_of(service: Service, job_id: str) -> None:
    """Another result lies where the job is to be published."""
    folder = service.data_dir / "artifacts" / job_id
    folder.mkdir(parents=True)
    other = Manifest(job_id="another", attempt=1, files=(), resolved_spec={}, report_sha256="0" * 64)
    (folder / "manifest.json").write_bytes(other.to_bytes())


@pytest.fixture(scope="module")
def ended(service, files, prometheus):
    """The states of six jobs, once Prometheus has seen their ends."""
    until(lambda: service_is_seen(prometheus))
    good = spec_data(files / "model", files / "calibration", files / "evaluation", method="wanda", sparsity=0.5)
    broken = spec_data(files / "broken", files / "calibration", files / "evaluation", method="wanda", sparsity=0.5)
    with secateur.Client(service.endpoint) as client:
        killed = client.submit(good)
        (pid,) = until(service.worker_pids)
        worker_forks.kill(pid)
        displaced = client.submit(good)
        take_the_place_of(service, displaced.name.partition("/")[2])
        jobs = [killed, displaced, client.submit(broken), *(client.submit(good) for _ in range(GOOD))]
        states = [job.wait(timeout_seconds=HANG_SECONDS) for job in jobs]
        until(lambda: sum(value for _, value in prometheus.ask("secateur_jobs_finished_total")) == len(jobs))
    recorded = {"namespace_outcome_reason:secateur_jobs_finished:increase6h": len(jobs)}
    recorded["namespace_cause:secateur_attempts:increase1h"] = len(jobs) + 1
    for series, count in recorded.items():  # which are evaluated after the scrape
        until(lambda: sum(value for _, value in prometheus.ask(series)) == count)  # noqa: B023 - called at once
    until(lambda: prometheus.ask('ALERTS{alertname="SecateurVerificationFails", alertstate="firing"}'))
    return states


def service_is_seen(prometheus: Prometheus) -> bool:
    try:
        return bool(prometheus.ask("secateur_build_info"))
    except OSError:
        return False


def test_one_job_is_killed_and_runs_through_and_two_fail(ended):
    assert [str(job.state) for job in ended] == ["SUCCEEDED", "FAILED", "FAILED", *["SUCCEEDED"] * GOOD]
    assert [job.failure.reason for job in ended[1:3]] == ["MANIFEST_CONFLICT", "NON_FINITE"]
    assert [job.attempt for job in ended] == [2, *[1] * (2 + GOOD)]


def test_the_metrics_after_real_jobs_are_as_prometheus_wants_them(ended, service):
    program = shutil.which("promtool") or pytest.skip("promtool is not installed")
    with urllib.request.urlopen(f"http://{service.metrics}/metrics", timeout=HANG_SECONDS) as answer:
        text = answer.read()
    checked = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    names = set(re.findall(r"^# TYPE (\w+)", text.decode(), re.MULTILINE))
    contract = (
        "jobs queue_oldest_age_seconds queue_wait_seconds jobs_finished_total job_duration_seconds "
        "stage_duration_seconds blocks_pruned_total block_duration_seconds calibration_tokens_total attempts_total "
        "fenced_writes_total heartbeat_age_seconds rpc_requests_total rpc_duration_seconds watch_streams "
        "object_store_requests_total object_store_bytes_total device_memory_peak_bytes workdir_free_bytes "
        "last_success_timestamp_seconds build_info agents slots slot_capacity_bytes jobs_unserved unserved_need_bytes"
    )
    assert {f"secateur_{name}" for name in contract.split()} <= names
    labels = set(re.findall(r'(\w+)="', text.decode()))
    assert labels <= {
        "state",
        "outcome",
        "reason",
        "stage",
        "cause",
        "method",
        "code",
        "operation",
        "direction",
        "source",
        "kind",
        "le",
        "version",
    }
    assert not [job.name for job in ended if job.name.partition("/")[2] in text.decode()]


def test_the_operators_dashboard_shows_what_happened(ended, service, prometheus):
    shown: dict[str, list[list[tuple[dict[str, str], float]]]] = {}
    for found in expressions():
        shown.setdefault(found.title, []).append(prometheus.ask(filled_in(found.text)))

    def values(title: str) -> list[float]:
        (series,) = shown[title]
        return [value for _, value in series]

    endings = {("succeeded", ""): SUCCEEDED, ("failed", "MANIFEST_CONFLICT"): 1, ("failed", "NON_FINITE"): 1}
    for title in ("Jobs that ended in the period", "Jobs that ended within six hours"):
        (series,) = shown[title]
        assert {(labels["outcome"], labels.get("reason", "")): value for labels, value in series} == endings
    assert by("cause", shown["Attempts that started within an hour"][0]) == {"FIRST": 3 + GOOD, "WORKER_KILLED": 1}
    assert values("Failed within six hours") == [pytest.approx(2 / (3 + GOOD))]
    assert [by("reason", series) for series in shown["What did not verify"][1:]] == [{"MANIFEST_CONFLICT": 1}]
    assert 0 < values("Since the last success")[0] < 3600
    assert values("Tokens calibrated on within a day") == [pytest.approx(SUCCEEDED * TOKENS, rel=0.3)]
    assert prometheus.ask("secateur_calibration_tokens_total")[0][1] == SUCCEEDED * TOKENS
    pruned = sum(len(service.store.blocks(job.name.partition("/")[2])) for job in ended)
    assert pruned >= (SUCCEEDED + 1) * BLOCKS
    assert prometheus.ask("secateur_blocks_pruned_total")[0][1] == pruned
    assert values("Blocks pruned within an hour") == [pytest.approx(pruned, rel=0.3)]
    assert by("state", shown["Jobs that have not ended"][0]) == {"QUEUED": 0, "RUNNING": 0, "CANCELLING": 0}
    stages = by("stage", shown["Time in a stage"][0])
    assert stages.keys() == {"FETCHING", "SAMPLING", "PRUNING", "PACKAGING", "PUBLISHING"}
    assert all(seconds > 0 for seconds in stages.values())
    assert by("operation", shown["Requests to object stores"][0]).keys() >= {"put", "stat", "get", "list"}
    assert by("direction", shown["Bytes of objects"][0])["written"] > 0
    for title in ("Wait before an attempt", "Duration of jobs"):
        assert all(0 < value < 3600 for series in shown[title] for _, value in series)
    creates = prometheus.ask('secateur_rpc_requests_total{method=~".*CreatePruneJob", code="OK"}')
    assert [value for _, value in creates] == [3 + GOOD]
    assert by("method", shown["Calls"][0]).keys() >= {"/secateur.v1.PruneService/CreatePruneJob"}
    (version,) = shown["Versions"][0]
    assert version[0]["instance"] == service.metrics
    assert values("Replicas") == [1]
    assert values("Job store answers") == [1]
    free = shutil.disk_usage(service.data_dir).free
    assert values("Least free work disk") == [pytest.approx(free, rel=0.2)]
    nothing_happened = {"Certificate expires in", "Calls that failed", "Errors of object stores"}
    nothing_happened |= {"Object store errors within an hour"}
    assert {title for title, series in shown.items() if not any(series)} == nothing_happened


def test_the_one_alert_that_fires_is_the_one_that_should(ended, prometheus):
    free = prometheus.ask("secateur_workdir_free_bytes")[0][1]
    may = {"SecateurWorkDiskLow"} if free < 10 * 2**30 else set()
    firing = {}
    for rule in rules():
        if "alert" in rule and (found := prometheus.ask(rule["expr"])):
            firing[rule["alert"]] = found
    assert firing.keys() - may == {"SecateurVerificationFails"}
    assert firing["SecateurVerificationFails"] == [({"cause": "MANIFEST_CONFLICT"}, 1)]
    (alert,) = prometheus.ask('ALERTS{alertname="SecateurVerificationFails"}')
    assert (alert[0]["alertstate"], alert[0]["severity"]) == ("firing", "warning")
    # What the silent ones looked at is what happened, below their thresholds.
    ages = [prometheus.ask(f"max(secateur_{name}_age_seconds)") for name in ("queue_oldest", "heartbeat")]
    assert ages == [[({}, 0)], [({}, 0)]]
    failed = prometheus.ask(
        'sum by (reason) (namespace_outcome_reason:secateur_jobs_finished:increase6h{outcome="failed"})'
    )
    assert by("reason", failed) == {"MANIFEST_CONFLICT": 1, "NON_FINITE": 1}


def test_the_owners_dashboard_shows_what_the_jobs_measured(ended, database_url):
    results = {job.name.partition("/")[2]: job.result for job in ended if job.result is not None}
    chosen: dict[str, list[str]] = {}
    shown = {}
    with psycopg.connect(database_url) as connection:
        for variable in DASHBOARDS["owners"]["templating"]["list"]:
            if variable["type"] == "query":
                rows = connection.execute(sql_filled_in(variable["query"], chosen)).fetchall()
                chosen[variable["name"]] = [row[0] for row in rows]
        for panel in panels(DASHBOARDS["owners"]):
            shown[panel["title"]] = connection.execute(sql_filled_in(panel["targets"][0]["rawSql"], chosen)).fetchall()
    assert chosen["language"] == ["de", "en", "uk"]
    assert shown["Jobs in the period"] == [(SUCCEEDED,)]
    (first, *_) = results.values()
    ratios = {name: entry.pruned_perplexity / entry.dense_perplexity for name, entry in first.languages.items()}
    drawn = shown["Perplexity ratio"]
    assert len(drawn) == 3 * SUCCEEDED
    for _, label, value in drawn:  # all are the same job
        assert value == pytest.approx(ratios[label.split(" ")[0]])
    assert len(shown["Jobs"]) == SUCCEEDED


def test_the_alert_of_an_absent_service_follows_its_end(ended, service, prometheus):
    (absent,) = [rule["expr"] for rule in rules() if rule.get("alert") == "SecateurAbsent"]
    assert prometheus.ask(absent) == []
    service.process.terminate()
    service.process.wait(HANG_SECONDS)
    until(lambda: prometheus.ask(absent) == [({}, 1)])
