"""How much of each axis goes: every plan fits its budget, and the best is the one that brute force finds."""

import itertools

import pytest

from secateur_service.pruning.structured.amounts import (
    TOKENS_SLOPE,
    Amounts,
    BlockSizes,
    Costs,
    Prediction,
    Sizes,
    candidates,
    choose_amounts,
    neighbours,
    worst,
)

ROWS = {1024: {"de": 0.0, "uk": 0.0}, 512: {"de": 0.02, "uk": 0.01}, 256: {"de": 0.1, "uk": 0.05}}
SIZES = Sizes(Amounts(1024, 0, 4, 64), outside=100, row=16, blocks=[BlockSizes(20_000, 500, 200)] * 6)


def curve(full, price):
    """Shares that rise with the square of what goes."""
    return {
        count: {"de": price * (1 - count / full) ** 2, "uk": 2 * price * (1 - count / full) ** 2}
        for count in full_range(full)
    }


def full_range(full):
    return range(full, full // 4 - 1, -full // 4)


COSTS = Costs(
    rows=ROWS,
    order=[4, 1],
    blocks=[{"de": 0.0, "uk": 0.0}, {"de": 0.12, "uk": 0.001}, {"de": 0.3, "uk": 0.06}],
    heads=[curve(4, 0.01 * (1 + index)) for index in range(6)],
    channels=[curve(64, 0.1) for _ in range(6)],
    multiple=8,
)


def prediction():
    return Prediction(COSTS, ({"de": 2.0, "uk": 1.5}, {"de": 1.0, "uk": 0.5}), {})


def everything():
    return itertools.product(range(3), (4, 3, 2, 1), range(64, 15, -8))


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.35])
def test_every_plan_has_as_many_rows_as_its_budget_leaves(share):
    budget = int(share * SIZES.parameters(SIZES.dense, ()))
    found = list(candidates(SIZES, COSTS, budget))
    expected = []
    for removed, heads, channels in everything():
        for rows in range(1024, 255, -64):
            amounts = Amounts(rows, removed, heads, channels)
            if SIZES.parameters(amounts, COSTS.order[:removed]) <= budget:
                expected.append(amounts)
                break
    assert found == expected
    assert found


def test_the_best_plan_is_that_of_brute_force():
    budget = int(0.6 * SIZES.parameters(SIZES.dense, ()))
    found = list(candidates(SIZES, COSTS, budget))
    known, limits = prediction(), {"de": 0.02, "uk": 0.01}
    best = choose_amounts(found, known, limits)

    def cost(amounts):
        total = {}
        for language, slope_h, slope in (("de", 2.0, 1.0), ("uk", 1.5, 0.5)):
            low, high = max(r for r in ROWS if r <= amounts.rows), min(r for r in ROWS if r >= amounts.rows)
            way = 0 if low == high else (amounts.rows - low) / (high - low)
            extra = ROWS[low][language] + way * (ROWS[high][language] - ROWS[low][language])
            gone = COSTS.order[: amounts.removed]
            left = [index for index in range(6) if index not in gone]
            heads = sum(COSTS.heads[index][amounts.heads][language] for index in left)
            low_c, high_c = (
                max(c for c in full_range(64) if c <= amounts.channels),
                min(c for c in full_range(64) if c >= amounts.channels),
            )
            way = 0 if low_c == high_c else (amounts.channels - low_c) / (high_c - low_c)
            ends = [COSTS.channels[0][c][language] for c in (low_c, high_c)]
            channels = len(left) * (ends[0] + way * (ends[1] - ends[0]))
            total[language] = (
                TOKENS_SLOPE * extra + COSTS.blocks[amounts.removed][language] + slope_h * heads + slope * channels
            )
        return max(total["de"] / 0.02, total["uk"] / 0.01)

    assert cost(best) == pytest.approx(min(map(cost, found)))
    assert worst(known.growth(best), limits) == pytest.approx(cost(best))
    assert len({choose_amounts(found, known, {"de": d, "uk": 1 - d}) for d in (0.01, 0.5, 0.99)}) > 1, "limits count"


def test_a_prediction_learns_what_was_measured():
    known, amounts = prediction(), Amounts(512, 1, 3, 48)
    known.learn(amounts, {"de": 0.2, "uk": 0.1})
    assert known.growth(amounts) == pytest.approx({"de": 0.2, "uk": 0.1})
    assert known.slopes[1] == {"de": 1.0, "uk": 0.5}, "what is lost with heads says nothing of channels"
    wide = Amounts(512, 1, 4, 48)
    known.learn(wide, {"de": -0.5, "uk": 0.1})  # less than what goes apart from the width costs
    assert known.slopes[1]["de"] == pytest.approx(0.1)
    assert known.growth(wide)["uk"] == pytest.approx(0.1)
    before = known.growth(Amounts(512, 0, 4, 64))
    known.vocabularies[512] = {"de": -0.01, "uk": 0.0}
    assert before == pytest.approx({"de": TOKENS_SLOPE * 0.02, "uk": TOKENS_SLOPE * 0.01})
    assert known.growth(Amounts(512, 0, 4, 64)) == pytest.approx({"de": -0.01, "uk": 0.0})
    assert known.growth(Amounts(256, 0, 4, 64))["de"] == pytest.approx(-0.01 + TOKENS_SLOPE * 0.08)
    assert known.growth(Amounts(1024, 0, 4, 64)) == {"de": 0.0, "uk": 0.0}, "the whole vocabulary costs nothing"


def test_plans_beside_one_are_a_step_away():
    found = list(candidates(SIZES, COSTS, int(0.7 * SIZES.parameters(SIZES.dense, ()))))
    amounts = next(plan for plan in found if (plan.removed, plan.heads, plan.channels) == (1, 3, 40))
    near = neighbours(found, amounts, prediction(), {"de": 1.0, "uk": 1.0})
    assert {(plan.removed, plan.heads) for plan in near} == {(1, 3), (0, 3), (2, 3), (1, 2), (1, 4)}
    assert {plan.channels for plan in near if (plan.removed, plan.heads) == (1, 3)} == {32, 48}
