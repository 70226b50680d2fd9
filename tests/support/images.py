"""Images as buildah makes and runs them where there is no container engine: as root, by chroot, on the host's network.

All lies in a storage of its own, so that a build begins with nothing and leaves nothing behind; only base images are
read from the machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEBIAN_BASE = "localhost/python:3.11-slim"
"""What `make_base` makes out of Debian's packages in place of the official image."""

MADE_BY_BUILDAH = frozenset({"etc/hostname", "etc/hosts", "etc/resolv.conf", "run/.containerenv"})
"""Where it mounts files of its own when it runs something, and leaves empty ones."""

# As in Debian's official image, so that packages that are installed leave no more behind than there.
_APT_CLEAN = """\
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


def _run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def find_base(*names: str) -> str | None:
    """The first of these images that the machine's storage has."""
    images = json.loads(_run("buildah", "images", "--json") or "null") or []
    tags = {tag for image in images for tag in image["names"] or []}
    return next((name for name in names if {name, f"docker.io/library/{name}"} & tags), None)


def make_base(folder: Path) -> None:
    """Put a Debian with Python into the machine's storage, as `DEBIAN_BASE`."""
    root = folder / "debian"
    packages = "python3,python3-venv,python3-pip,ca-certificates"
    _run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root)
    (root / "usr" / "bin" / "python").symlink_to("python3")
    (root / "etc" / "apt" / "apt.conf.d" / "docker-clean").write_text(_APT_CLEAN, encoding="utf-8")
    for leftovers in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / leftovers)
    container = _run("buildah", "from", "scratch").strip()
    try:
        _run("buildah", "add", "--quiet", container, root, "/")
        _run("buildah", "config", "--cmd", "python", container)
        _run("buildah", "commit", "--quiet", container, DEBIAN_BASE)
    finally:
        _run("buildah", "rm", container)
        shutil.rmtree(root)


@dataclass(frozen=True)
class PackageIndex:
    """Where pip of this machine looks for packages, to be mounted into a build: no image shall remember it."""

    configuration: str
    mounts: tuple[Path, ...]
    has_links: bool

    @classmethod
    def of_this_machine(cls) -> PackageIndex:
        """What pip's environment and configuration say, without indexes that are folders: their links lead out."""
        lines, mounts, has_links = ["[global]"], [], False
        for option in ("index-url", "extra-index-url", "find-links", "trusted-host", "cert"):
            values = [value for value in _pip_setting(option).split() if not value.startswith("file:")]
            if values:
                lines.append(f"{option} = {' '.join(values)}")
                mounts += [Path(value) for value in values if value.startswith("/")]
                has_links |= option == "find-links"
        return cls("\n".join(lines) + "\n", tuple(mounts), has_links)


def _pip_setting(option: str) -> str:
    given = os.environ.get(f"PIP_{option.replace('-', '_').upper()}")
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{option}"]
    return given or subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started: buildah's children outlive it."""
    pairs = [line.split() for line in _run("ps", "-eo", "pid=,ppid=").splitlines()]
    doomed = [process.pid] if process.poll() is None else []
    for parent in doomed:  # grows on the way
        doomed += [int(pid) for pid, of in pairs if int(of) == parent]
    for pid in reversed(doomed):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


class Buildah:
    """Builds images in a folder, and runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        temporary = folder / "tmp"  # what `RUN --mount=type=cache` keeps lies there, too
        temporary.mkdir()
        self._environment = {"BUILDAH_ISOLATION": "chroot", **os.environ, "TMPDIR": str(temporary)}
        machine = json.loads(_run("buildah", "info"))["store"]["GraphRoot"]
        self._storage = folder / "storage"
        self._command = [
            "buildah", "--root", str(self._storage), "--runroot", str(folder / "run"),
            "--storage-driver", "overlay", "--storage-opt", f"overlay.imagestore={machine}",
        ]  # fmt: skip

    def __call__(self, *arguments: str | Path) -> str:
        """The output of a command of buildah that has to succeed."""
        return _run(*self._command, *arguments, environment=self._environment)

    def start(self, *arguments: str, **pipes: Any) -> subprocess.Popen[str]:
        """Start a command of buildah."""
        return subprocess.Popen([*self._command, *arguments], env=self._environment, text=True, **pipes)

    def build(self, context: Path, target: str, index: PackageIndex, **arguments: str) -> str:
        """Build a target of the Dockerfile in a folder; returns the image's id."""
        configuration, image = self.folder / "pip.conf", self.folder / f"{target}.id"
        configuration.write_text(index.configuration, encoding="utf-8")
        options = ["--volume", f"{configuration}:/etc/pip.conf:ro"]
        for path in index.mounts:
            options += ["--volume", f"{path}:{path}:ro"]
        for name, value in arguments.items():
            options += ["--build-arg", f"{name}={value}"]
        options += ["--target", target, "--iidfile", str(image)]
        self("bud", "--pull-never", "--layers", "--format", "docker", *options, context)
        return image.read_text(encoding="utf-8")

    def inspect(self, image: str) -> dict[str, Any]:
        """What the image says of itself, in Docker's words: `config`, `history`."""
        return json.loads(self("inspect", "--type", "image", image))["Docker"]

    def size(self, image: str) -> str:
        """All its layers together, not compressed, for people to read."""
        listed = self("images", "--no-trunc", "--format", "{{.ID}} {{.Size}}").splitlines()
        return next(size.strip() for entry, _, size in (line.partition(" ") for line in listed) if entry == image)

    @contextmanager
    def container(self, image: str) -> Iterator[Container]:
        """A container of an image, with nothing running in it yet."""
        name = self("from", "--pull-never", image).strip()
        try:
            yield Container(self, name, Path(self("mount", name).strip()))
        finally:
            self("rm", name)

    def close(self) -> None:
        """Let go of the folder, so that it can be removed."""
        self("rm", "--all")
        if (self._storage / "overlay").is_mount():
            _run("umount", self._storage / "overlay")


@dataclass(frozen=True)
class Container:
    """The files of a container, and processes in it; each sees the host's other processes."""

    buildah: Buildah
    name: str
    root: Path

    def start(self, *command: str, options: tuple[str, ...] = (), **pipes: Any) -> subprocess.Popen[str]:
        """Start a command as the image's user. A signal to what is returned does not reach it: see `kill`."""
        return self.buildah.start("run", *options, self.name, "--", *command, **pipes)

    def run(self, *command: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
        """Run a command as the image's user: its exit code, and what it says."""
        process = self.start(*command, options=options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            said, _ = process.communicate(timeout=120)
        finally:
            kill(process)
        return process.returncode, said

    def python(self, program: str) -> tuple[int, str]:
        """Run a program of Python."""
        return self.run("python", "-c", program)

    def files(self) -> dict[str, tuple[int, int, int, int]]:
        """Every path of the container, with what changes when it is written to; not what is mounted over them."""
        found = {}
        for folder, folders, names in os.walk(self.root):
            for name in (*folders, *names):
                path = Path(folder) / name
                about = path.lstat()
                found[str(path.relative_to(self.root))] = (
                    about.st_mode,
                    about.st_uid,
                    about.st_size,
                    about.st_mtime_ns,
                )
        return found
