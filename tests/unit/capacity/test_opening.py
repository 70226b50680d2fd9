"""From the settings to the provider: what is missing is named, and nothing secret leaves."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from secateur_service.agent_classes import AgentClass, check_name
from secateur_service.capacity.kubernetes import KubernetesProvider
from secateur_service.capacity.opening import open_provider
from secateur_service.capacity.port import numbered, ticket_name
from secateur_service.capacity.ray import RayProvider
from secateur_service.settings import Settings

CLASSES = {"gpu": AgentClass(devices=1, device_bytes=80 * 10**9, host_bytes=64 * 10**9, resources={"fast_disk": 0.5})}
RAY = {"capacity": "ray", "capacity_url": "http://head:8265", "capacity_classes": CLASSES}


def test_without_a_system_there_is_no_provider():
    assert open_provider(Settings()) is None


def test_ray_and_kubernetes_are_opened(tmp_path):
    assert isinstance(open_provider(Settings(**RAY)), RayProvider)
    settings = Settings(capacity="kubernetes", capacity_url="https://api:6443", capacity_classes=CLASSES)
    (tmp_path / "namespace").write_text("prune\n")
    assert isinstance(open_provider(settings, account=tmp_path), KubernetesProvider)


def test_in_a_pod_the_service_account_says_all(tmp_path, monkeypatch):
    (tmp_path / "namespace").write_text("prune")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    provider = open_provider(Settings(capacity="kubernetes", capacity_classes=CLASSES), account=tmp_path)
    assert provider._rest._url == "https://[fd00::1]:443"
    assert "/namespaces/prune/" in provider._jobs


def test_what_is_missing_outside_of_a_pod_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    settings = Settings(capacity="kubernetes", capacity_classes=CLASSES)
    with pytest.raises(ValueError, match="capacity_url"):
        open_provider(settings, account=tmp_path)
    with_url = settings.model_copy(update={"capacity_url": "https://api:6443"})
    with pytest.raises(ValueError, match="capacity_namespace"):
        open_provider(with_url, account=tmp_path)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"capacity": "ray", "capacity_classes": CLASSES}, "capacity_url is empty"),
        ({"capacity": "kubernetes"}, "capacity_classes is empty"),
        ({**RAY, "capacity_url": "head:8265"}, "not an address"),
        ({**RAY, "capacity_url": "http://user:password@head:8265"}, "capacity_token_file"),
        ({**RAY, "capacity_classes": {"A100": {"host_bytes": 1}}}, "not a name: 'A100'"),
        ({**RAY, "capacity_classes": {"gpu": {"host_bytes": 1, "gpus": 1}}}, "gpus"),
        ({**RAY, "capacity_classes": {"gpu": {"devices": 1}}}, "host_bytes"),
        ({**RAY, "capacity_classes": {"cpu": {"host_bytes": 1, "device_bytes": 1}}}, "device_bytes is the memory of"),
        ({**RAY, "capacity_classes": {"gpu": {"host_bytes": 1, "resources": {"fast_disk": 0}}}}, "fast_disk"),
        ({**RAY, "capacity_name": "-"}, "not a name"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, named):
    with pytest.raises(ValidationError, match=named):
        Settings(**given)


def test_classes_survive_the_way_to_a_worker(monkeypatch):
    settings = Settings(**RAY)
    for name, value in settings.worker_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings().capacity_classes == CLASSES
    assert json.loads(settings.worker_environment()["SECATEUR_CAPACITY_CLASSES"])["gpu"]["devices"] == 1


def test_the_longest_names_fit_into_what_kubernetes_allows():
    longest = "a" * 28
    assert check_name(longest) == longest
    with pytest.raises(ValueError, match="28"):
        check_name("a" * 29)
    assert len(ticket_name(longest, longest, 99_999)) <= 63


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("agent-gpu-7", ("gpu", 7)),
        ("agent-gpu-80-7", ("gpu-80", 7)),
        ("agent-gpu-x", ("", 0)),
        ("other-gpu-7", ("", 0)),
        ("agentgpu-7", ("", 0)),
        ("host:123", ("", 0)),
    ],
)
def test_a_name_tells_its_class_and_number(name, found):
    assert numbered(name, "agent") == found
