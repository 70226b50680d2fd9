"""What is suggested to somebody who wrote a name that does not exist."""

import math
from typing import Annotated, Literal

import pytest
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from secateur import InvalidRequestError, InvalidSpecError, prune_spec
from secateur._as_written import as_written
from secateur._filter import job_filter
from secateur._findings import worded
from secateur._language import canonical_tag
from secateur._language_names import in_words, language_fault, language_name, meant_languages, nearest_languages
from secateur._spec import spec_message
from secateur._suggestions import close_to, did_you_mean


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("german", ["de"]),
        ("GERMAN", ["de"]),
        ("Deutsch", ["de"]),
        ("francais", ["fr"]),
        ("中文", ["zh"]),
        ("mandarin", ["zh"]),
        ("greek", ["el"]),
        ("germn", ["de"]),
        ("ukrainan", ["uk"]),
        ("ge", ["de", "ka"]),
        ("ua", ["uk"]),
        ("cn", ["zh"]),
        ("jp", ["ja"]),
        ("cz", ["cs"]),
        ("dk", ["da"]),
        ("by", ["be"]),
        ("po", ["pl", "pt"]),
        ("zh-simplified", ["zh"]),
        ("xx", []),
        ("klingon", []),
        ("", []),
    ],
)
def test_a_language_is_known_by_its_names_and_its_countries(written, meant):
    assert canonical_tag(written) is None
    assert meant_languages(written) == meant
    assert all(in_words(tag) in language_fault(written) for tag in meant)
    assert ("did you mean" in language_fault(written)) == bool(meant)


def test_a_tag_is_no_fault():
    assert all(language_fault(tag) is None for tag in ("de", "se", "kr", "zh-Hant", "deu"))


@pytest.mark.parametrize(
    ("tag", "among", "near"),
    [
        ("se", ["de", "sv"], ["sv"]),
        ("kr", ["ko"], ["ko"]),
        ("gsw", ["de", "en"], ["de"]),
        ("pt-BR", ["es", "pt"], ["pt"]),
        ("uk", ["ru"], []),
        ("de", ["de", "en"], []),
        ("de", [], []),
    ],
)
def test_what_a_corpus_has_is_suggested_for_what_it_lacks_where_that_is_likely(tag, among, near):
    assert nearest_languages(tag, among) == near


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("de", "German"),
        ("el", "Greek"),
        ("deu", "German"),
        ("zh-Hant", "Chinese, Traditional"),
        ("zh-TW", "Chinese, Taiwan"),
        ("pt-BR", "Portuguese, Brazil"),
        ("sr-Latn", "Serbian, Latin"),
        ("german", ""),
    ],
)
def test_a_language_has_a_name(tag, name):
    assert language_name(tag) == name
    assert in_words(tag) == (f"{tag} ({name})" if name else tag)


@pytest.mark.parametrize(
    ("written", "known", "meant"),
    [
        ("mC4", ["mc4", "fineweb-2"], "mc4"),
        ("fineweb2", ["mc4", "fineweb-2"], "fineweb-2"),
        ("wiki", ["mc4", "wikipedia"], "wikipedia"),
        ("sparse-gpt", ["wanda", "sparsegpt"], "sparsegpt"),
        ("wnada", ["wanda", "sparsegpt"], "wanda"),
        ("shrink", ["shrink_to", "shrink_axes"], "shrink_to"),
        ("evaluation_tokens_per_language", ["evaluation_languages", "tokens_per_language"], "tokens_per_language"),
        ("calibration_languages", ["evaluation_languages", "languages"], "languages"),
        ("sparsity-goal", ["sparsity", "goal-sparse"], "sparsity"),
        ("tasks_files", ["tasks", "task_files"], "task_files"),
        ("quantise", ["wanda", "sparsegpt"], None),
        ("", ["wanda"], None),
    ],
)
def test_the_nearest_name_is_suggested(written, known, meant):
    assert close_to(written, known) == meant


def test_several_names_are_one_question():
    assert did_you_mean([]) == ""
    assert did_you_mean(["a", "b"]) == "did you mean a or b?"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"sparsity": 0.5}, "sparsity: no such field, did you mean pruning.sparsity?"),
        ({"calibration": {"langages": ["de"]}}, "calibration.langages: no such field, did you mean languages?"),
        ({"pruning": {"sparsity": "50 %"}}, "not the text '50 %'; did you mean 0.5?"),
        ({"pruning": {"sparsity": "0,5"}}, "not the text '0,5'; did you mean 0.5?"),
        ({"pruning": {"sparsity": "half"}}, "expected a number, not the text 'half'"),
    ],
)
def test_what_has_the_wrong_shape_is_refused_with_what_was_meant(spec, told):
    with pytest.raises(InvalidSpecError) as refused:
        spec_message(spec)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("langs", "languages"),
        ("Sparsity", "sparsity"),
        ("evaluation_langs", "evaluation_languages"),
        ("evaluation_tokens_per_language", "tokens_per_language"),
    ],
)
def test_an_unknown_option_is_refused_with_the_one_that_was_meant(option, told):
    with pytest.raises(TypeError, match=f"no such option: {option}, did you mean {told}[?] known are revision"):
        prune_spec("file:///m", languages=["de"], **{option: 1})


WRITTEN = {
    "calibration": {"languages": {"ge": 0.5, "uk": -1}},
    "limits": {"languages": [{"language": "ge", "growth": 0.1}]},
    "pruning": {"overrides": {"*.down_proj.weight": "2/4"}},
    "shrink": {"vocabulary": {"weights": {"en": None}}},
}


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("calibration.languages[0].language", "calibration.languages.ge"),
        ("calibration.languages[1].weight", "calibration.languages.uk"),
        ("calibration.languages", "calibration.languages"),
        ("calibration.languages[7].language", "calibration.languages[7].language"),
        ("limits.languages[0].language", "limits.languages[0].language"),
        ("pruning.overrides[0].pattern", "pruning.overrides.*.down_proj.weight"),
        ("shrink.vocabulary.weights[0].weight", "shrink.vocabulary.weights.en"),
        ("evaluation.languages[0]", "evaluation.languages[0]"),
        ("pruning.sparsity", "pruning.sparsity"),
    ],
)
def test_a_field_has_the_name_that_its_author_wrote(field, name):
    assert as_written(field, WRITTEN) == name


def test_an_entry_of_a_list_of_languages_is_named_by_its_position():
    assert as_written("calibration.languages[1].language", {"calibration": {"languages": ["de", "ge"]}}) == (
        "calibration.languages[1]"
    )
    assert as_written("calibration.languages[1].language", {"calibration": "nothing"}).endswith("[1].language")


@pytest.mark.parametrize(
    ("kind", "value", "ratio", "told"),
    [
        (float, "half", False, "expected a number such as 0.5, not 'half'"),
        (float, "5%", False, "expected a number such as 0.5, not '5%'; write 0.05 for 5 %"),
        (float, "5 %", True, "expected a number such as 0.5, not '5 %'; write 1.05 for 5 %"),
        (float, "0,5", False, "expected a number such as 0.5, not '0,5'; did you mean 0.5?"),
        (int, "two", False, "expected a whole number such as 2, not 'two'"),
        (bool, "perhaps", False, "expected true or false, not 'perhaps'"),
        (str, 1, False, "expected a text, not 1"),
        (list[str], "a", False, "expected a list, not 'a'"),
        (dict[str, str], "a", False, "expected a mapping, not 'a'"),
        (Literal["SUCCEEDED", "FAILED"], "done", False, "one of SUCCEEDED, FAILED, not 'done'; did you mean SUCCEEDED"),
        (FiniteFloat, math.inf, False, "a finite number such as 0.5, not one that is infinite or too large"),
        (FiniteFloat, -math.inf, False, "a finite number such as 0.5, not one that is infinite or too large"),
        (FiniteFloat, math.nan, False, "a finite number such as 0.5, not nan"),
        (Annotated[int, Field(ge=1)], 0, False, "has to be greater than or equal to 1, not 0"),
    ],
)
def test_what_a_validator_finds_is_told_in_words_with_an_example(kind, value, ratio, told):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    (finding,) = caught.value.errors()
    assert told in worded(finding, ratio=ratio)
    assert repr(value) not in worded(finding, shown=False)


def test_a_state_that_is_none_is_refused_with_the_one_that_is_meant():
    with pytest.raises(InvalidRequestError, match=r"states\[1\]: 'done' is no state of a job; did you mean SUCCEEDED"):
        job_filter(["FAILED", "done"], None, None, None)


@pytest.mark.parametrize("path", ["calibration.languages", "limits.languages", "pruning.overrides", "pruning"])
def test_a_colon_without_a_space_is_told_wherever_a_mapping_stands(path):
    spec: dict = {"de:0.5": None}
    for step in reversed(path.split(".")):
        spec = {step: spec}
    with pytest.raises(InvalidSpecError, match=r"a colon needs a space behind it; did you mean de: 0\.5"):
        spec_message(spec)
