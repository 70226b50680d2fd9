import shutil
from dataclasses import replace

import pytest

from secateur_service.errors import ResourceError
from secateur_service.pipeline.outcome import Estimate
from secateur_service.pipeline.preflight import host_memory_bytes, require_room

SMALL = Estimate(checkpoint_bytes=1, peak_host_bytes=10**6, peak_device_bytes=10**6, disk_bytes=10**6, flops=1.0)


def refusal(estimate, workdir, device_bytes=10**6):
    with pytest.raises(ResourceError) as caught:
        require_room(estimate, workdir, device_bytes=device_bytes)
    return caught.value


def test_a_small_job_fits(tmp_path):
    require_room(SMALL, tmp_path, device_bytes=10**6)
    require_room(SMALL, tmp_path, device_bytes=None)


def test_a_job_that_is_larger_than_the_disk_is_refused_with_both_figures(tmp_path):
    error = refusal(replace(SMALL, disk_bytes=shutil.disk_usage(tmp_path).total + 10**12), tmp_path)
    assert error.reason == "DISK_TOO_SMALL"
    assert error.retryable
    assert "GB" in error.message


def test_what_an_earlier_attempt_left_counts_as_room(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "block").write_bytes(bytes(50 * 10**6))
    free = shutil.disk_usage(tmp_path).free
    require_room(replace(SMALL, disk_bytes=free + 10 * 10**6), tmp_path, device_bytes=None)


def test_memory_that_can_never_suffice_is_a_refusal_and_a_close_estimate_is_none(tmp_path):
    there = host_memory_bytes()
    assert 10**8 < there < 10**14
    assert refusal(replace(SMALL, peak_host_bytes=2 * there), tmp_path).reason == "MEMORY_TOO_SMALL"
    require_room(replace(SMALL, peak_host_bytes=int(1.2 * there)), tmp_path, device_bytes=None)
    assert refusal(replace(SMALL, peak_device_bytes=2 * 10**6), tmp_path).reason == "DEVICE_MEMORY_TOO_SMALL"
