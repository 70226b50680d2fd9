"""Raw figures of a job, to build reports from."""

import math
from dataclasses import dataclass, field

from secateur_service.evaluation.report import (
    CalibrationFigures,
    EvaluationFigures,
    ModelFigures,
    WindowFigures,
    build_report,
)
from secateur_service.pruning.methods import METHODS

MIX = {"de": 0.5, "en": 0.3, "uk": 0.2}
RATIOS = {"de": 1.05, "en": 1.06, "es": 1.5, "uk": 1.04}


@dataclass(frozen=True)
class Layer:
    name: str
    shape: tuple[int, int]
    zeros: int
    notes: tuple[str, ...] = ()
    snr_db: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    snr_tokens: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    index: int
    layers: tuple[Layer, ...]
    snr_db: dict[str, float] = field(default_factory=dict)


def evaluation(language, ratio, *, tokens=5000, dense=8.0):
    return EvaluationFigures(
        language,
        windows=40,
        tokens=tokens,
        bytes=2 * tokens,
        dense_nats=math.log(dense) * tokens,
        pruned_nats=math.log(dense * ratio) * tokens,
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
        "job_id": "job-1",
        "secateur_version": "0.1.0",
        "model": ModelFigures(uri, "ab" * 32, "llama", 4000, 2, "bfloat16"),
        "windows": WindowFigures(128, ("<s>",), ("</s>", "<s>")),
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
        "calibration": [
            CalibrationFigures(name, weight, 30, 32, mix_tokens, mix_tokens, 3 * mix_tokens, "cd" * 32)
            for name, weight in mix.items()
        ],
        "evaluation": [evaluation(name, ratio, tokens=tokens) for name, ratio in ratios.items()],
        "blocks": blocks(),
        **changes,
    }
    return build_report(**arguments)


def kinds(report):
    return {(verdict.kind, verdict.language) for verdict in report.verdicts}
