"""What is freed goes back to the system, even below something that stays."""

import os
from pathlib import Path

import pytest
import torch

from secateur_service.pipeline import heap_trimming
from secateur_service.pipeline.heap_trimming import HeapTrimmer

pytestmark = pytest.mark.skipif(heap_trimming._glibc() is None, reason="the C library is not a recent glibc")

PART_BYTES, PARTS = 100 << 10, 1500  # parts so small that they come from the heap whatever was allocated before


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def freed_below_what_stays():
    """Allocate and free 150 MB; what is returned lies above it."""
    parts = [torch.ones(PART_BYTES // 4) for _ in range(PARTS)]
    return parts[-1]


def test_freed_memory_is_given_back():
    own = HeapTrimmer()
    for _ in range(2):  # again, now that some was given back before
        staying = freed_below_what_stays()
        before = resident_bytes()
        own.trim()
        assert before - resident_bytes() > 0.8 * PART_BYTES * PARTS
        assert staying[0] == 1


def test_little_is_kept_for_the_next_use(monkeypatch):
    own = HeapTrimmer()
    monkeypatch.setattr(heap_trimming, "HEAP_SLACK_BYTES", 2 * PART_BYTES * PARTS)
    staying = freed_below_what_stays()
    before = resident_bytes()
    own.trim()
    assert before - resident_bytes() < 0.1 * PART_BYTES * PARTS
    assert staying[0] == 1
