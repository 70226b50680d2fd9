"""What lies in deploy/kustomize and beside it, given to the tools that are made for it where those are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from secateur_service.settings import Settings
from support.deployment import DEPLOY, KUSTOMIZE, OVERLAYS, ROOT, documents

# Groups that others define, and the fields of theirs that are used: `kubernetes-validate` has no schema of them.
OTHER_GROUPS = ("cert-manager.io", "gateway.networking.k8s.io", "kueue.x-k8s.io", "monitoring.coreos.com", "ray.io")
API = ("Deployment", "secateur-api")
REFERENCE = {"group": str, "kind": str, "name": str}
OTHERS: dict[str, Any] = {
    "Issuer": {"selfSigned": {}, "ca": {"secretName": str}},
    "Certificate": {
        "secretName": str,
        "isCA": bool,
        "commonName": str,
        "dnsNames": [str],
        "duration": str,
        "renewBefore": str,
        "privateKey": {"algorithm": str, "size": int, "rotationPolicy": str},
        "issuerRef": REFERENCE,
    },
    "GRPCRoute": {
        "parentRefs": [{"name": str, "namespace": str}],
        "hostnames": [str],
        "rules": [{"matches": [{"method": {"service": str}}], "backendRefs": [{"name": str, "port": int}]}],
    },
    "ResourceFlavor": {"nodeLabels": dict, "tolerations": [{"key": str, "operator": str, "effect": str}]},
    "ClusterQueue": {
        "namespaceSelector": {"matchLabels": dict},
        "queueingStrategy": str,
        "preemption": {"withinClusterQueue": str},
        "resourceGroups": [
            {
                "coveredResources": [str],
                "flavors": [{"name": str, "resources": [{"name": str, "nominalQuota": (str, int)}]}],
            }
        ],
    },
    "LocalQueue": {"clusterQueue": str},
    "RayCluster": {
        "rayVersion": str,
        "authOptions": {"mode": str},
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": {"upscalingMode": str, "idleTimeoutSeconds": int, "resources": dict},
        "headGroupSpec": {"rayStartParams": dict, "template": dict},
        "workerGroupSpecs": [
            {
                "groupName": str,
                "replicas": int,
                "minReplicas": int,
                "maxReplicas": int,
                "rayStartParams": dict,
                "template": dict,
            }
        ],
    },
    "BackendTLSPolicy": {
        "targetRefs": [REFERENCE],
        "validation": {"hostname": str, "caCertificateRefs": [REFERENCE]},
    },
}


def closed(fields: Any) -> dict[str, Any]:
    """The JSON schema of fields given as types, several types, lists of one and mappings, which has no others."""
    if isinstance(fields, dict):
        properties = {name: closed(inner) for name, inner in fields.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}
    if isinstance(fields, list):
        return {"type": "array", "items": closed(fields[0]), "minItems": 1}
    names = {str: "string", int: "integer", bool: "boolean", dict: "object"}
    return {"type": [names[kind] for kind in fields] if isinstance(fields, tuple) else names[fields]}


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


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/ray/Dockerfile"])
def test_hadolint_finds_nothing(name: str):
    succeed(tool("hadolint"), ROOT / name)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.tls.yaml"])
def test_compose_files_keep_to_the_schema(name: str):
    succeed(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose" / name)


def test_promtool_accepts_the_configuration_and_every_rule_does_what_its_test_says():
    promtool = tool("promtool")
    folder = DEPLOY / "monitoring"
    succeed(promtool, "check", "config", "prometheus.yml", cwd=folder)
    succeed(promtool, "test", "rules", "alerts_test.yml", cwd=folder)


def pods_of_ray(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods that the operator makes of a cluster's templates."""
    for number, group in enumerate([spec["headGroupSpec"], *spec["workerGroupSpecs"]]):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        yield {**pod, "metadata": {**pod["metadata"], "name": f"node-{number}"}}


def check_strictly(built: Path, found: list[dict[str, Any]]) -> None:
    """Validate what Kubernetes has schemas for by those, and the kinds of others by the fields that are used."""
    for document in found:
        if document["kind"] in OTHERS:
            jsonschema.validate(document["spec"], closed(OTHERS[document["kind"]]))
    known = [document for document in found if document["apiVersion"].split("/")[0] not in OTHER_GROUPS]
    known += [pod for document in found if document["kind"] == "RayCluster" for pod in pods_of_ray(document["spec"])]
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


def own_overlay(folder: Path, text: str) -> Path:
    """A built overlay of a user's, in a copy of the tree."""
    shutil.copytree(DEPLOY, folder / "deploy")
    own = folder / "deploy" / "kustomize" / "overlays" / "own"
    own.mkdir()
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: secateur\n"
    (own / "kustomization.yaml").write_text(head + text, encoding="utf-8")
    built = folder / "built.yaml"
    built.write_text(kustomize_overlay(own), encoding="utf-8")
    return built


def capacity_settings(found: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the API replicas are told of the system that they ask for agents."""
    (api,) = [document for document in found if (document["kind"], document["metadata"]["name"]) == API]
    (container,) = api["spec"]["template"]["spec"]["containers"]
    for entry in container["env"]:
        if entry["name"].startswith("SECATEUR_CAPACITY"):
            monkeypatch.setenv(entry["name"], entry["value"])
    return Settings()


def test_agents_that_grow_from_zero_have_what_their_class_says(tmp_path: Path, monkeypatch):
    built = tmp_path / "built.yaml"
    built.write_text(kustomize_overlay(KUSTOMIZE / "overlays" / "autoscaling"), encoding="utf-8")
    found = documents(built)
    settings = capacity_settings(found, monkeypatch)
    kind = settings.capacity_classes["gpu"]
    (template,) = [document for document in found if document["metadata"]["name"] == kind.template]
    pod = template["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (data,) = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "data"]
    assert int(data.removesuffix("Gi")) << 30 == kind.disk_bytes
    assert "secateur-worker" not in {document["metadata"]["name"] for document in found}
    (role,) = [document for document in found if document["kind"] == "Role"]
    verbs = {rule["resources"][0]: rule["verbs"] for rule in role["rules"]}
    assert verbs == {"jobs": ["create", "get", "list", "delete"], "cronjobs": ["get"]}


def test_a_ray_cluster_is_what_its_operator_expects(tmp_path: Path, monkeypatch):
    built = own_overlay(
        tmp_path,
        "resources: [../../base]\ncomponents: [../../components/api, ../../components/ray, ../../components/models]\n"
        "images: [{name: secateur-ray, newName: registry.example.com/secateur-ray}]\n",
    )
    found = documents(built)
    check_strictly(tmp_path / "known.yaml", found)
    (cluster,) = [document["spec"] for document in found if document["kind"] == "RayCluster"]
    (config,) = [document["metadata"]["name"] for document in found if document["kind"] == "ConfigMap"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert worker["envFrom"] == [{"configMapRef": {"name": config}}]
    assert worker["image"] == head["image"] == "registry.example.com/secateur-ray:0.1.0"
    assert "env" not in head, "the head runs no agent and needs no credentials"
    kind = capacity_settings(found, monkeypatch).capacity_classes["gpu"]
    assert kind.most_agents == group["maxReplicas"]
    assert kind.devices == int(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert kind.cpus <= int(worker["resources"]["requests"]["cpu"])


def test_the_quota_of_kueue_is_what_kueue_expects(tmp_path: Path):
    built = tmp_path / "built.yaml"
    built.write_text(kustomize_overlay(KUSTOMIZE / "kueue"), encoding="utf-8")
    found = documents(built)
    check_strictly(tmp_path / "known.yaml", found)
    assert all("namespace" not in document["metadata"] for document in found)
    (queue,) = [document["spec"] for document in found if document["kind"] == "ClusterQueue"]
    (group,) = queue["resourceGroups"]
    quotas = {resource["name"] for flavor in group["flavors"] for resource in flavor["resources"]}
    assert quotas == set(group["coveredResources"])
    (agent,) = documents(KUSTOMIZE / "components" / "agents" / "agent.yaml")
    (container,) = agent["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert {*container["resources"]["requests"], "nvidia.com/gpu"} <= quotas, (
        "Kueue admits nothing that asks for others"
    )


def test_the_loader_is_what_kubernetes_expects(tmp_path: Path):
    built = tmp_path / "built.yaml"
    built.write_text(kustomize_overlay(KUSTOMIZE / "loader"), encoding="utf-8")
    succeed(tool("kubernetes-validate"), "--strict", built)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_behind_a_proxy_that_ends_tls_replicas_still_ask_for_tokens(overlay: str, tmp_path: Path, monkeypatch):
    built = own_overlay(tmp_path, f"resources: [../{overlay}]\ncomponents: [../../components/behind-proxy]\n")
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
    accounts = [document for document in found if document["kind"] == "ServiceAccount"]
    assert len(accounts) == (2 if overlay == "autoscaling" else 1)
    assert all(account["imagePullSecrets"] == [{"name": "secateur-registry"}] for account in accounts)
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
