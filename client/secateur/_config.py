"""Where the client's configuration comes from: arguments, then the environment, then a file, then the defaults."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from secateur._errors import ConfigError
from secateur._terminal import first_unsafe

FILE_VARIABLE = "SECATEUR_CONFIG"
DEFAULT_ENDPOINT = "localhost:50051"
_AROUND = re.compile(r"\A[\s\ufeff]+|[\s\ufeff]+\Z")  # a byte order mark, which some editors write


@dataclass(frozen=True)
class ClientConfig:
    """How to reach the service.

    Every field can be set by the environment variable `SECATEUR_{FIELD}`, or by its name in the TOML file that
    `SECATEUR_CONFIG` names, by default `~/.config/secateur/config.toml`. White space at the ends of a value, such as
    the line break that `echo` writes, is stripped.

    Attributes:
        endpoint: `host:port`; `http://host:port` is the same, `https://host:port` uses TLS. Several addresses are
            separated by commas. Any gRPC target works; `dns:///name:port` spreads calls over all replicas.
        token: Bearer token, sent only over TLS or to this machine.
        ca_file: PEM file with the certificate authorities to trust instead of gRPC's own.
        certificate_file: PEM file with our own certificate and its chain, for a service that asks clients for one.
        key_file: PEM file with the private key of that certificate, without a passphrase.
        timeout_seconds: Time for one response, retries included.
        reconnect_seconds: How long a watch tries to reconnect to a lost service before it gives up.
    """

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    timeout_seconds: float = 60.0
    reconnect_seconds: float = 300.0


_PORT = re.compile(r":(\d{1,20})(?=$|[,/])")
_LARGEST_PORT = 65535
LONGEST_SECONDS = 365 * 86_400
"""The longest time to wait, a year: gRPC takes a time far beyond it for one that is over."""
_NUMBERS = ("timeout_seconds", "reconnect_seconds")


@dataclass(frozen=True)
class ConfigSources:
    """A configuration, and where it comes from.

    Attributes:
        config: The configuration.
        sources: For each of its fields: `default`, the path of the file, the name of the variable or of the argument.
        file: The file that is looked for, whether it exists or not; None if there is no place to look.
    """

    config: ClientConfig
    sources: Mapping[str, str]
    file: Path | None


def load_config(
    arguments: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> ClientConfig:
    """The configuration from all its sources; arguments that are None and empty variables count as not given.

    Raises:
        ConfigError: a source cannot be read, or a value has the wrong type.
    """
    return find_config(arguments, environment).config


def find_config(
    arguments: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> ConfigSources:
    """The configuration as `load_config` reads it, with its sources.

    Raises:
        ConfigError: a source cannot be read, or a value has the wrong type.
    """
    names = [entry.name for entry in fields(ClientConfig)]
    values: dict[str, tuple[Any, str]] = {}
    file = _config_file(environment)
    if file is not None and (environment.get(FILE_VARIABLE) or file.exists()):
        values.update({name: (value, str(file)) for name, value in _file_values(file, names).items()})
    for name in names:
        variable = f"SECATEUR_{name.upper()}"
        if environment.get(variable):
            values[name] = (environment[variable], variable)
    for name, value in (arguments or {}).items():
        if value is not None:
            values[name] = (value, f"the argument {name}")
    config = ClientConfig(**{name: _checked(name, value, source) for name, (value, source) in values.items()})
    return ConfigSources(config, {name: values[name][1] if name in values else "default" for name in names}, file)


def _config_file(environment: Mapping[str, str]) -> Path | None:
    """Where the configuration file is looked for; it has to exist if it was named."""
    named = environment.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    base = environment.get("XDG_CONFIG_HOME")
    if not base:
        if "HOME" not in environment:
            return None
        base = str(Path(environment["HOME"]) / ".config")
    return Path(base) / "secateur" / "config.toml"


def _file_values(path: Path, names: list[str]) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    unknown = values.keys() - set(names)
    if unknown:
        raise ConfigError(f"{path} sets {', '.join(sorted(unknown))}, which is unknown; known are {', '.join(names)}")
    return values


def _checked(name: str, value: Any, source: str) -> Any:
    if name == "endpoint" and any(int(port) > _LARGEST_PORT for port in _PORT.findall(str(value))):
        raise ConfigError(f"endpoint from {source} is {value!r}; a port is at most {_LARGEST_PORT}")
    if name in _NUMBERS:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if not 0 < number <= LONGEST_SECONDS:
            raise ConfigError(
                f"{name} from {source} is {value!r}; expected a number of seconds above zero and at most "
                f"{LONGEST_SECONDS}, a year"
            )
        return number
    if not isinstance(value, str):
        raise ConfigError(f"{name} from {source} is no text; expected a text, in quotes")
    try:
        return plain_text(value)
    except ValueError as error:
        raise ConfigError(f"{name} from {source}: {error}") from None


def plain_text(value: str) -> str:
    """The value of a setting without white space at its ends, such as the line break that `echo` writes.

    Raises:
        ValueError: it contains a line break or the like; the message does not show the value, which may be a secret.
    """
    text = _AROUND.sub("", value)
    unsafe = first_unsafe(text)
    if unsafe is not None:
        raise ValueError(
            f"there is a line break or another character that no terminal shows in it ({unsafe}); was it cut, quoted, "
            "or put together from several lines?"
        )
    return text
