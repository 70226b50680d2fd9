"""What a job will cost, from the shapes of the model: bytes, memory, disk and floating-point operations.

The formulae are those of the documentation; nothing is loaded and torch is not imported. With T calibration tokens,
T_e evaluation tokens (dense and pruned copy each), context s, hidden size d, vocabulary V, and P parameters in the
pruned layers of a block, whose distinct inputs have widths n:

- a causal forward pass of a block is 2·T·P + 2·T·s·d; calibration runs two, less the last matrix product of the first;
- full second moments are 2·T·Σn², their factorisation ⅔·Σn³, the sweep Σm·n²; ADMM instead runs at most 300
  iterations of 4·Σm·n²;
- the head is 2·T_e·V·d for each copy.
"""

from __future__ import annotations

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.safetensors import DTYPE_BYTES
from secateur_service.pipeline.outcome import Estimate
from secateur_service.pruning.methods import Moments, needed_moments
from secateur_service.spec import PruneSpec

# Resident memory of the interpreter with torch and transformers imported, measured with the pinned versions.
_PROCESS_BYTES = 650 << 20
_HEAD_SLICE_BYTES = 384 << 20
_BATCH_TOKENS = 2048
_ADMM_ITERATIONS = 300


def estimate_cost(checkpoint: Checkpoint, spec: PruneSpec, *, on_device: bool) -> Estimate:
    """Estimate a job.

    Args:
        checkpoint: the model.
        spec: the resolved specification.
        on_device: whether an accelerator computes; its memory is then counted apart from the host's.
    """
    length = spec.calibration.sequence_length or 1
    calibration = spec.calibration.samples_per_language * len(spec.calibration.languages) * length
    evaluation = spec.evaluation.tokens_per_language // length * length * len(spec.evaluation.languages)
    vocabulary, hidden = checkpoint.tensors[checkpoint.head_name].shape
    groups = [[checkpoint.linear_weight(0, name).shape for name in group] for group in checkpoint.architecture.inputs]
    widths = [shapes[0][1] for shapes in groups]
    parameters = sum(rows * columns for shapes in groups for rows, columns in shapes)
    moments = needed_moments(spec.pruning.method, spec.pruning.effective_update)
    needs_data, needs_gram = moments is not Moments.NONE, moments is Moments.FULL

    def forward(tokens: int) -> float:
        return 2.0 * tokens * parameters + 2.0 * tokens * length * hidden

    per_block = 2 * forward(evaluation)
    if needs_data:
        last = sum(rows * columns for rows, columns in groups[-1])
        per_block += 2 * forward(calibration) - 2.0 * calibration * last
    if needs_gram:
        per_block += sum(2.0 * calibration * width**2 + 2 / 3 * width**3 for width in widths)
        sweep = sum(float(rows) * columns**2 for shapes in groups for rows, columns in shapes)
        per_block += sweep * (4 * _ADMM_ITERATIONS if spec.pruning.effective_update == "admm" else 1)
    flops = checkpoint.num_blocks * per_block + 2 * 2.0 * evaluation * vocabulary * hidden

    stored = DTYPE_BYTES[checkpoint.weight_dtype]
    item = stored if on_device else 4
    states = ((calibration if needs_data else 0) + 2 * evaluation) * hidden * item
    gram = 4 * sum(width**2 for width in widths) if needs_gram else 0
    largest = max(sum(rows * columns for rows, columns in shapes) for shapes in groups)
    solving = 4 * largest * (3 if needs_gram else 2) + (12 * max(widths) ** 2 if needs_gram else 0)
    activations = _BATCH_TOKENS * max(max(rows for rows, _ in shapes) for shapes in groups) * item * 3
    working = parameters * item + states + gram + max(solving, activations, _HEAD_SLICE_BYTES)
    block_bytes = sum(info.size_bytes for info in checkpoint.block_tensors(0))
    return Estimate(
        checkpoint_bytes=checkpoint.size_bytes,
        peak_host_bytes=_PROCESS_BYTES + block_bytes + (0 if on_device else working),
        peak_device_bytes=working if on_device else 0,
        disk_bytes=checkpoint.size_bytes,
        flops=flops,
    )
