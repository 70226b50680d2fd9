"""Commands end as their work does, whatever becomes of what they print."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from secateur_service.jobs.job import EventKind, Failure
from support.models import save_corpora, save_model, spec_data
from support.service import FILES, Service
from support.waiting import HANG_SECONDS

CLIENT = [sys.executable, "-m", "secateur"]
SERVICE = [sys.executable, "-m", "secateur_service"]
HARMFUL = "ünï \x1b[31m\x1b]52;c;eA==\x07 \x9b2J \u202e中😀"
NARROW = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"},
]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("service"))
    yield service
    service.close()


@pytest.fixture(scope="module")
def jobs(service):
    """A job that succeeded and one that failed, of foreign words."""
    done = service.running_job()
    service.log(done, HARMFUL)
    service.store.append(done, 1, [(EventKind.PROGRESS, {"blocks_done": 1, "blocks_total": 2, "fraction": 0.5})])
    service.publish(done, FILES)
    failed = service.running_job()
    service.store.release(failed, 1, Failure("NON_FINITE", HARMFUL, retryable=False, details={HARMFUL: HARMFUL}))
    return {"DONE": done, "FAILED": failed}


def run(command, environment, **streams):
    return subprocess.run(
        command,
        env={**os.environ, "COLUMNS": "100", **environment},
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=280,
        **(streams or {"capture_output": True}),
    )


def assert_harmless(ended):
    for output in (ended.stdout, ended.stderr):
        assert not {0x1B, 0x07, 0x9B} & set(output) if output.isascii() else b"\x1b" not in output
        assert b"\xc2\x9b" not in output
        assert "\u202e".encode() not in output
        assert b"Traceback" not in output


EACH = """
import importlib, json, os, sys

main = importlib.import_module(sys.argv[1]).main
for number, arguments in enumerate(json.loads(sys.argv[2])):
    for stream in (sys.stdout, sys.stderr):
        file = os.open(f"{number}.{stream.fileno()}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
    sys.argv[1:], code = arguments, 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    with open(f"{number}.code", "w") as file:
        file.write(str(code))
"""


def run_each(program, commands, environment, folder):
    """Commands one after the other in an interpreter that has opened its streams as the environment says."""
    folder.mkdir()
    given = {**os.environ, "COLUMNS": "100", **environment}
    command = [sys.executable, "-c", EACH, program, json.dumps(commands)]
    subprocess.run(command, cwd=folder, env=given, stdin=subprocess.DEVNULL, check=True, timeout=HANG_SECONDS)
    for number, arguments in enumerate(commands):
        code, *streams = ((folder / f"{number}.{name}").read_bytes() for name in ("code", 1, 2))
        yield subprocess.CompletedProcess(arguments, int(code), *streams)


OF_CLIENT = [
    (["list"], 0),
    (["get", "DONE"], 0),
    (["get", "FAILED"], 0),
    (["report", "DONE"], 0),
    (["logs", "DONE"], 0),
    (["watch", "DONE", "--after", "0"], 0),
    (["watch", "FAILED", "--after", "0"], 1),
    (["info"], 0),
    (["info", "--corpus", "mc4"], 0),
    (["cancel", "DONE"], 0),
    (["get", "nö-\x1b[31m"], 2),
    (["submit", "--model", "file:///ü\x1b", "--corpus", "file:///ü", "-l", "de", "--sparsity", "0.5"], 3),
    (["submit", "nö\x1b.yaml"], 2),
    (["download", "DONE", "OUT"], 0),
]


@pytest.mark.parametrize(("environment", "form"), [(NARROW[0], "text"), (NARROW[2], "json")], ids=["text", "json"])
def test_every_command_of_the_client_ends_as_ever_on_a_stream_that_is_not_utf_8(
    service, jobs, tmp_path, environment, form
):
    words = {**jobs, "OUT": str(tmp_path / "ö")}
    commands = [["-o", form, *(words.get(word, word) for word in command)] for command, _ in OF_CLIENT]
    settings = {"SECATEUR_ENDPOINT": service.endpoint, **environment}
    ends = run_each("secateur.cli", commands, settings, tmp_path / "streams")
    for ended, (_, code) in zip(ends, OF_CLIENT, strict=True):
        assert ended.returncode == code, ended
        assert_harmless(ended)
        if form == "json" and code == 0:
            assert [json.loads(line) for line in ended.stdout.splitlines()]
            assert ended.stdout.isascii()


OF_SERVICE = [
    (["--version"], 0),
    (["--help"], 0),
    (["presets"], 0),
    (["presets", "nö\x1b"], 2),
    (["migrate"], 0),
    (["tokens", "list"], 1),
    (["tokens", "create", "a"], 0),
    (["tokens", "create", "nö\x1b\u202e"], 2),
]


@pytest.mark.parametrize("environment", [NARROW[2]], ids=["C"])
def test_every_command_of_the_service_ends_as_ever_on_a_stream_that_is_not_utf_8(tmp_path, environment):
    folder = tmp_path / "größe"
    settings = {"SECATEUR_DATA_DIR": str(folder / "data"), "SECATEUR_TOKENS_FILE": str(folder / "töken.json")}
    commands = [command for command, _ in OF_SERVICE]
    ends = run_each("secateur_service.__main__", commands, {**settings, **environment}, folder)
    last = run([*SERVICE, "run", "nö\x1b.yaml", "--output", "out"], {**settings, **environment})  # ends its process
    for ended, (_, code) in zip([*ends, last], [*OF_SERVICE, ("run", 2)], strict=True):
        assert ended.returncode == code, ended
        assert_harmless(ended)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The command of a job that is finished, which prints its result again at once."""
    folder = tmp_path_factory.mktemp("ergebnis-ü")
    save_model(folder / "model", "llama", num_hidden_layers=2)
    save_corpora(folder)
    spec = folder / "spec.yaml"
    spec.write_text(json.dumps(spec_data(folder / "model", folder / "calibration", folder / "evaluation")))
    command = [*SERVICE, "run", spec, "--output", folder / "aus-\u202e-gabe"]
    first = run(command, {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"})
    assert first.returncode == 0, first.stderr
    assert_harmless(first)
    return command


@pytest.mark.parametrize(("environment", "form"), [(NARROW[1], ["--json"]), (NARROW[2], [])])
def test_a_finished_job_ends_with_0_on_a_stream_that_is_not_utf_8(finished, environment, form):
    ended = run([*finished, *form], environment)
    assert ended.returncode == 0, ended.stderr
    assert_harmless(ended)


def test_a_finished_job_ends_with_0_though_nobody_reads_what_it_prints(finished):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone, Path("/dev/full").open("wb") as full:
        assert run(finished, {}, stdout=gone, stderr=gone).returncode == 0
        assert run([*finished, "--json"], {}, stdout=full, stderr=full).returncode == 0
    shell = ["sh", "-c", '"$@" >&- 2>&-', "sh", *finished]
    assert run(shell, {}).returncode == 0


@pytest.mark.parametrize("command", [["list"], ["info"], ["get", "DONE"], ["watch", "DONE", "--after", "0"]])
def test_a_command_of_the_client_without_room_for_its_output_says_so_and_is_refused(service, jobs, command):
    named = [jobs.get(word, word) for word in command]
    with Path("/dev/full").open("wb") as full:
        ended = run([*CLIENT, *named], {"SECATEUR_ENDPOINT": service.endpoint}, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 7
    assert b"No space left" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [["presets"], ["migrate"], ["tokens", "create", "a"], ["--version"]])
def test_a_command_of_the_service_whose_output_does_not_fit_fails(tmp_path, command):
    settings = {"SECATEUR_DATA_DIR": str(tmp_path / "data"), "SECATEUR_TOKENS_FILE": str(tmp_path / "tokens.json")}
    with Path("/dev/full").open("wb") as full:
        ended = run([*SERVICE, *command], settings, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert b"No space left" in ended.stderr
    assert b"Traceback" not in ended.stderr
