"""Multimodal models: the text model is pruned in place, and everything else is copied."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.models.architectures import WRAPPERS
from secateur_service.models.checkpoint import open_checkpoint
from secateur_service.models.measurements import TokenLosses
from secateur_service.models.streaming import StreamedModel
from support.configurations.wrappers import CONFIGS
from support.inline import run_inline
from support.models import save_corpora, spec_data

IMAGE = 259
IMAGE_TOKENS = {"aya_vision": 1, "gemma3": 4, "llava": 4, "mistral3": 4, "qwen2_5_vl": 1, "qwen3_vl": 1}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return save_corpora(tmp_path_factory.mktemp("corpora"))


def save_wrapper(folder, kind, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**copy.deepcopy(CONFIGS[kind]), **changes})
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15) if parameter.dim() >= 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    save_byte_tokenizer(folder, max_length=256)
    return model


def load(folder):
    model, found = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(found[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def tensors_of(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def losses_of(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


def streamed_losses(folder, ids):
    streamed = StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    states = streamed.embed([ids])
    for index in range(streamed.num_blocks):
        with streamed.block(index) as block:
            states = [streamed.run_block(block, index, state) for state in states]
    losses = TokenLosses(states, [ids])
    streamed.head.measure([losses])
    return losses.losses()[0].float().flatten()


@torch.no_grad()
def see(model, kind):
    """Logits of a text with an image in it."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[5, 6, *[IMAGE] * IMAGE_TOKENS[kind], 7, 8, 9]])
    if "qwen" in kind:
        grid = torch.tensor([[1, 2, 2]])
        pixels = torch.randn(4, 3 * 2 * 14 * 14, generator=generator)
        kinds = (ids == IMAGE).int()
        return model(input_ids=ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=kinds).logits
    size = CONFIGS[kind]["vision_config"]["image_size"]
    sizes = {"image_sizes": torch.tensor([[size, size]])} if kind == "mistral3" else {}
    return model(input_ids=ids, pixel_values=torch.randn(1, 3, size, size, generator=generator), **sizes).logits


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_text_model_is_pruned_in_place_and_all_else_is_copied(kind, corpora, tmp_path):
    whole = save_wrapper(tmp_path / "model", kind)
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    data = spec_data(tmp_path / "model", *corpora)
    data["evaluation"]["continuations"] = 1
    outcome, _ = run_inline(data, tmp_path / "out")
    assert outcome.result.sparsity == pytest.approx(0.5, abs=0.01)
    result = tmp_path / "out" / "checkpoint"

    # The output is a model of the same class, with the same files, settings and names.
    pruned = load(result)
    assert type(pruned) is type(whole)
    config, published = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "model", result))
    assert {key: value for key, value in published.items() if key != "secateur"} == config
    assert (result / "preprocessor_config.json").read_text() == '{"image_mean": [0.5]}'

    # Exactly the matrices of the text model's blocks have changed.
    before, after = tensors_of(tmp_path / "model"), tensors_of(result)
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    blocks = [name for name in before if ".layers." in name and "vision" not in name and before[name].dim() == 2]
    assert changed == set(blocks)
    assert all((after[name] == 0).sum() == after[name].numel() // 2 for name in blocks)

    # Both models predict text as they do by themselves, and images can still be seen.
    ids = torch.randint(2, 250, (2, 48), generator=torch.Generator().manual_seed(0))
    for folder, model in ((tmp_path / "model", whole), (result, pruned)):
        torch.testing.assert_close(streamed_losses(folder, ids), losses_of(model, ids), rtol=1e-4, atol=1e-4)
    seen = see(pruned, kind)
    assert seen.shape == see(whole, kind).shape
    assert seen.isfinite().all()
    assert not torch.equal(seen, see(whole, kind))
