"""Shared by all benchmarks: where results go, and the small form.

The small form runs the same code on a tiny random model and on the text that ships with the project. It takes seconds
on a CPU and its figures mean nothing, but it shows that the script runs.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from secateur_service.commands.demo.corpora import write_corpora
from secateur_service.commands.demo.tokenizer import BOS_ID, EOS_ID, VOCABULARY_SIZE, save_byte_tokenizer

RESULTS = Path(__file__).parent / "results"
LENGTH = 64
SENTENCES = 20
"""Of a document that `lengthen` writes."""


@dataclass(frozen=True)
class Material:
    """Folders: a model with its tokenizer, and one text file per language for each purpose."""

    model: Path
    calibration: Path
    evaluation: Path
    separator: str = "newline"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results; default %(default)s")
    parser.add_argument("--small", action="store_true", help="a tiny model and the project's own text: does it run?")


def add_separator(parser: argparse.ArgumentParser) -> None:
    """Add the option for models that were trained on documents joined by end and beginning tokens."""
    choices = ("newline", "end_of_text")
    parser.add_argument("--separator", choices=choices, default=choices[0], help="between documents; default newline")


def add_material(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the user's model and text."""
    parser.add_argument("--model", type=Path, help="folder of the model")
    parser.add_argument("--calibration", type=Path, help="folder with one text file per language")
    parser.add_argument("--evaluation", type=Path, help="folder with the same files, other text")
    add_separator(parser)


def write_material(folder: Path, *, languages: int = 2, words: int = 0, **sizes: Any) -> Material:
    """Write a Llama with random weights, and text and tokenizer as `write_text` does.

    It has two blocks, or as many as `sizes` says, which replaces values of its configuration.
    """
    torch.manual_seed(0)
    defaults = {
        "vocab_size": words or VOCABULARY_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4 * LENGTH,
        "initializer_range": 0.1,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    LlamaForCausalLM(LlamaConfig(**defaults | sizes)).save_pretrained(folder / "model")
    return write_text(folder, languages=languages, words=words)


def write_text(folder: Path, *, languages: int = 2, words: int = 0) -> Material:
    """Write the demo's text in the given number of languages, and a tokenizer into `folder`/model.

    Its tokens are bytes, or `words` of byte-pair encoding, trained on the text.
    """
    model = folder / "model"
    calibration, evaluation = write_corpora(folder)
    if words:
        _save_word_tokenizer(model, calibration, words)
    else:
        save_byte_tokenizer(model, max_length=4 * LENGTH)
    for corpus in (calibration, evaluation):
        for path in sorted(corpus.glob("*.txt"))[languages:]:
            path.unlink()
    return Material(model, calibration, evaluation)


def lengthen(corpus: Path, size_bytes: int) -> None:
    """Replace every file of a folder by documents of its own sentences, drawn at random, of at least so many bytes."""
    for path in sorted(corpus.glob("*.txt")):
        sentences = path.read_text(encoding="utf-8").splitlines()
        draw, documents, written = random.Random(0), [], 0
        while written < size_bytes:
            documents.append(" ".join(draw.sample(sentences, min(len(sentences), SENTENCES))))
            written += len(documents[-1].encode())
        path.write_text("\n".join(documents) + "\n", encoding="utf-8")


def _save_word_tokenizer(folder: Path, corpus: Path, words: int) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {BOS_ID: "<s>", EOS_ID: "</s>"}
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=[special[number] for number in sorted(special)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in sorted(corpus.glob("*.txt"))], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


@contextlib.contextmanager
def options_with_text(parser: argparse.ArgumentParser, *, words: int = 0, **small: Any) -> Iterator[argparse.Namespace]:
    """Parse the options of a benchmark on the user's model and text, or on the project's with `--small`.

    Adds `--model`, `--calibration`, `--evaluation`, `--separator` and those of `add_options` to the parser.

    Args:
        parser: has the benchmark's own options.
        words: of the small form's vocabulary, see `write_material`.
        small: values of these options in the small form.
    """
    add_material(parser)
    add_options(parser)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.small:
        if not (options.model and options.calibration and options.evaluation):
            parser.error("--model, --calibration and --evaluation are needed, or --small")
        yield options
        return
    with tempfile.TemporaryDirectory() as folder:
        vars(options).update(vars(write_material(Path(folder), words=words)))
        vars(options).update(small)
        if "work" in options:
            options.work = Path(folder) / "work"
        yield options
