"""docs/costs.md: how long jobs take by shape, devices and disk, computed by the functions that make an estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from documentation.text import generated, table
from secateur._text import duration
from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.safetensors import TensorInfo
from secateur_service.records.result import Bound
from secateur_service.sizing.durations import Disk, Hardware
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.spec import PruneSpec, parse_spec

_HEAD = f"""# What a job costs

{generated("scripts/documentation/costs.py")}

The time that a dry run gives, and what bounds it, come from [a model](#the-model) of the job. This page is the same
model for three shapes of Llama. **Every figure here is computed, and none of them measured**: what was measured is in
[benchmarks.md](benchmarks.md), and the model agrees with each run there within a factor of two.
"""

_MODEL = """
## The model

While one block computes, the next is read and the previous one written, so a job takes as long as the slowest of the
three:

- *computing*: [operations](../service/secateur_service/sizing/operations.py) of passes through the blocks and of
  solving layers, each at its own rate;
- *reading*: the weights, once, and again by each trial of a budget, at the rate of the disk, or of the network where
  that is slower;
- *writing*: those of the result, likewise.

On top comes what has nothing to hide behind: reading the first block and what lies outside the blocks, which is read
again to be copied; reading all blocks for an allocation, for each block that is searched for and removed, for text or
continuations that the model writes, and to ask it which tokens it expects; the head over the evaluation text; writing
the last block and what lies outside; and two seconds that every job takes. `Estimate.seconds` has the sum for each
class of device, `Estimate.bounds` the slowest of the three. Where computing bounds a job, more cores or devices help,
or less text; where reading or writing does, only a faster disk or network.

Several processes divide the computing, at a cost of 15 % in processor time, and the bytes that each reads; the disk is
the same. The rates are those of runs in `benchmarks/results` (`sizing/durations.py` names them). Those of disks differ
more than any other: unless `SECATEUR_READ_BYTES_PER_SECOND` and `SECATEUR_WRITE_BYTES_PER_SECOND` say how fast yours
are, a dry run takes the 326 and 808 MB/s of one machine, whose release still checked weights slowly. `python
benchmarks/host.py` measures yours. The service does not derive them from its own jobs: what those record as `load` has
the time in it that libraries take to load, and a model that was read before comes from memory, many times as fast as it
will for the next one.

Not in it: waiting in the queue, fetching a model from the hub or an object store to the disk, and copying between host
and device.
"""

_TABLE = """
## Llama by shape, devices and disk

H100s; 128 sequences of 2,048 tokens in two languages, 65,536 tokens of evaluation text in each, the whole report, and
otherwise the defaults. Reading and writing have the stated rate each, at the same time. In brackets what bounds the
job: **c**omputing, **r**eading or **w**riting.

**One job cannot be divided among several accelerators yet**; the rows with 4 and 8 assume that computing is, evenly and
at no cost, and show what that could gain.
"""


@dataclass(frozen=True)
class _Shape:
    """Sizes of a Llama in bfloat16."""

    hidden: int
    intermediate: int
    key_value: int
    blocks: int
    vocabulary: int = 128256

    def checkpoint(self) -> Checkpoint:
        """Its checkpoint, without files."""
        config = {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.hidden // 128,
            "num_key_value_heads": self.key_value // 128,
            "vocab_size": self.vocabulary,
        }
        tensors = {name: TensorInfo(name, "BF16", shape, Path(), 0, _bytes(shape)) for name, shape in self._tensors()}
        return Checkpoint(Path(), config, ARCHITECTURES["llama"], tensors, self.blocks)

    def _tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        d, f, k = self.hidden, self.intermediate, self.key_value
        layers = {"q": (d, d), "k": (k, d), "v": (k, d), "o": (d, d), "gate": (f, d), "up": (f, d), "down": (d, f)}
        for index in range(self.blocks):
            for name, shape in layers.items():
                part = "mlp" if f in shape else "self_attn"
                yield f"model.layers.{index}.{part}.{name}_proj.weight", shape
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"model.layers.{index}.{name}.weight", (d,)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            yield name, (self.vocabulary, d)
        yield "model.norm.weight", (d,)


def _bytes(shape: tuple[int, ...]) -> int:
    size = 2
    for length in shape:
        size *= length
    return size


_SHAPES = {
    "8B": _Shape(4096, 14336, 1024, 32),
    "70B": _Shape(8192, 28672, 1024, 80),
    "405B": _Shape(16384, 53248, 1024, 126),
}
_METHODS: dict[str, dict[str, Any]] = {
    "`wanda`": {"method": "wanda"},
    "`sparsegpt` with `cg`": {"method": "sparsegpt"},
    "`ria` with `cg`": {"method": "ria", "update": "cg"},
}
_DEVICES = (1, 4, 8)
_DISKS = (1, 3, 12)
_LETTERS = {Bound.COMPUTING: "c", Bound.READING: "r", Bound.WRITING: "w"}


def page() -> str:
    """The page."""
    header = ("shape", "method", "H100s", *(f"{rate} GB/s" for rate in _DISKS))
    return "\n".join([_HEAD, _MODEL.strip("\n"), _TABLE, table(header, _rows()), ""])


def _rows() -> Iterator[list[str]]:
    for name, shape in _SHAPES.items():
        checkpoint = shape.checkpoint()
        for method, how in _METHODS.items():
            for devices in _DEVICES:
                row = [_cell(checkpoint, _spec(how), devices, 1e9 * rate) for rate in _DISKS]
                yield [name, method, str(devices), *row]


def _cell(checkpoint: Checkpoint, spec: PruneSpec, devices: int, rate: float) -> str:
    hardware = Hardware(disk=Disk(rate, rate), devices=devices)
    estimate = estimate_cost(checkpoint, spec, on_device=True, hardware=hardware)
    ((name, seconds),) = estimate.seconds.items()
    return f"{duration(seconds)} ({_LETTERS[estimate.bounds[name]]})"


def _spec(how: dict[str, Any]) -> PruneSpec:
    languages = ["de", "uk"]
    calibration = {
        "corpus": "mc4",
        "languages": [{"language": language} for language in languages],
        "sequence_length": 2048,
    }
    spec = parse_spec(
        {
            "model": {"uri": "file:///model"},
            "calibration": calibration,
            "pruning": {"sparsity": 0.5, **how},
            "evaluation": {"languages": languages, "continuations": 0},
        }
    )
    assert spec.pruning is not None
    return spec.model_copy(update={"pruning": spec.pruning.resolved(trained=False)})
