"""The search for secrets finds what is planted; see `support.leaks`."""

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support import leaks

TESTS = Path(__file__).parents[1]
PLANTED = """
import base64, subprocess, sys
from pathlib import Path
from support import leaks

SECRET = leaks.secret("planted")

def test_file(tmp_path):
    (tmp_path / "job.log").write_text(f"so {SECRET}")

def test_database(tmp_path):
    import sqlite3
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as connection:
        connection.execute("CREATE TABLE events (body TEXT)")
        connection.execute("INSERT INTO events VALUES (?)", [SECRET])

def test_header(tmp_path):
    (tmp_path / "encoded").write_bytes(base64.b64encode(f"user:{SECRET}".encode()))

def test_output():
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write(sys.stdin.read())"], input=SECRET,
                   capture_output=True, text=True)

def test_nothing(tmp_path):
    (tmp_path / "job.log").write_text("nothing")

def test_given(tmp_path):
    (tmp_path / ("settings" + leaks.GIVEN)).write_text(SECRET)
"""


@pytest.fixture
def folder():
    """Not one of pytest's, in which this run would find what is planted."""
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        yield Path(name)


@pytest.mark.parametrize(
    ("name", "places", "processes"),
    [
        ("test_file", ["job.log"], 0),
        ("test_database", ["jobs.sqlite3"], 0),
        ("test_header", ["encoded"], 0),
        ("test_output", ["the errors of"], 0),
        ("test_nothing", [], 0),
        ("test_given", [], 0),
        ("test_", ["job.log", "jobs.sqlite3", "encoded", "the errors of"], 2),
    ],
)
def test_a_planted_secret_ends_a_run_with_the_places(folder, name, places, processes):
    (folder / "test_planted.py").write_text(PLANTED)
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-k",
            name,
            "-p",
            "no:cacheprovider",
            "--rootdir",
            folder,
            "-n",
            str(processes),
        ],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{TESTS}:{folder}", "PYTEST_DEBUG_TEMPROOT": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (ended.returncode != 0) == bool(places), ended.stdout
    assert all(place in ended.stdout for place in places), ended.stdout


@pytest.mark.parametrize("before", ["", "u:", "user:", "a-longer-user:"])
def test_base64_is_seen_through_wherever_the_secret_begins(before):
    assert leaks.leaks_in(base64.b64encode(f"{before}{leaks.secret('x')}".encode()))
    assert not leaks.leaks_in(base64.b64encode(f"{before}LEAK".encode()))


@pytest.mark.parametrize("at", [0, leaks._PART_BYTES - 5, 3 * leaks._PART_BYTES + 7, 1 << 40])
def test_a_secret_is_found_wherever_it_lies_and_holes_are_not_read(folder, at):
    path = folder / "state.bin"
    with path.open("wb") as file:
        file.truncate(1 << 41)
        file.seek(at)
        file.write(leaks.secret("deep").encode())
    assert list(leaks.search(folder)) == [path]


@pytest.mark.parametrize("at", [0, leaks._HEADER_BYTES - 100])
def test_of_weights_the_header_is_searched(folder, at):
    path = folder / "model.safetensors"
    path.write_bytes(b" " * at + leaks.secret("deep").encode())
    assert list(leaks.search(folder)) == [path]
