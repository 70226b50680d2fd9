"""Where the settings in force come from, and which variables only look like settings.

A variable that no setting reads is usually a misspelt one, and nobody notices: the setting keeps its default.
Kubernetes adds variables of its own: for a Service named `secateur` every pod of its namespace gets
`SECATEUR_SERVICE_HOST`, `SECATEUR_PORT_50051_TCP` and so on, unless the pod's `enableServiceLinks` is false.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields

from secateur._config import FILE_VARIABLE as CLIENTS_FILE_VARIABLE
from secateur._config import ClientConfig
from secateur._suggestions import close_to
from secateur_service.settings import FILE_VARIABLE, PREFIX, Settings

DEFAULT = "default"
_SERVICE_LINK = re.compile(
    r"([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def unknown_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Variables that look like settings but are not, each with the variable that was probably meant.

    Those of the SDK and its command line, which may share an environment with a server, are known; so are those that
    Kubernetes sets for Services.
    """
    ours = {PREFIX + name.upper() for name in Settings.model_fields} | {FILE_VARIABLE}
    known = ours | {PREFIX + field.name.upper() for field in fields(ClientConfig)} | {CLIENTS_FILE_VARIABLE}
    found = sorted(
        name
        for name in environment
        if name.upper().startswith(PREFIX)
        and name.upper() not in known
        and not _SERVICE_LINK.fullmatch(name.removeprefix(PREFIX))
    )
    return {name: _closest(name, ours) for name in found}


def sources_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Where each setting was read from: its variable, the settings file, or `default`.

    Args:
        settings: as read from that environment, without arguments.
        environment: the environment.
    """
    variables = {name.upper(): name for name in environment}
    file = environment.get(FILE_VARIABLE, "")
    return {
        name: variables.get(PREFIX + name.upper()) or (file if name in settings.model_fields_set else DEFAULT)
        for name in Settings.model_fields
    }


def _closest(name: str, names: set[str]) -> str | None:
    """The name that is most like this one, compared without the prefix, which all share."""
    endings = [known.removeprefix(PREFIX) for known in sorted(names)]
    match = close_to(name.upper().removeprefix(PREFIX), endings)
    return None if match is None else PREFIX + match
