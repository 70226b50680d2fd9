"""What the service keeps is its user's alone; what it publishes is for whom the user's umask says."""

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

import secateur
from secateur_service.private_files import tighten
from support.forking import run_command
from support.models import save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service, folder_of

OTHERS = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture(scope="module")
def open_folder():
    """A folder that others may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="private-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def service(open_folder):
    """One that finds the data folder of a release that left it open."""
    files = open_folder / "files"
    save_model(files / "model", "llama", num_hidden_layers=2)
    save_corpora(files)
    for name in ("data/slots", "data/work/old"):
        (open_folder / name).mkdir(parents=True)
    for name in ("data/slots/0.lock", "data/secateur.sqlite3", "data/work/old/attempt-1.log"):
        (open_folder / name).touch()
        (open_folder / name).chmod(0o666)
    destinations = f"{(open_folder / 'data/artifacts').as_uri()},{(open_folder / 'results').as_uri()}"
    service = Service(open_folder, SECATEUR_DESTINATIONS=destinations, **WITH_WORKERS)
    yield service
    service.close()


@pytest.fixture(scope="module")
def result(service, open_folder):
    files = service.file_root
    data = spec_data(files / "model", files / "calibration", files / "evaluation")
    data["output"] = {"destination": (open_folder / "results").as_uri()}
    with secateur.Client(service.endpoint) as client:
        return client.submit(data).result()


def mode_of(path):
    return stat.S_IMODE(path.lstat().st_mode)


def umask():
    now = os.umask(0)
    os.umask(now)
    return now


def test_after_a_job_nothing_below_the_data_folder_is_open_to_others(service, result):
    found = [path for path in (service.data_dir, *service.data_dir.rglob("*")) if mode_of(path) & OTHERS]
    # Folders of an earlier release; the one that they are in is closed.
    assert set(found) <= {service.data_dir / "slots", service.data_dir / "work"}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
def test_another_user_can_read_nothing_below_the_data_folder(service, result):
    another = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    seen = subprocess.run(
        [*another, "find", service.data_dir, "(", "-readable", "-o", "-writable", "-o", "-executable", ")", "-print"],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert seen.stdout == ""
    for name in ("slots/0.lock", "secateur.sqlite3"):
        locked = subprocess.run(
            [*another, "flock", "--shared", "--nonblock", service.data_dir / name, "true"],
            capture_output=True,
            cwd="/",
            check=False,
        )
        assert locked.returncode != 0


def test_what_is_published_elsewhere_has_the_mode_that_the_users_umask_gives(open_folder, result):
    folder = folder_of(result)
    assert folder.is_relative_to(open_folder / "results")
    for path in (folder, *folder.rglob("*")):
        assert mode_of(path) == (0o777 if path.is_dir() else 0o666) & ~umask()


@pytest.mark.parametrize("given", [0o022, 0o027, 0o077])
def test_a_single_run_leaves_its_artifacts_as_the_umask_says(service, open_folder, tmp_path, given):
    files = service.file_root
    spec = open_folder / f"spec-{given}.yaml"
    spec.write_text(json.dumps(spec_data(files / "model", files / "calibration", files / "evaluation")))
    output = open_folder / f"out-{given}"
    ended = run_command(["run", str(spec), "--output", str(output), "--json"], tmp_path, umask=given)
    assert ended.returncode == 0, ended.stderr
    for path in (output, *output.rglob("*")):
        assert mode_of(path) == (0o777 if path.is_dir() else 0o666) & ~given


@pytest.fixture
def tokens(tmp_path):
    file = tmp_path / "tokens.json"
    assert run_command(["tokens", "create", "a", "--tokens-file", str(file)], tmp_path).returncode == 0
    assert mode_of(file) == 0o600
    return file


@pytest.mark.parametrize("mode", [0o602, 0o646, 0o666])
def test_a_tokens_file_that_others_may_write_is_refused_with_the_command_that_mends_it(tmp_path, tokens, mode):
    tokens.chmod(mode)
    said = start_server(tmp_path, SECATEUR_TOKENS_FILE=str(tokens))
    assert f"chmod o-w {tokens}" in said
    assert "cannot start" in said


def test_a_key_that_others_may_read_is_told_of_and_one_that_they_may_write_refused(tmp_path, authority):
    pair = authority.issue("private")
    settings = {"SECATEUR_TLS_CERTIFICATE": str(pair.certificate), "SECATEUR_TLS_KEY": str(pair.key)}
    pair.key.chmod(0o644)
    assert f"chmod o-r {pair.key}" in start_server(tmp_path, **settings)
    pair.key.chmod(0o642)
    assert f"cannot start: tls_key {pair.key}" in start_server(tmp_path, **settings)


def test_a_settings_file_with_secrets_that_others_may_use_is_refused_or_told_of(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('hub_token = "kept"\n')
    file.chmod(0o644)
    assert f"chmod o-r {file}" in start_server(tmp_path, SECATEUR_SETTINGS_FILE=str(file))
    file.chmod(0o606)
    assert f"chmod o-w {file}" in start_server(tmp_path, SECATEUR_SETTINGS_FILE=str(file))
    file.write_text("poll_seconds = 2\n")
    file.chmod(0o644)
    assert "chmod" not in start_server(tmp_path, SECATEUR_SETTINGS_FILE=str(file))


def start_server(tmp_path, **settings):
    """What a server says at start that ends because another has its address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        environment = {**os.environ, "SECATEUR_DATA_DIR": str(tmp_path / "data"), "SECATEUR_DEVICES": "", **settings}
        command = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", address]
        ended = run_command(command, tmp_path, environment=environment)
    assert ended.returncode != 0
    return ended.stderr


def test_what_lies_below_a_file_is_left_to_whoever_opens_it(tmp_path):
    (tmp_path / "file").touch()
    assert tighten("data_dir", tmp_path / "file" / "sub") is None
