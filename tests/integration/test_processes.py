"""No process outlives its test: what `support.processes` promises, tried on a pytest of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import processes
from support.site import PYTHONPATH
from support.waiting import until

# A server, its worker in a session of its own, and an orphan, whose parent is gone.
SERVER = """
import pathlib, subprocess, sys, time
if sys.argv[2:]:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)", sys.argv[1]], start_new_session=True)
    sys.exit()
orphan = [sys.executable, __file__, sys.argv[1], "orphan"]
subprocess.run(orphan, check=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)", sys.argv[1]], start_new_session=True)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(3600)
"""
TESTS = """
import os, pathlib, signal, subprocess, sys, time
import pytest
from support import processes
from support.processes import await_ready, start

HERE = pathlib.Path(__file__).parent

def serve(**given):
    server = start([sys.executable, str(HERE / "server.py"), str(HERE)], **given)
    await_ready(server, (HERE / "ready").exists)
    return server

def test_fails():
    serve()
    assert False, "on purpose"

def test_leaves():
    serve()

def test_interrupted():
    serve()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(3600)

def test_exits():
    serve()
    os._exit(3)

def test_hangs():
    serve()
    (HERE / "serving").touch()
    time.sleep(3600)

@pytest.fixture(scope="module")
def servers():
    servers = [serve()]
    yield servers
    if "broken" not in os.environ:
        servers[-1].kill()

def test_of_a_wider_scope(servers):
    servers[0].kill()
    servers.append(serve(instead_of=servers[0]))

def test_of_the_same_scope(servers):
    assert servers[-1].poll() is None

def test_never_ready():
    await_ready(start([sys.executable, "-c", "print('lost'); raise SystemExit(7)"]), lambda: False)
"""


@pytest.fixture
def inner(tmp_path):
    (tmp_path / "test_inner.py").write_text(TESTS)
    (tmp_path / "server.py").write_text(SERVER)

    def run(which):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "TESTS_ENDING_SECONDS": "1"}
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
            environment.pop(name, None)
        with (tmp_path / "out").open("wb") as output:
            return subprocess.Popen(
                [*command, "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path / "test_inner.py"), "-k", which],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
            )

    return run


def left(folder):
    """Processes that the inner tests have started, wherever they are now."""
    return [
        found.command
        for found in processes.running()
        if str(folder) in found.command and "pytest" not in found.command.split(str(folder))[0]
    ]


@pytest.mark.parametrize(
    ("which", "code", "says"),
    [
        ("test_fails", 1, "on purpose"),
        ("test_leaves", 1, "processes outlived the test"),
        ("test_interrupted", 2, "KeyboardInterrupt"),
        ("test_exits", 3, ""),
        ("test_never_ready", 1, "it ended with code 7"),
    ],
)
def test_whatever_happens_to_a_test_its_processes_are_gone_when_pytest_is(inner, tmp_path, which, code, says):
    ran = inner(which)
    assert ran.wait(processes.HANG_SECONDS) == code, (tmp_path / "out").read_text()
    assert says in (tmp_path / "out").read_text()
    until(lambda: not left(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_pytest_is_killed_its_processes_are_too(inner, tmp_path, number):
    ran = inner("test_hangs")
    until(lambda: (tmp_path / "serving").exists() or ran.poll() is not None)  # its watchdog has looked
    assert len(left(tmp_path)) == 3, (tmp_path / "out").read_text()
    os.kill(ran.pid, number)
    ran.wait(processes.HANG_SECONDS)
    until(lambda: not left(tmp_path))


def test_what_a_fixture_of_a_wider_scope_has_started_is_not_a_tests_own(inner, tmp_path):
    ran = inner("scope")
    code = ran.wait(processes.HANG_SECONDS)
    said = (tmp_path / "out").read_text()
    assert code == 1, said  # at the end of the module its workers are left, and told of
    errors = [line for line in said.splitlines() if line.startswith("ERROR test_inner.py")]
    assert [line.split("::")[1].split()[0] for line in errors] == ["test_of_the_same_scope"], said
    assert "processes outlived the test" in said
    assert left(tmp_path) == []


def test_an_orphan_that_has_ended_is_gone_as_it_would_be_without_pytest(tmp_path):
    """Whoever looks for it by its number finds none that waits for its parent to hear of it."""
    orphan = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()']).pid, flush=True)"
    command = [sys.executable, "-c", orphan]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert parent.wait(processes.HANG_SECONDS) == 0
    assert processes.is_running(pid)
    parent.stdin.close()
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_the_end_of_a_child_is_heard_by_who_waits_for_it():
    codes = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in range(8)]
    until(lambda: not any(processes.is_running(process.pid) for process in codes))
    assert [process.wait() for process in codes] == list(range(8))
    forked = os.fork()
    if not forked:
        os._exit(7)
    until(lambda: not processes.is_running(forked))
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 7
