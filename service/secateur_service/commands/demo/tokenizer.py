"""The demo's tokenizer: one token per byte, so that it needs no training and treats every script alike.

It is byte-pair encoding with the 256 symbols of the byte-level alphabet and no merges, saved in the standard form that
transformers loads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1
VOCABULARY_SIZE = 2 + 256


def byte_tokenizer() -> Any:
    """Build the tokenizer.

    Returns:
        A `tokenizers.Tokenizer` with `VOCABULARY_SIZE` tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {BOS: BOS_ID, EOS: EOS_ID} | {symbol: index for index, symbol in enumerate(alphabet, start=2)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    return tokenizer


def save_byte_tokenizer(folder: Path, *, max_length: int) -> None:
    """Write tokenizer.json and its configuration into `folder`.

    Args:
        folder: The folder of the model's files, which must exist.
        max_length: The longest sequence, in tokens, that the model supports.
    """
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(),
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
