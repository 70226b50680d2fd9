"""The expected time against the runs that were measured, and what it says of what bounds a job."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu.generated import SHAPES, Shape
from secateur_service.pruning.methods import Recipe
from secateur_service.records.result import Bound
from secateur_service.sizing.durations import (
    CORE,
    H100,
    H100_COMPUTER,
    MEASURED_DISK,
    Amounts,
    Disk,
    Hardware,
    duration,
    expected_durations,
)
from secateur_service.sizing.operations import Group, Mixing, Work

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
GPUS = {name: json.loads((RESULTS / f"gpu-nvidia-{name}.json").read_text()) for name in ("h100-80gb-hbm3", "h200")}
RUNS = {
    (gpu, name): run["seconds_per_block"]
    for gpu, found in GPUS.items()
    for name, run in found["measurements"].items()
    if "seconds_per_block" in run
}
LARGE = json.loads((RESULTS / "large_model.json").read_text())
OPERATIONS = Amounts(passes=4e14, solving=4e13, head=1e13)


def work_of(size, **options):
    """The work on three blocks of a Llama of that size."""
    hidden, between = size.hidden, size.intermediate
    groups = [
        Group(hidden, (hidden, size.key_value, size.key_value), 1.0),
        Group(hidden, (hidden,), 1.0),
        Group(hidden, (between, between), 1.0),
        Group(between, (hidden,), 1.0),
    ]
    common = {"languages": 2, "minimax": False, "order": "true_sequential"}
    sizes = {"hidden": hidden, "vocabulary": size.vocabulary, "mixing": [Mixing(hidden)] * 3}
    return Work(blocks=[groups] * 3, **(sizes | common | options))


def amounts(work):
    """What a block in the middle takes."""
    passes = work.calibrating(1) + work.evaluating(1) + work.following(1) + work.training(1)
    passes += work.carrying(1) if work.order == "block" or work.asymmetric or work.epochs else 0.0
    passes += sum(map(work.judging, work.blocks[1]))
    return Amounts(passes, sum(map(work.solving, work.blocks[1])))


@pytest.mark.parametrize(("gpu", "name"), RUNS)
def test_a_block_takes_half_to_twice_as_long_on_an_h100(gpu, name):
    shape, recipe, _, order, *flags = name.split("/")
    method, _, update = recipe.partition("+")
    tokens = GPUS[gpu]["sequences"] * GPUS[gpu]["length"]
    work = work_of(
        SHAPES[shape],
        length=GPUS[gpu]["length"],
        calibration=tokens,
        evaluation=tokens if "report" in flags else 0,
        recipe=Recipe.of(method, update or None),
        order=order,
        layer_snr="report" in flags,
        asymmetric="asymmetric" in flags,
        follows="asymmetric" in flags or "trained" in flags,
        epochs=int("trained" in flags),
    )
    needed = amounts(work)
    expected = needed.passes / H100_COMPUTER.passes + needed.solving / H100_COMPUTER.solving
    assert 0.5 <= RUNS[gpu, name] / expected <= 2


def test_a_small_job_takes_somewhat_longer_than_its_operations_and_weights():
    job, size = GPUS["h200"]["measurements"]["a real job"], SHAPES["llama-3.2-1b"]
    estimate = job["estimate"]
    work = work_of(
        size, length=2048, calibration=job["calibration_tokens"], evaluation=0, layer_snr=False, asymmetric=True,
        recipe=Recipe.of("sparsegpt", "cg"),
    )  # fmt: skip
    solving = size.blocks * amounts(work).solving
    head = 4.0 * job["evaluation_tokens"] * size.vocabulary * size.hidden
    outer = 2 * size.vocabulary * size.hidden
    block = 2 * sum(group.parameters for group in work.blocks[1])
    needed = Amounts(
        estimate["flops"] - solving - head,
        solving,
        head,
        read_bytes=estimate["checkpoint_bytes"] + outer,
        written_bytes=estimate["output_bytes"],
        lone_read_bytes=block + 2 * outer,
        lone_written_bytes=block + outer,
    )
    found = duration(needed, H100_COMPUTER, MEASURED_DISK)
    assert 1 <= job["seconds"]["total"] / found.seconds <= 2
    assert found.bound_by is Bound.COMPUTING


def test_a_job_on_one_core_takes_half_to_twice_as_long():
    size = Shape(hidden=3072, intermediate=8192, key_value=1024, blocks=28, vocabulary=32000)
    work = work_of(
        size, length=128, calibration=2048, evaluation=512, layer_snr=True, recipe=Recipe.of("wanda")
    )  # fmt: skip
    weights = 2 * LARGE["parameters"]
    needed = replace(amounts(work), head=work.head(), read_bytes=weights, written_bytes=weights)
    needed = replace(needed, passes=size.blocks * needed.passes)
    found = duration(needed, CORE, MEASURED_DISK)
    assert 0.5 <= sum(LARGE["cpu_seconds"].values()) / found.seconds <= 2


def test_a_job_takes_as_long_as_the_slowest_of_computing_reading_and_writing():
    byte = 10**12
    reads, writes = (replace(OPERATIONS, **{name: byte}) for name in ("read_bytes", "written_bytes"))
    both = replace(OPERATIONS, read_bytes=byte, written_bytes=byte)
    disk = Disk(1e9, 5e8)
    bounds = [duration(each, H100_COMPUTER, disk).bound_by for each in (OPERATIONS, reads, writes, both)]
    assert bounds == [Bound.COMPUTING, Bound.READING, Bound.WRITING, Bound.WRITING]
    seconds = [duration(each, H100_COMPUTER, disk).seconds for each in (reads, writes, both)]
    assert seconds[1] - seconds[0] == pytest.approx(1000)
    assert seconds[2] == seconds[1]


@given(
    st.builds(
        Amounts,
        passes=st.floats(0, 1e18),
        solving=st.floats(0, 1e18),
        head=st.floats(0, 1e16),
        read_bytes=st.integers(10**9, 10**13),
        written_bytes=st.integers(10**9, 10**13),
        lone_read_bytes=st.integers(0, 10**9),
        lone_written_bytes=st.integers(0, 10**9),
    ),
    st.integers(2, 8),
)
def test_more_devices_help_as_far_as_computing_bounds_a_job_and_a_faster_disk_as_far_as_it_does(needed, count):
    fast = Disk(count * MEASURED_DISK.read_bytes, count * MEASURED_DISK.written_bytes)
    one = duration(needed, H100_COMPUTER, MEASURED_DISK)
    several, faster = (
        duration(needed, H100_COMPUTER.divided(count), MEASURED_DISK),
        duration(needed, H100_COMPUTER, fast),
    )
    assert one.seconds / count <= several.seconds <= one.seconds
    assert one.seconds / count <= faster.seconds <= one.seconds
    if several.bound_by is Bound.COMPUTING:
        assert one.bound_by is Bound.COMPUTING
    if faster.bound_by is not Bound.COMPUTING:
        assert one.bound_by is faster.bound_by


def test_a_cpu_is_named_by_its_cores_where_jobs_run_on_one():
    assert set(expected_durations(OPERATIONS, Hardware())) == {H100}
    one, four = (expected_durations(OPERATIONS, Hardware(threads)) for threads in (1, 4))
    assert one["1 CPU core"].seconds == pytest.approx(4 * four["4 CPU cores"].seconds, rel=1e-3)
    divided = expected_durations(OPERATIONS, Hardware(threads=1, processes=4))
    assert 1.1 < divided["4 CPU cores"].seconds / four["4 CPU cores"].seconds < 1.2
