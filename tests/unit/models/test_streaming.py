"""Each architecture, streamed a block at a time, against the whole model in memory."""

import json

import pytest
import torch

from secateur_service.models.checkpoint import ModelRefusedError, open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.collect import StatisticsCollector
from support.models import CONFIGS, build_model


def streamed(folder):
    return StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)


def losses_in_memory(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


def losses_streamed(model, batches):
    states = model.embed(batches)
    for index in range(model.num_blocks):
        with model.block(index) as block:
            states = [model.run_block(block, index, batch) for batch in states]
    return model.token_losses([states], batches)[0]


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("max_shard_size", ["50GB", "100KB"])
def test_losses_equal_those_of_the_whole_model(model_type, max_shard_size, tmp_path):
    model = build_model(model_type)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    ids = torch.randint(0, 250, (5, 48), generator=torch.Generator().manual_seed(1))
    expected = losses_in_memory(model, ids)
    got = losses_streamed(streamed(tmp_path), [ids[:2], ids[2:4], ids[4:]])  # the last batch is ragged
    torch.testing.assert_close(torch.cat(got).float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_head_in_slices_of_the_vocabulary_equals_the_whole_head(model_type, tmp_path, monkeypatch):
    from secateur_service.models import streaming

    model = build_model(model_type)
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 250, (2, 32), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(streaming, "_HEAD_SLICE_BYTES", 64 * 4 * 70)  # 70 rows
    monkeypatch.setattr(streaming, "_LOGITS_SLICE_BYTES", 70 * 4 * 11)  # 11 tokens
    got = losses_streamed(streamed(tmp_path), [ids])
    torch.testing.assert_close(got[0].float(), losses_in_memory(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_layers_listed_together_share_their_input_and_are_all_matrices_of_a_block(model_type, tmp_path):
    build_model(model_type).save_pretrained(tmp_path)
    model = streamed(tmp_path)
    groups = model.checkpoint.architecture.inputs
    ids = torch.randint(0, 250, (2, 32))
    (states,) = model.embed([ids])
    with model.block(0) as block:
        linears = model.linears(block)
        seen = []
        handles = [
            layer.register_forward_pre_hook(lambda _, args, name=name: seen.append((name, args[0])))
            for name, layer in linears.items()
        ]
        collector = StatisticsCollector(groups, linears, {"de": 1.0}, {"de": 64}, with_gram=False)
        with collector.attached():
            collector.run(lambda: model.run_block(block, 0, states), "de")
        for handle in handles:
            handle.remove()
        expected = {name for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
    # The pass stopped at the last group, whose layers were the last to be reached.
    assert [name for name, _ in seen][-1] == groups[-1][0]
    assert set(linears) == expected
    inputs = dict(seen)
    for group, statistics in zip(groups, collector.statistics, strict=True):
        squares = inputs[group[0]].double().square().sum((0, 1))
        torch.testing.assert_close(statistics.square_sums["de"], squares, rtol=1e-5, atol=1e-7)


def test_bloom_without_the_base_prefix_is_read_as_the_hub_stores_it(tmp_path):
    from safetensors.torch import load_file, save_file

    model = build_model("bloom")
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    stripped = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    save_file(stripped, path)
    ids = torch.randint(0, 250, (2, 32))
    got = losses_streamed(streamed(tmp_path), [ids])
    torch.testing.assert_close(got[0].float(), losses_in_memory(model, ids), rtol=1e-4, atol=1e-4)


def test_a_block_gives_its_memory_back(tmp_path):
    build_model("llama").save_pretrained(tmp_path)
    model = streamed(tmp_path)
    with model.block(1) as block:
        assert all(parameter.device.type == "cpu" for parameter in block.parameters())
    assert all(parameter.device.type == "meta" for parameter in block.parameters())


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = build_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.inf
    model.save_pretrained(tmp_path)
    loaded = streamed(tmp_path)
    with pytest.raises(FloatingPointError, match=r"layers\.1\.mlp\.up_proj"), loaded.block(1):
        pass


def test_tokens_beyond_the_embedding_are_refused(tmp_path):
    build_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="do not belong together"):
        streamed(tmp_path).embed([torch.tensor([[1, 260]])])


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "abc"},
        {"hidden_size": 128},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"rope_parameters": 5},
        {"hidden_act": "unheard_of"},
        {"pad_token_id": 10**7},
        {"vocab_size": 10**9},
    ],
)
def test_configurations_that_contradict_the_tensors_or_themselves_refuse_the_model(tmp_path, changes):
    build_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelRefusedError, match=r"config\.json"):
        streamed(tmp_path)


def test_a_stored_choice_of_attention_is_not_followed(tmp_path):
    build_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    foreign = {"attn_implementation": "someone/kernels-on-a-hub", "_attn_implementation": "flash_attention_2"}
    (tmp_path / "config.json").write_text(json.dumps({**config, **foreign}))
    ids = torch.randint(0, 250, (1, 16), generator=torch.Generator().manual_seed(1))
    got = losses_streamed(streamed(tmp_path), [ids])
    torch.testing.assert_close(got[0].float(), losses_in_memory(build_model("llama"), ids), rtol=1e-4, atol=1e-4)


def test_the_digest_of_a_model_does_not_depend_on_its_division_into_files(tmp_path):
    digests = set()
    for size in ("50GB", "50KB"):
        build_model("llama").save_pretrained(tmp_path / size, max_shard_size=size)
        digests.add(streamed(tmp_path / size).digest())
    build_model("llama", seed=1).save_pretrained(tmp_path / "other")
    assert len(digests) == 1
    assert streamed(tmp_path / "other").digest() not in digests
