import shutil
from dataclasses import replace

import pytest

from secateur_service.errors import ResourceError
from secateur_service.records.result import Estimate, Shortage
from secateur_service.sizing.preflight import available_here, find_room, host_memory_bytes

SMALL = Estimate(checkpoint_bytes=1, peak_host_bytes=10**6, peak_device_bytes=10**6, disk_bytes=10**6, flops=1.0)


def room(estimate, workdir, device_bytes, **options):
    """Room for a job that always takes the same."""
    there = available_here(workdir, device_bytes)
    return find_room(lambda _: estimate, there, on_device=device_bytes is not None, **options)


def refusal(estimate, workdir, device_bytes=10**6):
    with pytest.raises(ResourceError) as caught:
        room(estimate, workdir, device_bytes)
    return caught.value


def test_a_small_job_fits(tmp_path):
    assert room(SMALL, tmp_path, 10**6) == set()
    assert room(SMALL, tmp_path, None) == set()
    assert room(SMALL, tmp_path, None, shortages=[Shortage.HOST]) == {Shortage.HOST}


def test_a_job_that_is_larger_than_the_disk_is_refused_with_both_figures(tmp_path):
    error = refusal(replace(SMALL, disk_bytes=shutil.disk_usage(tmp_path).total + 10**12), tmp_path)
    assert error.reason == "DISK_TOO_SMALL"
    assert error.retryable
    assert "GB" in error.message


def test_what_an_earlier_attempt_left_counts_as_room(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "block").write_bytes(bytes(50 * 10**6))
    free = shutil.disk_usage(tmp_path).free
    room(replace(SMALL, disk_bytes=free + 10 * 10**6), tmp_path, None)


def test_memory_that_can_never_suffice_is_a_refusal_and_a_close_estimate_is_none(tmp_path):
    there = host_memory_bytes()
    assert 10**8 < there < 10**14
    assert refusal(replace(SMALL, peak_host_bytes=2 * there), tmp_path).reason == "MEMORY_TOO_SMALL"
    room(replace(SMALL, peak_host_bytes=int(1.2 * there)), tmp_path, None)
    assert refusal(replace(SMALL, peak_device_bytes=2 * 10**6), tmp_path).reason == "DEVICE_MEMORY_TOO_SMALL"


@pytest.mark.parametrize(
    ("host", "device", "spared"),
    [
        (0.5, 0.5, set()),
        (0.5, 2, {Shortage.DEVICE}),
        (2, 0.5, {Shortage.HOST}),
        (2, 2, {Shortage.HOST, Shortage.DEVICE}),
    ],
)
def test_a_job_spares_no_more_memory_than_it_has_to(tmp_path, host, device, spared):
    there = host_memory_bytes()

    def estimate(shortages):
        return replace(
            SMALL,
            peak_host_bytes=1 if Shortage.HOST in shortages else int(host * there),
            peak_device_bytes=1 if Shortage.DEVICE in shortages else int(device * 10**6),
        )

    assert find_room(estimate, available_here(tmp_path, 10**6), on_device=True) == spared
