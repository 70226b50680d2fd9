"""The expected cost of a job against counts made otherwise."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from secateur_service.models.opening import open_checkpoint
from secateur_service.pruning.methods import Recipe
from secateur_service.pruning.patterns import Unstructured
from secateur_service.pruning.solver import solve
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.records.result import Shortage
from secateur_service.sizing.continuations import DEFAULT_CONTINUATIONS, default_continuations
from secateur_service.sizing.durations import Disk, Hardware, outer_bytes
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.sizing.margin import growth_margin
from secateur_service.spec import parse_spec
from support.models import save_model

LENGTH = 64


@pytest.fixture(scope="module", params=["llama", "mixtral", "cohere"])
def model(request, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("estimate") / request.param, request.param)


def estimate(model, *, calibration=None, on_device=False, shortages=(), **pruning):
    spec = specification(calibration or {}, pruning)
    return estimate_cost(open_checkpoint(model), spec, on_device=on_device, shortages=shortages)


def specification(calibration, pruning):
    return parse_spec(
        {
            "model": {"uri": "file:///m"},
            "calibration": {
                "corpus": "file:///c",
                "languages": [{"language": "de"}, {"language": "uk"}],
                "samples": 16,
                "sequence_length": LENGTH,
                **calibration,
            },
            "pruning": {"method": "wanda", "sparsity": 0.5, **pruning},
            "evaluation": {"languages": ["de"], "tokens_per_language": 4 * LENGTH, "layer_snr": False},
        }
    )


def test_continuations_take_the_whole_model_and_two_operations_per_weight_and_token(model):
    checkpoint, spec = open_checkpoint(model), specification({}, {})
    evaluation = spec.evaluation.model_copy(update={"languages": ("de", "uk"), "continuations": 10})
    others = spec.evaluation.model_copy(update={"languages": ("de", "uk"), "continuations": 0})
    some, none = (
        estimate_cost(checkpoint, spec.model_copy(update={"evaluation": each}), on_device=True)
        for each in (evaluation, others)
    )
    assert some.flops - none.flops == 2 * 2.0 * checkpoint.parameters * 20 * (32 + 48)
    assert some.peak_device_bytes >= max(4 * checkpoint.parameters, none.peak_device_bytes)
    assert some.peak_host_bytes == none.peak_host_bytes


def test_models_are_continued_by_default_only_if_they_are_small(model):
    small = open_checkpoint(model)
    info = small.tensors[small.embedding_name]
    per_row = small.parameters // info.shape[0] + 1
    large = replace(small, tensors={**small.tensors, info.name: replace(info, shape=(10**9 // per_row, per_row))})
    assert default_continuations(small, on_device=False) == DEFAULT_CONTINUATIONS
    assert default_continuations(large, on_device=False) == 0


def test_the_growth_is_known_from_the_whole_windows_of_each_language(model):
    checkpoint, spec = open_checkpoint(model), specification({}, {})
    asked = {"languages": ("de", "uk", "en"), "tokens_per_language": 5 * LENGTH - 1}
    evaluated = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update=asked)})
    assert estimate_cost(checkpoint, evaluated, on_device=False).growth_margin == growth_margin(4 * LENGTH) > 0


def flops(model, **options):
    return estimate(model, **options).flops


@torch.no_grad()
def counted(folder, sequences):
    """Operations of one forward pass by torch's own count: those of the blocks, and those of the head."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", experts_implementation="eager")
    tokens = torch.arange(sequences * LENGTH).view(sequences, LENGTH) % 250
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, use_cache=False)
    config = model.config
    head = 2 * tokens.numel() * config.vocab_size * config.hidden_size
    # Eager attention computes both halves of what is causal; routers are not counted by the estimate.
    futile = 2 * tokens.numel() * LENGTH * config.num_attention_heads * config.head_dim
    router = 2 * tokens.numel() * config.hidden_size * getattr(config, "num_local_experts", 0)
    return counter.get_total_flops() - head - (futile + router) * config.num_hidden_layers, head


def test_a_job_without_data_costs_two_passes_of_the_evaluation_text_as_torch_counts_them(model):
    assert flops(model, method="magnitude") == pytest.approx(2 * sum(counted(model, 4)), rel=1e-9)


def test_orders_differ_by_the_passes_that_the_documentation_names(model):
    forward, _ = counted(model, 16)
    none, block, staged, dense = (
        flops(model, method="magnitude"),
        *(flops(model, order=order) for order in ("block", "true_sequential", "dense")),
    )
    spared = forward - (staged - none)  # the last product of one block
    assert staged == dense
    assert 0 < spared < forward / 9
    assert block - none == pytest.approx((2 * 3 - 1) / 3 * forward - 3 * spared)


def test_an_allocation_that_judges_blocks_costs_one_more_forward_pass(model):
    extra = flops(model, allocation={"policy": "owl"}) - flops(model)
    assert extra == pytest.approx(counted(model, 16)[0], rel=1e-9)


def test_minimax_costs_as_many_solves_as_it_has_rounds_and_a_matrix_per_language(model):
    plain, balanced = (
        estimate(model, method="sparsegpt", calibration={"policy": policy}) for policy in ("weights", "minimax")
    )
    solving = flops(model, method="sparsegpt") - flops(model, method="wanda", update="none")
    assert balanced.flops - plain.flops > 0
    assert balanced.flops - plain.flops < 8 * solving
    assert balanced.peak_host_bytes > plain.peak_host_bytes


def test_true_sequential_keeps_one_matrix_at_a_time_and_every_text_inside_the_block(tmp_path):
    # Wide layers and hardly any text: what counts is the matrices.
    wide = save_model(tmp_path / "wide", hidden_size=512, intermediate_size=1024, num_hidden_layers=1)
    few = {"samples": 2, "sequence_length": 16}
    block, staged = (
        estimate(wide, method="sparsegpt", order=order, calibration=few) for order in ("block", "true_sequential")
    )
    saved = 4 * (2 * 512**2 + 64**2)  # the inputs of queries, of the output (4 heads of 16) and of the gate
    states = 2 * 16 * (1024 + 512) * 4
    assert block.peak_host_bytes - staged.peak_host_bytes == saved - states


def test_memory_does_not_grow_with_the_number_of_blocks_and_moves_to_the_device(tmp_path):
    shallow, deep = (save_model(tmp_path / str(count), num_hidden_layers=count) for count in (2, 8))
    assert estimate(shallow).peak_host_bytes == estimate(deep).peak_host_bytes
    assert flops(deep) > 2 * flops(shallow)
    assert estimate(deep).disk_bytes < estimate(deep).checkpoint_bytes == open_checkpoint(deep).size_bytes
    on_device = estimate(deep, on_device=True)
    assert on_device.peak_device_bytes > 0
    assert on_device.peak_host_bytes < estimate(deep).peak_host_bytes


def test_states_go_where_memory_is_not_short(model):
    states = (16 + 2 * 4) * LENGTH * 64  # values; evaluation twice
    host, files = (estimate(model, shortages=shortages) for shortages in ([], [Shortage.HOST]))
    assert host.peak_host_bytes - files.peak_host_bytes == files.disk_bytes - host.disk_bytes == 4 * states
    plain, small, both = (
        estimate(model, on_device=True, shortages=shortages)
        for shortages in ([], [Shortage.DEVICE], [Shortage.DEVICE, Shortage.HOST])
    )
    item = 4  # bytes of a value of this model
    assert small.peak_host_bytes - plain.peak_host_bytes == both.disk_bytes - plain.disk_bytes == item * states
    assert both.peak_host_bytes == plain.peak_host_bytes
    assert both.peak_device_bytes == small.peak_device_bytes <= plain.peak_device_bytes - item * states


@torch.no_grad()
@pytest.mark.parametrize(
    ("recipe", "products"),
    [
        (Recipe.of("sparsegpt", "obs"), lambda m, n: m * n * (n + 2 * 128)),
        (Recipe.of("wanda", "cg"), lambda m, n: 24 * m * n**2),
        (Recipe.of("sparsegpt", "cg"), lambda m, n: m * n * (n + 2 * 128) + 24 * m * n**2),
    ],
    ids=["sparsegpt with obs", "wanda with cg", "sparsegpt with cg"],
)
def test_solving_takes_the_products_that_the_documentation_says(recipe, products):
    width, heights = 1024, (640, 256)
    inputs = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(0))
    weights = [inputs[:height] for height in heights]
    statistics = InputStatistics(width, {"de": 1.0}, {"de": len(inputs)}, torch.device("cpu"), moments=recipe.moments)
    statistics.update(inputs, "de")
    in_place = {torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        solve(recipe, weights, statistics, Unstructured(0.5))
    factorisation = width**3 / 3 if recipe.update == "obs" or recipe.score == "obs" else 0  # torch does not count it
    expected = recipe.operations(width, heights) - factorisation
    assert expected == products(sum(heights), width)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_what_reads_the_model_besides_the_pass_takes_its_time(model):
    checkpoint, spec = open_checkpoint(model), specification({}, {})
    slow = Hardware(disk=Disk(1.0, 1e12))

    def seconds(**pruning):
        (found,) = estimate_cost(checkpoint, specification({}, pruning), on_device=True, hardware=slow).seconds.values()
        return found

    blocks = checkpoint.size_bytes - outer_bytes(checkpoint)
    assert seconds(allocation={"policy": "owl"}) - seconds() == pytest.approx(blocks, rel=1e-3)
    assert seconds() == pytest.approx(checkpoint.size_bytes + outer_bytes(checkpoint), rel=1e-3)
    looks = spec.evaluation.model_copy(update={"continuations": 1})
    (found,) = estimate_cost(
        checkpoint, spec.model_copy(update={"evaluation": looks}), on_device=True, hardware=slow
    ).seconds.values()
    assert found - seconds() == pytest.approx(blocks, rel=1e-3)
