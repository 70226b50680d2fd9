"""docs/kubernetes.md, followed as far as that goes without a cluster.

Its commands run as they stand, in one shell. In the place of `kubectl` is a script that hands what needs no cluster to
the real one and keeps what would be applied. A server then runs with the settings, certificate and tokens that came of
it, and `deploy/smoke.sh` is its client.
"""

import base64
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from secateur_service.api.tokens import TokenList
from secateur_service.commands.demo.command import run_demo
from secateur_service.commands.demo.training import ensure_model
from secateur_service.commands.main import app
from support import processes
from support.documentation import ROOT, blocks
from support.waiting import HANG_SECONDS

BLOCKS = [block.text for block in blocks(ROOT / "docs" / "kubernetes.md") if block.language == "sh"]
SMOKE = "deploy/smoke.sh"
PROGRAMS = ("secateur", "secateur-service")
TYPED = ["postgresql://secateur:p%40ss@db:5432/secateur", "access", "secret/key+="]
KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >> "$CLUSTER/commands"
keep() { cat > "$CLUSTER/$(ls "$CLUSTER" | wc -l).yaml"; }
case " $* " in
  *" --dry-run=client "*|*" --local "*|" kustomize "*) exec "$KUBECTL" "$@" ;;
  *" -f - ") keep ;;
  " apply -f "*) keep < "$3" ;;
  " apply -k "*) "$KUBECTL" kustomize "$3" | keep ;;
esac
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    return folder


@pytest.fixture(scope="module")
def shell(checkout, tmp_path_factory):
    """Runs a text in a shell in the checkout, with the programs that the page names."""
    kubectl = shutil.which("kubectl") or pytest.skip("kubectl is not installed")
    programs, cluster, home = (tmp_path_factory.mktemp(name) for name in ("bin", "cluster", "home"))
    texts = {name: f'#!/bin/sh\nexec {sys.executable} -m {name.replace("-", "_")} "$@"\n' for name in PROGRAMS}
    for name, text in (*texts.items(), ("kubectl", KUBECTL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    own = {"KUBECTL": kubectl, "CLUSTER": str(cluster), "HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **own, "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(text):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=checkout,
            env=environment,
            input="\n".join(TYPED) + "\n",
            timeout=HANG_SECONDS,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.cluster, run.home = cluster, home
    return run


@pytest.fixture(scope="module")
def applied(shell):
    """What the page's commands before the smoke job would apply, oldest first."""
    shell("\n".join(block for block in BLOCKS if SMOKE not in block))
    found = sorted(shell.cluster.glob("*.yaml"), key=lambda path: int(path.stem))
    return [document for path in found for document in YAML(typ="safe").load_all(path.read_text(encoding="utf-8"))]


def secret(applied, name):
    """The content of a Secret as applied last."""
    *_, last = (found for found in applied if found["kind"] == "Secret" and found["metadata"]["name"] == name)
    return {key: base64.b64decode(value) for key, value in last["data"].items()}


@pytest.fixture(scope="module")
def pod(applied, checkout, tmp_path_factory):
    """The container of the overlay `development` as a process: its settings, with its folders below one of ours."""
    root = tmp_path_factory.mktemp("pod")
    built = subprocess.run(
        ["kubectl", "kustomize", checkout / "deploy" / "kustomize" / "overlays" / "development"],
        check=True,
        capture_output=True,
    )
    documents = list(YAML(typ="safe").load_all(built.stdout))
    by_kind = {document["kind"]: document for document in documents}
    (container,) = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    settings = dict(by_kind["ConfigMap"]["data"])
    for entry in container["env"]:
        key = entry.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        given = by_kind["Secret"]["data"].get(key)
        if key is None or given is not None:
            settings[entry["name"]] = entry["value"] if key is None else base64.b64decode(given).decode()
    for name in ("tls", "tokens"):
        (root / "run" / name).mkdir(parents=True)
        for key, content in secret(applied, f"secateur-{name}").items():
            (root / "run" / name / key).write_bytes(content)
            (root / "run" / name / key).chmod(0o440)
    inputs = root / "models" / "smoke"
    ensure_model(inputs / "inputs" / "garden-llama", steps=10)
    assert run_demo(inputs, inputs_only=True) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def here(text):
        for folder in ("/run/", "/data", "/models"):
            text = text.replace(folder, f"{root}{folder}")
        return text.replace(":50051", f":{port}")

    environment = {**os.environ, **{name: here(value) for name, value in settings.items()}}
    environment |= {"SECATEUR_METRICS_LISTEN": "", "SECATEUR_THREADS_PER_WORKER": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "secateur_service", *container["args"], "--ready-file", str(root / "ready")]
    with (root / "log").open("wb") as log:
        process = processes.start(command, stderr=log, env=environment)
    processes.replace(None, process)
    processes.await_ready(process, (root / "ready").exists, root / "log")
    yield {"container": container, "port": port, "here": here, "root": root}
    processes.end_tree(process)


def test_what_the_page_makes_is_what_kubernetes_and_the_service_expect(applied, tmp_path):
    database = secret(applied, "secateur")
    assert [database[key].decode() for key in ("database-url", "s3-access-key", "s3-secret-key")] == TYPED
    tokens = TokenList.model_validate_json(secret(applied, "secateur-tokens")["tokens"])
    assert [(entry.name, entry.expires is None) for entry in tokens.tokens] == [("me", True), ("ci", False)]
    assert secret(applied, "secateur-tls").keys() == {"tls.crt", "tls.key"}
    (worker,) = [found for found in applied if found["kind"] == "Deployment"]
    (loader,) = [found for found in applied if found["kind"] == "Pod"]
    for containers in (worker["spec"]["template"]["spec"]["containers"], loader["spec"]["containers"]):
        assert [container["image"] for container in containers] == ["registry.example.com/secateur-worker:0.1.0"]
    everything = tmp_path / "everything.yaml"
    with everything.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump_all(applied, file)
    validate = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run([validate, "--strict", everything], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_secret_that_was_typed_is_in_a_file_of_the_checkout(applied, checkout):
    texts = [path.read_text(encoding="utf-8") for path in checkout.rglob("*") if path.is_file()]
    assert not [text for text in texts if any(typed in text for typed in TYPED if len(typed) > 10)]


def test_what_the_page_runs_in_pods_are_commands_that_there_are(applied, shell):
    lines = (shell.cluster / "commands").read_text().splitlines()
    inside = [line.partition(" -- ")[2].split() for line in lines if " exec " in line]
    ours = [words for words in inside if words[0] == "secateur-service"]
    assert {words[1] for words in ours} == {"config", "devices", "demo"}
    for _, name, *rest in ours:
        flags = {flag for parameter in get_command(app).commands[name].params for flag in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= flags


def test_the_probes_of_a_pod_find_its_server_alive_and_ready(pod):
    for probe in ("livenessProbe", "readinessProbe"):
        _, *command = map(pod["here"], pod["container"][probe]["exec"]["command"])
        command = [sys.executable, *command, "--address", f"127.0.0.1:{pod['port']}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=HANG_SECONDS)
        assert (done.returncode, done.stdout) == (0, "SERVING\n"), done.stderr


def test_the_smoke_job_is_submitted_judged_and_fetched_with_tls_and_a_token(pod, shell):
    (block,) = [block for block in BLOCKS if SMOKE in block]
    inputs = (pod["root"] / "models" / "smoke" / "inputs").as_uri()
    said = shell(f"KEYS=~/secateur-keys\nexport SMOKE_INPUTS={inputs}\n" + block.replace("50051", str(pod["port"])))
    assert "token [redacted] SECATEUR_TOKEN" in " ".join(said.split())
    assert "== It refuses a caller whom it does not know\nyes\n" in said
    assert "files verified in" in said
    assert said.rstrip().endswith("succeeded.")
    assert "sct_" not in said
