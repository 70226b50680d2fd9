"""`secateur-service`: runs the server, its workers and single jobs.

Each command imports what it needs when it is called, so that `--help` is quick and the server stays free of torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from secateur._findings import worded
from secateur._redaction import protect
from secateur._terminal import EXIT_OUTPUT_LOST, OutputLostError, prepare_streams, say, show_exception, write
from secateur._usage import WordedGroup
from secateur_service import __version__
from secateur_service.accounts import clean_environment, secrets_of_environment
from secateur_service.private_files import exposed, keep_files_private
from secateur_service.settings import FILE_VARIABLE, MAX_PROCESSES, MAX_THREADS, PREFIX, Settings, check_device
from secateur_service.telemetry.logging import configure_logging

app = typer.Typer(
    name="secateur-service",
    cls=WordedGroup,
    help="Prunes language models for the languages their users speak: server, worker and single runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

tokens = typer.Typer(
    name="tokens",
    help="Make, list and revoke the tokens that callers have to show.\n\nThey are kept in the file of the setting "
    "tokens_file, hashed. A running server follows the file within a second; every replica needs it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(tokens)

_FLAGS = {
    "listen": "listen",
    "data_dir": "data-dir",
    "file_roots": "file-root",
    "destinations": "destination",
    "metrics_listen": "metrics-listen",
    "allow_public_listen": "allow-public-listen",
    "tls_certificate": "tls-certificate",
    "tls_key": "tls-key",
    "tls_client_ca": "tls-client-ca",
    "tokens_file": "tokens-file",
}
"""The settings that `serve` has flags for."""

EXIT_USAGE = 2
EXIT_CANNOT_START = 1
_AGENT_NAME = re.compile(r"[A-Za-z0-9.:_-]{1,100}")


def main() -> None:
    """Entry point of the command."""
    # Read when torch is loaded: threads that spin while waiting slow down everything else here tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_files_private()
    prepare_streams()
    try:
        clean_environment(os.environ)
    except ValueError as error:
        _fail(str(error), EXIT_USAGE)
    protect(secrets_of_environment(os.environ))
    sys.excepthook = show_exception
    try:
        app()
    except OutputLostError as error:
        if not str(error):
            sys.exit(EXIT_OUTPUT_LOST)
        _fail(str(error), EXIT_CANNOT_START)
    except _JobEndedError as ended:
        _leave(int(ended.code or 0))


class _JobEndedError(SystemExit):
    """A job ran in this process, which now exits with the job's exit code."""


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a closed or full stream must not change how the job ended
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    # Tearing down torch and transformers takes seconds, and whoever sent SIGTERM is waiting.
    os._exit(code)


def _version(asked: bool) -> None:
    if asked:
        write(f"secateur-service {__version__}", stream=sys.stdout)
        raise typer.Exit


@app.callback()
def _common(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the database, the work directories and, by default, the artifacts. On a local disk.",
        show_default="secateur-data",
    ),
]


@app.command()
def serve(
    *,
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address of the gRPC server, host:port or unix:path; port 0 takes a free one.",
            show_default="127.0.0.1:50051",
        ),
    ] = None,
    data_dir: DataDir = None,
    file_root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder below which file:// models and corpora may be read. Repeat it for several; without one no "
            "job can name a file.",
        ),
    ] = None,
    destination: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URI",
            help="Where results may be published, s3://bucket/prefix or file:///folder. Repeat it for several; the "
            "first is the default.",
            show_default="the folder `artifacts` of the data folder",
        ),
    ] = None,
    metrics_listen: Annotated[
        str | None,
        typer.Option(
            help="Address of the Prometheus endpoint, host:port; empty turns it off.", show_default="127.0.0.1:9464"
        ),
    ] = None,
    allow_public_listen: Annotated[
        bool | None,
        typer.Option(
            "--allow-public-listen",
            help="Permit a --listen address that other machines can reach although TLS or tokens are missing. Unsafe, "
            "unless a proxy in front does what is missing.",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file of the certificate, with its chain. Turns TLS on; exchanged without a restart."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's private key.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file of authorities; only clients with a certificate of theirs get a connection."),
    ] = None,
    tokens_file: Annotated[
        Path | None,
        typer.Option(help="File of the tokens that callers have to show; `secateur-service tokens` writes it."),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(help='File in which the addresses are written as JSON once the server answers: {"grpc": …}.'),
    ] = None,
) -> None:
    """Serve the API and run jobs on this machine's devices, until SIGTERM or SIGINT.

    Every flag is also a setting: SECATEUR_LISTEN, SECATEUR_DATA_DIR and so on. Settings not given here come from the
    environment, then from the TOML file that SECATEUR_SETTINGS_FILE names.
    """
    from secateur_service import app as application
    from secateur_service.hosting import CannotStartError

    settings = _settings(
        listen=listen,
        data_dir=data_dir,
        file_roots=file_root or None,
        destinations=destination or None,
        metrics_listen=metrics_listen,
        allow_public_listen=allow_public_listen,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        tokens_file=tokens_file,
    )
    try:
        try:
            application.check(settings)
        except ValueError as error:
            _fail(str(error), EXIT_USAGE)
        application.run(settings, ready_file=ready_file)
    except CannotStartError as error:
        _fail(f"the server cannot start: {error}", EXIT_CANNOT_START)


@app.command()
def agent(
    *,
    data_dir: DataDir = None,
    name: Annotated[
        str | None,
        typer.Option(help="Begins its id in the job store.", show_default="host and process id"),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End after one job, however that ends.")] = False,
    idle_seconds: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="End when no job has run here for so long.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="File that exists while the agent takes jobs; its id and devices as JSON.")
    ] = None,
) -> None:
    """Run jobs of the replicas on the devices that this process sees; for a scheduler to start, as often as it likes.

    It has no API. It takes jobs from the database that SECATEUR_DATABASE_URL names and needs the settings of the
    replicas. Without SECATEUR_DEVICES it has a slot for each GPU that CUDA_VISIBLE_DEVICES lists, or is visible, and
    one for the CPU where there is none.

    SIGTERM and SIGINT end it as they end `serve`: its jobs are released, are not charged, and go on elsewhere. A second
    one ends it at once. Its workers end with it, even if it is killed.

    Exit codes: 0 when it has done what it was to do; its jobs' results and failures are with the replicas. 13 when
    --once or --idle-seconds is given and a signal came first. 1 when it cannot start: no database, another schema, no
    place for results. 2 for an invalid setting.
    """
    from secateur_service import agent as application
    from secateur_service.hosting import CannotStartError

    if name is not None and not _AGENT_NAME.fullmatch(name):
        _fail("--name: use up to 100 letters, digits and .:_-", EXIT_USAGE)
    settings = _settings(data_dir=data_dir)
    try:
        settings = application.with_devices(settings, os.environ)
    except ValueError as error:
        _fail(str(error), EXIT_USAGE)
    try:
        code = application.run(settings, name=name, once=once, idle_seconds=idle_seconds, ready_file=ready_file)
    except CannotStartError as error:
        _fail(f"the agent cannot start: {error}", EXIT_CANNOT_START)
    sys.exit(code)


@app.command(hidden=True)
def work(
    *,
    job: Annotated[str, typer.Option(help="Id of the job.")],
    attempt: Annotated[int, typer.Option(help="Number of the attempt that was claimed.")],
    slot: Annotated[int, typer.Option(help="Device slot of this machine.")],
    lock: Annotated[Path | None, typer.Option(help="File to lock for the slot.")] = None,
) -> None:
    """Run one attempt of a job. The dispatcher starts this; the exit code says how the attempt ended."""
    from secateur_service.worker.attempt import run_attempt

    sys.exit(run_attempt(_settings(), job, attempt, slot, lock))


@app.command("help-job", hidden=True)
def help_job(
    *,
    rank: Annotated[int, typer.Option(help="Number of this process.")],
    of: Annotated[int, typer.Option(help="Number of processes.")],
    folder: Annotated[Path, typer.Option(help="Folder that the processes share.")],
) -> None:
    """Help to run a job. The process that runs it starts this, and ends it."""
    from secateur_service.pipeline.loading import load_pipeline

    load_pipeline()
    from secateur_service.pipeline.helper import help_job as run_helper

    sys.exit(run_helper(rank, of, folder))


@app.command()
def migrate(*, data_dir: DataDir = None) -> None:
    """Bring the database's schema up to date. `serve` does so by itself."""
    from secateur_service.errors import ServiceError
    from secateur_service.jobs.store import open_job_store

    settings = _settings(data_dir=data_dir)
    try:
        store = open_job_store(settings.database_url)
        try:
            newer = store.migrate()
        finally:
            store.close()
    except (ServiceError, ValueError, OSError) as error:
        _fail(f"the database cannot be migrated: {error}", EXIT_CANNOT_START)
    state = f"at revision {newer} of a newer release, which this one may use" if newer else "up to date"
    write(f"{settings.redacted()['database_url']} is {state}", stream=sys.stdout)


@app.command()
def config(*, as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False) -> None:
    """Print the settings in force without the flags of `serve`, and where each comes from. Shows no secret."""
    from secateur_service.commands.config import print_settings

    sys.exit(print_settings(_settings(), as_json=as_json))


@app.command()
def devices(*, as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False) -> None:
    """Print the devices of the setting `devices`, as this machine has them; ends with 1 if it lacks one."""
    from secateur_service.commands.devices import print_devices

    sys.exit(print_devices(_settings().devices, as_json=as_json))


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The specification of the job, YAML 1.2.")],
    *,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the artifacts. Running again with the same folder resumes.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="torch device, e.g. cpu or cuda:0.", show_default="cuda if there is one, else cpu"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_THREADS,
            help="CPU threads of each process.",
            show_default="the cores of this process, divided by `processes`",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_PROCESSES,
            help="Processes that run the job together, each on `threads`.",
            show_default="execution.processes of the specification, else 1",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one line of JSON on standard output: a summary, or the error.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the specification and estimate its cost.")
    ] = False,
) -> None:
    """Run one job here, without a server, and write the artifacts to a folder."""
    from secateur_service.commands.run import plan_command, run_command
    from secateur_service.commands.torchrun import place_in

    settings = _settings()
    if device is not None:
        try:
            check_device(device)
        except ValueError as error:
            _fail(f"--device: {error}", EXIT_USAGE)
    try:
        place = place_in(os.environ)
    except ValueError as error:
        _fail(str(error), EXIT_USAGE)
    if place is not None:
        if not place.is_first:
            sys.exit(0)
        processes = processes or place.count
    if dry_run:
        sys.exit(plan_command(spec, device, threads, processes, as_json=as_json, settings=settings))
    if output is None:
        _fail("--output is missing; name a folder for the artifacts, or give --dry-run", EXIT_USAGE)
    raise _JobEndedError(run_command(spec, output, device, threads, processes, settings, as_json=as_json))


@app.command("compare")
def compare_results(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Results of `run`, or downloaded ones; at most 50.")
    ],
    *,
    language: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            "-l",
            metavar="TAG",
            help="Language that the recommended result has to serve; by default all that each evaluated. Repeat it.",
        ),
    ] = None,
    max_growth: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="What a language may lose at most, as the ratio of pruned to dense: 1.05 permits five per cent. The "
            "smallest result within it is recommended.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the comparison as a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Put results side by side: what each language lost in each, size, time, and which one to take."""
    from secateur_service.commands.compare import compare_folders

    _settings()
    sys.exit(compare_folders(folders, language or (), max_growth, html, as_json=as_json))


@app.command()
def presets(
    names: Annotated[list[str] | None, typer.Argument(metavar="[PRESET]...", help="Only these.")] = None,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the hub whether it has every configuration; ends with 1 if not.")
    ] = False,
) -> None:
    """List the corpora that have a short name, with their languages.

    The table was written without access to the hub. --check asks the configured hub (SECATEUR_HUB_ENDPOINT, and
    SECATEUR_HUB_TOKEN for gated data sets) and reports what it lacks.
    """
    from secateur_service.commands.presets import list_presets

    sys.exit(list_presets(_settings(), names or (), check=check))


@app.command()
def demo(
    *,
    data_dir: Annotated[Path, typer.Option(help="Folder for the demo's model, text, database and results.")] = Path(
        "secateur-demo"
    ),
    inputs_only: Annotated[
        bool,
        typer.Option("--inputs-only", help="Only make the model and the text, in the folder `inputs`, for other jobs."),
    ] = False,
) -> None:
    """Train a tiny multilingual model, prune it through a real server, and print what each language lost."""
    from secateur_service.commands.demo.command import run_demo

    sys.exit(run_demo(data_dir, inputs_only=inputs_only))


TokensFile = Annotated[
    Path | None,
    typer.Option("--tokens-file", help="The file of tokens.", show_default="SECATEUR_TOKENS_FILE"),
]
TokenArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Who shows the token: letters, digits, `.`, `_` and `-`.")
]


@tokens.command("create")
def create_token(
    name: TokenArgument,
    *,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long it is valid: 30d, 12h, 90m or 2w.", show_default="no expiry"),
    ] = None,
    tokens_file: TokensFile = None,
) -> None:
    """Make a token and print it, this once only. Creates the file if there is none."""
    from secateur_service.commands.tokens import create

    sys.exit(create(_settings(tokens_file=tokens_file).tokens_file, name, expires))


@tokens.command("list")
def list_tokens(*, tokens_file: TokensFile = None) -> None:
    """List the tokens: name, creation and expiry. The tokens themselves are not stored."""
    from secateur_service.commands.tokens import list_all

    sys.exit(list_all(_settings(tokens_file=tokens_file).tokens_file))


@tokens.command("revoke")
def revoke_token(name: TokenArgument, *, tokens_file: TokensFile = None) -> None:
    """Revoke a token: new calls with it are refused within a second. Open streams continue."""
    from secateur_service.commands.tokens import revoke

    sys.exit(revoke(_settings(tokens_file=tokens_file).tokens_file, name))


def _settings(**given: Any) -> Settings:
    """The settings, overridden by flags; an invalid one ends the command with its remedy."""
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        found = error.errors()
        # Defaults derived from an invalid setting could not be computed; they are not at fault.
        findings = [finding for finding in found if finding["type"] != "default_factory_not_called"]
        _fail("\n".join(_explain(finding["loc"], worded(finding, shown=False)) for finding in findings), EXIT_USAGE)
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    protect(settings.secrets())
    _check_settings_file(holds_secrets=any(settings.secrets()))
    os.environ.update(settings.library_environment())
    # Problems are reported where a server would log them, never on standard output.
    configure_logging(
        level="error" if settings.log_level == "error" else "warning",
        log_format="json" if settings.log_format == "json" else "console",
    )
    return settings


def _check_settings_file(*, holds_secrets: bool) -> None:
    """Refuse a settings file that others may write, and warn about one with secrets that others may read."""
    named = os.environ.get(FILE_VARIABLE)
    for finding in exposed(FILE_VARIABLE, Path(named), secret=holds_secrets) if named else ():
        if finding.writable:
            _fail(str(finding), EXIT_USAGE)
        say(f"warning: {finding}")


def _explain(location: tuple[int | str, ...], message: str) -> str:
    """One line for an invalid setting: where it is set, and what is expected there."""
    if not location:
        return message
    name, path = str(location[0]), ".".join(map(str, location))
    sources = [f"--{_FLAGS[name]}"] if name in _FLAGS else []
    return f"{path} ({' or '.join([*sources, PREFIX + name.upper()])}): {message}"


def _fail(message: str, code: int) -> NoReturn:
    say(message)
    raise SystemExit(code)
