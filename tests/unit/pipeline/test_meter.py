"""Progress and the time that is left, by a clock that the work moves; and how much work is done without looking up."""

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from secateur_service.errors import CancelledError
from secateur_service.models import head
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.pass_config import PassConfig
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import run_pass
from secateur_service.pruning.budget import SAMPLE_TOKENS, TILE_TOKENS
from secateur_service.pruning.methods import METHODS, Recipe
from secateur_service.pruning.patterns import Unstructured
from secateur_service.spec import ORDERS
from support.models import save_model
from support.passes import samples_of

# What torch's counter leaves out of the solvers' work.
UNCOUNTED = {
    torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * left[0] * left[1] * right[1],
    torch.ops.aten.linalg_cholesky_ex: lambda shape, **__: round(shape[-1] ** 3 / 3),
    torch.ops.aten.cholesky_inverse: lambda shape, **__: round(2 * shape[-1] ** 3 / 3),
}


class Watched(RecordingObserver):
    """Counts operations between two looks; the clock that it gives goes by them."""

    def __init__(self, counter, stop_after=None):
        super().__init__()
        self.counter = counter
        self.looks = []
        self.stop_after = stop_after

    def clock(self):
        return self.counter.get_total_flops() / 1e6

    def check(self):
        self.looks.append(self.counter.get_total_flops())
        if self.stop_after is not None and self.looks[-1] >= self.stop_after:
            raise CancelledError("enough")


def watched_pass(folder, shards, method, order, *, sequences, length, evaluation, stop_after=None):
    """Run a pass over random tokens; returns what watched it, also where it was stopped."""
    model = StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    shards.mkdir()
    named, *update = method.split("+")
    recipe = Recipe.of(named, *update)
    targets = {info.name: Unstructured(0.5, METHODS[named].group) for info in model.checkpoint.linear_weights()}
    weights = {"de": 0.5, "uk": 0.5}
    calibration = samples_of(weights, sequences, length)
    task = PassConfig(
        recipe, targets, order, weights, calibration, samples_of(["en"], evaluation, length), Shards(shards)
    )
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        observer = Watched(counter, stop_after)
        meter = Meter(observer, clock=observer.clock)
        try:
            run_pass(model, task, FileLedger(shards / "ledger.json"), observer, Stopwatch(), meter)
        except CancelledError:
            assert stop_after is not None
    return model, observer, counter.get_total_flops()


shapes = {
    "hidden": st.sampled_from([64, 128]),
    "intermediate": st.sampled_from([96, 400]),
    "vocabulary": st.sampled_from([260, 3000]),
    "blocks": st.sampled_from([2, 5]),
    "method": st.sampled_from(["wanda", "sparsegpt", "sparsegpt+obs", "alps", "ria"]),
    "order": st.sampled_from(ORDERS),
    "sequences": st.sampled_from([1, 12]),
    "evaluation": st.sampled_from([1, 9, 70]),
}


def shape_of(hidden, intermediate, vocabulary, blocks):
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "vocab_size": vocabulary}
    return {**sizes, "num_hidden_layers": blocks}


@settings(max_examples=3)
@given(**shapes)
def test_between_two_looks_lies_no_more_than_one_product(
    tmp_path_factory, hidden, intermediate, vocabulary, blocks, method, order, sequences, evaluation
):
    length = 64
    base = tmp_path_factory.mktemp("pieces")
    folder = save_model(base / "model", **shape_of(hidden, intermediate, vocabulary, blocks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_HEAD_PIECE_OPERATIONS", {"cpu": 2.0**20})
        _, observer, total = watched_pass(
            folder, base / "shards", method, order, sequences=sequences, length=length, evaluation=evaluation
        )
    batch = min(TILE_TOKENS, length * max(sequences, evaluation))
    rows, widths = max(2 * intermediate, 2 * hidden), max(hidden, intermediate)
    pieces = {
        "a layer on a batch, and its attention": 2 * batch * rows * widths + 4 * batch * length * hidden,
        "a tile of second moments": 3 * batch * widths**2,
        "a step of a solver": 2 * rows * widths**2 + 2 * widths**3,
        "a ratio": 3 * SAMPLE_TOKENS * min(rows, 1024) * widths,
        "the head": 2.0**20 + 2 * vocabulary * hidden,
    }
    gaps = [later - earlier for earlier, later in itertools.pairwise([0, *observer.looks, total])]
    assert max(gaps) <= 1.5 * max(pieces.values()), f"{max(gaps):.3g} of {total:.3g}; {pieces}"


@settings(max_examples=3)
@given(**shapes)
@example(64, 96, 3000, 2, "wanda", "true_sequential", 12, 1)  # the way out of a block weighs more than the evaluation
def test_the_time_that_is_left_is_true_from_the_first_block_on_and_progress_never_goes_back(
    tmp_path_factory, hidden, intermediate, vocabulary, blocks, method, order, sequences, evaluation
):
    base = tmp_path_factory.mktemp("meter")
    folder = save_model(base / "model", **shape_of(hidden, intermediate, vocabulary, blocks))
    _, observer, total = watched_pass(
        folder, base / "shards", method, order, sequences=sequences, length=64, evaluation=evaluation
    )
    fractions = [progress.fraction for progress in observer.history]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1, abs=0.02)
    assert observer.history[-1].eta_seconds == pytest.approx(0, abs=0.02 * total / 1e6)
    done = [progress.blocks_done for progress in observer.history]
    assert len(set(fractions[: done.index(1)])) > 2, "progress moves within a block"
    assert len(set(fractions[done.index(blocks) :])) > 1, "and in the head"
    # The clock goes by operations, and a block takes what was counted, save for a search that ends when it has found.
    slack = 0.35 if method == "alps" else 0.15
    for progress in observer.history[done.index(1) :]:
        over = progress.fraction / max(1e-9, 1 - progress.fraction) * progress.eta_seconds
        assert progress.eta_seconds + over == pytest.approx(total / 1e6, rel=slack)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_a_job_stops_soon_wherever_it_is_also_in_the_head(tmp_path, share):
    folder = save_model(tmp_path / "model", **shape_of(64, 96, 3000, 2))
    sizes = {"sequences": 2, "length": 64, "evaluation": 70}
    _, _, total = watched_pass(folder, tmp_path / "whole", "sparsegpt", "true_sequential", **sizes)
    _, _, spent = watched_pass(
        folder, tmp_path / "stopped", "sparsegpt", "true_sequential", **sizes, stop_after=share * total
    )
    assert share * total <= spent <= share * total + 0.06 * total


def test_judging_blocks_for_an_allocation_counts_too(tmp_path):
    from secateur_service.pipeline.allocation import judge_blocks
    from secateur_service.spec import parse_spec

    folder = save_model(tmp_path / "model")
    model = StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    spec = parse_spec(
        {
            "model": {"uri": "file:///m"},
            "calibration": {"corpus": "file:///c", "languages": [{"language": "de"}], "sequence_length": 64},
            "pruning": {"sparsity": 0.5, "allocation": {"policy": "owl"}},
        }
    )
    observer = RecordingObserver()
    meter = Meter(observer, clock=iter(range(10_000)).__next__)
    meter.begin(model.num_blocks)
    samples = samples_of(["de"], 40, 64)  # three batches a block
    judge_blocks(model, spec, samples, observer, Stopwatch(), lambda _: 0.0, meter)
    assert len({progress.fraction for progress in observer.history}) == 3 * model.num_blocks
    assert meter.seconds_left() == pytest.approx(0)


def test_finished_blocks_count_as_done_and_their_time_is_not_expected_again():
    now = [0.0]
    observer = RecordingObserver()
    meter = Meter(observer, clock=lambda: now[0])
    meter.begin(4)
    meter.plan("evaluate", 400)
    meter.plan("solve", 400)
    meter.skip("solve", 300)
    for _ in range(2):
        now[0] += 1
        meter.tick("evaluate", 100)
    # 200 of evaluating, and 100 of solving that is reckoned like it.
    assert meter.seconds_left() == pytest.approx(3)
    assert observer.history[-1].fraction == pytest.approx((2 + 3) / (2 + 3 + 3))


def test_what_was_tried_out_while_others_had_the_processor_tells_the_truth():
    now, effort = [0.0], [0.0]
    meter = Meter(RecordingObserver(), clock=lambda: now[0], effort=lambda: effort[0])
    meter.begin(1)
    meter.plan("evaluate", 200)
    meter.plan("head", 1000)
    # A tenth of a second of work, which took a second because others were at work.
    began = meter.effort()
    now[0], effort[0] = 1.0, 0.1
    meter.gauge("head", 10, meter.effort() - began)
    meter.lap()
    now[0], effort[0] = 2.0, 0.6  # then every second of work takes two
    meter.tick("evaluate", 100)
    assert meter.seconds_left() == pytest.approx(1 + 1000 * 0.1 / 10 * 2)
    now[0], effort[0] = 3.0, 1.1
    meter.tick("head", 100)
    assert meter.seconds_left() == pytest.approx(1 + 900 / 100)


def test_what_was_tried_out_sets_the_rate_and_is_no_work_done():
    now = [0.0]
    meter = Meter(RecordingObserver(), clock=lambda: now[0])
    meter.begin(1)
    meter.plan("evaluate", 100)
    meter.plan("head", 1000)
    meter.gauge("head", 10, 0.5)
    now[0] = 1.0
    meter.tick("evaluate", 100)
    assert meter.seconds_left() == pytest.approx(50)
    meter.plan("publish", 4e8)
    assert meter.seconds_left() == pytest.approx(52), "a modest network, until it is measured"


def test_a_search_is_a_part_of_the_whole_job_and_its_end_is_not_the_jobs():
    now = [0.0]
    observer = RecordingObserver()
    meter = Meter(observer, clock=lambda: now[0], rate=10.0)
    meter.foresee(1000)
    meter.report()
    assert observer.history[-1].eta_seconds == pytest.approx(100)
    for _ in range(3):  # pieces of a search, each planned when it begins
        meter.detail(100)
        meter.plan("calibrate", 100)
        now[0] += 10
        meter.tick("calibrate", 100)
    assert meter.seconds_left() == pytest.approx(70)
    meter.detail()
    meter.plan("solve", 600)
    assert meter.seconds_left() == pytest.approx(60)
    assert [progress.fraction for progress in observer.history] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_where_more_work_turns_up_the_bar_does_not_stand_still():
    now = [0.0]
    observer = RecordingObserver()
    meter = Meter(observer, clock=lambda: now[0])
    meter.plan("calibrate", 10)
    now[0] += 9
    meter.tick("calibrate", 9)
    meter.plan("head", 100)
    for _ in range(101):
        now[0] += 1
        meter.tick("head" if now[0] > 10 else "calibrate", 1)
    fractions = [progress.fraction for progress in observer.history]
    assert fractions[0] == pytest.approx(0.9)
    assert all(before < after for before, after in itertools.pairwise(fractions))
    assert fractions[-1] == 1


def test_what_others_took_of_the_processor_is_expected_to_be_as_it_was_lately():
    now, effort = [0.0], [0.0]
    meter = Meter(RecordingObserver(), clock=lambda: now[0], effort=lambda: effort[0])
    meter.plan("evaluate", 1000)
    meter.plan("publish", 100)

    def work(kind, amount, seconds, share):
        now[0], effort[0] = now[0] + seconds, effort[0] + seconds * share
        meter.tick(kind, amount)

    for _ in range(100):
        work("evaluate", 1, 10, share=0.1)  # a second of effort each
    for _ in range(100):
        work("evaluate", 1, 10, share=0.1)
    assert meter.seconds_left() == pytest.approx(8000, rel=0.01)
    for _ in range(600):
        work("evaluate", 1, 1, share=1)
    assert meter.seconds_left() == pytest.approx(200, rel=0.2), "although it took five times as long on the whole"
    work("publish", 50, 100, share=0)
    assert meter.seconds_left() == pytest.approx(200 + 100, rel=0.2), "an upload does not take the processor"


def test_bytes_that_were_there_are_not_fetched_again():
    now = [0.0]
    meter = Meter(RecordingObserver(), clock=lambda: now[0])
    tick = meter.reach("fetch", 600, 1000)
    now[0] += 2
    for done in (700, 700):
        tick(done)
    assert meter.seconds_left() == pytest.approx(6)


def test_what_is_being_fetched_is_told_until_all_of_it_is_there():
    observer = RecordingObserver()
    meter = Meter(observer)
    for done, total in ((0, 1000), (400, 1000), (1000, 1000), (70, 0), (0, 0)):
        meter.fetched(done, total)
    told = [(progress.bytes_done, progress.bytes_total) for progress in observer.history]
    assert told == [(0, 1000), (400, 1000), (0, 0), (70, 0), (0, 0)]
