"""Recompute the perplexities of a published job with transformers alone, and compare them with its report.

    python benchmarks/recompute_perplexity.py --checkpoint DIR --report report.json --evaluation DIR [--dense DIR]

Uses nothing of Secateur: loads the checkpoint with `from_pretrained`, packs the evaluation text as the documentation
says (beginning-of-text token, document, end-of-text token; windows of the job's sequence length), and scores every
token of a window but the first. Exits 1 where a figure differs by more than 0.5 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 0.005


def windows(folder: Path, language: str, tokenizer: object, count: int, length: int) -> torch.Tensor:
    """The first `count` windows of the language's text."""
    ids: list[int] = []
    for line in (folder / f"{language}.txt").read_text(encoding="utf-8").splitlines():
        if line.strip():
            body = tokenizer(line.strip(), add_special_tokens=False)["input_ids"]
            ids += [i for i in (tokenizer.bos_token_id, *body, tokenizer.eos_token_id) if i is not None]
        if len(ids) >= count * length:
            break
    return torch.tensor(ids[: count * length]).view(count, length)


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
    parser.add_argument("--checkpoint", type=Path, required=True, help="the pruned checkpoint")
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True, help="folder of the evaluation text")
    parser.add_argument("--dense", type=Path, help="also compare the dense model in this folder")
    options = parser.parse_args()
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
    print(f"largest difference {worst:.5%}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
