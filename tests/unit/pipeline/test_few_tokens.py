"""Experts: what those with few tokens get, and what all of them hold while they wait for more."""

import re

import pytest
import torch

from secateur_service.pruning.budget import EXPERT_TILE_TOKENS, MIN_EXPERT_TOKENS
from secateur_service.pruning.fidelity import InputSample
from secateur_service.pruning.methods import METHODS, Moments, Recipe
from secateur_service.pruning.patterns import Unstructured, target_count
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.sizing.memory import waiting_bytes
from secateur_service.sizing.operations import Group, Mixing, Work
from support.models import save_model
from support.passes import prune, pruned_tensors, samples_of

CPU = torch.device("cpu")


def competes_in(mask, sparsity):
    """The groups that a mask may have come from."""
    width = mask.shape[1]
    within_rows = (mask.sum(1) == target_count(width, sparsity)).all()
    return {"row"} if within_rows else {"layer"} if int(mask.sum()) == target_count(mask.numel(), sparsity) else set()


@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "ria", "alps"])
@pytest.mark.parametrize("sequences", [1, 2])
@pytest.mark.parametrize("group", ["row", "layer"])
def test_an_expert_with_few_tokens_is_pruned_as_its_note_says(method, sequences, group, tmp_path):
    folder = save_model(tmp_path / "model", "qwen3_moe", num_experts=8, num_experts_per_tok=2)
    samples = samples_of(["de"], sequences, 40), samples_of(["de"], 1, 40)
    result = prune(folder, samples, {"de": 1.0}, method, Unstructured(0.5, group), tmp_path)
    tensors = pruned_tensors(result, tmp_path)
    named = 0
    for layer in (layer for block in result.blocks for layer in block.layers):
        zeros = tensors[layer.name] == 0
        found = [re.search(r"pruned by (\w+), within (rows|the layer)", note) for note in layer.notes]
        if any(found):
            (match,) = filter(None, found)
            said, within = match[1], "row" if match[2] == "rows" else "layer"
            assert within == METHODS[said].group
            assert competes_in(zeros, 0.5) == {within}, (layer.name, layer.notes)
            tokens = int(re.search(r"saw (\d+) tokens", layer.notes[0])[1])
            assert said == ("magnitude" if tokens < MIN_EXPERT_TOKENS else "wanda")
            named += 1
        elif ".experts." not in layer.name:
            assert not layer.notes
    assert named


def test_tiles_of_experts_are_small_and_their_sums_do_not_depend_on_how_tokens_arrive():
    inputs = torch.randn(1500, 12, generator=torch.Generator().manual_seed(0))
    sums = []
    for size in (1, 7, 255, 256, 257, 1500):
        statistics = InputStatistics(12, {"de": 1.0}, {"de": 4000}, CPU, moments=Moments.FULL, is_expert=True)
        for part in inputs.split(size):
            statistics.update(part, "de")
            assert sum(tile.numel() for tile, _ in statistics._open_tiles.values()) <= EXPERT_TILE_TOKENS * 12
        sums.append((statistics.gram.clone(), statistics.mean_squares()))
    assert all(torch.equal(gram, sums[0][0]) and torch.equal(squares, sums[0][1]) for gram, squares in sums[1:])


@pytest.mark.parametrize("experts", [0, 4, 128])
@pytest.mark.parametrize("order", ["block", "true_sequential"])
def test_what_waits_of_an_input_is_in_the_estimate(order, experts):
    """Bytes of open tiles and samples, counted while tokens come; an estimate expects them to be spread evenly."""
    calibration, width, heights, languages = 2 * 40_000, 64, (96, 96), ("de", "uk")
    group = Group(width, heights, 2 / experts if experts else 1.0, experts)
    work = Work(
        [[group]],
        [Mixing(64)],
        64,
        260,
        64,
        calibration,
        0,
        2,
        Recipe.of("wanda"),
        order,
        minimax=False,
        layer_snr=True,
    )
    tokens = dict.fromkeys(languages, calibration // 2)
    is_expert, open_experts = experts > 0, experts if order == "block" else 0
    statistics = InputStatistics(
        width, dict.fromkeys(languages, 0.5), tokens, CPU, moments=Moments.DIAGONAL, is_expert=is_expert
    )
    sample = InputSample(tokens, width, heights, is_expert=is_expert, open_experts=open_experts)
    most = 0
    for language in languages:
        for part in torch.randn(int(calibration / 2 * group.share), width).split(2048):
            statistics.update(part, language)
            sample.update(part, language)
            kept = [tile for tile, _ in statistics._open_tiles.values()]
            kept += [tensor for parts in sample._parts.values() for tensor, _ in parts]
            most = max(most, sum(4 * tensor.numel() for tensor in kept))
    assert 0.5 * waiting_bytes(work, group, 4) < most <= 1.3 * waiting_bytes(work, group, 4)


def test_many_experts_hold_little_beside_what_they_held():
    """Qwen3-30B-A3B: 128 experts of 2048 and 768 inputs, seven languages, in 16 bits."""
    groups = [Group(width, (rows,), 8 / 128, 128) for width, rows in ((2048, 1536), (768, 2048))] * 128
    for layer_snr, most in ((False, 1.5e9), (True, 3.5e9)):
        work = Work(
            [groups],
            [Mixing(2048)],
            2048,
            151936,
            2048,
            128 * 2048,
            0,
            7,
            Recipe.of("wanda"),
            "block",
            minimax=False,
            layer_snr=layer_snr,
        )
        total = sum(waiting_bytes(work, group, 2) for group in groups)
        assert total < most
    assert 7 * 128 * 16384 * (2048 + 768) * 2 > 80e9, "as it was, with a tile of 16,384 tokens"
