"""Jobs for tests of the store and of what stands on it."""

import uuid

from secateur_service.jobs.job import Estimate, JobResult, LanguageResult, NewJob
from secateur_service.records.blocks import BlockRecord, LayerRecord
from secateur_service.records.needs import UNKNOWN
from secateur_service.spec import parse_spec

SPEC = {
    "model": {"uri": "file:///models/tiny"},
    "calibration": {
        "corpus": "file:///corpora/calibration",
        "languages": [{"language": "de", "weight": 0.75}, {"language": "uk", "weight": 0.25}],
        "samples": 8,
        "sequence_length": 32,
    },
    "pruning": {"method": "wanda", "sparsity": 0.5},
    "evaluation": {"corpus": "file:///corpora/evaluation", "languages": ["de"], "tokens_per_language": 64},
    "output": {"destination": "file:///artifacts"},
}


def new_job(
    *,
    max_attempts=3,
    destination="file:///artifacts",
    request_id=None,
    request_digest=None,
    labels=None,
    resolved=None,
    retry_of=None,
    model=SPEC["model"]["uri"],
    needs=UNKNOWN,
    **execution,
):
    """A job that was never stored."""
    execution = {"max_attempts": max_attempts, **execution}
    spec = {**SPEC, "model": {"uri": model}, "output": {"destination": destination}, "execution": execution}
    return NewJob(
        id=uuid.uuid4().hex,
        uid=str(uuid.uuid4()),
        spec=SPEC,
        resolved=resolved or parse_spec(spec),
        labels=labels or {},
        estimate=Estimate(checkpoint_bytes=1, peak_host_bytes=2, peak_device_bytes=0, disk_bytes=4, flops=5e9),
        request_id=request_id,
        request_digest=request_digest,
        retry_of=retry_of,
        needs=needs,
    )


def block(index, *, snr_db=20.0):
    """A finished block with one layer, half of it zeros."""
    layer = LayerRecord(name=f"model.layers.{index}.mlp.up_proj.weight", shape=(4, 8), zeros=16, notes=("a note",))
    return BlockRecord(
        index=index,
        shard=f"block-{index}.safetensors",
        sha256="0" * 64,
        size_bytes=128,
        tensors=(layer.name,),
        layers=(layer,),
        snr_db={"de": snr_db},
        seconds=0.25,
    )


def result(sha256="a" * 64):
    """What a job produced."""
    language = LanguageResult("de", 10.0, 12.5, 1.0, 1.25)
    return JobResult(
        manifest_uri="file:///artifacts/job/manifest.json", manifest_sha256=sha256, sparsity=0.5, languages=(language,)
    )
