"""Packages a pruned model so that transformers and vLLM can load it: everything but the pruned blocks, and the index.

The shards of the blocks were written during the pass, and may already be in the store. The rest of the checkpoint is
copied tensor by tensor, the configuration gets a note on how the model was made, and the files that go with the model
come from the copies made before the work began.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur_service import __version__
from secateur_service.artifacts import LocalFile, ManifestFile, describe_file
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.companions import Companions
from secateur_service.models.configuration import without_implementations
from secateur_service.models.safetensors import TensorInfo, write_shard
from secateur_service.models.tensors import Reader
from secateur_service.records.blocks import BlockRecord
from secateur_service.spec import PruneSpec

SHARD_BYTES = 5_000_000_000
_MEDIA_TYPES = {
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".jinja": "text/plain; charset=utf-8",
}


class Package:
    """The files of a result, in a local folder laid out as they will be published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint"
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        self._shards: dict[str, ManifestFile] = {}
        self._paths: list[str] = []

    def add_file(self, path: str, content: bytes) -> None:
        """Add a small file."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # the old file may already be published, as a hard link
        target.write_bytes(content)
        self._paths.append(path)

    def add_checkpoint(
        self,
        checkpoint: Checkpoint,
        blocks: Sequence[BlockRecord],
        spec: PruneSpec,
        reader: Reader,
        companions: Companions,
    ) -> None:
        """Add the shards of the blocks, all other tensors, the index, the configuration and the companions."""
        weight_map: dict[str, str] = {}
        for record in blocks:
            self._add_shard(record.shard, record.sha256, record.size_bytes)
            weight_map |= dict.fromkeys(record.tensors, record.shard)
        for number, group in enumerate(_in_shards(checkpoint.other_tensors())):
            written = write_shard(self.checkpoint, f"other-{number:05d}", [reader.copy(info) for info in group])
            self._add_shard(written.name, written.sha256, written.size_bytes)
            weight_map |= dict.fromkeys((info.name for info in group), written.name)
        index = {
            "metadata": {"total_size": checkpoint.size_bytes},
            "weight_map": {name: weight_map[name] for name in sorted(weight_map)},
        }
        self.add_file("checkpoint/model.safetensors.index.json", _json(index))
        # A model's own code is neither run nor copied, so its configuration must not point at it.
        plain = {key: value for key, value in checkpoint.config.items() if key != "auto_map"}
        config = without_implementations(plain)
        self.add_file("checkpoint/config.json", _json({**config, "secateur": compression_note(spec)}))
        for name in companions.names:
            self.add_file(f"checkpoint/{name}", (companions.folder / name).read_bytes())

    def files(self, *, with_checkpoint: bool = True) -> list[tuple[LocalFile, ManifestFile]]:
        """Every file, with its entry in the manifest; those of the checkpoint can be left out."""
        described = []
        for path in sorted([*self._paths, *self._shards]):
            if path.startswith("checkpoint/") and not with_checkpoint:
                continue
            file = LocalFile(self.folder / path, path, _media_type(path))
            described.append((file, self._shards.get(path) or describe_file(file)))
        return described

    def _add_shard(self, name: str, sha256: str, size_bytes: int) -> None:
        path = f"checkpoint/{name}"
        self._shards[path] = ManifestFile(path=path, size_bytes=size_bytes, sha256=sha256, media_type=_media_type(path))


def compression_note(spec: PruneSpec) -> dict[str, Any]:
    """What config.json says about the pruning: a note for people and tools that no loader interprets.

    It is not a `quantization_config` or `sparsity_config`: loaders would look for formats that they have dropped.
    """
    is_trained = spec.reconstruction is not None
    if spec.pruning is None:
        return {"version": __version__, "trained": is_trained, "languages": spec.calibration.mix}
    return {
        "version": __version__,
        "method": spec.pruning.effective_method,
        "update": spec.pruning.effective_update,
        "sparsity": spec.pruning.target_sparsity,
        "pattern": spec.pruning.pattern,
        "order": spec.pruning.order,
        "asymmetric": spec.pruning.asymmetric,
        "trained": is_trained,
        "allocation": spec.pruning.allocation.policy,
        "languages": spec.calibration.mix,
    }


def _in_shards(tensors: Sequence[TensorInfo]) -> list[list[TensorInfo]]:
    """Divide tensors into groups of at most SHARD_BYTES; a larger tensor gets a group of its own."""
    groups: list[list[TensorInfo]] = []
    room = 0
    for info in tensors:
        if not groups or info.size_bytes > room:
            groups.append([])
            room = SHARD_BYTES
        groups[-1].append(info)
        room -= info.size_bytes
    return groups


def _media_type(path: str) -> str:
    return _MEDIA_TYPES.get(Path(path).suffix, "application/octet-stream")


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
