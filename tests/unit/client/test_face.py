"""What `import secateur` offers, and what it leaves alone."""

import inspect
import subprocess
import sys
from pathlib import Path

import secateur

FACE = {
    "AffinityReport",
    "AlreadyExistsError",
    "Artifact",
    "AsyncClient",
    "AsyncJobHandle",
    "AsyncSweep",
    "BlockEvent",
    "Bound",
    "CertificateError",
    "ProtocolError",
    "Client",
    "ClientClosedError",
    "ClientConfig",
    "ComparedJob",
    "ComparedLanguage",
    "Comparison",
    "ConfigError",
    "Contender",
    "Continuation",
    "ContinuedLanguage",
    "Architecture",
    "CorpusPreset",
    "DamagedResultError",
    "DeadlineError",
    "Decision",
    "DownloadError",
    "DownloadProgress",
    "Downloaded",
    "Estimate",
    "Event",
    "Failure",
    "FieldViolation",
    "Gate",
    "GateLanguage",
    "GateTask",
    "Headline",
    "IntegrityError",
    "InvalidRequestError",
    "InvalidSpecError",
    "Job",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobHandle",
    "JobResult",
    "JobStage",
    "JobState",
    "LanguageNeurons",
    "LanguageReport",
    "LanguageResult",
    "LogEvent",
    "NotFoundError",
    "NotReadyError",
    "Overlap",
    "OverloadedError",
    "PermissionDeniedError",
    "Plan",
    "PreconditionError",
    "Progress",
    "ProgressEvent",
    "PublishedResult",
    "Recommendation",
    "RelatedJobs",
    "Report",
    "RequestError",
    "SecateurError",
    "SequenceExpiredError",
    "ServiceFaultError",
    "ServiceInfo",
    "Slot",
    "SnapshotEvent",
    "SpecOptions",
    "SpecWarning",
    "StageEvent",
    "StateEvent",
    "Sweep",
    "TaskReport",
    "TradeoffPoint",
    "UnauthenticatedError",
    "UnavailableError",
    "UnreachableError",
    "Verdict",
    "Verification",
    "WaitTimeoutError",
    "gate",
    "prune_spec",
    "verify",
}


def test_the_public_face_is_exactly_what_all_lists():
    assert set(secateur.__all__) == FACE
    public = {
        name for name, value in vars(secateur).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == FACE


def test_every_module_is_private_but_the_command_and_the_generated_stubs():
    folder = Path(secateur.__file__).parent
    names = {path.name.removesuffix(".py") for path in folder.iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert {name for name in names if not name.startswith("_")} == {"cli", "v1"}
    assert (folder / "py.typed").exists()


def test_the_asynchronous_face_has_the_methods_and_parameters_of_the_synchronous_one():
    def methods(kind):
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in vars(kind).items()
            if not name.startswith("_") and inspect.isfunction(value)
        }

    assert methods(secateur.AsyncClient) == methods(secateur.Client)
    assert methods(secateur.AsyncJobHandle) == methods(secateur.JobHandle)
    assert methods(secateur.AsyncSweep) == methods(secateur.Sweep)


def test_all_errors_are_one_tree_with_stable_reasons():
    raised = [value for value in vars(secateur).values() if inspect.isclass(value) and issubclass(value, Exception)]
    errors = [value for value in raised if not issubclass(value, Warning)]
    assert all(issubclass(error, secateur.SecateurError) for error in errors)
    own = [error.reason for error in errors if "reason" in vars(error)]
    assert len(set(own)) == len(own)


def test_importing_the_client_and_its_command_loads_no_torch_and_nothing_of_the_server():
    code = (
        "import sys, secateur, secateur.cli\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'sqlalchemy', 'minio', 'secateur_service'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
