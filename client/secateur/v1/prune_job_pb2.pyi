import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_CANCELLING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]

class JobStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STAGE_UNSPECIFIED: _ClassVar[JobStage]
    JOB_STAGE_FETCHING: _ClassVar[JobStage]
    JOB_STAGE_SAMPLING: _ClassVar[JobStage]
    JOB_STAGE_PRUNING: _ClassVar[JobStage]
    JOB_STAGE_PACKAGING: _ClassVar[JobStage]
    JOB_STAGE_PUBLISHING: _ClassVar[JobStage]

class Bound(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOUND_UNSPECIFIED: _ClassVar[Bound]
    BOUND_COMPUTING: _ClassVar[Bound]
    BOUND_READING: _ClassVar[Bound]
    BOUND_WRITING: _ClassVar[Bound]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_CANCELLING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState
JOB_STAGE_UNSPECIFIED: JobStage
JOB_STAGE_FETCHING: JobStage
JOB_STAGE_SAMPLING: JobStage
JOB_STAGE_PRUNING: JobStage
JOB_STAGE_PACKAGING: JobStage
JOB_STAGE_PUBLISHING: JobStage
BOUND_UNSPECIFIED: Bound
BOUND_COMPUTING: Bound
BOUND_READING: Bound
BOUND_WRITING: Bound

class PruneJob(_message.Message):
    __slots__ = ("name", "uid", "create_time", "start_time", "end_time", "spec", "resolved_spec", "state", "stage", "progress", "attempt", "max_attempts", "failure", "estimate", "result", "labels", "last_sequence", "retry_of", "waiting")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RETRY_OF_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    spec: PruneSpec
    resolved_spec: PruneSpec
    state: JobState
    stage: JobStage
    progress: Progress
    attempt: int
    max_attempts: int
    failure: Failure
    estimate: Estimate
    result: Result
    labels: _containers.ScalarMap[str, str]
    last_sequence: int
    retry_of: str
    waiting: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., spec: _Optional[_Union[PruneSpec, _Mapping]] = ..., resolved_spec: _Optional[_Union[PruneSpec, _Mapping]] = ..., state: _Optional[_Union[JobState, str]] = ..., stage: _Optional[_Union[JobStage, str]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., attempt: _Optional[int] = ..., max_attempts: _Optional[int] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., estimate: _Optional[_Union[Estimate, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., last_sequence: _Optional[int] = ..., retry_of: _Optional[str] = ..., waiting: _Optional[str] = ...) -> None: ...

class PruneSpec(_message.Message):
    __slots__ = ("model", "calibration", "pruning", "evaluation", "output", "execution", "shrink", "limits", "reconstruction")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    PRUNING_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    SHRINK_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    model: ModelSpec
    calibration: CalibrationSpec
    pruning: PruningSpec
    evaluation: EvaluationSpec
    output: OutputSpec
    execution: ExecutionSpec
    shrink: ShrinkSpec
    limits: LimitsSpec
    reconstruction: ReconstructionSpec
    def __init__(self, model: _Optional[_Union[ModelSpec, _Mapping]] = ..., calibration: _Optional[_Union[CalibrationSpec, _Mapping]] = ..., pruning: _Optional[_Union[PruningSpec, _Mapping]] = ..., evaluation: _Optional[_Union[EvaluationSpec, _Mapping]] = ..., output: _Optional[_Union[OutputSpec, _Mapping]] = ..., execution: _Optional[_Union[ExecutionSpec, _Mapping]] = ..., shrink: _Optional[_Union[ShrinkSpec, _Mapping]] = ..., limits: _Optional[_Union[LimitsSpec, _Mapping]] = ..., reconstruction: _Optional[_Union[ReconstructionSpec, _Mapping]] = ...) -> None: ...

class ModelSpec(_message.Message):
    __slots__ = ("uri", "revision")
    URI_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    uri: str
    revision: str
    def __init__(self, uri: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class CalibrationSpec(_message.Message):
    __slots__ = ("corpus", "languages", "samples", "sequence_length", "seed", "policy", "temperature", "text_field", "chat_template", "generation", "identify_languages", "document_separator")
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    IDENTIFY_LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_SEPARATOR_FIELD_NUMBER: _ClassVar[int]
    corpus: str
    languages: _containers.RepeatedCompositeFieldContainer[LanguageWeight]
    samples: int
    sequence_length: int
    seed: int
    policy: str
    temperature: float
    text_field: str
    chat_template: bool
    generation: GenerationSpec
    identify_languages: bool
    document_separator: str
    def __init__(self, corpus: _Optional[str] = ..., languages: _Optional[_Iterable[_Union[LanguageWeight, _Mapping]]] = ..., samples: _Optional[int] = ..., sequence_length: _Optional[int] = ..., seed: _Optional[int] = ..., policy: _Optional[str] = ..., temperature: _Optional[float] = ..., text_field: _Optional[str] = ..., chat_template: _Optional[bool] = ..., generation: _Optional[_Union[GenerationSpec, _Mapping]] = ..., identify_languages: _Optional[bool] = ..., document_separator: _Optional[str] = ...) -> None: ...

class GenerationSpec(_message.Message):
    __slots__ = ("prefix_tokens", "new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "dropped_share")
    PREFIX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    DROPPED_SHARE_FIELD_NUMBER: _ClassVar[int]
    prefix_tokens: int
    new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    dropped_share: float
    def __init__(self, prefix_tokens: _Optional[int] = ..., new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., repetition_penalty: _Optional[float] = ..., dropped_share: _Optional[float] = ...) -> None: ...

class LanguageWeight(_message.Message):
    __slots__ = ("language", "weight")
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    language: str
    weight: float
    def __init__(self, language: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class PruningSpec(_message.Message):
    __slots__ = ("method", "sparsity", "pattern", "order", "update", "group", "spread", "allocation", "overrides", "asymmetric", "preset")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    ALLOCATION_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    ASYMMETRIC_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    method: str
    sparsity: float
    pattern: str
    order: str
    update: str
    group: str
    spread: float
    allocation: AllocationSpec
    overrides: _containers.RepeatedCompositeFieldContainer[LayerOverride]
    asymmetric: bool
    preset: str
    def __init__(self, method: _Optional[str] = ..., sparsity: _Optional[float] = ..., pattern: _Optional[str] = ..., order: _Optional[str] = ..., update: _Optional[str] = ..., group: _Optional[str] = ..., spread: _Optional[float] = ..., allocation: _Optional[_Union[AllocationSpec, _Mapping]] = ..., overrides: _Optional[_Iterable[_Union[LayerOverride, _Mapping]]] = ..., asymmetric: _Optional[bool] = ..., preset: _Optional[str] = ...) -> None: ...

class AllocationSpec(_message.Message):
    __slots__ = ("policy", "span", "outlier")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    OUTLIER_FIELD_NUMBER: _ClassVar[int]
    policy: str
    span: float
    outlier: float
    def __init__(self, policy: _Optional[str] = ..., span: _Optional[float] = ..., outlier: _Optional[float] = ...) -> None: ...

class LayerOverride(_message.Message):
    __slots__ = ("layers", "sparsity", "pattern", "dense")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    layers: str
    sparsity: float
    pattern: str
    dense: bool
    def __init__(self, layers: _Optional[str] = ..., sparsity: _Optional[float] = ..., pattern: _Optional[str] = ..., dense: _Optional[bool] = ...) -> None: ...

class ShrinkSpec(_message.Message):
    __slots__ = ("vocabulary", "keep_languages", "feed_forward", "blocks", "kv_heads", "plan", "plan_sha256", "budget")
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    KEEP_LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    FEED_FORWARD_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    KV_HEADS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PLAN_SHA256_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    vocabulary: VocabularySpec
    keep_languages: _containers.RepeatedScalarFieldContainer[str]
    feed_forward: FeedForwardSpec
    blocks: BlocksSpec
    kv_heads: KvHeadsSpec
    plan: str
    plan_sha256: str
    budget: BudgetSpec
    def __init__(self, vocabulary: _Optional[_Union[VocabularySpec, _Mapping]] = ..., keep_languages: _Optional[_Iterable[str]] = ..., feed_forward: _Optional[_Union[FeedForwardSpec, _Mapping]] = ..., blocks: _Optional[_Union[BlocksSpec, _Mapping]] = ..., kv_heads: _Optional[_Union[KvHeadsSpec, _Mapping]] = ..., plan: _Optional[str] = ..., plan_sha256: _Optional[str] = ..., budget: _Optional[_Union[BudgetSpec, _Mapping]] = ...) -> None: ...

class BudgetSpec(_message.Message):
    __slots__ = ("parameters", "axes")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    parameters: float
    axes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, parameters: _Optional[float] = ..., axes: _Optional[_Iterable[str]] = ...) -> None: ...

class BlocksSpec(_message.Message):
    __slots__ = ("remove",)
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    remove: int
    def __init__(self, remove: _Optional[int] = ...) -> None: ...

class KvHeadsSpec(_message.Message):
    __slots__ = ("remove",)
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    remove: int
    def __init__(self, remove: _Optional[int] = ...) -> None: ...

class FeedForwardSpec(_message.Message):
    __slots__ = ("share", "channels", "multiple_of")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLE_OF_FIELD_NUMBER: _ClassVar[int]
    share: float
    channels: int
    multiple_of: int
    def __init__(self, share: _Optional[float] = ..., channels: _Optional[int] = ..., multiple_of: _Optional[int] = ...) -> None: ...

class VocabularySpec(_message.Message):
    __slots__ = ("extra_tokens", "rows", "keep_texts", "prior", "weights")
    EXTRA_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    KEEP_TEXTS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    extra_tokens: float
    rows: int
    keep_texts: _containers.RepeatedScalarFieldContainer[str]
    prior: str
    weights: _containers.RepeatedCompositeFieldContainer[LanguageWeight]
    def __init__(self, extra_tokens: _Optional[float] = ..., rows: _Optional[int] = ..., keep_texts: _Optional[_Iterable[str]] = ..., prior: _Optional[str] = ..., weights: _Optional[_Iterable[_Union[LanguageWeight, _Mapping]]] = ...) -> None: ...

class ReconstructionSpec(_message.Message):
    __slots__ = ("epochs", "learning_rate", "batch", "seed", "norms")
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    epochs: int
    learning_rate: float
    batch: int
    seed: int
    norms: bool
    def __init__(self, epochs: _Optional[int] = ..., learning_rate: _Optional[float] = ..., batch: _Optional[int] = ..., seed: _Optional[int] = ..., norms: _Optional[bool] = ...) -> None: ...

class LimitsSpec(_message.Message):
    __slots__ = ("languages", "task_loss")
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    TASK_LOSS_FIELD_NUMBER: _ClassVar[int]
    languages: _containers.RepeatedCompositeFieldContainer[LanguageLimit]
    task_loss: float
    def __init__(self, languages: _Optional[_Iterable[_Union[LanguageLimit, _Mapping]]] = ..., task_loss: _Optional[float] = ...) -> None: ...

class LanguageLimit(_message.Message):
    __slots__ = ("language", "growth")
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    language: str
    growth: float
    def __init__(self, language: _Optional[str] = ..., growth: _Optional[float] = ...) -> None: ...

class EvaluationSpec(_message.Message):
    __slots__ = ("corpus", "languages", "tokens_per_language", "layer_snr", "text_field", "chat_template", "tasks", "task_files", "task_limit", "task_shots", "task_chat_template", "continuations", "language_neurons", "enough_documents")
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    LAYER_SNR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TASK_FILES_FIELD_NUMBER: _ClassVar[int]
    TASK_LIMIT_FIELD_NUMBER: _ClassVar[int]
    TASK_SHOTS_FIELD_NUMBER: _ClassVar[int]
    TASK_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    CONTINUATIONS_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_NEURONS_FIELD_NUMBER: _ClassVar[int]
    ENOUGH_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    corpus: str
    languages: _containers.RepeatedScalarFieldContainer[str]
    tokens_per_language: int
    layer_snr: bool
    text_field: str
    chat_template: bool
    tasks: _containers.RepeatedScalarFieldContainer[str]
    task_files: str
    task_limit: int
    task_shots: int
    task_chat_template: bool
    continuations: int
    language_neurons: bool
    enough_documents: int
    def __init__(self, corpus: _Optional[str] = ..., languages: _Optional[_Iterable[str]] = ..., tokens_per_language: _Optional[int] = ..., layer_snr: _Optional[bool] = ..., text_field: _Optional[str] = ..., chat_template: _Optional[bool] = ..., tasks: _Optional[_Iterable[str]] = ..., task_files: _Optional[str] = ..., task_limit: _Optional[int] = ..., task_shots: _Optional[int] = ..., task_chat_template: _Optional[bool] = ..., continuations: _Optional[int] = ..., language_neurons: _Optional[bool] = ..., enough_documents: _Optional[int] = ...) -> None: ...

class OutputSpec(_message.Message):
    __slots__ = ("destination",)
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    destination: str
    def __init__(self, destination: _Optional[str] = ...) -> None: ...

class ExecutionSpec(_message.Message):
    __slots__ = ("max_attempts", "queue_deadline_seconds", "run_deadline_seconds", "processes")
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RUN_DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    max_attempts: int
    queue_deadline_seconds: int
    run_deadline_seconds: int
    processes: int
    def __init__(self, max_attempts: _Optional[int] = ..., queue_deadline_seconds: _Optional[int] = ..., run_deadline_seconds: _Optional[int] = ..., processes: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("blocks_done", "blocks_total", "fraction", "eta_seconds", "bytes_done", "bytes_total")
    BLOCKS_DONE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    blocks_done: int
    blocks_total: int
    fraction: float
    eta_seconds: float
    bytes_done: int
    bytes_total: int
    def __init__(self, blocks_done: _Optional[int] = ..., blocks_total: _Optional[int] = ..., fraction: _Optional[float] = ..., eta_seconds: _Optional[float] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("reason", "message", "retryable", "details")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    retryable: bool
    details: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ..., details: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("checkpoint_bytes", "peak_host_bytes", "peak_device_bytes", "disk_bytes", "flops", "parameters", "output_parameters", "output_bytes", "seconds", "slot", "warnings", "bounds", "growth_margin")
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class BoundsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Bound
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Bound, str]] = ...) -> None: ...
    CHECKPOINT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_DEVICE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    GROWTH_MARGIN_FIELD_NUMBER: _ClassVar[int]
    checkpoint_bytes: int
    peak_host_bytes: int
    peak_device_bytes: int
    disk_bytes: int
    flops: float
    parameters: int
    output_parameters: int
    output_bytes: int
    seconds: _containers.ScalarMap[str, float]
    slot: Slot
    warnings: _containers.RepeatedScalarFieldContainer[str]
    bounds: _containers.ScalarMap[str, Bound]
    growth_margin: float
    def __init__(self, checkpoint_bytes: _Optional[int] = ..., peak_host_bytes: _Optional[int] = ..., peak_device_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., flops: _Optional[float] = ..., parameters: _Optional[int] = ..., output_parameters: _Optional[int] = ..., output_bytes: _Optional[int] = ..., seconds: _Optional[_Mapping[str, float]] = ..., slot: _Optional[_Union[Slot, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ..., bounds: _Optional[_Mapping[str, Bound]] = ..., growth_margin: _Optional[float] = ...) -> None: ...

class Slot(_message.Message):
    __slots__ = ("host_bytes", "device_bytes", "disk_bytes")
    HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    host_bytes: int
    device_bytes: int
    disk_bytes: int
    def __init__(self, host_bytes: _Optional[int] = ..., device_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("manifest_uri", "manifest_sha256", "sparsity", "languages", "parameters", "dense_parameters")
    MANIFEST_URI_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    DENSE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    manifest_uri: str
    manifest_sha256: str
    sparsity: float
    languages: _containers.RepeatedCompositeFieldContainer[LanguageResult]
    parameters: int
    dense_parameters: int
    def __init__(self, manifest_uri: _Optional[str] = ..., manifest_sha256: _Optional[str] = ..., sparsity: _Optional[float] = ..., languages: _Optional[_Iterable[_Union[LanguageResult, _Mapping]]] = ..., parameters: _Optional[int] = ..., dense_parameters: _Optional[int] = ...) -> None: ...

class LanguageResult(_message.Message):
    __slots__ = ("language", "dense_perplexity", "pruned_perplexity", "dense_bits_per_byte", "pruned_bits_per_byte")
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    DENSE_PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    PRUNED_PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    DENSE_BITS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    PRUNED_BITS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    language: str
    dense_perplexity: float
    pruned_perplexity: float
    dense_bits_per_byte: float
    pruned_bits_per_byte: float
    def __init__(self, language: _Optional[str] = ..., dense_perplexity: _Optional[float] = ..., pruned_perplexity: _Optional[float] = ..., dense_bits_per_byte: _Optional[float] = ..., pruned_bits_per_byte: _Optional[float] = ...) -> None: ...

class PruneJobEvent(_message.Message):
    __slots__ = ("sequence", "time", "attempt", "snapshot", "state", "stage", "progress", "block", "log", "heartbeat")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    attempt: int
    snapshot: PruneJob
    state: StateChange
    stage: StageChange
    progress: Progress
    block: BlockPruned
    log: LogRecord
    heartbeat: Heartbeat
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., snapshot: _Optional[_Union[PruneJob, _Mapping]] = ..., state: _Optional[_Union[StateChange, _Mapping]] = ..., stage: _Optional[_Union[StageChange, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., block: _Optional[_Union[BlockPruned, _Mapping]] = ..., log: _Optional[_Union[LogRecord, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class StateChange(_message.Message):
    __slots__ = ("state", "message", "failure")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    message: str
    failure: Failure
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., message: _Optional[str] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class StageChange(_message.Message):
    __slots__ = ("stage",)
    STAGE_FIELD_NUMBER: _ClassVar[int]
    stage: JobStage
    def __init__(self, stage: _Optional[_Union[JobStage, str]] = ...) -> None: ...

class BlockPruned(_message.Message):
    __slots__ = ("index", "sparsity", "seconds", "snr_db")
    class SnrDbEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SNR_DB_FIELD_NUMBER: _ClassVar[int]
    index: int
    sparsity: float
    seconds: float
    snr_db: _containers.ScalarMap[str, float]
    def __init__(self, index: _Optional[int] = ..., sparsity: _Optional[float] = ..., seconds: _Optional[float] = ..., snr_db: _Optional[_Mapping[str, float]] = ...) -> None: ...

class LogRecord(_message.Message):
    __slots__ = ("level", "message", "fields")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    level: str
    message: str
    fields: _struct_pb2.Struct
    def __init__(self, level: _Optional[str] = ..., message: _Optional[str] = ..., fields: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
