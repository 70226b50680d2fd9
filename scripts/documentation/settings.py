"""docs/settings.md: every setting of the service and of the client, and every other variable that they follow."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from documentation.text import generated, table
from secateur._config import ClientConfig
from secateur_service.accounts import Credentials
from secateur_service.agent_classes import AgentClass
from secateur_service.settings import PREFIX, Settings

_HEAD = """
# Settings

## The client

The SDK and `secateur` take each value from an argument (`secateur.Client(endpoint=...)`, `--endpoint`), else from an
environment variable, else from a TOML file, else they use the default. The file is the one that `SECATEUR_CONFIG`
names, by default `~/.config/secateur/config.toml` (below `$XDG_CONFIG_HOME` if that is set):

```toml
endpoint = "https://secateur.example.com:50051"
token = "..."
ca_file = "/etc/secateur/ca.pem"
```
"""
_SERVICE = """
## The service

Every setting is an environment variable, or a key of the TOML file that `SECATEUR_SETTINGS_FILE` names; the variable
wins over the file, and a flag of `secateur-service serve` over both. Lists are separated by commas in a variable
(`SECATEUR_FILE_ROOTS` by colons), and are arrays in the file:

```toml
data_dir = "/var/lib/secateur"
file_roots = ["/models", "/corpora"]
devices = ["cuda:0", "cuda:1"]
destinations = ["s3://results/secateur"]
s3_endpoint = "https://store.example.com"
```

A worker has the settings of its server. At start the server writes all settings to its log, with secrets hidden.
"""
_ACCOUNTS = """
### Accounts

`credentials` gives names to accounts, in the file as tables `[credentials.NAME]`, in `SECATEUR_CREDENTIALS` as a JSON
object; see [where models and text lie](specification.md#where-models-and-text-lie).
"""
_CLASSES = """
### Classes of agents

`capacity_classes` gives names to classes of agents, in the file as tables `[capacity_classes.NAME]`, in
`SECATEUR_CAPACITY_CLASSES` as a JSON object; see [agents on a cluster](clusters.md).
"""
_OTHERS = """
## Other variables

| variable | what it does |
|---|---|
| `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | with the extra `traces`: where traces go; OpenTelemetry's other variables hold too |
| `TRACEPARENT`, `TRACESTATE` | the trace that the client's calls belong to, as W3C defines them |
| `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` | proxies for the hub and the object store |
| `SSL_CERT_FILE`, `SSL_CERT_DIR` | authorities to trust for the hub and the object store |
| `CUDA_VISIBLE_DEVICES` | the devices that a service and its workers see |
| `GRPC_VERBOSITY` | what gRPC itself prints; errors of the service only, unless set |

Variables of the hub's libraries (`HF_HOME`, `HF_ENDPOINT`, …) are not followed: the service sets them from its own
settings.
"""


def page() -> str:
    """The page."""
    parts = [
        generated("service/secateur_service/settings.py and client/secateur/_config.py"),
        _HEAD.strip("\n"),
        table(("variable", "key of the file", "default", "meaning"), _client_rows()),
        _SERVICE.strip("\n"),
        table(("variable", "key of the file", "default", "meaning"), _service_rows()),
        _ACCOUNTS.strip("\n"),
        table(("key", "meaning"), _keys_of(Credentials)),
        _CLASSES.strip("\n"),
        table(("key", "default", "meaning"), _class_rows()),
        _OTHERS.strip("\n"),
    ]
    return "\n\n".join(parts) + "\n"


def _client_rows() -> Iterator[tuple[str, str, str, str]]:
    """The fields of the client's configuration, described by its docstring."""
    text = inspect.getdoc(ClientConfig) or ""
    attributes = text.split("Attributes:\n")[1]
    described = dict(re.findall(r"^ {4}(\w+): ((?:.|\n {8})*)", attributes, re.MULTILINE))
    for field in dataclasses.fields(ClientConfig):
        meaning = " ".join(described[field.name].split())
        yield f"`{PREFIX}{field.name.upper()}`", f"`{field.name}`", _shown(field.default), meaning


def _service_rows() -> Iterator[tuple[str, str, str, str]]:
    for name, field in Settings.model_fields.items():
        yield (f"`{PREFIX}{name.upper()}`", f"`{name}`", _default_of(name), field.description or "")


def _keys_of(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        yield f"`{name}`", field.description or ""


def _class_rows() -> Iterator[tuple[str, str, str]]:
    for (name, meaning), field in zip(_keys_of(AgentClass), AgentClass.model_fields.values(), strict=True):
        yield name, "has to be given" if field.is_required() else _shown(field.default), meaning


# Defaults that follow from other settings, which no value shows.
_DERIVED = {
    "database_url": "`secateur.sqlite3` in `data_dir`",
    "destinations": "`artifacts` in `data_dir`",
    "cache_dir": "`cache` in `data_dir`",
}


def _default_of(name: str) -> str:
    default = Settings.model_fields[name].default
    if name in _DERIVED:
        return _DERIVED[name]
    if default is PydanticUndefined:
        raise LookupError(f"say in _DERIVED what the default of {name} is")
    return _shown(default)


def _shown(default: object) -> str:
    """A default as one would write it in a variable."""
    if default in (None, (), {}, ""):
        return "none"
    if isinstance(default, tuple):
        return f"`{','.join(str(part) for part in default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{str(default).removesuffix('.0')}`"
