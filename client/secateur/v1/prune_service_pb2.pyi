import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from secateur.v1 import prune_job_pb2 as _prune_job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreatePruneJobRequest(_message.Message):
    __slots__ = ("spec", "labels", "request_id", "validate_only")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SPEC_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: _prune_job_pb2.PruneSpec
    labels: _containers.ScalarMap[str, str]
    request_id: str
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[_prune_job_pb2.PruneSpec, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetPruneJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListPruneJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "labels", "order_by", "created_from", "created_before", "id_prefix")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FROM_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[_prune_job_pb2.JobState]
    labels: _containers.ScalarMap[str, str]
    order_by: str
    created_from: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    id_prefix: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_prune_job_pb2.JobState, str]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., order_by: _Optional[str] = ..., created_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., id_prefix: _Optional[str] = ...) -> None: ...

class ListPruneJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[_prune_job_pb2.PruneJob]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[_prune_job_pb2.PruneJob, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelPruneJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RetryPruneJobRequest(_message.Message):
    __slots__ = ("name", "request_id", "spec")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    spec: _prune_job_pb2.PruneSpec
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ..., spec: _Optional[_Union[_prune_job_pb2.PruneSpec, _Mapping]] = ...) -> None: ...

class DeletePruneJobRequest(_message.Message):
    __slots__ = ("name", "delete_artifacts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DELETE_ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    delete_artifacts: bool
    def __init__(self, name: _Optional[str] = ..., delete_artifacts: _Optional[bool] = ...) -> None: ...

class DeletePruneJobResponse(_message.Message):
    __slots__ = ("deleted_files",)
    DELETED_FILES_FIELD_NUMBER: _ClassVar[int]
    deleted_files: int
    def __init__(self, deleted_files: _Optional[int] = ...) -> None: ...

class WatchPruneJobRequest(_message.Message):
    __slots__ = ("name", "after_sequence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class GetPruneReportRequest(_message.Message):
    __slots__ = ("name", "include_html")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_HTML_FIELD_NUMBER: _ClassVar[int]
    name: str
    include_html: bool
    def __init__(self, name: _Optional[str] = ..., include_html: _Optional[bool] = ...) -> None: ...

class PruneReport(_message.Message):
    __slots__ = ("name", "report", "html")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    HTML_FIELD_NUMBER: _ClassVar[int]
    name: str
    report: _struct_pb2.Struct
    html: str
    def __init__(self, name: _Optional[str] = ..., report: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., html: _Optional[str] = ...) -> None: ...

class ComparePruneJobsRequest(_message.Message):
    __slots__ = ("names", "target_languages", "max_growth", "include_html", "include_related")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    TARGET_LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_GROWTH_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_HTML_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_RELATED_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    target_languages: _containers.RepeatedScalarFieldContainer[str]
    max_growth: float
    include_html: bool
    include_related: bool
    def __init__(self, names: _Optional[_Iterable[str]] = ..., target_languages: _Optional[_Iterable[str]] = ..., max_growth: _Optional[float] = ..., include_html: _Optional[bool] = ..., include_related: _Optional[bool] = ...) -> None: ...

class ComparePruneJobsResponse(_message.Message):
    __slots__ = ("comparison", "html")
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    HTML_FIELD_NUMBER: _ClassVar[int]
    comparison: _struct_pb2.Struct
    html: str
    def __init__(self, comparison: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., html: _Optional[str] = ...) -> None: ...

class ListArtifactsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListArtifactsResponse(_message.Message):
    __slots__ = ("artifacts",)
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    artifacts: _containers.RepeatedCompositeFieldContainer[Artifact]
    def __init__(self, artifacts: _Optional[_Iterable[_Union[Artifact, _Mapping]]] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("path", "size_bytes", "sha256", "media_type", "download_url", "download_url_expire_time")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_URL_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_URL_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    sha256: str
    media_type: str
    download_url: str
    download_url_expire_time: _timestamp_pb2.Timestamp
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., media_type: _Optional[str] = ..., download_url: _Optional[str] = ..., download_url_expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetServiceInfoRequest(_message.Message):
    __slots__ = ("architecture",)
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    def __init__(self, architecture: _Optional[str] = ...) -> None: ...

class ServiceInfo(_message.Message):
    __slots__ = ("version", "methods", "orders", "architectures", "devices", "file_roots", "destinations", "max_request_bytes", "updates", "policies", "allocations", "presets", "architecture")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURES_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    FILE_ROOTS_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    ALLOCATIONS_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    version: str
    methods: _containers.RepeatedScalarFieldContainer[str]
    orders: _containers.RepeatedScalarFieldContainer[str]
    architectures: _containers.RepeatedScalarFieldContainer[str]
    devices: _containers.RepeatedScalarFieldContainer[str]
    file_roots: _containers.RepeatedScalarFieldContainer[str]
    destinations: _containers.RepeatedScalarFieldContainer[str]
    max_request_bytes: int
    updates: _containers.RepeatedScalarFieldContainer[str]
    policies: _containers.RepeatedScalarFieldContainer[str]
    allocations: _containers.RepeatedScalarFieldContainer[str]
    presets: _containers.RepeatedCompositeFieldContainer[CorpusPreset]
    architecture: Architecture
    def __init__(self, version: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ..., orders: _Optional[_Iterable[str]] = ..., architectures: _Optional[_Iterable[str]] = ..., devices: _Optional[_Iterable[str]] = ..., file_roots: _Optional[_Iterable[str]] = ..., destinations: _Optional[_Iterable[str]] = ..., max_request_bytes: _Optional[int] = ..., updates: _Optional[_Iterable[str]] = ..., policies: _Optional[_Iterable[str]] = ..., allocations: _Optional[_Iterable[str]] = ..., presets: _Optional[_Iterable[_Union[CorpusPreset, _Mapping]]] = ..., architecture: _Optional[_Union[Architecture, _Mapping]] = ...) -> None: ...

class Architecture(_message.Message):
    __slots__ = ("model_type", "supported", "known", "class_name", "layers", "excluded_tensors", "axes", "nearest", "text_models", "towers", "obstacles", "excepted")
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    SUPPORTED_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_TENSORS_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    NEAREST_FIELD_NUMBER: _ClassVar[int]
    TEXT_MODELS_FIELD_NUMBER: _ClassVar[int]
    TOWERS_FIELD_NUMBER: _ClassVar[int]
    OBSTACLES_FIELD_NUMBER: _ClassVar[int]
    EXCEPTED_FIELD_NUMBER: _ClassVar[int]
    model_type: str
    supported: bool
    known: bool
    class_name: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    excluded_tensors: _containers.RepeatedScalarFieldContainer[str]
    axes: _containers.RepeatedScalarFieldContainer[str]
    nearest: str
    text_models: _containers.RepeatedScalarFieldContainer[str]
    towers: _containers.RepeatedScalarFieldContainer[str]
    obstacles: _containers.RepeatedScalarFieldContainer[str]
    excepted: str
    def __init__(self, model_type: _Optional[str] = ..., supported: _Optional[bool] = ..., known: _Optional[bool] = ..., class_name: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., excluded_tensors: _Optional[_Iterable[str]] = ..., axes: _Optional[_Iterable[str]] = ..., nearest: _Optional[str] = ..., text_models: _Optional[_Iterable[str]] = ..., towers: _Optional[_Iterable[str]] = ..., obstacles: _Optional[_Iterable[str]] = ..., excepted: _Optional[str] = ...) -> None: ...

class CorpusPreset(_message.Message):
    __slots__ = ("name", "title", "repository", "license", "gated", "verified", "languages")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    GATED_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    repository: str
    license: str
    gated: bool
    verified: bool
    languages: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., repository: _Optional[str] = ..., license: _Optional[str] = ..., gated: _Optional[bool] = ..., verified: _Optional[bool] = ..., languages: _Optional[_Iterable[str]] = ...) -> None: ...
