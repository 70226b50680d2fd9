"""Recompute the figures of a published job with transformers alone, and compare them with its report.

    python benchmarks/recompute_perplexity.py --checkpoint DIR --report report.json --evaluation DIR [--dense DIR]
    python benchmarks/recompute_perplexity.py --small

It uses only Secateur's corpus reader, so that text files, JSON lines and tables give the same documents. It loads the
checkpoint with `from_pretrained`, cuts the text into windows as documented (documents ordered by the hash of their
hash, each window starting the way the tokenizer starts a text, the separator that the report names between two
documents), and scores the tokens of text. Compares perplexity, bits per byte, growth and the number of scored tokens.
Exits 1 if a figure differs by more than 0.5 %. With `--small`, it first runs a tiny job.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus

TOLERANCE = 0.005


@dataclass(frozen=True)
class Text:
    """Windows N×S: token ids, whether each is scored, and the bytes of text that it stands for."""

    ids: torch.Tensor
    is_scored: torch.Tensor
    sizes: torch.Tensor


def hash_of(document: str) -> bytes:
    """Identity of a document."""
    return hashlib.sha256(document.encode()).digest()[:16]


def documents_in_order(report: dict[str, Any], folder: Path, language: str) -> list[str]:
    """The documents of a language that may be evaluated, ordered by the hash of their hash."""
    calibration, evaluation = report["spec"]["calibration"], report["spec"]["evaluation"]
    if calibration["chat_template"] or evaluation["chat_template"]:
        sys.exit("error: the job put its text into a chat template; this script knows plain text only")
    found = set(FolderCorpus(folder, evaluation["text_field"] or "text").documents(language))
    if evaluation["corpus"] == calibration["corpus"]:  # a fifth of it is held out
        found = {document for document in found if hash_of(document)[0] % 5 == 0}
    return sorted(found, key=lambda document: hashlib.sha256(hash_of(document)).digest())


def windows(documents: list[str], tokenizer: Any, separator: list[int], count: int, length: int) -> Text:
    """The first `count` windows of the documents."""
    with_beginning, body = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    beginning = with_beginning[: with_beginning.index(body[0])]
    rows: list[list[tuple[int, bool, int]]] = []
    row = [(token, False, 0) for token in beginning]
    for document in documents:
        if len(row) > len(beginning):
            row += [(token, False, 0) for token in separator]
        encoded = tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)
        reached = 0
        for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if len(row) >= length:
                rows.append(row[:length])
                row = [(token, False, 0) for token in beginning]
            row.append((token, len(row) > 0, len(document[reached:end].encode())))
            reached = max(reached, end)
        if len(row) >= length:
            rows.append(row[:length])
            row = [(token, False, 0) for token in beginning]
        if len(rows) >= count:
            break
    table = torch.tensor([[[token, scored, size] for token, scored, size in row] for row in rows[:count]])
    return Text(table[..., 0], table[..., 1].bool(), table[..., 2])


@torch.no_grad()
def nats_of(model: torch.nn.Module, text: Text) -> float:
    """Sum of the cross-entropies of the scored tokens."""
    nats = 0.0
    for ids, is_scored in zip(text.ids.split(2), text.is_scored.split(2), strict=True):
        logits = model(input_ids=ids).logits[:, :-1][is_scored[:, 1:]].float()
        nats += float(torch.nn.functional.cross_entropy(logits, ids[:, 1:][is_scored[:, 1:]], reduction="sum"))
    return nats


def main() -> None:
    """Compare every language."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="the pruned checkpoint")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--evaluation", type=Path, help="folder of the evaluation text")
    parser.add_argument("--dense", type=Path, help="also compare the dense model in this folder")
    parser.add_argument("--small", action="store_true", help="of a tiny job that is run first: does it run?")
    parser.add_argument("--output", type=Path, help="folder of recompute_perplexity.json; default: printed only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.small:
            publish_small(options, Path(folder))
        if not (options.checkpoint and options.report and options.evaluation):
            parser.error("--checkpoint, --report and --evaluation are needed, or --small")
        worst = compare(options)
    print(f"largest difference {worst:.5%}")
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "recompute_perplexity.json").write_text(json.dumps({"largest_difference": worst}) + "\n")
    sys.exit(worst > TOLERANCE)


def publish_small(options: argparse.Namespace, folder: Path) -> None:
    """Run a tiny job, and point the options at what it published."""
    from jobs import run_job
    from small import LENGTH, write_material

    material = write_material(folder)
    spec = {
        "model": {"uri": material.model.as_uri()},
        "calibration": {
            "corpus": material.calibration.as_uri(),
            "languages": ["de"],
            "samples": 2,
            "sequence_length": LENGTH,
        },
        "pruning": {"sparsity": 0.5},
        "evaluation": {
            "corpus": material.evaluation.as_uri(),
            "languages": ["de", "en"],
            "tokens_per_language": 4 * LENGTH,
        },
    }
    run_job(spec, folder)
    options.checkpoint, options.report = folder / "job" / "checkpoint", folder / "job" / "report" / "report.json"
    options.evaluation, options.dense = material.evaluation, material.model


def compare(options: argparse.Namespace) -> float:
    """Print every language's figures; returns the largest relative difference."""
    report = json.loads(options.report.read_text(encoding="utf-8"))
    if report["vocabulary"] is not None:
        raise SystemExit("windows differ where the vocabulary was trimmed; use benchmarks/vocabulary.py")
    found: dict[str, dict[str, float]] = {entry["language"]: {} for entry in report["evaluation"]}
    for side, folder in (("pruned", options.checkpoint), ("dense", options.dense)):
        if folder is None:
            continue
        tokenizer = AutoTokenizer.from_pretrained(folder)
        separator = tokenizer.convert_tokens_to_ids(report["windows"]["separator"])
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for entry in report["evaluation"]:
            documents = documents_in_order(report, options.evaluation, entry["language"])
            text = windows(documents, tokenizer, separator, entry["windows"], report["windows"]["tokens"])
            nats, tokens = nats_of(model, text), int(text.is_scored.sum())
            figures = found[entry["language"]]
            figures[f"{side}_perplexity"] = math.exp(nats / tokens)
            figures[f"{side}_bits_per_byte"] = nats / math.log(2) / int(text.sizes[text.is_scored].sum())
            figures["tokens"] = tokens
    worst = 0.0
    for entry in report["evaluation"]:
        figures = found[entry["language"]]
        if options.dense is not None:
            figures["perplexity_ratio"] = figures["pruned_perplexity"] / figures["dense_perplexity"]
        for name, value in figures.items():
            difference = value / entry[name] - 1
            worst = max(worst, abs(difference))
            print(
                f"{entry['language']:<8} {name:<22} report {entry[name]:12.4f}  recomputed {value:12.4f}  "
                f"{difference:+.4%}"
            )
    return worst


if __name__ == "__main__":
    main()
