"""Text that the model writes itself: a tiny one with random weights, and one that was trained, if it is here."""

import itertools
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.generation import Sampling, SelfWriter
from secateur_service.calibration.identification import identify
from secateur_service.calibration.sampling import draw_samples
from secateur_service.calibration.splitting import for_evaluation
from secateur_service.commands.demo.tokenizer import BOS_ID, EOS_ID, save_byte_tokenizer
from support.models import TEXT, build_model, save_corpora
from support.shared import CORPORA, TRAINED_MODEL, needs_shared

PREFIX = 8
SAMPLING = Sampling(
    prefix_tokens=PREFIX,
    new_tokens=16,
    temperature=0.8,
    top_p=0.95,
    top_k=50,
    repetition_penalty=1.1,
    dropped_share=0.25,
)
HALF = "\N{REPLACEMENT CHARACTER}"  # of a character
ENGLISH = (TEXT / "en.txt").read_text(encoding="utf-8").splitlines()  # one byte a character, one token a byte


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder, max_length=256)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def model():
    return build_model("llama")


@pytest.fixture
def write(model, tokenizer):
    """Write with the tiny model; options are those of the sampling."""

    def go(documents, needed=1, *, seed=0, language="en", check=lambda: None, told=None, **sampling):
        chosen = Sampling(**{**vars(SAMPLING), **sampling})
        writer = SelfWriter(model, tokenizer, chosen, seed, lambda *figures: told is None or told.append(figures))
        return writer.write(language, documents, needed, check)

    return go


def count(tokenizer, texts):
    return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


def test_the_same_seed_writes_the_same_text_and_another_seed_or_language_other_text(write):
    torch.manual_seed(1)
    first = write(ENGLISH[:5])
    torch.manual_seed(2)
    assert write(ENGLISH[:5]) == first
    assert write(ENGLISH[:5], seed=1) != first
    assert write(ENGLISH[:5], language="de") != first


def test_the_random_numbers_of_everything_else_are_left_alone_even_when_it_is_stopped(write):
    def stop():
        raise StopError

    before = torch.get_rng_state()
    write(ENGLISH[:3])
    with pytest.raises(StopError):
        write(ENGLISH[:3], check=stop)
    assert torch.equal(torch.get_rng_state(), before)


def test_three_documents_are_gone_on_from_until_there_are_enough_tokens_each_time_otherwise(write, tokenizer):
    told = []
    written = write(ENGLISH[:3], 1000, told=told)
    assert 1000 <= count(tokenizer, written.texts) < 1300
    assert len(set(written.texts)) == len(written.texts) > 3 * 4
    assert told[-1] == (1000, 1000, "en")
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})


def test_more_documents_than_a_batch_come_in_their_order_again_and_again_each_with_its_own_beginning(write):
    written = write(ENGLISH[:20], 900, dropped_share=0.0)
    assert len(written.texts) > 20
    for document, text in zip(itertools.cycle(ENGLISH[:20]), written.texts, strict=False):
        assert text.startswith(document[:PREFIX])
        assert not text.startswith(document[: 3 * PREFIX]), "nothing was written"


def test_a_document_shorter_than_the_prefix_is_gone_on_from_beside_longer_ones(write):
    short, long = write(["Yes!", ENGLISH[0]], dropped_share=0.0).texts
    assert short.startswith("Ye")  # at most half of it is kept
    assert not short.startswith("Yes!")
    assert long.startswith(ENGLISH[0][:PREFIX])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 0.6])
def test_what_is_left_out_is_the_given_share_and_what_the_plain_model_finds_least_probable(
    write, model, tokenizer, share, monkeypatch
):
    batches, generate = [], model.generate

    def generate_and_keep(ids, **options):
        batches.append((options["attention_mask"], generate(ids, **options)))
        return batches[-1][1]

    monkeypatch.setattr(model, "generate", generate_and_keep)
    written = write(ENGLISH[:23], 23 * PREFIX, dropped_share=share, new_tokens=30)
    texts, losses, lengths = [], [], set()
    for mask, rows in batches:
        for row, padding in zip(rows, (mask == 0).sum(1).tolist(), strict=True):
            ids = row[padding:]
            ends = (ids == EOS_ID).nonzero().flatten().tolist()
            ids = ids[: ends[0]] if ends else ids
            labels = ids.clone()
            labels[: 1 + PREFIX] = -100
            lengths.add(len(ids))
            losses.append(model(ids[None], labels=labels[None]).loss.item() if len(ids) > 1 + PREFIX else 0.0)
            texts.append(tokenizer.decode(ids, skip_special_tokens=True).rstrip(HALF))
    assert len(lengths) > 3, "texts of one length do not tell a mean from a sum"
    left_out = sorted(range(len(texts)), key=losses.__getitem__)[len(texts) - math.floor(share * len(texts)) :]
    assert written.dropped == len(left_out) == math.floor(share * len(texts))
    assert written.texts == [text for at, text in enumerate(texts) if at not in left_out]


def test_the_caller_is_asked_at_every_token_whether_to_go_on(write):
    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls == 5:
            raise StopError

    with pytest.raises(StopError):
        write(ENGLISH[:2], check=check)
    assert calls == 5


def test_nothing_is_written_where_there_is_nothing_to_go_on_from(write):
    calls = []
    written = write([], 1000, check=lambda: calls.append(1))
    assert (written.texts, written.dropped, calls) == ([], 0, [])


def test_the_specification_says_how_tokens_are_drawn_and_not_the_model(write, model):
    expected = write(ENGLISH[:3])
    model.generation_config = GenerationConfig(
        eos_token_id=EOS_ID,
        num_beams=3,
        min_new_tokens=16,
        no_repeat_ngram_size=1,
        suppress_tokens=list(range(2, 100)),
        temperature=5.0,
        max_length=7,
    )
    own = model.generation_config.to_dict()
    assert write(ENGLISH[:3]) == expected
    assert model.generation_config.to_dict() == own


def test_a_temperature_near_zero_takes_the_likeliest_token(write):
    greedy = write(ENGLISH[:3], temperature=1e-4)
    assert write(ENGLISH[:3], temperature=1e-4, seed=5) == greedy
    assert write(ENGLISH[:3], top_k=1, seed=6) == greedy


def test_a_text_ends_before_whichever_of_the_models_ends_comes_first(write, model, tokenizer):
    bang, comma = tokenizer("!,", add_special_tokens=False)["input_ids"]
    model.lm_head = torch.nn.Linear(64, 260)
    with torch.no_grad():  # a model that writes exclamation marks
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[bang] = 1000
    assert write(["OneTwo"]).texts == ["One" + "!" * 16]
    model.generation_config.eos_token_id = [comma, bang]
    assert write(["OneTwo"]).texts == [], "what nothing was added to counts as text"


@pytest.mark.parametrize("name", ["opt", "bloom", "gemma3_text"])
def test_a_text_may_be_as_long_as_the_model_can_take(tokenizer, name):
    length = 40
    limits = {} if name == "bloom" else {"max_position_embeddings": length}
    longest = Sampling(**{**vars(SAMPLING), "new_tokens": length - PREFIX})
    written = SelfWriter(build_model(name, **limits), tokenizer, longest, 0).write("en", ENGLISH[:3], 1, lambda: None)
    assert len(written.texts) == 3


class RecordingWriter(SelfWriter):
    """Remembers what it was given."""

    given = ()

    def write(self, language, documents, needed, check):
        self.given = tuple(documents)
        return super().write(language, documents, needed, check)


def draw(tokenizer, writer, calibration, evaluation, **changes):
    options = {
        "languages": ["de"],
        "evaluation_languages": ["de", "uk"],
        "sequences": 3,
        "evaluation_tokens": 256,
        "sequence_length": 64,
        "seed": 0,
        "check": lambda: None,
        **changes,
    }
    return draw_samples(
        tokenizer, calibration=FolderCorpus(calibration), evaluation=FolderCorpus(evaluation), writer=writer, **options
    )


@pytest.mark.parametrize("shared", [True, False], ids=["one corpus", "two corpora"])
def test_calibration_text_is_written_from_documents_that_are_not_evaluated_and_meets_its_tokens(
    model, tokenizer, tmp_path, shared
):
    calibration, evaluation = save_corpora(tmp_path)
    if shared:
        evaluation = calibration
    else:  # another folder, with the same text in it
        (calibration / "de.txt").write_text((evaluation / "de.txt").read_text() + (calibration / "de.txt").read_text())
    writer = RecordingWriter(model, tokenizer, SAMPLING, 0)
    drawn, held_out = draw(tokenizer, writer, calibration, evaluation, separator="end_of_text")
    assert tuple(drawn["de"].tokens.shape) == (3, 64)
    assert {name: tuple(sample.tokens.shape) for name, sample in held_out.items()} == {"de": (4, 64), "uk": (4, 64)}
    assert drawn["de"].dropped >= 4
    assert [sample.dropped for sample in held_out.values()] == [None, None]
    evaluated = tokenizer.decode(held_out["de"].tokens.flatten(), skip_special_tokens=True)
    documents = set((calibration / "de.txt").read_text().splitlines())
    assert any(document in evaluated for document in documents), "nothing could have been in both"
    assert set(writer.given) < documents
    assert not [document for document in writer.given if document in evaluated]
    if shared:
        assert not [document for document in writer.given if for_evaluation(document)]
    beginnings = {tuple(ids[: PREFIX - 1]) for ids in tokenizer(list(writer.given), add_special_tokens=False).input_ids}
    ids = drawn["de"].tokens.flatten().tolist()
    # Those within a window: what a window begins with may be the middle of a document.
    starts = [at for at, token in enumerate(ids) if token == BOS_ID and 0 < at % 64 <= 64 - PREFIX]
    assert len(starts) > 2
    # Of the prefix's last token there may be only half a character, which is none when the text is read again.
    assert {tuple(ids[start + 1 : start + PREFIX]) for start in starts} <= beginnings
    plain, _ = draw(tokenizer, None, calibration, evaluation, separator="end_of_text")
    assert plain["de"].dropped is None
    assert plain["de"].digest() != drawn["de"].digest()


@needs_shared
@pytest.mark.shared
def test_a_trained_model_goes_on_in_the_language_of_the_prefix():
    trained = AutoModelForCausalLM.from_pretrained(TRAINED_MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(TRAINED_MODEL)
    writer = SelfWriter(trained, tokenizer, Sampling(**{**vars(SAMPLING), "new_tokens": 24}), 0)
    for language in ("de", "uk"):
        documents = (CORPORA / "calibration" / f"{language}.txt").read_text(encoding="utf-8").splitlines()[:16]
        texts = writer.write(language, documents, 100, lambda: None).texts
        assert len(texts) == 12
        assert len(set(texts) - set(documents)) >= 9
        assert identify(language, texts).share > 0.8
