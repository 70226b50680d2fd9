import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.errors import InvalidSpecError
from secateur_service.pruning.methods import METHODS, UPDATES, goes_together
from secateur_service.spec import parse_parts, parse_spec

GOOD = {
    "model": {"uri": "file:///m"},
    "calibration": {"corpus": "file:///c", "languages": [{"language": "de", "weight": 2}, {"language": "uk"}]},
    "pruning": {"method": "wanda", "sparsity": 0.5},
}


def violations(**parts):
    with pytest.raises(InvalidSpecError) as caught:
        parse_spec({**GOOD, **parts})
    return {violation.field: violation.description for violation in caught.value.violations}


def test_weights_are_normalised_and_samples_divided_equally():
    calibration = parse_spec(GOOD).calibration
    assert calibration.weights == {"de": pytest.approx(2 / 3), "uk": pytest.approx(1 / 3)}
    assert calibration.samples_per_language == 64


@pytest.mark.parametrize(
    ("part", "content", "field", "complaint"),
    [
        ("pruning", {"sparsity": 1.5}, "pruning.sparsity", "less than 1, not 1.5; expected a share"),
        ("pruning", {"sparsity": 0}, "pruning.sparsity", "greater than 0"),
        ("pruning", {"sparsity": math.nan}, "pruning.sparsity", "finite number"),
        ("pruning", {}, "pruning.sparsity", "exactly one of sparsity and pattern"),
        ("pruning", {"sparsity": 0.5, "pattern": "2:4"}, "pruning.sparsity", "exactly one of sparsity and pattern"),
        ("pruning", {"pattern": "3:2"}, "pruning.pattern", "'3:2' is not a pattern that keeps some"),
        ("pruning", {"pattern": "4:4"}, "pruning.pattern", "is not a pattern"),
        ("pruning", {"pattern": "0:4"}, "pruning.pattern", "is not a pattern"),
        ("pruning", {"pattern": "2/4"}, "pruning.pattern", "expected N:M"),
        ("pruning", {"method": "wandaa", "sparsity": 0.5}, "pruning.method", "expected one of magnitude, wanda"),
        ("pruning", {"method": "wanda", "update": "admm", "sparsity": 0.5}, "pruning.update", "does not go with wanda"),
        ("pruning", {"method": "alps", "update": "cg", "sparsity": 0.5}, "pruning.update", "does not go with alps"),
        ("pruning", {"patern": "2:4", "sparsity": 0.5}, "pruning.patern", "known fields are method"),
        ("calibration", {"corpus": "file:///c", "languages": []}, "calibration.languages", "at least one language"),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "xq"}]},
            "calibration.languages[0].language",
            "'xq' is not a language that BCP 47 knows; expected a BCP 47 tag",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}, {"language": "de"}]},
            "calibration.languages",
            "each language may appear once",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de", "weight": 0}]},
            "calibration.languages",
            "the weights sum to zero",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de", "weight": -1}]},
            "calibration.languages[0].weight",
            "not negative",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}, {"language": "uk"}], "samples": 1},
            "calibration.samples",
            "cannot serve 2 languages",
        ),
        ("evaluation", {"languages": ["de", "de"]}, "evaluation.languages", "names a language twice"),
        ("model", {}, "model.uri", "field required; expected a folder"),
        ("modell", {}, "modell", "no such part of a specification; known are model"),
    ],
)
def test_a_broken_rule_is_named_by_its_field_with_the_remedy_and_by_nothing_else(part, content, field, complaint):
    found = violations(**{part: content})
    assert list(found) == [field]
    assert complaint in found[field]


def test_all_broken_rules_come_back_together():
    found = violations(
        pruning={"sparsity": 2},
        calibration={"corpus": "", "languages": [{"language": "xq"}, {"language": "de", "weight": math.inf}]},
        evaluation={"tokens_per_language": 1},
    )
    assert list(found) == [
        "calibration.corpus",
        "calibration.languages[0].language",
        "calibration.languages[1].weight",
        "pruning.sparsity",
        "evaluation.tokens_per_language",
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("update", UPDATES)
def test_methods_take_the_updates_that_go_with_them(method, update):
    data = {**GOOD, "pruning": {"method": method, "update": update, "sparsity": 0.5}}
    if goes_together(method, update):
        assert parse_spec(data).pruning.effective_update == update
    else:
        with pytest.raises(InvalidSpecError):
            parse_spec(data)


def test_equal_specifications_have_equal_digests_and_others_have_not():
    other = {**GOOD, "pruning": {"method": "wanda", "sparsity": 0.6}}
    assert parse_spec(GOOD).digest() == parse_spec(dict(reversed(GOOD.items()))).digest() != parse_spec(other).digest()


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


PARTS = ["model", "calibration", "pruning", "evaluation", "output", "execution"]


@given(part=st.sampled_from(PARTS), content=json_like)
def test_whatever_a_part_holds_it_is_accepted_or_refused_with_its_fields(part, content):
    _, found = parse_parts({**GOOD, part: content})
    assert all(violation.field.startswith(part) and violation.description for violation in found)
