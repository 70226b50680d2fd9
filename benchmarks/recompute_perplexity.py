"""Recompute the perplexities of a published job with transformers alone, and compare them with its report.

    python benchmarks/recompute_perplexity.py --checkpoint DIR --report report.json --evaluation DIR [--dense DIR]
    python benchmarks/recompute_perplexity.py --small

Uses nothing of Secateur: loads the checkpoint with `from_pretrained`, packs the evaluation text as the documentation
says (documents by the hash of their hash, each as beginning-of-text token, text and end-of-text token; windows of the
job's sequence length), and scores every token of a window but the first. Exits 1 where a figure differs by more than
0.5 %. With `--small`, the job is a tiny one that is run first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 0.005


def windows(folder: Path, language: str, tokenizer: object, count: int, length: int) -> torch.Tensor:
    """The first `count` windows of the language's text, whose documents come in the order of their hashes' hashes."""
    ids: list[int] = []
    lines = (folder / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    for document in sorted({line.strip() for line in lines if line.strip()}, key=rank):
        body = tokenizer(document, add_special_tokens=False)["input_ids"]
        ids += [i for i in (tokenizer.bos_token_id, *body, tokenizer.eos_token_id) if i is not None]
        if len(ids) >= count * length:
            break
    return torch.tensor(ids[: count * length]).view(count, length)


def rank(document: str) -> bytes:
    """What documents are ordered by."""
    return hashlib.sha256(hashlib.sha256(document.encode()).digest()[:16]).digest()


@torch.no_grad()
def perplexity(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """Exp of the mean cross-entropy."""
    nats = 0.0
    for batch in ids.split(8):
        logits = model(input_ids=batch).logits.float()
        nats += float(
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
        )
    return math.exp(nats / (ids.shape[0] * (ids.shape[1] - 1)))


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
    """Run a tiny job, and let the options name what it published."""
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
    length = report["spec"]["calibration"]["sequence_length"]
    worst = 0.0
    for folder, field in ((options.checkpoint, "pruned_perplexity"), (options.dense, "dense_perplexity")):
        if folder is None:
            continue
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for entry in report["evaluation"]:
            ids = windows(options.evaluation, entry["language"], tokenizer, entry["windows"], length)
            found, stated = perplexity(model, ids), entry[field]
            worst = max(worst, abs(found / stated - 1))
            print(
                f"{field:<18} {entry['language']:<6} report {stated:10.4f}  recomputed {found:10.4f}  "
                f"{found / stated - 1:+.5%}"
            )
    return worst


if __name__ == "__main__":
    main()
