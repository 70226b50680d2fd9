"""For those who run the service: does it work, what waits, where does the time go, what runs out.

Every replica counts the jobs of the whole store, so figures of jobs are the maximum over replicas; what a replica does
itself is shown by replica or summed. Jobs end a few times a day, and a counter appears with its first event, which
increase() does not see: see deploy/monitoring/alerts.yml, whose recorded figures are used here.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from dashboards.parts import (
    PROMETHEUS,
    Panel,
    bad_above,
    bad_below,
    bars,
    board_of,
    cells,
    chosen_source,
    chosen_value,
    lines,
    number,
    promql,
    rows,
    with_panels,
)

DAY = 86400
GIB = 1024**3
# Answers like others: see the alert SecateurObjectStoreErrors.
NO_ERRORS = "OK|OBJECT_NOT_FOUND|OBJECT_STORE_LACKS_CALL"

DAMAGE = "MANIFEST_CONFLICT|UPLOAD_INCOMPLETE|SHARD_DAMAGED|SHARD_GONE|SOURCE_DAMAGED"
_ENDED = "namespace_outcome_reason:secateur_jobs_finished:increase6h"
_ATTEMPTS = "namespace_cause:secateur_attempts:increase1h"


def store(metric: str, matchers: str = "") -> str:
    """Figures of the store's jobs, which every replica shows."""
    return f'{metric}{{namespace=~"$namespace"{", " if matchers else ""}{matchers}}}'


def damage(label: str) -> str:
    """Reasons that say of bytes that they are not what they should be: see the alert SecateurVerificationFails."""
    return f'{label}=~"{DAMAGE}"'


def replica(metric: str, matchers: str = "") -> str:
    """Figures of the replicas themselves."""
    return store(metric, f'instance=~"$instance"{", " if matchers else ""}{matchers}')


def added(metric: str, suffix: str = "total") -> str:
    """What a counter with labels grew by in the period, its first event included."""
    counter, created = store(f"{metric}_{suffix}"), store(f"{metric}_created")
    return f"(({counter} - {counter} offset $__range >= 0) or ({counter} and {created} > time() - $__range_s))"


def quantile(share: float, metric: str, window: str) -> str:
    """A quantile of what jobs took; of histograms without labels, which are there from the start."""
    return f"histogram_quantile({share}, max by (namespace, le) (increase({store(f'{metric}_bucket')}[{window}])))"


def build() -> models.Dashboard:
    """The dashboard."""
    board = (
        board_of("operators", "Secateur: operation", "Queue, stages, devices, stores and API. For those who run it.")
        .time("now-24h", "now")
        .refresh("1m")
        .with_variable(chosen_source(PROMETHEUS, "Prometheus", "prometheus"))
        .with_variable(_choice("namespace", "Namespace", "secateur_build_info"))
        .with_variable(_choice("instance", "Replica", 'secateur_build_info{namespace=~"$namespace"}').multi(True))
    )
    return with_panels(
        board,
        {
            "At a glance": _glance(),
            "Queue": _queue(),
            "Jobs and attempts": _endings(),
            "Stages and devices": _stages(),
            "Stores": _stores(),
            "API": _api(),
        },
    )


def _choice(label: str, title: str, metric: str) -> dashboard.QueryVariable:
    """A variable with the values of a label; all of them, or none where the scrape has no such label, match `.*`."""
    return (
        chosen_value(label, title, PROMETHEUS, f"label_values({metric}, {label})")
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(text="All", value="$__all"))
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _glance() -> list[Panel]:
    running = store("secateur_jobs", 'state="RUNNING"')
    failed = store(_ENDED, 'outcome="failed"')
    ended = store(_ENDED)
    last_success = f"max by (namespace) ({store('secateur_last_success_timestamp_seconds')} > 0)"
    firing = 'ALERTS{alertname=~"Secateur.*", alertstate="firing", namespace=~"|$namespace"}'
    return [
        number(
            promql(f"count({firing}) or vector(0)", now=True),
            title="Alerts",
            about="Alerts of Secateur that fire. The table below names them; each has a page in `deploy/runbooks`.",
            unit="none",
            steps=bad_above(1),
        ),
        number(
            promql(f"count({store('secateur_build_info')}) or vector(0)", now=True),
            title="Replicas",
            about="Replicas that Prometheus scrapes.",
            unit="none",
            alert="SecateurAbsent",
            steps=bad_below(1),
        ),
        number(
            promql(f"count({replica('secateur_store_up')} == 0) or vector(0)", now=True),
            title="Replicas without the job store",
            about="They neither accept nor start jobs, and their workers stop themselves.",
            unit="none",
            alert="SecateurStoreDown",
            steps=bad_above(1),
        ),
        number(
            promql(f"max by (namespace) ({running})", "{{namespace}}", now=True),
            title="Jobs running",
            about="Device slots that are busy. Fewer than there are slots while jobs wait: look for lost replicas.",
            unit="none",
        ),
        number(
            promql(f"max by (namespace) ({store('secateur_queue_oldest_age_seconds')})", "{{namespace}}", now=True),
            title="Oldest job that waits",
            about="How long the job has waited that is next; jobs that wait for their next attempt do not count.",
            unit="s",
            alert="SecateurQueueOldestJobTooOld",
            steps=bad_above(7200, 3600),
        ),
        number(
            promql(f"time() - {last_success}", "{{namespace}}", now=True),
            title="Since the last success",
            about="Bad only while there are jobs: a service without work has no success either.",
            unit="s",
            empty="never",
            alert="SecateurNoSuccess",
            steps=bad_above(DAY, DAY / 2),
        ),
        number(
            promql(f"sum by (namespace) ({failed}) / sum by (namespace) ({ended})", "{{namespace}}", now=True),
            title="Failed within six hours",
            about="Of the jobs that ended. The alert leaves out reasons that lie with the model, the text or the "
            "specification, and wants at least two of one reason.",
            unit="percentunit",
            empty="none failed",
            alert="SecateurJobsFail",
            steps=bad_above(0.2, 0.1),
        ),
        number(
            promql(f"max by (namespace) ({store('secateur_heartbeat_age_seconds')})", "{{namespace}}", now=True),
            title="Oldest heartbeat",
            about="Of the running jobs. A lease lasts 30 seconds, then another replica takes the job.",
            unit="s",
            alert="SecateurHeartbeatTooOld",
            steps=bad_above(120, 30),
        ),
        number(
            promql(f"min({replica('secateur_workdir_free_bytes')})", now=True),
            title="Least free work disk",
            about="Of the chosen replicas. Jobs that need more are refused or put back with DISK_TOO_SMALL or "
            "DISK_FULL.",
            unit="bytes",
            alert="SecateurWorkDiskLow",
            steps=bad_below(10 * GIB, 50 * GIB),
        ),
        number(
            promql(f"min({replica('secateur_certificate_expiry_timestamp_seconds')}) - time()", now=True),
            title="Certificate expires in",
            about="The first of the chosen replicas. Renewed files are read without a restart.",
            unit="s",
            empty="no TLS",
            alert="SecateurCertificateExpires",
            steps=bad_below(14 * DAY, 21 * DAY),
        ),
        number(
            promql(f"max({replica('secateur_watch_streams')})", now=True),
            title="Most watchers of a replica",
            about="SECATEUR_MAX_WATCHERS is 2048 by default; more are refused with RESOURCE_EXHAUSTED.",
            unit="none",
            alert="SecateurWatchersNearLimit",
            steps=bad_above(0.8 * 2048, 0.5 * 2048),
        ),
        number(
            promql(f"max({_errors()})", now=True),
            title="Object store errors within an hour",
            about="Share of the requests of the replica that has most. Requests are repeated before a job suffers.",
            unit="percentunit",
            empty="none",
            alert="SecateurObjectStoreErrors",
            steps=bad_above(0.05, 0.01),
        ),
        rows(
            promql(f"max by (alertname, severity, namespace, instance) ({firing})", shape="table", now=True),
            title="Alerts that fire",
            about="Each has a page of its name in `deploy/runbooks`: what it means, how to look, what to do.",
            unit="none",
            hide=("Time", "Value"),
            rename={"alertname": "alert"},
            width=12,
            height=6,
        ),
        rows(
            promql(f"max by (namespace, instance, version) ({store('secateur_build_info')})", shape="table", now=True),
            title="Versions",
            about="What runs where. Replicas of two releases are normal during a rollout only: a job that is handed "
            "over between them begins anew.",
            unit="none",
            hide=("Time", "Value"),
            rename={"instance": "replica"},
            width=12,
            height=6,
        ),
    ]


def _queue() -> list[Panel]:
    unfinished = store("secateur_jobs", 'state=~"QUEUED|RUNNING|CANCELLING"')
    return [
        lines(
            promql(f"max by (namespace, state) ({unfinished})", "{{state}} {{namespace}}"),
            title="Jobs that have not ended",
            about="By state. A queue that grows over days wants more device slots.",
            unit="none",
            stacked=True,
        ),
        lines(
            promql(f"max by (namespace) ({store('secateur_queue_oldest_age_seconds')})", "oldest {{namespace}}"),
            title="Age of the oldest job that waits",
            about="A steady slope means that no slot takes jobs.",
            unit="s",
            alert="SecateurQueueOldestJobTooOld",
            steps=bad_above(7200),
        ),
        lines(
            promql(quantile(0.5, "secateur_queue_wait_seconds", "6h"), "half of them {{namespace}}"),
            promql(quantile(0.9, "secateur_queue_wait_seconds", "6h"), "nine of ten {{namespace}}"),
            title="Wait before an attempt",
            about="Attempts that started within six hours had waited at most so long. What clients feel of the queue.",
            unit="s",
        ),
        lines(
            promql(f"max by (namespace, state) ({store('secateur_slots')})", "slots {{state}} {{namespace}}"),
            promql(f"max by (namespace, state) ({store('secateur_agents')})", "agents {{state}} {{namespace}}"),
            title="Agents and their slots",
            about="Agents, and servers that run jobs, that were heard of within 30 seconds. Slots that stay free while "
            "jobs wait: see what these need.",
            unit="none",
        ),
        lines(
            promql(f"max by (namespace) ({store('secateur_jobs_unserved')})", "jobs {{namespace}}"),
            title="Jobs that fit no agent",
            about="They need more than any agent has that was seen in ten minutes, or there is none. `secateur list` "
            "says what each waits for.",
            unit="none",
            alert="SecateurJobsUnserved",
            steps=bad_above(1),
        ),
        lines(
            promql(f"max by (namespace, kind) ({store('secateur_unserved_need_bytes')}) > 0", "needed {{kind}}"),
            promql(f"max by (namespace, kind) ({store('secateur_slot_capacity_bytes')}) > 0", "there {{kind}}"),
            title="What they need, and the most that there is",
            about="The most that a job needs which fits no agent; and the most that a slot of any agent has.",
            unit="bytes",
        ),
        lines(
            promql(
                f"max by (namespace, agent_class, state) ({store('secateur_agents_requested')})",
                "{{agent_class}} {{state}} {{namespace}}",
            ),
            promql(f"max by (namespace) ({store('secateur_capacity_held_back_jobs')})", "jobs held back {{namespace}}"),
            promql(
                f"max by (namespace) ({store('secateur_capacity_unserved_jobs')})", "jobs of no class {{namespace}}"
            ),
            title="Agents asked for",
            about="What a cluster was asked for, if it is asked at all: requests by class and state, as far as the "
            "cluster keeps them; jobs whose class has the most agents that it may have; jobs that no class serves.",
            unit="none",
        ),
    ]


def _endings() -> list[Panel]:
    return [
        lines(
            promql(f"{store(_ENDED)} > 0", "{{outcome}} {{reason}} {{namespace}}"),
            title="Jobs that ended within six hours",
            about="By outcome, and by reason where they failed. docs/jobs.md explains the reasons.",
            unit="none",
            alert="SecateurJobsFail",
            stacked=True,
            width=12,
        ),
        bars(
            promql(
                f"max by (namespace, outcome, reason) ({added('secateur_jobs_finished')}) > 0",
                "{{outcome}} {{reason}} {{namespace}}",
                now=True,
            ),
            title="Jobs that ended in the period",
            about="By outcome and reason, as the replica saw it that has run longest.",
            unit="none",
            width=6,
        ),
        lines(
            promql(quantile(0.5, "secateur_job_duration_seconds", "1d"), "half of them {{namespace}}"),
            promql(quantile(0.9, "secateur_job_duration_seconds", "1d"), "nine of ten {{namespace}}"),
            title="Duration of jobs",
            about="Jobs that ended within a day had taken at most so long, from their creation on.",
            unit="s",
            width=6,
        ),
        lines(
            promql(f"{store(_ATTEMPTS)} > 0", "{{cause}} {{namespace}}"),
            title="Attempts that started within an hour",
            about="FIRST, or why the attempt before was given up. Many of LEASE_EXPIRED: workers vanish without a "
            "word.",
            unit="none",
            alert="SecateurLeasesExpire",
            steps=bad_above(3),
        ),
        lines(
            promql(f"max by (namespace) ({store('secateur_heartbeat_age_seconds')})", "oldest {{namespace}}"),
            title="Age of the oldest heartbeat",
            about="Above a lease of 30 seconds, no replica takes lost jobs away.",
            unit="s",
            alert="SecateurHeartbeatTooOld",
            steps=bad_above(120),
        ),
        lines(
            promql(f"increase({replica('secateur_fenced_writes_total')}[1h])", "{{instance}}"),
            title="Workers fenced within an hour",
            about="Workers of this replica that another attempt has taken the job from. Nothing is lost by it, but a "
            "replica where this repeats stalls, or does not reach the job store in time.",
            unit="none",
        ),
    ]


def _stages() -> list[Panel]:
    seconds = f"max by (namespace, stage) ({added('secateur_stage_duration_seconds', 'sum')})"
    passes = f"max by (namespace, stage) ({added('secateur_stage_duration_seconds', 'count')})"
    blocks = f"max by (le) (increase({store('secateur_block_duration_seconds_bucket')}[$__rate_interval]))"
    return [
        bars(
            promql(f"{seconds} / ({passes} > 0)", "{{stage}} {{namespace}}", now=True),
            title="Time in a stage",
            about="Mean of the attempts in the period. FETCHING that rivals PRUNING wants a larger cache of models.",
            unit="s",
        ),
        lines(
            promql(
                f"max by (namespace) (increase({store('secateur_blocks_pruned_total')}[1h]))", "blocks {{namespace}}"
            ),
            title="Blocks pruned within an hour",
            about="Whether work goes on: none while jobs run means that they fetch, or stall.",
            unit="none",
        ),
        cells(
            promql(blocks, "{{le}}", shape="heatmap"),
            title="Time of a block",
            about="To prune and evaluate one decoder block. It follows from model and method; the same job that takes "
            "longer than it did has a slower device, or shares it.",
            unit="s",
        ),
        lines(
            promql(f"max by (namespace) ({store('secateur_device_memory_peak_bytes')})", "last attempt {{namespace}}"),
            title="Peak of device memory",
            about="Of the last attempt that ended; 0 on a CPU. Against what the device has, it tells how much larger "
            "a model may be.",
            unit="bytes",
        ),
        lines(
            promql(replica("secateur_workdir_free_bytes"), "{{instance}}"),
            title="Free work disk",
            about="Where unfinished blocks and fetched models lie.",
            unit="bytes",
            alert="SecateurWorkDiskLow",
            steps=bad_below(10 * GIB),
        ),
        lines(
            promql(
                f"max by (namespace) (increase({store('secateur_calibration_tokens_total')}[1d]))",
                "tokens {{namespace}}",
            ),
            title="Tokens calibrated on within a day",
            about="Of all attempts, counted at their end: what jobs ask of the devices.",
            unit="short",
        ),
    ]


def _errors() -> str:
    """Share of a replica's requests to object stores that ended with an error, by its reason."""
    requests = "secateur_object_store_requests_total"
    bad = replica(requests, f'outcome!~"{NO_ERRORS}"')
    return (
        f"sum by (namespace, instance, outcome) (increase({bad}[1h])) / on (namespace, instance) group_left () "
        f"(sum by (namespace, instance) (increase({replica(requests)}[1h])) > 0)"
    )


def _stores() -> list[Panel]:
    requests = f"sum by (namespace, instance, operation) (rate({replica('secateur_object_store_requests_total')}[1h]))"
    size = f"rate({replica('secateur_object_store_bytes_total')}[1h])"
    every_replica = (
        "Every replica counts what all workers did when an attempt ends, and what it did itself: so this is "
    )
    return [
        lines(
            promql(replica("secateur_store_up"), "{{instance}}"),
            title="Job store answers",
            about="1 where it does. All at 0: the database; one: the network of that replica.",
            unit="none",
            alert="SecateurStoreDown",
        ),
        lines(
            promql(f"max by (namespace, operation) ({requests})", "{{operation}} {{namespace}}"),
            title="Requests to object stores",
            about=f"By operation, mean of an hour. {every_replica}the replica that counted most.",
            unit="reqps",
        ),
        lines(
            promql(_errors(), "{{outcome}} {{instance}}"),
            title="Errors of object stores",
            about="Share of a replica's requests within an hour, by reason. Objects that are not there and calls that "
            "a store lacks are no errors.",
            unit="percentunit",
            alert="SecateurObjectStoreErrors",
            steps=bad_above(0.05),
        ),
        lines(
            promql(f"max by (namespace, direction) ({size})", "{{direction}} {{namespace}}"),
            title="Bytes of objects",
            about=f"Read and written, mean of an hour. {every_replica}the replica that counted most.",
            unit="Bps",
        ),
        lines(
            promql(f"sum(increase({replica('secateur_leftovers_removed_total')}[1d]))", "leftovers"),
            promql(f"sum(increase({replica('secateur_jobs_forgotten_total')}[1d]))", "jobs"),
            title="Removed within a day",
            about="What jobs had left behind in the destination, and jobs long after their end. Nothing for weeks, "
            "while jobs fail: the credentials may lack the right to list or delete; the log says so.",
            unit="none",
        ),
        lines(
            promql(
                f"max by (namespace, cause) ({store(_ATTEMPTS, damage('cause'))})", "attempt: {{cause}} {{namespace}}"
            ),
            promql(f"max by (namespace, reason) ({store(_ENDED, damage('reason'))})", "job: {{reason}} {{namespace}}"),
            title="What did not verify",
            about="Attempts within an hour, and jobs that failed within six, that found stored or fetched bytes to be "
            "others than they should be.",
            unit="none",
            alert="SecateurVerificationFails",
            steps=bad_above(1),
        ),
    ]


def _api() -> list[Panel]:
    calls = f"rate({replica('secateur_rpc_requests_total')}[$__rate_interval])"
    errors = replica("secateur_rpc_requests_total", 'code!="OK"')
    latency = f"rate({replica('secateur_rpc_duration_seconds_bucket')}[$__rate_interval])"
    return [
        lines(
            promql(f"sum by (method) ({calls})", "{{method}}"),
            title="Calls",
            about="Calls that ended, by method, of the chosen replicas together.",
            unit="reqps",
            stacked=True,
            width=6,
        ),
        lines(
            promql(f"sum by (code, method) (rate({errors}[$__rate_interval])) > 0", "{{code}} {{method}}"),
            title="Calls that failed",
            about="By code and method. INVALID_ARGUMENT, NOT_FOUND and UNAUTHENTICATED lie with callers; UNAVAILABLE "
            "comes with the job store, INTERNAL is a defect: the log has the request.",
            unit="reqps",
            width=6,
        ),
        lines(
            promql(f"histogram_quantile(0.5, sum by (le) ({latency}))", "half of all"),
            promql(f"histogram_quantile(0.99, sum by (le, method) ({latency}))", "99 of 100 {{method}}"),
            title="Duration of calls",
            about="Unary calls took at most so long. Slow everywhere: the job store; slow when jobs are created: what "
            "they name is looked up then.",
            unit="s",
            width=6,
        ),
        lines(
            promql(replica("secateur_watch_streams"), "{{instance}}"),
            title="Watchers",
            about="Open WatchPruneJob streams of each replica; the line is at four fifths of the default limit.",
            unit="none",
            alert="SecateurWatchersNearLimit",
            steps=bad_above(0.8 * 2048),
            width=6,
        ),
    ]
