"""The images are built and a job is run in one, as their users meet them: `make images`.

Takes minutes, root, buildah and a base image, so that it is not among `make test`. The base is the Dockerfile's where
buildah has it (`buildah pull python:3.11.15-slim-bookworm`), else a Debian with Python that debootstrap makes once.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import secateur
from support.collector import Collector
from support.images import DEBIAN_BASE, MADE_BY_BUILDAH, Buildah, Container, PackageIndex, find_base, kill, make_base
from support.models import save_corpora, save_model, spec_data
from support.waiting import until

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
USER = 10001
PORTS = (50051, 9464)
DRAIN_SECONDS = 45
TARGETS = ("api", "worker")
REVISION = "0123456789abcdef"
# Where they lie the builder must not get at them, or nothing of them may come into the image.
PRIVATE = (".env", ".git/config", "client/.env", "deploy/compose/.env", "service/notes.txt", "tests/private.py")

pytestmark = [
    pytest.mark.skipif("TEST_IMAGES" not in os.environ, reason="takes minutes: make images"),
    pytest.mark.timeout(3600),
]


def base_image(folder: Path) -> str:
    (official,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    if found := find_base(official, DEBIAN_BASE):
        return found
    if shutil.which("debootstrap") is None:
        pytest.skip(f"there is no base image: buildah pull {official}, or apt-get install debootstrap")
    began = time.monotonic()
    make_base(folder)
    print(f"\n{DEBIAN_BASE}: made of Debian's packages in {time.monotonic() - began:.0f} s")
    return DEBIAN_BASE


def build_context(folder: Path, secret: str) -> Path:
    """What the builder is given: a checkout with private files in it."""
    folder.mkdir()
    shutil.copy(ROOT / "Dockerfile", folder)
    ignore = shutil.copy(ROOT / ".dockerignore", folder)
    for name in re.findall(r"^!(\S+)$", Path(ignore).read_text(encoding="utf-8"), re.MULTILINE):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(secret, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Images:
    buildah: Buildah
    base: str
    by_target: dict[str, str]
    index: PackageIndex
    secret: str


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    """Both images, built from nothing."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed: apt-get install buildah")
    if os.geteuid() != 0:
        pytest.skip("buildah needs root to run what it builds by chroot")
    with tempfile.TemporaryDirectory(prefix="images-", dir="/var/tmp") as name:  # gigabytes, and /tmp may be memory
        folder = Path(name)
        secret = secrets.token_hex(16)
        base, index = base_image(folder), PackageIndex.of_this_machine()
        # A machine with packages of its own chooses the build of torch; elsewhere it is the smaller one.
        torch_index = "" if index.has_links else "https://download.pytorch.org/whl/cpu"
        torch_index = os.environ.get("TORCH_INDEX", torch_index)
        context = build_context(folder / "context", secret)
        buildah = Buildah(folder)
        try:
            built = {}
            for target in reversed(TARGETS):
                began = time.monotonic()
                arguments = {"PYTHON_IMAGE": base, "TORCH_INDEX": torch_index, "REVISION": REVISION}
                built[target] = buildah.build(context, target, index, **arguments)
                print(f"\n{target}: built on {base} in {time.monotonic() - began:.0f} s, {buildah.size(built[target])}")
            yield Images(buildah, base, built, index, secret)
        finally:
            buildah.close()


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def container(images: Images, target: str) -> Iterator[Container]:
    with images.buildah.container(images.by_target[target]) as container:
        yield container


def test_an_image_says_how_it_is_to_be_run(images: Images, target: str):
    config = images.buildah.inspect(images.by_target[target])["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert (config["Entrypoint"], config["Cmd"]) == (["secateur-service"], ["serve"])
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "secateur_service.health"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["WorkingDir"] == "/data"
    assert config["ExposedPorts"].keys() == {f"{port}/tcp" for port in PORTS}
    assert ("SECATEUR_DEVICES=" in config["Env"]) == (target == "api")
    labels = {name.rpartition(".")[2]: text for name, text in config["Labels"].items() if "opencontainers" in name}
    assert (labels["title"], labels["licenses"]) == ("Secateur", "Apache-2.0")
    assert (labels["version"], labels["revision"]) == ("0.1.0", REVISION)


def test_a_container_has_a_user_without_rights_and_what_its_target_is_for(container: Container, target: str):
    assert container.run("id", "-u") == (0, f"{USER}\n")
    code, said = container.python("import torch, transformers; print(torch.__version__)")
    assert (code == 0) == (target == "worker"), said
    assert target == "worker" or "No module named 'torch'" in said
    code, said = container.python(
        "import opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http, psycopg, secateur, secateur_service"
    )
    assert code == 0, said
    assert (container.run("sh", "-c", "command -v gcc")[0] == 0) == (target == "worker")


def test_an_image_has_nothing_but_what_is_installed_in_it(images: Images, container: Container, target: str):
    with images.buildah.container(images.base) as base:
        added = container.files().keys() - base.files().keys()
    expected = {"data", "opt/secateur", *MADE_BY_BUILDAH}
    for mount in (Path("/etc/pip.conf"), *images.index.mounts):
        expected |= {str(path).lstrip("/") for path in (mount, *mount.parents)}
    places = ("opt/secateur/", *(["etc/", "usr/", "var/"] if target == "worker" else []))  # the compiler's
    assert not {name for name in added - expected if not name.startswith(places)}
    assert not {name for name in added if name.startswith("var/lib/apt/lists/") or name.endswith(".deb")}
    packages = container.root / "opt/secateur/lib/python3.11/site-packages"
    assert {path.name for path in packages.glob("secateur*")} == {
        "secateur", "secateur_service", "secateur-0.1.0.dist-info",
    }  # fmt: skip
    assert not {name for name in added if {".git", ".env", "Dockerfile", "constraints.txt"} & set(Path(name).parts)}
    writable = {name for name in added if (container.root / name).lstat().st_uid == USER}
    assert writable == {"data"}
    assert images.secret not in json.dumps(images.buildah.inspect(images.by_target[target]))
    found = subprocess.run(["grep", "-rlF", images.secret, container.root], capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout


def test_an_image_refuses_to_listen_publicly_without_protection(container: Container):
    code, said = container.run("secateur-service", "serve")
    assert code == 2
    assert "which other machines can reach, and this server has no TLS and no tokens" in said
    assert not any((container.root / "data").iterdir())


class Server:
    """The command of an image in a container, with its own ports, and `data` in place of its /data."""

    def __init__(self, images: Images, container: Container, target: str, folder: Path, **environment: str) -> None:
        config = images.buildah.inspect(images.by_target[target])["config"]
        self.container = container
        self.health = config["Healthcheck"]["Test"][1:]
        self.data, self.files, self._log = folder / "data", folder / "files", folder / "log"
        self.files.mkdir(exist_ok=True)
        self.data.mkdir()
        os.chown(self.data, USER, USER)
        self.volumes = ("--volume", f"{self.data}:/data", "--volume", f"{self.files}:/files:ro")
        options = [*self.volumes, *(part for item in environment.items() for part in ("--env", "=".join(item)))]
        with self._log.open("wb") as log:
            command = (*config["Entrypoint"], *config["Cmd"])
            self.process = container.start(*command, options=tuple(options), stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def pid(self) -> int | None:
        """Its process, once it serves."""
        assert self.process.poll() is None, self.log
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{") and line.endswith("}")]
        return next((line["pid"] for line in lines if line["event"] == "serving"), None)

    def end(self) -> tuple[int, float]:
        """SIGTERM, as an engine sends it to the first process: its exit code and the seconds that it took."""
        began = time.monotonic()
        os.kill(self.pid(), signal.SIGTERM)
        code = self.process.wait(timeout=DRAIN_SECONDS + 15)
        return code, time.monotonic() - began


@contextmanager
def serving(images: Images, container: Container, target: str, folder: Path, **environment: str) -> Iterator[Server]:
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"something listens on port {port}, which the image is tried with")
    server = Server(images, container, target, folder, SECATEUR_ALLOW_PUBLIC_LISTEN="true", **environment)
    try:
        began = time.monotonic()
        until(server.pid)
        print(f"\n{target}: serves after {time.monotonic() - began:.1f} s")
        yield server
    finally:
        kill(server.process)


def test_the_api_image_serves_without_torch(images: Images, tmp_path: Path):
    with (
        images.buildah.container(images.by_target["api"]) as container,
        serving(images, container, "api", tmp_path) as server,
    ):
        assert container.run(*server.health) == (0, "SERVING\n")
        with secateur.Client("127.0.0.1:50051") as client:
            assert "llama" in client.info().architectures
        code, seconds = server.end()
    assert code == 0, server.log
    assert seconds < 15


def test_a_job_runs_in_the_worker_image_from_submission_to_results_on_the_volume(images: Images, tmp_path: Path):
    files = tmp_path / "files"
    save_model(files / "model", "llama")
    save_corpora(files)
    subprocess.run(["chmod", "-R", "a+rX", files], check=True)  # safetensors' files are their owner's only
    where = (Path("/files/model"), Path("/files/calibration"), Path("/files/evaluation"))
    with (
        closing(Collector()) as collector,
        images.buildah.container(images.by_target["worker"]) as container,
    ):
        assert container.run("true") == (0, "")  # so that buildah's own files are there already
        before = container.files()
        environment = {"SECATEUR_FILE_ROOTS": "/files", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        with serving(images, container, "worker", tmp_path, **environment) as server:
            assert container.run(*server.health) == (0, "SERVING\n")
            with secateur.Client("127.0.0.1:50051") as client:
                began = time.monotonic()
                job = client.submit(spec_data(*where))
                result = job.result(timeout_seconds=300)
                print(f"\nworker: a job in {time.monotonic() - began:.1f} s")
                assert result.sparsity == pytest.approx(0.5, abs=0.01)
                code, said = container.run("secateur", "download", job.name, "/tmp/out", options=server.volumes)
                assert code == 0, said
                another = client.submit(spec_data(*where, method="alps", sparsity=0.5))
                next(event for event in another.watch() if isinstance(event, secateur.StageEvent))
                code, seconds = server.end()
        print(f"\nworker: ended {seconds:.1f} s after SIGTERM, with a job at work")
        assert code == 0, server.log
        assert seconds < DRAIN_SECONDS
        assert '"event": "draining"' in server.log
        after = container.files()
        traced = {span.attributes["secateur.job"] for span in collector.named("attempt")}
        assert job.name.partition("/")[2] in traced
        downloaded = sorted((container.root / "tmp" / "out" / "checkpoint").iterdir())
        published = server.data / "artifacts" / job.name.partition("/")[2]
        assert any(path.suffix == ".safetensors" for path in downloaded)
        for path in downloaded:
            assert path.read_bytes() == (published / "checkpoint" / path.name).read_bytes()
        assert (published / "manifest.json").stat().st_uid == USER
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    changed -= {"files", "run", *MADE_BY_BUILDAH}  # where it mounts
    assert not {name for name in changed if name != "tmp" and not name.startswith("tmp/")}
