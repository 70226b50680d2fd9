"""Ids, resource names and page tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.api.names import check_labels, check_request_id, new_job_id, parse_job_name
from secateur_service.api.pages import Filter, check_page_size, decode_token, encode_token
from secateur_service.errors import InvalidRequestError
from secateur_service.jobs.states import JobState


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


@given(st.integers(0, 2**63 - 1), st.sets(st.sampled_from(JobState)))
def test_a_page_token_gives_back_its_number_to_the_same_filter_only(before: int, states: set[JobState]):
    wanted = Filter(tuple(sorted(states)))
    token = encode_token(before, wanted)
    assert decode_token(token, wanted) == before
    labelled = encode_token(before, Filter(wanted.states, {"a": "b", "c": "d" * 63}))
    assert decode_token(labelled, Filter(wanted.states, {"c": "d" * 63, "a": "b"})) == before
    other = Filter(tuple(sorted(states ^ {JobState.FAILED})))
    for mine, another in ((token, other), (token, Filter(wanted.states, {"a": "b"})), (labelled, wanted)):
        with pytest.raises(InvalidRequestError):
            decode_token(mine, another)


@given(
    st.text(min_size=1, max_size=60)
    | st.binary(min_size=1).map(lambda raw: __import__("base64").b64encode(raw).decode())
)
def test_any_other_token_is_refused_and_never_a_defect(token: str):
    with pytest.raises(InvalidRequestError):
        decode_token(token, Filter())


def test_a_token_with_numbers_beyond_the_database_is_refused():
    with pytest.raises(InvalidRequestError):
        decode_token(encode_token(2**63, Filter()), Filter())


def test_page_sizes():
    assert [check_page_size(size) for size in (0, 7, 500, 501)] == [50, 7, 500, 500]
