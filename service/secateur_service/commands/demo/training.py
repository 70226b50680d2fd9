"""Trains the demo's model: a byte-level Llama of under a million parameters on four languages, in about a minute.

It is small on purpose but really trained: pruning random weights would show nothing, and this model loses the languages
that the calibration mix leaves out, as large models do.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur_service.commands.demo.corpora import LANGUAGES, read_split
from secateur_service.commands.demo.tokenizer import (
    BOS_ID,
    EOS_ID,
    VOCABULARY_SIZE,
    byte_tokenizer,
    save_byte_tokenizer,
)

if TYPE_CHECKING:
    import torch

CONTEXT_TOKENS = 256
WINDOW_TOKENS = 128
WINDOWS_PER_STEP = 8
STEPS = 600
WARMUP_STEPS = 25
PEAK_LEARNING_RATE = 4e-3
SEED = 0

ReportStep = Callable[[int, int, float], None]
"""Called after each step with the steps done, the total steps and the training loss in nats per byte."""


def ensure_model(folder: Path, *, steps: int = STEPS, report: ReportStep | None = None) -> bool:
    """Train the model into `folder` unless it is already there.

    The folder appears atomically: it is written under another name and renamed.

    Returns:
        Whether the model was trained by this call.
    """
    if folder.exists():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(abandoned)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        train(steps=steps, report=report).save_pretrained(partial)
        save_byte_tokenizer(partial, max_length=CONTEXT_TOKENS)
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def train(*, steps: int = STEPS, report: ReportStep | None = None) -> Any:
    """Train from a fixed seed.

    Returns:
        The model, a `LlamaForCausalLM` in bfloat16.
    """
    import torch
    import torch.nn.functional as F
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY_SIZE,
                hidden_size=128,
                intermediate_size=352,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT_TOKENS,
                tie_word_embeddings=True,
                initializer_range=0.06,  # wider than usual: the model is narrow and learns faster this way
                bos_token_id=BOS_ID,
                eos_token_id=EOS_ID,
            )
        )
    streams = [_stream(language) for language in LANGUAGES]
    draw = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * _schedule(step, steps)
        tokens_BT = _draw_windows(streams, draw)
        logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if report is not None:
            report(step + 1, steps, float(loss.detach()))
    return model.eval().to(torch.bfloat16)


def _stream(language: str) -> torch.Tensor:
    """All training sentences of a language as one row of tokens, separated by line breaks."""
    import torch

    text = "\n".join(read_split(language).training)
    return torch.tensor(byte_tokenizer().encode(text, add_special_tokens=False).ids)


def _draw_windows(streams: list[torch.Tensor], draw: torch.Generator) -> torch.Tensor:
    """The same number of random windows for every language, shape (WINDOWS_PER_STEP, WINDOW_TOKENS + 1).

    Each starts with the beginning-of-text token, like the windows with which the model is pruned and evaluated.
    """
    import torch

    count = WINDOWS_PER_STEP // len(streams)
    windows = [
        torch.cat([torch.tensor([BOS_ID]), stream[start : start + WINDOW_TOKENS]])
        for stream in streams
        for start in torch.randint(len(stream) - WINDOW_TOKENS, (count,), generator=draw).tolist()
    ]
    return torch.stack(windows)


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: a short warm-up, then half a cosine down to a twentieth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))
