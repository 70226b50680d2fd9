"""What every command has in common: the options that name the service, the client, and the way errors end it."""

from __future__ import annotations

import enum
import inspect
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from secateur._client import Client
from secateur._config import DEFAULT_ENDPOINT
from secateur._errors import SecateurError
from secateur._tracing import trace_of_environment
from secateur.cli._exit import ExitCode, error_json, error_text, exit_code
from secateur.cli._render import to_json
from secateur.cli._text import clean


class Output(enum.StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="HOST:PORT",
        help="The service; https://host:port for TLS. Else SECATEUR_ENDPOINT, else the configuration file.",
        show_default=DEFAULT_ENDPOINT,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", help="Bearer token. Better in SECATEUR_TOKEN or the configuration file than on the command line."
    ),
]
OutputOption = Annotated[
    Output | None,
    typer.Option("--output", "-o", help="json: one JSON object a line, for programs.", show_default="text"),
]


@dataclass(frozen=True)
class Shared:
    """The options before the command, or after it: those after it win."""

    endpoint: str | None = None
    token: str | None = None
    output: Output | None = None

    def under(self, later: Shared) -> Shared:
        """These options where the later ones are not given."""
        return Shared(later.endpoint or self.endpoint, later.token or self.token, later.output or self.output)


@dataclass(frozen=True)
class Session:
    """One run of a command."""

    client: Client
    as_json: bool

    def show(self, text: str, value: Any) -> None:
        """Print a result: the text for people, the value as JSON."""
        typer.echo(to_json(value) if self.as_json else text)

    def note(self, text: str) -> None:
        """Say something to people only, beside the results."""
        if not self.as_json:
            typer.echo(clean(text), err=True)


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its `Session` as first argument, and the common options.

    Errors of the SDK become one message and an exit code.
    """
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]

    def invoke(*, context: typer.Context, **values: Any) -> None:
        given = Shared(values.pop("endpoint"), values.pop("token"), values.pop("output"))
        shared = (context.obj or Shared()).under(given)
        raise typer.Exit(_ended(lambda session: command(session, **values), shared))

    common = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None)
            for name, annotation in (("endpoint", EndpointOption), ("token", TokenOption), ("output", OutputOption))
        ),
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + common
    invoke.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    invoke.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    invoke.__name__ = command.__name__
    invoke.__doc__ = command.__doc__
    return invoke


def _ended(run: Callable[[Session], None], shared: Shared) -> int:
    """Run a command to its exit code."""
    as_json = shared.output is Output.JSON
    endpoint = shared.endpoint or ""
    _log_to_stderr()
    try:
        with trace_of_environment(os.environ), Client(shared.endpoint, token=shared.token) as client:
            endpoint = client.config.endpoint
            run(Session(client, as_json))
            sys.stdout.flush()
    except SecateurError as error:
        typer.echo(error_json(error) if as_json else error_text(error, endpoint), err=True)
        return exit_code(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    return ExitCode.DONE


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(clean(record.getMessage()), err=True)


def _log_to_stderr() -> None:
    logger = logging.getLogger("secateur")
    logger.addHandler(_StderrHandler())
    logger.propagate = False
