import json
import random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from secateur_service.models.companions import take_companions
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.package import Package
from secateur_service.pruning.patterns import Unstructured
from secateur_service.spec import parse_spec
from support.models import save_corpora, save_model, spec_data
from support.passes import MIX, draw, prune


def test_a_model_whose_own_code_is_left_behind_does_not_point_at_it(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": code}))
    (folder / "modeling_llama.py").write_text("raise SystemExit('ran')\n")
    package = packaged(tmp_path, folder)
    published = json.loads((package.checkpoint / "config.json").read_text())
    assert published.keys() - config.keys() == {"secateur"}
    assert not list(package.checkpoint.glob("*.py"))
    AutoModelForCausalLM.from_pretrained(package.checkpoint, trust_remote_code=True)


def test_a_result_needs_no_kernels_that_its_source_chose(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    part = {"hidden_size": 1}
    chosen = {"_attn_implementation": "flash_attention_2", "experts_implementation": "megablocks"}
    (folder / "config.json").write_text(json.dumps({**config, **chosen, "a_config": {**part, **chosen}}))
    published = json.loads((packaged(tmp_path, folder).checkpoint / "config.json").read_text())
    published.pop("secateur")
    assert json.dumps(published) == json.dumps({**config, "a_config": part})


def packaged(tmp_path, folder):
    """The package of a pruned model."""
    corpora = save_corpora(tmp_path)
    package = Package(tmp_path / "work")
    result = prune(folder, draw(folder, *corpora, MIX), MIX, "wanda", Unstructured(0.5), package.checkpoint)
    names = [path.name for path in folder.iterdir()]
    checkpoint = open_checkpoint(folder)
    companions = take_companions(folder, names, tmp_path / "companions", checkpoint.config)
    package.add_checkpoint(
        checkpoint, result.blocks, parse_spec(spec_data(folder, *corpora)), TensorReader(), companions
    )
    return package


def transformers_and_vllm(folder):
    """The files that the index names."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return {folder / name for name in index["weight_map"].values()}


def mlx_lm(folder):
    """mlx_lm.utils.load_model."""
    return set(folder.glob("model*.safetensors"))


def llama_cpp(folder):
    """ModelBase.get_model_part_names of convert_hf_to_gguf.py."""
    return {path for path in folder.iterdir() if path.name.startswith("model") and path.name.endswith(".safetensors")}


def everything(folder):
    """Of who looks for every file of the format."""
    return set(folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_moe", "bloom"])
def test_whoever_looks_for_weights_finds_every_tensor_once(name, tmp_path):
    folder = save_model(tmp_path / "model", name)
    published = packaged(tmp_path, folder).checkpoint
    expected = load_file(folder / "model.safetensors")
    for finds in (transformers_and_vllm, mlx_lm, llama_cpp, everything):
        shards = [load_file(path) for path in finds(published)]
        assert len(shards) == 4  # a block each, and the rest
        assert sum(map(len, shards)) == len(expected), finds.__name__
        assert set().union(*shards) == expected.keys(), finds.__name__


def test_neither_the_names_nor_the_order_of_shards_matter_to_transformers(tmp_path):
    published = packaged(tmp_path, save_model(tmp_path / "model", "llama")).checkpoint
    as_written = AutoModelForCausalLM.from_pretrained(published).state_dict()
    path = published / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    entries = list(index["weight_map"].items())
    for seed in range(3):
        random.Random(seed).shuffle(entries)
        path.write_text(json.dumps({**index, "weight_map": dict(entries)}))
        loaded = AutoModelForCausalLM.from_pretrained(published).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in as_written.items())
