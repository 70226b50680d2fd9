"""A hub that speaks as much HTTP as huggingface_hub and datasets ask of the real one.

Names and bodies follow the documented API (`/api/{models,datasets}/{name}/revision/{revision}`,
`/api/{models,datasets}/{name}/tree/{revision}/{folder}`, `/{name}/resolve/{revision}/{file}`); large files are
redirected to another address, as they are to the hub's store.
"""

import contextlib
import gzip
import hashlib
import json
import re
import socket
import struct
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ruamel.yaml import YAML

from servers import http_server
from support import leaks

LARGE_BYTES = 1000


@dataclass
class Repository:
    """One repository; `gated` and `private` ones open to the hub's token."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    branches: tuple[str, ...] = ("main",)

    @property
    def commit(self):
        names = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in sorted(self.files.items())]
        return hashlib.sha1("\n".join(names).encode()).hexdigest()


@dataclass
class HubServer:
    """Repositories by kind and name, and how it misbehaves.

    Attributes:
        break_off_after: the next answer that is longer than the first of these numbers of bytes breaks off there.
        statuses: answers to the next requests, one after the other, instead of what they ask for.
        requests: method and path of every request.
        sent: bytes of content in all.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = field(default_factory=lambda: leaks.secret("hub", prefix="hf_"))
    endpoint: str = ""
    break_off_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ignores_ranges: bool = False
    damages: bool = False
    requests: list[str] = field(default_factory=list)
    sent: int = 0

    def add(self, name, folder, **options):
        """Publish the files of a folder as `models/org/name` or `datasets/org/name`."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        self.repositories[name] = Repository(files, **options)
        return self.repositories[name]

    def add_mc4(self, documents):
        """Publish documents by language as the preset mC4 has them: in several files, and a card that names them."""
        files, configurations = {}, []
        for language, texts in documents.items():
            below = f"multilingual/c4-{language}"
            for number in range(3):
                lines = [json.dumps({"text": text, "url": "", "timestamp": ""}) + "\n" for text in texts[number::3]]
                files[f"{below}.tfrecord-0000{number}-of-00003.json.gz"] = gzip.compress(
                    "".join(lines).encode(), mtime=0
                )
            files[f"{below}-validation.tfrecord-00000-of-00001.json.gz"] = gzip.compress(
                "".join(lines[:1]).encode(), mtime=0
            )
            splits = [
                {"split": "train", "path": f"{below}.*.json.gz"},
                {"split": "validation", "path": f"{below}-validation.*.json.gz"},
            ]
            configurations.append({"config_name": language, "data_files": splits})
        files["README.md"] = f"---\nconfigs: {json.dumps(configurations)}\n---\n# C4\n".encode()
        self.repositories["datasets/allenai/c4"] = Repository(files)
        return self.repositories["datasets/allenai/c4"]

    def add_belebele(self, rows):
        """Publish questions by language, with their answers, as Belebele has them."""
        files, configurations = {}, []
        for name, questions in rows.items():
            files[f"data/{name}.jsonl"] = "".join(f"{json.dumps(row)}\n" for row in questions).encode()
            data_files = [{"split": "test", "path": f"data/{name}.jsonl"}]
            configurations.append({"config_name": name, "data_files": data_files})
        files["README.md"] = f"---\nconfigs: {json.dumps(configurations)}\n---\n# Belebele\n".encode()
        self.repositories["datasets/facebook/belebele"] = Repository(files)

    def answer(self, request):
        path = unquote(urlsplit(request.path).path)
        self.requests.append(f"{request.command} {path}")
        if self.statuses:
            return _send(request, self.statuses.pop(0), b"{}", {"Retry-After": "0"})
        if stored := re.fullmatch(r"/store/([0-9a-f]{64})", path):
            return self._content(request, self._by_digest(stored[1]))
        if listed := re.fullmatch(r"/api/(models|datasets)/(.+?)/tree/([^/]+)/?(.*)", path):
            return self._list(request, *listed.groups())
        if judged := re.fullmatch(r"/api/(models|datasets)/(.+?)/auth-check", path):
            return self._judge(request, *judged.groups())
        if described := re.fullmatch(r"/api/(models|datasets)/(.+?)(?:/revision/(.+))?", path):
            return self._describe(request, *described.groups())
        if resolved := re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
            kind, name, revision, file = resolved.groups()
            return self._resolve(request, "datasets" if kind else "models", name, revision, file)
        return _send(request, 404)

    def _find(self, request, kind, name, revision):
        """The repository; None when the answer was that there is none for this caller."""
        repository = self.repositories.get(f"{kind}/{name}")
        known = request.headers.get("Authorization") == f"Bearer {self.token}"
        if repository is None or (repository.private and not known):
            return _refuse(request, 404 if known else 401, "RepoNotFound")
        if revision not in (None, repository.commit, *repository.branches):
            return _refuse(request, 404, "RevisionNotFound")
        return repository

    def _describe(self, request, kind, name, revision):
        repository = self._find(request, kind, name, revision)
        if repository is None:
            return None
        siblings = []
        for file, content in repository.files.items():
            sibling = {"rfilename": file, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            siblings.append({**sibling, **_large(file, content)})
        body = {"id": name, "sha": repository.commit, "private": repository.private, "siblings": siblings}
        card = repository.files.get("README.md", b"").decode().split("---")
        if len(card) > 2:
            body["cardData"] = YAML(typ="safe", pure=True).load(card[1])
        return _send_json(request, body)

    def _list(self, request, kind, name, revision, folder):
        """The files and folders directly below a folder, or all."""
        repository = self._find(request, kind, name, revision)
        if repository is None:
            return None
        below = f"{folder}/" if folder else ""
        entries = {}
        for file, content in repository.files.items():
            if not file.startswith(below):
                continue
            first, *rest = file.removeprefix(below).split("/")
            if rest and "recursive=true" not in request.path.lower():
                path = below + first
                entries[path] = {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
                continue
            oid = hashlib.sha1(content).hexdigest()
            entries[file] = {"type": "file", "path": file, "oid": oid, "size": len(content), **_large(file, content)}
        return _send_json(request, list(entries.values())) if entries else _refuse(request, 404, "EntryNotFound")

    def _judge(self, request, kind, name):
        """Whether the caller may read the files."""
        repository = self._find(request, kind, name, None)
        if repository is None:
            return None
        if repository.gated and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _refuse(request, 403, "GatedRepo")
        return _send_json(request, {})

    def _resolve(self, request, kind, name, revision, file):
        repository = self._find(request, kind, name, revision)
        if repository is None:
            return None
        if repository.gated and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _refuse(request, 401, "GatedRepo")
        content = repository.files.get(file)
        if content is None:
            return _refuse(request, 404, "EntryNotFound")
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{digest}"'}
        if not _large(file, content):
            return self._content(request, content, headers)
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        store = self.endpoint.replace("127.0.0.1", "localhost")  # another host, as the hub's store is
        return _send(request, 302, b"", {**headers, **linked, "Location": f"{store}/store/{digest}"})

    def _by_digest(self, digest):
        contents = [content for repository in self.repositories.values() for content in repository.files.values()]
        return next(content for content in contents if hashlib.sha256(content).hexdigest() == digest)

    def _content(self, request, content, headers=None):
        if self.damages:
            content = bytes(len(content))
        status, whole = 200, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        headers = dict(headers or {})
        if asked and not self.ignores_ranges:
            start, end = int(asked[1]), min(int(asked[2] or whole - 1), whole - 1)
            status, content = 206, content[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{whole}"
        if self.break_off_after and len(content) > self.break_off_after[0]:
            cut = self.break_off_after.pop(0)
            self.sent += cut
            _send(request, status, content[:cut], {**headers, "Content-Length": str(len(content))})
            request.wfile.flush()
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            request.close_connection = True
            return
        self.sent += 0 if request.command == "HEAD" else len(content)
        _send(request, status, content, headers)


@contextlib.contextmanager
def hub_server():
    """A running hub without repositories."""
    hub = HubServer()
    with http_server(hub.answer) as hub.endpoint:
        yield hub


def _large(file, content):
    """What the hub tells of a large file besides; cards are never kept as such."""
    if len(content) < LARGE_BYTES or file.endswith(".md"):
        return {}
    digest = hashlib.sha256(content).hexdigest()
    return {"lfs": {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 130}}


def _send_json(request, body):
    _send(request, 200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _refuse(request, status, code):
    _send(request, status, b"{}", {"X-Error-Code": code})


def _send(request, status, content=b"", headers=None):
    request.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
