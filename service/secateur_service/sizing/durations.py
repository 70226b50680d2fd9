"""How long a job takes on a stated class of device, and what bounds it: computing, reading, or writing.

A block is read and written while another computes, so the slowest of the three decides. What cannot be hidden behind
another comes on top: reading the first block and what lies outside the blocks, the head, writing the last block, and
what every job does however small it is.

Passes through the model are products of large matrices, which run at a good part of a device's peak; solving
(factorisations, sweeps, conjugate gradients, ADMM) does not. Every rate comes from a run whose figures are in
`benchmarks/results`. Tests hold the estimate against all runs there that tell: they take 0.5 to 2 times as long.
Waiting in the queue and fetching a model take time as well, and are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.records.result import Bound
from secateur_service.spec import PruneSpec

H100 = "one NVIDIA H100"
"""The class of device of most figures."""


@dataclass(frozen=True)
class Amounts:
    """What a job computes, reads and writes.

    Attributes:
        passes: floating-point operations of passes through the model, without the head.
        solving: those of solving layers.
        head: those of the head, when all blocks are finished.
        read_bytes: bytes of weights that are read.
        written_bytes: bytes of weights that are written.
        lone_read_bytes: of those that are read, what is read while nothing else goes on.
        lone_written_bytes: of those that are written, what is written while nothing else goes on.
    """

    passes: float
    solving: float
    head: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    lone_read_bytes: int = 0
    lone_written_bytes: int = 0

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        output_bytes: int,
        *,
        passes: float,
        solving: float,
        head: float,
        readings: int = 0,
        trials: int = 0,
    ) -> Self:
        """Those of a job, from what it computes.

        The first block waits for nothing to compute beside, nor does what lies outside the blocks: it is read for the
        embedding and the head, and again to be copied.

        Args:
            checkpoint: the model that is read.
            output_bytes: all tensors of the one that is written.
            passes: see the attributes.
            solving: see the attributes.
            head: see the attributes.
            readings: how often the model is read besides, one block after the other.
            trials: how often it is read besides by passes like the job's own.
        """
        outer, block = outer_bytes(checkpoint), largest_block_bytes(checkpoint)
        besides = readings * (checkpoint.size_bytes - outer)
        return cls(
            passes,
            solving,
            head,
            read_bytes=(1 + trials) * checkpoint.size_bytes + besides + outer,
            written_bytes=output_bytes,
            lone_read_bytes=besides + block + 2 * outer,
            lone_written_bytes=int(output_bytes * (block + outer) / max(1, checkpoint.size_bytes)),
        )


@dataclass(frozen=True)
class Computer:
    """What a device computes in a second.

    Attributes:
        passes: floating-point operations of passes through the model.
        solving: those of solving layers.
    """

    passes: float
    solving: float

    def divided(self, count: int, overhead: float = 1.0) -> Self:
        """Several of them, among which a job is divided at the cost of so many times the operations."""
        return type(self)(count * self.passes / overhead, count * self.solving / overhead)


@dataclass(frozen=True)
class Disk:
    """How many bytes of weights are read and written in a second: by the disk, or the network where that is slower."""

    read_bytes: float
    written_bytes: float


# gpu-nvidia-h200.json, "a real job": bytes of the model over seconds of `load`, bytes written over those of `write`.
# That release checked weights more slowly, so such a machine does at least as much.
MEASURED_DISK = Disk(2.47e9 / 7.58, 2.48e9 / 3.07)


@dataclass(frozen=True)
class Hardware:
    """What is known of the machines that run jobs.

    Attributes:
        threads: CPU threads of each process of a job; None where jobs run on accelerators, or where nobody knows.
        cores: those of the machine, where processes may have more threads than that; None where they do not.
        processes: how many processes run a job together, unless it says how many.
        most_processes: how many may; None for no more than those.
        disk: see `Disk`.
        devices: among how many accelerators a job is divided, evenly and at no cost; so far they run one job each.
    """

    threads: int | None = None
    processes: int = 1
    most_processes: int | None = None
    disk: Disk = MEASURED_DISK
    devices: int = 1
    cores: int | None = None


UNKNOWN = Hardware()
"""What to assume where nobody says."""


@dataclass(frozen=True)
class Duration:
    """How long a job takes.

    Attributes:
        seconds: in all.
        bound_by: the slowest of what goes on together.
    """

    seconds: float
    bound_by: Bound


# gpu-nvidia-h200.json computes as an H100 does, with less to wait for. Of a block of Llama-3-8B in order
# true_sequential: "wanda" takes 1.19e14 operations, all of them passes, and 0.262 s; "sparsegpt+cg" takes 1.94e14 of
# passes, 3.85e13 of solving, and 0.964 s.
_PASSES = 1.19e14 / 0.262
H100_COMPUTER = Computer(_PASSES, 3.85e13 / (0.964 - 1.94e14 / _PASSES))

# The same file, "a real job": its seconds of `fetch` (of files that were there), `sample` and `publish`.
BESIDE_SECONDS = 0.92 + 1.17 + 0.04

# large_model.json, in one thread: Wanda takes 1.16e13 operations and 243 s of `prune`; solving is taken to be as fast.
CORE = Computer(1.16e13 / 243, 1.16e13 / 243)

# processes-polyglot-llama.json: processor seconds of two processes over those of one, 1.17 and 1.14.
DIVIDING = 1.15


def duration(amounts: Amounts, computer: Computer, disk: Disk) -> Duration:
    """How long a job takes.

    Args:
        amounts: what it computes, reads and writes.
        computer: how fast it computes.
        disk: how fast it reads and writes.
    """
    reading, writing = amounts.read_bytes - amounts.lone_read_bytes, amounts.written_bytes - amounts.lone_written_bytes
    together = {
        Bound.COMPUTING: amounts.passes / computer.passes + amounts.solving / computer.solving,
        Bound.READING: reading / disk.read_bytes,
        Bound.WRITING: writing / disk.written_bytes,
    }
    alone = (
        amounts.lone_read_bytes / disk.read_bytes
        + amounts.head / computer.passes
        + amounts.lone_written_bytes / disk.written_bytes
        + BESIDE_SECONDS
    )
    return Duration(max(together.values()) + alone, max(together, key=together.__getitem__))


def expected_durations(amounts: Amounts, hardware: Hardware) -> Mapping[str, Duration]:
    """The expected time by class of device: of H100s, and of the CPU cores of a job if it would run on those.

    Args:
        amounts: what the job computes, reads and writes.
        hardware: what would run it.
    """
    name = H100 if hardware.devices == 1 else f"{hardware.devices} NVIDIA H100s"
    found = {name: duration(amounts, H100_COMPUTER.divided(hardware.devices), hardware.disk)}
    if hardware.threads is not None:
        threads = hardware.threads * hardware.processes
        cores = min(threads, hardware.cores or threads)
        computer = CORE.divided(cores, DIVIDING if hardware.processes > 1 else 1.0)
        found["1 CPU core" if cores == 1 else f"{cores} CPU cores"] = duration(amounts, computer, hardware.disk)
    return found


def readings_of(spec: PruneSpec, removed: int) -> int:
    """How often a job reads all blocks, one after the other, besides its passes.

    Args:
        spec: the specification.
        removed: how many blocks it looks for one by one.
    """
    asks_model = spec.shrink and spec.shrink.vocabulary and spec.shrink.vocabulary.prior == "model"
    allocates = spec.pruning and spec.pruning.allocation.policy != "uniform"
    writes_text = spec.calibration.generation is not None
    return removed + sum(map(bool, (asks_model, allocates, writes_text, spec.evaluation.continuations)))


def largest_block_bytes(checkpoint: Checkpoint) -> int:
    """The tensors of the largest block."""
    return max(
        sum(info.size_bytes for info in checkpoint.block_tensors(index)) for index in range(checkpoint.num_blocks)
    )


def outer_bytes(checkpoint: Checkpoint) -> int:
    """The tensors outside the blocks."""
    return sum(info.size_bytes for info in checkpoint.other_tensors())
