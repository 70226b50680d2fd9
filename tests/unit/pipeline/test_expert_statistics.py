"""Statistics of experts with unusual routing, against a loop over tokens and experts in float64."""

import math

import pytest
import torch

from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.stepwise import stepwise_forwards
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.statistics import InputStatistics
from support.models import build_model

LANGUAGES = {"de": 0.7, "uk": 0.3}
TOKENS, HIDDEN = 2 * 40, 64


def silu(value):
    return value / (1 + torch.exp(-value))


def sigmoid(value):
    return 1 / (1 + torch.exp(-value))


def best(scores, count):
    return sorted(range(len(scores)), key=lambda place: -scores[place])[:count]


class DeepseekV3:
    """Groups of experts by their two best scores, with a correction that counts for the choice only."""

    block, moe, experts = 1, "mlp", 8

    def __init__(self, moe):
        self.weight, self.correction = (moe.gate.weight.double(), moe.gate.e_score_correction_bias.double())
        self.fused, self.down = moe.experts.gate_up_proj.double(), moe.experts.down_proj.double()

    def seen(self, token):
        scores = [float(sigmoid(row @ token)) for row in self.weight]
        chances = [score + float(bias) for score, bias in zip(scores, self.correction, strict=True)]
        groups = [chances[start : start + 2] for start in range(0, 8, 2)]
        allowed = best([sum(sorted(group)[-2:]) for group in groups], 2)
        open_chances = [chance if place // 2 in allowed else -math.inf for place, chance in enumerate(chances)]
        for expert in best(open_chances, 3):
            gate, up = self.fused[expert][:24] @ token, self.fused[expert][24:] @ token
            yield expert, token, silu(gate) * up


class GptOss:
    """A router with a bias, experts with biases, clamped, with gate and up rows that alternate."""

    block, moe, experts = 0, "mlp", 4

    def __init__(self, moe):
        self.weight, self.bias = moe.router.weight.double(), moe.router.bias.double()
        self.fused, self.fused_bias = moe.experts.gate_up_proj.double(), moe.experts.gate_up_proj_bias.double()

    def seen(self, token):
        for expert in best([float(row @ token + bias) for row, bias in zip(self.weight, self.bias, strict=True)], 2):
            both = token @ self.fused[expert] + self.fused_bias[expert]
            gate, up = both[::2].clamp(max=1.0), both[1::2].clamp(-1.0, 1.0)
            yield expert, token, (up + 1) * gate * sigmoid(1.702 * gate)


class Llama4:
    """Experts that see tokens scaled by the router."""

    block, moe, experts = 0, "feed_forward", 4

    def __init__(self, moe):
        self.weight, self.fused = moe.router.weight.double(), moe.experts.gate_up_proj.double()

    def seen(self, token):
        logits = [float(row @ token) for row in self.weight]
        for expert in best(logits, 2):
            scaled = token * sigmoid(torch.tensor(logits[expert], dtype=torch.float64))
            gate, up = scaled @ self.fused[expert][:, :48], scaled @ self.fused[expert][:, 48:]
            yield expert, scaled, silu(gate) * up


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "family"), [("deepseek_v3", DeepseekV3), ("gpt_oss", GptOss), ("llama4_text", Llama4)]
)
def test_moments_and_counts_of_every_expert_are_those_of_its_tokens(name, family, tmp_path):
    whole = build_model(name)
    whole.config._experts_implementation = "eager"
    whole.save_pretrained(tmp_path)
    random = torch.Generator().manual_seed(0)
    states = {language: torch.randn(2, 40, HIDDEN, generator=random) for language in LANGUAGES}

    # What the service gathers, while the block runs.
    model = StreamedModel(open_checkpoint(tmp_path), torch.device("cpu"), torch.float32)
    model.embed([torch.zeros(2, 40, dtype=torch.long)])
    groups = model.checkpoint.inputs(family.block)
    tokens = dict.fromkeys(LANGUAGES, TOKENS)
    with model.block(family.block) as block:
        linears = model.linears(block, family.block)
        gathered = [
            InputStatistics(
                linears[group[0]].in_features,
                LANGUAGES,
                tokens,
                torch.device("cpu"),
                moments=Moments.BY_LANGUAGE,
                is_expert=model.checkpoint.expert_of(group[0]) is not None,
            )
            for group in groups
        ]
        for language, batch in states.items():
            run = lambda batch=batch: model.run_block(block, family.block, batch)  # noqa: E731
            with stepwise_forwards([run], groups, linears) as (forward,):
                for statistics in gathered:
                    statistics.update(forward.advance(), language)

    # What the mixture of transformers' own block is given, and the loop.
    layer = whole.double().model.layers[family.block]
    moe, arguments, given = layer.get_submodule(family.moe), {}, []
    layer.register_forward_pre_hook(lambda *args: arguments.update(args[2]), with_kwargs=True)
    whole.model(input_ids=torch.zeros(2, 40, dtype=torch.long), use_cache=False)
    moe.register_forward_pre_hook(lambda _, args: given.append(args[0].flatten(0, 1)))
    for batch in states.values():
        layer(batch.double(), **arguments)
    inputs = dict(zip(states, given, strict=True))
    plain = family(moe)
    found = {
        (expert, kind, language): []
        for expert in range(plain.experts)
        for kind in ("in", "out")
        for language in LANGUAGES
    }
    for language in LANGUAGES:
        for token in inputs[language]:
            for expert, outer, inner in plain.seen(token):
                found[expert, "in", language].append(outer)
                found[expert, "out", language].append(inner)

    counts = set()
    for group, statistics in zip(groups, gathered, strict=True):
        expert = model.checkpoint.expert_of(group[0])
        if expert is None:
            assert set(statistics.seen.values()) == {TOKENS}
            continue
        kind = "out" if group[0].endswith("down_proj") else "in"
        for language in LANGUAGES:
            rows = found[expert, kind, language]
            assert statistics.seen[language] == len(rows)
            counts.add(len(rows))
            expected = torch.stack(rows)
            squares = statistics.language_mean_squares()[language] * TOKENS
            gram = statistics.language_gram(language).double() * TOKENS
            torch.testing.assert_close(squares, expected.square().sum(0), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(gram, expected.T @ expected, rtol=1e-4, atol=1e-5)
    assert len(counts) > plain.experts, "the routing is hardly uneven"
