"""Secateur prunes large language models for the languages their users speak. This is its Python SDK.

    import secateur

    with secateur.Client("localhost:50051") as client:
        job = client.prune(
            "file:///models/my-model",
            corpus="file:///corpora/calibration",
            languages={"de": 0.7, "en": 0.3},
            sparsity=0.5,
        )
        for event in job.watch():
            print(event)
        report = job.result().report
        job.download("out/")

`AsyncClient` is the async version. All errors derive from `SecateurError`. Warnings about lost and resumed watches go
to the `logging` module, under the name `secateur`.
"""

import secateur._grpc_log  # noqa: F401 - before gRPC is loaded
from secateur._aio import AsyncClient, AsyncJobHandle, AsyncSweep
from secateur._artifact import Architecture, Artifact, CorpusPreset, ServiceInfo
from secateur._client import Client
from secateur._comparison import (
    ComparedJob,
    ComparedLanguage,
    Comparison,
    Contender,
    Overlap,
    Recommendation,
    RelatedJobs,
    TradeoffPoint,
)
from secateur._config import ClientConfig
from secateur._download import Downloaded, DownloadProgress
from secateur._errors import (
    AlreadyExistsError,
    CertificateError,
    ClientClosedError,
    ConfigError,
    DamagedResultError,
    DeadlineError,
    DownloadError,
    FieldViolation,
    IntegrityError,
    InvalidRequestError,
    InvalidSpecError,
    JobCancelledError,
    JobError,
    JobFailedError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    ProtocolError,
    RequestError,
    SecateurError,
    SequenceExpiredError,
    ServiceFaultError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
)
from secateur._event import BlockEvent, Event, LogEvent, ProgressEvent, SnapshotEvent, StageEvent, StateEvent
from secateur._gate import Gate, GateLanguage, GateTask, gate
from secateur._handle import JobHandle
from secateur._job import (
    Bound,
    Estimate,
    Failure,
    Job,
    JobResult,
    JobStage,
    JobState,
    LanguageResult,
    Plan,
    Progress,
    PublishedResult,
    Slot,
)
from secateur._options import SpecOptions, prune_spec
from secateur._report import (
    AffinityReport,
    Continuation,
    ContinuedLanguage,
    Decision,
    Headline,
    LanguageNeurons,
    LanguageReport,
    Report,
    TaskReport,
    Verdict,
)
from secateur._spec_warning import SpecWarning
from secateur._sweep import Sweep
from secateur._verify import Verification, verify

__all__ = [
    "AffinityReport",
    "AlreadyExistsError",
    "Architecture",
    "Artifact",
    "AsyncClient",
    "AsyncJobHandle",
    "AsyncSweep",
    "BlockEvent",
    "Bound",
    "CertificateError",
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
    "ProtocolError",
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
]
