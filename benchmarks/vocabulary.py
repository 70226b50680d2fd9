"""What trimming a vocabulary keeps, and what it costs, on text that was not counted.

    python benchmarks/vocabulary.py --model DIR --calibration DIR --evaluation DIR [--keep uk en] [--rows 40960]
    python benchmarks/vocabulary.py --small

Trims the model for every language alone and for all of them, or for those given by --keep, as a job does, and compares
the published model with the dense one, both loaded by transformers:

- documents of the evaluation text whose tokens are all kept: whether their ids are the same, their hidden states equal
  bit for bit, and no loss is higher;
- all documents, and random strings in many scripts: whether they are read back as before;
- the further tokens that the evaluation text takes, expected and found; bits per byte, dense and trimmed.

Written to vocabulary-MODEL.json as results arrive.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from small import LENGTH, options_with_text
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur
from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.library import prune

# First and last characters of blocks that random strings are made of.
_SCRIPTS = (
    " ~",
    "\u00a1\u024f",
    "\u0400\u04ff",
    "\u0600\u06ff",
    "\u0900\u097f",
    "\u4e00\u9fff",
    "\uac00\ud7a3",
    "\U0001f300\U0001faff",
)
_SPECIAL = ("\n", "\t", "  ", "\u200d", "\u0301", "\x00", "\ufeff", "<s>", "</s>", "<bos>", "\u2581", "\u0120")


def fuzzed(count: int) -> list[str]:
    """Random strings of several scripts, with white space, combining marks and the names of special tokens."""
    rng = random.Random(0)
    texts = []
    for _ in range(count):
        pieces = []
        for _ in range(rng.randint(1, 12)):
            first, last = rng.choice(_SCRIPTS)
            letters = "".join(chr(rng.randint(ord(first), ord(last))) for _ in range(rng.randint(1, 5)))
            pieces.append(rng.choice([letters, letters, rng.choice(_SPECIAL)]))
        texts.append("".join(pieces))
    return texts


def text_of(tokenizer: Any, text: str) -> str:
    """A text, encoded and decoded."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


class Pair:
    """A dense model, and what a job made of it."""

    def __init__(self, dense: Path, trimmed: Path) -> None:
        self.tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (dense, trimmed)]
        self.models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (dense, trimmed)]
        old = json.loads((trimmed / "vocab_map.json").read_bytes())["old_ids"]
        self.new = {token: number for number, token in enumerate(old)}

    def identity(self, documents: list[str], most: int) -> dict[str, int]:
        """How many documents are covered, and how many of these are the same in every way.

        Args:
            documents: any text.
            most: documents whose states are compared.
        """
        found = dict.fromkeys(("documents", "covered", "same_ids", "compared", "equal_states", "no_higher_loss"), 0)
        for document in documents:
            before, after = (tokenizer(document)["input_ids"] for tokenizer in self.tokenizers)
            found["documents"] += 1
            if not self.new.keys() >= set(before):
                continue
            found["covered"] += 1
            found["same_ids"] += [self.new[token] for token in before] == after
            if found["compared"] < most and len(before) > 1:
                found["compared"] += 1
                states, losses = self._run(before, after)
                found["equal_states"] += all(torch.equal(one, other) for one, other in zip(*states, strict=True))
                found["no_higher_loss"] += bool((losses[1] <= losses[0] + 1e-5).all())
        return found

    @torch.no_grad()
    def _run(self, *texts: list[int]) -> tuple[list[Any], list[torch.Tensor]]:
        """Hidden states and the losses of every token, on both sides."""
        states, losses = [], []
        for model, ids in zip(self.models, texts, strict=True):
            output = model(torch.tensor([ids]), output_hidden_states=True)
            states.append(output.hidden_states)
            logits = output.logits[0, :-1].double()
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none"))
        return states, losses

    def readable(self, texts: list[str]) -> int:
        """How many texts are read back as by the dense model's tokenizer."""
        before, after = self.tokenizers
        return sum(text_of(before, text) == text_of(after, text) for text in texts)


def measure(options: argparse.Namespace, keep: list[str], folder: Path) -> dict[str, Any]:
    """Trim the model for some languages, and compare."""
    target = {"rows": options.rows} if options.rows else {"extra_tokens": options.extra_tokens}
    spec = secateur.prune_spec(
        options.model.resolve().as_uri(),
        corpus=options.calibration.resolve().as_uri(),
        languages=keep,
        samples=4 * len(keep),
        sequence_length=options.length,
        document_separator=options.separator,
        evaluation_corpus=options.evaluation.resolve().as_uri(),
        evaluation_languages=options.languages,
        tokens_per_language=options.tokens,
        continuations=0,
        keep_languages=keep,
        **({"vocabulary_rows": options.rows} if options.rows else {"extra_tokens": options.extra_tokens}),
    )
    report = prune(spec, folder, threads=torch.get_num_threads()).report
    if report.vocabulary is None:
        raise SystemExit(f"no row can go for {' '.join(keep)}; give --rows, or more --extra-tokens")
    pair = Pair(options.model, folder / "checkpoint")
    strings = fuzzed(options.strings)
    languages = {}
    for entry in report.evaluation:
        name = entry.language
        documents = sorted(set(FolderCorpus(options.evaluation).documents(name)))
        languages[name] = {
            "kept": name in keep,
            "expected_extra_tokens": report.vocabulary.languages[name].expected_extra_tokens,
            "extra_tokens": _extra(pair.tokenizers, documents),
            "dense_bits_per_byte": entry.dense_bits_per_byte,
            "bits_per_byte": entry.pruned_bits_per_byte,
            "readable": pair.readable(documents),
            **pair.identity(documents, options.compared if name in keep else 2),
        }
    return {
        "target": target,
        "rows": report.vocabulary.rows,
        "rows_before": report.vocabulary.rows_before,
        "parameters": report.output.parameters,
        "parameters_before": report.model.parameters,
        "strings": len(strings),
        "readable_strings": pair.readable(strings),
        "languages": languages,
    }


def _extra(tokenizers: list[Any], documents: list[str]) -> float:
    before, after = (sum(map(len, tokenizer(documents)["input_ids"])) for tokenizer in tokenizers)
    return after / before - 1


def main() -> None:
    """Measure for every set of languages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["ar", "de", "en", "fr", "rw", "uk", "zh"])
    parser.add_argument("--keep", nargs="+", help="languages to keep together; default each alone, then all")
    parser.add_argument("--extra-tokens", type=float, default=0.005, help="default %(default)s")
    parser.add_argument("--rows", type=int, help="rows to keep, instead")
    parser.add_argument("--length", type=int, default=512, help="tokens per window")
    parser.add_argument("--tokens", type=int, default=4096, help="evaluation tokens per language")
    parser.add_argument(
        "--compared", type=int, default=100, help="documents per kept language whose states are compared"
    )
    parser.add_argument("--strings", type=int, default=2000, help="random strings")
    small = {"languages": ["de", "en"], "tokens": 2 * LENGTH, "length": LENGTH, "compared": 3, "strings": 50}
    with options_with_text(parser, words=600, **small) as options:
        path = options.output / f"vocabulary-{options.model.resolve().name}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        sets = [options.keep] if options.keep else [*([name] for name in options.languages), options.languages]
        target = f"{options.rows} rows" if options.rows else f"extra_tokens {options.extra_tokens}"
        for keep in sets:
            name = f"{' '.join(keep)}, {target}"
            with tempfile.TemporaryDirectory() as folder:
                content[name] = measure(options, keep, Path(folder))
            path.write_text(json.dumps(content, indent=1) + "\n")
            show({name: content[name]})
        print(f"written: {path}")


def show(content: dict[str, Any]) -> None:
    """Print a table for each set of kept languages."""
    for keep, found in content.items():
        share = 1 - found["parameters"] / found["parameters_before"]
        print(f"\nkept: {keep}; {found['rows']:,} of {found['rows_before']:,} rows, {share:.1%} fewer parameters")
        print(f"random strings read as before: {found['readable_strings']} of {found['strings']}")
        print("language  covered  same ids  states equal  no higher loss  readable  extra tokens (expected)  bits/byte")
        for name, entry in found["languages"].items():
            expected = entry["expected_extra_tokens"]
            stated = "-" if expected is None else f"{expected:.2%}"
            growth = entry["bits_per_byte"] / entry["dense_bits_per_byte"] - 1
            compared = entry["compared"]
            print(
                f"{name:<8} {entry['covered']:>5}/{entry['documents']:<5} {entry['same_ids']:>5} "
                f"{entry['equal_states']:>8}/{compared:<5} {entry['no_higher_loss']:>8}/{compared:<5} "
                f"{entry['readable']:>8} {entry['extra_tokens']:>12.2%} ({stated}) "
                f"{entry['dense_bits_per_byte']:>12.3f} -> {entry['bits_per_byte']:.3f} ({growth:+.1%})"
            )


if __name__ == "__main__":
    main()
