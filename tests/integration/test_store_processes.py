"""Several processes on one database, as servers and workers are."""

import json
import subprocess
import sys
import threading
import uuid

import pytest

from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import open_job_store
from secateur_service.records.needs import Needs
from support.jobs import new_job
from support.site import PYTHONPATH

HAMMER = """
import sys
from support.jobs import block, new_job
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.store import open_job_store

url, name, rounds, *jobs = sys.argv[1:]
store = open_job_store(url)
store.migrate()
for number in range(int(rounds)):
    for job_id in jobs:
        line = {"level": "info", "message": f"{name} {number}", "fields": {}}
        store.append(job_id, 1, [(EventKind.LOG, line), (EventKind.STAGE, {"stage": "PRUNING"})])
        store.heartbeat(job_id, 1, lease_seconds=60)
    store.record_block(jobs[number % len(jobs)], 1, block(number, snr_db=float(name[1:])))
    store.create(new_job(labels={"by": name}))
"""

CLAIM = """
import json, sys
from secateur_service.jobs.store import open_job_store
from secateur_service.records.needs import Capacity

store = open_job_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
claimed = []
capacity = Capacity(0, 0, host_bytes=int(sys.argv[2]), disk_bytes=1)
while job := store.claim(owner=sys.argv[2], lease_seconds=60, capacity=capacity, models=["file:///models/tiny"]):
    claimed.append(job.id)
print(json.dumps(claimed))
"""

FINISH = """
import sys
from support.jobs import result
from secateur_service.errors import CancelledError
from secateur_service.jobs.store import open_job_store

store = open_job_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
while job := store.claim(owner=sys.argv[2], lease_seconds=60):
    try:
        store.succeed(job.id, 1, result(store.commit_manifest(job.id, 1, "a" * 64)))
    except CancelledError:
        store.cancelled(job.id, 1)
"""

CANCEL = """
import random, sys, time
from secateur_service.jobs.store import open_job_store

url, _, *jobs = sys.argv[1:]
store = open_job_store(url)
print("ready", flush=True)
sys.stdin.readline()
for job_id in jobs:
    store.request_cancel(job_id)
    store.request_cancel(job_id)
    time.sleep(random.uniform(0, 0.02))
"""


@pytest.fixture
def url(database_url):
    return database_url


def script(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={"PYTHONPATH": PYTHONPATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_four_writing_processes_lose_no_event_leave_no_gap_and_never_find_the_database_locked(url):
    store = open_job_store(url)
    store.migrate()
    running = []
    for _ in range(3):
        store.create(new_job())
        running.append(store.claim(owner="test", lease_seconds=600).id)
    rounds, names = 40, ["w0", "w1", "w2", "w3"]
    writers = [script(HAMMER, url, name, str(rounds), *running) for name in names]
    followed, position, token = [], 0, None
    while any(writer.poll() is None for writer in writers):  # a follower reads all the while, as the server does
        token = store.await_change(token, 0.2)
        page, position = store.events_since(position, limit=100)
        followed += page
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    while page := store.events_since(position, limit=1000)[0]:
        followed += page
        position = store.events_since(position, limit=1000)[1]

    for job_id in running:
        events = store.events(job_id, after=0, limit=100_000)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        lines = [event.body["message"] for event in events if event.kind is EventKind.LOG]
        assert sorted(lines) == sorted(f"{name} {number}" for name in names for number in range(rounds))
        for name in names:  # what one writer wrote stays in its order
            assert [line for line in lines if line.startswith(name)] == [f"{name} {n}" for n in range(rounds)]
        assert [event for event in followed if event.job_id == job_id] == events
        assert store.get(job_id).last_sequence == len(events)
    blocks = [event for event in followed if event.kind is EventKind.BLOCK]
    assert len(blocks) == rounds * len(names)
    assert store.count_by_state()[JobState.QUEUED] == rounds * len(names)
    store.close()


def test_processes_that_meet_an_empty_file_migrate_it_together(url):
    code = (
        "import sys; from secateur_service.jobs.store import open_job_store; "
        "s = open_job_store(sys.argv[1]); s.migrate(); print(s.position())"
    )
    processes = [script(code, url) for _ in range(4)]
    assert [(process.communicate(), process.returncode) for process in processes] == [(("0\n", ""), 0)] * 4


def test_fifty_simultaneous_creates_with_one_request_id_make_one_job(url):
    store = open_job_store(url)
    store.migrate()
    request_id, created = str(uuid.uuid4()), []
    barrier = threading.Barrier(50)

    def create():
        job = new_job(request_id=request_id, request_digest="d")
        barrier.wait()
        created.append(store.create(job))

    threads = [threading.Thread(target=create) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 50
    assert len({job.id for job in created}) == 1
    assert len(store.list_jobs(limit=100)[0]) == 1
    assert [event.sequence for event in store.events(created[0].id, after=0, limit=100)] == [1]
    store.close()


def start_together(processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def test_cancellations_against_claims_and_ends_leave_every_job_in_one_terminal_state(url):
    store = open_job_store(url)
    store.migrate()
    ended = {}
    for _ in range(30):  # now and then one side is so much quicker that there is no race
        race_cancellations(store, url, ended)
        if len(ended) == 2:
            break
    assert len(ended) == 2, f"there was no race: {ended}"
    store.close()


def race_cancellations(store, url, ended):
    jobs = [store.create(new_job()).id for _ in range(120)]
    workers = [script(FINISH, url, f"w{number}") for number in range(2)]
    others = [script(CANCEL, url, "c", *order) for order in (jobs[40:], jobs[:80][::-1])]
    start_together([*workers, *others])
    for process in (*workers, *others):
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    for job_id in jobs:
        states = [event.body["state"] for event in store.events(job_id, after=0, limit=100)]
        job = store.get(job_id)
        assert [JobState(state).is_terminal for state in states] == [False] * (len(states) - 1) + [True]
        assert states[-1] == job.state in (JobState.SUCCEEDED, JobState.CANCELLED)
        assert (job.result is not None) == (job.state is JobState.SUCCEEDED)
        ended[job.state] = ended.get(job.state, 0) + 1
        assert store.request_cancel(job_id).state is job.state  # after the end it changes nothing


def test_processes_that_claim_at_the_same_time_never_get_the_same_job_nor_one_that_does_not_fit(url):
    store = open_job_store(url)
    store.migrate()
    needs = {store.create(new_job(needs=Needs(number % 4, 1))).id: number % 4 for number in range(60)}
    claimers = [script(CLAIM, url, str(host)) for host in (1, 2, 3)]
    start_together(claimers)
    claimed = []
    for host, claimer in enumerate(claimers, start=1):
        output, errors = claimer.communicate()
        assert (claimer.returncode, errors) == (0, "")
        claimed.append(json.loads(output))
        assert max((needs[job] for job in claimed[-1]), default=0) <= host
    assert sorted(job for jobs_of_one in claimed for job in jobs_of_one) == sorted(needs)
    for jobs_of_one in claimed:  # each took the oldest there was
        assert jobs_of_one == [job for job in needs if job in jobs_of_one]
    assert all(store.get(job).attempt == 1 for job in needs)
    store.close()
