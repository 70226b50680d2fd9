"""Ids, resource names and page tokens."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.api.names import (
    check_id_prefix,
    check_labels,
    check_request_id,
    new_job_id,
    parse_job_name,
)
from secateur_service.api.pages import check_page_size, decode_token, encode_token, parse_order
from secateur_service.errors import InvalidRequestError
from secateur_service.jobs.filters import ALL, NEWEST_FIRST, Filter, Order, OrderKey
from secateur_service.jobs.states import JobState

NO_PLACES = ["[null,1]", "[1]", '["1",2]', "[1,-1]", "[1,true]", "[1,1.0]", "[NaN,1]", "{}", "7"]


@given(st.floats(1.7e9, 1e10), st.floats(0.002, 1e6))
def test_ids_sort_by_age_and_are_names_that_are_accepted(now: float, later: float):
    older, newer = new_job_id(now), new_job_id(now + later)
    assert older < newer
    assert len(older) == len(newer) == 22
    assert parse_job_name(f"pruneJobs/{older}") == older


def test_ids_of_one_moment_differ():
    assert len({new_job_id(1.7e9) for _ in range(1000)}) == 1000


@given(st.text(max_size=70))
def test_a_parsed_name_is_safe_in_paths_and_keys(text: str):
    try:
        job_id = parse_job_name(f"pruneJobs/{text}")
    except InvalidRequestError:
        return
    assert set(job_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert job_id[0] != "-"


@pytest.mark.parametrize("request_id", ["7", "{a}", "0" * 32, "urn:uuid:" + "0" * 36, "g" * 36])
def test_a_request_id_that_is_no_uuid_is_refused(request_id: str):
    assert [violation.field for violation in check_request_id(request_id)] == ["request_id"]


def test_labels_are_limited_in_number_and_length():
    assert check_labels({"k" * 63: "v" * 63}) == []
    assert len(check_labels({"": "", "k" * 64: "v" * 64})) == 3
    assert [violation.field for violation in check_labels({str(number): "" for number in range(65)})] == ["labels"]


@given(
    st.integers(-(2**62), 2**62) | st.floats(allow_nan=False),
    st.integers(0, 2**63 - 1),
    st.sets(st.sampled_from(JobState)),
    st.sampled_from(OrderKey),
)
def test_a_page_token_gives_back_its_place_to_the_same_list_only(
    value: float, number: int, states: set[JobState], key: OrderKey
):
    wanted, order = Filter(tuple(sorted(states))), Order(key)
    token = encode_token((value, number), wanted, order)
    assert decode_token(token, wanted, order) == (value, number)
    labelled = encode_token((value, number), replace(wanted, labels={"a": "b", "c": "d" * 63}), order)
    assert decode_token(labelled, replace(wanted, labels={"c": "d" * 63, "a": "b"}), order) == (value, number)
    others = [
        replace(wanted, states=tuple(sorted(states ^ {JobState.FAILED}))),
        replace(wanted, labels={"a": "b"}),
        replace(wanted, created_from=datetime(2026, 11, 1, tzinfo=UTC)),
        replace(wanted, created_before=datetime(2026, 11, 1, tzinfo=UTC)),
        replace(wanted, id_prefix="0"),
    ]
    for mine, another in [*((token, other) for other in others), (labelled, wanted)]:
        with pytest.raises(InvalidRequestError, match="another order"):
            decode_token(mine, another, order)
    with pytest.raises(InvalidRequestError, match="another order"):
        decode_token(token, wanted, Order(key, descending=False))


@given(
    st.text(min_size=1, max_size=60)
    | st.binary(min_size=1).map(lambda raw: base64.b64encode(raw).decode())
    | st.sampled_from(NO_PLACES).map(lambda place: base64.b64encode(f'{{"after":{place}}}'.encode()).decode())
)
def test_any_other_token_is_refused_and_never_a_defect(token: str):
    with pytest.raises(InvalidRequestError):
        decode_token(token, ALL, NEWEST_FIRST)


def test_a_token_with_numbers_beyond_the_database_is_refused():
    for place in ((0, 2**63), (2**63, 0)):
        with pytest.raises(InvalidRequestError, match="not a token"):
            decode_token(encode_token(place, ALL, NEWEST_FIRST), ALL, NEWEST_FIRST)


def test_orders():
    assert parse_order("") == NEWEST_FIRST == parse_order(" create_time  desc ")
    assert parse_order("worst_growth") == parse_order("worst_growth asc") == Order(OrderKey.WORST_GROWTH, False)
    for text in ("name", "create_time down", "create_time desc, end_time", "DESC"):
        with pytest.raises(InvalidRequestError, match="create_time, end_time, worst_growth"):
            parse_order(text)


def test_only_beginnings_of_ids_are_looked_for():
    assert check_id_prefix("") == check_id_prefix("0ab-") == []
    assert [violation.field for text in ("%", "A", "a_", "a" * 64) for violation in check_id_prefix(text)] == 4 * [
        "id_prefix"
    ]


def test_page_sizes():
    assert [check_page_size(size) for size in (0, 7, 500, 501)] == [50, 7, 500, 500]
