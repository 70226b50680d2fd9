"""How often a model expects each token in the text of a language: the mean of its predictions over some of it.

A text of a few hundred kilobytes does not show most of the tokens that its language needs. The model knows them: at
every position it says how likely each would be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.batches import batch_sequences, divide
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.pass_config import Samples
from secateur_service.sizing.budget import EXPECTED_OVER_TOKENS
from secateur_service.sizing.operations import forward_operations


@torch.no_grad()
def expected_tokens(
    model: StreamedModel, text: Samples, languages: Sequence[str], meter: Meter
) -> dict[str, list[float]]:
    """The share that each token of the vocabulary has in the model's predictions; shares of one.

    Args:
        model: the dense model.
        text: by language.
        languages: those that are asked for.
        meter: counts the work, and stops the job if it is asked to.
    """
    checkpoint = model.checkpoint
    length = text[languages[0]].tokens.shape[1]
    windows = max(1, EXPECTED_OVER_TOKENS // length)
    tokens = {name: text[name].tokens[:windows] for name in languages}
    batches = divide(tokens, batch_sequences(length, model.device, small=model.small_batches))
    vocabulary, hidden = checkpoint.tensors[checkpoint.head_name].shape
    each = [forward_operations(checkpoint, index, 1, length) for index in range(checkpoint.num_blocks)]
    total = sum(batch.tokens.numel() for batch in batches)
    passes, heads = total * sum(each), 4.0 * total * vocabulary * hidden
    meter.detail(passes + heads)
    meter.plan("calibrate", passes)
    meter.plan("head", heads)
    meter.lap()
    states = model.embed([batch.tokens for batch in batches])
    for index, operations in enumerate(each):
        with model.block(index) as block:
            for position, batch in enumerate(batches):
                states[position] = model.run_block(block, index, states[position])
                meter.tick("calibrate", batch.tokens.numel() * operations)
    found = {}
    for language in languages:
        own = [held for held, batch in zip(states, batches, strict=True) if batch.language == language]
        expected = model.head.expected_tokens(own, lambda work: meter.tick("head", work))
        found[language] = (expected / expected.sum()).tolist()
    return found
