"""What a model expects of a language's text: the mean of its predictions, whatever the slices."""

import pytest
import torch

from secateur_service.models import head
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline import expected_tokens as module
from secateur_service.pipeline.expected_tokens import expected_tokens
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import RecordingObserver
from support.configurations import marked
from support.models import CONFIGS, build_model
from support.passes import samples_of


def streamed(folder):
    return StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", marked(CONFIGS))
def test_it_is_the_mean_of_what_transformers_predicts(name, tmp_path, monkeypatch):
    model = build_model(name)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(head, "HEAD_SLICE_BYTES", {"cpu": 64 * 4 * 70})  # 70 rows
    monkeypatch.setattr(head, "LOGITS_SLICE_BYTES", {"cpu": 70 * 4 * 11})  # 11 tokens
    text = samples_of(["de", "uk"], 3, 32)
    observer = RecordingObserver()
    found = expected_tokens(streamed(tmp_path), text, ["de", "uk"], Meter(observer, 3))
    for language, shares in found.items():
        with torch.no_grad():
            logits = model(input_ids=text[language].tokens, use_cache=False).logits
        expected = logits.double().softmax(-1).flatten(0, 1).mean(0)
        torch.testing.assert_close(torch.tensor(shares, dtype=torch.float64), expected, rtol=1e-4, atol=1e-8)
        assert sum(shares) == pytest.approx(1)
    assert observer.history[-1].fraction > 0.99


def test_long_text_is_read_in_part(tmp_path, monkeypatch):
    build_model("llama").save_pretrained(tmp_path)
    monkeypatch.setattr(module, "EXPECTED_OVER_TOKENS", 64)
    text = samples_of(["de"], 8, 32)
    part = {"de": text["de"].__class__(**{**vars(text["de"]), "tokens": text["de"].tokens[:2]})}
    meters = [Meter(RecordingObserver(), 3) for _ in range(2)]
    found = [
        expected_tokens(streamed(tmp_path), each, ["de"], meter)
        for each, meter in zip((text, part), meters, strict=True)
    ]
    assert found[0] == found[1]
