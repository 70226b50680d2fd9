"""How narrowly the growth of perplexity is known after how many evaluation tokens, and whether intervals hold it.

    python benchmarks/evaluation_tokens.py --model DIR --calibration DIR --evaluation DIR [--label sentences]
    python benchmarks/evaluation_tokens.py --small

Prunes the model by one recipe after another, each evaluated on as many tokens of every language as there are (at most
`--tokens`), and keeps both models' losses of every document. Then, for each number of tokens, draws subsets of the
documents that have so many, and takes the interval that a report would give for each. Prints by language:

- the growth over all documents;
- half the width of the 95 % interval of the growth, as the difference of logarithms: the median over the subsets, the
  largest, and that of the whole. 0.01 is ±1 %. A subset with too few documents for an interval counts as `without`;
- coverage, the share of the intervals that hold the growth of the whole. A subset is part of the whole, so this
  flatters: more so, the nearer a subset comes to the whole. `corrected` narrows every interval by √(1 − f) first, with
  the share f of the tokens that the subset has (finite population correction; Cochran 1977, "Sampling techniques",
  section 2.6). Subsets have at most three quarters of the tokens.

Saved in benchmarks/results/evaluation_tokens-MODEL-LABEL.json. Losses are kept in the folder of `--work`, and recipes
that have them are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from small import LENGTH, options_with_text
from torch import Tensor
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.packing import pack
from secateur_service.calibration.sampling import TextSample
from secateur_service.evaluation.intervals import intervals
from secateur_service.evaluation.perplexity import Losses
from secateur_service.library import prune_tokens
from secateur_service.pruning.methods import METHODS, Recipe
from secateur_service.pruning.patterns import NofM, Target, Unstructured

NUMBERS = (2048, 4096, 8192, 16384, 32768, 65536)
MOST_OF_THE_WHOLE = 0.75


@dataclass(frozen=True)
class Documents:
    """What both models lose on the documents of one language.

    Attributes:
        windows: tokens of the windows, with those that are not scored.
        sums: D×6: nats, scored tokens and bytes of the dense model, and the same of the pruned one; in float64.
    """

    windows: int
    sums: Tensor

    @property
    def growth(self) -> float:
        """Of perplexity, as a logarithm."""
        nats, tokens, _, pruned, *_ = self.sums.sum(0).tolist()
        return (pruned - nats) / tokens

    def interval(self, language: str, rows: Sequence[int]) -> tuple[float, float] | None:
        """The interval of the growth by some of the documents, as logarithms; None if they are too few."""
        sums = self.sums[list(rows)]
        found = intervals(language, _losses(sums[:, :3]), _losses(sums[:, 3:]))
        return None if found is None else (math.log(found.perplexity_ratio[0]), math.log(found.perplexity_ratio[1]))


def _losses(sums_D3: Tensor) -> Losses:
    nats, tokens, size = sums_D3.sum(0).tolist()
    return Losses(nats, int(tokens), int(size), sums_D3)


def parse_recipe(text: str) -> tuple[Recipe, Target]:
    """Parse `wanda=0.5` or `sparsegpt=2:4`; weights compete as they do by default in the method."""
    method, _, target = text.partition("=")
    if ":" in target:
        kept, group = target.split(":")
        return Recipe.of(method), NofM(int(kept), int(group))
    return Recipe.of(method), Unstructured(float(target), METHODS[method].group)


def in_order(documents: Iterable[str]) -> list[str]:
    """Each document once, ordered by hash."""
    return sorted(set(documents), key=lambda document: hashlib.sha256(document.encode()).digest())


def sample_of(
    tokenizer: Any, language: str, documents: Iterable[str], tokens: int, options: argparse.Namespace
) -> TextSample:
    """As many windows as the documents fill, of at most so many tokens in all."""
    packed = pack(tokenizer, documents, tokens, lambda: None, options.separator)
    count = min(tokens, len(packed.ids)) // options.length
    while (windows := packed.windows(count, options.length)) is None:
        count -= 1
    return TextSample(
        language,
        windows.tokens,
        windows.token_bytes,
        windows.is_text,
        len(packed.documents),
        document_of=windows.document_of,
    )


def samples_of(
    options: argparse.Namespace, languages: Sequence[str]
) -> tuple[dict[str, TextSample], dict[str, TextSample]]:
    """Text for calibration and for evaluation; what is evaluated is not calibrated on."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    calibration, evaluation = {}, {}
    for language in languages:
        scored = in_order(FolderCorpus(options.evaluation).documents(language))
        fitted = in_order(set(FolderCorpus(options.calibration).documents(language)) - set(scored))
        evaluation[language] = sample_of(tokenizer, language, scored, options.tokens, options)
        calibration[language] = sample_of(tokenizer, language, fitted, options.sequences * options.length, options)
    return calibration, evaluation


def prune(
    model: Path, calibration: dict[str, TextSample], evaluation: dict[str, TextSample], recipe: Recipe, target: Target
) -> dict[str, Documents]:
    """Prune once; what both models lose on every document that has scored tokens, by language."""
    with tempfile.TemporaryDirectory() as folder:
        result = prune_tokens(model, calibration, evaluation, Path(folder), recipe=recipe, target=target)
    found = {}
    for language, sample in evaluation.items():
        dense, pruned = result.dense[language].documents, result.pruned[language].documents
        assert dense is not None
        assert pruned is not None
        sums = torch.cat([dense, pruned], 1)
        found[language] = Documents(sample.num_tokens, sums[sums[:, 1] > 0])
    return found


def measure(language: str, documents: Documents, numbers: Sequence[int], subsets: int) -> dict[str, Any]:
    """Widths and coverage by the number of tokens, and of the whole."""
    tokens = documents.sums[:, 1].tolist()
    whole = documents.interval(language, range(len(tokens)))
    draw = random.Random(language)
    by_tokens = {
        number: _of_subsets(language, documents, tokens, number, subsets, draw)
        for number in numbers
        if number <= MOST_OF_THE_WHOLE * documents.windows
    }
    return {
        "growth": math.exp(documents.growth),
        "tokens": documents.windows,
        "documents": len(tokens),
        "tokens_of_a_document": statistics.mean(tokens),
        "half_width": None if whole is None else (whole[1] - whole[0]) / 2,
        "by_tokens": by_tokens,
    }


def _of_subsets(
    language: str, documents: Documents, tokens: Sequence[float], number: int, subsets: int, draw: random.Random
) -> dict[str, Any]:
    share = number / documents.windows
    narrower = math.sqrt(1 - share)
    widths, held, corrected, touched = [], 0, 0, []
    for _ in range(subsets):
        rows, scored = [], 0.0
        for row in draw.sample(range(len(tokens)), len(tokens)):
            rows.append(row)
            scored += tokens[row]
            if scored >= share * sum(tokens):
                break
        touched.append(len(rows))
        found = documents.interval(language, rows)
        if found is None:
            continue
        widths.append((found[1] - found[0]) / 2)
        growth = Documents(number, documents.sums[rows]).growth
        held += found[0] <= documents.growth <= found[1]
        low, high = (growth + narrower * (end - growth) for end in found)
        corrected += low <= documents.growth <= high
    known = len(widths)
    return {
        "documents": statistics.median(touched),
        "without": subsets - known,
        "half_width": statistics.median(widths) if known else None,
        "largest_half_width": max(widths, default=None),
        "coverage": held / known if known else None,
        "corrected_coverage": corrected / known if known else None,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", default="text", help="what kind of documents these are; default %(default)s")
    parser.add_argument("--work", type=Path, default=Path("build/evaluation_tokens"), help="where losses are kept")
    parser.add_argument("--languages", nargs="+", help="default: all of the evaluation folder")
    parser.add_argument("--recipes", nargs="+", default=["wanda=0.3", "wanda=0.5", "sparsegpt=2:4"])
    parser.add_argument("--tokens", type=int, default=1 << 17, help="the most evaluation tokens of a language")
    parser.add_argument("--numbers", nargs="+", type=int, default=list(NUMBERS), help="tokens of the subsets")
    parser.add_argument("--subsets", type=int, default=100, help="of each number of tokens")
    parser.add_argument("--sequences", type=int, default=16, help="for calibration, per language")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    small = {"recipes": ["wanda=0.5", "sparsegpt=2:4"], "tokens": 32 * LENGTH, "numbers": [8 * LENGTH, 16 * LENGTH]}
    with options_with_text(parser, **small, subsets=4, sequences=1, length=LENGTH) as options:
        run(options)


def run(options: argparse.Namespace) -> None:
    """Prune by every recipe; print and save what the subsets say."""
    options.work.mkdir(parents=True, exist_ok=True)
    languages = options.languages or sorted(path.stem for path in options.evaluation.iterdir())
    name = f"{options.model.resolve().name}-{options.label}"
    calibration, evaluation = samples_of(options, languages)
    kept = ("languages", "tokens", "subsets", "sequences", "length", "separator")
    settings = {**{each: getattr(options, each) for each in kept}, "languages": languages}
    versions = {package: metadata.version(package) for package in ("torch", "transformers")}
    recipes: dict[str, Any] = {}
    for text in options.recipes:
        path = options.work / f"{name}-{text.replace(':', '-')}.pt"
        if not path.exists():
            losses = prune(options.model, calibration, evaluation, *parse_recipe(text))
            torch.save({each: (found.windows, found.sums) for each, found in losses.items()}, path)
        recipes[text] = {
            each: measure(each, Documents(windows, sums), options.numbers, options.subsets)
            for each, (windows, sums) in torch.load(path).items()
        }
        show(text, recipes[text])
        content = {"settings": settings, "recipes": recipes, "versions": versions}
        (options.output / f"evaluation_tokens-{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def show(recipe: str, languages: dict[str, Any]) -> None:
    """Print what one recipe showed."""
    print(
        f"\n{recipe:<14}{'growth':>8}{'tokens':>9}{'documents':>11}{'half':>8}{'largest':>9}{'holds':>7}{'corrected':>11}"
    )
    for language, found in languages.items():
        for tokens, row in found["by_tokens"].items():
            half, largest = (_percent(row[name], 2) for name in ("half_width", "largest_half_width"))
            holds, corrected = (_percent(row[name], 0) for name in ("coverage", "corrected_coverage"))
            print(
                f"{language:<14}{found['growth']:8.3f}{tokens:9,}{row['documents']:11,.0f}{half:>8}{largest:>9}"
                f"{holds:>7}{corrected:>11}" + (f"  {row['without']} without" if row["without"] else "")
            )
        half = _percent(found["half_width"], 2)
        print(f"{language:<14}{found['growth']:8.3f}{found['tokens']:9,}{found['documents']:11,}{half:>8}  the whole")


def _percent(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


if __name__ == "__main__":
    main()
