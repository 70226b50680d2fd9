"""How long a job takes on a stated class of device: its operations at the rates that were measured, and its weights.

Passes through the model are products of large matrices, which run at a good part of a device's peak; solving
(factorisations, sweeps, conjugate gradients, ADMM) does not. Each of these rates comes from a run whose figures are in
`benchmarks/results`. A test holds the estimate against all runs of one H100 there: they take 0.5 to 2 times as long.
Waiting in the queue and fetching a model take time as well, and are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

H100 = "one NVIDIA H100"
"""The class of device of most figures."""


@dataclass(frozen=True)
class Rates:
    """What a device does in a second.

    Attributes:
        passes: floating-point operations of passes through the model.
        solving: those of solving layers.
        read_bytes: bytes of weights that are read.
        written_bytes: bytes of weights that are written.
    """

    passes: float
    solving: float
    read_bytes: float
    written_bytes: float

    def seconds(self, passes: float, solving: float, read_bytes: int, written_bytes: int) -> float:
        """The time for so much of each, one after the other."""
        computing = passes / self.passes + solving / self.solving
        return computing + read_bytes / self.read_bytes + written_bytes / self.written_bytes


# gpu-nvidia-h200.json, "a real job": bytes of the model over seconds of `load`, bytes written over those of `write`.
_READ_BYTES = 2.47e9 / 7.58
_WRITTEN_BYTES = 2.48e9 / 3.07

# gpu-nvidia-h100-80gb-hbm3.json, of a block of Llama-3-8B in order true_sequential: "wanda" takes 1.19e14 operations,
# all of them passes, and 0.276 s; "sparsegpt+cg" takes 1.94e14 of passes, 3.85e13 of solving, and 1.56 s.
_PASSES = 1.19e14 / 0.276
_SOLVING = 3.85e13 / (1.56 - 1.94e14 / _PASSES)
H100_RATES = Rates(_PASSES, _SOLVING, _READ_BYTES, _WRITTEN_BYTES)

# large_model.json, in one thread: Wanda takes 1.16e13 operations and 243 s of `prune`; solving is taken to be as fast.
_CORE = 1.16e13 / 243


def expected_seconds(
    passes: float, solving: float, read_bytes: int, written_bytes: int, *, threads: int | None = None
) -> dict[str, float]:
    """The expected time by class of device: of one H100, and of a CPU with so many threads if a job would run on one.

    Args:
        passes: floating-point operations of passes through the model.
        solving: those of solving layers.
        read_bytes: bytes of weights that are read.
        written_bytes: bytes of weights that are written.
        threads: of each slot; None where jobs run on accelerators.
    """
    amounts = (passes, solving, read_bytes, written_bytes)
    found = {H100: H100_RATES.seconds(*amounts)}
    if threads is not None:
        core = Rates(threads * _CORE, threads * _CORE, _READ_BYTES, _WRITTEN_BYTES)
        found["1 CPU core" if threads == 1 else f"{threads} CPU cores"] = core.seconds(*amounts)
    return found
