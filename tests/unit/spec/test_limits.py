"""Limits of languages, and the one for all others."""

import pytest

from secateur_service.errors import InvalidSpecError
from secateur_service.spec import parse_spec

SPEC = {
    "model": {"uri": "file:///models/m"},
    "calibration": {"corpus": "file:///corpora/c", "languages": [{"language": "de"}, {"language": "uk"}]},
    "pruning": {"sparsity": 0.5},
}


def limits(languages, evaluated=()):
    asked = [{"language": language, "growth": growth} for language, growth in languages.items()]
    spec = parse_spec({**SPEC, "evaluation": {"languages": evaluated}, "limits": {"languages": asked}})
    return {entry.language: entry.growth for entry in spec.limits.languages}


@pytest.mark.parametrize(
    ("languages", "evaluated", "expected"),
    [
        ({"*": 0.03}, (), {"de": 0.03, "uk": 0.03}),
        ({"*": 0.03}, ("en", "de"), {"en": 0.03, "de": 0.03}),
        ({"*": 0.03, "DE": 0.01}, ("de", "uk"), {"de": 0.01, "uk": 0.03}),
        ({"de": 0.01, "uk": 0.02, "*": 0.03}, (), {"de": 0.01, "uk": 0.02}),
    ],
)
def test_a_limit_for_the_others_is_one_for_each_evaluated_language_without_its_own(languages, evaluated, expected):
    assert limits(languages, evaluated) == expected


def test_a_resolved_specification_has_no_limit_for_the_others():
    spec = parse_spec({**SPEC, "limits": {"languages": [{"language": "*", "growth": 0.03}]}})
    assert parse_spec(spec.model_dump(mode="json")) == spec
    assert "*" not in spec.model_dump_json()


def test_only_limits_know_a_language_for_all_others():
    with pytest.raises(InvalidSpecError, match=r"evaluation\.languages"):
        parse_spec({**SPEC, "evaluation": {"languages": ["*"]}})


def test_two_limits_for_the_others_are_refused():
    with pytest.raises(InvalidSpecError, match="listed twice"):
        parse_spec({**SPEC, "limits": {"languages": [{"language": "*", "growth": growth} for growth in (0.1, 0.2)]}})
