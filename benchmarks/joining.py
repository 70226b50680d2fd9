"""How best to join documents inside a window: what each way costs a model, dense and pruned.

    python benchmarks/joining.py --model DIR --calibration DIR --evaluation DIR [--languages de uk] [--calibrate KIND]
    python benchmarks/joining.py --small

Prunes the model with the default method at 50 %, calibrated on one kind of window after another, and evaluates the same
documents in windows of every kind, dense and pruned. Every window starts the way the model's tokenizer starts a text.
Besides the ways to join, there are two more kinds: windows of one document, and the former scheme: beginning, document
and end one after another, cut anywhere. Prints bits per byte of the dense model by kind, and perplexity growth by the
kind calibrated on. Results are written to joining-MODEL.json as they arrive, and existing ones are not recomputed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from small import LENGTH, options_with_text
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.packing import Framing, Kind, Packed
from secateur_service.calibration.sampling import TextSample
from secateur_service.library import prune_tokens
from secateur_service.pruning.methods import METHODS, Recipe
from secateur_service.pruning.patterns import Unstructured

NEWLINE, ALONE, BEFORE = "line break", "one document a window", "as before"


def framings(tokenizer: Any) -> dict[str, Framing]:
    """The distinct ways to join documents, by name."""
    newline, end_of_text = Framing.of(tokenizer), Framing.of(tokenizer, "end_of_text")
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    both = tuple(token for token in (*end, tokenizer.bos_token_id) if token is not None)
    ways = {
        NEWLINE: newline,
        "nothing": Framing(newline.beginning, ()),
        "two line breaks": Framing(newline.beginning, 2 * newline.separator),
        "end": Framing(newline.beginning, end),
        "beginning": Framing(newline.beginning, newline.beginning),
        "end and beginning": end_of_text,
        BEFORE: Framing((), both),
    }
    return {name: way for name, way in ways.items() if way not in list(ways.values())[: list(ways).index(name)]}


def documents_of(folder: Path, language: str) -> list[str]:
    """The documents in the order of their hashes."""
    documents = set(FolderCorpus(folder).documents(language))
    return sorted(documents, key=lambda document: hashlib.sha256(document.encode()).digest())


class Sampler:
    """Makes windows of one length from documents.

    Args:
        tokenizer: a fast tokenizer of transformers.
        length: tokens of a window.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer = tokenizer
        self._length = length
        self._framings = framings(tokenizer)
        self.kinds = (*self._framings, ALONE)

    def calibration(self, language: str, documents: Iterable[str], kind: str, sequences: int) -> TextSample:
        """`sequences` full windows."""
        packed = Packed(self._framings[kind])
        for document in documents:
            self._add(packed, document)
            if len(packed.ids) >= sequences * (self._length + 1):
                break
        return self._sample(language, [packed], sequences)

    def evaluation(self, language: str, documents: Iterable[str], kind: str, tokens: int) -> TextSample:
        """Windows over all of the first documents with `tokens` tokens of text; incomplete windows are padded."""
        chosen, count = [], 0
        for document in documents:
            chosen.append(document)
            count += len(self._tokenizer(document, add_special_tokens=False)["input_ids"])
            if count >= tokens:
                break
        packs = [Packed(self._framings.get(kind, self._framings[NEWLINE])) for _ in (chosen if kind == ALONE else "1")]
        for number, document in enumerate(chosen):
            self._add(packs[number % len(packs)], document)
        return self._sample(language, packs, None)

    def _add(self, packed: Packed, document: str) -> None:
        encoded = self._tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)
        packed.add(document, encoded["input_ids"], encoded["offset_mapping"])

    def _sample(self, language: str, packs: list[Packed], sequences: int | None) -> TextSample:
        parts = []
        begun = len(packs[0].framing.beginning)
        length = min(self._length, begun + max(len(packed.ids) for packed in packs))
        for packed in packs:
            step = length - begun
            count = sequences or math.ceil(len(packed.ids) / step)
            missing = 0 if sequences else count * step + count * len(packed.framing.separator) - len(packed.ids)
            packed.ids += [0] * missing  # causal attention: later tokens do not affect earlier ones
            packed.sizes += [0] * missing
            packed.kinds += [Kind.TEMPLATE] * missing
            packed.places += [(len(packed.documents), -1, 0)] * missing
            windows = packed.windows(count, length)
            assert windows is not None
            parts.append(windows)
        tokens, sizes, is_text = (
            torch.cat([getattr(part, field) for part in parts]) for field in ("tokens", "token_bytes", "is_text")
        )
        return TextSample(language, tokens, sizes, is_text, len(packs))


def prune(model: Path, calibration: dict[str, TextSample], evaluation: dict[str, TextSample]) -> dict[str, Any]:
    """Bits per byte and perplexity of both models, by the name of an evaluation sample."""
    target = Unstructured(0.5, METHODS["sparsegpt"].group)
    with tempfile.TemporaryDirectory() as folder:
        result = prune_tokens(
            model, calibration, evaluation, Path(folder), recipe=Recipe.of("sparsegpt", "cg"), target=target
        )
    return {
        name: {
            "tokens": result.dense[name].tokens,
            "dense_bits_per_byte": result.dense[name].nats / math.log(2) / result.dense[name].bytes,
            "dense_perplexity": math.exp(result.dense[name].nats / result.dense[name].tokens),
            "growth": math.exp((result.pruned[name].nats - result.dense[name].nats) / result.dense[name].tokens),
        }
        for name in evaluation
    }


def main() -> None:
    """Measure every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["de", "en", "uk"])
    parser.add_argument("--calibrate", nargs="+", default=[NEWLINE, BEFORE], help="kinds to calibrate on, by name")
    parser.add_argument("--evaluate", nargs="+", help="kinds to evaluate on; default all")
    parser.add_argument("--sequences", type=int, default=16, help="calibration sequences per language")
    parser.add_argument("--tokens", type=int, default=2048, help="evaluation tokens per language")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    with options_with_text(parser, languages=["de", "en"], sequences=2, tokens=2 * LENGTH, length=LENGTH) as options:
        sampler = Sampler(AutoTokenizer.from_pretrained(options.model), options.length)
        path = options.output / f"joining-{options.model.resolve().name}.json"
        settings = {name: vars(options)[name] for name in ("languages", "sequences", "tokens", "length")}
        content = json.loads(path.read_text()) if path.exists() else {"settings": settings, "calibrated_on": {}}
        if content["settings"] != settings:
            parser.error(f"{path} was made with other settings, {content['settings']}; move it away")
        evaluation = {
            f"{kind}/{language}": sampler.evaluation(
                language, documents_of(options.evaluation, language), kind, options.tokens
            )
            for kind in options.evaluate or sampler.kinds
            for language in options.languages
        }
        for kind in (kind for kind in options.calibrate if kind not in content["calibrated_on"]):
            calibration = {
                language: sampler.calibration(
                    language, documents_of(options.calibration, language), kind, options.sequences
                )
                for language in options.languages
            }
            content["calibrated_on"][kind] = prune(options.model, calibration, evaluation)
            path.write_text(json.dumps(content, indent=1) + "\n")
        show(content)
        print(f"written: {path}")


def show(content: dict[str, Any]) -> None:
    """Print both tables."""
    languages, measured = content["settings"]["languages"], content["calibrated_on"]
    dense = next(iter(measured.values()))
    kinds = dict.fromkeys(name.rpartition("/")[0] for name in dense)
    print(f"\n{'dense, bits per byte over text':<34}" + "".join(f"{language:>9}" for language in languages))
    for kind in kinds:
        row = [dense[f"{kind}/{language}"]["dense_bits_per_byte"] for language in languages]
        print(f"{kind:<34}" + "".join(f"{value:9.3f}" for value in row))
    for kind in (kind for kind in (NEWLINE, ALONE) if kind in kinds):
        print(f"\n{'growth on windows of: ' + kind:<34}" + "".join(f"{language:>9}" for language in languages))
        for name, figures in measured.items():
            row = [figures[f"{kind}/{language}"]["growth"] for language in languages]
            print(f"{'calibrated on: ' + name:<34}" + "".join(f"{value:9.4f}" for value in row))


if __name__ == "__main__":
    main()
