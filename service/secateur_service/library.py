"""The door for programs: one call prunes a model as a specification says, here, without a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur._spec import spec_message
from secateur_service.admission import AccessPolicy, admit
from secateur_service.api.conversion import spec_to_dict
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.pipeline.attempt import Attempt, Machine, Ports
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import JobObserver, RecordingObserver
from secateur_service.private_files import make_public_folder
from secateur_service.settings import Settings
from secateur_service.sources import Sources, open_sources
from secateur_service.spec import OutputSpec, PruneSpec

if TYPE_CHECKING:
    from secateur_service.models.checkpoint import Checkpoint
    from secateur_service.models.plan import OutputPlan
    from secateur_service.pipeline.job import JobOutcome

WORK = ".work"
"""The folder below the output that holds what is not finished; the same call resumes with it."""


def prune(
    spec: Mapping[str, Any],
    output: Path,
    *,
    device: str = "cpu",
    threads: int = 0,
    observer: JobObserver | None = None,
    settings: Settings | None = None,
) -> JobOutcome:
    """Prune a model; the folder becomes what a service publishes for a job.

    Args:
        spec: a specification as plain data, such as `secateur.prune_spec` makes or a YAML file holds.
        output: folder of the result. What an interrupted call of the same specification finished is used.
        device: `cpu`, `cuda` or `cuda:0`.
        threads: of the CPU; 0 keeps torch's choice.
        observer: hears of the progress and may stop the job.
        settings: where hub and object stores are, and who we are there; by default those of the environment.

    Raises:
        secateur.InvalidSpecError: with every fault of the specification's shape.
        InvalidSpecError: with every rule that it breaks.
        AttemptError: why the job failed.
    """
    sources = open_sources(settings or Settings(), everywhere=True)
    on_device = not device.startswith("cpu")
    data = spec_to_dict(spec_message(spec))  # with the short forms written out
    admitted = admit(data, AccessPolicy(sources, destinations=None, on_device=on_device)).resolved
    make_public_folder(output)
    return run_here(
        admitted.model_copy(update={"output": OutputSpec()}),
        sources,
        output,
        Machine(output / WORK, device, threads),
        observer or RecordingObserver(),
    )


def run_here(
    spec: PruneSpec,
    sources: Sources,
    output: Path,
    machine: Machine,
    observer: JobObserver,
    plan: Callable[[Checkpoint], OutputPlan] | None = None,
) -> JobOutcome:
    """Run an admitted job whose results go into a folder.

    Args:
        spec: resolved, without a destination.
        sources: where model and corpora come from.
        output: folder of the result.
        machine: with the work directory, which is made where it is not there.
        observer: hears of the progress and may stop the job.
        plan: see `Attempt`.

    Raises:
        AttemptError: why the job failed.
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
    return run_job(Attempt(spec, f"run-{spec.digest()[:12]}", 1, prefix="", plan=plan), machine, ports)
