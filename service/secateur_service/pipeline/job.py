"""Runs a job from its resolved specification to its published artifacts: the steps, in order."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from secateur._facts import Run
from secateur_service import __version__, faults
from secateur_service.calibration.documents import CorpusRefusedError, TooLittleTextError
from secateur_service.calibration.sampling import again_tokenised
from secateur_service.calibration.tokenizing import TokenizerFailedError
from secateur_service.errors import PermanentError, ResourceError
from secateur_service.evaluation.card import render_card
from secateur_service.evaluation.continuations import ContinuedLanguage
from secateur_service.evaluation.html import render_html
from secateur_service.evaluation.language_parts import AffinityPart
from secateur_service.evaluation.limits import limit_exceeded
from secateur_service.evaluation.parts import JobPart
from secateur_service.models.building import load_whole
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.companions import Companions
from secateur_service.models.contents import check_contents
from secateur_service.models.cutting import CutReader
from secateur_service.models.plan import OutputPlan
from secateur_service.models.plan_file import PLAN_NAME
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import Reader, TensorReader
from secateur_service.models.tokenizer import load_tokenizer
from secateur_service.pipeline.affinities import foresee
from secateur_service.pipeline.allocation import settle_targets
from secateur_service.pipeline.attempt import Attempt, FinishedJob, Machine, Ports
from secateur_service.pipeline.continuations import Continuer, StoredModel
from secateur_service.pipeline.device import open_device, try_rate
from secateur_service.pipeline.fetching import FetchedModel, fetch_model
from secateur_service.pipeline.figures import report_of, result_of
from secateur_service.pipeline.fingerprint import begin_under, device_in_words, fingerprint
from secateur_service.pipeline.job_tasks import JobTasks, check_harness, open_job_tasks
from secateur_service.pipeline.job_text import JobText, draw_job_text
from secateur_service.pipeline.package import Package
from secateur_service.pipeline.packaged import REPORT_PATH, Packaged, forget, kept, publish_packaged
from secateur_service.pipeline.pass_config import Output, PassConfig, Samples
from secateur_service.pipeline.patience import Patience
from secateur_service.pipeline.planning import Planner, Tools
from secateur_service.pipeline.processes import Processes
from secateur_service.pipeline.provenance import Provenance
from secateur_service.pipeline.room import Room
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.shared_states import SharedStates
from secateur_service.pipeline.shrinking import Shrinkage, Shrinker, check_tokens
from secateur_service.pipeline.stopwatch import Kind, Stopwatch
from secateur_service.pipeline.streaming_pass import PassResult, meter_of
from secateur_service.records.progress import Stage
from secateur_service.records.result import Shortage
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.sources import ReferenceRefusedError
from secateur_service.spec import PruneSpec
from secateur_service.tasks.task_files import TasksRefusedError
from secateur_service.telemetry import tracing


def run_job(attempt: Attempt, machine: Machine, ports: Ports) -> FinishedJob:
    """Run a job from its first unfinished block to its published manifest.

    Raises:
        PermanentError: the model or the text cannot be used, or numbers are not finite.
        ResourceError: memory or disk is insufficient, or there is no such device.
        CancelledError, PreemptedError, FencedError: raised by the observer; finished blocks are kept.
    """
    job = _Job(attempt, machine, ports)
    try:
        return job.run()
    except ModelRefusedError as error:
        raise PermanentError(f"model.uri: {error}", reason="MODEL_REFUSED") from error
    except TokenizerFailedError as error:
        message = f"model.uri: its tokenizer cannot take the text ({error}); give the model another tokenizer"
        raise PermanentError(message, reason="MODEL_REFUSED") from error
    except TooLittleTextError as error:  # it names the fields itself
        raise PermanentError(str(error), reason="CORPUS_REFUSED") from error
    except CorpusRefusedError as error:
        raise PermanentError(f"calibration and evaluation text: {error}", reason="CORPUS_REFUSED") from error
    except TasksRefusedError as error:
        raise PermanentError(f"evaluation.tasks: {error}", reason="TASKS_REFUSED") from error
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
    """The steps, in order, and what each passes on to later ones."""

    fetched: FetchedModel
    tasks: JobTasks | None = None
    shared: SharedStates | None = None
    text: JobText
    shrinker: Shrinker
    shrinkage: Shrinkage
    plan: OutputPlan
    companions: Companions
    written: Checkpoint
    affinity: AffinityPart | None
    passed: PassResult
    continued: Sequence[ContinuedLanguage] = ()
    resumed_blocks: int
    packaged: Packaged
    digest: str

    def __init__(self, attempt: Attempt, machine: Machine, ports: Ports) -> None:
        if machine.threads or machine.processes > 1:
            torch.set_num_threads(machine.threads or max(1, torch.get_num_threads() // machine.processes))
        self.attempt = attempt
        self.spec = attempt.spec
        self.machine = machine
        self.workdir = machine.workdir
        self.ports = ports
        self.observer = ports.observer
        self.device = open_device(machine.device)
        self.room = Room(attempt.spec, self.device, machine.workdir, ports.observer, attempt.shortages)
        self.stopwatch = Stopwatch()
        self.started = datetime.now(UTC)
        self.patience = Patience(ports.patience_seconds, ports.observer)
        self.meter = meter_of(self.device, ports.observer, rate=try_rate(self.device))
        if attempt.flops:
            self.meter.foresee(attempt.flops)

    def run(self) -> FinishedJob:
        for stage, steps in itertools.groupby(self._steps(), key=attrgetter("stage")):
            self.observer.stage(stage)
            with tracing.span(stage.value):
                for step in steps:
                    with step.measured(self.stopwatch):
                        step.work(self)
                    if step.point:
                        faults.reached(step.point)
        self.meter.finish()
        report = self.packaged.report
        decision = report.decision
        if decision and decision.answer:
            self.observer.log("info", decision.sentence, decision=decision.answer)
        for verdict in report.verdicts:
            self.observer.log("info", verdict.message, verdict=verdict.kind)
        seconds, cpu_seconds = self.stopwatch.totals()
        prefix, store = self.attempt.prefix, self.ports.store
        return FinishedJob(
            result=result_of(report, store.uri(f"{prefix}/manifest.json" if prefix else "manifest.json"), self.digest),
            report=report,
            resumed_blocks=self.resumed_blocks,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            peak_rss_bytes=_peak_rss_bytes(),
            peak_device_bytes=self.peak_device_bytes(),
            dense_blocks=self.shared.counts if self.shared else {},
        )

    def _steps(self) -> Sequence[Step]:
        """The steps that are left: all, or publishing alone if an earlier attempt packaged the result here."""
        packaged = None if self.attempt.plan else kept(self.workdir, self.spec)
        if packaged is None:
            forget(self.workdir)
            return STEPS
        self.packaged, self.resumed_blocks = packaged, len(packaged.report.blocks)
        self.meter.resume(packaged.progress)
        self.meter.plan("publish", packaged.work_bytes)
        self.observer.log("info", "resuming: the result is complete, and only has to be published")
        return [step for step in STEPS if step.stage is Stage.PUBLISHING]

    @property
    def checkpoint(self) -> Checkpoint:
        """The model that was fetched."""
        return self.fetched.checkpoint

    @property
    def outer_bytes(self) -> int:
        """Bytes of the tensors outside the blocks, which are copied and stored at the end."""
        return sum(info.size_bytes for info in self.written.other_tensors())

    @property
    def writes(self) -> Reader:
        """Reads the tensors of the output."""
        return self.reader if self.plan.is_identity else CutReader(self.plan, self.reader)

    def fetch(self) -> None:
        """Fetch the model to this machine, and check that it can be pruned here."""
        check_harness(self.spec)  # before gigabytes are fetched
        needs_all = self.spec.calibration.generation is not None  # generating text takes the whole model
        self.fetched = fetch_model(
            self.ports.sources, self.observer, self.spec.model, self.workdir, self.meter, needs_all=needs_all
        )
        checkpoint = self.checkpoint
        self.reader = TensorReader(self.fetched.open_file, lambda _: self.observer.check())
        check_contents(checkpoint, TensorReader(self.fetched.open_file), self.observer.check)
        self.room.find(checkpoint)
        self.meter.foresee(self._flops(self.spec))
        self.meter.report()
        self.observer.log(
            "info",
            "model opened",
            model_type=checkpoint.model_type,
            blocks=checkpoint.num_blocks,
            parameters=checkpoint.parameters,
            bytes=checkpoint.size_bytes,
        )

    def question(self) -> None:
        """Read the tasks and make requests of them."""
        self.tasks = open_job_tasks(self.spec, self.checkpoint, self.ports.sources, self.observer, self.meter)
        if self.tasks:
            self.room.find(self.checkpoint, self._asked)  # how long the questions are is only known now

    def sample(self) -> None:
        """Draw the text, as windows of tokens."""
        self.text = draw_job_text(
            self.spec,
            self.checkpoint,
            self.ports.sources,
            self.observer,
            self.workdir,
            partial(load_whole, self.checkpoint, self.device, self._dtype),
            self.meter,
        )

    def shrink(self) -> None:
        """Decide which parts of the model are written."""
        checkpoint, companions = self.checkpoint, self.fetched.companions
        if self.attempt.plan:
            self.shrinkage = Shrinkage.of(self.attempt.plan(checkpoint))
        else:
            sources, observer = self.ports.sources, self.observer
            self.shrinker = Shrinker(
                self.spec, checkpoint, companions, self.text, sources, observer, self.meter, self.workdir
            )
            asked = self.spec.shrink
            # What takes the model is decided once that can be run.
            self.shrinkage = self.shrinker.shrink(None if asked and asked.needs_model else asked)
        self._settle()

    def prune(self) -> None:
        """Run the streaming pass: every block is pruned, evaluated and moved to the store."""
        with self.stopwatch.measure("load"):
            model = self.room.open(self.checkpoint, self.reader)
        with self.stopwatch.measure("evaluate"):
            self.affinity = foresee(self.spec, model, self.text, self.observer, self.meter)
        workdir, observer = self.workdir, self.observer
        with Processes(self.machine.processes, model, observer, self.stopwatch, workdir) as processes:
            if not self.attempt.plan:
                self._decide(model, processes)
            faults.reached("job.planned")
            self._prune(model, processes)

    def _prune(self, model: StreamedModel, processes: Processes) -> None:
        calibration, evaluation = self.text.calibration, self.text.evaluation
        with contextlib.closing(self._shards()) as shards:
            digest = begin_under(self._conditions(self.plan), self.workdir, shards.folder, self.observer)
            with self.stopwatch.measure("load"):
                output = None if self.plan.is_identity else self._output(self.shrinkage, calibration, evaluation)
                if self.tasks and output is not None:
                    output = replace(output, requests=self.tasks.in_output(self.plan, self.companions.folder).requests)
            self.shared = SharedStates.of(self.machine, model)
            config = PassConfig(
                recipe=self.spec.recipe,
                targets=settle_targets(
                    self.workdir, self.plan, model, self.spec, calibration, self.observer, self.stopwatch, self.meter
                ),
                order=self.spec.order,
                mix=self.spec.calibration.mix,
                calibration=calibration,
                evaluation=evaluation,
                shards=shards,
                fingerprint=digest,
                minimax=self.spec.calibration.policy == "minimax",
                layer_snr=self.spec.evaluation.layer_snr and self.spec.pruning is not None,
                output=output,
                asymmetric=bool(self.spec.pruning and self.spec.pruning.asymmetric),
                reconstruction=self.spec.reconstruction,
                requests=self.tasks.dense.requests if self.tasks else (),
                shared=self.shared,
                language_neurons=self.spec.evaluation.language_neurons,
            )
            self.meter.detail()
            if self.room.continues:
                self._continuer.plan(self.checkpoint, self.written)
            self.meter.plan("package", self.outer_bytes)
            self.meter.plan("publish", self.outer_bytes)
            self.passed = processes.run_pass(config, self.ports.ledger, self.meter)
            shards.settle(self.observer.check)
            self.resumed_blocks = self.passed.resumed_blocks

    def look(self) -> None:
        """Have both models continue a few texts, if that was asked for."""
        if not self.room.continues:
            return
        with contextlib.closing(self._shards()) as shards:
            dense = StoredModel(self.checkpoint, self.reader)
            output = StoredModel(self.written, self.writes, shards, self.passed.blocks)
            self.continued = self._continuer.run(self.text.evaluation, dense, output)
            shards.settle(self.observer.check)

    @property
    def _continuer(self) -> Continuer:
        return Continuer(self.spec, self.device, self._dtype, self.observer, self.meter)

    def _shards(self) -> Shards:
        return Shards(
            self.workdir / "checkpoint",
            store=self.ports.store,
            prefixes=[self.attempt.prefix, *self.attempt.origins],
            measure=lambda: self.stopwatch.measure_background("publish"),
            patience=self.patience,
        )

    def _decide(self, model: StreamedModel, processes: Processes) -> None:
        """Decide what is removed, as far as it takes the model: amounts for a budget, and blocks."""
        planner = Planner(
            self.spec,
            self.shrinker,
            model,
            self.text.calibration,
            processes,
            Tools(self._output, self._conditions, self._flops),
            self.observer,
            self.stopwatch,
            self.meter,
            self.workdir,
        )
        self.shrinkage = planner.decide(self.shrinkage)
        self._settle()
        check_tokens(self.shrinkage, self.companions.folder, self.text, self.observer.check)
        if not self.plan.is_identity:
            after, before = self.written.parameters, self.checkpoint.parameters
            self.observer.log("info", "the model becomes smaller", parameters=after, of_parameters=before)

    def _flops(self, spec: PruneSpec) -> float:
        on_device = self.device.type != "cpu"
        return estimate_cost(self.checkpoint, spec, on_device=on_device, shortages=self.room.shortages).flops

    def _settle(self) -> None:
        """Take over what was decided."""
        self.plan = self.shrinkage.plan
        self.companions = self.plan.rewrite(self.fetched.companions, self.workdir / "written")
        self.written = self.plan.output(self.companions.folder)

    def _conditions(self, plan: OutputPlan) -> dict[str, Any]:
        """The conditions under which finished work is valid."""
        text, dtype = self.text, self._dtype
        small = Shortage.DEVICE in self.room.shortages
        return fingerprint(plan, self.spec, text.calibration, text.evaluation, self.device, dtype, small_batches=small)

    def pack(self) -> None:
        """Package what goes with the blocks: the other tensors, the model's files, report and card."""
        package = Package(self.workdir)
        self.reader.on_read = lambda size_bytes: self.meter.tick("package", size_bytes)
        package.add_checkpoint(self.written, self.passed.blocks, self.spec, self.writes, self.companions)
        digest = self.reader.model_digest(self.checkpoint.config, self.checkpoint.tensors.values())
        tasks = self.tasks.figures(self.passed) if self.tasks else []
        report = report_of(
            JobPart(
                id=self.attempt.job_id, secateur_version=__version__, device=device_in_words(self._conditions_kept)
            ),
            self.spec,
            self.shrinkage,
            digest,
            self.text,
            tasks,
            self.continued,
            self.passed,
            self.affinity,
        )
        package.add_file(REPORT_PATH, report.to_bytes())
        provenance = self._provenance()
        run = Run(
            self.started, provenance.packaged, self.attempt.number, self.passed.resumed_blocks, is_published=False
        )
        package.add_file("report/report.html", render_html(report, run))
        package.add_file("checkpoint/README.md", render_card(report, self.companions.license))
        if self.spec.shrink:
            package.add_file(PLAN_NAME, self.shrinkage.to_bytes(self.passed.blocks))
        package.add_file("provenance.json", provenance.to_bytes())
        files = package.files(with_checkpoint=not report.exceeded)
        self.packaged = Packaged(files, report, self.meter.progress, self.outer_bytes)
        self.packaged.keep(self.workdir, self.spec)

    def publish(self) -> None:
        """Publish all files, then the manifest that names them; what is there already is not uploaded again."""
        self.digest = publish_packaged(self.packaged, self.attempt, self.workdir, self.ports, self.meter, self.patience)
        if self.packaged.report.exceeded:
            raise limit_exceeded(self.packaged.report, self.digest, [entry.path for entry in self.packaged.entries])

    def _output(self, shrinkage: Shrinkage, calibration: Samples, evaluation: Samples) -> Output:
        """The output model of a plan and its text, in its own tokens."""
        plan, reader = shrinkage.plan, CutReader(shrinkage.plan, self.reader)
        folder = self.companions.folder
        if plan is not self.plan:
            folder = plan.rewrite(self.fetched.companions, self.workdir / "tried").folder
        if not plan.keeps_tokens:
            tokenizer, separator = load_tokenizer(folder), self.spec.calibration.document_separator
            longest = self.checkpoint.max_sequence_length
            again = partial(
                again_tokenised, tokenizer=tokenizer, check=self.observer.check, separator=separator, longest=longest
            )
            before, calibration = evaluation, {name: again(each, pads=False) for name, each in calibration.items()}
            evaluation = {name: again(sample, pads=True) for name, sample in evaluation.items()}
            self._report_cut(before, evaluation)
        model = self.room.open(plan.output(folder), reader)
        return Output(plan, model, reader, calibration, evaluation, shrinkage.units)

    def _report_cut(self, before: Samples, after: Samples) -> None:
        """Warn of languages whose windows no longer fit into the model's context."""
        for name, sample in after.items():
            left_out = 1 - sample.num_bytes / before[name].num_bytes
            if left_out > 0:
                message = "in the smaller vocabulary, evaluation windows exceed the model's maximum length and are cut"
                self.observer.log("warning", message, language=name, share_of_bytes=round(left_out, 4))

    @property
    def _dtype(self) -> torch.dtype:
        return self.room.dtype(self.checkpoint)

    @property
    def _asked(self) -> tuple[int, int] | None:
        return self.tasks.size if self.tasks else None

    @property
    def _conditions_kept(self) -> dict[str, Any]:
        """The fingerprint that the blocks were made under."""
        kept: dict[str, Any] = json.loads((self.workdir / "fingerprint.json").read_bytes())
        return kept

    def _provenance(self) -> Provenance:
        seconds, cpu_seconds = self.stopwatch.totals()
        return Provenance(
            job_id=self.attempt.job_id,
            attempt=self.attempt.number,
            resumed_blocks=self.passed.resumed_blocks,
            started=self.started,
            packaged=datetime.now(UTC),
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            short_of=sorted(self.room.shortages),
            estimate=self.room.estimate(self.checkpoint, self._asked),
            peak_host_bytes=_peak_rss_bytes(),
            peak_device_bytes=self.peak_device_bytes(),
            rewritten=sorted({info.path.name for info in self.checkpoint.tensors.values()}),
            published=list(self.companions.names),
            left_out={**self.fetched.left_out, **self.plan.left_out},
            fingerprint=self._conditions_kept,
        )

    def peak_device_bytes(self) -> int:
        """The most that tensors took on the device; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0


@dataclass(frozen=True)
class Step:
    """A step of a job that is visible to its watchers.

    Attributes:
        stage: the stage that watchers see; steps in a row may share one.
        work: does the step.
        point: fault point that tests can use after the step; empty for none.
        charged: the kind of work that its time is charged to; None if it charges several itself.
    """

    stage: Stage
    work: Callable[[_Job], None]
    point: str = ""
    charged: Kind | None = None

    def measured(self, stopwatch: Stopwatch) -> contextlib.AbstractContextManager[None]:
        """Charge the time spent in the context."""
        return stopwatch.measure(self.charged) if self.charged else contextlib.nullcontext()


STEPS = (
    Step(Stage.FETCHING, _Job.fetch, "job.fetched", "fetch"),
    Step(Stage.SAMPLING, _Job.question, charged="sample"),
    Step(Stage.SAMPLING, _Job.sample, "job.sampled", "sample"),
    Step(Stage.SAMPLING, _Job.shrink, "job.shrunk", "sample"),
    Step(Stage.PRUNING, _Job.prune, "job.pruned"),
    Step(Stage.PRUNING, _Job.look, charged="evaluate"),
    Step(Stage.PACKAGING, _Job.pack, "job.packaged", "package"),
    Step(Stage.PUBLISHING, _Job.publish, charged="publish"),
)
"""All steps of a job, in order."""


def _peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
