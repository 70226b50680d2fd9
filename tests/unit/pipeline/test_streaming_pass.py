"""The pass against plain implementations that share no code with it: whole models in memory, float64, hooks."""

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur_service.calibration.corpora import Corpus
from secateur_service.calibration.sampling import draw_samples
from secateur_service.models.checkpoint import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import Task, run_pass
from secateur_service.pruning.methods import METHODS
from secateur_service.pruning.patterns import NofM, Unstructured, target_count
from support.models import CONFIGS, save_corpora, save_model
from support.shared import CORPORA, TRAINED_MODEL, needs_shared

MIX = {"de": 0.5, "uk": 0.3, "es": 0.2}


def draw(model, calibration, evaluation, weights, *, sequences=6, length=64, evaluation_tokens=640):
    return draw_samples(
        AutoTokenizer.from_pretrained(model),
        calibration=Corpus(calibration),
        evaluation=Corpus(evaluation),
        languages=list(weights),
        evaluation_languages=["de", "uk", "en"],
        sequences=sequences,
        evaluation_tokens=evaluation_tokens,
        sequence_length=length,
        seed=0,
        check=lambda: None,
    )


def prune(model, samples, weights, method, target, shards, ledger=None):
    calibration, evaluation = samples
    return run_pass(
        StreamedModel(open_checkpoint(model), torch.device("cpu"), torch.float32),
        Task(method, METHODS[method].update, target, weights, calibration, evaluation, shards),
        ledger or FileLedger(shards / "ledger.json"),
        RecordingObserver(),
        Stopwatch(),
    )


def pruned_tensors(result, shards):
    return {name: tensor for record in result.blocks for name, tensor in load_file(shards / record.shard).items()}


@torch.no_grad()
def perplexity(model, ids):
    logits = model(input_ids=ids, use_cache=False).logits.float()
    return math.exp(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_dense_and_pruned_perplexity_equal_those_of_the_whole_model_in_memory(model_type, method, tmp_path):
    folder = save_model(tmp_path / "model", model_type, dtype=torch.bfloat16)
    samples = draw(folder, *save_corpora(tmp_path), MIX)
    result = prune(folder, samples, MIX, method, Unstructured(0.5), tmp_path)
    assert result.dense.keys() == {"de", "uk", "en"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for losses in (result.dense, result.pruned):
        for language, sums in losses.items():
            ids = samples[1][language].tokens
            assert sums.tokens == ids[:, 1:].numel()
            assert math.exp(sums.nats / sums.tokens) == pytest.approx(perplexity(model, ids), rel=1e-4)
        missing = model.load_state_dict(pruned_tensors(result, tmp_path), strict=False)
        assert not missing.unexpected_keys
    for record in result.blocks:
        for layer in record.layers:
            assert layer.zeros == target_count(layer.shape[0] * layer.shape[1], 0.5)
            assert int((model.get_parameter(layer.name) == 0).sum()) == layer.zeros
    assert all(power < 30 for power in result.blocks[-1].snr_db.values()), "pruning had hardly any effect"


def wanda_masks(folder, samples, weights, sparsity, index, pruned_before):
    """Layer name → (mask, scores), by hooks on the whole model in float64 and the definition of the score.

    The blocks before are pruned already, the block itself is dense.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    model.load_state_dict(pruned_before, strict=False)
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


def assert_blocks_are_pruned_by_definition(folder, samples, weights, tmp_path, sparsity, blocks):
    result = prune(folder, samples, weights, "wanda", Unstructured(sparsity), tmp_path)
    before = {}
    for record in result.blocks[:blocks]:
        tensors = load_file(tmp_path / record.shard)
        differing = 0
        for name, (expected, scores) in wanda_masks(folder, samples, weights, sparsity, record.index, before).items():
            got = tensors[f"model.layers.{record.index}.{name}.weight"] == 0
            assert got.sum() == expected.sum()
            for row in torch.nonzero((got != expected).any(1)).flatten().tolist():
                # What was pruned instead must tie with what should have been.
                swapped = scores[row][got[row] != expected[row]]
                assert (swapped.max() - swapped.min()) / swapped.max() < 1e-6 * (1 + record.index)
                differing += 1
        assert differing <= 3
        before |= tensors


@pytest.mark.parametrize("weights", [{"de": 1.0}, MIX], ids=["one language", "mix"])
def test_wandas_masks_of_every_block_equal_a_plain_float64_implementation(weights, tmp_path):
    folder = save_model(tmp_path / "model", "llama", dtype=torch.bfloat16)
    samples = draw(folder, *save_corpora(tmp_path), weights)
    assert_blocks_are_pruned_by_definition(folder, samples, weights, tmp_path, 0.5, blocks=3)


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


def test_an_interrupted_pass_goes_on_at_the_first_block_whose_entry_or_bytes_are_missing(tmp_path):
    folder = save_model(tmp_path / "model", "gemma2")
    samples = draw(folder, *save_corpora(tmp_path), MIX)
    whole = prune(folder, samples, MIX, "sparsegpt", NofM(2, 4), tmp_path)
    (tmp_path / whole.blocks[1].shard).unlink()
    again = prune(folder, samples, MIX, "sparsegpt", NofM(2, 4), tmp_path)
    assert again.resumed_blocks == 1
    assert [record.sha256 for record in again.blocks] == [record.sha256 for record in whole.blocks]
    assert [record.snr_db for record in again.blocks] == [record.snr_db for record in whole.blocks]
    assert again.pruned == whole.pruned


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path):
    """Weights of all blocks together are many times what the pass may hold of them."""
    import subprocess
    import sys

    script = """
import resource, sys, torch
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_streaming_pass import MIX, draw, prune
from secateur_service.pruning.patterns import Unstructured
model, base = Path(sys.argv[1]), Path(sys.argv[2])
samples = draw(model, base / "calibration", base / "evaluation", MIX)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shards = base / model.name / "shards"
shards.mkdir()
prune(model, samples, MIX, "wanda", Unstructured(0.5), shards)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    from pathlib import Path

    save_corpora(tmp_path)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    growth = {}
    for blocks in (4, 24):
        options = {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 128, "num_hidden_layers": blocks}
        model = save_model(tmp_path / f"blocks-{blocks}", "llama", **options)
        command = [sys.executable, "-c", script, str(model), str(tmp_path), *paths]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        growth[blocks] = int(finished.stdout.split()[-1]) * 1024
    block_bytes = 4 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1024)
    assert growth[24] - growth[4] < 3 * block_bytes, f"{growth} for 20 further blocks of {block_bytes} bytes"
