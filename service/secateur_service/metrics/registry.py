"""The service's Prometheus metrics: base units, prefix `secateur_`, no job or model names as labels.

A `Metrics` object belongs to the registry that it is given, so that a process can have several services. Callers
increment what is measured where it happens (calls, streams); what happens in worker processes is derived from the
store's event log (`metrics.job_figures`); states rather than events (jobs per state, ages, free disk) are read at
scrape time by `StoreCollector`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from secateur_service.errors import TransientError
from secateur_service.jobs.port import JobStore
from secateur_service.metrics.agent_figures import AgentFamilies, AgentFigures
from secateur_service.records.capacity import CapacityRound
from secateur_service.records.result import Removed

NAMESPACE = "secateur"
_RPC_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BLOCK_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_JOB_BUCKETS = (1, 10, 30, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)

_log = structlog.get_logger(__name__)


class Metrics:
    """What the service counts and times. Job figures cover the whole store, so every replica shows the same."""

    def __init__(self, registry: CollectorRegistry, *, version: str) -> None:
        self.registry = registry
        self.rpc_requests = Counter(
            "rpc_requests", "Calls that ended.", ["method", "code"], namespace=NAMESPACE, registry=registry
        )
        self.rpc_duration = Histogram(
            "rpc_duration_seconds",
            "Duration of unary calls.",
            ["method"],
            namespace=NAMESPACE,
            registry=registry,
            buckets=_RPC_BUCKETS,
        )
        self.watch_streams = Gauge(
            "watch_streams", "WatchPruneJob streams that are open.", namespace=NAMESPACE, registry=registry
        )
        self.queue_wait = Histogram(
            "queue_wait_seconds",
            "Time from being queued to the start of the attempt.",
            namespace=NAMESPACE,
            registry=registry,
            buckets=_JOB_BUCKETS,
        )
        self.jobs_finished = Counter(
            "jobs_finished",
            "Jobs that reached a terminal state; the reason is that of a failure.",
            ["outcome", "reason"],
            namespace=NAMESPACE,
            registry=registry,
        )
        self.job_duration = Histogram(
            "job_duration_seconds",
            "Time from the creation of a job to its terminal state.",
            namespace=NAMESPACE,
            registry=registry,
            buckets=_JOB_BUCKETS,
        )
        self.stage_duration = Histogram(
            "stage_duration_seconds",
            "Time in a stage, per attempt.",
            ["stage"],
            namespace=NAMESPACE,
            registry=registry,
            buckets=_JOB_BUCKETS,
        )
        self.blocks_pruned = Counter("blocks_pruned", "Decoder blocks pruned.", namespace=NAMESPACE, registry=registry)
        self.block_duration = Histogram(
            "block_duration_seconds",
            "Time to prune and evaluate one decoder block.",
            namespace=NAMESPACE,
            registry=registry,
            buckets=_BLOCK_BUCKETS,
        )
        self.attempts = Counter(
            "attempts",
            "Attempts that started: FIRST, or the reason for which the attempt before was given up.",
            ["cause"],
            namespace=NAMESPACE,
            registry=registry,
        )
        self.calibration_tokens = Counter(
            "calibration_tokens", "Tokens that attempts calibrated on.", namespace=NAMESPACE, registry=registry
        )
        self.dense_blocks = Counter(
            "dense_blocks",
            "Blocks of dense models that evaluation text went through: computed, or found, as an earlier job did it.",
            ["source"],
            namespace=NAMESPACE,
            registry=registry,
        )
        self.object_store_requests = Counter(
            "object_store_requests",
            "Requests to object stores by outcome, OK or the reason of an error; of workers when an attempt ends.",
            ["operation", "outcome"],
            namespace=NAMESPACE,
            registry=registry,
        )
        self.object_store_bytes = Counter(
            "object_store_bytes",
            "Bytes of objects that were read and written; of workers when an attempt ends.",
            ["direction"],
            namespace=NAMESPACE,
            registry=registry,
        )
        self.device_memory_peak = Gauge(
            "device_memory_peak_bytes",
            "The most device memory that the last attempt to end took; 0 on a CPU.",
            namespace=NAMESPACE,
            registry=registry,
        )
        self.fenced_writes = Counter(
            "fenced_writes",
            "Workers of this replica that were refused a write, because another attempt owns their job.",
            namespace=NAMESPACE,
            registry=registry,
        )
        self.leftovers_removed = Counter(
            "leftovers_removed",
            "Objects and unfinished uploads removed that jobs had left behind, by this replica.",
            namespace=NAMESPACE,
            registry=registry,
        )
        self.jobs_forgotten = Counter(
            "jobs_forgotten",
            "Jobs removed from the store long after their end, by this replica.",
            namespace=NAMESPACE,
            registry=registry,
        )
        self.agents_requested = Gauge(
            "agents_requested",
            "Requests for agents by class and state, of the replica that makes them.",
            ["agent_class", "state"],
            namespace=NAMESPACE,
            registry=registry,
        )
        self.capacity_calls = Counter(
            "capacity_calls",
            "What this replica did to have more or fewer agents: requested, withdrawn, or the reason of an error.",
            ["outcome"],
            namespace=NAMESPACE,
            registry=registry,
        )
        self.unserved_jobs = Gauge(
            "capacity_unserved_jobs",
            "Queued jobs that need more than any class of agents has, of the replica that asks for agents.",
            namespace=NAMESPACE,
            registry=registry,
        )
        self.held_back_jobs = Gauge(
            "capacity_held_back_jobs",
            "Queued jobs whose class has the most agents that it may have, of the replica that asks for agents.",
            namespace=NAMESPACE,
            registry=registry,
        )
        self.last_success = Gauge(
            "last_success_timestamp_seconds",
            "When a job last succeeded, as Unix time; 0 when none did.",
            namespace=NAMESPACE,
            registry=registry,
        )
        build_info = Gauge(
            "build_info", "Always 1; says what runs.", ["version"], namespace=NAMESPACE, registry=registry
        )
        build_info.labels(version=version).set(1)

    def count_request(self, operation: str, outcome: str) -> None:
        """Count a request to an object store."""
        self.object_store_requests.labels(operation=operation, outcome=outcome).inc()

    def count_bytes(self, direction: str, size_bytes: int) -> None:
        """Count bytes of objects read or written."""
        self.object_store_bytes.labels(direction=direction).inc(size_bytes)

    def show_certificate_expiry(self, read: Callable[[], float]) -> None:
        """Show when the server's certificate expires; without one there is no such figure, and so no alert from it.

        Args:
            read: Returns the expiry of the certificate now in use, as Unix time.
        """
        gauge = Gauge(
            "certificate_expiry_timestamp_seconds",
            "When the certificate of the gRPC server expires, as Unix time.",
            namespace=NAMESPACE,
            registry=self.registry,
        )
        gauge.set_function(read)

    def count_removed(self, removed: Removed) -> None:
        """Count what a round of the janitor removed."""
        self.leftovers_removed.inc(removed.leftovers)
        self.jobs_forgotten.inc(removed.jobs)

    def show_capacity(self, done: CapacityRound) -> None:
        """Show what a round of the capacity loop found, and count what it did."""
        self.agents_requested.clear()
        for (agent_class, state), number in done.tickets.items():
            self.agents_requested.labels(agent_class=agent_class, state=state).set(number)
        for outcome, number in done.outcomes.items():
            self.capacity_calls.labels(outcome=outcome).inc(number)
        self.unserved_jobs.set(done.unserved)
        self.held_back_jobs.set(done.held_back)


class StoreCollector(Collector):
    """Reads the state of the queue and the disk when Prometheus scrapes.

    If the store does not answer, only its own figures are missing: `secateur_store_up` is then 0, and the rest remains.
    """

    def __init__(self, store: JobStore, data_dir: Path) -> None:
        self._store = store
        self._data_dir = data_dir

    def describe(self) -> list[GaugeMetricFamily]:
        """List the figures without reading them."""
        return list(_Families())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read all figures."""
        families = _Families()
        families.workdir_free.add_metric([], shutil.disk_usage(self._data_dir).free)
        try:
            counts = self._store.count_by_state()
            oldest_queued = self._store.oldest_queued_age_seconds()
            oldest_heartbeat = self._store.max_heartbeat_age_seconds()
            agents = AgentFigures.read(self._store)
        except TransientError as error:
            _log.warning("the store does not answer a scrape", error=error.message)
            families.store_up.add_metric([], 0)
        else:
            families.store_up.add_metric([], 1)
            for state, count in counts.items():
                families.jobs.add_metric([state.value], count)
            families.queue_oldest_age.add_metric([], oldest_queued)
            families.heartbeat_age.add_metric([], oldest_heartbeat)
            agents.fill(families.agents)
        yield from families


class _Families:
    """The figures of one scrape."""

    def __init__(self) -> None:
        self.store_up = GaugeMetricFamily(f"{NAMESPACE}_store_up", "Whether the job store answers.", labels=[])
        self.jobs = GaugeMetricFamily(f"{NAMESPACE}_jobs", "Jobs in each state.", labels=["state"])
        self.queue_oldest_age = GaugeMetricFamily(
            f"{NAMESPACE}_queue_oldest_age_seconds", "How long the oldest job that is due has waited.", labels=[]
        )
        self.heartbeat_age = GaugeMetricFamily(
            f"{NAMESPACE}_heartbeat_age_seconds",
            "Age of the oldest heartbeat of the running jobs, but for those that start.",
            labels=[],
        )
        self.workdir_free = GaugeMetricFamily(
            f"{NAMESPACE}_workdir_free_bytes", "Free space where jobs work.", labels=[]
        )
        self.agents = AgentFamilies(NAMESPACE)

    def __iter__(self) -> Iterator[GaugeMetricFamily]:
        yield from (self.store_up, self.jobs, self.queue_oldest_age, self.heartbeat_age, self.workdir_free)
        yield from self.agents
