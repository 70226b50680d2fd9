"""The expected time against the runs that were measured."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu.generated import SHAPES
from secateur_service.pruning.methods import Recipe
from secateur_service.sizing.durations import H100, H100_RATES, expected_seconds
from secateur_service.sizing.operations import Group, Mixing, Work

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
MEASURED = json.loads((RESULTS / "gpu-nvidia-h100-80gb-hbm3.json").read_text())
RUNS = {name: run for name, run in MEASURED["measurements"].items() if "seconds_per_block" in run}


def amounts(name):
    """Operations of passes and of solving in a block in the middle of such a run."""
    shape, recipe, _, order, *flags = name.split("/")
    method, _, update = recipe.partition("+")
    size, tokens = SHAPES[shape], MEASURED["sequences"] * MEASURED["length"]
    hidden, between = size.hidden, size.intermediate
    groups = [
        Group(hidden, (hidden, size.key_value, size.key_value), 1.0),
        Group(hidden, (hidden,), 1.0),
        Group(hidden, (between, between), 1.0),
        Group(between, (hidden,), 1.0),
    ]
    work = Work(
        blocks=[groups] * 3,
        mixing=[Mixing(hidden)] * 3,
        hidden=hidden,
        vocabulary=size.vocabulary,
        length=MEASURED["length"],
        calibration=tokens,
        evaluation=tokens if flags else 0,
        languages=2,
        recipe=Recipe.of(method, update or None),
        order=order,
        minimax=False,
        layer_snr=bool(flags),
    )
    passes = work.calibrating(1) + work.evaluating(1) + (work.carrying(1) if order == "block" else 0)
    return passes + sum(map(work.judging, groups)), sum(map(work.solving, groups))


@pytest.mark.parametrize("name", RUNS)
def test_a_block_takes_half_to_twice_as_long_on_an_h100(name):
    assert 0.5 <= RUNS[name]["seconds_per_block"] / H100_RATES.seconds(*amounts(name), 0, 0) <= 2


def test_a_small_job_takes_somewhat_longer_than_its_operations_and_weights():
    job = json.loads((RESULTS / "gpu-nvidia-h200.json").read_text())["measurements"]["a real job"]
    estimate = job["estimate"]
    found = expected_seconds(estimate["flops"], 0.0, estimate["checkpoint_bytes"], estimate["output_bytes"])
    assert 1 <= job["seconds"]["total"] / found[H100] <= 2


def test_a_cpu_is_named_by_its_cores_where_jobs_run_on_one():
    assert set(expected_seconds(1e12, 0.0, 0, 0)) == {H100}
    one, four = (expected_seconds(1e12, 1e12, 0, 0, threads=count) for count in (1, 4))
    assert one["1 CPU core"] == pytest.approx(4 * four["4 CPU cores"])
