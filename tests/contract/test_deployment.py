"""What lies in deploy/ and in the Dockerfile fits the code, and itself. test_manifests.py gives it to other tools."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from secateur_service.api.server import SERVICE
from secateur_service.jobs.store import open_job_store
from secateur_service.metrics.registry import Metrics, StoreCollector
from secateur_service.settings import FILE_VARIABLE, PREFIX, Settings
from support.deployment import DEPLOY, KUSTOMIZE, OVERLAYS, ROOT, documents, load

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
# What a server needs after its workers had `drain_seconds`: to kill the rest, to end the last calls.
AFTER_DRAIN_SECONDS = 15


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
            if "kind" in document:  # not what configures kustomize itself
                yield path, document


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    """The pod specification of a Deployment, a Job or a CronJob, or a patch of it; empty in other kinds."""
    spec = document.get("spec", {})
    found: dict[str, Any] = spec.get("jobTemplate", {"spec": spec})["spec"].get("template", {}).get("spec", {})
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod specifications that are whole, not patches."""
    for path, document in manifests():
        pod = pod_of(document)
        if document["kind"] in ("Deployment", "Job", "CronJob") and "serviceAccountName" in pod:
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
    for _, pod in pods():
        if "ports" in pod["containers"][0]:
            ports = {entry["name"]: entry["containerPort"] for entry in pod["containers"][0]["ports"]}
            assert ports == {"grpc": grpc, "metrics": metrics}
    service = load(KUSTOMIZE / "base" / "service.yaml")["spec"]
    assert [entry["port"] for entry in service["ports"]] == [grpc]
    assert service["clusterIP"] == "None"
    (scrape,) = load(DEPLOY / "monitoring" / "prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"][0]["targets"] == [f"secateur:{metrics}"]


def test_liveness_is_not_readiness():
    deployed = [(name, pod["containers"][0]) for name, pod in pods() if "ports" in pod["containers"][0]]
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
        if document["kind"] not in ("Deployment", "CronJob"):
            continue
        pod = pod_of(document)
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
    assert len(found) == 6
    for name, drain, grace in found:
        assert grace >= drain + AFTER_DRAIN_SECONDS, name


def kinds_of_pods() -> list[tuple[str, dict[str, Any]]]:
    loader = load(KUSTOMIZE / "loader" / "loader.yaml")["spec"]
    kinds = {"base/secateur-migrate": "Job", "agents/secateur-agent": "Agent"}
    return [*((kinds.get(name, "Deployment"), pod) for name, pod in pods()), ("Pod", loader)]


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
    assert (
        writable
        == {
            "Job": {"/tmp"},
            "Agent": {"/data", "/tmp"},
            "Deployment": {"/data", "/tmp"},
            "Pod": {"/models", "/tmp"},
        }[kind]
    )
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
