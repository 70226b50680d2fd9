"""The guess at the language of text, on text of which the language is known."""

import pytest

from secateur_service.calibration.identification import MOST_DOCUMENTS, Identified, identify, off_language
from support.models import TEXT
from support.shared import CORPORA, needs_shared

OWN = ("de", "en", "es", "uk")

SENTENCES = {
    "da": [
        "Hvad hedder den bog, som du læste i går aftes?",
        "Vi skal ikke købe mere mad, før køleskabet er tomt.",
        "Jeg har boet i København, siden jeg var ti år gammel.",
    ],
    "eu": [
        "Egun on, gaur mendira joango gara eta han bazkalduko dugu.",
        "Liburu hau oso interesgarria dela uste dut.",
        "Nire anaiak ez du inoiz kotxerik gidatu.",
    ],
    "hr": [
        "Sutra ćemo otići na more i vratiti se tek u nedjelju navečer.",
        "Ovaj grad ima mnogo lijepih ulica i starih kuća.",
        "Moja sestra uči svirati glasovir već tri godine.",
    ],
    "id": [
        "Saya tidak tahu mengapa toko itu tutup lebih awal hari ini.",
        "Anak-anak sedang bermain di halaman belakang rumah.",
        "Kami akan berangkat ke kota besok pagi dengan kereta.",
    ],
    "no": [
        "Hva heter boken som du leste i går kveld?",
        "Vi skal ikke kjøpe mer mat før kjøleskapet er tomt.",
        "Jeg har bodd i Oslo siden jeg var ti år gammel.",
    ],
    "ru": [
        "Завтра мы поедем в деревню и вернёмся только вечером.",
        "Эта книга показалась мне очень интересной.",
        "Мой брат ещё ни разу не водил машину.",
    ],
    "zh-Hant": [
        "這本書非常有趣，我昨天晚上看到很晚才睡。",
        "我們明天早上坐火車去城裡看朋友。",
        "孩子們正在院子裡玩耍，天氣很好。",
    ],
}


def lines(language):
    return (TEXT / f"{language}.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("written", OWN)
def test_text_is_told_to_be_in_its_own_language_and_in_no_other(written):
    for claimed in OWN:
        found = identify(claimed, lines(written))
        if claimed == written:
            assert found.share > 0.95
        else:
            assert found.share < 0.05
            assert (found.other, found.other_share > 0.9) == (written, True)


@needs_shared
@pytest.mark.shared
def test_real_sentences_of_seven_languages_are_told_apart():
    texts = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in (CORPORA / "evaluation").iterdir()}
    assert len(texts) == 7
    for claimed in texts:
        shares = {written: identify(claimed, text).share for written, text in texts.items()}
        assert {written for written, share in shares.items() if share > 0.9} == {claimed}
        assert {written for written, share in shares.items() if share > 0.05} == {claimed}


@pytest.mark.parametrize(
    ("claimed", "written"),
    [
        ("nb", "no"),
        ("nn", "no"),
        ("da", "no"),
        ("sr-Latn", "hr"),
        ("bs", "hr"),
        ("ms", "id"),
        ("zh", "zh-Hant"),
        ("yue", "zh-Hant"),
        ("zh-Hant", "zh-Hant"),
        ("no", "da"),
    ],
)
def test_languages_that_nobody_tells_apart_by_a_sentence_count_as_the_same(claimed, written):
    assert identify(claimed, SENTENCES[written]).share == 1


@pytest.mark.parametrize(
    ("claimed", "written"), [("uk", "ru"), ("be", "ru"), ("hr", "ru"), ("de", "no"), ("ja", "zh-Hant")]
)
def test_languages_of_one_script_or_family_are_not_the_same_for_that(claimed, written):
    found = identify(claimed, SENTENCES[written])
    assert found.share == 0
    assert found.other == written.partition("-")[0]


@pytest.mark.parametrize("claimed", ["eu", "ca", "gl"])
def test_a_language_is_not_the_one_that_its_readers_read_besides(claimed):
    found = identify(claimed, lines("es"))
    assert found.share < 0.1
    assert found.other == "es"
    assert identify("eu", SENTENCES["eu"]).share == 1


@pytest.mark.parametrize(
    "claimed", ["tlh", "haw", "co", "mul", "und", "x-private", "hi-Latn", "ru-Latn", "zh-Latn", "uz-Arab"]
)
def test_a_language_that_cannot_be_told_is_not_guessed_at(claimed):
    assert identify(claimed, lines("en")) is None


def test_a_variant_and_another_name_of_a_language_are_the_language():
    for claimed in ("de-AT", "de-Latn", "DE", "deu", "gsw"):
        assert identify(claimed, lines("de")).share > 0.95


def test_nothing_is_said_about_no_documents():
    assert identify("de", []) is None


def test_only_the_first_documents_are_looked_at():
    first = lines("de")[:MOST_DOCUMENTS]
    assert len(first) == MOST_DOCUMENTS
    assert identify("de", [*first, *lines("en")]) == identify("de", first)
    assert identify("de", [*lines("en")[:MOST_DOCUMENTS], *first]).share < 0.05


def test_of_a_long_document_the_beginning_tells():
    long = " ".join(lines("de") * 2)
    assert identify("de", [long + " ".join(lines("en") * 20)]).share == 1


def test_shares_are_those_of_the_documents():
    mixed = [*lines("de")[:60], *lines("en")[:30], *lines("es")[:10]]
    assert identify("de", mixed) == Identified(100, pytest.approx(0.6), "en", pytest.approx(0.3))
    assert identify("uk", mixed) == Identified(100, 0, "de", pytest.approx(0.6))


def test_texts_in_another_language_are_told_by_a_guess():
    german, english = ((TEXT / f"{name}.txt").read_text(encoding="utf-8").splitlines()[:2] for name in ("de", "en"))
    assert off_language("de", german) == (0, 2)
    assert off_language("de", [*german, *english]) == (2, 4)


def test_where_no_guess_is_possible_the_script_tells_and_else_nothing():
    transcribed = "yeh ek chhota sa vaakya hai jo hindi mein likha gaya hai"
    assert identify("hi-Latn", [transcribed]) is None
    assert off_language("hi-Latn", [transcribed]) == (0, 1)
    assert off_language("hi-Latn", [transcribed, "यह एक छोटा सा वाक्य है जो हिंदी में लिखा गया है"]) == (1, 2)
    assert off_language("tlh-Piqd", [transcribed]) == (0, 0)


def test_texts_of_a_few_letters_are_not_judged():
    assert off_language("de", []) == (0, 0)
    assert off_language("de", ["1 234,5 " * 20, "", "This is short."]) == (0, 0)
    assert off_language("de", ["This is short. " * 20, "the 2000-er-was-was-was-was-was-was-was-was-was"]) == (0, 0)
    assert off_language("de", ["This is short.", "This is an English sentence, and long enough to be judged."]) == (
        1,
        1,
    )
