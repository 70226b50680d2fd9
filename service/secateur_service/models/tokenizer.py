"""A model's tokenizer, loaded by transformers from the model's folder, or a refusal that names the file.

Needs transformers but not torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from secateur_service.calibration.tokenizing import TokenizerFailedError, tokenize, tokenizer_failures
from secateur_service.models.checkpoint import ModelRefusedError

TOKENIZER_BYTES = {
    "tokenizer.json": 64 << 20,  # Gemma's has 33 MB
    "tokenizer_config.json": 8 << 20,
    "special_tokens_map.json": 8 << 20,
    "added_tokens.json": 8 << 20,
    "vocab.json": 32 << 20,
    "merges.txt": 32 << 20,
    "tokenizer.model": 32 << 20,
    "spiece.model": 32 << 20,
    "chat_template.jinja": 4 << 20,
    "chat_template.json": 4 << 20,
}
"""The files that a tokenizer is loaded from, and the largest size accepted for each, in bytes."""

_TRIAL = "Hello, Привіт, 你好, سلام 👋 — 1 234,5\n\tna\u00efve x\u0301"
_MISSING = "there is no tokenizer.json, and what there is"


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model, after checking that it can tokenise.

    Raises:
        ModelRefusedError: there is none, or it is too large or cannot be used; the message names the file.
    """
    from transformers import AutoTokenizer

    for name, limit in TOKENIZER_BYTES.items():
        path = folder / name
        if path.exists() and not path.is_file():
            raise ModelRefusedError(f"{name} is not a file; give the folder of a complete model")
        if path.is_file() and path.stat().st_size > limit:
            raise ModelRefusedError(f"{name} is larger than {limit} bytes; no tokenizer needs that much")
    try:
        with tokenizer_failures():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except TokenizerFailedError as error:
        raise ModelRefusedError(
            f"{_culprit(folder)} cannot be used ({error}); give the tokenizer's files as transformers saves them"
        ) from error
    try:
        tokens = tokenize(tokenizer, [_TRIAL])["input_ids"][0]
        with tokenizer_failures():  # the template around a text may name tokens that do not exist
            tokenizer(_TRIAL, verbose=False)
    except TokenizerFailedError as error:
        raise ModelRefusedError(
            f"its tokenizer cannot take every text ({error}); correct tokenizer.json or tokenizer_config.json"
        ) from error
    if not tokenizer.is_fast or not tokens:
        where = _MISSING if _missing(folder) else "tokenizer.json"
        raise ModelRefusedError(f"{where} makes no tokens of text; convert it to a fast tokenizer")
    # Some tokenizers split words at random, as for training; two runs would then see different tokens.
    for chance in ("dropout", "alpha", "nbest_size"):
        if getattr(tokenizer.backend_tokenizer.model, chance, None) is not None:
            setattr(tokenizer.backend_tokenizer.model, chance, None)
    return tokenizer


def check_ids(tokenizer: Any, rows: int) -> None:
    """Check that every token that text can produce has a row in the embedding.

    Special tokens may lie beyond it, as Gemma's for images do: text does not produce them unless it spells them out.

    Raises:
        ModelRefusedError: a token has no row; the message names it.
    """
    with tokenizer_failures():
        vocabulary = tokenizer.get_vocab()
        spelled = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        own = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    beyond = {token: number for token, number in vocabulary.items() if not 0 <= number < rows}
    wrong = [token for token, number in beyond.items() if number not in spelled or number in own]
    if wrong:
        first = min(wrong, key=lambda token: beyond[token])
        raise ModelRefusedError(
            f"tokenizer.json gives {first[:80]!r} the id {beyond[first]}, and the embedding has {rows} rows; model and "
            "tokenizer do not belong together"
        )


def _culprit(folder: Path) -> str:
    """A best guess at the file that keeps a tokenizer from loading."""
    from tokenizers import Tokenizer

    if _missing(folder):
        return _MISSING
    for name in TOKENIZER_BYTES:
        path = folder / name
        if name.endswith(".json") and path.is_file():
            try:
                content = json.loads(path.read_bytes())
            except (ValueError, RecursionError):
                return f"{name}, which is not valid JSON,"
            if not isinstance(content, dict):
                return f"{name}, which is not a JSON object,"
    try:
        with tokenizer_failures():
            Tokenizer.from_file(str(folder / "tokenizer.json"))
    except TokenizerFailedError:
        return "tokenizer.json"
    return "tokenizer_config.json"


def _missing(folder: Path) -> bool:
    return not (folder / "tokenizer.json").is_file()
