import os
import subprocess
import sys

import pytest

from secateur_service.errors import PreemptedError
from secateur_service.executors.locks import hold_until_exit, is_free, only_server
from support.waiting import until

HOLD = """
import sys
from pathlib import Path
from secateur_service.executors.locks import hold_until_exit

hold_until_exit(Path(sys.argv[1]), wait_seconds=300, reason="R")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=["file", "folder"])
def path(request, tmp_path):
    path = tmp_path / "lock"
    path.touch() if request.param == "file" else path.mkdir()
    return path


def test_a_lock_is_held_as_long_as_its_process_lives_and_no_longer(path):
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert not is_free(path)
        with pytest.raises(PreemptedError, match="still holds") as caught:
            hold_until_exit(path, wait_seconds=0.2, reason="SLOT_IN_USE")
        assert caught.value.reason == "SLOT_IN_USE"
        holder.kill()
        holder.wait()
    until(lambda: is_free(path))


def test_looking_does_not_hold_and_a_missing_file_is_free(path, tmp_path):
    assert is_free(path)
    assert is_free(path)
    assert is_free(tmp_path / "absent")


SERVE = """
import os, sys
from pathlib import Path
from secateur_service.executors.locks import only_server

with only_server(Path(sys.argv[1])) as holder:
    if holder is None and os.fork() == 0:  # a child that outlives its server
        print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_server_has_its_lock_alone_until_it_ends_even_if_a_child_of_it_lives_on(tmp_path):
    lock = tmp_path / "serve.lock"
    with subprocess.Popen([sys.executable, "-c", SERVE, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"held\n"
        with only_server(lock) as holder:
            assert holder == server.pid
        server.kill()
        server.wait()
        with only_server(lock) as holder:
            assert holder is None
            assert lock.read_text() == str(os.getpid())
