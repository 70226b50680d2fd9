"""Two replicas on one PostgreSQL, each with workers and a data folder of its own: either may go at any moment."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import secateur
from support.models import save_corpora, save_model, spec_data
from support.pace import PACED, Pace
from support.service import WITH_WORKERS, Service, checkpoint_digests
from support.waiting import HANG_SECONDS, until

BLOCKS = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    files = tmp_path_factory.mktemp("replicas") / "files"
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": BLOCKS}
    save_model(files / "model", "llama", dtype=torch.bfloat16, **shape)
    save_corpora(files)
    return files


@pytest.fixture(scope="module")
def both(tmp_path_factory, files, postgres):
    folder = tmp_path_factory.mktemp("both")
    url, destination = postgres.create_database(), (folder / "results").as_uri()
    started = []
    for name in ("a", "b"):
        (folder / name).mkdir()
        settings = {**WITH_WORKERS, "SECATEUR_DATABASE_URL": url, "SECATEUR_DESTINATIONS": destination, **PACED}
        started.append(Service(folder / name, file_root=files, **settings))
    yield started
    for replica in started:
        replica.close()


@pytest.fixture
def replicas(both):
    """Both running, whatever the test before has done to them."""
    for replica in both:
        if replica.process.poll() is not None:
            replica.start()
    return both


def test_a_watcher_sees_nothing_but_its_events_whichever_replica_is_killed(replicas, files):
    data = spec_data(files / "model", files / "calibration", files / "evaluation", method="sparsegpt", sparsity=0.5)
    endpoint = "ipv4:" + ",".join(replica.endpoint for replica in replicas)
    with secateur.Client(endpoint, reconnect_seconds=HANG_SECONDS) as client:
        undisturbed = client.submit(data).result(timeout_seconds=HANG_SECONDS)
        paces = [Pace(replica.data_dir) for replica in replicas]
        for pace in paces:
            pace.hold()

        def step():
            for pace in paces:
                pace.step()

        job = client.submit(data)
        history = []
        watcher = threading.Thread(target=lambda: history.extend(job.watch(after_sequence=0)), daemon=True)
        watcher.start()

        def blocks():
            return len([event for event in history if isinstance(event, secateur.BlockEvent)])

        until(lambda: blocks() >= 3 or step())
        first = next(replica for replica in replicas if replica.worker_pids())
        other = next(replica for replica in replicas if replica is not first)
        first.kill()
        first.lose_workers()
        until(other.worker_pids)  # takes the job up
        first.start()
        seen = blocks()
        until(lambda: blocks() >= seen + 1 or step())
        other.kill()  # its worker goes on as an orphan
        for pace in paces:
            pace.let_go()
        result = job.result(timeout_seconds=HANG_SECONDS)
        watcher.join(HANG_SECONDS)
        assert not watcher.is_alive()
        assert [event.sequence for event in history] == list(range(1, job.get().last_sequence + 1))
        states = [str(event.state) for event in history if isinstance(event, secateur.StateEvent)]
        assert states == ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "SUCCEEDED"]
        assert job.get().attempt == 2
        finished = [event.index for event in history if isinstance(event, secateur.BlockEvent)]
        assert set(finished) == set(range(BLOCKS))
        assert finished.count(0) == 1, "what the lost machine had finished is computed again"
        assert checkpoint_digests(result) == checkpoint_digests(undisturbed) != {}


def test_jobs_are_spread_over_replicas_and_every_replica_answers_for_all(replicas, files):
    data = spec_data(files / "model", files / "calibration", files / "evaluation", method="magnitude", sparsity=0.5)
    clients = [secateur.Client(replica.endpoint) for replica in replicas]
    older = {found.name for found in clients[0].list_jobs()}
    paces = [Pace(replica.data_dir) for replica in replicas]
    for pace in paces:
        pace.hold()
    jobs = [clients[number % 2].submit(data) for number in range(3)]
    until(lambda: all(replica.worker_pids() for replica in replicas))
    for pace in paces:
        pace.let_go()
    for job in jobs:
        job.wait(timeout_seconds=HANG_SECONDS)
    for client in clients:
        assert {found.name for found in client.list_jobs()} - older == {job.name for job in jobs}
        for job in jobs:
            handle = client.job(job.name)
            assert handle.get().attempt == 1
            assert handle.result().report["sparsity"]["pruned_layers"] == 0.5
        client.close()


def test_fifty_requests_with_one_id_to_two_replicas_make_one_job_which_survives_the_loss_of_the_one_that_said_so(
    replicas, files
):
    data = spec_data(files / "model", files / "calibration", files / "evaluation", method="magnitude", sparsity=0.5)
    other = {**data, "pruning": {"method": "magnitude", "sparsity": 0.6}}
    clients = [secateur.Client(replica.endpoint) for replica in replicas]
    older = {found.name for found in clients[0].list_jobs()}
    request_id, barrier = str(uuid.uuid4()), threading.Barrier(50)

    def submit(number):
        barrier.wait()
        return clients[number % 2].submit(data, request_id=request_id).name

    with ThreadPoolExecutor(50) as pool:
        names = set(pool.map(submit, range(50)))
    replicas[0].kill()
    replicas[0].kill_workers()
    assert len(names) == 1
    with pytest.raises(secateur.AlreadyExistsError, match="used before with another request"):
        clients[1].submit(other, request_id=request_id)
    [job] = [found for found in clients[1].list_jobs() if found.name not in older]
    assert {job.name} == names
    assert str(clients[1].job(job.name).wait(timeout_seconds=HANG_SECONDS).state) == "SUCCEEDED"
    for client in clients:
        client.close()
