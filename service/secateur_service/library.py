"""The entry point for programs: one call prunes a model to a specification, in this process, without a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur._as_written import as_written
from secateur._options import with_options
from secateur._spec import spec_message
from secateur_service.admission import AccessPolicy, Admission, admit
from secateur_service.api.conversion import spec_to_dict
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.errors import FieldViolation, InvalidSpecError
from secateur_service.pipeline.attempt import Attempt, Machine, Ports
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import JobObserver, RecordingObserver
from secateur_service.private_files import make_public_folder
from secateur_service.settings import Settings
from secateur_service.sources import Sources, open_sources
from secateur_service.spec import OutputSpec, PruneSpec

if TYPE_CHECKING:
    from secateur_service.calibration.sampling import TextSample
    from secateur_service.models.checkpoint import Checkpoint
    from secateur_service.models.plan import OutputPlan
    from secateur_service.models.streaming import StreamedModel
    from secateur_service.pipeline.attempt import FinishedJob
    from secateur_service.pipeline.stopwatch import Stopwatch
    from secateur_service.pipeline.streaming_pass import PassResult
    from secateur_service.pipeline.team import Team
    from secateur_service.pruning.methods import Recipe
    from secateur_service.pruning.patterns import Target
    from secateur_service.spec import ReconstructionSpec

WORK = ".work"
"""The folder inside the output that holds unfinished work; repeating the call resumes from it."""


def prune(
    spec: Mapping[str, Any],
    output: Path,
    *,
    device: str | None = None,
    threads: int = 0,
    processes: int | None = None,
    observer: JobObserver | None = None,
    settings: Settings | None = None,
) -> FinishedJob:
    """Prune a model; the output folder gets what a service would publish for the job.

    Args:
        spec: a specification as plain data, from `secateur.prune_spec` or a YAML file.
        output: folder of the result. Work finished by an interrupted call with the same specification is reused.
        device: `cpu`, `cuda` or `cuda:0`; by default cuda if available.
        threads: number of CPU threads of each process; 0 divides torch's choice evenly over them.
        processes: how many run the job together, at most 8; by default what the specification says, else one.
        observer: receives the progress and may stop the job.
        settings: endpoints and accounts for the hub and object stores; by default read from the environment.

    Raises:
        secateur.InvalidSpecError: the specification has the wrong shape; lists every fault.
        InvalidSpecError: the specification breaks rules; lists all of them.
        AttemptError: the job failed; says why.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    sources = open_sources(settings or Settings(), everywhere=True)
    on_device = not device.startswith("cpu")
    access = AccessPolicy(sources, destinations=None, on_device=on_device)
    admitted = admit_written(with_processes(spec, processes), access)
    try:
        make_work_folder(output)
    except OSError as error:
        problem = f"{output} cannot be written: {error.strerror}; choose another folder"
        raise InvalidSpecError([FieldViolation("output", problem)]) from error
    return run_here(
        written_here(admitted.resolved),
        sources,
        output,
        Machine(output / WORK, device, threads, admitted.resolved.execution.processes or 1),
        observer or RecordingObserver(),
        flops=admitted.estimate.flops,
    )


def admit_written(spec: Mapping[str, Any], access: AccessPolicy) -> Admission:
    """Check a specification as its author wrote it, with its short forms.

    Raises:
        secateur.InvalidSpecError: it has the wrong shape; lists every fault.
        InvalidSpecError: it breaks rules; lists all of them, with the fields named as they are written.
        TransientError: what it names cannot be reached.
    """
    data = spec_to_dict(spec_message(spec))  # expands the short forms
    try:
        return admit(data, access)
    except InvalidSpecError as error:
        raise error.renamed(lambda field: as_written(field, spec)) from error


def with_processes(spec: Mapping[str, Any], processes: int | None) -> dict[str, Any]:
    """A specification as its author wrote it, with another number of processes if one is given."""
    return with_options(spec, {"processes": processes})


def written_here(spec: PruneSpec) -> PruneSpec:
    """A resolved specification as a folder keeps it: without what other folders and numbers of processes share."""
    execution = spec.execution.model_copy(update={"processes": None})
    return spec.model_copy(update={"output": OutputSpec(), "execution": execution})


def prune_tokens(
    model: Path | StreamedModel,
    calibration: Mapping[str, TextSample],
    evaluation: Mapping[str, TextSample],
    folder: Path,
    *,
    recipe: Recipe,
    target: Target | Mapping[str, Target],
    order: str = "true_sequential",
    mix: Mapping[str, float] | None = None,
    minimax: bool = False,
    asymmetric: bool = False,
    layer_snr: bool = False,
    reconstruction: ReconstructionSpec | None = None,
    language_neurons: bool = False,
    observer: JobObserver | None = None,
    stopwatch: Stopwatch | None = None,
    team: Team | None = None,
) -> PassResult:
    """One streaming pass over a model, on text that is already tokenised: for benchmarks and experiments.

    Args:
        model: its folder, to compute in float32 on the CPU; or an already opened model.
        calibration: calibration text by language, as tokens of the model.
        evaluation: evaluation text, in the same form; may be empty.
        folder: where the pruned blocks go. Blocks that an interrupted pass finished there are reused.
        recipe: which weights are pruned, and how the remaining ones are updated.
        target: how much to prune, in all layers or by weight name; layers that are not named stay dense.
        order: one of `spec.ORDERS`.
        mix: share of each calibration language, summing to one; by default all are equal.
        minimax: whether to search, starting from the mix, for the one that minimises the worst language's error.
        asymmetric: whether layers have the dense model's output as their target.
        layer_snr: whether to measure the signal-to-noise ratio of each layer per language.
        reconstruction: how blocks are trained; by default they are not.
        language_neurons: whether to find out what becomes of the neurons that belong to a language.
        observer: receives the progress and may stop the pass.
        stopwatch: records the time spent.
        team: processes that help.
    """
    import torch

    from secateur_service.models.opening import open_checkpoint
    from secateur_service.models.streaming import StreamedModel
    from secateur_service.pipeline.divided import PassTask
    from secateur_service.pipeline.pass_config import PassConfig
    from secateur_service.pipeline.shards import Shards
    from secateur_service.pipeline.stopwatch import Stopwatch
    from secateur_service.pipeline.streaming_pass import run_pass

    if isinstance(model, Path):
        model = StreamedModel(open_checkpoint(model), torch.device("cpu"), torch.float32)
    if not isinstance(target, Mapping):
        target = {info.name: target for info in model.checkpoint.linear_weights()}
    config = PassConfig(
        recipe=recipe,
        targets=target,
        order=order,
        mix=mix or dict.fromkeys(calibration, 1 / len(calibration)),
        calibration=calibration,
        evaluation=evaluation,
        shards=Shards(folder),
        minimax=minimax,
        asymmetric=asymmetric,
        layer_snr=layer_snr,
        reconstruction=reconstruction,
        language_neurons=language_neurons,
    )
    ledger = FileLedger(folder / "ledger.json")
    observer, stopwatch = observer or RecordingObserver(), stopwatch or Stopwatch()
    if team is None:
        return run_pass(model, config, ledger, observer, stopwatch)
    with team.helping(model, PassTask.of(config)) as ranks:
        return run_pass(model, config, ledger, observer, stopwatch, ranks=ranks)


def make_work_folder(output: Path) -> Path:
    """Create the folder for a result and, inside it, the folder for unfinished work; returns the latter.

    Raises:
        OSError: it cannot be written.
    """
    make_public_folder(output)
    workdir = output / WORK
    workdir.mkdir(exist_ok=True)
    return workdir


def run_here(
    spec: PruneSpec,
    sources: Sources,
    output: Path,
    machine: Machine,
    observer: JobObserver,
    plan: Callable[[Checkpoint], OutputPlan] | None = None,
    flops: float = 0.0,
) -> FinishedJob:
    """Run an admitted job and write its results to a folder.

    Args:
        spec: the resolved specification, without a destination.
        sources: where model and corpora come from.
        output: folder of the result.
        machine: the machine and the work directory, which is created if missing.
        observer: receives the progress and may stop the job.
        plan: see `Attempt`.
        flops: see `Attempt`.

    Raises:
        AttemptError: the job failed; says why.
    """
    from secateur_service.pipeline.job import run_job  # torch takes seconds to load

    machine.workdir.mkdir(parents=True, exist_ok=True)
    ports = Ports(
        sources=sources,
        ledger=FileLedger(machine.workdir / "ledger.json"),
        store=DirectoryStore(output),
        commit=lambda digest: digest,
        observer=observer,
    )
    return run_job(Attempt(spec, f"run-{spec.digest()[:12]}", 1, prefix="", flops=flops, plan=plan), machine, ports)
