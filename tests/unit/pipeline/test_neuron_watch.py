"""What is measured in blocks of real models: active neurons, and the sizes of channels, however text is divided."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur_service.models.checkpoint import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.units import gate_of
from secateur_service.pipeline.affinities import mean_squares
from secateur_service.pipeline.batches import divide
from secateur_service.pipeline.neuron_watch import WEIGHTS, Watch
from secateur_service.pruning.affinity import PARTS
from support.models import save_model
from support.passes import samples_of

SEQUENCES, LENGTH = 5, 16


def streamed(folder):
    return StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)


def text(sequences=SEQUENCES):
    return {name: sample.tokens for name, sample in samples_of(("de", "uk"), sequences, LENGTH).items()}


def activations(folder, names, tokens):
    """Outputs or inputs of layers in the whole model: S×T×n by name, of the gates' outputs and the other's inputs."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, args, output, name=name: seen.update({name: (args[0].detach(), output.detach())})
        )
    with torch.no_grad():
        model(input_ids=tokens)
    return seen


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
        gated = activations(folder, [f"model.layers.0.{gate.linear}"], tokens)[f"model.layers.0.{gate.linear}"][1]
        active = gated[..., : gate.channels] > 0
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


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_mean_squares_of_parts_are_those_of_the_whole_model_in_any_division(size, tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    model = streamed(folder)
    tokens = 4 * LENGTH + PARTS  # some windows, and a part of the next
    found = mean_squares(model, divide({"de": text()["de"]}, size), tokens, lambda: None, blocks=2)
    assert [len(inputs) for inputs in found] == [4, 4]
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    seen = activations(folder, names, text()["de"])
    for name, squares_PN in zip(names, (found[0][0], found[1][3]), strict=True):
        x_TN = seen[name][0].flatten(0, 1)[:tokens].double()
        assert torch.allclose(squares_PN, x_TN.reshape(PARTS, -1, x_TN.shape[1]).square().mean(1), rtol=1e-4)


def test_inputs_of_experts_are_left_out_of_the_mean_squares(tmp_path):
    model = streamed(save_model(tmp_path / "model", "mixtral"))
    (inputs,) = mean_squares(model, divide({"de": text()["de"]}, 2), PARTS, lambda: None)
    assert len(inputs) == 2
