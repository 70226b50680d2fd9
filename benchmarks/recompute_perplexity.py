"""Recompute the figures of a published job with transformers alone, and compare them with its report.

    python benchmarks/recompute_perplexity.py --checkpoint DIR --report report.json --evaluation DIR [--dense DIR]
    python benchmarks/recompute_perplexity.py --small

It uses only Secateur's corpus reader, so that text files, JSON lines and tables give the same documents. It loads the
checkpoint with `from_pretrained`, cuts the text into windows as documented (documents ordered by the hash of their
hash, each window starting the way the tokenizer starts a text, the separator that the report names between two
documents), and scores the tokens of text. Compares perplexity, bits per byte, growth and the number of scored tokens;
with `--dense` also KL divergence, agreement, and the bootstrap's intervals, from whole predictions in float64. Exits 1
if a figure differs by more than 0.5 %. With `--small`, it first runs a tiny job.
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

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus

TOLERANCE = 0.005


@dataclass(frozen=True)
class Text:
    """Windows N×S: token ids, whether each is scored, the bytes of text that it stands for, and its document."""

    ids: torch.Tensor
    is_scored: torch.Tensor
    sizes: torch.Tensor
    documents: torch.Tensor


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
    rows: list[list[tuple[int, bool, int, int]]] = []
    row = [(token, False, 0, -1) for token in beginning]
    for number, document in enumerate(documents):
        if len(row) > len(beginning):
            row += [(token, False, 0, -1) for token in separator]
        encoded = tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)
        reached = 0
        for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if len(row) >= length:
                rows.append(row[:length])
                row = [(token, False, 0, -1) for token in beginning]
            row.append((token, len(row) > 0, len(document[reached:end].encode()), number))
            reached = max(reached, end)
        if len(row) >= length:
            rows.append(row[:length])
            row = [(token, False, 0, -1) for token in beginning]
        if len(rows) >= count:
            break
    table = torch.tensor([[list(entry) for entry in row] for row in rows[:count]])
    return Text(table[..., 0], table[..., 1].bool(), table[..., 2], table[..., 3])


@torch.no_grad()
def figures_of(models: dict[str, torch.nn.Module], text: Text) -> dict[str, np.ndarray]:
    """Per scored token: bytes, document, nats of each model, and of two models divergence and agreement."""
    found: dict[str, list[np.ndarray]] = {}
    for ids, is_scored in zip(text.ids.split(2), text.is_scored.split(2), strict=True):
        chosen = is_scored[:, 1:]
        targets = ids[:, 1:][chosen]
        logs = {
            side: torch.log_softmax(model(input_ids=ids).logits[:, :-1][chosen].double(), -1)
            for side, model in models.items()
        }
        values = {side: -log.gather(1, targets[:, None])[:, 0] for side, log in logs.items()}
        if "dense" in logs:
            dense, pruned = logs["dense"], logs["pruned"]
            values["kl_divergence"] = (dense.exp() * (dense - pruned)).sum(1)
            values["agreement"] = (dense.argmax(1) == pruned.argmax(1)).double()
        for name, value in values.items():
            found.setdefault(name, []).append(value.numpy())
    chosen = text.is_scored[:, 1:]
    return {
        "bytes": text.sizes[:, 1:][chosen].numpy(),
        "document": text.documents[:, 1:][chosen].numpy(),
        **{name: np.concatenate(parts) for name, parts in found.items()},
    }


def summary(tokens: dict[str, np.ndarray], times: np.ndarray | None = None) -> dict[str, float]:
    """The figures of a language, with every token counted so many times."""
    weight = np.ones(len(tokens["bytes"])) if times is None else times[tokens["document"]]
    count, size = weight.sum(), (weight * tokens["bytes"]).sum()
    found = {}
    for side in tokens.keys() & {"dense", "pruned"}:
        nats = (weight * tokens[side]).sum()
        found[f"{side}_perplexity"] = math.exp(nats / count)
        found[f"{side}_bits_per_byte"] = nats / math.log(2) / size
    if "dense" in tokens:
        found["perplexity_ratio"] = found["pruned_perplexity"] / found["dense_perplexity"]
        found |= {name: (weight * tokens[name]).sum() / count for name in ("kl_divergence", "agreement")}
    return found


def bounds(language: str, tokens: dict[str, np.ndarray], degrees_quantile: float) -> dict[str, tuple[float, float]]:
    """Each figure's interval over 2,000 draws of the documents."""
    numbers = np.unique(tokens["document"])
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(language.encode()).digest()[:4]))
    drawn = torch.randint(len(numbers), (2000, len(numbers)), generator=generator).numpy()
    found: dict[str, list[float]] = {}
    for row in drawn:
        times = np.zeros(int(numbers.max()) + 1)
        times[numbers] = np.bincount(row, minlength=len(numbers))
        for name, value in summary(tokens, times).items():
            found.setdefault(name, []).append(value)
    shift = math.sqrt(len(numbers) / (len(numbers) - 1)) * degrees_quantile
    below = 0.5 * math.erfc(shift / math.sqrt(2))
    return {name: tuple(np.quantile(values, [below, 1 - below])) for name, values in found.items()}


def student(degrees: int) -> float:
    """The 0.975 quantile of Student's distribution, by bisection of its integrated density."""
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def below(value: float) -> float:
        grid = np.linspace(0, value, 20_001)
        return 0.5 + float(np.trapezoid(scale * (1 + grid**2 / degrees) ** (-(degrees + 1) / 2), grid))

    low, high = 1.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < 0.975 else (low, middle)
    return low


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
    sys.exit(int(worst > TOLERANCE))


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
            "continuations": 0,
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
    folders = {"dense": options.dense, "pruned": options.checkpoint}
    models = {
        side: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for side, folder in folders.items()
        if folder is not None
    }
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    separator = tokenizer.convert_tokens_to_ids(report["windows"]["separator"])
    worst = 0.0
    for entry in report["evaluation"]:
        documents = documents_in_order(report, options.evaluation, entry["language"])
        text = windows(documents, tokenizer, separator, entry["windows"], report["windows"]["tokens"])
        tokens = figures_of(models, text)
        found = {"tokens": float(len(tokens["bytes"])), **summary(tokens)}
        pairs = [(name, entry[name], value) for name, value in found.items()]
        if entry["intervals"] and options.dense is not None:
            quantile = student(entry["intervals"]["documents"] - 1)
            for name, ends_found in bounds(entry["language"], tokens, quantile).items():
                ends = zip(("from", "to"), entry["intervals"][name], ends_found, strict=True)
                pairs += [(f"{name} {end}", reported, value) for end, reported, value in ends]
        for name, reported, value in pairs:
            difference = value / reported - 1
            worst = max(worst, abs(difference))
            figures = f"report {reported:12.4f}  recomputed {value:12.4f}  {difference:+.4%}"
            print(f"{entry['language']:<8} {name:<26} {figures}")
    return worst


if __name__ == "__main__":
    main()
