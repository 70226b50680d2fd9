"""Conversations as text, and text as a conversation: corpora whose documents a template is put around."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus, Reading
from secateur_service.calibration.sampling import draw_samples
from secateur_service.calibration.splitting import document_hash, for_evaluation
from secateur_service.commands.demo.tokenizer import BOS_ID, EOS_ID, save_byte_tokenizer
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.pipeline.job_text import _renderer
from support.models import TEXT

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no role ' + message.role) }}"
    "{% endif %}"
    "[{{ message.role }}] {{ message.content }}{{ eos_token }}\n{% endfor %}"
)
TALK = [{"role": "user", "content": "Wie geht es?"}, {"role": "assistant", "content": "Gut."}]
RENDERED = "<s>[user] Wie geht es?</s>\n[assistant] Gut.</s>\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder, max_length=4096)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def render(tokenizer):
    return _renderer(tokenizer)


def write_jsonl(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def write_parquet(path, entries):
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    parquet.write_table(pa.table({name: [entry.get(name) for entry in entries] for name in names}), path)


WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_list_of_messages_becomes_what_the_template_makes_of_it(tmp_path, render, kind):
    long = [{"role": "system", "content": "Sei  höflich"}, *TALK, {"role": "user", "content": "第三行"}]
    WRITERS[kind](tmp_path / f"de.{kind}", [{"messages": TALK}, {"messages": []}, {"messages": long}])
    documents = list(FolderCorpus(tmp_path, "messages", render).documents("de"))
    assert documents == [
        RENDERED,
        RENDERED.replace("<s>", "<s>[system] Sei  höflich</s>\n") + "[user] 第三行</s>\n",
    ]


@pytest.mark.parametrize("kind", ["txt", *WRITERS])
def test_a_text_is_one_message_of_a_user(tmp_path, render, kind):
    path = tmp_path / f"de.{kind}"
    if kind == "txt":
        path.write_text("\n Ein Satz.  \n\nNoch einer.\n")
    else:
        WRITERS[kind](path, [{"text": " Ein Satz.\n"}, {"text": " "}, {"text": "Noch einer."}])
    documents = list(FolderCorpus(tmp_path, render=render).documents("de"))
    assert documents == ["<s>[user] Ein Satz.</s>\n", "<s>[user] Noch einer.</s>\n"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_conversation_is_no_text_and_the_refusal_names_the_template(tmp_path, kind):
    WRITERS[kind](tmp_path / f"de.{kind}", [{"messages": TALK}])
    with pytest.raises(
        CorpusRefusedError, match=rf"de\.{kind}.*conversation.*set chat_template, or another text_field"
    ):
        list(FolderCorpus(tmp_path, "messages").documents("de"))


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([{"role": "narrator", "content": "x"}], "does not accept it: no role narrator"),
        (
            [{"role": "user", "content": "x"}, {"from": "human", "value": "x"}],
            "a list of messages with role and content",
        ),
        ([["nested"]], "a list of messages with role and content"),
        (["plain", "texts"], "a list of messages with role and content"),
    ],
)
def test_what_the_template_does_not_take_is_skipped_and_counted_or_refused_where_it_is_most(
    tmp_path, render, messages, complaint
):
    entries = [{"messages": TALK}, {"messages": messages}]
    write_jsonl(tmp_path / "de.jsonl", entries)
    reading, corpus = Reading(), FolderCorpus(tmp_path, "messages", render)
    assert list(corpus.documents("de", reading=reading)) == [RENDERED]
    assert (reading.rows, reading.without_text) == (2, 1)
    write_jsonl(tmp_path / "de.jsonl", [*entries, *entries[1:]])
    documents = corpus.documents("de")
    assert next(documents) == RENDERED
    with pytest.raises(CorpusRefusedError, match=rf"^de\.jsonl, line 2: .*{complaint}"):
        next(documents)


def test_rows_of_a_table_that_the_template_does_not_take_are_refused_with_the_number_of_the_first(tmp_path, render):
    write_parquet(
        tmp_path / "de.parquet", [{"messages": TALK}] * 2 + [{"messages": [{"role": "x", "content": "y"}]}] * 3
    )
    with pytest.raises(CorpusRefusedError, match=r"^de\.parquet, row 3: .*no role x"):
        list(FolderCorpus(tmp_path, "messages", render).documents("de"))


def test_a_template_that_breaks_is_refused_and_does_not_break_the_job(tmp_path, tokenizer):
    (tmp_path / "de.txt").write_text("Ein Satz.\n")
    for broken in ("{{ messages[0].content + 1 }}", "{{ messages.x.y }}", "{% for %}"):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        tokenizer.chat_template = broken
        with pytest.raises(CorpusRefusedError, match=r"^de\.txt, line 1: .*chat template does not accept it"):
            list(FolderCorpus(tmp_path, render=_renderer(tokenizer)).documents("de"))


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    plain = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    with pytest.raises(ModelRefusedError, match=r"no chat template; leave calibration\.chat_template"):
        _renderer(plain)


def draw(tokenizer, calibration, evaluation, **changes):
    options = {
        "languages": ["de"],
        "evaluation_languages": ["de"],
        "sequences": 4,
        "evaluation_tokens": 512,
        "sequence_length": 128,
        "seed": 0,
        "check": lambda: None,
    }
    return draw_samples(tokenizer, calibration=calibration, evaluation=evaluation, **{**options, **changes})


def test_packed_conversations_begin_and_end_as_the_template_says_and_as_nothing_else(tmp_path, tokenizer, render):
    lines = (TEXT / "de.txt").read_text(encoding="utf-8").splitlines()
    talks = [
        [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
        for a, b in zip(lines[::2], lines[1::2], strict=True)
    ]
    write_jsonl(tmp_path / "de.jsonl", [{"messages": talk} for talk in talks])
    corpus = FolderCorpus(tmp_path, "messages", render)
    drawn, held_out = draw(tokenizer, corpus, corpus, sequence_length=512, evaluation_tokens=1024, sequences=2)
    known = {render(talk).removeprefix("<s>") for talk in talks}
    for sample in (drawn["de"], held_out["de"]):
        for ids in sample.tokens:
            nothing, _, *whole, _ = tokenizer.decode(ids).split("<s>")
            assert nothing == ""  # it begins as a text begins, wherever in a conversation
            assert whole
            assert set(whole) <= known
        is_special = (sample.tokens == BOS_ID) | (sample.tokens == EOS_ID)
        assert not (sample.is_text & is_special).any()
        assert not sample.token_bytes[~sample.is_text].any()
        said = tokenizer.decode(sample.tokens[sample.is_text])
        assert "[user]" not in said
        assert "\n" not in said
        # The last character of a window may be half there and count whole.
        assert int(sample.token_bytes.sum() - sample.is_text.sum()) in (0, 1)
    assert not drawn["de"].document_hashes & held_out["de"].document_hashes


def test_text_in_a_template_and_the_same_text_without_are_one_document_that_does_not_serve_both_purposes(
    tmp_path, tokenizer, render
):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "de.txt").write_bytes((TEXT / "de.txt").read_bytes())
    plain, in_template = FolderCorpus(tmp_path / "one"), FolderCorpus(tmp_path / "one", render=render)
    for without, within in zip(plain.documents("de"), in_template.documents("de"), strict=True):
        assert document_hash(without) == document_hash(within)
        assert for_evaluation(without) == for_evaluation(within)
    for calibration, evaluation in (
        (plain, in_template),
        (in_template, plain),
        (FolderCorpus(tmp_path / "other"), in_template),
    ):
        drawn, held_out = draw(tokenizer, calibration, evaluation, sequences=120)
        assert drawn["de"].documents > 150
        assert not drawn["de"].document_hashes & held_out["de"].document_hashes
