"""What less precise products cost the iterations that solve for the kept weights.

    python benchmarks/rounding.py --model DIR --calibration DIR --evaluation DIR [--target 0.6] [--seeds 1] [--small]

Every step of conjugate gradients and of ALPS multiplies all rows of a layer with a matrix n×n. Tensor cores do so
several times as fast in TF32 or bfloat16 as in float32. Both are simulated, on any device, by rounding the inputs of
these products, which are then summed in float32, as tensor cores do; for conjugate gradients also with a residual that
is computed anew in float32 every few steps. Prints the error of the layers' outputs relative to that of float32
(geometric mean and worst layer) and the growth of perplexity over text. Writes rounding-MODEL.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from method_table import parse_target, sampled
from small import LENGTH, options_with_text
from torch import Tensor
from transformers import AutoTokenizer

from secateur_service.library import prune_tokens
from secateur_service.pruning.alps import alps
from secateur_service.pruning.conjugate_gradient import errors, refine
from secateur_service.pruning.methods import SCORES, UPDATES, Recipe, Update
from secateur_service.pruning.patterns import Target

_TF32_DROPPED = 13
"""Bits of float32's mantissa that TF32 has not."""


def tf32(values: Tensor) -> Tensor:
    """Values rounded to TF32's ten bits of mantissa, to nearest and ties to even."""
    bits = values.contiguous().view(torch.int32)
    odd = bits >> _TF32_DROPPED & 1
    return (bits + (1 << _TF32_DROPPED - 1) - 1 + odd >> _TF32_DROPPED << _TF32_DROPPED).view(torch.float32)


def bfloat16(values: Tensor) -> Tensor:
    """Values rounded to bfloat16."""
    return values.bfloat16().float()


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"tf32": tf32, "bfloat16": bfloat16}
EVERY = (0, 5, 2)
ratios: dict[str, list[float]] = {}
"""Errors of layers relative to those of float32, by variant."""


def refined(
    weights: Sequence[Tensor],
    pruned: Sequence[Tensor],
    hessian_NN: Tensor,
    _target: Target,
    *,
    variant: str,
    rounding: Callable[[Tensor], Tensor],
    exact_every: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[list[Tensor], tuple[str, ...]]:
    """An update like `cg`, with products of rounded inputs."""
    found = []
    for weight_MN, mask_MN in zip(weights, pruned, strict=True):
        exact_MN = refine(weight_MN, mask_MN, hessian_NN, check=check)
        solved_MN = refine(
            weight_MN,
            mask_MN,
            hessian_NN,
            product=lambda left, right: rounding(left) @ rounding(right),
            exact_every=exact_every,
            check=check,
        )
        one, other = (float(errors(weight_MN, matrix, hessian_NN).sum()) for matrix in (solved_MN, exact_MN))
        ratios.setdefault(variant, []).append(one / other if other else 1.0)
        found.append(solved_MN)
    return found, ()


def rounded_alps(
    weights: Sequence[Tensor],
    hessian_NN: Tensor,
    target: Target,
    *,
    variant: str,
    rounding: Callable[[Tensor], Tensor],
    check: Callable[[], None] = lambda: None,
) -> tuple[list[Tensor], list[Tensor], tuple[str, ...]]:
    """ALPS with products of rounded inputs."""
    exact, _, _ = alps(weights, hessian_NN, target, check=check)
    solved, pruned, notes = alps(
        weights, hessian_NN, target, product=lambda left, right: rounding(left) @ rounding(right), check=check
    )
    for weight_MN, one_MN, other_MN in zip(weights, solved, exact, strict=True):
        one, other = (float(errors(weight_MN, matrix, hessian_NN).sum()) for matrix in (one_MN, other_MN))
        ratios.setdefault(variant, []).append(one / other if other else 1.0)
    return solved, pruned, notes


def variants() -> dict[str, Recipe]:
    """The recipes that are compared, which this registers."""
    found = {"cg, float32": Recipe.of("sparsegpt", "cg")}
    for name, rounding in ROUNDINGS.items():
        for every in EVERY:
            variant = f"cg, {name}, residual in float32 every {every} steps" if every else f"cg, {name}"
            key = f"refined_{name}_{every}"
            globals()[key] = functools.partial(refined, variant=variant, rounding=rounding, exact_every=every)
            UPDATES[key] = Update(f"{__name__}:{key}", ("gram",))
            found[variant] = Recipe.of("sparsegpt", key)
    found["alps, float32"] = Recipe.of("alps")
    for name, rounding in ROUNDINGS.items():
        variant, key = f"alps, {name}", f"alps_{name}"
        globals()[key] = functools.partial(rounded_alps, variant=variant, rounding=rounding)
        SCORES[key] = replace(SCORES["admm"], function=f"{__name__}:{key}", divides=False)
        found[variant] = Recipe(key, "admm")
    return found


def main() -> None:
    """Measure every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["ar", "de", "en", "fr", "rw", "uk", "zh"])
    parser.add_argument("--target", default="0.6", help="sparsity or N:M; default %(default)s")
    parser.add_argument("--sequences", type=int, default=8, help="calibration sequences per language")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--tokens", type=int, default=4096, help="evaluation tokens per language")
    parser.add_argument("--seeds", type=int, default=1)
    small = {"languages": ["de", "en"], "sequences": 2, "tokens": 2 * LENGTH, "length": LENGTH}
    with options_with_text(parser, words=600, **small) as options:
        recipes, tokenizer = variants(), AutoTokenizer.from_pretrained(options.model)
        growth: dict[str, list[float]] = {variant: [] for variant in recipes}
        for seed in range(options.seeds):
            calibration, evaluation = sampled(options, tokenizer, options.languages, seed)
            for variant, recipe in recipes.items():
                with tempfile.TemporaryDirectory() as folder:
                    result = prune_tokens(
                        options.model,
                        calibration,
                        evaluation,
                        Path(folder),
                        recipe=recipe,
                        target=parse_target(options.target, "sparsegpt"),
                    )
                nats = [
                    result.pruned[name].nats / result.pruned[name].tokens
                    - result.dense[name].nats / result.dense[name].tokens
                    for name in evaluation
                ]
                growth[variant].append(math.exp(sum(nats) / len(nats)))
        content = {}
        for variant, values in growth.items():
            layers = ratios.get(variant, [1.0])
            mean = math.exp(sum(map(math.log, layers)) / len(layers))
            content[variant] = {"growth": values, "layer_error": mean, "worst_layer_error": max(layers)}
            average = sum(values) / len(values)
            print(f"{variant:<44} growth {average:.4f}, layers' error ×{mean:.5f}, at most ×{max(layers):.5f}")
        path = options.output / f"rounding-{options.model.resolve().name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"target": options.target, **content}, indent=1) + "\n")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
