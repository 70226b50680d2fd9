"""Streaming passes over models in folders."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import TextSample, draw_samples
from secateur_service.library import prune_tokens
from secateur_service.models.measurements import TokenLosses
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline import heap_trimming
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.streaming_pass import PassResult
from secateur_service.pipeline.team import Helper
from secateur_service.pruning.methods import Recipe
from secateur_service.pruning.patterns import Target, Unstructured

MIX = {"de": 0.5, "uk": 0.3, "es": 0.2}
Samples = tuple[dict[str, TextSample], dict[str, TextSample]]


def draw(
    model: Path,
    calibration: Path,
    evaluation: Path,
    weights: Mapping[str, float],
    *,
    sequences: int = 6,
    length: int = 64,
    evaluation_tokens: int = 640,
) -> Samples:
    """Calibration text of each language of the mix, and evaluation text of three."""
    return draw_samples(
        AutoTokenizer.from_pretrained(model),
        calibration=FolderCorpus(calibration),
        evaluation=FolderCorpus(evaluation),
        languages=list(weights),
        evaluation_languages=["de", "uk", "en"],
        sequences=sequences,
        evaluation_tokens=evaluation_tokens,
        sequence_length=length,
        seed=0,
        check=lambda: None,
    )


def samples_of(languages: Iterable[str], sequences: int, length: int) -> dict[str, TextSample]:
    """Random tokens of a vocabulary of bytes in place of each language's text."""
    generator = torch.Generator().manual_seed(0)
    samples = {}
    for language in languages:
        tokens = torch.randint(2, 250, (sequences, length), generator=generator)
        ones = torch.ones_like(tokens)
        samples[language] = TextSample(language, tokens, ones, ones.bool(), documents=1)
    return samples


def prune(
    model: Path,
    samples: Samples,
    weights: Mapping[str, float],
    method: str,
    target: Target | Mapping[str, Target],
    shards: Path,
    *,
    update: str | None = None,
    order: str = "block",
    observer: JobObserver | None = None,
    states_folder: Path | None = None,
    **options: Any,
) -> PassResult:
    """Run a pass in this process; `target` for all layers, or by name."""
    calibration, evaluation = samples
    streamed = StreamedModel(open_checkpoint(model), torch.device("cpu"), torch.float32)
    streamed.states_folder = states_folder
    return prune_tokens(
        streamed,
        calibration,
        evaluation,
        shards,
        recipe=Recipe.of(method, update),
        target=target,
        order=order,
        mix=weights,
        **{"layer_snr": True, **options},
        observer=observer,
    )


def pruned_tensors(result: PassResult, shards: Path) -> dict[str, Tensor]:
    """All tensors of the blocks that a pass wrote."""
    return {name: tensor for record in result.blocks for name, tensor in load_file(shards / record.shard).items()}


def print_growth(folders: tuple[Path, Path]) -> None:
    """Prune a model on corpora in a folder; print how many bytes more than before the process has held at once.

    The process may keep little of what it has freed: by default so much that blocks kept by mistake would hide in it.
    """
    model, corpora = folders
    heap_trimming.HEAP_SLACK_BYTES = 8 << 20
    samples = draw(model, corpora / "calibration", corpora / "evaluation", MIX, sequences=1, evaluation_tokens=64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (model / "shards").mkdir()
    prune(model, samples, MIX, "wanda", Unstructured(0.5), model / "shards")
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def streamed_losses(folder: Path, ids: Tensor) -> Tensor:
    """Losses of a model in a folder for tokens B×S, one block at a time, as B·(S-1) numbers."""
    streamed = StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    states = streamed.embed([ids])
    for index in range(streamed.num_blocks):
        with streamed.block(index) as block:
            states = [streamed.run_block(block, index, state) for state in states]
    losses = TokenLosses(states, [ids])
    streamed.head.measure([losses])
    return losses.losses()[0].float().flatten()


def start_helper(folder: Path) -> None:
    """Be a process that starts a helper and does not wait for it."""
    Helper.start(1, 2, folder)
    signal.pause()
