"""The service's accounts with object stores and the hub, and their secrets.

White space at the ends of a secret, such as the line break that `echo` writes, is stripped, as for every setting. A
secret with a control character inside is refused, in a message that names the setting but does not show the value:
otherwise a library would refuse it later and quote it. Environment variables that hold secrets and are read by
libraries get the same treatment (`clean_environment`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from secateur._config import plain_text
from secateur._redaction import passwords_of

PROXIES = tuple(f"{scheme}_proxy" for scheme in ("http", "https", "all"))
HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")

S3_PREFIX = re.compile(r"s3://[^/,]+(/[^,]*)?")
_HUB_PREFIX = re.compile(r"hf://(datasets/)?[\w.-]+(/[\w.-]+)?", re.ASCII)


def plain(value: Any) -> Any:
    """A setting, or each string in a list, without white space at its ends.

    Raises:
        ValueError: it contains a control character; the message does not show the value.
    """
    if isinstance(value, SecretStr):
        return SecretStr(plain(value.get_secret_value()))
    if isinstance(value, list | tuple):
        return type(value)(plain(entry) for entry in value)
    if not isinstance(value, str):
        return value
    return plain_text(value)


def empty_is_unset(value: Any) -> Any:
    """None for an empty string."""
    return None if value == "" or (isinstance(value, SecretStr) and not value.get_secret_value()) else value


def _check_token(token: SecretStr | None) -> SecretStr | None:
    """Check a token for characters that cannot be sent in a header."""
    if token is not None and not re.fullmatch(r"[!-~]+", token.get_secret_value()):
        raise ValueError("there are spaces or letters in it that no token has; was it cut or quoted?")
    return token


def _check_access_key(key: str | None) -> str | None:
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        raise ValueError("there are spaces or letters in it that no access key has; was it cut or quoted?")
    return key


def split_url(text: str) -> SplitResult | None:
    """The parts of a URL; None if it is not a URL or names no host."""
    try:
        parts = urlsplit(text)
        names_host = bool(parts.hostname) and parts.port != 0  # reading the port validates it
    except ValueError:
        return None
    return parts if names_host else None


def _check_store(endpoint: str | None) -> str | None:
    if endpoint is not None:
        parts = split_url(endpoint)
        if parts is None or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query:
            raise ValueError("not the URL of an S3 store; use https://host:port (or http:// for one without TLS)")
        if "@" in parts.netloc:
            raise ValueError("the URL must not hold credentials; set s3_access_key and s3_secret_key")
    return endpoint


StoreUrl = Annotated[str | None, BeforeValidator(empty_is_unset), AfterValidator(_check_store)]
AccessKey = Annotated[str | None, BeforeValidator(empty_is_unset), AfterValidator(_check_access_key)]
Secret = Annotated[SecretStr | None, BeforeValidator(empty_is_unset)]
Token = Annotated[SecretStr | None, BeforeValidator(empty_is_unset), AfterValidator(_check_token)]


@dataclass(frozen=True)
class Account:
    """An account with an object store and with the hub."""

    s3_endpoint: str | None
    s3_access_key: str | None
    s3_secret_key: SecretStr | None
    s3_region: str
    hub_token: SecretStr | None


class Credentials(BaseModel):
    """A separate account for everything below some prefixes. What jobs may name is set elsewhere: `s3_sources`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    prefixes: tuple[str, ...] = Field(
        min_length=1, description="s3://bucket/prefix, hf://org/name, hf://org or hf://datasets/org; the longest counts"
    )
    s3_endpoint: StoreUrl = Field(default=None, description="another store than the service's")
    s3_access_key: AccessKey = Field(default=None, description="access key of the store")
    s3_secret_key: Secret = Field(default=None, description="secret key of the store")
    s3_region: str | None = Field(default=None, description="another region than the service's")
    hub_token: Token = Field(default=None, description="token of the hub, for private and gated repositories")

    _plain = field_validator("*", mode="before")(plain)

    @field_validator("prefixes")
    @classmethod
    def _check_prefixes(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if not (S3_PREFIX.fullmatch(prefix) or _HUB_PREFIX.fullmatch(prefix)):
                raise ValueError(f"not a prefix: {prefix!r}; use s3://bucket/prefix, hf://org/name or hf://org")
        return prefixes

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError("s3_access_key and s3_secret_key belong together; set both or none")
        for prefix in self.prefixes:
            if prefix.startswith("s3://") and self.s3_access_key is None:
                raise ValueError(f"there are no keys for {prefix}; set s3_access_key and s3_secret_key")
            if prefix.startswith("hf://") and self.hub_token is None:
                raise ValueError(f"there is no token for {prefix}; set hub_token")
        return self

    def secrets(self) -> Iterator[str]:
        """The secrets of this account."""
        for secret in (self.s3_secret_key, self.hub_token):
            if secret is not None:
                yield secret.get_secret_value()


def clean_environment(environment: MutableMapping[str, str]) -> None:
    """Strip the proxy and header variables that libraries read from the environment.

    Raises:
        ValueError: one contains a control character; the message names the variable but does not show its value.
    """
    for name in _secret_variables(environment):
        try:
            environment[name] = plain(environment[name])
            plain(unquote(environment[name]) + "/")  # "/": a control character decoded at the end counts too
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def secrets_of_environment(environment: Mapping[str, str]) -> Iterator[str]:
    """Proxy passwords and header values."""
    for name in _secret_variables(environment):
        value = environment[name]
        if name in HEADERS:
            for header in value.split(","):
                content = header.partition("=")[2].strip()
                yield from (content, unquote(content))
        else:
            yield from passwords_of(value)


def _secret_variables(environment: Mapping[str, str]) -> list[str]:
    return [name for name in environment if name.lower() in PROXIES or name in HEADERS]
