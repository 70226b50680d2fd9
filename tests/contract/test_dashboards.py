"""The dashboards fit the metrics, the alerts, the view of the job store, and what compose provisions."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from secateur_service.jobs.job import JobResult, LanguageResult
from secateur_service.jobs.store import open_job_store
from secateur_service.metrics.registry import Metrics, StoreCollector
from secateur_service.settings import Settings
from secateur_service.spec import parse_spec
from support.dashboards import DASHBOARDS, SAMPLES, Expression, expressions, filled_in, panels, sql_filled_in
from support.jobs import SPEC, new_job

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
# Prometheus and its operator add these to whatever they scrape.
OF_THE_SCRAPE = {"namespace", "instance"}
OF_ALERTS = {"alertname", "alertstate", "severity"}
AGGREGATION = re.compile(r"\b(by|on|ignoring) \(([^)]*)\)")


def load(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in load(MONITORING / "alerts.yml")["groups"] for rule in group["rules"]]


def every_panel() -> list[Any]:
    return [
        pytest.param(name, panel, id=f"{name}-{panel['title']}")
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
    ]


def every_expression() -> list[Any]:
    return [pytest.param(found, id=f"{found.dashboard}-{found.title}-{i}") for i, found in enumerate(expressions())]


@pytest.fixture(scope="module")
def labels_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every metric that there is, with its labels."""
    metrics = Metrics(CollectorRegistry(), version="1")
    metrics.show_certificate_expiry(lambda: 0.0)
    for metric in vars(metrics).values():
        if getattr(metric, "_labelnames", ()):
            metric.labels(*metric._labelnames)  # a sample appears with the first event only
    folder = tmp_path_factory.mktemp("store")
    with closing(open_job_store(f"sqlite:///{folder}/jobs.sqlite3")) as store:
        store.migrate()
        metrics.registry.register(StoreCollector(store, folder))
        samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    labels = {sample.name: set(sample.labels) for sample in samples}
    for rule in alert_rules():
        if "record" in rule:  # named by their labels, as Prometheus advises
            labels[rule["record"]] = set(rule["record"].partition(":")[0].split("_"))
    return {name: found | OF_THE_SCRAPE for name, found in labels.items()} | {"ALERTS": OF_ALERTS | OF_THE_SCRAPE}


def selectors(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every metric in an expression, with the labels that it is chosen by."""
    for name, matchers in re.findall(r"([a-zA-Z_][\w:]*)\{([^}]*)\}", text):
        yield name, re.findall(r'(\w+)(?:=~|!~|!=|=)"', matchers)


def argument(text: str, start: int) -> str:
    """What stands in the parentheses that open at or after `start`."""
    depth = 0
    begin = text.index("(", start)
    for position in range(begin, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin : position + 1]
    raise AssertionError(text)


def test_the_files_are_what_the_code_makes():
    pytest.importorskip("grafana_foundation_sdk")
    script = ROOT / "scripts" / "generate_dashboards.py"
    result = subprocess.run([sys.executable, script, "--check"], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_there_are_dashboards_for_operators_and_owners():
    assert DASHBOARDS.keys() == {"operators", "owners"}
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == 2
    for name, dashboard in DASHBOARDS.items():
        assert dashboard["uid"] == f"secateur-{name}"
        # `kubectl apply` keeps a copy in an annotation, which may have 256 KiB.
        assert len(json.dumps(dashboard, indent=1)) < 200 * 1024


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_numbered_and_do_not_overlap(name: str):
    found = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    places = [panel["gridPos"] for panel in found]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)


@pytest.mark.parametrize(("name", "panel"), every_panel())
def test_a_panel_says_what_it_shows(name: str, panel: dict[str, Any]):
    assert panel["title"]
    assert len(panel["description"]) > 30
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == list("ABCDEF"[: len(letters)])
    if panel["type"] == "timeseries" and "expr" in panel["targets"][0]:
        assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("found", every_expression())
def test_every_metric_and_label_of_an_expression_exists(found: Expression, labels_of: dict[str, set[str]]):
    bare = re.findall(r"(?<![\w:])(?:secateur_\w+|\w+:[\w:]+)(?![\w:{])", found.text)
    assert bare in ([], [found.text]), "a metric that is not chosen by its namespace"
    chosen = [*selectors(found.text), *((name, []) for name in bare)]
    for name, labels in chosen:
        assert name in labels_of, name
        assert set(labels) <= labels_of[name], name
    grouped = []
    for match in AGGREGATION.finditer(found.text):
        labels = set(match[2].split(", "))
        inside = argument(found.text, match.end()) if match[1] == "by" else found.text
        if match[1] == "by":
            grouped.append(labels)
        for name, _ in selectors(inside):
            assert labels <= labels_of[name], f"{name} is grouped by {labels}"
    shown = grouped[0] if grouped else set.union(*(labels_of[name] for name, _ in chosen))
    assert set(re.findall(r"\{\{(\w+)\}\}", found.legend)) <= shown


@pytest.mark.parametrize("found", every_expression())
def test_figures_of_jobs_are_not_added_up_over_replicas(found: Expression):
    """Every replica shows the same; what a replica does itself is chosen by `instance`."""
    for name, labels in selectors(found.text):
        if name.startswith("secateur_") and "instance" not in labels and name != "secateur_build_info":
            assert "max by (namespace" in found.text or "max by (le)" in found.text, name
            for match in re.finditer(r"\b(sum|count|avg)( by \([^)]*\))? \(", found.text):
                assert name not in argument(found.text, match.end() - 1)


def promtool(*arguments: str | Path) -> None:
    program = shutil.which("promtool") or pytest.skip("promtool is not installed")
    result = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_understands_every_expression(tmp_path: Path):
    every = [filled_in(found.text) for found in expressions()]
    assert len(every) > 30
    assert not [text for text in every if "$" in text]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(every)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", path)


def test_jobs_that_ended_are_counted_from_the_first_on_and_once_for_all_replicas(tmp_path: Path):
    (text,) = [found.text for found in expressions() if found.title == "Jobs that ended in the period"]
    series = 'secateur_jobs_finished_{what}{{instance="{replica}", outcome="failed", reason="INTERNAL"}}'
    # Replica a counts the first and second; b has started between the two; c is scraped with what is long over.
    values = {
        ("total", "a"): "_x70 1x20 2x30",
        ("created", "a"): "_x70 4200x50",
        ("total", "b"): "_x90 1x30",
        ("created", "b"): "_x90 5460x30",
        ("total", "c"): "_x80 9x40",
        ("created", "c"): "_x80 60x40",
    }
    inputs = [{"series": series.format(what=what, replica=it), "values": line} for (what, it), line in values.items()]
    case = {
        "interval": "1m",
        "input_series": inputs,
        "promql_expr_test": [
            {
                "expr": filled_in(text),
                "eval_time": "110m",
                "exp_samples": [{"labels": '{outcome="failed", reason="INTERNAL"}', "value": 2}],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"tests": [case]}), encoding="utf-8")
    promtool("test", "rules", path)


def panels_of(alert: str) -> list[dict[str, Any]]:
    return [panel for panel in panels(DASHBOARDS["operators"]) if f"deploy/runbooks/{alert}.md" in panel["description"]]


@pytest.mark.parametrize("rule", [rule for rule in alert_rules() if "alert" in rule], ids=lambda rule: rule["alert"])
def test_every_alert_is_seen_on_a_panel_with_its_threshold(rule: dict[str, Any]):
    found = panels_of(rule["alert"])
    assert found
    limits = re.findall(r"(?:[<>]=?) (\d[\d. *]*)", rule["expr"])
    numbers = {math.prod(map(float, limit.split("*"))) for limit in limits} - {0}
    thresholds = [panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []}) for panel in found]
    steps = {step["value"] for threshold in thresholds for step in threshold["steps"]}
    assert not numbers or numbers & steps, f"{numbers} are not among {steps}"


def test_runbooks_that_panels_name_exist():
    for dashboard in DASHBOARDS.values():
        for panel in panels(dashboard):
            for page in re.findall(r"deploy/runbooks/\w+\.md", panel["description"]):
                assert (ROOT / page).is_file()


def test_the_limit_of_watchers_is_that_of_the_settings():
    (panel,) = [panel for panel in panels_of("SecateurWatchersNearLimit") if panel["type"] == "timeseries"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == (
        0.8 * Settings.model_fields["max_watchers"].default
    )


def test_compose_provisions_the_data_sources_that_the_dashboards_ask_for():
    folder = MONITORING / "grafana" / "provisioning"
    provisioned = {entry["uid"]: entry for entry in load(folder / "datasources" / "secateur.yml")["datasources"]}
    for dashboard in DASHBOARDS.values():
        (variable,) = [entry for entry in dashboard["templating"]["list"] if entry["type"] == "datasource"]
        assert provisioned[variable["current"]["value"]]["type"] == variable["query"]
        used = [panel["datasource"] for panel in panels(dashboard)]
        used += [entry["datasource"] for entry in dashboard["templating"]["list"] if entry["type"] == "query"]
        assert all(source == {"type": variable["query"], "uid": "${datasource}"} for source in used)
    services = load(ROOT / "deploy" / "compose" / "compose.yaml")["services"]
    hosts = {re.sub(r"^\w+://", "", entry["url"]).split(":")[0] for entry in provisioned.values()}
    assert hosts <= services.keys()
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (provider,) = load(folder / "dashboards" / "secateur.yml")["providers"]
    assert mounts["../monitoring/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["../monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"
    store = provisioned["job-store"]
    assert f"GRANT SELECT ON job_quality TO {store['user']};" in (MONITORING / "reader.sql").read_text("utf-8")
    variable = store["secureJsonData"]["password"].removeprefix("$")
    for name in ("grafana", "reader"):
        assert services[name]["environment"][variable] == f"${{{variable}:?set {variable} in .env}}"


# Dense and pruned perplexity by language, and what was asked for; the last has lost all that it knew.
HALF = {"method": "wanda", "sparsity": 0.5}
JOBS = (
    (HALF, {"de": (10.0, 12.0), "uk": (8.0, 16.0)}),
    ({"method": "sparsegpt", "pattern": "2:4"}, {"de": (10.0, 11.0), "uk": (8.0, 12.0)}),
    (HALF, {"de": (10.0, 15.0), "uk": (8.0, 20.0), "fr": (5.0, math.exp(700))}),
)


@pytest.fixture
def reader(postgres: Any) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the role that Grafana has, to a store where three jobs succeeded and one did not."""
    url = postgres.create_database()
    with closing(open_job_store(url)) as store:
        store.migrate()
        for pruning, languages in JOBS:
            resolved = parse_spec({**SPEC, "pruning": pruning})
            job = store.create(new_job(resolved=resolved, labels={"team": "secret"}))
            assert store.claim(owner="test", lease_seconds=60) is not None
            figures = tuple(
                LanguageResult(language, dense, pruned, math.log2(dense) / 4, math.log2(pruned) / 4)
                for language, (dense, pruned) in languages.items()
            )
            store.commit_manifest(job.id, 1, "a" * 64)
            store.succeed(job.id, 1, JobResult("file:///artifacts/manifest.json", "a" * 64, 0.498, figures))
        store.create(new_job())
    psql = shutil.which("psql", path=f"{postgres.programs}:{os.environ['PATH']}") or pytest.skip("no psql")
    for password in ("it's long", "another"):
        subprocess.run(
            [psql, "--quiet", url, f"--file={MONITORING / 'reader.sql'}"],
            check=True,
            env={**os.environ, "READER_PASSWORD": password},
        )
    with psycopg.connect(re.sub("//[^@]*@", "//secateur_reader@", url), autocommit=True) as connection:
        yield connection


def choices(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """What Grafana chooses for the variables: the first, or where all may be chosen, all."""
    chosen: dict[str, list[str]] = {}
    for variable in DASHBOARDS["owners"]["templating"]["list"]:
        if variable["type"] == "query":
            found = [row[0] for row in connection.execute(sql_filled_in(variable["query"], chosen)).fetchall()]
            chosen[variable["name"]] = found if variable["includeAll"] else found[:1]
    return chosen


def test_the_owners_dashboard_shows_what_the_jobs_measured(reader: psycopg.Connection[Any]):
    chosen = choices(reader)
    assert chosen == {
        "model": ["file:///models/tiny"],
        "method": ["wanda"],
        "target": ["0.5"],
        "language": ["de", "fr", "uk"],
    }
    shown = {}
    for panel in panels(DASHBOARDS["owners"]):
        (target,) = panel["targets"]
        cursor = reader.execute(sql_filled_in(target["rawSql"], chosen))
        shown[panel["title"]] = cursor.fetchall()
        if target["format"] == "time_series":
            assert [column.name for column in cursor.description or ()] == ["time", "metric", "value"]
    lost = math.exp(700)
    assert shown.pop("Worst ratio") == [(pytest.approx(lost / 5),)]
    assert shown.pop("Mean ratio") == [(pytest.approx((1.5 * 2.5 * lost / 5) ** (1 / 3)),)]
    assert shown.pop("Sparsity reached") == [(0.498,)]
    assert shown.pop("Jobs in the period") == [(2,)]
    assert shown.pop("Perplexity, dense and pruned") == [
        ("de", 10.0, 15.0),
        ("fr (not in the mix)", 5.0, pytest.approx(lost)),
        ("uk", 8.0, 20.0),
    ]
    bits = [(language, math.log2(ratio) / 4) for language, ratio in (("fr", lost / 5), ("uk", 2.5), ("de", 1.5))]
    assert shown.pop("Languages that lost most") == [(language, pytest.approx(value)) for language, value in bits]
    ratios = [(metric, value) for _, metric, value in shown.pop("Perplexity ratio")]
    assert set(ratios[:2]) == {("de", 1.2), ("uk", 2.0)}
    assert dict(ratios[2:]) == {"de": 1.5, "uk": 2.5, "fr": pytest.approx(lost / 5)}
    spent = [(metric, value) for _, metric, value in shown.pop("Bits per byte lost")]
    assert dict(spent[:2]) == {"de": pytest.approx(math.log2(1.2) / 4), "uk": pytest.approx(0.25)}
    ((ended,),) = shown.pop("Ended")
    table = shown.pop("Jobs")
    assert not shown
    assert float(ended) == pytest.approx(table[0][0].timestamp() * 1000)
    assert [row[2:8] for row in table] == [
        (None, "wanda", "0.5", 0.498, "de 0.750, uk 0.250", "fr"),
        (None, "sparsegpt", "2:4", 0.498, "de 0.750, uk 0.250", "uk"),
        (None, "wanda", "0.5", 0.498, "de 0.750, uk 0.250", "uk"),
    ]


def test_the_reader_sees_the_view_and_nothing_else(reader: psycopg.Connection[Any]):
    view = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S', 'm')"
    )
    relations = {row[0] for row in reader.execute(view)}
    assert {"jobs", "events", "blocks", "alembic_version", "job_quality"} <= relations
    allowed = {
        (name, right)
        for name in relations
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
        if not name.endswith("_seq")
        and reader.execute("SELECT has_table_privilege(%s, %s)", (f"public.{name}", right)).fetchone() == (True,)
    }
    assert allowed == {("job_quality", "SELECT")}
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT spec FROM jobs")
    assert "secret" not in str(reader.execute("SELECT * FROM job_quality").fetchall())


def test_samples_stand_for_all_variables_of_the_operators_dashboard():
    known = {variable["name"] for variable in DASHBOARDS["operators"]["templating"]["list"]} - {"datasource"}
    assert {f"${name}" for name in known} <= SAMPLES.keys()
