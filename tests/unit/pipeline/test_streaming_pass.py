"""The pass against plain implementations that share no code with it: whole models in memory, float64, hooks."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from secateur_service.errors import CancelledError
from secateur_service.models.opening import open_checkpoint
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pruning.patterns import NofM, Unstructured
from secateur_service.spec import ORDERS
from support.forking import run_forked
from support.models import save_corpora, save_model
from support.passes import MIX, draw, print_growth, prune, pruned_tensors
from support.shared import CORPORA, TRAINED_MODEL, needs_shared

STAGES = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def wanda_masks(folder, samples, weights, sparsity, index, changed):
    """Layer name → (mask, scores), by hooks on the whole model in float64 and the definition of the score.

    `changed` holds the weights that are pruned already; all others are dense.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    model.load_state_dict(changed, strict=False)
    block = model.model.layers[index]
    linears = {name: module for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
    squares = {name: torch.zeros(module.in_features, dtype=torch.float64) for name, module in linears.items()}
    for language, weight in weights.items():
        tokens = samples[0][language].tokens

        share = weight / tokens.numel()

        def add(_, args, name, share=share):
            squares[name] += share * args[0].square().sum((0, 1))

        handles = [
            module.register_forward_pre_hook(lambda m, args, name=name, add=add: add(m, args, name))
            for name, module in linears.items()
        ]
        with torch.no_grad():
            for sequence in tokens:
                model(input_ids=sequence[None], use_cache=False)
        for handle in handles:
            handle.remove()
    masks = {}
    for name, module in linears.items():
        scores = module.weight.abs() * squares[name].sqrt()
        count = int(module.in_features * sparsity)
        order = scores.argsort(dim=1, stable=True)[:, :count]
        masks[name] = (torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True), scores)
    return masks


def assert_blocks_are_pruned_by_definition(folder, samples, weights, tmp_path, sparsity, blocks, order="block"):
    result = prune(folder, samples, weights, "wanda", Unstructured(sparsity), tmp_path, order=order)
    changed = {}
    for record in result.blocks[:blocks]:
        prefix = f"model.layers.{record.index}."
        tensors = load_file(tmp_path / record.shard)
        differing = 0
        for stage in STAGES if order == "true_sequential" else (sum(STAGES, ()),):
            masks = wanda_masks(folder, samples, weights, sparsity, record.index, changed)
            for name in stage:
                expected, scores = masks[name]
                got = tensors[f"{prefix}{name}.weight"] == 0
                assert got.sum() == expected.sum()
                for row in torch.nonzero((got != expected).any(1)).flatten().tolist():
                    # What was pruned instead must tie with what should have been.
                    swapped = scores[row][got[row] != expected[row]]
                    assert (swapped.max() - swapped.min()) / swapped.max() < 1e-6 * (1 + record.index)
                    differing += 1
            if order != "dense":
                changed |= {f"{prefix}{name}.weight": tensors[f"{prefix}{name}.weight"] for name in stage}
        assert differing <= 3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weights", [{"de": 1.0}, MIX], ids=["one language", "mix"])
def test_wandas_masks_of_every_block_equal_a_plain_float64_implementation(weights, order, tmp_path):
    folder = save_model(tmp_path / "model", "llama", dtype=torch.bfloat16)
    samples = draw(folder, *save_corpora(tmp_path), weights)
    assert_blocks_are_pruned_by_definition(folder, samples, weights, tmp_path, 0.5, blocks=3, order=order)


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize("weights", [{"de": 1.0}, {"de": 0.5, "uk": 0.3, "zh": 0.2}], ids=["one language", "mix"])
def test_wandas_masks_in_a_trained_model_equal_a_plain_float64_implementation(weights, tmp_path):
    corpora = (CORPORA / "calibration", CORPORA / "evaluation")
    samples = draw(TRAINED_MODEL, *corpora, weights, sequences=8, length=256, evaluation_tokens=512)
    assert_blocks_are_pruned_by_definition(TRAINED_MODEL, samples, weights, tmp_path, 0.6, blocks=2)


def test_calibration_in_a_language_leaves_other_zeros_than_in_another(tmp_path):
    folder = save_model(tmp_path / "model", "llama", dtype=torch.bfloat16)
    corpora = save_corpora(tmp_path)
    tensors = []
    for language in ("de", "uk"):
        shards = tmp_path / language
        shards.mkdir()
        samples = draw(folder, *corpora, {language: 1.0})
        tensors.append(pruned_tensors(prune(folder, samples, {language: 1.0}, "wanda", NofM(2, 4), shards), shards))
    changed = [name for name in tensors[0] if not torch.equal(tensors[0][name], tensors[1][name])]
    assert len(changed) == 21


@pytest.mark.parametrize("order", ORDERS)
def test_an_interrupted_pass_goes_on_at_the_first_block_whose_entry_or_bytes_are_missing(order, tmp_path):
    folder = save_model(tmp_path / "model", "gemma2")
    samples = draw(folder, *save_corpora(tmp_path), MIX)
    options = {"order": order, "language_neurons": True}
    whole = prune(folder, samples, MIX, "sparsegpt", NofM(2, 4), tmp_path, **options)
    (tmp_path / whole.blocks[1].shard).unlink()
    again = prune(folder, samples, MIX, "sparsegpt", NofM(2, 4), tmp_path, **options)
    assert again.resumed_blocks == 1
    assert [record.sha256 for record in again.blocks] == [record.sha256 for record in whole.blocks]
    assert [record.snr_db for record in again.blocks] == [record.snr_db for record in whole.blocks]
    assert [record.layers for record in again.blocks] == [record.layers for record in whole.blocks]
    assert again.pruned == whole.pruned
    assert again.neurons == whole.neurons
    assert sum(found.neurons for found in whole.neurons.languages) > 0


@pytest.mark.parametrize("order", ["block", "true_sequential"])
def test_states_in_files_change_no_byte(order, tmp_path):
    folder = save_model(tmp_path / "model")
    samples = draw(folder, *save_corpora(tmp_path), MIX)
    results = []
    for name, states in (("memory", None), ("files", tmp_path)):
        (tmp_path / name).mkdir()
        half = Unstructured(0.5)
        results.append(
            prune(folder, samples, MIX, "sparsegpt", half, tmp_path / name, order=order, states_folder=states)
        )
    assert [record.sha256 for record in results[0].blocks] == [record.sha256 for record in results[1].blocks]
    assert (results[0].dense, results[0].pruned) == (results[1].dense, results[1].pruned)


def test_a_pass_that_is_cancelled_keeps_the_block_that_was_being_written(tmp_path):
    class Cancels(RecordingObserver):
        def progress(self, progress):
            if progress.blocks_done == 2:
                raise CancelledError("enough")

    folder = save_model(tmp_path / "model", "llama")
    samples = draw(folder, *save_corpora(tmp_path), MIX)
    observer = Cancels()
    with pytest.raises(CancelledError):
        prune(folder, samples, MIX, "wanda", NofM(2, 4), tmp_path, observer=observer)
    assert [record.index for record in observer.blocks] == [0, 1]
    assert prune(folder, samples, MIX, "wanda", NofM(2, 4), tmp_path).resumed_blocks == 2


def test_layers_have_targets_of_their_own_and_those_without_stay_as_they_are(tmp_path):
    folder = save_model(tmp_path / "model", "llama", dtype=torch.bfloat16)
    dense = load_file(folder / "model.safetensors")
    samples = draw(folder, *save_corpora(tmp_path), MIX)
    names = [info.name for info in open_checkpoint(folder).linear_weights()]
    targets = {name: Unstructured(0.5, "layer") for name in names if ".0." in name}
    targets |= {name: NofM(1, 4) for name in names if "q_proj" in name}
    targets |= {name: Unstructured(0.25) for name in names if "k_proj" in name}
    result = prune(folder, samples, MIX, "sparsegpt", targets, tmp_path, update="cg")
    written = pruned_tensors(result, tmp_path)
    for layer in (layer for record in result.blocks for layer in record.layers):
        size = layer.shape[0] * layer.shape[1]
        share = 0.75 if "q_proj" in layer.name else 0.25 if "k_proj" in layer.name else 0.5 * (".0." in layer.name)
        assert layer.zeros == int((written[layer.name] == 0).sum()) == size * share
        assert (layer.name in targets) == (share > 0)
        assert not layer.notes
        if share == 0:
            assert torch.equal(written[layer.name], dense[layer.name])


def test_the_signal_to_noise_ratio_of_a_layer_is_that_of_its_products_per_language(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    samples = draw(folder, *save_corpora(tmp_path), MIX, sequences=2)  # 128 tokens: the sample holds them all
    result = prune(folder, samples, MIX, "wanda", Unstructured(0.5), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    seen = []
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    dense = model.model.layers[0].mlp.down_proj.weight
    layer = next(layer for layer in result.blocks[0].layers if "down_proj" in layer.name)
    pruned = pruned_tensors(result, tmp_path)[layer.name].double()
    assert layer.snr_db.keys() == MIX.keys()
    for language, ratio in layer.snr_db.items():
        with torch.no_grad():
            model(input_ids=samples[0][language].tokens, use_cache=False)
        signal, noise = ((seen[-1] @ w.T).square().sum() for w in (dense, dense - pruned))
        assert ratio == pytest.approx(float(10 * torch.log10(signal / noise)), abs=1e-3)


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path):
    """Weights of all blocks together are many times what the pass may hold of them."""
    save_corpora(tmp_path)
    growth = {}
    for blocks in (3, 12):
        options = {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 128, "num_hidden_layers": blocks}
        model = save_model(tmp_path / f"blocks-{blocks}", "llama", **options)
        finished = run_forked(print_growth, (model, tmp_path), tmp_path)
        assert finished.returncode == 0, finished.stderr
        growth[blocks] = int(finished.stdout.split()[-1])
    block_bytes = 4 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1024)
    assert growth[12] - growth[3] < 3 * block_bytes, f"{growth} for 9 further blocks of {block_bytes} bytes"
