"""The table of presets, and which configuration a language has in it. Whether the hub agrees is asked elsewhere."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.calibration.corpora import CorpusRefusedError
from secateur_service.calibration.languages import parse_language
from secateur_service.calibration.presets import DEFAULT_PRESET, parse_preset, presets
from secateur_service.commands.presets import list_presets
from secateur_service.settings import Settings
from secateur_service.sources.reference import HubReference, parse_reference
from support.hub import hub_server


@pytest.mark.parametrize("preset", presets().values(), ids=presets())
def test_the_table_names_known_languages_and_possible_data_sets(preset):
    assert [parse_language(language) for language in preset.configurations] == list(preset.configurations)
    assert len(set(preset.configurations.values())) == len(preset.configurations)
    assert parse_reference(f"hf://datasets/{preset.repository}") == HubReference("dataset", preset.repository, None)
    assert preset.source.startswith("https://")
    assert not preset.verified, "say in the notes of the change when, and at which commit"


def test_the_languages_of_the_study_are_where_they_are_said_to_be():
    study = {"ar", "de", "en", "es", "ru", "sw", "zh"}
    assert study <= presets()[DEFAULT_PRESET].configurations.keys()
    assert study - {"en"} <= presets()["fineweb-2"].configurations.keys()


@pytest.mark.parametrize(
    ("name", "language", "configuration"),
    [
        ("mc4", "de", "de"),
        ("mc4", "en", "en-multi"),  # `en` is the English-only C4
        ("mc4", "iw", "iw"),
        ("mc4", "he", "iw"),
        ("mc4", "pt-BR", "pt"),
        ("mc4", "nb", "no"),
        ("mc4", "hi-Latn", "hi-Latn"),
        ("mc4", "zh-Hans", "zh"),
        ("mc4", "cmn", "zh"),
        ("fineweb-2", "de-Latn-AT", "deu_Latn"),
        ("fineweb-2", "arb", "arb_Arab"),
        ("fineweb-2", "grc-Grek", "grc_Grek"),
        ("fineweb-2", "sr-Latn", "srp_Latn"),
        ("fineweb-2", "no", "nob_Latn"),
        ("wikipedia", "rw", "20231101.rw"),
        ("hplt", "uk", "ukr_Cyrl"),
    ],
)
def test_a_language_has_the_configuration_of_its_common_name(name, language, configuration):
    assert presets()[name].configuration(language) == configuration


@pytest.mark.parametrize(
    ("name", "language", "hint"),
    [
        ("mc4", "zh-Hant", "it has zh, zh-Latn"),
        ("fineweb-2", "en", "secateur info"),
        ("mc4", "ja-Hira", "it has ja"),
        ("mc4", "zh-TW", "script Hant; it has zh"),
    ],
)
def test_a_language_that_is_not_there_is_refused_with_what_is(name, language, hint):
    with pytest.raises(CorpusRefusedError, match=f"{name} has no {language}.*{hint}"):
        presets()[name].configuration(language)


def test_a_preset_is_named_by_itself_or_with_a_revision_and_everything_else_is_a_place_or_refused():
    assert str(parse_preset("mc4")) == "mc4"
    assert str(parse_preset("mc4@mC4_3.1.0")) == "mc4@mC4_3.1.0"
    assert parse_preset("hf://datasets/org/name") is None
    for wrong in (
        "c4",
        "",
        "mc4@",
        "mc4@../..",
        "mc4@a/b",
        "MC4",
        "/etc/passwd",
        "../mc4",
        "mc4\n",
        "mc4@" + "x" * 999,
    ):
        with pytest.raises(CorpusRefusedError, match=r"no such preset; (use one of mc4, fineweb-2|did you mean mc4)"):
            parse_preset(wrong)


PIECES = st.sampled_from(
    ["mc4", "hplt", "@", "@main", "..", ".", "/", "%2e", "\0", "\n", "a", "-", "²", " ", "x" * 300]
)


@given(st.text() | st.lists(PIECES, max_size=6).map("".join))
def test_whatever_text_a_corpus_is_it_is_a_preset_a_place_or_refused(text):
    try:
        found = parse_preset(text)
    except CorpusRefusedError:
        return
    if found is None:
        assert "://" in text
        return
    assert str(found) == text
    assert found.preset.name in presets()
    assert found.revision is None or re.fullmatch(r"[A-Za-z0-9_.-]{1,250}", found.revision)
    assert ".." not in text


def test_the_hub_is_asked_whether_it_has_what_the_table_says(capsys, tmp_path):
    with hub_server() as hub:
        settings = Settings(hub_endpoint=hub.endpoint, cache_dir=tmp_path)
        commit = hub.add_mc4({name: ["text"] for name in presets()["mc4"].configurations.values()}).commit
        assert list_presets(settings, ["mc4"], check=True) == 0
        assert "the hub has all of them" in capsys.readouterr().out
        hub.add_mc4({"de": ["text"]})
        assert list_presets(settings, ["mc4"], check=True) == 1
        assert "has no configuration af, am, " in capsys.readouterr().out
        assert list_presets(settings, ["wikipedia"], check=True) == 1
        assert "there is no" in capsys.readouterr().out
        hub.repositories["datasets/allenai/c4"].gated = True
        assert list_presets(settings, ["mc4"], check=True) == 1
        assert "is gated" in capsys.readouterr().out
    assert commit
    assert list_presets(settings, [], check=False) == 0
    listed = capsys.readouterr().out
    assert listed.count("verified: no") == len(presets()) == 5
    assert list_presets(settings, ["c4"], check=False) == 2
