"""docs/cli.md: every command of both programs with its arguments and flags, and what the exit codes mean."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
from typer.main import get_command

from documentation.text import code, generated, paragraph, table
from secateur.cli._app import app as client_app
from secateur.cli._exit import MEANINGS
from secateur_service.commands.main import app as service_app

_HEAD = """
# The command line

`secateur` asks a service, and comes with the SDK (`pip install .`). `secateur-service` is the service itself, and runs
single jobs without one (`pip install '.[service]'`). This page is what their `--help` says.

Both write results to the standard output and everything else to the standard error. With `--output json` each line of
the standard output is one JSON object. How to set the endpoint and all else: [settings](settings.md).
"""
_EXIT_CODES = """
## Exit codes

`secateur-service` ends with 0, with 2 where the command line or the settings are wrong, with 1 where a server cannot
start. A file or folder that the command line names and that is missing, cannot be read or written, or belongs to
another job, is a wrong command line. Otherwise `run` ends with the [exit code of a
worker](jobs.md#how-an-attempt-may-end), 10 where the specification is refused, and `compare` with 10 where a report
cannot be compared.
"""
_EXAMPLES = "\b"


def page() -> str:
    """The page."""
    parts = [generated("the commands' own help"), _HEAD.strip("\n")]
    for name, app in (("secateur", client_app), ("secateur-service", service_app)):
        command = get_command(app)
        context = click.Context(command, info_name=name)
        parts += [f"## {name}", _help(command.help), *_parameters(command, context)]
        parts += _commands(command, context)
    rows = [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]
    parts += [_EXIT_CODES.strip("\n"), table(("code of `secateur`", "meaning"), rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _commands(group: click.Command, context: click.Context) -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        if command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
        yield f"### {inner.command_path}"
        yield code(usage)
        yield _help(command.help)
        yield from _parameters(command, inner)
        yield from _commands(command, inner)


def _parameters(command: click.Command, context: click.Context) -> Iterator[str]:
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or parameter.name in ("install_completion", "show_completion"):
            continue
        names, text = record
        rows.append((f"`{names}`", " ".join(text.split())))
    if rows:
        yield table(("argument or flag", "meaning"), rows)


def _help(text: str | None) -> str:
    """A command's help: paragraphs, and its examples as they are."""
    parts = []
    for block in re.split(r"\n{2,}", inspect.cleandoc(text or "")):
        if not block.strip():
            continue
        if block.startswith(_EXAMPLES):
            title, _, body = block.removeprefix(_EXAMPLES).lstrip("\n").partition("\n")
            parts += [title, code(inspect.cleandoc(body))]
        elif "\n  " in block:
            title, _, body = block.partition("\n")
            parts += [title, code(inspect.cleandoc(body))]
        else:
            parts.append(paragraph(block))
    return "\n\n".join(parts)
