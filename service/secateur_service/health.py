"""`python -m secateur_service.health`: asks a server whether it is serving; exit code 0 if so.

For callers that cannot speak gRPC themselves: a container's health check, and Kubernetes if the server uses TLS, which
the kubelet's own gRPC probe does not support. Imports only gRPC, so that a check every few seconds costs little.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVING = health_pb2.HealthCheckResponse.SERVING


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, and print the answer."""
    parser = argparse.ArgumentParser(
        prog="python -m secateur_service.health", description="Asks for a server's health."
    )
    parser.add_argument("--address", default="127.0.0.1:50051", help="the server, host:port (default: %(default)s)")
    parser.add_argument(
        "--service",
        default="",
        help="secateur.v1.PruneService: whether it takes calls, which it does not while it drains; "
        "default: whether it is alive",
    )
    parser.add_argument("--ca", type=Path, help="PEM file to check the server's certificate with; default: no TLS")
    parser.add_argument("--server-name", help="a name in the certificate, where the address is none")
    parser.add_argument("--timeout", type=float, default=4.0, metavar="SECONDS", help="(default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        status = ask(given.address, given.service, given.timeout, given.ca, given.server_name)
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"--ca {given.ca}: {error.strerror}", file=sys.stderr)
        return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(status))
    return 0 if status == _SERVING else 1


def ask(address: str, service: str, timeout_seconds: float, ca: Path | None, server_name: str | None) -> int:
    """The status of one service of a server, as a number of `HealthCheckResponse.ServingStatus`.

    Raises:
        grpc.RpcError: the server does not answer in time, or does not know the service.
        OSError: the CA file cannot be read.
    """
    if ca is None:
        channel = grpc.insecure_channel(address)
    else:
        options = [("grpc.ssl_target_name_override", server_name)] if server_name else []
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()), options)
    with channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_seconds).status)


if __name__ == "__main__":
    sys.exit(main())
