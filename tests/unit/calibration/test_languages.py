"""One name for a language: over everything that CLDR's likely subtags know, not only the examples."""

import os
import re

import langcodes
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langcodes.data_dicts import LANGUAGE_REPLACEMENTS, LIKELY_SUBTAGS

from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus, corpus_files
from secateur_service.calibration.identification import identify
from secateur_service.calibration.languages import (
    is_right_to_left,
    parse_language,
    script_of,
    spelling_of,
    without_region,
)
from secateur_service.calibration.mixing import MC4_TOKENS
from secateur_service.calibration.presets import presets

LIKELY = {tag: langcodes.Language.get(full, normalize=False) for tag, full in LIKELY_SUBTAGS.items()}
# Without deprecated ones, which have the script of the language that replaced them.
CURRENT = {tag: likely for tag, likely in LIKELY.items() if langcodes.standardize_tag(tag) == tag}
LANGUAGES = sorted({tag.partition("-")[0] for tag in CURRENT} - {"und"})
# Those that imply a script; for all others the script is that of the language.
REGIONAL = sorted(tag for tag in CURRENT if re.fullmatch(r"(?!und)[a-z]+-([A-Z]{2}|[0-9]{3})", tag))
REGIONS = sorted({tag.territory for tag in LIKELY.values()} | {tag.partition("-")[2] for tag in REGIONAL})
SCRIPTS = sorted({tag.script for tag in LIKELY.values()})


def known_script(language, region):
    return (LIKELY.get(f"{language}-{region}") or LIKELY[language]).script


ANY = st.tuples(st.sampled_from(LANGUAGES), st.sampled_from(REGIONS)) | st.sampled_from(
    [tuple(tag.split("-")) for tag in REGIONAL]
)


@pytest.mark.parametrize(
    ("tag", "canonical"),
    [
        ("DE", "de"),
        ("deu", "de"),
        ("iw", "he"),
        ("in", "id"),
        ("ji", "yi"),
        ("mo", "ro"),
        ("tl", "fil"),
        ("nb", "no"),
        ("no", "no"),
        ("nb-NO", "no-NO"),
        ("nn", "nn"),
        ("cmn", "zh"),
        ("zh-cmn-hant", "zh-Hant"),
        ("yue", "yue"),
        ("arb", "ar"),
        ("arz", "arz"),
        ("sh", "sr-Latn"),
        ("sr-latn", "sr-Latn"),
        ("sr-Cyrl", "sr"),
        ("sr-ME", "sr-Latn-ME"),
        ("sr-Cyrl-ME", "sr-Cyrl-ME"),
        ("zh-Hans", "zh"),
        ("zh_TW", "zh-Hant-TW"),
        ("zh-HK", "zh-Hant-HK"),
        ("zh-MO", "zh-Hant-MO"),
        ("zh-Hans-TW", "zh-Hans-TW"),
        ("pa-PK", "pa-Arab-PK"),
        ("uz-AF", "uz-Arab-AF"),
        ("az-IR", "az-Arab-IR"),
        ("kk-CN", "kk-Arab-CN"),
        ("pt-BR", "pt-BR"),
        ("en-Latn-US", "en-US"),
        ("pnb", "pnb"),
        ("tw", "tw"),
    ],
)
def test_a_language_has_one_name(tag, canonical):
    assert parse_language(tag) == canonical
    assert spelling_of(parse_language(tag)) == tag
    assert spelling_of("de") == "de"


@given(pair=ANY, style=st.sampled_from([str.lower, str.upper, lambda tag: tag.replace("-", "_")]))
def test_the_script_is_what_language_and_region_imply_however_the_tag_is_written(pair, style):
    language, region = pair
    tag = f"{language}-{region}"
    canonical = parse_language(tag)
    script = known_script(language, region)
    assert script_of(canonical) == script
    assert canonical == parse_language(f"{language}-{script}-{region}") == parse_language(style(tag))
    assert parse_language(canonical) == canonical
    assert without_region(canonical) == parse_language(f"{language}-{script}")


@given(pair=ANY, script=st.sampled_from(SCRIPTS))
@example(pair=("pa", "PK"), script="Guru")
def test_a_script_that_is_named_is_kept_whatever_the_region_implies(pair, script):
    language, region = pair
    canonical = parse_language(f"{language}-{script}-{region}")
    assert script_of(canonical) == script
    assert parse_language(canonical) == canonical


def test_every_region_that_implies_a_script_of_its_own_shows_it():
    found = 0
    for tag in REGIONAL:
        language, _, region = tag.partition("-")
        if LIKELY[tag].script != LIKELY.get(language, LIKELY[tag]).script:
            found += 1
            assert parse_language(tag) == parse_language(f"{language}-{LIKELY[tag].script}-{region}")
            assert f"-{LIKELY[tag].script}-" in parse_language(tag)
    assert found > 30


def test_every_deprecated_tag_is_the_language_that_replaced_it():
    for old, new in LANGUAGE_REPLACEMENTS.items():
        if langcodes.tag_is_valid(old) and langcodes.tag_is_valid(new):
            assert parse_language(old) == parse_language(new), old


@pytest.mark.parametrize("tag", ["", "xq", "de--AT", "english please", "x" * 64, "de\n", "💬", "../de"])
def test_what_bcp_47_does_not_know_is_refused(tag):
    with pytest.raises(ValueError, match="is not a language that BCP 47 knows"):
        parse_language(tag)


@given(
    st.text() | st.lists(st.sampled_from(["de", "Latn", "x", "u", "419", "-", "_", "İ", "𝟘"]), max_size=8).map("".join)
)
def test_whatever_a_tag_is_it_is_a_language_with_one_name_or_refused(tag):
    try:
        canonical = parse_language(tag)
    except ValueError as error:
        assert "is not a language that BCP 47 knows" in str(error)  # noqa: PT017
    else:
        assert parse_language(canonical) == canonical


def test_the_table_of_shares_has_canonical_names():
    assert [parse_language(tag) for tag in MC4_TOKENS] == list(MC4_TOKENS)


# Presets


def configuration(preset, tag):
    try:
        return preset.configuration(tag)
    except CorpusRefusedError as error:
        return str(error).partition(" has no ")[0]


@pytest.mark.parametrize("preset", presets().values(), ids=presets())
def test_a_region_has_the_text_of_the_script_that_it_implies_or_none(preset):
    known = {tag.partition("-")[0] for tag in preset.configurations}
    pairs = [tag.split("-") for tag in REGIONAL]
    pairs += [(language, region) for language in ("zh", "sr", "pa", "uz", "az", "kk", "de") for region in REGIONS]
    checked = 0
    for language, region in pairs:
        base = parse_language(language)
        if base not in known:
            continue
        tag, script = f"{base}-{region}", script_of(parse_language(f"{base}-{region}"))
        found = configuration(preset, tag)
        if tag not in preset.configurations:
            assert found == configuration(preset, f"{base}-{script}")
        named = re.search(r"_([A-Z][a-z]{3})$", found)
        assert named is None or named[1] in (script, "Hani", "Hang")
        checked += 1
    assert checked > 500


# Files


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("zh-Hant.txt", "zh-hant"),
        ("he.txt", "iw"),
        ("iw.jsonl", "he"),
        ("no.txt", "nb"),
        ("NB/a.txt", "no"),
        ("zh-Hant-TW.txt", "zh-TW"),
        ("zh_TW/a.parquet", "zh-Hant-TW"),
        ("sr-Latn.txt.gz", "sh"),
        ("deu.txt", "de"),
    ],
)
def test_files_are_found_under_any_spelling_of_their_language(tmp_path, name, wanted):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"text")
    assert FolderCorpus(tmp_path).files(wanted) == [path]
    assert corpus_files([name, "README.md", "en.txt"], [wanted]) == [name]
    assert FolderCorpus(tmp_path).languages() == [parse_language(wanted)]


@given(pair=ANY)
def test_a_file_of_any_language_is_found_by_each_of_its_names(tmp_path_factory, pair):
    language, region = pair
    names = [f"{language}-{region}", f"{language}-{known_script(language, region)}-{region}".lower()]
    for name, wanted in zip(names, reversed(names), strict=True):
        folder = tmp_path_factory.mktemp("corpus")
        (folder / f"{name}.txt").write_text("text")
        assert FolderCorpus(folder).files(wanted) == [folder / f"{name}.txt"]


@pytest.mark.parametrize(
    "names", [("he.txt", "iw.txt"), ("zh-TW.txt", "zh-Hant-TW.txt"), ("no.jsonl", "nb.txt"), ("de.txt", "DE.txt.gz")]
)
def test_two_files_of_one_language_are_refused_with_both_names(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(CorpusRefusedError) as refused:
        FolderCorpus(tmp_path).files(names[0].partition(".")[0])
    assert all(name in str(refused.value) for name in names)


def test_what_is_no_file_is_no_text_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "de.txt")
    (tmp_path / "en.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "uk.txt").write_text("text")
    (tmp_path / os.fsdecode(b"\xff\x1b[31m.txt")).write_text("text")
    with pytest.raises(CorpusRefusedError, match=r"has no file de\.txt.* in: en \(English\), uk \(Ukrainian\)$"):
        FolderCorpus(tmp_path).files("de")
    with pytest.raises(CorpusRefusedError, match=r"has en\.txt, a link that leads nowhere"):
        FolderCorpus(tmp_path).files("en")


def test_a_missing_language_is_refused_with_what_is_there(tmp_path):
    for name in ("de.txt", "german.txt", "notes.txt", "zh-Hant.txt"):
        (tmp_path / name).write_text("text")
    with pytest.raises(CorpusRefusedError) as refused:
        FolderCorpus(tmp_path).files(parse_language("zh-TW"))
    assert "has no file zh-TW.txt" in str(refused.value)
    assert "it has text in: de (German), zh-Hant (Chinese, Traditional); named by no language" in str(refused.value)


@pytest.mark.parametrize(
    "name", ["de.zip", "de.tar", "de.tar.gz", "de.tgz", "de.txt.bz2", "de.jsonl.xz", "de.tar.zst", "de/a.zip", "DE.7z"]
)
def test_archives_are_refused_with_the_remedy(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"PK")
    if name.startswith("de/"):
        (tmp_path / "de" / "b.txt").write_text("text")
    assert corpus_files([name], ["de"]) == [name]
    with pytest.raises(CorpusRefusedError, match=rf"has an archive, {re.escape(name)}; unpack it into de.txt"):
        FolderCorpus(tmp_path).files("de")


@pytest.mark.parametrize("tag", ["uz-AF", "kk-CN", "pa-PK", "az-IR"])
def test_text_in_the_script_of_a_region_is_not_called_another_language(tag):
    assert identify(parse_language(tag), ["متن"]) is None


def test_text_runs_as_its_script_does():
    assert all(map(is_right_to_left, ("ar", "fa", "he", "ur", "yi", "dv", "ks", "az-Arab", "pa-PK")))
    assert not any(map(is_right_to_left, ("de", "zh", "hi", "az", "ar-Latn", "ks-Deva")))
