"""`secateur config`: what is in force, and where it comes from."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict

import typer

from secateur._channel import connection
from secateur._config import FILE_VARIABLE, ClientConfig, ConfigSources, find_config
from secateur._errors import ConfigError
from secateur._redaction import redact
from secateur._terminal import say, write
from secateur._text import columns
from secateur.cli._exit import error_json, error_text, exit_code
from secateur.cli._render import to_json
from secateur.cli._session import EndpointOption, Output, OutputOption, Shared, TokenOption

_ALIKE = 0.8
"""Least similarity of a misspelt variable; a service's own, such as SECATEUR_TOKENS_FILE, are less like ours."""


def config(
    context: typer.Context,
    *,
    endpoint: EndpointOption = None,
    token: TokenOption = None,
    output: OutputOption = None,
) -> None:
    """Print the settings in force, and where each comes from. Asks no service, and shows no secret.

    \b
    Examples:
      secateur config
      SECATEUR_ENDPOINT=https://secateur.example.com:443 secateur config --output json

    Ends with exit code 2 if no connection can be made with them.
    """  # noqa: D301 - \b keeps the lines of the examples
    given = (context.obj or Shared()).under(Shared(endpoint, token, output))
    as_json = given.output is Output.JSON
    try:
        found = find_config({"endpoint": given.endpoint, "token": given.token})
        write(_json(found) if as_json else _text(found), stream=sys.stdout)
        for name, meant in _misspelt(os.environ).items():
            say(f"warning: {name} has no effect; did you mean {meant}?")
        connection(found.config)
    except ConfigError as error:
        say(error_json(error) if as_json else error_text(error, ""))
        raise typer.Exit(exit_code(error)) from error


def _shown(config: ClientConfig) -> dict[str, object]:
    shown: dict[str, object] = redact(asdict(config))
    return shown


def _text(found: ConfigSources) -> str:
    rows = [("SETTING", "VALUE", "FROM")]
    for name, value in _shown(found.config).items():
        rows.append((name, "none" if value is None else str(value), found.sources[name]))
    if found.file is None:
        file = f"no file, as neither {FILE_VARIABLE} nor HOME is set"
    else:
        file = f"{found.file}{'' if found.file.exists() else ' (there is none)'}"
    return f"{columns(rows)}\n\nConfiguration file: {file}"


def _json(found: ConfigSources) -> str:
    values = _shown(found.config)
    return to_json(
        {
            "file": None if found.file is None else str(found.file),
            "file_exists": found.file is not None and found.file.exists(),
            "settings": {name: {"value": values[name], "source": source} for name, source in found.sources.items()},
            "misspelt": _misspelt(os.environ),
        }
    )


def _misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that are almost one of the client's, each with that one."""
    known = [FILE_VARIABLE, *(f"SECATEUR_{name.upper()}" for name in ClientConfig.__dataclass_fields__)]
    endings = [name.removeprefix("SECATEUR_") for name in known]
    found = {}
    for name in sorted(environment):
        if name.startswith("SECATEUR_") and name not in known:
            for match in difflib.get_close_matches(name.removeprefix("SECATEUR_"), endings, n=1, cutoff=_ALIKE):
                found[name] = f"SECATEUR_{match}"
    return found
