"""Raw figures of a job, to build reports from."""

import math
import statistics

from secateur_service.evaluation.continuations import Continuation, ContinuedLanguage
from secateur_service.evaluation.parts import (
    CalibrationLanguage,
    EvaluationLanguage,
    IntervalsPart,
    JobPart,
    ModelPart,
    OutputPart,
    TaskPart,
    WindowsPart,
)
from secateur_service.evaluation.perplexity import Losses
from secateur_service.evaluation.report import build_report
from secateur_service.pruning.methods import METHODS
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.blocks import LayerRecord as Layer

MIX = {"de": 0.5, "en": 0.3, "uk": 0.2}
RATIOS = {"de": 1.05, "en": 1.06, "es": 1.5, "uk": 1.04}


def Block(index, layers, snr_db=None):  # noqa: N802 - reads as the record that it makes
    return BlockRecord(index, f"block-{index}.safetensors", "ef" * 32, 1000, (), layers, snr_db or {}, 1.0)


def evaluation(
    language, ratio, *, tokens=5000, dense=8.0, pruned_tokens=None, in_mix=True, identified=None, error=None, **figures
):
    """The figures of a language; with the standard error of the logarithm of its growth, also their intervals."""
    nats = math.log(dense * ratio) * tokens
    if error is not None:
        figures["intervals"] = around(ratio, math.log(dense), error)
    return EvaluationLanguage.of(
        **figures,
        language=language,
        in_mix=in_mix,
        windows=40,
        dense=Losses(math.log(dense) * tokens, tokens, 2 * tokens),
        pruned=Losses(nats, pruned_tokens or tokens, 2 * tokens),
        rows_without_text=0,
        cut_texts=0,
        identified=identified,
    )


def around(ratio, loss, error):
    """Intervals of a language with a normally distributed growth."""
    ratios = tuple(ratio * math.exp(sign * 1.959964 * error) for sign in (-1, 1))
    return IntervalsPart(
        documents=100,
        dense_perplexity=(math.exp(loss), math.exp(loss)),
        pruned_perplexity=tuple(math.exp(loss) * each for each in ratios),
        perplexity_ratio=ratios,
        dense_bits_per_byte=(loss, loss),
        pruned_bits_per_byte=tuple(loss + math.log(each) for each in ratios),
        bits_per_byte_growth=tuple(math.log(each) / loss for each in ratios),
        kl_divergence=(0.1, 0.2),
        agreement=(0.7, 0.8),
    )


def task(name, before, after, *, language="de", metric="acc", **figures):
    """A task with answers that are right or wrong, unless `figures` say otherwise."""
    apart = [late - early for early, late in zip(before, after, strict=True)]
    found = {
        "task": name,
        "language": language,
        "metric": metric,
        "samples": len(before),
        "dense": statistics.fmean(before),
        "pruned": statistics.fmean(after),
        "dense_stderr": 0.03,
        "pruned_stderr": 0.03,
        "difference": statistics.fmean(apart),
        "difference_stderr": 0.02,
        "flips": statistics.fmean(map(abs, apart)),
        "higher_is_better": True,
    }
    return TaskPart(**found | figures)


def answered(name, *, items=100, lost=0, won=0, **figures):
    """A task of which both models have half of the other items right."""
    same = items - lost - won
    before = [1] * lost + [0] * won + [number % 2 for number in range(same)]
    return task(name, before, [0] * lost + [1] * won + before[lost + won :], **figures)


def continued(language="de", *texts, **figures):
    """A language with texts that both models continued, each as (prompt, dense, pruned)."""
    texts = texts or (("Es war", " einmal ein Wald", " einmal, einmal, einmal"),)
    found = {
        "language": language,
        "dense_repetition": 0.25,
        "pruned_repetition": 0.5,
        "dense_off_language": 0.0,
        "pruned_off_language": None,
        "dense_judged": len(texts),
        "pruned_judged": 0,
        "texts": tuple(Continuation(prompt=prompt, dense=dense, pruned=pruned) for prompt, dense, pruned in texts),
    }
    return ContinuedLanguage(**found | figures)


def calibration(language, weight=1.0, *, tokens=4096, dropped=None, identified=None):
    return CalibrationLanguage.of(
        language=language,
        weight=weight,
        documents=30,
        sequences=32,
        tokens=tokens,
        text_tokens=tokens,
        bytes=3 * tokens,
        unknown_tokens=0,
        digest="cd" * 32,
        dropped_texts=dropped,
        rows_without_text=0,
        cut_texts=0,
        identified=identified,
    )


def blocks(count=2, *, notes=()):
    return [
        Block(
            index,
            (
                Layer(f"model.layers.{index}.self_attn.q_proj.weight", (8, 16), 64),
                Layer(f"model.layers.{index}.mlp.down_proj.weight", (16, 32), 256, notes if index == 1 else ()),
            ),
            dict.fromkeys(RATIOS, 20.0 - index),
        )
        for index in range(count)
    ]


def make_report(
    *, ratios=None, mix=None, uri="file:///models/garden-llama", method="wanda", tokens=5000, mix_tokens=4096, **changes
):
    ratios, mix = RATIOS if ratios is None else ratios, MIX if mix is None else mix
    arguments = {
        "job": JobPart(id="job-1", secateur_version="0.1.0"),
        "model": ModelPart(
            uri=uri,
            digest="ab" * 32,
            model_type="llama",
            parameters=4000,
            blocks=2,
            size_bytes=8000,
            decoding_bytes=6000,
            cache_bytes=64,
            dtype="bfloat16",
        ),
        "output": OutputPart(parameters=4000, blocks=2, size_bytes=8000, decoding_bytes=6000, cache_bytes=64),
        "windows": WindowsPart(tokens=128, beginning=("<s>",), separator=("</s>", "<s>")),
        "spec": {
            "model": {"uri": uri},
            "calibration": {
                "languages": [{"language": name, "weight": weight} for name, weight in mix.items()],
                "samples": 96,
                "sequence_length": 128,
                "seed": 0,
            },
            "pruning": {
                "method": method,
                "update": METHODS[method].update,
                "sparsity": 0.5,
                "pattern": None,
                "order": "block",
            },
        },
        "calibration": [calibration(name, weight, tokens=mix_tokens) for name, weight in mix.items()],
        "evaluation": [
            evaluation(name, ratio, tokens=tokens, in_mix=mix.get(name, 0) > 0) for name, ratio in ratios.items()
        ],
        "blocks": blocks(),
        **changes,
    }
    return build_report(**arguments)


def kinds(report):
    return {(verdict.kind, verdict.language) for verdict in report.verdicts}
