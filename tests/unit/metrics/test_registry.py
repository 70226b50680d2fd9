"""The page that Prometheus scrapes."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.store import open_job_store
from secateur_service.metrics.registry import Metrics, StoreCollector
from secateur_service.metrics.scrapes import MetricsServer
from secateur_service.records.capacity import CapacityRound
from secateur_service.records.needs import Capacity, Needs
from support.jobs import new_job
from support.waiting import HANG_SECONDS


def _scrape(address: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=HANG_SECONDS) as answer:
        text = answer.read().decode()
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def test_a_scrape_shows_the_queue_the_disk_and_the_build(tmp_path: Path):
    store = open_job_store(f"sqlite:///{tmp_path}/jobs.sqlite3")
    store.migrate()
    store.create(new_job())
    store.create(new_job())
    store.claim(owner="o", lease_seconds=60)
    store.create(new_job(needs=Needs(9, 9, 9, 9)))
    capacity = Capacity(1, device_bytes=5, host_bytes=6, disk_bytes=7)
    store.agents.announce(AgentRecord("a", "node", "1", slots=3, busy=1, capacity=capacity))
    store.agents.announce(AgentRecord("b", "node", "1", slots=1, busy=0, capacity=capacity, draining=True))
    store.agents.announce(AgentRecord("c", "node", "1", slots=1, busy=0, capacity=capacity))
    store.agents.withdraw("c")
    store.explain_waiting([capacity])
    metrics = Metrics(CollectorRegistry(), version="1.2.3")
    metrics.registry.register(StoreCollector(store, tmp_path))
    server = MetricsServer.start(metrics.registry, "127.0.0.1", 0)
    try:
        samples = _scrape(server.address)
    finally:
        server.stop()
        store.close()
    assert samples["secateur_jobs"][("state", "QUEUED"),] == 2
    assert samples["secateur_jobs"][("state", "RUNNING"),] == 1
    assert samples["secateur_jobs"][("state", "FAILED"),] == 0
    assert 0 <= samples["secateur_queue_oldest_age_seconds"][()] < 60
    assert 0 <= samples["secateur_heartbeat_age_seconds"][()] < 60
    assert samples["secateur_workdir_free_bytes"][()] > 0
    assert samples["secateur_store_up"][()] == 1
    assert samples["secateur_build_info"][("version", "1.2.3"),] == 1
    assert samples["secateur_agents"] == {(("state", "ready"),): 1, (("state", "draining"),): 1}
    assert samples["secateur_slots"] == {(("state", "busy"),): 1, (("state", "free"),): 2}
    assert samples["secateur_slot_capacity_bytes"][("kind", "memory"),] == 6
    assert samples["secateur_jobs_unserved"][()] == 1
    assert samples["secateur_unserved_need_bytes"][("kind", "device_memory"),] == 9


def test_a_store_that_is_away_costs_only_its_own_figures(tmp_path: Path):
    folder = tmp_path / "data"
    store = open_job_store(f"sqlite:///{folder}/jobs.sqlite3")
    store.migrate()
    store.close()
    folder.rename(tmp_path / "away")
    metrics = Metrics(CollectorRegistry(), version="1")
    metrics.registry.register(StoreCollector(store, tmp_path))
    server = MetricsServer.start(metrics.registry, "127.0.0.1", 0)
    try:
        samples = _scrape(server.address)
    finally:
        server.stop()
    assert samples["secateur_store_up"][()] == 0
    assert "secateur_jobs" not in samples
    assert samples["secateur_workdir_free_bytes"][()] > 0


def test_names_carry_the_prefix_and_base_units_and_no_job_or_model_labels(tmp_path: Path):
    metrics = Metrics(CollectorRegistry(), version="1")
    families = [
        *metrics.registry.collect(),
        *StoreCollector(open_job_store(f"sqlite:///{tmp_path}/x"), tmp_path).describe(),
    ]
    assert len(families) > 15
    for family in families:
        assert family.name.startswith("secateur_")
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)$", family.name)
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert not {"job", "model", "name"} & sample.labels.keys()


def test_two_services_in_one_process_do_not_share_figures():
    first, second = Metrics(CollectorRegistry(), version="1"), Metrics(CollectorRegistry(), version="1")
    first.blocks_pruned.inc()
    assert second.registry.get_sample_value("secateur_blocks_pruned_total") == 0


def test_a_replica_that_no_longer_asks_for_agents_shows_none():
    registry = CollectorRegistry()
    metrics = Metrics(registry, version="1")
    metrics.show_capacity(
        CapacityRound(leads=True, tickets={("gpu", "waiting"): 2}, outcomes={"requested": 2}, unserved=3, held_back=1)
    )
    labels = {"agent_class": "gpu", "state": "waiting"}
    assert registry.get_sample_value("secateur_agents_requested", labels) == 2
    assert registry.get_sample_value("secateur_capacity_unserved_jobs") == 3
    metrics.show_capacity(CapacityRound())
    assert registry.get_sample_value("secateur_agents_requested", labels) is None
    assert registry.get_sample_value("secateur_capacity_unserved_jobs") == 0
    assert registry.get_sample_value("secateur_capacity_calls_total", {"outcome": "requested"}) == 2
