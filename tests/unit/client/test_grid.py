"""The grid of a sweep: every combination once, and each known by what it asks for."""

import copy
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import secateur
from secateur._grid import MAX_POINTS, grid_of
from secateur._spec import load_spec, spec_mapping, spec_message
from secateur_service.api import conversion
from secateur_service.api.names import check_labels, check_request_id
from secateur_service.evaluation.comparison import MAX_JOBS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBER = st.floats(0.01, 0.99)
TAGS = st.sampled_from(["de", "uk", "no", "zh-Hant"])
MIX = st.dictionaries(TAGS, NUMBER, min_size=1)
METHOD = st.sampled_from(["wanda", "ria", "true", "2:4", "a b", ""]) | TEXT
VALUES = {
    "pruning.method": METHOD,
    "pruning.sparsity": NUMBER,
    "calibration.languages": MIX,
    "calibration.seed": st.integers(0, 2**63 - 1),
    "evaluation.languages": st.lists(TAGS, min_size=1, unique=True),
    "calibration.generation.temperature": NUMBER,
    "shrink": st.none() | st.fixed_dictionaries({"plan": TEXT}) | st.just({"vocabulary": {}}),
    "execution": st.fixed_dictionaries({}, optional={"max_attempts": st.integers(1, 9)}),
}
BASE = {"model": {"uri": "file:///m"}, "calibration": {"corpus": "file:///c"}, "pruning": {"update": "cg"}}
LISTS = st.fixed_dictionaries(
    {},
    optional={field: st.lists(value, min_size=1, max_size=3, unique_by=json.dumps) for field, value in VALUES.items()},
).filter(lambda lists: 0 < len(list(itertools.islice(itertools.product(*lists.values()), 51))) <= MAX_POINTS and lists)


def at(part, field):
    for key in field.split("."):
        part = part[key]
    return part


def grid(lists, name=None, **base):
    return grid_of({**BASE, **base, "sweep": lists}, name)


def refusals(lists, **base):
    with pytest.raises(secateur.InvalidSpecError) as caught:
        grid(lists, **base)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_a_grid_is_as_large_as_a_comparison():
    assert MAX_POINTS == MAX_JOBS


@given(lists=LISTS)
def test_every_combination_is_one_point_and_no_field_is_lost(lists):
    before = copy.deepcopy(BASE)
    made = grid(lists)
    combinations = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    assert [point.values for point in made.points] == combinations
    for point in made.points:
        assert {field: at(point.spec, field) for field in lists} == point.values
        assert at(point.spec, "model.uri") == "file:///m"
        assert at(point.spec, "calibration.corpus") == "file:///c"
        assert at(point.spec, "pruning.update") == "cg"
        assert "sweep" not in point.spec
        fields = {"model.uri", "calibration.corpus", "pruning.update", *lists}
        assert set(point.spec) == {field.partition(".")[0] for field in fields}
    assert before == BASE


@given(lists=LISTS)
def test_points_differ_in_names_and_request_ids_and_have_labels_that_the_service_takes(lists):
    made = grid(lists)
    ids = [made.request_id(point) for point in made.points]
    assert len({point.name for point in made.points}) == len(set(ids)) == len(made.points)
    for point, request_id in zip(made.points, ids, strict=True):
        assert check_request_id(request_id) == []
        assert check_labels(made.labels(point)) == []
        assert made.labels(point)["sweep"] == made.name


@given(lists=LISTS, data=st.data())
def test_the_same_content_is_the_same_sweep_in_whichever_order_it_is_written(lists, data):
    shuffled = {field: data.draw(st.permutations(lists[field])) for field in data.draw(st.permutations(list(lists)))}
    first, second = grid(lists), grid(shuffled)
    assert first.name == second.name
    assert set(map(first.request_id, first.points)) == set(map(second.request_id, second.points))


@given(lists=LISTS, data=st.data())
def test_a_named_sweep_keeps_its_points_when_values_are_added(lists, data):
    fewer = {field: values[: data.draw(st.integers(1, len(values)))] for field, values in lists.items()}
    small, large = grid(fewer, "mine"), grid(lists, "mine")
    ids = set(map(large.request_id, large.points))
    assert set(map(small.request_id, small.points)) <= ids
    other = grid(lists, "yours")
    assert ids.isdisjoint(map(other.request_id, other.points))


@given(lists=LISTS)
def test_a_point_is_recognised_in_the_specification_that_the_service_gives_back(lists):
    for point in grid(lists).points:
        stored = json.loads(json.dumps(conversion.spec_to_dict(spec_message(point.spec))))
        answered = spec_mapping(conversion.spec_from_dict(stored))
        assert json.dumps(spec_mapping(spec_message(answered))) == point.content


def test_names_are_short_where_that_is_clear():
    lists = {"pruning.method": ["wanda", "alps"], "calibration.languages": [{"de": 1}, {"de": 0.5, "uk": 0.5}]}
    assert [point.name for point in grid(lists).points] == [
        "method=wanda languages={de:1}",
        "method=wanda languages={de:0.5,uk:0.5}",
        "method=alps languages={de:1}",
        "method=alps languages={de:0.5,uk:0.5}",
    ]
    lists = {"evaluation.languages": [["de"]], "calibration.languages": [["de", "uk"]], "pruning.pattern": ["2:4"]}
    (point,) = grid(lists).points
    assert point.name == "evaluation.languages=[de] calibration.languages=[de,uk] pattern=2:4"


def test_whole_parts_and_none_of_them_can_be_values():
    parts = [{"method": "wanda", "sparsity": 0.6}, {"preset": "fast", "sparsity": 0.6}]
    made = grid_of({"sweep": {"pruning": parts, "shrink": [None, {"plan": "file:///p"}]}})
    assert [dict(point.spec) for point in made.points] == [
        {"pruning": part, "shrink": shrink} for part in parts for shrink in (None, {"plan": "file:///p"})
    ]


@pytest.mark.parametrize(
    ("lists", "field", "said"),
    [
        (None, "sweep", "expected a mapping from fields to lists"),
        ({}, "sweep", "expected a mapping from fields to lists"),
        (["pruning.method"], "sweep", "expected a mapping from fields to lists"),
        ({"pruning.method": "wanda"}, "sweep.pruning.method", "a single value goes into a list"),
        ({"pruning": {"method": ["wanda"]}}, "sweep.pruning", "write pruning.FIELD: [...]"),
        ({"pruning.method": []}, "sweep.pruning.method", "lists no value"),
        ({"pruning..method": ["wanda"]}, "sweep.pruning..method", "is no path"),
        ({"pruning.update": ["cg", "obs"]}, "sweep.pruning.update", "as the text 'cg'; leave it out there"),
        ({"pruning": [{"method": "wanda"}]}, "sweep.pruning", "leave it out there"),
        ({"model.uri.x": [1]}, "sweep.model.uri.x", "lies within model.uri, which is the text"),
        ({"shrink": [None], "shrink.plan": ["p"]}, "sweep.shrink.plan", "lies within shrink, which is listed too"),
        ({"calibration.seed": list(range(26)), "pruning.sparsity": [0.5, 0.6]}, "sweep", "26 × 2 = 52 points"),
        ({"pruning.sparsity": [0.5, 0.50]}, "sweep", "have the same specification"),
        ({"pruning.metod": ["wanda", "ria"]}, "pruning.metod", "did you mean method?"),
        ({"pruning.sparsity": [0.5, "half"]}, "pruning.sparsity", "(at sparsity=half)"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_field_and_the_remedy(lists, field, said):
    assert said in refusals(lists)[field]


def test_a_fault_of_many_points_is_told_once():
    faults = refusals({"pruning.method": ["wanda", "ria"], "calibration.seed": [1, 2, 3, "x"]}, modle={})
    assert faults["modle"].endswith("(at all 8 points)")
    assert faults["calibration.seed"].endswith("(at method=wanda seed=x; method=ria seed=x)")
    seeds = {"pruning.sparsity": ["a"], "calibration.seed": [1, 2, 3, 4, 5]}
    assert refusals({**seeds, "pruning.sparsity": ["a", 0.5]})["pruning.sparsity"].endswith("seed=3 and 2 more)")


@pytest.mark.parametrize("name", ["", "a/b", "-a", "x" * 64, "a b", "a\n"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(secateur.InvalidRequestError, match="is no name"):
        grid({"pruning.method": ["wanda"]}, name)


def test_a_sweep_that_is_submitted_as_one_job_is_refused_with_the_command_that_takes_it(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps({**BASE, "sweep": {"pruning.method": ["wanda"]}}))
    with pytest.raises(secateur.InvalidSpecError, match=re.escape("submit the file with `secateur sweep`")):
        load_spec(path)
