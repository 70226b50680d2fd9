"""How narrowly the growth is expected to be known, against what was measured."""

import json
import math
import statistics
from dataclasses import asdict
from pathlib import Path

import pytest

from secateur._convert import _estimate
from secateur_service.api.conversion import estimate_to_message
from secateur_service.records.decoding import decode
from secateur_service.records.result import Estimate
from secateur_service.sizing.margin import growth_margin

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def test_four_times_the_tokens_halve_the_margin_and_none_leave_none():
    assert growth_margin(4096) == pytest.approx(growth_margin(1024) / 2)
    assert growth_margin(0) == 0


def test_the_margin_is_the_median_of_what_the_benchmark_measured_on_short_documents():
    constants = [
        row["half_width"] * math.sqrt(int(tokens))
        for path in RESULTS.glob("evaluation_tokens-*-sentences.json")
        for languages in json.loads(path.read_text())["recipes"].values()
        for found in languages.values()
        if found["growth"] < 1.5
        for tokens, row in found["by_tokens"].items()
    ]
    assert growth_margin(1) == pytest.approx(statistics.median(constants), rel=0.1)


def test_the_margin_survives_the_way_to_the_sdk_and_records_of_earlier_releases_have_none():
    earlier = {"checkpoint_bytes": 1, "peak_host_bytes": 2, "peak_device_bytes": 0, "disk_bytes": 4, "flops": 5.0}
    assert decode(Estimate, earlier).growth_margin == 0
    found = decode(Estimate, asdict(Estimate(**earlier, growth_margin=0.009)))
    assert _estimate(estimate_to_message(found)).growth_margin == 0.009
