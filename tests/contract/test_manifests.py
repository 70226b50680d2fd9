"""What lies in deploy/kustomize and beside it, given to the tools that are made for it where those are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from secateur_service.settings import Settings
from support.deployment import DEPLOY, KUSTOMIZE, OVERLAYS, ROOT, documents

# Groups that others define, and the fields of theirs that are used: `kubernetes-validate` has no schema of them.
OTHER_GROUPS = ("cert-manager.io", "gateway.networking.k8s.io", "monitoring.coreos.com")
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
    "BackendTLSPolicy": {
        "targetRefs": [REFERENCE],
        "validation": {"hostname": str, "caCertificateRefs": [REFERENCE]},
    },
}


def closed(fields: Any) -> dict[str, Any]:
    """The JSON schema of fields given as types, lists of one and mappings, which has no others."""
    if isinstance(fields, dict):
        properties = {name: closed(inner) for name, inner in fields.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}
    if isinstance(fields, list):
        return {"type": "array", "items": closed(fields[0]), "minItems": 1}
    return {"type": {str: "string", int: "integer", bool: "boolean"}[fields]}


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
