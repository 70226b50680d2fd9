"""A job from its resolved specification to its published artifacts: the steps, in order."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import resource
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch

from secateur_service import faults
from secateur_service.artifacts import Manifest, ObjectStore, publish
from secateur_service.calibration.corpora import CorpusRefusedError
from secateur_service.calibration.sampling import TextSample
from secateur_service.calibration.templates import TEMPLATE_DATE
from secateur_service.calibration.tokenizing import TokenizerFailedError
from secateur_service.durable import write_durably
from secateur_service.errors import PermanentError, ResourceError
from secateur_service.evaluation.card import render_card
from secateur_service.evaluation.html import render_html
from secateur_service.evaluation.report import Report
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.contents import check_contents
from secateur_service.models.streaming import StreamedModel, load_whole
from secateur_service.models.tensors import DTYPES, TensorReader, open_here
from secateur_service.pipeline.allocation import allocate, targets_from_json, targets_to_json
from secateur_service.pipeline.device import open_device
from secateur_service.pipeline.fetching import FetchedModel, fetch_model
from secateur_service.pipeline.figures import report_of, result_of
from secateur_service.pipeline.fingerprint import fingerprint
from secateur_service.pipeline.ledger import BlockLedger
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.package import Package
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import PassResult, meter_of, run_pass
from secateur_service.pipeline.task import Task
from secateur_service.pipeline.text import DrawnText, draw_text
from secateur_service.pruning.patterns import Target
from secateur_service.records.progress import Stage
from secateur_service.records.result import Estimate, JobResult, Shortage
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.sizing.preflight import find_room
from secateur_service.sources import ReferenceRefusedError, Sources
from secateur_service.spec import PruneSpec
from secateur_service.telemetry import tracing


@dataclass(frozen=True)
class JobOutcome:
    """A published job.

    Attributes:
        seconds: wall seconds by kind of work.
        cpu_seconds: processor seconds by kind of work.
        peak_device_bytes: 0 on a CPU.
    """

    result: JobResult
    report: Report
    resumed_blocks: int
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    peak_rss_bytes: int
    peak_device_bytes: int

    @property
    def figures(self) -> dict[str, int]:
        """What the job took, for the service's metrics."""
        return {
            "calibration_tokens": sum(entry.tokens for entry in self.report.calibration),
            "peak_host_bytes": self.peak_rss_bytes,
            "peak_device_bytes": self.peak_device_bytes,
        }


def run_job(
    *,
    spec: PruneSpec,
    job_id: str,
    attempt: int,
    workdir: Path,
    ledger: BlockLedger,
    store: ObjectStore,
    observer: JobObserver,
    device: str,
    threads: int,
    commit: Callable[[str], str],
    sources: Sources,
    prefix: str | None = None,
    origins: Sequence[str] = (),
    short_of: Collection[Shortage] = (),
) -> JobOutcome:
    """Run a job from its first unfinished block to its published manifest.

    Args:
        spec: the resolved specification.
        job_id: the job, as the report names it.
        attempt: the attempt, as the manifest names it.
        workdir: private to the job; keeps what an interrupted attempt finished.
        ledger: which blocks are finished.
        store: where the artifacts go.
        observer: hears of the progress and may stop the job.
        device: `cpu`, `cuda` or `cuda:0`.
        threads: of the CPU; 0 keeps torch's choice.
        commit: names the manifest's digest in the job store; returns the digest that holds.
        sources: where model and corpora come from.
        prefix: of the artifacts in the store; the job's id by default.
        origins: prefixes of the jobs that this one is a retry of.
        short_of: memory that did not suffice in an earlier attempt.

    Raises:
        PermanentError: the model or the text cannot be used, or numbers are not finite.
        ResourceError: memory or disk does not suffice, or the device is not there.
        CancelledError, PreemptedError, FencedError: as the observer says; finished blocks are kept.
    """
    job = _Job(spec, job_id, attempt, workdir, observer, device, threads, sources, short_of)
    try:
        return job.run(ledger, store, commit, job_id if prefix is None else prefix, origins)
    except ModelRefusedError as error:
        raise PermanentError(f"model.uri: {error}", reason="MODEL_REFUSED") from error
    except TokenizerFailedError as error:
        message = f"model.uri: its tokenizer cannot take the text ({error}); give the model another tokenizer"
        raise PermanentError(message, reason="MODEL_REFUSED") from error
    except CorpusRefusedError as error:
        raise PermanentError(f"calibration and evaluation text: {error}", reason="CORPUS_REFUSED") from error
    except ReferenceRefusedError as error:
        raise PermanentError(f"model or corpus: {error}", reason="REFERENCE_REFUSED") from error
    except FloatingPointError as error:
        raise PermanentError(str(error), reason="NON_FINITE") from error
    except torch.OutOfMemoryError as error:
        peak = str(job.peak_device_bytes())
        raise ResourceError(
            "the device ran out of memory",
            reason="DEVICE_OUT_OF_MEMORY",
            metadata={"peak_device_bytes": peak},
        ) from error


class _Job:
    def __init__(
        self,
        spec: PruneSpec,
        job_id: str,
        attempt: int,
        workdir: Path,
        observer: JobObserver,
        device: str,
        threads: int,
        sources: Sources,
        short_of: Collection[Shortage],
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.spec = spec
        self.job_id = job_id
        self.attempt = attempt
        self.workdir = workdir
        self.observer = observer
        self.device = open_device(device)
        self.sources = sources
        self.short_of = frozenset(short_of)
        self.open_file: Callable[[Path], BinaryIO] = open_here
        self.stopwatch = Stopwatch()
        self.started = datetime.now(UTC)
        self.meter = meter_of(self.device, observer)
        self.outer_bytes = 0  # of the tensors outside the blocks, which are copied and stored in the end

    def run(
        self,
        ledger: BlockLedger,
        store: ObjectStore,
        commit: Callable[[str], str],
        prefix: str,
        origins: Sequence[str],
    ) -> JobOutcome:
        with self._stage(Stage.FETCHING), self.stopwatch.measure("fetch"):
            needs_all = self.spec.calibration.generation is not None  # the model writes as a whole
            fetched = fetch_model(self.sources, self.observer, self.spec.model, self.workdir, needs_all=needs_all)
            checkpoint, self.open_file = fetched.checkpoint, fetched.open_file
            check_contents(checkpoint, TensorReader(self.open_file), self.observer.check)
        faults.reached("job.fetched")
        self._find_room(checkpoint)
        self.outer_bytes = sum(info.size_bytes for info in checkpoint.other_tensors())
        self.observer.log(
            "info",
            "model opened",
            model_type=checkpoint.model_type,
            blocks=checkpoint.num_blocks,
            parameters=checkpoint.parameters,
            bytes=checkpoint.size_bytes,
        )
        with self._stage(Stage.SAMPLING), self.stopwatch.measure("sample"):
            text = draw_text(
                self.spec,
                checkpoint,
                self.sources,
                self.observer,
                self.workdir,
                partial(load_whole, checkpoint, self.device, self._compute_dtype(checkpoint)),
            )
        faults.reached("job.sampled")
        with self._stage(Stage.PRUNING), contextlib.ExitStack() as moving:
            shards = Shards(self.workdir / "checkpoint", store=store, prefixes=[prefix, *origins], measure=self._moving)
            moving.callback(shards.close)
            passed, model = self._prune(checkpoint, text, ledger, shards)
            shards.settle(self.observer.check)
        faults.reached("job.pruned")
        with self._stage(Stage.PACKAGING), self.stopwatch.measure("package"):
            package, report = self._package(fetched, text, passed, model)
        faults.reached("job.packaged")
        with self._stage(Stage.PUBLISHING), self.stopwatch.measure("publish"):
            digest = self._publish(package, store, commit, prefix)
        for verdict in report.verdicts:
            self.observer.log("info", verdict.message, verdict=verdict.kind)
        seconds, cpu_seconds = self.stopwatch.totals()
        key = f"{prefix}/manifest.json" if prefix else "manifest.json"
        return JobOutcome(
            result=result_of(report, store.uri(key), digest),
            report=report,
            resumed_blocks=passed.resumed_blocks,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            peak_rss_bytes=_peak_rss_bytes(),
            peak_device_bytes=self.peak_device_bytes(),
        )

    @contextlib.contextmanager
    def _stage(self, stage: Stage) -> Iterator[None]:
        self.observer.stage(stage)
        with tracing.span(stage.value):
            yield

    def _find_room(self, checkpoint: Checkpoint) -> None:
        """Spare the memory that is not there."""
        estimate = partial(self._estimate, checkpoint)
        room = find_room(estimate, self.workdir, device_bytes=self._device_bytes(), short_of=self.short_of)
        if room:
            how = "hidden states leave the memory that is short between two blocks, which takes longer"
            self.observer.log("warning", how, short_of=sorted(room))
        self.short_of = room

    def _estimate(self, checkpoint: Checkpoint, short_of: Collection[Shortage]) -> Estimate:
        return estimate_cost(checkpoint, self.spec, on_device=self.device.type != "cpu", short_of=short_of)

    def _prune(
        self,
        checkpoint: Checkpoint,
        text: DrawnText,
        ledger: BlockLedger,
        shards: Shards,
    ) -> tuple[PassResult, StreamedModel]:
        calibration, evaluation = text.calibration, text.evaluation
        dtype = self._compute_dtype(checkpoint)
        small = Shortage.DEVICE in self.short_of
        current = fingerprint(checkpoint, self.spec, calibration, evaluation, self.device, dtype, small_batches=small)
        encoded = json.dumps(current, sort_keys=True).encode()
        self._clear_others(current, encoded, shards.folder)
        with self.stopwatch.measure("load"):
            model = self._model(checkpoint, dtype)
        pruning = self.spec.pruning
        self.meter.begin(model.num_blocks)
        task = Task(
            recipe=pruning.recipe,
            targets=self._targets(model, calibration),
            order=pruning.order,
            weights=self.spec.calibration.weights,
            calibration=calibration,
            evaluation=evaluation,
            shards=shards,
            fingerprint=hashlib.sha256(encoded).hexdigest(),
            minimax=self.spec.calibration.policy == "minimax",
            layer_snr=self.spec.evaluation.layer_snr,
        )
        self.meter.plan("package", self.outer_bytes)
        self.meter.plan("publish", self.outer_bytes)
        return run_pass(model, task, ledger, self.observer, self.stopwatch, self.meter), model

    def _model(self, checkpoint: Checkpoint, dtype: torch.dtype) -> StreamedModel:
        model = StreamedModel(checkpoint, self.device, dtype, self.open_file)
        model.check = self.observer.check
        if Shortage.DEVICE in self.short_of:
            model.small_batches = True
            model.states_device = torch.device("cpu")
        if Shortage.HOST in self.short_of:
            model.states_folder = self.workdir
        return model

    def _targets(self, model: StreamedModel, calibration: dict[str, TextSample]) -> dict[str, Target]:
        """How much of each layer goes; kept, because to judge the blocks takes a pass of its own."""
        path = self.workdir / "targets.json"
        if path.exists():
            return targets_from_json(json.loads(path.read_bytes()))
        targets = allocate(model, self.spec, calibration, self.observer, self.stopwatch, self.meter)
        write_durably(path, json.dumps(targets_to_json(targets)).encode())
        return targets

    def _compute_dtype(self, checkpoint: Checkpoint) -> torch.dtype:
        """Float32 on a CPU, whose half-precision products are slow and rounded; the stored type on an accelerator."""
        stored = DTYPES[checkpoint.weight_dtype]
        return torch.float32 if self.device.type == "cpu" else stored

    def _clear_others(self, current: dict[str, Any], encoded: bytes, shards: Path) -> None:
        """Empty the folder of finished blocks where they were made under other conditions."""
        path = self.workdir / "fingerprint.json"
        if path.exists() and path.read_bytes() != encoded:
            before = json.loads(path.read_bytes())
            changed = sorted(key for key in current if before.get(key) != current[key])
            self.observer.log(
                "warning", "starting again: finished blocks were made under other conditions", changed=changed
            )
            shutil.rmtree(shards, ignore_errors=True)
            (self.workdir / "targets.json").unlink(missing_ok=True)
        shards.mkdir(parents=True, exist_ok=True)
        write_durably(path, encoded)

    def _moving(self) -> contextlib.AbstractContextManager[None]:
        return self.stopwatch.measure_background("publish")

    def _package(
        self,
        fetched: FetchedModel,
        text: DrawnText,
        passed: PassResult,
        model: StreamedModel,
    ) -> tuple[Package, Report]:
        package, checkpoint = Package(self.workdir), fetched.checkpoint
        model.reader.on_read = lambda size_bytes: self.meter.tick("package", size_bytes)
        package.add_checkpoint(checkpoint, passed.blocks, self.spec, model.reader, fetched.companions)
        digest = model.digest()
        report = report_of(self.job_id, self.spec, checkpoint, digest, text, passed)
        package.add_file("report/report.json", report.to_bytes())
        package.add_file("report/report.html", render_html(report))
        package.add_file("checkpoint/README.md", render_card(report, fetched.companions.license))
        package.add_file("provenance.json", self._provenance(passed, fetched))
        return package, report

    def _provenance(self, passed: PassResult, fetched: FetchedModel) -> bytes:
        """Who made the result, when and on what: enough to run it again, and all that is not the same twice."""
        seconds, cpu_seconds = self.stopwatch.totals()
        content = {
            "job_id": self.job_id,
            "attempt": self.attempt,
            "resumed_blocks": passed.resumed_blocks,
            "started": self.started.isoformat(),
            "packaged": datetime.now(UTC).isoformat(),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "short_of": sorted(self.short_of),
            "estimate": asdict(self._estimate(fetched.checkpoint, self.short_of)),
            "measured": {"peak_host_bytes": _peak_rss_bytes(), "peak_device_bytes": self.peak_device_bytes()},
            "template_date": TEMPLATE_DATE,
            "model_files": {
                "rewritten": sorted({info.path.name for info in fetched.checkpoint.tensors.values()}),
                "published": list(fetched.companions.names),
                "left_out": dict(fetched.left_out),
            },
            "python": platform.python_version(),
            "platform": platform.platform(),
            "fingerprint": json.loads((self.workdir / "fingerprint.json").read_bytes()),
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    def _device_bytes(self) -> int | None:
        return torch.cuda.mem_get_info(self.device)[1] if self.device.type == "cuda" else None

    def _publish(self, package: Package, store: ObjectStore, commit: Callable[[str], str], prefix: str) -> str:
        described = package.files()
        manifest = Manifest(
            job_id=self.job_id,
            attempt=self.attempt,
            files=tuple(entry for _, entry in described),
            resolved_spec=self.spec.model_dump(mode="json"),
            report_sha256=next(entry.sha256 for _, entry in described if entry.path == "report/report.json"),
        )
        counted = 0.0

        def on_uploaded(done: int, total: int) -> None:
            nonlocal counted
            reached = self.outer_bytes * done / max(total, 1)
            self.meter.tick("publish", reached - counted)
            counted = reached

        return publish(
            store,
            prefix,
            [file for file, _ in described],
            manifest,
            commit=commit,
            observer=self.observer,
            on_uploaded=on_uploaded,
        )

    def peak_device_bytes(self) -> int:
        """The most that tensors took on the device; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0


def _peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
