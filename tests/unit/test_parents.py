"""Processes that are tied to whoever starts them, from their first moment on."""

import os
import signal
import subprocess
import sys
import threading

from secateur_service.parents import tied
from support.processes import HANG_SECONDS, is_running
from support.waiting import until

FOR_EVER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(10**6)")
PARENT = """
import subprocess, sys
from secateur_service.parents import tied

child = subprocess.Popen(tied(sys.argv[1:]))
print(child.pid, flush=True)
sys.stdin.read()
"""


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)


def test_a_process_is_gone_when_its_parent_was_killed():
    command = [sys.executable, "-c", PARENT, *FOR_EVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        said = sorted([parent.stdout.readline(), parent.stdout.readline()])
        child = int(said[0])
        assert is_running(child)
        parent.kill()
    until(lambda: not is_running(child))


def test_a_process_whose_parent_has_gone_before_it_was_tied_does_not_begin():
    ended = run([word if word != str(os.getpid()) else "1" for word in tied(["echo", "begun"])])
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "")


def test_a_process_ignores_signals_from_its_first_moment_on_and_has_its_command_and_its_exit_code():
    program = "import signal, sys; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, *sys.argv); sys.exit(7)"
    ended = run(tied([sys.executable, "-c", program, "a b"], ignoring=(signal.SIGINT, signal.SIGTERM)))
    assert (ended.returncode, ended.stdout) == (7, "True -c a b\n")


def test_a_process_ends_with_the_thread_that_started_it():
    started, go_on, processes = threading.Event(), threading.Event(), []

    def start():
        processes.append(subprocess.Popen(tied(FOR_EVER), stdout=subprocess.PIPE))
        processes[0].stdout.readline()
        started.set()
        go_on.wait(HANG_SECONDS)

    thread = threading.Thread(target=start)
    thread.start()
    started.wait(HANG_SECONDS)
    with processes[0] as process:
        assert process.poll() is None
        go_on.set()
        assert process.wait(HANG_SECONDS) == -signal.SIGKILL
