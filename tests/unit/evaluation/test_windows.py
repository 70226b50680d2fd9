"""Whether a model makes use of the context that windows give it."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur_service.evaluation.perplexity import Losses
from secateur_service.evaluation.scoring import Scored
from secateur_service.evaluation.verdicts import CONTEXT_FACTOR
from secateur_service.evaluation.windows import context_of, lengths
from support.reports import make_report
from support.shared import CORPORA, TRAINED_MODEL, needs_shared


def losses(nats_NS: torch.Tensor) -> Losses:
    """Of windows in which every token stands for text."""
    shape = len(nats_NS), nats_NS.shape[1] + 1
    return Scored(torch.ones(shape).long(), torch.ones(shape).bool()).losses([nats_NS])


def drawn(windows, length, seed, *, late=0.0):
    """Losses of windows whose text differs, `late` nats dearer in the second half."""
    draw = torch.Generator().manual_seed(seed)
    of_text = torch.randn(windows, 1, generator=draw, dtype=torch.float64)
    nats = 4 + of_text + torch.rand(windows, length - 1, generator=draw, dtype=torch.float64)
    nats[:, length // 2 - 1 :] += late
    return nats


def test_windows_are_halved_down_to_32_tokens():
    assert lengths(256) == [256, 128, 64, 32]
    assert lengths(100) == [100, 50]
    assert lengths(31) == []


def test_the_beginnings_of_windows_are_windows_of_their_length():
    nats = drawn(5, 128, 0)
    context = context_of({"de": losses(nats)}, 128)
    assert context.lengths == (128, 64, 32)
    for length, found in zip(context.lengths, context.languages["de"].perplexity, strict=True):
        alone = losses(nats[:, : length - 1])
        assert found == pytest.approx(math.exp(alone.nats / alone.tokens))
    de = context.languages["de"]
    assert de.first_half == de.perplexity[1]
    assert math.log(de.second_half) == pytest.approx(float(nats[:, 63:].mean()))
    assert context.growth == pytest.approx(de.second_half / de.first_half)


def test_halves_are_compared_within_windows_and_over_languages():
    found = {
        name: losses(drawn(12, 64, seed, late=late)) for seed, (name, late) in enumerate({"de": 0.3, "uk": 0.1}.items())
    }
    context = context_of(found, 64)
    assert math.log(context.growth) == pytest.approx(0.2, abs=0.05)
    low, high = context.interval
    assert 1 < low < context.growth < high < 1.5  # although windows differ by a whole nat


def test_what_is_not_scored_has_no_part_in_it():
    is_text = torch.ones(6, 64).bool()
    is_text[:, 40:50] = False
    dear = drawn(6, 64, 0)
    dear[:, 39:49] = 90.0
    whole = Scored(torch.ones(6, 64).long(), is_text)
    cheap = dear.clone()
    cheap[:, 39:49] = 0.0
    assert context_of({"de": whole.losses([dear])}, 64) == context_of({"de": whole.losses(cheap.split(2))}, 64)


def test_too_few_or_too_short_windows_say_nothing():
    assert context_of({"de": losses(drawn(9, 40, 0))}, 40) is None
    assert context_of({"de": losses(drawn(3, 64, 0))}, 64).interval is None
    assert context_of({}, 64) is None


def test_the_rate_of_false_alarms_is_that_of_the_level():
    """A model that has no use for context, which is the worst that does not deserve the verdict."""
    wrong = 0
    for seed in range(400):
        context = context_of({"de": losses(drawn(8, 64, seed))}, 64)
        wrong += context.interval[0] > 1
    assert 0 < wrong <= 400 * 0.05


def verdict(late, **changes):
    context = context_of({"de": losses(drawn(16, 512, 0, late=late)), "uk": losses(drawn(16, 512, 1, late=late))}, 512)
    return [each for each in make_report(context=context, **changes).verdicts if each.kind == "WINDOWS_TOO_LONG"]


def test_windows_longer_than_the_model_can_use_are_pointed_out_with_the_length_that_will_do():
    (found,) = verdict(0.4)
    assert "in the second half of their 512 tokens is ×1.49" in found.message
    assert "Set calibration.sequence_length to 256" in found.message
    assert "falls from 88.44 to 72.49 (de), from 113.3 to" in found.message
    assert "config.json" not in found.message
    assert found.language is None
    assert found.evidence.interval[0] > 1
    model = make_report().model.model_copy(update={"max_positions": 2048})
    assert "although its config.json allows 2,048 positions" in verdict(0.4, model=model)[0].message


@pytest.mark.parametrize("late", [0.0, -0.4])
def test_windows_that_the_model_can_use_are_not(late):
    assert verdict(late) == []


@needs_shared
def test_a_trained_model_is_found_to_be_used_beyond_its_training_length():
    tokenizer = AutoTokenizer.from_pretrained(TRAINED_MODEL)
    model = AutoModelForCausalLM.from_pretrained(TRAINED_MODEL, dtype=torch.float32)
    ids = tokenizer((CORPORA / "evaluation" / "uk.txt").read_text(encoding="utf-8"), verbose=False)["input_ids"]

    def found(length):
        windows = torch.tensor(ids[: 4096 // length * length]).view(-1, length)
        with torch.inference_mode():
            logits = model(windows).logits[:, :-1].double()
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none")
        return context_of({"uk": losses(nats)}, length)

    far = found(1024)
    assert far.interval[0] > 1.5
    assert far.sensible_length <= 256  # what it was trained on, and config.json says 2,048
    near = found(256)
    assert near.growth < CONTEXT_FACTOR or near.interval[0] <= 1


def test_the_headline_begins_with_what_makes_its_figures_doubtful():
    context = context_of({"de": losses(drawn(16, 512, 0, late=0.4)), "uk": losses(drawn(16, 512, 1, late=0.4))}, 512)
    doubted = make_report(context=context).headline
    assert doubted.reservation.startswith(
        "These figures say little of what was lost: the dense model is worse in windows"
    )
    assert make_report().headline.reservation is None
