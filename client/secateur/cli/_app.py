"""The commands of `secateur`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur._config import LONGEST_SECONDS
from secateur._errors import InvalidRequestError, UnreachableError
from secateur._options import with_options
from secateur._terminal import clean, prepare_streams, show_exception, write
from secateur._usage import WordedGroup
from secateur.cli._arguments import (
    generation_of,
    labels_of,
    numbers_by_language,
    override_of,
    read_content,
    weight_of,
)
from secateur.cli._configuring import config
from secateur.cli._ended import download, retry, verify
from secateur.cli._exit import ExitCode
from secateur.cli._flags import option_as_typed, shown
from secateur.cli._job_options import with_job_options
from secateur.cli._judging import compare, gate, sweep, write_page
from secateur.cli._listing import delete, get, list_
from secateur.cli._render import (
    architecture_text,
    event_text,
    info_text,
    plan_text,
    preset_text,
)
from secateur.cli._reporting import report_text
from secateur.cli._session import EndpointOption, JobArgument, OutputOption, Session, Shared, TokenOption, connected
from secateur.cli._watching import LogFilter, LogLevel, follow

_EPILOG = """Exit codes: 0 done (a watched job succeeded), 1 the job failed, 2 wrong command line or configuration,
3 the specification breaks rules, 4 no such job, 5 the service, or the store of its results, cannot be reached, 6 the
job was cancelled, 7 refused for another reason, such as a hub that the service cannot reach, 8 download failed, or
files are not intact, 9 token missing or invalid, 10 a gate did not pass, or no job of a sweep is within --max-growth,
124 a watch timed out, 130 interrupted (in both, the job keeps running)."""

app = typer.Typer(
    name="secateur",
    cls=WordedGroup,
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the command."""
    prepare_streams()
    sys.excepthook = show_exception
    app()


def _version(asked: bool) -> None:  # noqa: FBT001 - typer calls it by position
    if asked:
        write(f"secateur {version('secateur')}", stream=sys.stdout)
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    *,
    endpoint: EndpointOption = None,
    token: TokenOption = None,
    output: OutputOption = None,
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prune large language models for the languages their users speak.

    \b
    Examples:
      secateur submit spec.yaml --watch
      secateur submit --model file:///models/m --corpus file:///corpora/c -l de=0.7 -l en=0.3 --sparsity 0.5
      secateur list --state RUNNING
      secateur download pruneJobs/ID results/

    The service is found by --endpoint, then SECATEUR_ENDPOINT, then ~/.config/secateur/config.toml (or the file that
    SECATEUR_CONFIG names).
    """  # noqa: D301 - \b keeps the lines of the examples
    context.obj = Shared(endpoint, token, output)


@app.command(epilog=_EPILOG)
@connected
@with_job_options
def submit(
    session: Session,
    *,
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC.yaml]", help="Specification in YAML; - reads the standard input."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to prune: hf://org/name, s3://bucket/prefix or file:///folder.")
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option("--language", "-l", metavar="TAG[=WEIGHT]", help="Language of the mix, e.g. de=0.7. Repeat it."),
    ] = None,
    self_generated: Annotated[
        bool | None,
        typer.Option(
            "--self-generated",
            help="Let the dense model write the calibration text, starting from short prefixes of the corpus.",
            show_default=False,
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYERS=TARGET",
            help="Other target for some layers: '*.down_proj.weight=0.4', =2:4 or =dense. Repeat it; the last one "
            "wins.",
        ),
    ] = None,
    evaluation_language: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="Language to evaluate; by default those of the mix. Repeat it."),
    ] = None,
    keep_text: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Text whose tokens are kept in a trimmed vocabulary. Repeat it."),
    ] = None,
    vocabulary_weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAG=WEIGHT",
            help="How dear a further token is in a kept language, e.g. en=2; by default 1. Repeat it.",
        ),
    ] = None,
    shrink_axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS",
            help="With a budget: vocabulary, blocks, kv_heads or feed_forward may be removed; by default all that the "
            "model allows. Repeat it.",
        ),
    ] = None,
    keep_language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAG",
            help="Language of the mix that a smaller model has to serve; by default all of them. Repeat it.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Task of lm-evaluation-harness that both models answer, or a group. Repeat it."
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAG=GROWTH",
            help="What a language may lose at most, as growth of its bits per byte, e.g. uk=0.01. Repeat it. A job "
            "that exceeds it ends without a checkpoint, with its report.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of your own for the job. Repeat it.")
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(metavar="UUID", help="Submitting again with the same id gives the same job.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the specification and estimate its cost.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it has ended.")] = False,
    **options: Any,
) -> None:
    """Submit a prune job, and print its name.

    The specification comes from a YAML file, from flags, or from both: flags win.

    \b
    Examples:
      secateur submit spec.yaml --watch
      secateur submit spec.yaml --sparsity 0.6 --label run=second
      secateur submit --model file:///models/m --corpus file:///corpora/c -l de=0.7 -l en=0.3 --pattern 2:4
      secateur submit --model file:///models/m --corpus file:///corpora/c -l uk -l en --extra-tokens 0.005
      job=$(secateur submit spec.yaml) && secateur watch "$job"

    \b
    A specification:
      model: {uri: file:///models/m}
      calibration: {corpus: file:///corpora/c, languages: {de: 0.7, en: 0.3}, samples: 128}
      pruning: {sparsity: 0.5}
      evaluation: {corpus: file:///corpora/e, languages: [de, en, uk]}
    """  # noqa: D301 - \b keeps the lines of the examples
    content = read_content(spec)
    if model is not None:
        content = {**content, "model": {"uri": model}}
    several = {
        "languages": language or (),
        "overrides": override or (),
        "evaluation_languages": evaluation_language or (),
        "keep_texts": keep_text or (),
        "shrink_axes": shrink_axis or (),
        "keep_languages": keep_language or (),
        "vocabulary_weights": vocabulary_weight or (),
        "tasks": task or (),
        "limits": limit or (),
    }
    content = with_options(
        content,
        {
            **options,
            **{name: list(texts) or None for name, texts in several.items()},
            "generation": generation_of(content) if self_generated else None,
            "languages": [weight_of(text) for text in several["languages"]] or None,
            "overrides": [override_of(text) for text in several["overrides"]] or None,
            "vocabulary_weights": numbers_by_language("--vocabulary-weight", several["vocabulary_weights"], "2")
            or None,
            "limits": numbers_by_language("--limit", several["limits"], "0.01") or None,
        },
    )
    if not content:
        raise typer.BadParameter("give a SPEC.yaml, or at least --model, --language and --sparsity or --extra-tokens")
    labels = labels_of(label or ())
    if dry_run and request_id is not None:
        raise typer.BadParameter("--request-id names the job that is made, and --dry-run makes none; leave one out")
    try:
        if dry_run:
            plan = session.client.plan(content, labels=labels)
            session.show(plan_text(plan), plan)
            return
        job = session.client.submit(content, labels=labels, request_id=request_id)
    except (InvalidRequestError, UnreachableError) as error:
        if not session.as_json:
            error.rename(option_as_typed({**options, "generation": self_generated}, several))
            if model is not None:
                error.rename(lambda field: "--model" if field in ("model", "model.uri") else field)
        raise
    estimate = job.get().estimate
    warnings = estimate.warnings if estimate else ()
    for warning in warnings:
        session.note(f"warning: {clean(warning)}")
    session.show(clean(job.name), {"name": job.name, "warnings": warnings})
    if watch:
        follow(session, job)


@app.command(epilog=_EPILOG)
@connected
def watch(
    session: Session,
    *,
    job: JobArgument,
    after: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**63 - 1, metavar="SEQUENCE", help="Only events after this one; 0 shows the whole history."
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0, max=LONGEST_SECONDS, metavar="SECONDS", help="Stop watching after this time; the job goes on."
        ),
    ] = None,
) -> None:
    """Follow a job until it has ended: a progress bar on a terminal, lines elsewhere.

    Survives disconnects and restarts of the service. The exit code tells how the job ended.
    """
    follow(session, session.job(job), after, timeout)


@app.command(epilog=_EPILOG)
@connected
def logs(
    session: Session,
    *,
    job: JobArgument,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until the job has ended.")] = False,
    level: Annotated[LogLevel, typer.Option(help="Leave out what matters less.")] = LogLevel.INFO,
) -> None:
    """Print the log of a job's worker; at its end why the job failed, if it did."""
    handle = session.job(job)
    kept = LogFilter(level)
    for event in filter(kept.passes, handle.logs(follow=follow_)):
        session.show(f"{event.time:%Y-%m-%d %H:%M:%S} {event_text(event)}", {"kind": event.kind, **vars(event)})
    found = handle.get()
    if found.failure is not None and found.end_time is not None:
        text = f"{found.end_time:%Y-%m-%d %H:%M:%S} {found.state}: {clean(str(found.failure))}"
        session.show(text, {"kind": "state", "time": found.end_time, "state": found.state, "failure": found.failure})


app.command(name="list", epilog=_EPILOG)(list_)
app.command(epilog=_EPILOG)(get)


@app.command(epilog=_EPILOG)
@connected
def report(
    session: Session,
    *,
    job: JobArgument,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the page: the published one, and where there are other jobs of the same model, a section "
            "that compares with the newest of them, at most 20.",
        ),
    ] = None,
) -> None:
    """Print what pruning cost each language, and what to know before using the model.

    With --output json: the whole report.json, on one line; its keys are sorted, so that equal reports are equal lines.
    """
    handle = session.job(job)
    found = handle.report()
    if html is not None:
        write_page(session, handle.report_page(), html)
    if session.as_json:
        session.show("", found)
        return
    session.show(report_text(found, handle.get()), None)


app.command(epilog=_EPILOG)(compare)
app.command(epilog=_EPILOG)(sweep)
app.command(epilog=_EPILOG)(gate)
app.command(epilog=_EPILOG)(config)


@app.command(epilog=_EPILOG)
@connected
def cancel(session: Session, *, job: JobArgument) -> None:
    """Ask a job to stop. Does nothing if it has ended."""
    found = session.job(job).cancel()
    session.show(f"{clean(found.name)} is {found.state}", found)


app.command(epilog=_EPILOG)(delete)
app.command(epilog=_EPILOG)(retry)
app.command(epilog=_EPILOG)(download)
app.command(epilog=_EPILOG)(verify)


@app.command(epilog=_EPILOG)
@connected
def info(
    session: Session,
    *,
    corpus: Annotated[
        str | None, typer.Option(metavar="PRESET", help="Instead, all about this corpus, such as mc4.")
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL_TYPE",
            help="Instead, whether such models can be pruned, the `model_type` of their config.json being this; ends "
            "with exit code 7 if they cannot.",
        ),
    ] = None,
) -> None:
    """Print what the service can do: methods, architectures, devices, corpora, where files may lie."""
    if architecture is not None:
        if corpus is not None:
            raise typer.BadParameter("give --corpus or --architecture, not both")
        if not architecture.strip():
            raise typer.BadParameter("--architecture is empty; give the model_type of a config.json, e.g. llama")
        about = session.client.architecture(architecture)
        session.show(architecture_text(about), about)
        if not about.supported:
            raise typer.Exit(ExitCode.REFUSED)
        return
    found = session.client.info()
    if corpus is None:
        session.show(info_text(found), found)
        return
    preset = next((preset for preset in found.presets if preset.name == corpus), None)
    if preset is None:
        known = ", ".join(preset.name for preset in found.presets)
        raise typer.BadParameter(f"--corpus {clean(shown(corpus))}: no such preset; the service has {known}")
    session.show(preset_text(preset), preset)
