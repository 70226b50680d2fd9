"""Every command of `secateur-service` says what is wrong with a setting or a device in one line, and ends with 2."""

import json

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from secateur_service.commands.main import app
from support.models import save_corpora, save_model, spec_data

COMMANDS = {
    "serve": ["serve"],
    "work": ["work", "--job", "x", "--attempt", "1", "--slot", "0"],
    "migrate": ["migrate"],
    "config": ["config"],
    "run": ["run", "spec.yaml", "--output", "out"],
    "compare": ["compare", "out"],
    "presets": ["presets"],
    "tokens create": ["tokens", "create", "name"],
    "tokens list": ["tokens", "list"],
    "tokens revoke": ["tokens", "revoke", "name"],
}
WRONG = {
    "S3_ENDPOINT": ["127.0.0.1:9000", "http://[::1", "https://host:port", "ftp://host"],
    "THREADS_PER_WORKER": ["abc", "-1", "1e3", "99999999999999999999"],
    "LEASE_SECONDS": ["nan", "inf", "0", "1e300", ""],
    "DEVICES": ["gpu", "cuda:-1", "cuda:99999999999", "cpu,cpu x"],
    "DESTINATIONS": ["s3://models//x", "http://host", "file:///a%0Ab", ","],
    "HUB_ENDPOINT": ["hub", "https://user:swordfish@hub"],
    "HUB_OFFLINE": ["perhaps"],
    "CREDENTIALS": ["{", "[]", '{"a": 1}'],
    "DATABASE_URL": ["somewhere"],
    "DATA_DIR": ["~no-such-user-here/x"],
    "LISTEN": ["50051", "127.0.0.1:99999"],
    "SETTINGS_FILE": ["/absent/secateur.toml", "/dev/null/x"],
}


def invoke(arguments, tmp_path, monkeypatch, **environment):
    monkeypatch.chdir(tmp_path)
    return CliRunner().invoke(app, arguments, env=environment)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_ends_every_command_alike(name, value, tmp_path, monkeypatch):
    said = set()
    for command, arguments in COMMANDS.items():
        done = invoke(arguments, tmp_path, monkeypatch, **{f"SECATEUR_{name}": value})
        assert done.exit_code == 2, f"{command}: {done.output}"
        assert isinstance(done.exception, SystemExit)
        said.add(done.stderr)
    (line,) = said
    assert line.count("\n") == 1
    assert name.lower() in line.lower()
    assert "swordfish" not in line


def test_a_settings_file_that_is_wrong_ends_every_command_alike(tmp_path, monkeypatch):
    for content in (b"listen = [", b"\xff", b"surprise = 1", b'threads_per_worker = "many"'):
        (tmp_path / "secateur.toml").write_bytes(content)
        for command, arguments in COMMANDS.items():
            done = invoke(arguments, tmp_path, monkeypatch, SECATEUR_SETTINGS_FILE="secateur.toml")
            assert done.exit_code == 2, f"{command}: {done.output}"
            assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "cuda:99999999999", "", "cpu:7", "meta", "cuda:999"])
def test_a_device_that_is_none_or_not_here_ends_run_with_2_before_the_specification_is_read(
    device, tmp_path, monkeypatch
):
    (tmp_path / "spec.yaml").write_text(json.dumps({"model": {"uri": "file:///absent"}}))
    done = invoke([*COMMANDS["run"], "--device", device], tmp_path, monkeypatch)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.removeprefix("error: ").startswith("--device: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threads", ["0", "-1", "x", "99999999"])
def test_a_number_of_threads_that_no_machine_has_ends_run_with_2(threads, tmp_path, monkeypatch):
    assert invoke([*COMMANDS["run"], "--threads", threads], tmp_path, monkeypatch).exit_code == 2


def test_only_a_server_needs_protection_for_a_public_address(tmp_path, monkeypatch):
    environment = {"SECATEUR_LISTEN": "0.0.0.0:50051", "SECATEUR_TOKENS_FILE": str(tmp_path / "tokens")}
    refused = invoke(["serve", "--data-dir", "data"], tmp_path, monkeypatch, **environment)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "no TLS;" in refused.stderr
    assert not (tmp_path / "data").exists()
    for arguments in (["migrate", "--data-dir", "."], ["tokens", "create", "me"], ["config"]):
        done = invoke(arguments, tmp_path, monkeypatch, **environment)
        assert done.exit_code == 0, done.output


def test_devices_that_are_here_are_described_and_one_that_is_not_ends_with_1(tmp_path, monkeypatch):
    here = invoke(["devices", "--json"], tmp_path, monkeypatch, SECATEUR_DEVICES="cpu,cpu")
    (device,) = json.loads(here.stdout)["devices"]
    assert here.exit_code == 0
    assert device["memory_bytes"] > device["free_bytes"] > 0
    absent = invoke(["devices"], tmp_path, monkeypatch, SECATEUR_DEVICES="cpu,cuda:999")
    assert absent.exit_code == 1
    assert absent.stdout.splitlines()[1].startswith("cpu")
    assert absent.stderr.startswith("cuda:999 is not here: PyTorch ")
    none = invoke(["devices"], tmp_path, monkeypatch, SECATEUR_DEVICES="")
    assert (none.exit_code, none.stdout) == (0, "no devices: this replica serves the API only\n")


def test_no_flag_that_may_be_repeated_shows_a_type_of_python():
    for name, command in get_command(app).commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.multiple:
                assert parameter.metavar, f"{name} {parameter.opts}"


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--output", "out"], ["--output", "out", "--json"]])
@pytest.mark.parametrize("place", ["nope.yaml", "folder"])
def test_a_specification_that_cannot_be_read_is_a_wrong_command_line(arguments, place, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    done = invoke(["run", place, *arguments], tmp_path, monkeypatch)
    assert done.exit_code == 2, done.output
    assert f"cannot read the specification {place}: " in done.stderr


def test_a_specification_that_says_nothing_is_refused(tmp_path, monkeypatch):
    (tmp_path / "empty.yaml").touch()
    done = invoke(["run", "empty.yaml", "--dry-run"], tmp_path, monkeypatch)
    assert (done.exit_code, "empty.yaml is empty" in done.stderr) == (10, True)


def torchrun(rank, count, here=None):
    """The variables that torchrun gives to a process."""
    numbers = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count if here is None else here}
    return {"TORCHELASTIC_RUN_ID": "none", **{name: str(number) for name, number in numbers.items()}}


def test_of_the_processes_of_torchrun_the_first_runs_the_job_in_as_many(tmp_path, monkeypatch):
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps(spec_data(save_model(tmp_path / "model", num_hidden_layers=1), *save_corpora(tmp_path))))
    arguments = ["run", str(spec), "--dry-run", "--json"]
    first = invoke(arguments, tmp_path, monkeypatch, **torchrun(0, 4))
    assert json.loads(first.stdout)["resolved_spec"]["execution"]["processes"] == 4
    asked = invoke([*arguments, "--processes", "2"], tmp_path, monkeypatch, **torchrun(0, 4))
    assert json.loads(asked.stdout)["resolved_spec"]["execution"]["processes"] == 2
    other = invoke(arguments, tmp_path, monkeypatch, **torchrun(3, 4))
    assert (other.exit_code, other.output) == (0, "")


@pytest.mark.parametrize(("numbers", "said"), [((0, 16), "--nproc-per-node 8"), ((1, 4, 2), "leave out --nnodes")])
def test_torchrun_with_processes_that_cannot_help_is_refused_with_what_to_do(numbers, said, tmp_path, monkeypatch):
    done = invoke(["run", "spec.yaml", "--output", "out"], tmp_path, monkeypatch, **torchrun(*numbers))
    assert done.exit_code == 2
    assert said in done.stderr
