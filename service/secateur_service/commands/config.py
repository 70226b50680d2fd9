"""`secateur-service config`: the settings in force, and where each comes from."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from secateur._redaction import redact
from secateur._terminal import say, write
from secateur._text import columns
from secateur_service.settings import FILE_VARIABLE, Settings
from secateur_service.variables import sources_of, unknown_variables


def print_settings(settings: Settings, *, as_json: bool) -> int:
    """Print every setting with its source, secrets hidden, and warn of what has no effect; returns the exit code.

    Args:
        settings: as read from the environment and the settings file.
        as_json: one line of JSON, with the same content.
    """
    plain, sources = settings.redacted(), sources_of(settings)
    values = {name: redact({name: value})[name] if value else value for name, value in plain.items()}
    unknown = unknown_variables()
    absent = [str(root) for root in settings.file_roots if not root.is_dir()]
    if as_json:
        content = {
            "file": os.environ.get(FILE_VARIABLE) or None,
            "settings": {name: {"value": values[name], "source": source} for name, source in sources.items()},
            "unknown_variables": unknown,
            "absent_file_roots": absent,
        }
        write(json.dumps(content), stream=sys.stdout)
        return 0
    rows = [("SETTING", "VALUE", "FROM"), *((name, _cell(values[name]), sources[name]) for name in sources)]
    file = os.environ.get(FILE_VARIABLE) or f"none ({FILE_VARIABLE} names none)"
    write(f"{columns(rows)}\n\nSettings file: {file}", stream=sys.stdout)
    for name, meant in unknown.items():
        say(f"warning: {name} is no setting and has no effect; {f'did you mean {meant}?' if meant else 'remove it'}")
    for root in absent:
        say(f"warning: file_roots: there is no folder {root}; create it, mount it, or take it out")
    return 0


def _cell(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)
