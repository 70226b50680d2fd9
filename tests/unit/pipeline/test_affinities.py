"""The affinity with the mix as a job measures it: in the first block of a real model, on real text."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.affinities import mean_squares, measure_affinities
from secateur_service.pipeline.batches import divide
from secateur_service.pruning.affinity import PARTS
from support.models import save_corpora, save_model
from support.passes import draw, samples_of
from support.shared import CORPORA, TRAINED_MODEL, needs_shared

LENGTH = 16


def streamed(folder):
    return StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)


def measured(folder, samples, mix):
    return measure_affinities(streamed(folder), *samples, mix, lambda: None)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_mean_squares_of_parts_are_those_of_the_whole_model_in_any_division(size, tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    text = samples_of(("de",), 5, LENGTH)["de"].tokens
    tokens = 4 * LENGTH + PARTS  # some windows, and a part of the next
    found = mean_squares(streamed(folder), divide({"de": text}, size), tokens, lambda: None, blocks=2)
    assert [len(inputs) for inputs in found] == [4, 4]
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, squares_PN in (("0.self_attn.q_proj", found[0][0]), ("1.mlp.down_proj", found[1][3])):
        seen = []
        whole.get_submodule(f"model.layers.{name}").register_forward_pre_hook(
            lambda _, args, to=seen: to.append(args[0])
        )
        with torch.no_grad():
            whole(input_ids=text)
        x_TN = seen[0].flatten(0, 1)[:tokens].double()
        assert torch.allclose(squares_PN, x_TN.reshape(PARTS, -1, x_TN.shape[1]).square().mean(1), rtol=1e-4)


def test_inputs_of_experts_are_left_out(tmp_path):
    model = streamed(save_model(tmp_path / "model", "mixtral"))
    batches = divide({"de": samples_of(("de",), 1, LENGTH)["de"].tokens}, 2)
    (inputs,) = mean_squares(model, batches, PARTS, lambda: None)
    assert len(inputs) == 2


def test_a_language_that_was_not_calibrated_is_poorly_covered_and_held_out_text_of_the_mix_is_not(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    samples = draw(folder, *save_corpora(tmp_path), {"uk": 1.0}, sequences=10)
    found = measured(folder, samples, {"uk": 1.0})
    assert found.tokens == 640
    assert set(found.poorly_covered) == {"de", "en"}
    assert measured(folder, samples, {"uk": 1.0}) == found


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize("mix", [{"de": 1.0}, {"de": 0.5, "en": 0.5}, {"de": 0.4, "en": 0.3, "uk": 0.3}])
def test_of_a_trained_model_all_languages_outside_the_mix_are_poorly_covered_and_no_other(mix):
    corpora = (CORPORA / "calibration", CORPORA / "evaluation")
    samples = draw(TRAINED_MODEL, *corpora, mix, sequences=8, length=256, evaluation_tokens=2048)
    assert set(measured(TRAINED_MODEL, samples, mix).poorly_covered) == {"de", "en", "uk"} - mix.keys()


def test_inputs_that_are_not_finite_are_left_to_the_pass_to_name(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] *= 1e30  # products of these are beyond float32
    weights["model.layers.0.mlp.gate_proj.weight"] *= 1e30
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    samples = samples_of(("de",), 2, LENGTH)
    assert measured(folder, (samples, samples), {"de": 1.0}) is None


def test_text_too_short_to_be_divided_is_not_measured(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    samples = samples_of(("de",), 1, PARTS - 1)
    assert measured(folder, (samples, samples), {"de": 1.0}) is None
