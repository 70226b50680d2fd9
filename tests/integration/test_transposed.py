"""GPT-2 as it was published: matrices of inputs × outputs, names without the model's, and a mask in every block."""

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from support.inline import run_inline
from support.models import save_corpora, save_model, spec_data

MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def publish(folder):
    """Store a saved model as early versions of transformers did."""
    path = folder / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    for index in range(3):
        tensors[f"h.{index}.attn.bias"] = torch.ones(256, 256).tril().bool()[None, None]
        tensors[f"h.{index}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, path, metadata={"format": "pt"})
    return {name: tensor for name, tensor in tensors.items() if not name.endswith((".attn.bias", ".masked_bias"))}


def test_groups_of_a_pattern_lie_along_the_inputs_and_nothing_else_changes(tmp_path):
    model = save_model(tmp_path / "model", "gpt2", dtype=torch.float16)
    stored = publish(model)
    data = spec_data(model, *save_corpora(tmp_path), method="sparsegpt", pattern="2:4")
    outcome, _ = run_inline(data, tmp_path / "out")
    assert outcome.result.sparsity == 0.5
    result = tmp_path / "out" / "checkpoint"
    written = {name: tensor for path in result.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert written.keys() == stored.keys()
    for name, tensor in stored.items():
        if name.endswith(MATRICES):
            groups = written[name].T.reshape(-1, 4)
            assert written[name].shape == tensor.shape
            assert ((groups == 0).sum(1) == 2).all()
        else:
            assert torch.equal(written[name].view(torch.uint8), tensor.view(torch.uint8)), name
    loaded, found = AutoModelForCausalLM.from_pretrained(result, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert torch.equal(loaded.transformer.h[2].mlp.c_fc.weight, written["h.2.mlp.c_fc.weight"])
