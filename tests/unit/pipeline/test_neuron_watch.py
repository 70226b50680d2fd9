"""Active neurons are counted as the whole model has them, however the text is divided into batches."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.units import gate_of
from secateur_service.pipeline.batches import divide
from secateur_service.pipeline.neuron_watch import WEIGHTS, Watch
from support.models import save_model
from support.passes import samples_of

SEQUENCES, LENGTH = 5, 16


def streamed(folder):
    return StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)


def text(sequences=SEQUENCES):
    return {name: sample.tokens for name, sample in samples_of(("de", "uk"), sequences, LENGTH).items()}


def outputs(folder, name, tokens):
    """What a layer of the whole model makes of the tokens, S×T×n."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen = []
    model.get_submodule(name).register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(input_ids=tokens)
    return seen[0]


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_active_neurons_of_both_halves_are_counted_in_any_division_into_batches(name, size, tmp_path):
    folder = save_model(tmp_path / "model", name)
    model = streamed(folder)
    batches = divide(text(), size)
    watch = Watch(model.checkpoint, batches, weighs=True)
    states = model.embed([batch.tokens for batch in batches])
    with model.block(0) as block, watch.counting(block, 0):
        for batch in states:
            model.run_block(block, 0, batch)
        model.run_block(block, 0, states[0])  # a request of a task
    gate = gate_of(model.checkpoint, 0)
    assert watch.tokens["de"] == (3 * LENGTH, 2 * LENGTH)
    for language, tokens in text().items():
        active = outputs(folder, f"model.layers.0.{gate.linear}", tokens)[..., : gate.channels] > 0
        expected = torch.stack([active[:3].sum((0, 1)), active[3:].sum((0, 1))])
        assert (watch.counted[0][language] - expected).abs().sum() <= 2  # an output next to zero, summed in other order
    nonzero, total = watch.counted[0][WEIGHTS]
    assert torch.equal(nonzero, total)
    assert set(total.tolist()) == {3 * 64}


@pytest.mark.parametrize("name", ["opt", "falcon", "bloom", "gpt_neox", "mixtral", "qwen3_moe"])
def test_layers_without_a_gate_or_of_experts_are_left_out(name, tmp_path):
    model = streamed(save_model(tmp_path / "model", name))
    assert all(gate_of(model.checkpoint, index) is None for index in range(model.num_blocks))
    watch = Watch(model.checkpoint, divide(text(), 2), weighs=True)
    with model.block(0) as block, watch.counting(block, 0):
        pass
    assert watch.counted == {}
