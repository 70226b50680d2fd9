"""What a model takes to serve, from its shapes. Does not import torch."""

from __future__ import annotations

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.configuration import text_configuration
from secateur_service.models.safetensors import DTYPE_BYTES
from secateur_service.models.units import attending_blocks, heads_of
from secateur_service.sizing.operations import groups_of


def decoding_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of weights that are read for every token that is generated, for one text at a time.

    That is all but the embedding, of which a token needs one row, and of a mixture of experts only those that a token
    is routed to. A tied head is read.
    """
    read = checkpoint.size_bytes
    if checkpoint.head_name != checkpoint.embedding_name:
        read -= checkpoint.tensors[checkpoint.embedding_name].size_bytes
    for index in range(checkpoint.num_blocks):
        for group, layers in zip(groups_of(checkpoint, index), checkpoint.inputs(index), strict=True):
            held = sum(checkpoint.linear_weight(index, name).size_bytes for name in layers)
            read -= held - round(held * group.share)
    return read


def cache_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of keys and values that are kept for every token of a context, in the type of the weights.

    Latent attention keeps what they are computed from, and the rotated part of the keys. Blocks of other kinds keep
    none: what they carry from token to token is as large in any context.
    """
    config, attending = text_configuration(checkpoint), attending_blocks(checkpoint)
    latent = getattr(config, "kv_lora_rank", None)
    if latent:
        numbers = len(attending) * (latent + config.qk_rope_head_dim)
    else:
        heads = (heads_of(checkpoint, index) for index in attending)
        numbers = sum(2 * each.keys * each.width for each in heads)
    return int(numbers) * DTYPE_BYTES[checkpoint.weight_dtype]
