"""How much the affinity of a language with the calibration mix tells of what it will lose, on your own model and text.

    python benchmarks/affinity.py --model DIR --calibration DIR --evaluation DIR
    python benchmarks/affinity.py --small [--output DIR]

Prunes the model for several mixes: each language alone, pairs, and all together, by two methods. For every mix the
affinities are measured as a job does, and by other definitions, at the first block and at all blocks. Prints Spearman's
rank correlations of each definition with

- the *excess*: by how much more a language's bits per byte grew than when it alone was calibrated on, over all pairs
  of a mix and a language;
- the excess among the languages outside the mix, within one job, averaged over the jobs;
- the *growth* of bits per byte among these languages: what a user sees, which also depends on how fragile each is;

and what the languages lose that a job warns of. Every result is immediately written to benchmarks/results/affinity.json
and not computed again, so that the command can be interrupted and repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from small import LENGTH as SMALL_LENGTH
from small import options_with_text
from torch import Tensor
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import TextSample, draw_samples
from secateur_service.library import prune_tokens
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.affinities import mean_squares, measure_affinities
from secateur_service.pipeline.batches import batch_sequences, divide
from secateur_service.pruning.affinity import PARTS, affinity
from secateur_service.pruning.methods import Recipe
from secateur_service.pruning.patterns import Unstructured

METHODS = {"wanda": ("wanda", "none", "row"), "sparsegpt": ("sparsegpt", "obs", "layer")}
MIN_OUTSIDE = 4  # languages outside a mix, for a rank correlation among them
Samples = Mapping[str, TextSample]
Squares = Mapping[str, list[Tensor]]
"""Mean squares of each language at every input, n."""


def mixes(languages: Sequence[str]) -> Iterator[dict[str, float]]:
    """Each language alone, neighbours in equal and in unequal parts, and all together."""
    count = len(languages)
    for language in languages:
        yield {language: 1.0}
    for first in range(0, count, 2):
        yield {languages[first]: 0.5, languages[(first + 1) % count]: 0.5}
    for first in range(1, count, 2):
        yield {languages[first]: 0.9, languages[(first + 3) % count]: 0.1}
    yield dict.fromkeys(languages, 1 / count)


def name_of(mix: Mapping[str, float]) -> str:
    """How a mix is named in the results."""
    return " ".join(f"{language}:{weight:.2g}" for language, weight in mix.items())


def _correlation(first_N: Tensor, second_N: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first_N - first_N.mean(), second_N - second_N.mean(), dim=0))


def _divergence(squares_N: Tensor, mix_N: Tensor) -> float:
    p_N, q_N = squares_N / squares_N.sum(), (mix_N + 1e-12 * mix_N.mean()) / mix_N.sum()
    return float(torch.special.xlogy(p_N, p_N / q_N).sum())


DEFINITIONS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "log ratio": affinity,
    "cosine": lambda a, b: float(torch.nn.functional.cosine_similarity(a.sqrt(), b.sqrt(), dim=0)),
    "correlation": lambda a, b: _correlation(a.sqrt(), b.sqrt()),
    "correlation of logarithms": lambda a, b: _correlation((a + 1e-12).log(), (b + 1e-12).log()),
    "Kullback-Leibler": lambda a, b: -_divergence(a, b),
}


class Predicted:
    """How much more Wanda loses of a language in the mix than alone, as the norms predict it; larger is less."""

    def __init__(self, model: StreamedModel, sparsity: float) -> None:
        self._sparsity = sparsity
        self._squares = []
        for index in range(model.num_blocks):
            with model.block(index) as block:
                linears = model.linears(block, index)
                groups = model.checkpoint.inputs(index)
                self._squares += [torch.cat([linears[name].weight for name in group]).square() for group in groups]

    def __call__(self, number: int, squares_N: Tensor, mix_N: Tensor) -> float:
        """At an input."""
        return -math.log(self._lost(number, squares_N, mix_N) / self._lost(number, squares_N, squares_N))

    def _lost(self, number: int, squares_N: Tensor, chosen_by_N: Tensor) -> float:
        weights_MN = self._squares[number]
        count = int(weights_MN.shape[1] * self._sparsity)
        pruned = (weights_MN * chosen_by_N.float()).argsort(1)[:, :count]
        errors_MN = weights_MN * squares_N.float()
        return float(errors_MN.gather(1, pruned).sum() / errors_MN.sum())


def ranks(values: Sequence[float]) -> Tensor:
    """Ranks of values, without ties."""
    return torch.tensor(values, dtype=torch.float64).argsort().argsort().double()


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The rank correlation of two lists."""
    return _correlation(ranks(first), ranks(second))


def squares_of(model: StreamedModel, samples: Samples, tokens: int) -> Squares:
    """The mean squares at the inputs of all blocks."""
    found = {}
    for name, sample in samples.items():
        batches = divide({name: sample.tokens}, batch_sequences(sample.tokens.shape[1], model.device))
        blocks = mean_squares(model, batches, tokens, lambda: None, blocks=model.num_blocks)
        found[name] = [squares_PN.mean(0) for block in blocks for squares_PN in block]
    return found


def prune(
    model: StreamedModel, samples: tuple[Samples, Samples], mix: Mapping[str, float], method: str, sparsity: float
) -> dict[str, float]:
    """Prune for a mix; returns the growth of bits per byte by language."""
    score, update, group = METHODS[method]
    calibration = {name: samples[0][name] for name in mix}
    with tempfile.TemporaryDirectory() as work:
        result = prune_tokens(
            model,
            calibration,
            samples[1],
            Path(work),
            recipe=Recipe.of(score, update),
            target=Unstructured(sparsity, group),
            mix=mix,
        )
    return {name: result.pruned[name].nats / result.dense[name].nats - 1 for name in samples[1]}


def relate(results: Mapping[str, Any], languages: Sequence[str], places: Sequence[str]) -> dict[str, Any]:
    """The rank correlations of every definition, and what was lost by the languages that a job warns of."""
    alone = {
        (job["method"], name): job["growth"][name]
        for job in results.values()
        for name in languages
        if job["mix"].get(name) == 1
    }

    def excess(job: Mapping[str, Any], name: str) -> float:
        return (1 + job["growth"][name]) / (1 + alone[job["method"], name]) - 1

    table: dict[str, Any] = {}
    for place in places:
        for definition in results[next(iter(results))]["affinity"][place]:
            pairs, within, growths = [], [], []
            for job in results.values():
                found = job["affinity"][place][definition]
                pairs += [(-found[name], excess(job, name)) for name in languages]
                outside = [name for name in languages if name not in job["mix"]]
                if len(outside) >= MIN_OUTSIDE:
                    distances = [-found[name] for name in outside]
                    within.append(spearman(distances, [excess(job, name) for name in outside]))
                    growths.append(spearman(distances, [job["growth"][name] for name in outside]))
            table[f"{definition}, {place}"] = {
                "excess": spearman(*zip(*pairs, strict=True)),
                "excess_within_job": _mean(within),
                "growth_within_job": _mean(growths),
            }
    warned = {True: [], False: []}
    for job in results.values():
        for name in languages:
            warned[job["affinity"]["of a job"][name] < job["threshold"]].append((name in job["mix"], excess(job, name)))
    lost = {
        "warned" if is_warned else "not warned": {
            "pairs": len(found),
            "in_mix": sum(in_mix for in_mix, _ in found),
            "mean_excess": _mean([value for _, value in found]),
        }
        for is_warned, found in warned.items()
    }
    return {"correlations": table, "excess": lost}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--sequences", type=int, default=32, help="calibration sequences per language")
    parser.add_argument("--tokens", type=int, default=4096, help="evaluation tokens per language")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--seed", type=int, default=0)
    with options_with_text(parser, sequences=2, tokens=2 * SMALL_LENGTH, length=SMALL_LENGTH) as options:
        fill(options)


def fill(options: argparse.Namespace) -> None:
    """Run what is missing, and print the table."""
    languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
    path = options.output / "affinity.json"
    names = ("sparsity", "sequences", "tokens", "length", "separator", "seed")
    settings = {"languages": languages, **{name: getattr(options, name) for name in names}}
    content = json.loads(path.read_text()) if path.exists() else {"settings": settings, "results": {}}
    if content["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings, {content['settings']}; move it away")
    results = content["results"]
    samples = draw_samples(
        AutoTokenizer.from_pretrained(options.model),
        calibration=FolderCorpus(options.calibration),
        evaluation=FolderCorpus(options.evaluation),
        languages=languages,
        evaluation_languages=languages,
        sequences=options.sequences,
        evaluation_tokens=options.tokens,
        sequence_length=options.length,
        seed=options.seed,
        separator=options.separator,
        check=lambda: None,
    )
    model = StreamedModel(open_checkpoint(options.model), torch.device("cpu"), torch.float32)
    predicted = Predicted(model, options.sparsity)
    tokens = min(sample.tokens.numel() for some in samples for sample in some.values()) // PARTS * PARTS
    squares = [squares_of(model, some, tokens) for some in samples]
    inputs = len(model.checkpoint.inputs(0))
    places = {"first block": inputs, "all blocks": inputs * model.num_blocks}
    for method in METHODS:
        for mix in mixes(languages):
            key = f"{method}/{name_of(mix)}"
            if key not in results:
                results[key] = job = {"method": method, "mix": mix}
                job |= _affinities(model, samples, squares, mix, places, predicted)
                job["growth"] = prune(model, samples, mix, method, options.sparsity)
                path.write_text(json.dumps(content, indent=1) + "\n")
                print(key, {name: round(value, 3) for name, value in job["growth"].items()}, flush=True)
    for method in METHODS:
        some = {key: job for key, job in results.items() if job["method"] == method}
        content[method] = found = relate(some, languages, list(places))
        print(f"\n{method}: rank correlation with   {'excess':>8}{'in a job':>10}{'growth':>8}")
        for name, row in found["correlations"].items():
            cells = "".join("       – " if value is None else f"{value:8.2f} " for value in row.values())
            print(f"{name:<41}{cells}")
        for name, row in found["excess"].items():
            mean = 100 * (row["mean_excess"] or 0)
            print(f"{name}: {row['pairs']} pairs, {row['in_mix']} in the mix, excess {mean:.2f} %")
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {path}")


def _affinities(
    model: StreamedModel,
    samples: tuple[Samples, Samples],
    squares: Sequence[Squares],
    mix: Mapping[str, float],
    places: Mapping[str, int],
    predicted: Predicted,
) -> dict[str, Any]:
    """What a job measures, and the other definitions."""
    calibration, evaluation = squares
    began = time.process_time()
    measured = measure_affinities(model, *samples, mix, lambda: None)
    assert measured is not None
    found: dict[str, Any] = {"of a job": {name: each.estimate for name, each in measured.languages.items()}}
    seconds = time.process_time() - began
    mixed = [
        torch.stack([weight * calibration[name][number] for name, weight in mix.items()]).sum(0)
        for number in range(places["all blocks"])
    ]

    def mean(count: int, each: Callable[[int], float]) -> float:
        return sum(map(each, range(count))) / count

    for place, count in places.items():
        found[place] = {
            definition: {
                name: mean(count, lambda at, of=of, means=means: of(means[at], mixed[at]))
                for name, means in evaluation.items()
            }
            for definition, of in DEFINITIONS.items()
        }
        found[place]["predicted error"] = {
            name: mean(count, lambda at, means=means: predicted(at, means[at], mixed[at]))
            for name, means in evaluation.items()
        }
    figures = {"of_mix": measured.of_mix, "spread": measured.spread, "threshold": measured.threshold}
    return {"affinity": found, **figures, "cpu_seconds": round(seconds, 2)}


if __name__ == "__main__":
    main()
