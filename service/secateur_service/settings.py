"""The service's settings: every knob, its default and its meaning, in one place.

Each setting is read from the environment variable ``SECATEUR_{NAME}``, else from the TOML file that
``SECATEUR_SETTINGS_FILE`` names, else it has its default. Lists are comma-separated in the environment (`file_roots`:
separated by the system's path separator) and arrays in the file; `credentials` and `capacity_classes` are JSON objects
in the environment and tables, such as `[credentials.name]`, in the file. A worker gets all of its server's settings
(`Settings.worker_environment`), so the two always agree.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from secateur_service.accounts import (
    S3_PREFIX,
    AccessKey,
    Account,
    Credentials,
    Secret,
    StoreUrl,
    Token,
    empty_is_unset,
    plain,
    secrets_of_environment,
    split_url,
)
from secateur_service.agent_classes import AgentClass, ClusterName
from secateur_service.destination import DestinationRefusedError, parse_destination

PREFIX = "SECATEUR_"
FILE_VARIABLE = "SECATEUR_SETTINGS_FILE"
MAX_THREADS = 4096
MAX_PROCESSES = 8
"""Of a job; as many as its text is divided into shards."""
_MAX_SECONDS = 1e9  # thirty years, which clocks and dates can still represent

OptionalFile = Annotated[Path | None, BeforeValidator(empty_is_unset)]


def check_device(name: str) -> str:
    """Return a torch device's name if it is a kind that jobs can run on; the device need not exist here.

    Raises:
        ValueError: it is not.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", name):
        raise ValueError(f"not a device: {name!r}; use cpu, or cuda:0,cuda:1 for one slot on each of two GPUs")
    return name


class Settings(BaseSettings):
    """Settings of server and worker; immutable once read."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    data_dir: Path = Field(
        default=Path("secateur-data"),
        description="folder of work directories, slot locks and, by default, of the database and the artifacts; on a "
        "local disk of its own for every replica, because SQLite and file locks are not safe on network file systems",
    )
    database_url: str = Field(
        default_factory=lambda earlier: f"sqlite:///{earlier['data_dir'] / 'secateur.sqlite3'}",
        description="the job store as a URL: sqlite:////absolute/path for one replica, or "
        "postgresql://user:password@host:port/database, which several replicas can share",
    )
    listen: str = Field(default="127.0.0.1:50051", description="address of the gRPC server, host:port or unix:path")
    allow_public_listen: bool = Field(
        default=False,
        description="permits an address in `listen` that other machines can reach although there is no "
        "`tls_certificate` or no `tokens_file`; for servers behind a proxy that does what is missing, else unsafe",
    )
    tls_certificate: OptionalFile = Field(
        default=None,
        description="PEM file of the gRPC server's certificate, followed by those between it and its authority; with "
        "`tls_key` it turns TLS on; both are read again when they change",
    )
    tls_key: OptionalFile = Field(
        default=None, description="PEM file of the private key of `tls_certificate`, without a passphrase"
    )
    tls_client_ca: OptionalFile = Field(
        default=None,
        description="PEM file of the authorities of clients' certificates; with it, only clients that present a "
        "certificate of theirs get a connection; read again when it changes",
    )
    tokens_file: OptionalFile = Field(
        default=None,
        description="file of the tokens that callers have to show, written by `secateur-service tokens`; read again "
        "when it changes; without it nobody is asked who they are",
    )
    metrics_listen: str = Field(
        default="127.0.0.1:9464",
        description="address of the Prometheus endpoint, host:port; empty turns it off. It has neither TLS nor tokens: "
        "whoever reaches it reads its figures, which name no job, model or caller",
    )
    file_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="folders below which file:// models and corpora may be read; none by default"
    )
    destinations: Annotated[tuple[str, ...], NoDecode] = Field(
        default_factory=lambda earlier: ((earlier["data_dir"] / "artifacts").as_uri(),),
        validate_default=True,
        min_length=1,
        description="where results may be published, s3://bucket/prefix or file:///folder; the first is the default",
    )
    s3_endpoint: StoreUrl = Field(
        default=None, description="URL of the S3-compatible store, https://host[:port]; http:// turns TLS off"
    )
    s3_access_key: AccessKey = Field(default=None, description="access key of the S3-compatible store")
    s3_secret_key: Secret = Field(default=None, description="secret key of the S3-compatible store")
    s3_region: str = Field(default="us-east-1", description="region of the S3-compatible store")
    s3_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="s3://bucket/prefix below which models and corpora may be read; none by default",
    )
    hub_endpoint: str = Field(
        default="https://huggingface.co", description="URL of the hub that hf:// names mean; empty: hf:// is refused"
    )
    hub_token: Token = Field(
        default=None, description="token for what the hub does not give to everybody: private and gated repositories"
    )
    hub_offline: bool = Field(
        default=False, description="ask the hub nothing: only what was looked up and fetched before can be had"
    )
    credentials: dict[str, Credentials] = Field(
        default={},
        description="accounts by name, each with the prefixes that it is for (sources and destinations) and its keys "
        "or token; all else is reached with the keys and the token above",
    )
    cache_dir: Path = Field(
        default_factory=lambda earlier: earlier["data_dir"] / "cache",
        description="folder of fetched models and corpora, which stay for the next job",
    )
    cache_bytes: int = Field(
        default=0,
        ge=0,
        description="the most that fetched models and corpora may take; what was not used for longest goes first; 0: "
        "as much as the disk has",
    )
    shared_states_bytes: int = Field(
        default=4 << 30,
        ge=0,
        description="the most that hidden states in the cache folder may take, beside cache_bytes: what blocks of "
        "dense models made of evaluation text, so that jobs with the same model and text need not run it again; on a "
        "CPU alone; 0: none",
    )
    devices: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("cpu",),
        description="one worker slot per entry, each the torch device its worker uses: cpu, cuda:0, cuda:1; "
        "empty: this replica serves the API only",
    )
    threads_per_worker: int = Field(
        default=0,
        ge=0,
        le=MAX_THREADS,
        description="CPU threads of each process of a worker; 0 divides the cores evenly over all of them",
    )
    processes_per_worker: int = Field(
        default=1,
        ge=1,
        le=MAX_PROCESSES,
        description="processes that run a job together on the CPUs of its slot, unless it asks for fewer "
        "(`execution.processes`); the result is the same for any number with equal `threads_per_worker`",
    )
    read_bytes_per_second: float = Field(
        default=0,
        ge=0,
        description="how fast workers read models, for the time that an estimate gives; 0: as fast as the machine on "
        "which it was measured, 326 MB/s",
    )
    write_bytes_per_second: float = Field(
        default=0,
        ge=0,
        description="how fast workers write results, to their disk or to the object store, whichever is slower; for "
        "the same estimate; 0: as measured, 808 MB/s",
    )
    lease_seconds: float = Field(
        default=30.0,
        gt=0,
        le=_MAX_SECONDS,
        description="a worker that has not been heard of for so long has lost its job; it sends three heartbeats in "
        "that time and stops itself after three quarters of it without an answer",
    )
    start_seconds: float = Field(
        default=300.0,
        gt=0,
        description="longest time from the start of a worker's process to its first heartbeat; its server keeps its "
        "lease so long. A worker that takes longer is killed, and its attempt is not charged",
    )
    poll_seconds: float = Field(
        default=1.0,
        gt=0,
        le=_MAX_SECONDS,
        description="longest time until the dispatcher notices a queued job or an ended worker",
    )
    drain_seconds: float = Field(
        default=45.0,
        ge=0,
        le=_MAX_SECONDS,
        description="time that workers have to stop between two pieces of work before they are killed",
    )
    cancel_grace_seconds: float = Field(
        default=60.0, ge=0, le=_MAX_SECONDS, description="time that the worker of a cancelled job has to stop by itself"
    )
    stall_seconds: float = Field(
        default=21600.0,
        ge=0,
        le=_MAX_SECONDS,
        description="an attempt that has reported no progress for this long is given up, although its worker is alive; "
        "more than the longest block takes; 0 turns it off",
    )
    retry_base_seconds: float = Field(
        default=5.0,
        ge=0,
        le=_MAX_SECONDS,
        description="wait before the second attempt of a job that failed transiently; then doubling",
    )
    retry_max_seconds: float = Field(
        default=300.0, ge=0, le=_MAX_SECONDS, description="longest wait before another attempt"
    )
    publish_patience_seconds: float = Field(
        default=3600.0,
        ge=0,
        le=_MAX_SECONDS,
        description="how long an attempt whose blocks are all finished waits for an object store that does not answer, "
        "before it is given up and charged; 0: not at all",
    )
    leftovers_retention_seconds: float = Field(
        default=7 * 86400.0,
        ge=0,
        le=_MAX_SECONDS,
        description="how long the finished blocks of a job that failed or was cancelled stay, for a retry to use; "
        "then all that its attempts left in the object store is removed. What attempts left beside a result is "
        "removed an hour after the end",
    )
    job_retention_seconds: float = Field(
        default=90 * 86400.0,
        ge=0,
        le=_MAX_SECONDS,
        description="how long a job is known after its end, with its events and logs; its results stay; 0 for ever",
    )
    cleaning_seconds: float = Field(
        default=3600.0, gt=0, le=_MAX_SECONDS, description="time between two rounds in which what is due is removed"
    )
    max_request_bytes: int = Field(default=2**20, gt=0, lt=2**31, description="largest request that the server accepts")
    max_watchers: int = Field(
        default=2048, gt=0, le=1_000_000, description="watches served at the same time; more are refused"
    )
    max_watchers_per_caller: int = Field(
        default=512,
        gt=0,
        le=1_000_000,
        description="watches of one token that are served at the same time; more are refused",
    )
    watch_heartbeat_seconds: float = Field(
        default=15.0, gt=0, le=_MAX_SECONDS, description="a watch without news sends a heartbeat so often"
    )
    capacity: Literal["none", "ray", "kubernetes"] = Field(
        default="none",
        description="the system that is asked for agents when jobs wait that no agent has room for; none: nobody",
    )
    capacity_url: str = Field(
        default="",
        description="address of that system: Ray's dashboard, http://head:8265, or Kubernetes' API server; empty: the "
        "API server of the cluster that this replica runs in",
    )
    capacity_token_file: OptionalFile = Field(
        default=None,
        description="file of the token that it asks for, read again for every call; by default none for Ray, and the "
        "service account's for Kubernetes",
    )
    capacity_ca_file: OptionalFile = Field(
        default=None,
        description="PEM file of the authorities of its certificate; by default the public ones for Ray, and the "
        "service account's for Kubernetes",
    )
    capacity_namespace: str = Field(
        default="", description="namespace of the agents in Kubernetes; empty: that of this replica"
    )
    capacity_name: ClusterName = Field(
        default="secateur-agent",
        description="begins the names of the agents that are asked for; another one for every service that shares a "
        "Ray cluster or a namespace",
    )
    capacity_command: str = Field(
        default="secateur-service agent", description="command that starts an agent on a node of the Ray cluster"
    )
    capacity_classes: dict[ClusterName, AgentClass] = Field(
        default={},
        description="kinds of agents by name: what one has, and how it is asked for. A job gets an agent of the first "
        "class that fits it, so list the cheapest first",
    )
    capacity_idle_seconds: float = Field(
        default=300.0,
        ge=0,
        le=_MAX_SECONDS,
        description="an agent that was asked for ends when it has had no job for so long; 0: after one job",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe log lines that are written"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, else json"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings calls it by position
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments override the environment, and the environment overrides the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _file_content())

    _plain = field_validator("*", mode="before")(plain)

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _make_absolute(cls, path: Path) -> Path:
        return _absolute(path)

    @field_validator(
        "tls_certificate", "tls_key", "tls_client_ca", "tokens_file", "capacity_token_file", "capacity_ca_file"
    )
    @classmethod
    def _make_file_absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else _absolute(path)

    @field_validator("file_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @field_validator("file_roots")
    @classmethod
    def _check_roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if os.pathsep in str(root):
                raise ValueError(f"a root may not contain {os.pathsep!r}; move the folder: {root}")
        return tuple(_absolute(root) for root in roots)

    @field_validator("destinations", "devices", "s3_sources", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("destinations")
    @classmethod
    def _check_destinations(cls, destinations: tuple[str, ...]) -> tuple[str, ...]:
        for uri in destinations:
            if "," in uri:
                raise ValueError(f"not a destination: {uri!r}; use s3://bucket/prefix or file:///folder without commas")
            try:
                parse_destination(uri)
            except DestinationRefusedError as error:
                raise ValueError(f"{uri!r}: {error}") from error
        return destinations

    @field_validator("s3_sources")
    @classmethod
    def _check_sources(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if not S3_PREFIX.fullmatch(prefix):
                raise ValueError(f"not a prefix: {prefix!r}; use s3://bucket/prefix, without commas")
        return prefixes

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_device(device) for device in devices)

    @field_validator("hub_endpoint")
    @classmethod
    def _check_hub(cls, endpoint: str) -> str:
        if not endpoint:
            return endpoint
        parts = split_url(endpoint)
        if parts is None or parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.query:
            raise ValueError("not the URL of a hub; use https://huggingface.co or that of a mirror")
        return endpoint.rstrip("/")

    @field_validator("capacity_url")
    @classmethod
    def _check_capacity_url(cls, url: str) -> str:
        if not url:
            return url
        parts = split_url(url)
        if parts is None or parts.scheme not in ("http", "https") or parts.query:
            raise ValueError("not an address; use http://head:8265 for Ray, https://host:6443 for Kubernetes")
        if "@" in parts.netloc:
            raise ValueError("the address must not hold credentials; set capacity_token_file")
        return url.rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, text: str) -> str:
        use = "use sqlite:////absolute/path/to/a/file or postgresql://user:password@host/database"
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):  # such as a port that is no number
            raise ValueError(f"not a database URL; {use}") from None
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise ValueError(f"it names {url.get_backend_name()}, which is not supported; {use}")
        plain(f"{url.username}{url.password}{url.host}{url.database}/")  # decoded
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            assert url.database is not None
            url = url.set(database=str(_absolute(Path(url.database))))
        return url.render_as_string(hide_password=False)

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _check_address(cls, address: str) -> str:
        if address and not address.startswith("unix:"):
            host, separator, port = address.rpartition(":")
            if not (host and separator and port.isascii() and port.isdigit() and int(port) < 2**16):
                raise ValueError(f"not an address: {address!r}; use host:port, e.g. 127.0.0.1:50051")
        return address

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if not self.listen:
            raise ValueError("listen is empty; give the gRPC server an address, e.g. 127.0.0.1:50051")
        if self.metrics_listen.startswith("unix:"):
            raise ValueError("metrics_listen takes host:port only; Prometheus does not scrape sockets of files")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together; set both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs TLS; set tls_certificate and tls_key too")
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError("s3_access_key and s3_secret_key belong together; set both or none")
        if self.capacity != "none" and not self.capacity_classes:
            raise ValueError("capacity_classes is empty; say what an agent has, and how it is asked for")
        if self.capacity == "ray" and not self.capacity_url:
            raise ValueError("capacity_url is empty; give the address of Ray's dashboard, e.g. http://head:8265")
        return self

    @property
    def public_addresses(self) -> dict[str, str]:
        """The addresses that other machines can reach, by the setting that names them."""
        addresses = {"listen": self.listen, "metrics_listen": self.metrics_listen}
        return {name: address for name, address in addresses.items() if address and not _is_local(address)}

    @property
    def missing_protection(self) -> tuple[str, ...]:
        """What protection the gRPC server lacks, if other machines can reach it."""
        if _is_local(self.listen):
            return ()
        parts = {"TLS": self.tls_certificate, "tokens": self.tokens_file}
        return tuple(name for name, value in parts.items() if value is None)

    def check_listen(self) -> None:
        """Check that a server may listen with these settings; other commands may have them without.

        Raises:
            ValueError: other machines could reach it although protection is missing.
        """
        if self.missing_protection and not self.allow_public_listen:
            raise ValueError(
                f"listen is {self.listen!r}, which other machines can reach, and this server has "
                f"{' and '.join(f'no {part}' for part in self.missing_protection)}; set tls_certificate, tls_key and "
                "tokens_file (secateur-service tokens create NAME), or listen on 127.0.0.1, or set "
                "SECATEUR_ALLOW_PUBLIC_LISTEN=true where a proxy in front does what is missing"
            )

    @property
    def worker_threads(self) -> int:
        """CPU threads of each process of a worker, at least one."""
        processes = max(1, len(self.devices)) * self.processes_per_worker
        return self.threads_per_worker or max(1, len(os.sched_getaffinity(0)) // processes)

    def account_of(self, reference: str) -> Account:
        """The account for `s3://bucket/prefix` or `hf://org/name`: that of the longest matching prefix."""
        fitting = [
            (len(prefix), name)
            for name, credentials in self.credentials.items()
            for prefix in credentials.prefixes
            if f"{reference}/".startswith(f"{prefix.rstrip('/')}/")
        ]
        given = self.credentials[max(fitting)[1]] if fitting else self
        return Account(
            given.s3_endpoint or self.s3_endpoint,
            given.s3_access_key,
            given.s3_secret_key,
            given.s3_region or self.s3_region,
            given.hub_token,
        )

    def library_environment(self) -> dict[str, str]:
        """Variables that make the hub's libraries follow these settings; the libraries read them when loaded."""
        return {
            "HF_ENDPOINT": self.hub_endpoint or "http://no-hub.invalid",
            "HF_HUB_OFFLINE": str(int(self.hub_offline or not self.hub_endpoint)),
            "HF_HOME": str(self.cache_dir / "huggingface"),
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_EVALUATE_OFFLINE": "1",  # metrics of the hub are code
        }

    def secrets(self) -> Iterator[str]:
        """Every secret in these settings, and those in the environment that libraries read by themselves."""
        for secret in (self.s3_secret_key, self.hub_token):
            if secret is not None:
                yield secret.get_secret_value()
        for credentials in self.credentials.values():
            yield from credentials.secrets()
        password = make_url(self.database_url).password
        if password:
            yield str(password)
        yield from secrets_of_environment(os.environ)

    def redacted(self) -> dict[str, Any]:
        """All settings as plain JSON types with secrets hidden, for printing at start."""
        url = make_url(self.database_url).render_as_string(hide_password=True)
        return {**self.model_dump(mode="json"), "database_url": url}

    def worker_environment(self) -> dict[str, str]:
        """The environment from which another process reads exactly these settings, without the settings file."""
        values = {PREFIX + name.upper(): _as_variable(name, value) for name, value in self}
        return {name: text for name, text in values.items() if text is not None}


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{path} begins with the name of a user whom this machine does not know") from error


def _is_local(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _as_variable(name: str, value: object) -> str | None:
    if isinstance(value, dict):
        return json.dumps({key: _plain(entry) for key, entry in value.items()})
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return (os.pathsep if name == "file_roots" else ",").join(str(part) for part in value)
    return None if value is None else str(value)


def _plain(entry: Credentials | AgentClass) -> dict[str, Any]:
    """An account or a class of agents as plain data, secrets included."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in entry
        if value is not None
    }


def _file_content() -> dict[str, Any]:
    """The settings file as data; empty if none is named.

    Leaves out settings that the environment has: sources are merged table by table, and accounts must not be mixed.
    """
    name = os.environ.get(FILE_VARIABLE)
    if not name:
        return {}
    variables = {variable.upper() for variable in os.environ}
    try:
        content = tomllib.loads(Path(name).read_text(encoding="utf-8"))
        return {key: value for key, value in content.items() if PREFIX + key.upper() not in variables}
    except OSError as error:
        raise SettingsError(f"{FILE_VARIABLE} names {name!r}, which cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{FILE_VARIABLE} names {name!r}, which is not a TOML file: {error}") from error
