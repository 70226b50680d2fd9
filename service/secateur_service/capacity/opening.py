"""Opens the provider that the settings name."""

from __future__ import annotations

import os
from pathlib import Path

from secateur_service.capacity.kubernetes import ACCOUNT, KubernetesProvider
from secateur_service.capacity.port import Provider
from secateur_service.capacity.ray import RayProvider
from secateur_service.capacity.rest import Rest
from secateur_service.settings import Settings

# What an agent needs beside the time of its workers: to kill the rest, to write how they ended, to leave the store.
_AFTER_DRAIN_SECONDS = 15.0


def open_provider(settings: Settings, *, account: Path = ACCOUNT) -> Provider | None:
    """The provider that the settings name; None if they name none. Nothing is asked yet.

    Args:
        settings: the server's settings.
        account: folder of the pod's service account.

    Raises:
        ValueError: something is missing; the message names the setting.
    """
    once = settings.capacity_idle_seconds == 0
    ending = ["--once"] if once else ["--idle-seconds", f"{settings.capacity_idle_seconds:g}"]
    if settings.capacity == "ray":
        rest = Rest(settings.capacity_url, token_file=settings.capacity_token_file, ca_file=settings.capacity_ca_file)
        return RayProvider(
            rest,
            service=settings.capacity_name,
            command=" ".join([settings.capacity_command, *ending]),
            stop_seconds=settings.drain_seconds + _AFTER_DRAIN_SECONDS,
        )
    if settings.capacity == "kubernetes":
        return KubernetesProvider(
            _api_server(settings, account),
            namespace=settings.capacity_namespace or _own(account / "namespace", "capacity_namespace"),
            service=settings.capacity_name,
            arguments=["agent", *ending],
        )
    return None


def _api_server(settings: Settings, account: Path) -> Rest:
    if settings.capacity_url:
        return Rest(settings.capacity_url, token_file=settings.capacity_token_file, ca_file=settings.capacity_ca_file)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ValueError(
            "capacity_url is empty and this is no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set); give the "
            "address of the API server"
        )
    return Rest(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        token_file=settings.capacity_token_file or account / "token",
        ca_file=settings.capacity_ca_file or account / "ca.crt",
    )


def _own(file: Path, setting: str) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"{setting} is empty and {file} cannot be read: {error.strerror}") from error
