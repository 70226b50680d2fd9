"""Each architecture, streamed a block at a time, against the whole model in memory."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.measurements import Comparison, TokenLosses
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.safetensors import write_shard
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from support.configurations import marked
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
    losses = TokenLosses(states, batches)
    model.head.measure([losses])
    return losses.losses()


@pytest.mark.parametrize("name", marked(CONFIGS))
@pytest.mark.parametrize("max_shard_size", ["50GB", "100KB"])
def test_losses_equal_those_of_the_whole_model(name, max_shard_size, tmp_path):
    model = build_model(name)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    ids = torch.randint(0, 250, (5, 48), generator=torch.Generator().manual_seed(1))
    expected = losses_in_memory(model, ids)
    got = losses_streamed(streamed(tmp_path), [ids[:2], ids[2:4], ids[4:]])  # the last batch is ragged
    torch.testing.assert_close(torch.cat(got).float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", marked(CONFIGS))
def test_the_head_in_slices_of_the_vocabulary_equals_the_whole_head(name, tmp_path, monkeypatch):
    from secateur_service.models import head

    model = build_model(name)
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 250, (2, 32), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(head, "HEAD_SLICE_BYTES", {"cpu": 64 * 4 * 70})  # 70 rows
    monkeypatch.setattr(head, "LOGITS_SLICE_BYTES", {"cpu": 70 * 4 * 11})  # 11 tokens
    got = losses_streamed(streamed(tmp_path), [ids])
    torch.testing.assert_close(got[0].float(), losses_in_memory(model, ids), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def predictions(model, states):
    """Log-probabilities after the last block, in float64."""
    logits = model.lm_head(model.model.norm(states)).double().flatten(0, 1)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return torch.log_softmax(cap * torch.tanh(logits / cap) if cap else logits, -1)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_two_models_are_compared_as_their_whole_predictions_are(name, tmp_path, monkeypatch):
    from secateur_service.models import head

    model = build_model(name)
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 250, (3, 32), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(head, "HEAD_SLICE_BYTES", {"cpu": 64 * 4 * 70})  # 70 rows
    monkeypatch.setattr(head, "LOGITS_SLICE_BYTES", {"cpu": 70 * 4 * 11})  # 11 tokens
    opened, batches = streamed(tmp_path), [ids[:2], ids[2:]]
    draw = torch.Generator().manual_seed(2)
    first = [torch.randn(states.shape, generator=draw) for states in opened.embed(batches)]
    second = [states + 0.3 * torch.randn(states.shape, generator=draw) for states in first]
    dense, pruned = (predictions(model, torch.cat(copy)[:, :-1]) for copy in (first, second))
    comparison = Comparison([*first], [*second], batches)
    opened.head.measure([comparison])
    found = comparison.compared()
    targets = ids[:, 1:].reshape(-1, 1)
    for got, expected in (
        ([each.dense for each in found], -dense.gather(1, targets)[:, 0]),
        ([each.pruned for each in found], -pruned.gather(1, targets)[:, 0]),
        ([each.divergence for each in found], (dense.exp() * (dense - pruned)).sum(-1)),
    ):
        torch.testing.assert_close(torch.cat(got).view(-1), expected, rtol=1e-4, atol=2e-5)
    agrees = torch.cat([each.agrees for each in found]).view(-1)
    assert torch.equal(agrees, dense.argmax(-1) == pruned.argmax(-1))
    assert 0 < agrees.sum() < len(agrees)


def inputs_seen(linears):
    """The first input that each layer will see, in order; held, so that no two share an identity by chance."""
    inputs = {}
    for path, layer in linears.items():
        layer.register_forward_pre_hook(lambda _, args, path=path: inputs.setdefault(path, args[0]))
    return inputs


@pytest.mark.parametrize("name", marked(CONFIGS))
def test_the_layers_listed_together_share_their_input_and_are_all_matrices_of_a_block(name, tmp_path):
    build_model(name).save_pretrained(tmp_path)
    model = streamed(tmp_path)
    (states,) = model.embed([torch.randint(0, 250, (2, 32), generator=torch.Generator().manual_seed(1))])
    for index in range(model.num_blocks):
        groups = model.checkpoint.inputs(index)
        with model.block(index) as block:
            linears = model.linears(block, index)
            matrices = {path for path, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
            at = f"{model.checkpoint.block_path(index)}."
            names = {path: model.checkpoint.stored_name(f"{at}{path}.weight") for path in matrices - set(linears)}
            assert {name.removeprefix(at) for name in names.values()} <= {*model.checkpoint.architecture.excluded}
            inputs = inputs_seen(linears)
            states = model.run_block(block, index, states)
        assert inputs.keys() == linears.keys()
        assert [path for path in inputs if path in {group[0] for group in groups}] == [group[0] for group in groups]
        for group in groups:
            assert {path for path, seen in inputs.items() if seen is inputs[group[0]]} == set(group)


@pytest.mark.parametrize("name", ["bloom", "opt", "gpt_neox", "mixtral"])
def test_a_checkpoint_without_the_base_prefix_is_read_as_the_hub_stores_some(name, tmp_path):
    model = build_model(name)
    model.save_pretrained(tmp_path)
    path, prefix = tmp_path / "model.safetensors", f"{model.base_model_prefix}."
    stripped = {key.removeprefix(prefix): tensor for key, tensor in load_file(path).items()}
    assert not any(key.startswith(prefix) for key in stripped)
    save_file(stripped, path)
    ids = torch.randint(0, 250, (2, 32))
    got = losses_streamed(streamed(tmp_path), [ids])
    torch.testing.assert_close(got[0].float(), losses_in_memory(model, ids), rtol=1e-4, atol=1e-4)


def test_masks_that_early_versions_stored_and_no_loader_reads_are_left_out(tmp_path):
    build_model("gpt_neox").save_pretrained(tmp_path)
    path, block = tmp_path / "model.safetensors", "gpt_neox.layers.1.attention"
    original = load_file(path)
    old = {
        f"{block}.bias": torch.ones(1, 1, 16, 16, dtype=torch.uint8).tril(),
        f"{block}.masked_bias": torch.tensor(-torch.inf, dtype=torch.float16),
        f"{block}.rotary_emb.inv_freq": torch.rand(2),
    }
    save_file({**original, **old}, path)
    model = streamed(tmp_path)
    with model.block(1) as loaded:
        shard = write_shard(tmp_path, "copy", model.output_tensors(loaded, 1))
    written = load_file(tmp_path / shard.name)
    assert written.keys() == {name for name in original if name.startswith("gpt_neox.layers.1.")}
    for key, tensor in written.items():
        assert torch.equal(tensor, original[key]), key


def test_a_weight_that_its_stored_type_cannot_hold_is_refused_by_name(tmp_path):
    build_model("llama", dtype=torch.float16).save_pretrained(tmp_path)
    model = streamed(tmp_path)
    with model.block(1) as block:
        block.mlp.up_proj.weight[3, :2] = 1e6  # as an update of kept weights may leave it
        outputs = model.output_tensors(block, 1)
    with pytest.raises(FloatingPointError, match=r"^model\.layers\.1\.mlp\.up_proj\.weight holds 2 values"):
        write_shard(tmp_path, "refused", outputs)
    assert not list(tmp_path.glob("*refused*"))


def test_tensors_of_a_block_are_its_weights_unless_they_are_somebody_elses(tmp_path):
    build_model("llama").save_pretrained(tmp_path)
    model = streamed(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    for shared in (False, True):
        with ThreadPoolExecutor(3) as threads:
            stored = model.read_block(1, threads.map)
        assert stored.keys() == model.read_block(1).keys()
        tensor, before = stored[name], stored[name].clone()
        with model.block(1, dict(stored), shared=shared) as block:
            assert torch.equal(block.mlp.up_proj.weight, before)
            block.mlp.up_proj.weight.zero_()
        assert torch.equal(tensor, before) == shared
    stored[name] = torch.full_like(before, torch.nan)
    with pytest.raises(FloatingPointError, match=name), model.block(1, stored, shared=True):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_block_leaves_a_gpu_as_it_is_when_it_is_given_away(tmp_path):
    build_model("llama").bfloat16().save_pretrained(tmp_path)
    device = torch.device("cuda")
    model = StreamedModel(open_checkpoint(tmp_path), device, torch.bfloat16)
    stored = model.read_block(1)
    assert all(tensor.is_pinned() for tensor in stored.values())
    expected = {name: tensor.clone() for name, tensor in stored.items()}
    with model.block(1, stored) as block:
        outputs = model.output_tensors(block, 1)
    for _ in range(8):  # takes over the block's memory on the device, if it is free too early
        torch.full((1 << 20,), torch.nan, device=device)
    shard = write_shard(tmp_path, "copy", outputs)
    written = load_file(tmp_path / shard.name)
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(written[name], tensor), name


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_wins_over_a_configuration_that_says_it_is_tied(tied, tmp_path):
    model = build_model("falcon one norm")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
    ids = torch.randint(0, 250, (2, 32), generator=torch.Generator().manual_seed(1))
    got = losses_streamed(streamed(tmp_path), [ids])
    for plain in (model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        torch.testing.assert_close(got[0].float(), losses_in_memory(plain, ids), rtol=1e-4, atol=1e-4)


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


def digest_of(folder):
    checkpoint = open_checkpoint(folder)
    return TensorReader().model_digest(checkpoint.config, checkpoint.tensors.values())


def test_the_digest_of_a_model_does_not_depend_on_its_division_into_files(tmp_path):
    digests = set()
    for size in ("50GB", "50KB"):
        build_model("llama").save_pretrained(tmp_path / size, max_shard_size=size)
        digests.add(digest_of(tmp_path / size))
    build_model("llama", seed=1).save_pretrained(tmp_path / "other")
    assert len(digests) == 1
    assert digest_of(tmp_path / "other") not in digests


def test_the_digest_of_a_model_is_that_of_its_configuration_too(tmp_path):
    build_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    found = []
    for change in ({}, {"_name_or_path": "elsewhere", "transformers_version": "9"}, {"rms_norm_eps": 1e-3}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        found.append(digest_of(tmp_path))
    assert found[0] == found[1] != found[2]


def test_a_tensor_that_the_model_does_not_have_is_refused_unless_transformers_ignores_it(tmp_path):
    build_model("gpt_neox").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    ignorable = {
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.rand(2),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
    }
    save_file({**tensors, **ignorable}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert streamed(tmp_path).num_blocks == 3
    stray = {"gpt_neox.layers.0.attention.gate": torch.rand(64)}
    save_file({**tensors, **stray}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefusedError, match=r"attention\.gate is a tensor that a gpt_neox model does not have"):
        streamed(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"hidden_size": 10**12}),
        ("llama", {"intermediate_size": 10**12}),
        ("llama", {"intermediate_size": 97}),
        ("llama", {"num_attention_heads": 10**9}),
        ("llama", {"num_key_value_heads": 10**9}),
        ("llama", {"num_key_value_heads": 0}),
        ("llama", {"head_dim": -1}),
        ("llama", {"hidden_act": "evil"}),
        ("llama", {"pad_token_id": 10**12}),
        ("llama", {"attention_bias": True}),
        ("opt", {"max_position_embeddings": 10**12}),
        ("bloom", {"n_head": 10**9}),
        ("mixtral", {"num_local_experts": 10**9}),
        ("qwen3_moe", {"moe_intermediate_size": 10**12}),
    ],
)
def test_a_configuration_that_the_tensors_do_not_bear_out_is_refused_before_it_costs_anything(name, changes, tmp_path):
    build_model(name).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelRefusedError):
        streamed(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_what_a_router_adds_to_its_scores_stays_in_float32(tmp_path):
    build_model("deepseek_v3").save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    model = StreamedModel(open_checkpoint(tmp_path), torch.device("cpu"), torch.bfloat16)
    with model.block(1) as block:
        bias = block.mlp.gate.e_score_correction_bias
        assert torch.equal(bias, stored["model.layers.1.mlp.gate.e_score_correction_bias"])
        assert block.mlp.gate.weight.dtype is torch.bfloat16
