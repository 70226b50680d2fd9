"""What lies in deploy/ and in the Dockerfile fits the code, and itself.

The first part needs nothing but Python. The second gives the files to the tools that are made for them, where those are
installed, and is skipped where they are not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from secateur_service.api.server import SERVICE
from secateur_service.jobs.store import open_job_store
from secateur_service.metrics.registry import Metrics, StoreCollector
from secateur_service.settings import FILE_VARIABLE, PREFIX, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUSTOMIZE = DEPLOY / "kustomize"
OVERLAYS = ("development", "gpu", "high-availability")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
# What a server needs after its workers had `drain_seconds`: to kill the rest, to end the last calls.
AFTER_DRAIN_SECONDS = 15
# The groups that others define, and the fields of theirs that are used here: `kubernetes-validate` has no schema of them.
OTHER_GROUPS = ("cert-manager.io", "gateway.networking.k8s.io", "monitoring.coreos.com")
REFERENCE = {"group": str, "kind": str, "name": str}
OTHERS: dict[str, Any] = {
    "Issuer": {"selfSigned": {}, "ca": {"secretName": str}},
    "Certificate": {
        **{"secretName": str, "isCA": bool, "commonName": str, "dnsNames": [str], "duration": str, "renewBefore": str},
        "privateKey": {"algorithm": str, "size": int, "rotationPolicy": str},
        "issuerRef": REFERENCE,
    },
    "GRPCRoute": {
        "parentRefs": [{"name": str, "namespace": str}],
        "hostnames": [str],
        "rules": [{"matches": [{"method": {"service": str}}], "backendRefs": [{"name": str, "port": int}]}],
    },
    "BackendTLSPolicy": {
        "targetRefs": [REFERENCE],
        "validation": {"hostname": str, "caCertificateRefs": [REFERENCE]},
    },
}


def documents(path: Path) -> list[Any]:
    return list(YAML(typ="safe").load_all(path.read_text(encoding="utf-8")))


def load(path: Path) -> Any:
    (document,) = documents(path)
    return document


def closed(fields: Any) -> dict[str, Any]:
    """The JSON schema of fields given as types, lists of one and mappings, which has no others."""
    if isinstance(fields, dict):
        properties = {name: closed(inner) for name, inner in fields.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}
    if isinstance(fields, list):
        return {"type": "array", "items": closed(fields[0]), "minItems": 1}
    return {"type": {str: "string", int: "integer", bool: "boolean"}[fields]}


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def compose_services() -> dict[str, dict[str, Any]]:
    return load(DEPLOY / "compose" / "compose.yaml")["services"]


def manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(KUSTOMIZE.rglob("*.yaml")):
        for document in documents(path):
            yield path, document


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod specifications that are whole, not patches."""
    for path, document in manifests():
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        if document["kind"] in ("Deployment", "Job") and "serviceAccountName" in pod:
            yield f"{path.parent.name}/{document['metadata']['name']}", pod


def pod_ids() -> list[str]:
    return [name for name, _ in pods()]


def files_with_settings() -> list[Path]:
    return [
        ROOT / "Dockerfile",
        *sorted((DEPLOY / "compose").glob("*.yaml")),
        DEPLOY / "compose" / ".env.example",
        *sorted(KUSTOMIZE.rglob("*.yaml")),
        *sorted(KUSTOMIZE.rglob("*.env")),
    ]


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(DEPLOY / "monitoring" / "alerts.yml")["groups"] for rule in group["rules"]]


def alerts() -> list[str]:
    return [rule["alert"] for rule in rules() if "alert" in rule]


def port(setting: str) -> int:
    return int(Settings.model_fields[setting].default.rpartition(":")[2])


@pytest.mark.parametrize("path", files_with_settings(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_is_set_exists(path: Path):
    lines = [line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    for variable in re.findall(rf"\b{PREFIX}[A-Z0-9_]+", "\n".join(lines)):
        name = variable.removeprefix(PREFIX).lower()
        assert variable == FILE_VARIABLE or name in Settings.model_fields, variable


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_of_an_overlay_are_accepted(overlay: str, monkeypatch: pytest.MonkeyPatch):
    folder = KUSTOMIZE / "overlays" / overlay
    generator = load(folder / "kustomization.yaml")["configMapGenerator"][0]
    texts = [(folder / name).read_text(encoding="utf-8") for name in generator.get("envs", [])]
    base = (KUSTOMIZE / "base" / "settings.env").read_text(encoding="utf-8")
    for line in "\n".join([base, *texts, *generator.get("literals", [])]).splitlines():
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    settings = Settings()
    assert settings.public_addresses.keys() >= {"listen"}
    assert settings.missing_protection == ()


def test_ports_are_those_of_the_code():
    grpc, metrics = port("listen"), port("metrics_listen")
    assert f"EXPOSE {grpc} {metrics}\n" in DOCKERFILE
    for text in (DOCKERFILE, *((DEPLOY / "compose").glob("*.yaml")), KUSTOMIZE / "base" / "settings.env"):
        content = text if isinstance(text, str) else text.read_text(encoding="utf-8")
        assert set(re.findall(rf"{PREFIX}LISTEN[=:] ?\S+:(\d+)", content)) <= {str(grpc)}
        assert set(re.findall(rf"{PREFIX}METRICS_LISTEN[=:] ?\S+:(\d+)", content)) <= {str(metrics)}
    for name in ("secateur", "secateur-gpu"):
        assert compose_services()[name]["ports"] == [f"${{LISTEN_ON:-127.0.0.1}}:{grpc}:{grpc}"]
    for name, pod in pods():
        if "migrate" not in name:
            ports = {entry["name"]: entry["containerPort"] for entry in pod["containers"][0]["ports"]}
            assert ports == {"grpc": grpc, "metrics": metrics}
    service = load(KUSTOMIZE / "base" / "service.yaml")["spec"]
    assert [entry["port"] for entry in service["ports"]] == [grpc]
    assert service["clusterIP"] == "None"
    (scrape,) = load(DEPLOY / "monitoring" / "prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"][0]["targets"] == [f"secateur:{metrics}"]


def test_liveness_is_not_readiness():
    deployed = [(name, pod["containers"][0]) for name, pod in pods() if "migrate" not in name]
    assert len(deployed) == 2
    for _, container in deployed:
        assert "--service" not in container["livenessProbe"]["exec"]["command"]
        assert container["readinessProbe"]["exec"]["command"][-2:] == ["--service", SERVICE]
    pod = load(KUSTOMIZE / "components" / "behind-proxy" / "deployments.yaml")["spec"]["template"]["spec"]
    (plain,) = pod["containers"]
    assert plain["livenessProbe"]["grpc"] == {"port": port("listen")}
    assert plain["readinessProbe"]["grpc"] == {"port": port("listen"), "service": SERVICE}


def drain_and_grace() -> Iterator[tuple[str, float, float]]:
    base = (KUSTOMIZE / "base" / "settings.env").read_text(encoding="utf-8")
    (drain,) = re.findall(rf"^{PREFIX}DRAIN_SECONDS=(\d+)$", base, re.MULTILINE)
    assert float(drain) == Settings.model_fields["drain_seconds"].default
    for path, document in manifests():
        if document["kind"] != "Deployment":
            continue
        pod = document["spec"]["template"]["spec"]
        own = [
            entry["value"]
            for container in pod["containers"]
            for entry in container.get("env", [])
            if entry["name"] == f"{PREFIX}DRAIN_SECONDS"
        ]
        if own or "terminationGracePeriodSeconds" in pod:
            name = str(path.relative_to(KUSTOMIZE))
            yield name, float(own[0] if own else drain), float(pod["terminationGracePeriodSeconds"])
    for name in ("secateur", "secateur-gpu"):
        service = compose_services()[name]
        drain = service["environment"][f"{PREFIX}DRAIN_SECONDS"]
        yield name, float(drain), float(service["stop_grace_period"].removesuffix("s"))


def test_a_container_has_longer_to_end_than_its_workers_have_to_stop():
    found = list(drain_and_grace())
    assert len(found) == 5
    for name, drain, grace in found:
        assert grace >= drain + AFTER_DRAIN_SECONDS, name


def kinds_of_pods() -> list[tuple[str, dict[str, Any]]]:
    loader = load(KUSTOMIZE / "loader" / "loader.yaml")["spec"]
    found = [("Job" if "migrate" in name else "Deployment", pod) for name, pod in pods()]
    return [*found, ("Pod", loader)]


@pytest.mark.parametrize(("kind", "pod"), kinds_of_pods(), ids=[*pod_ids(), "loader"])
def test_a_pod_keeps_to_the_restricted_profile(kind: str, pod: dict[str, Any]):
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["runAsGroup"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False  # they would be variables with our prefix
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    limits = container["resources"]["limits"]
    assert {"memory", "ephemeral-storage"} <= limits.keys() <= container["resources"]["requests"].keys()
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert all(volume["emptyDir"]["sizeLimit"] for volume in volumes.values() if "emptyDir" in volume)
    mounts = container["volumeMounts"]
    assert {mount["name"] for mount in mounts} == volumes.keys()
    writable = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
    assert writable == {"Job": {"/tmp"}, "Deployment": {"/data", "/tmp"}, "Pod": {"/models", "/tmp"}}[kind]
    assert {mount["mountPath"] for mount in mounts} - writable == (
        {"/run/tls", "/run/tokens"} if kind == "Deployment" else set()
    )


def test_no_container_of_compose_runs_as_root():
    for name, service in compose_services().items():
        assert int(service["user"].split(":")[0]) > 0, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.keys() & {"privileged", "cap_add"}, name


def test_the_images_end_with_a_user_that_is_not_root():
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
    for target in ("api", "worker"):
        assert re.findall(r"^USER (\d+):(\d+)$", stages[target], re.MULTILINE) == [("10001", "10001")], target
    assert 'ENTRYPOINT ["secateur-service"]\n' in stages["runtime"]
    assert "STOPSIGNAL SIGTERM\n" in stages["runtime"]


def test_pip_keeps_what_it_fetches_where_a_cache_is_mounted_for_it():
    mounted = re.findall(r"--mount=type=cache,target=(\S+)", DOCKERFILE)
    assert len(mounted) == DOCKERFILE.count("RUN --mount") >= 3
    assert set(mounted) == set(re.findall(r"\bPIP_CACHE_DIR=(\S+)", DOCKERFILE))


def image_references() -> set[str]:
    found = set(re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE))
    found |= {service["image"] for service in compose_services().values()}
    found |= {container["image"] for _, pod in pods() for container in pod["containers"]}
    for path, document in manifests():
        if path.name == "kustomization.yaml":
            found |= {f"{image['name']}:{image['newTag']}" for image in document.get("images", [])}
    return found


def test_image_tags_are_exact():
    references = image_references()
    assert len(references) >= 7
    for reference in references:
        name, _, tag = reference.rpartition(":")
        assert name, f"{reference} has no tag"
        assert re.match(r"v?\d+\.\d+", tag), f"the tag of {reference} is no exact version"


def test_compose_has_no_secret():
    for service in compose_services().values():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|ACCESS_KEY|TOKEN", variable):
                assert re.fullmatch(r"\$\{\w+(:\?[^}]*|:-)\}", value), variable
    example = (DEPLOY / "compose" / ".env.example").read_text(encoding="utf-8")
    secrets = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "GRAFANA_PASSWORD", "READER_PASSWORD")
    assert all(f"\n{name}=\n" in example for name in secrets)


def test_the_network_policy_lets_nothing_reach_link_local_addresses():
    policy = load(KUSTOMIZE / "base" / "network.yaml")["spec"]
    blocks = [peer["ipBlock"] for rule in policy["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert blocks
    for block in blocks:
        forbidden = {"0.0.0.0/0": "169.254.0.0/16", "::/0": "fe80::/10"}[block["cidr"]]
        assert forbidden in block["except"]
    assert all(rule["to"] and rule["ports"] for rule in policy["egress"])


def test_rollouts_on_gpus_ask_for_no_second_one():
    strategy = load(KUSTOMIZE / "base" / "worker.yaml")["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxSurge"] == 0


def test_every_metric_of_a_rule_exists(tmp_path: Path):
    metrics = Metrics(CollectorRegistry(), version="1")
    metrics.show_certificate_expiry(lambda: 0.0)
    store = open_job_store(f"sqlite:///{tmp_path}/jobs.sqlite3")
    store.migrate()
    metrics.registry.register(StoreCollector(store, tmp_path))
    exist = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ("_total", "_created"), "histogram": ("_bucket", "_sum", "_count")}
        exist |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        for name in re.findall(r"[a-z_]+:[a-z0-9_:]+|\bsecateur_\w+", rule["expr"]):
            assert name in (recorded if ":" in name else exist), name


def test_every_alert_has_a_runbook_and_a_test():
    tested: dict[str, list[bool]] = {}
    for case in load(DEPLOY / "monitoring" / "alerts_test.yml")["tests"]:
        for expectation in case["alert_rule_test"]:
            tested.setdefault(expectation["alertname"], []).append(bool(expectation["exp_alerts"]))
    assert len(alerts()) >= 6
    for rule in rules():
        if "alert" in rule:
            page = ROOT / rule["annotations"]["runbook_url"]
            assert page == DEPLOY / "runbooks" / f"{rule['alert']}.md"
            text = page.read_text(encoding="utf-8")
            assert text.startswith(f"# {rule['alert']}\n")
            assert all(f"**{part}" in text for part in ("What it means", "How to look", "What to do")), rule["alert"]
            assert set(tested[rule["alert"]]) == {True, False}
    assert {path.stem for path in (DEPLOY / "runbooks").glob("*.md")} == set(alerts())


def test_links_of_the_pages_lead_somewhere():
    for page in (*(DEPLOY / "runbooks").glob("*.md"), ROOT / "docs" / "operations.md", ROOT / "docs" / "kubernetes.md"):
        for target in re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
            path, anchor = (page.parent / target[0]) if target[0] else page, target[1]
            assert path.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor[1:] in anchors, f"{page.name}: {target}"


def test_the_prometheus_rule_has_not_drifted():
    script = ROOT / "scripts" / "generate_prometheus_rule.py"
    result = subprocess.run([sys.executable, script, "--check"], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_package_that_the_api_image_installs_has_no_torch():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (api,) = re.findall(r"^api = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert not re.search(r"torch|datasets|pyarrow", api)
    assert '    "secateur[api]",\n' in text


def tool(name: str) -> str:
    """A tool beside this Python or on PATH; without it, the test is skipped."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    return found or pytest.skip(f"{name} is not installed")


def succeed(*command: str | Path, cwd: Path = ROOT) -> str:
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def kustomize_overlay(folder: Path) -> str:
    kubectl = tool("kubectl")
    if subprocess.run([kubectl, "kustomize", "--help"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this kubectl has no kustomize")
    return succeed(kubectl, "kustomize", folder)


def with_all_components(folder: Path, overlay: str) -> Path:
    """An overlay whose optional components are turned on, in a copy of the tree."""
    copy = folder / "deploy"
    shutil.copytree(DEPLOY, copy)
    path = copy / "kustomize" / "overlays" / overlay / "kustomization.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  # - ../../components/", "  - ../../components/"), encoding="utf-8")
    return path.parent


def test_hadolint_finds_nothing():
    succeed(tool("hadolint"), ROOT / "Dockerfile")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.tls.yaml"])
def test_compose_files_keep_to_the_schema(name: str):
    succeed(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose" / name)


def test_promtool_accepts_the_configuration_and_every_rule_does_what_its_test_says():
    promtool = tool("promtool")
    folder = DEPLOY / "monitoring"
    succeed(promtool, "check", "config", "prometheus.yml", cwd=folder)
    succeed(promtool, "test", "rules", "alerts_test.yml", cwd=folder)


def check_strictly(built: Path, found: list[dict[str, Any]]) -> None:
    """Validate what Kubernetes has schemas for by those, and the kinds of others by the fields that are used."""
    for document in found:
        if document["kind"] in OTHERS:
            jsonschema.validate(document["spec"], closed(OTHERS[document["kind"]]))
    known = [document for document in found if document["apiVersion"].split("/")[0] not in OTHER_GROUPS]
    with built.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump_all(known, file)
    succeed(tool("kubernetes-validate"), "--strict", built)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_built_and_is_what_kubernetes_expects(overlay: str, tmp_path: Path):
    built = tmp_path / "built.yaml"
    built.write_text(kustomize_overlay(KUSTOMIZE / "overlays" / overlay), encoding="utf-8")
    kinds = [document["kind"] for document in documents(built)]
    assert kinds.count("Deployment") == (2 if overlay == "high-availability" else 1)
    assert kinds.count("Job") == (0 if overlay == "development" else 1)
    succeed(tool("kubernetes-validate"), "--strict", built)
    for document in documents(built):
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
            assert all(mounts[path] for path in ("/run/tls", "/run/tokens", "/models"))


def test_the_loader_is_what_kubernetes_expects(tmp_path: Path):
    built = tmp_path / "built.yaml"
    built.write_text(kustomize_overlay(KUSTOMIZE / "loader"), encoding="utf-8")
    succeed(tool("kubernetes-validate"), "--strict", built)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_behind_a_proxy_that_ends_tls_replicas_still_ask_for_tokens(overlay: str, tmp_path: Path, monkeypatch):
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY, folder)
    own = folder / "kustomize" / "overlays" / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: secateur\n"
        f"resources: [../{overlay}]\ncomponents: [../../components/behind-proxy]\n",
        encoding="utf-8",
    )
    built = tmp_path / "built.yaml"
    built.write_text(kustomize_overlay(own), encoding="utf-8")
    succeed(tool("kubernetes-validate"), "--strict", built)
    (data,) = [document["data"] for document in documents(built) if document["kind"] == "ConfigMap"]
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.missing_protection == ("TLS",)
    settings.check_listen()
    for document in documents(built):
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            assert "tls" not in {volume["name"] for volume in pod["volumes"]}
            assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} >= {"tokens", "models", "data"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_takes_all_components(overlay: str, tmp_path: Path):
    folder = with_all_components(tmp_path, overlay)
    everything = tmp_path / "everything.yaml"
    everything.write_text(kustomize_overlay(folder), encoding="utf-8")
    found = documents(everything)
    kinds = {document["kind"] for document in found}
    assert kinds >= {"Ingress", "GRPCRoute", "BackendTLSPolicy", "Certificate", "Issuer", "PersistentVolumeClaim"}
    (account,) = [document for document in found if document["kind"] == "ServiceAccount"]
    assert account["imagePullSecrets"] == [{"name": "secateur-registry"}]
    (certificate,) = [
        document
        for document in found
        if document["metadata"]["name"] == "secateur" and document["kind"] == "Certificate"
    ]
    for document in found:
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                command = container[probe]["exec"]["command"]
                assert command[:3] == ["python", "-m", "secateur_service.health"]
                assert command[command.index("--server-name") + 1] in certificate["spec"]["dnsNames"]
    check_strictly(everything, found)
    if overlay == "development":
        return
    assert {"PodMonitor", "PrometheusRule"} <= kinds
    dashboards = [document for document in found if "grafana_dashboard" in document["metadata"].get("labels", {})]
    assert [list(document["data"]) for document in dashboards] == [["operators.json"], ["owners.json"]]
    assert "secateur-traces" in {document["metadata"]["name"] for document in found}
    (settings,) = [document["data"] for document in found if "SECATEUR_LISTEN" in document.get("data", {})]
    assert settings["OTEL_EXPORTER_OTLP_ENDPOINT"].endswith(":4318")
