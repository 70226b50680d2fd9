"""Random calls against the store and against a model of a few lines, which must agree at every step."""

import itertools
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from secateur_service.errors import CancelledError, FencedError, NotReadyError
from secateur_service.jobs.job import EventKind, Failure
from secateur_service.jobs.states import TRANSITIONS, JobState
from secateur_service.jobs.store import open_job_store
from secateur_service.records.needs import UNKNOWN, Capacity, Needs, largest
from support.jobs import block, new_job, result

OWNED = (JobState.RUNNING, JobState.CANCELLING)
MODELS = ("file:///models/a", "file:///models/b")

amounts = st.integers(0, 2)
some_needs = st.builds(Needs, amounts, amounts, amounts, amounts)
some_capacity = st.builds(Capacity, st.integers(0, 1), amounts, amounts, amounts)


def has_room(needs, capacity):
    """Whether a slot has as much of everything as a job needs, written out."""
    if needs.disk_bytes > capacity.disk_bytes:
        return False
    if capacity.devices == 0:
        return needs.host_bytes <= capacity.host_bytes
    device = capacity.device_bytes == 0 or needs.device_bytes <= capacity.device_bytes
    return device and needs.host_bytes_beside_device <= capacity.host_bytes


@dataclass
class Model:
    id: str
    max_attempts: int
    state: JobState = JobState.QUEUED
    attempt: int = 0
    charged: int = 0
    manifest: str | None = None
    needs: Needs = UNKNOWN
    uri: str = ""
    waiting: str | None = None
    events: int = 1
    states: list = field(default_factory=lambda: [JobState.QUEUED])
    blocks: dict = field(default_factory=dict)

    def move(self, state):
        assert state in TRANSITIONS[self.state]
        self.state = state
        self.waiting = None
        self.events += 1
        self.states.append(state)


class StoreMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    attempts = st.integers(0, 1)  # how far the caller's attempt lags behind

    def __init__(self):
        super().__init__()
        self.store = open_job_store(type(self).new_database())
        self.store.migrate()
        self.models = []

    def teardown(self):
        for model in self.models:
            events = self.store.events(model.id, after=0, limit=1000)
            assert [event.sequence for event in events] == list(range(1, model.events + 1))
            entered = [event.body["state"] for event in events if event.kind is EventKind.STATE]
            assert entered == model.states
        assert self.store.events_since(0, limit=100_000)[1] == self.store.position()
        self.store.close()

    def fenced(self, model, lag, write):
        """Call `write` with an attempt; True when the model says that it owns the job, else the fence must hold."""
        attempt = model.attempt - lag
        if lag == 0 and model.state in OWNED:
            return attempt
        with pytest.raises(FencedError):
            write(attempt)
        return None

    @rule(target=jobs, max_attempts=st.integers(1, 3), needs=some_needs, uri=st.sampled_from(MODELS))
    def create(self, max_attempts, needs, uri):
        job = self.store.create(new_job(max_attempts=max_attempts, needs=needs, model=uri))
        assert job.needs == needs
        model = Model(job.id, max_attempts, needs=needs, uri=uri)
        self.models.append(model)
        return model

    @rule(
        capacity=st.none() | some_capacity,
        held=st.sets(st.integers(0, 9), max_size=2),
        there=st.sets(st.sampled_from(MODELS)),
    )
    def claim(self, capacity, held, there):
        held_ids = {model.id for number, model in enumerate(self.models) if number in held}
        given = {"capacity": capacity, "held": held_ids, "models": there}
        claimed = self.store.claim(owner="model", lease_seconds=1000, **given)
        fitting = [
            model
            for model in self.models
            if model.state is JobState.QUEUED and (capacity is None or has_room(model.needs, capacity))
        ]
        at_home = [model for model in fitting if model.id in held_ids]
        at_home += [model for model in fitting if model.uri in there]
        expected = next(iter(at_home + fitting), None)
        assert (claimed and claimed.id) == (expected and expected.id)
        if expected:
            expected.attempt += 1
            expected.move(JobState.RUNNING)

    @rule(capacities=st.lists(some_capacity, max_size=3))
    def explain(self, capacities):
        changed = self.store.explain_waiting(largest(capacities))
        expected = 0
        for model in self.models:
            if model.state is JobState.QUEUED:
                served = any(has_room(model.needs, capacity) for capacity in capacities)
                reason = None if served else model.needs.waits(capacities)
                assert served == (reason is None)
                if reason != model.waiting:
                    model.waiting = reason
                    model.events += 1
                    expected += 1
        assert changed == expected
        unserved = [model for model in self.models if model.state is JobState.QUEUED and model.waiting]
        assert sum(count for _, count in self.store.unserved()) == len(unserved)
        queued = [model.needs for model in self.models if model.state is JobState.QUEUED]
        assert dict(self.store.waiting()) == Counter(queued)

    @rule(model=jobs)
    def request_cancel(self, model):
        if model.manifest is None:
            if model.state is JobState.QUEUED:
                model.move(JobState.CANCELLED)
            elif model.state is JobState.RUNNING:
                model.move(JobState.CANCELLING)
        assert self.store.request_cancel(model.id).state is model.state

    @rule(model=jobs, lag=attempts)
    def heartbeat(self, model, lag):
        if attempt := self.fenced(model, lag, lambda n: self.store.heartbeat(model.id, n, lease_seconds=1000)):
            cancel = model.state is JobState.CANCELLING
            assert self.store.heartbeat(model.id, attempt, lease_seconds=1000).cancel_requested == cancel

    @rule(model=jobs, lag=attempts, count=st.integers(0, 3))
    def append(self, model, lag, count):
        lines = [(EventKind.LOG, {"level": "info", "message": str(n), "fields": {}}) for n in range(count)]
        if attempt := self.fenced(model, lag, lambda n: self.store.append(model.id, n, lines)):
            self.store.append(model.id, attempt, lines)
            model.events += count

    @rule(model=jobs, lag=attempts, index=st.integers(0, 2))
    def record_block(self, model, lag, index):
        if attempt := self.fenced(model, lag, lambda n: self.store.record_block(model.id, n, block(index))):
            self.store.record_block(model.id, attempt, block(index))
            model.events += model.blocks.get(index) != attempt  # the same record again changes nothing
            model.blocks[index] = attempt

    @rule(model=jobs, lag=attempts, sha256=st.sampled_from(["a" * 64, "b" * 64]))
    def commit_manifest(self, model, lag, sha256):
        if attempt := self.fenced(model, lag, lambda n: self.store.commit_manifest(model.id, n, sha256)):
            if model.state is JobState.CANCELLING:
                with pytest.raises(CancelledError):
                    self.store.commit_manifest(model.id, attempt, sha256)
                return
            model.manifest = model.manifest or sha256
            assert self.store.commit_manifest(model.id, attempt, sha256) == model.manifest

    @rule(model=jobs, lag=attempts, sha256=st.sampled_from(["a" * 64, "b" * 64]))
    def succeed(self, model, lag, sha256):
        if attempt := self.fenced(model, lag, lambda n: self.store.succeed(model.id, n, result(sha256))):
            if model.manifest not in (None, sha256) or model.state is JobState.CANCELLING:
                with pytest.raises(NotReadyError):
                    self.store.succeed(model.id, attempt, result(sha256))
            else:
                self.store.succeed(model.id, attempt, result(sha256))
                model.manifest = sha256
                model.move(JobState.SUCCEEDED)

    @rule(model=jobs, lag=attempts)
    def cancelled(self, model, lag):
        if attempt := self.fenced(model, lag, lambda n: self.store.cancelled(model.id, n)):
            if model.state is JobState.CANCELLING:
                self.store.cancelled(model.id, attempt)
                model.move(JobState.CANCELLED)
            else:
                with pytest.raises(NotReadyError):
                    self.store.cancelled(model.id, attempt)

    @rule(model=jobs, lag=attempts, retryable=st.booleans(), charged=st.booleans())
    def release(self, model, lag, retryable, charged):
        failure = Failure(reason="ANY", message="any", retryable=retryable)
        if attempt := self.fenced(model, lag, lambda n: self.store.release(model.id, n, failure, charged=charged)):
            self.store.release(model.id, attempt, failure, charged=charged)
            if model.state is JobState.CANCELLING:
                model.move(JobState.CANCELLED)
            else:
                model.charged += charged
                model.move(JobState.QUEUED if retryable and model.charged < model.max_attempts else JobState.FAILED)

    @invariant()
    def store_and_model_agree(self):
        counted = self.store.count_by_state()
        for state in JobState:
            assert counted[state] == sum(model.state is state for model in self.models)
        for model in self.models:
            job = self.store.get(model.id)
            assert (job.state, job.attempt, job.last_sequence) == (model.state, model.attempt, model.events)
            assert (job.end_time is not None) == job.state.is_terminal
            assert (job.failure is not None) == (job.state is JobState.FAILED)
            assert (job.result is not None) == (job.state is JobState.SUCCEEDED)
            assert job.waiting == model.waiting


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_store_and_model_agree(kind, request, tmp_path):
    names = itertools.count()
    if kind == "postgresql":
        StoreMachine.new_database = request.getfixturevalue("postgres").create_database
    else:
        StoreMachine.new_database = lambda: f"sqlite:///{tmp_path}/{next(names)}.sqlite3"
    patient = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(StoreMachine, settings=patient)
