"""Small tokenizers of every kind that a vocabulary is trimmed of, trained on the demo's text."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from support.models import TEXT, build_model

LINES = [line for path in sorted(TEXT.glob("*.txt")) for line in path.read_text(encoding="utf-8").splitlines() if line]
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<unused0>", "<unused1>"]


@cache
def tokenizer_json(kind: str) -> str:
    """The content of tokenizer.json of one of `KINDS`."""
    return json.dumps(KINDS[kind]())


def _trained(tokenizer: Tokenizer, trainer: Any) -> dict[str, Any]:
    tokenizer.train_from_iterator(LINES, trainer)
    number = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


def _byte_level() -> dict[str, Any]:
    """Byte-level BPE, as of GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return _trained(tokenizer, trainer)


def _whole_words() -> dict[str, Any]:
    """Byte-level BPE that looks words up before it merges, with words that no merges lead to, as of Llama 3."""
    content = _byte_level()
    model = content["model"]
    model["ignore_merges"] = True
    words = sorted({f"\u0120{word}" for line in LINES for word in line.split() if word.isascii() and word.isalpha()})
    orphans = [word for word in words if word not in model["vocab"]][::7]
    model["vocab"] |= {word: len(model["vocab"]) + at for at, word in enumerate(orphans)}
    return content


def _byte_fallback() -> dict[str, Any]:
    """BPE over characters where several merges lead to one token and what is missing becomes bytes, as of Gemma."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [*_SPECIAL, "\n", "\n\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, limit_alphabet=120, show_progress=False)
    # Longer words first, so that the text of one line is one word to the merges.
    content = _trained(tokenizer, trainer)
    content["added_tokens"] = [entry for entry in content["added_tokens"] if not entry["content"].startswith("<0x")]
    for entry in content["added_tokens"]:
        entry["special"] = not entry[
            "content"
        ].isspace()  # Gemma's line breaks are added tokens too, and not special ones
    model = content["model"]
    ranks = {left + right: rank for rank, (left, right) in enumerate(model["merges"])}
    splits = [
        (rank, [token[:at], token[at:]])
        for token, rank in ranks.items()
        for at in range(1, len(token))
        if token[:at] in model["vocab"] and token[at:] in model["vocab"]
    ]
    model["merges"] = [pair for _, pair in sorted(splits)]
    return content


def _unigram(*, byte_fallback: bool) -> dict[str, Any]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256) if byte_fallback)]
    trainer = trainers.UnigramTrainer(vocab_size=900, special_tokens=special, unk_token="<unk>", show_progress=False)
    content = _trained(tokenizer, trainer)
    content["added_tokens"] = [entry for entry in content["added_tokens"] if not entry["content"].startswith("<0x")]
    if byte_fallback:
        content["model"]["byte_fallback"] = True
        content["decoder"] = {
            "type": "Sequence",
            "decoders": [
                {"type": "ByteFallback"},
                {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            ],
        }
    return content


KINDS = {
    "byte-level": _byte_level,
    "whole words": _whole_words,
    "byte fallback": _byte_fallback,
    "unigram": lambda: _unigram(byte_fallback=False),
    "unigram with bytes": lambda: _unigram(byte_fallback=True),
}


def save_scene(
    folder: Path, kind: str = "byte-level", architecture: str = "llama", padding: int = 3, **changes: Any
) -> Path:
    """A random model with a tokenizer of a kind, and rows that belong to no token."""
    ids = save_tokenizer(folder, kind)
    size = max(ids.values()) + 1
    special = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"]}
    build_model(architecture, vocab_size=size + padding, **special, **changes).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, kind: str = "byte-level") -> dict[str, int]:
    """A tokenizer of a kind; returns the ids of its tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json(kind), encoding="utf-8")
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return dict(Tokenizer.from_str(tokenizer_json(kind)).get_vocab())


def forget_beginning(folder: Path) -> Path:
    """Make a saved tokenizer one that adds nothing to a text, and has no token for its beginning."""
    content = json.loads((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "post_processor": None}), encoding="utf-8")
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder
