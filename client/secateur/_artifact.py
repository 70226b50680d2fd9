"""The published files of a job, and what the service says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Artifact:
    """One published file.

    Attributes:
        path: Path below the job's prefix, e.g. `checkpoint/config.json`.
        size_bytes: Its size.
        sha256: Its SHA-256, lower-case hexadecimal.
        media_type: Its media type.
        download_url: Where to read it: a presigned `http(s)` URL, or a `file` URL of an embedded service.
        download_url_expire_time: When the URL stops working; None if it never does.
    """

    path: str
    size_bytes: int
    sha256: str
    media_type: str
    download_url: str
    download_url_expire_time: datetime | None


@dataclass(frozen=True)
class CorpusPreset:
    """A data set of the hub that a specification can name as its corpus.

    Attributes:
        name: Name used in specifications.
        title: Title for people.
        repository: `org/name` on the hub.
        license: License according to the data set's card.
        gated: Whether the service's account has to accept its terms.
        verified: Whether the languages were checked against the live hub.
        languages: BCP 47 tags.
    """

    name: str
    title: str
    repository: str
    license: str
    gated: bool
    verified: bool
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """What a service knows of an architecture.

    Attributes:
        model_type: transformers' `model_type`.
        supported: Whether such models can be pruned.
        known: Whether transformers has such models.
        class_name: transformers' class; empty if not supported.
        layers: The linear layers of a block that are pruned, in the order in which it runs them; those of one entry
            share an input, and `*` is the number of an expert.
        excluded_tensors: A block's matrices that stay as they are.
        axes: What `shrink` can remove.
        nearest: Where it is not supported, the supported type with the most similar configuration; empty if none is.
        text_models: Of a multimodal type, the text models that may lie in it; `layers` are those of the first.
        towers: Of a multimodal type, its vision towers, which stay as they are.
        obstacles: Where it is not supported, what of its configuration stands in the way, as `field: reason`.
        excepted: Which checkpoints of a supported type cannot be pruned, in words; empty if all can.
    """

    model_type: str
    supported: bool
    known: bool
    class_name: str
    layers: tuple[str, ...]
    excluded_tensors: tuple[str, ...]
    axes: tuple[str, ...]
    nearest: str
    text_models: tuple[str, ...] = ()
    towers: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    excepted: str = ""


@dataclass(frozen=True)
class ServiceInfo:
    """What a service can do.

    Attributes:
        version: Its version.
        methods: Pruning methods.
        updates: How the remaining weights can be updated.
        orders: Orders of calibration and pruning.
        policies: Where a mix can come from.
        allocations: How the sparsity can be divided between blocks.
        architectures: `model_type` values of the models it can prune.
        devices: Device slots of the replica that answered.
        file_roots: Folders under which `file://` models and corpora may lie.
        destinations: Where results may be published; the first is the default.
        max_request_bytes: Largest request it accepts.
        presets: Corpora that have a short name.
    """

    version: str
    methods: tuple[str, ...]
    updates: tuple[str, ...]
    orders: tuple[str, ...]
    policies: tuple[str, ...]
    allocations: tuple[str, ...]
    architectures: tuple[str, ...]
    devices: tuple[str, ...]
    file_roots: tuple[str, ...]
    destinations: tuple[str, ...]
    max_request_bytes: int
    presets: tuple[CorpusPreset, ...]
