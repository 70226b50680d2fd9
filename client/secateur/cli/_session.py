"""What every command has in common: the options that name the service, the client, and the way errors end it."""

from __future__ import annotations

import enum
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from secateur._channel import certificate_names
from secateur._client import Client
from secateur._config import DEFAULT_ENDPOINT, ClientConfig
from secateur._errors import OTHER_NAMES, FieldViolation, InvalidRequestError, SecateurError, UnreachableError
from secateur._handle import JobHandle
from secateur._job import JOB_ID, NAME_PREFIX
from secateur._spec_warning import SpecWarning
from secateur._terminal import OutputLostError, clean, say, write
from secateur._tracing import trace_of_environment
from secateur.cli._exit import ExitCode, error_json, error_text, exit_code
from secateur.cli._flags import argument_as_typed, shown
from secateur.cli._render import to_json


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

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Name of the job, pruneJobs/ID, or its ID alone, or what that begins with.")
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


class Messages(logging.Handler):
    """Shows what the SDK logs, by default as lines on standard error.

    Attributes:
        show: Called with the level of a message and its text, on one line.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.show: Callable[[int, str], None] = lambda _, text: say(text)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message."""
        self.show(record.levelno, clean(record.getMessage()))


@dataclass(frozen=True)
class Session:
    """One run of a command.

    Attributes:
        client: The connection to the service.
        as_json: Whether results are for programs.
        messages: Shows what the SDK logs.
    """

    client: Client
    as_json: bool
    messages: Messages

    def job(self, text: str) -> JobHandle:
        """The job that an argument names: by its name, its id, or the beginning of its id.

        Raises:
            InvalidRequestError: it names no job, whatever jobs there are.
            NotFoundError: several ids begin so.
        """
        if not JOB_ID.fullmatch(text.removeprefix(NAME_PREFIX)):
            problem = (
                "not the name or the ID of a job; expected lower-case letters, digits and dashes, also with pruneJobs/ "
                "before them; `secateur list` shows them"
            )
            raise InvalidRequestError([FieldViolation("name" if self.as_json else f"JOB {shown(text)}", problem)])
        return self.client.find_job(text)

    def show(self, text: str, value: Any) -> None:
        """Print a result: the text for people, the value as JSON."""
        write(to_json(value) if self.as_json else text, stream=sys.stdout)

    def note(self, text: str) -> None:
        """Say something to people only, beside the results."""
        if not self.as_json:
            say(clean(text))


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its `Session` as first argument, and the common options.

    Errors of the SDK become one message and an exit code.
    """
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]

    def invoke(*, context: typer.Context, **values: Any) -> None:
        given = Shared(values.pop("endpoint"), values.pop("token"), values.pop("output"))
        shared = (context.obj or Shared()).under(given)

        def run(session: Session) -> None:
            try:
                command(session, **values)
            except (InvalidRequestError, UnreachableError) as error:
                if not session.as_json:  # programs know the fields
                    error.rename(lambda field: argument_as_typed(field, values))
                raise

        raise typer.Exit(_ended(run, shared))

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
    config: ClientConfig | None = None
    messages = Messages()
    logger = logging.getLogger("secateur")
    logger.setLevel(messages.level)
    logger.addHandler(messages)
    logger.propagate = False
    try:
        with (
            trace_of_environment(os.environ),
            warnings.catch_warnings(),
            Client(shared.endpoint, token=shared.token) as client,
        ):
            config, endpoint = client.config, client.config.endpoint
            warnings.simplefilter("ignore", SpecWarning)  # the command says them itself
            run(Session(client, as_json, messages))
    except SecateurError as error:
        say(error_json(error) if as_json else error_text(error, endpoint))
        if error.reason == OTHER_NAMES and config is not None and not as_json and (names := certificate_names(config)):
            say(f"the certificate is for {clean(', '.join(names))}")
        return exit_code(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except UnicodeEncodeError:  # what the system could not decode cannot be sent
        say("an argument holds bytes that are no text here; use UTF-8 (LC_ALL=C.UTF-8), or percent-encode a path")
        return ExitCode.USAGE
    except OutputLostError as error:
        if not str(error):
            return ExitCode.OUTPUT_LOST
        say(str(error))
        return ExitCode.REFUSED
    return ExitCode.DONE
