"""Whether two jobs removed the same weights."""

import random

import pytest

from secateur_service.evaluation.block_parts import RemovedBlockPart
from secateur_service.evaluation.comparison import Candidate, compare
from secateur_service.evaluation.overlap import Masks, overlap
from secateur_service.records.blocks import NarrowedRecord
from support.reports import Block, Layer, make_report

POSITIONS = 4096


def digits(zeros):
    return f"{sum(1 << position for position in zeros):0{POSITIONS // 4}x}"


def random_mask(seed, share):
    return digits(random.Random(seed).sample(range(POSITIONS), round(share * POSITIONS)))


def report_of(*samples, shape=(512, 512), names=("mlp.up_proj",), **changes):
    """A report of one block for each sample; with several names, each block has a layer of every name."""
    blocks = [
        Block(index, tuple(Layer(f"h.{index}.{name}.weight", shape, 5, mask_sample=sample) for name in names))
        for index, sample in enumerate(samples)
    ]
    return make_report(blocks=blocks, **changes)


def shared(one, other):
    first, second = Masks.of(one), Masks.of(other)
    return overlap(first, second) if first and second else None


def test_equal_masks_share_all_and_opposite_ones_nothing():
    half, rest = digits(range(2048)), digits(range(2048, 4096))
    same = shared(report_of(half, half), report_of(half, half))
    assert (same.shared, same.chance, same.beyond_chance) == pytest.approx((1, 1 / 3, 1))
    other = shared(report_of(half), report_of(rest))
    assert (other.shared, other.beyond_chance) == pytest.approx((0, -0.5))


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.5), (0.5, 0.7), (0.9, 0.2)])
def test_masks_that_have_nothing_to_do_with_each_other_share_what_chance_gives(first, second):
    samples = [
        [random_mask(f"{round_} {side}", share) for round_ in range(8)] for side, share in enumerate((first, second))
    ]
    found = shared(report_of(*samples[0]), report_of(*samples[1]))
    assert found.chance == pytest.approx(first * second / (first + second - first * second), abs=1e-3)
    assert found.beyond_chance == pytest.approx(0, abs=0.02)


def test_layers_count_alike_and_those_without_zeros_not_at_all():
    half, rest, none = digits(range(2048)), digits(range(2048, 4096)), digits([])
    assert shared(report_of(half, half, none), report_of(half, rest, none)).shared == pytest.approx(0.5)
    assert shared(report_of(none), report_of(none)) is None


def test_experts_of_a_row_are_one_layer():
    names = ("mlp.experts.0.up_proj", "mlp.experts.1.up_proj")
    masks = Masks.of(report_of(digits(range(2048)), names=names))
    assert list(masks.zeros) == [(0, "mlp.experts.*.up_proj")]
    assert masks.sampled == {(0, "mlp.experts.*.up_proj"): 2 * POSITIONS}


def test_what_has_no_positions_in_common_is_not_compared():
    half = digits(range(2048))
    ours = report_of(half)
    without = make_report()
    assert Masks.of(without) is None
    other_shape, removed = report_of(half, shape=(256, 1024)), report_of(half)
    removed = removed.model_copy(update={"removed_blocks": (RemovedBlockPart(block=1, growth={}),)})
    other_model = ours.model_copy(update={"model": ours.model.model_copy(update={"digest": "ef" * 32})})
    for other in (other_shape, removed, other_model):
        assert shared(ours, other) is None
    block = Block(0, (Layer("h.0.mlp.up_proj.weight", (512, 512), 5, mask_sample=half),))
    narrowed = make_report(blocks=[block.__class__(**{**vars(block), "feed_forward": NarrowedRecord((0,), 2, {})})])
    assert Masks.of(narrowed) is None


def test_a_comparison_has_all_pairs_whatever_they_were_evaluated_on():
    half, rest = digits(range(2048)), digits(range(2048, 4096))
    reports = [report_of(half), report_of(half, tokens=9), report_of(rest), make_report()]
    found = compare([Candidate.of(str(number), report) for number, report in enumerate(reports)]).overlaps
    assert {pair.jobs: round(pair.beyond_chance, 3) for pair in found} == {
        ("A", "B"): 1.0,
        ("A", "C"): -0.5,
        ("B", "C"): -0.5,
    }
