"""Checks that need a model's tensors and must run before the work begins.

The blocks are read one by one during the pass, and checked there.
"""

from __future__ import annotations

from collections.abc import Callable

from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.tensors import TensorReader


def check_contents(checkpoint: Checkpoint, reader: TensorReader, check: Callable[[], None] = lambda: None) -> None:
    """Read everything outside the blocks: embedding, norms, head.

    Args:
        checkpoint: the checkpoint to read.
        reader: keeps the digests of what it read.
        check: called before every tensor; raises to stop.

    Raises:
        FloatingPointError: values that are not finite; the message names the tensor and counts them.
        ModelRefusedError: the configuration says that the head is the embedding, but the checkpoint stores a head that
            differs: transformers would use the head, vLLM the embedding.
    """
    for info in checkpoint.other_tensors():
        check()
        reader.check_finite(info)
    head, embedding = checkpoint.tensors[checkpoint.head_name], checkpoint.tensors[checkpoint.embedding_name]
    if checkpoint.is_tied and reader.digests[head.name] != reader.digests[embedding.name]:
        raise ModelRefusedError(
            f"{head.name} differs from {embedding.name}, and config.json says that they are one (tie_word_embeddings): "
            f"transformers would use both, vLLM {embedding.name} alone; set tie_word_embeddings to false, or take "
            f"{head.name} out of the checkpoint"
        )
