"""One job without a server, in this process: `secateur-service run SPEC.yaml --output DIR`.

The folder gets what a service would publish for the job. While the job runs, finished work is kept below `DIR/.work`,
so that repeating an interrupted command resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TextIO

from secateur import InvalidSpecError as MisshapenSpecError
from secateur import Report as PlainReport
from secateur._convert import plan_from
from secateur._spec import read_spec
from secateur._terminal import OutputLostError, clean, console, say, write
from secateur._text import left_text
from secateur.cli._bar import JobBar, amount_text
from secateur.cli._render import continuation_lines, plan_text, result_text, task_lines, to_json
from secateur.cli._reporting import bands_of, headline_lines, reported_result
from secateur.v1 import prune_job_pb2 as pb
from secateur_service.admission import AccessPolicy, Admission, disk_of
from secateur_service.api.conversion import estimate_to_message, resolved_to_message
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.artifacts.leftovers import remove_leftovers
from secateur_service.artifacts.manifest import MANIFEST_NAME, Manifest, parse_manifest
from secateur_service.control.exits import attempt_error
from secateur_service.durable import write_durably
from secateur_service.errors import (
    FieldViolation,
    InternalError,
    InvalidSpecError,
    NoSuchDeviceError,
    PermanentError,
    PreemptedError,
)
from secateur_service.evaluation.limits import limit_exceeded
from secateur_service.evaluation.report import Report
from secateur_service.jobs.events import log_body
from secateur_service.library import admit_written, make_work_folder, run_here, with_processes, written_here
from secateur_service.pipeline.attempt import Machine
from secateur_service.pipeline.loading import load_pipeline
from secateur_service.pipeline.packaged import REPORT_PATH
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.progress import Progress, Stage
from secateur_service.records.result import LIMIT_EXCEEDED, MANIFEST_DIGEST
from secateur_service.settings import MAX_PROCESSES, Settings
from secateur_service.sizing.durations import UNKNOWN, Hardware
from secateur_service.sources import Sources, open_sources
from secateur_service.spec import PruneSpec

_LOCK = "lock"
_OUTPUT = "--output"
EXIT_USAGE = 2
EXIT_PERMANENT = 10
LINE_INTERVAL_SECONDS = 10.0
"""Progress is printed no more often than this, except the first after a block."""


def run_command(
    spec_path: Path,
    output: Path,
    device: str | None,
    threads: int | None,
    processes: int | None,
    settings: Settings,
    *,
    as_json: bool,
) -> int:
    """Run the job of a specification file.

    Args:
        spec_path: a PruneSpec in YAML form.
        output: folder for the artifacts.
        device: torch's name of a device; by default cuda if available.
        threads: number of CPU threads of each process; by default torch's choice, divided evenly over them.
        processes: how many run the job together; by default what the specification says, else one.
        settings: endpoints and accounts for the hub and object stores.
        as_json: whether to end with one line of JSON on standard output: a summary, or the error.

    Returns:
        The exit code: 0, that of the failure's class, or 2 where the command line is wrong: this machine does not have
        the device, there is no such file, or the folder cannot be written or belongs to another job.
    """
    try:
        if device not in (None, "cpu"):
            from secateur_service.pipeline.device import open_device

            open_device(device)
        summary, report = _run(spec_path, output, device, threads or 0, processes, settings, terminal=not as_json)
    except NoSuchDeviceError as error:
        return _fail(f"--device: {error.message}", EXIT_USAGE)
    except (MisshapenSpecError, InvalidSpecError) as error:
        return _refusal(error, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last frame of a command: every failure becomes its exit code
        failure = attempt_error(error)
        if isinstance(failure, InternalError):  # there is no log here with the details
            say("".join(traceback.format_exception(error)).rstrip())
        told = {"reason": failure.reason, "message": failure.message, "metadata": failure.metadata}
        if failure.reason == LIMIT_EXCEEDED:
            told["report"] = str(output.resolve() / REPORT_PATH)
        return _fail(f"{failure.reason}: {failure.message}", failure.exit_code, as_json and told)
    try:
        write(json.dumps(summary) if as_json else _result_text(report, output), stream=sys.stdout)
    except OutputLostError as error:  # the artifacts exist all the same
        say(f"the result is in {clean(str(output))}; {error or 'nobody reads it here'}")
    return 0


def plan_command(
    spec_path: Path,
    device: str | None,
    threads: int | None,
    processes: int | None,
    *,
    as_json: bool,
    settings: Settings,
) -> int:
    """Check the specification of a job and estimate its cost, without running it; arguments as for `run_command`.

    Returns:
        The exit code: 0, 10 if it is refused, or 2 if there is no such file.
    """
    try:
        sources = open_sources(settings, everywhere=True)
        cores = len(os.sched_getaffinity(0))
        hardware = Hardware(threads or cores, 1, MAX_PROCESSES, disk_of(settings), cores=cores)
        resolved = _admitted(spec_path, device, sources, processes, hardware)
    except (MisshapenSpecError, InvalidSpecError) as error:
        return _refusal(error, as_json=as_json)
    plan = plan_from(
        pb.PruneJob(
            resolved_spec=resolved_to_message(resolved.resolved), estimate=estimate_to_message(resolved.estimate)
        )
    )
    write(to_json(plan) if as_json else plan_text(plan), stream=sys.stdout)
    return 0


def _admitted(
    spec_path: Path,
    device: str | None,
    sources: Sources,
    processes: int | None,
    hardware: Hardware = UNKNOWN,
) -> Admission:
    on_device = device is not None and not device.startswith("cpu")
    known = replace(hardware, threads=None) if on_device else hardware
    access = AccessPolicy(sources, destinations=None, on_device=on_device, hardware=known)
    return admit_written(with_processes(read_spec(spec_path), processes), access)


def _refusal(error: MisshapenSpecError | InvalidSpecError, *, as_json: bool) -> int:
    faults = [": ".join(filter(None, (fault.field, fault.description))) for fault in error.violations]
    code = EXIT_USAGE if _is_of_command_line(error) else EXIT_PERMANENT
    return _fail(faults, code, as_json and {"reason": error.reason, "message": "; ".join(faults)})


def _is_of_command_line(error: MisshapenSpecError | InvalidSpecError) -> bool:
    """Whether a file or folder that the command line names is at fault, and not what the specification says."""
    unreadable = isinstance(error, MisshapenSpecError) and isinstance(error.__cause__, OSError)
    return unreadable or all(fault.field == _OUTPUT for fault in error.violations)


def _run(
    spec_path: Path,
    output: Path,
    device: str | None,
    threads: int,
    processes: int | None,
    settings: Settings,
    *,
    terminal: bool,
) -> tuple[dict[str, Any], Report]:
    sources = open_sources(settings, everywhere=True)
    admitted = _admitted(spec_path, device, sources, processes)
    count, warnings = admitted.resolved.execution.processes or 1, admitted.estimate.warnings
    spec = written_here(admitted.resolved)
    if terminal:
        for warning in warnings:
            say(f"warning: {clean(warning)}")
    output = output.resolve()
    try:
        workdir = make_work_folder(output)
        lock = (workdir / _LOCK).open("w")
    except OSError as error:
        raise _refused(output, f"cannot be written: {error.strerror}; choose another folder") from error
    with lock, _locked(lock, output):
        published = _published(output)
        if published is not None:
            summary, report = _adopt(output, published, spec)
            return summary | {"warnings": warnings}, report
        try:
            _claim_folder(workdir, spec)
            with ConsoleObserver(terminal=terminal) as observer:
                flops = admitted.estimate.flops
                summary, report = _run_pipeline(spec, flops, sources, output, workdir, device, threads, count, observer)
        except PermanentError as error:
            if error.reason == LIMIT_EXCEEDED:  # its shards were written block by block
                remove_leftovers(DirectoryStore(output), "", error.metadata[MANIFEST_DIGEST])
                shutil.rmtree(workdir, ignore_errors=True)
            raise
        except OSError as error:
            if not _is_refusal(error, output):
                raise
            fault = f"cannot be written: {error.strerror} ({error.filename}); choose another folder"
            raise _refused(output, fault) from error
        remove_leftovers(DirectoryStore(output), "", summary["sha256"])  # shards written under other conditions
    shutil.rmtree(workdir, ignore_errors=True)
    return summary | {"warnings": warnings}, report


def _run_pipeline(
    spec: PruneSpec,
    flops: float,
    sources: Sources,
    output: Path,
    workdir: Path,
    device: str | None,
    threads: int,
    processes: int,
    observer: ConsoleObserver,
) -> tuple[dict[str, Any], Report]:
    load_pipeline()
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    outcome = run_here(spec, sources, output, Machine(workdir, device, threads, processes), observer, flops=flops)
    summary = {
        "seconds": outcome.seconds,
        "cpu_seconds": outcome.cpu_seconds,
        "peak_rss_bytes": outcome.peak_rss_bytes,
        "peak_device_bytes": outcome.peak_device_bytes,
        **_figures(outcome.report),
        "manifest": str(output / MANIFEST_NAME),
        "sha256": outcome.result.manifest_sha256,
        "resumed_blocks": outcome.resumed_blocks,
    }
    return summary, outcome.report


def _figures(report: Report) -> dict[str, Any]:
    return {
        "sparsity": report.sparsity.pruned_layers,
        "perplexity": {
            entry.language: {"dense": entry.dense_perplexity, "pruned": entry.pruned_perplexity}
            for entry in report.evaluation
        },
    }


def _published(output: Path) -> Manifest | None:
    path = output / MANIFEST_NAME
    return parse_manifest(path.read_bytes()) if path.exists() else None


def _adopt(output: Path, manifest: Manifest, spec: PruneSpec) -> tuple[dict[str, Any], Report]:
    """The result that already exists, if it is this job's."""
    if manifest.resolved_spec != spec.model_dump(mode="json"):
        raise _other_job(output)
    report = Report.model_validate_json((output / "report" / "report.json").read_bytes())
    if report.exceeded:
        raise limit_exceeded(report, manifest.digest(), [file.path for file in manifest.files])
    summary = {
        "seconds": {"total": 0.0},
        "cpu_seconds": {"total": 0.0},
        "peak_rss_bytes": 0,
        "peak_device_bytes": 0,
        **_figures(report),
        "manifest": str(output / MANIFEST_NAME),
        "sha256": manifest.digest(),
        "resumed_blocks": len(report.blocks),
    }
    return summary, report


def _claim_folder(workdir: Path, spec: PruneSpec) -> None:
    """Refuse a folder where another job was interrupted, unless it had finished nothing."""
    path = workdir / "spec.json"
    encoded = spec.model_dump_json().encode()
    if path.exists() and path.read_bytes() != encoded:
        if (workdir / "ledger.json").exists():
            raise _refused(
                workdir.parent,
                f"holds finished blocks of another specification; choose another folder, or remove {workdir}",
            )
        for entry in workdir.iterdir():
            if entry.name != _LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_durably(path, encoded)


def _is_refusal(error: OSError, output: Path) -> bool:
    """Whether the system refuses to write something below the output; a full disk has a class of its own."""
    below = isinstance(error.filename, str | os.PathLike) and Path(error.filename).is_relative_to(output)
    return below and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def _other_job(output: Path) -> InvalidSpecError:
    return _refused(output, "belongs to another job; choose another folder")


def _refused(output: Path, problem: str) -> InvalidSpecError:
    return InvalidSpecError([FieldViolation(_OUTPUT, f"{output} {problem}")])


@contextlib.contextmanager
def _locked(lock: TextIO, output: Path) -> Iterator[None]:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PermanentError(f"another run is at work in {output}", reason="FOLDER_IN_USE") from error
    yield


def _fail(faults: str | Sequence[str], code: int, told: Mapping[str, Any] | bool = False) -> int:  # noqa: FBT001, FBT002 - told or not
    """Say what went wrong, one fault a line, to programs as well if there is something to tell them."""
    for fault in [faults] if isinstance(faults, str) else faults:
        say(f"error: {clean(' '.join(fault.split()))}")
    if told:
        with contextlib.suppress(OutputLostError):
            write(json.dumps({"error": told}), stream=sys.stdout)
    return code


def _result_text(report: Report, output: Path) -> str:
    plain = PlainReport(report.model_dump(mode="json"))
    table = result_text(reported_result(plain), bands_of(plain))
    lines = [*headline_lines(plain), table, *task_lines(plain), *continuation_lines(plain)]
    lines += [clean(report.decision.sentence)] if report.decision else []
    lines += [f"- {clean(verdict.message)}" for verdict in report.verdicts]
    for name, path in (("report", "report/report.html"), ("checkpoint", "checkpoint"), ("manifest", MANIFEST_NAME)):
        lines.append(f"{name:<10}  {clean(str(output.resolve() / path))}")
    return "\n".join(lines)


class ConsoleObserver:
    """Shows a job's progress on standard error, and turns signals into a stop at the next safe point.

    Args:
        terminal: whether to draw a progress bar if standard error is a terminal; plain lines otherwise.
    """

    def __init__(self, *, terminal: bool) -> None:
        shown = console(stderr=True)
        self._bar = JobBar(shown) if terminal and shown.is_terminal else None
        self._stop: int | None = None
        self._previous: dict[int, Any] = {}
        self._began = time.monotonic()
        self._told_at, self._told_blocks = self._began, 0

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        if self._bar is not None:
            self._bar.began(0.0)
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.end(is_done=kind is None)
            self._bar.__exit__()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the handler's signature
        if self._stop is not None:
            raise KeyboardInterrupt
        self._stop = number

    def stage(self, stage: Stage) -> None:
        """Show the stage."""
        if self._bar is None:
            self._line(stage.lower())
        else:
            self._bar.doing = stage.value

    def progress(self, progress: Progress) -> None:
        """Show blocks, share and time left; as lines, after every block and now and then in between."""
        if self._bar is not None:
            self._bar.report(progress)
            return
        now = time.monotonic()
        if progress.blocks_done == self._told_blocks and now - self._told_at < LINE_INTERVAL_SECONDS:
            return
        self._told_blocks, self._told_at = progress.blocks_done, now
        left = "" if progress.eta_seconds is None else left_text(progress.eta_seconds)
        self._line(", ".join(filter(None, (amount_text(progress), f"{progress.fraction:.0%}", left))))

    def block(self, record: BlockRecord) -> None:
        """Do nothing: `progress` shows enough."""

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Print one line."""
        body = log_body(level, message, fields)
        shown = " ".join(f"{key}={value}" for key, value in body["fields"].items())
        self._line(clean(f"{level}: {body['message']} {shown}".rstrip()))

    def check(self) -> None:
        """Stop if a signal has arrived.

        Raises:
            PreemptedError: SIGINT or SIGTERM arrived; finished blocks are kept.
        """
        if self._stop is not None:
            raise PreemptedError("interrupted; run the same command again to resume from the last finished block")

    def _line(self, text: str) -> None:
        line = f"[{time.monotonic() - self._began:8.1f} s] {text}"
        if self._bar is None:
            say(line)
        else:
            self._bar.print(line)
