"""Windows over generated documents, for tokenizers that begin a text in the ways that tokenizers do."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from secateur_service.calibration.documents import rendered
from secateur_service.calibration.packing import Framing, pack, token_sizes
from secateur_service.commands.demo.tokenizer import BOS, BOS_ID, EOS, EOS_ID, byte_tokenizer


def build(*, adds=None, bos=BOS, eos=EOS):
    """A byte-level tokenizer that puts `adds` around a text, `$A` being the text."""
    core = byte_tokenizer()
    core.post_processor = processors.TemplateProcessing(
        single=adds or "$A", special_tokens=[(BOS, BOS_ID), (EOS, EOS_ID)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos)


NEWLINE = 2 + sorted(pre_tokenizers.ByteLevel.alphabet()).index("Ċ")
# The tokenizer, what begins a text, and what ends one and begins another.
TOKENIZERS = {
    "begins with one token": (build(adds=f"{BOS} $A"), [BOS_ID], [EOS_ID, BOS_ID]),
    "adds both": (build(adds=f"{BOS} $A {EOS}"), [BOS_ID], [EOS_ID, BOS_ID]),
    "adds nothing": (build(), [], [EOS_ID]),
    "adds only the end": (build(adds=f"$A {EOS}"), [], [EOS_ID]),
    "one token for both, added": (build(adds=f"{EOS} $A", bos=EOS), [EOS_ID], [EOS_ID]),
    "one token for both, not added": (build(bos=EOS), [], [EOS_ID]),
    "has neither": (build(bos=None, eos=None), [], []),
    "begins with two tokens": (build(adds=f"{BOS} {BOS} $A"), [BOS_ID, BOS_ID], [EOS_ID, BOS_ID, BOS_ID]),
}
DOCUMENTS = st.lists(st.text("aß字 🌲", min_size=1, max_size=12), min_size=1, max_size=12)


def bytes_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def cut(tokenizer, documents, length, separator="newline"):
    """As many windows as there are."""
    packed = pack(tokenizer, documents, 10**9, lambda: None, separator)
    count = 0
    while packed.windows(count + 1, length) is not None:
        count += 1
    return packed.windows(count, length)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_framing_is_what_the_tokenizer_itself_does(name):
    tokenizer, beginning, end_of_text = TOKENIZERS[name]
    framings = [Framing.of(tokenizer, separator) for separator in ("newline", "end_of_text")]
    assert [list(framing.beginning) for framing in framings] == [beginning] * 2
    assert [list(framing.separator) for framing in framings] == [[NEWLINE], end_of_text]
    assert tokenizer("ab")["input_ids"][: len(beginning) + 2] == beginning + bytes_of(tokenizer, "ab")


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(documents=DOCUMENTS, length=st.integers(4, 20), kind=st.sampled_from(["newline", "end_of_text"]))
def test_every_window_begins_as_the_tokenizer_begins_a_text_and_its_text_is_that_of_the_documents(
    name, documents, length, kind
):
    tokenizer, beginning, end_of_text = TOKENIZERS[name]
    separator = [NEWLINE] if kind == "newline" else end_of_text
    windows = cut(tokenizer, documents, length, kind)
    text = list(itertools.chain.from_iterable(bytes_of(tokenizer, document) for document in documents))
    assert windows.tokens.shape[1] == length
    found = windows.tokens[windows.is_text].tolist()
    assert found == text[: len(found)]
    assert len(text) - len(found) < length  # what does not fill a window
    for ids, is_text in zip(windows.tokens.tolist(), windows.is_text.tolist(), strict=True):
        assert ids[: len(beginning)] == beginning
        runs = [
            [token for token, _ in group]
            for text_here, group in itertools.groupby(zip(ids, is_text, strict=True), key=lambda pair: pair[1])
            if not text_here
        ]
        inner = runs[1:] if beginning else runs
        assert is_text[len(beginning)]  # no window begins with a separator
        assert not any(is_text[: len(beginning)])
        assert all(run == separator for run in inner[:-1])
        assert all(run == separator[: len(run)] for run in inner[-1:])  # the last may be cut off


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)
@given(documents=DOCUMENTS, length=st.integers(4, 20), kind=st.sampled_from(["newline", "end_of_text"]))
def test_the_text_that_is_scored_does_not_depend_on_how_it_is_cut_into_documents(name, documents, length, kind):
    tokenizer = TOKENIZERS[name][0]
    whole = cut(tokenizer, ["".join(documents)], length, kind)
    parts = cut(tokenizer, documents, length, kind)
    shorter = min(int(whole.is_text.sum()), int(parts.is_text.sum()))
    for field in ("tokens", "token_bytes"):
        first, second = (getattr(windows, field)[windows.is_text][:shorter] for windows in (whole, parts))
        assert torch.equal(first, second)


@given(documents=DOCUMENTS)
def test_the_bytes_of_text_tokens_are_those_of_the_text(documents):
    windows = cut(TOKENIZERS["begins with one token"][0], documents, 2)
    assert int(windows.token_bytes[windows.is_text].sum()) == sum(len(document.encode()) for document in documents)
    assert not windows.token_bytes[~windows.is_text].any()


@given(text=st.text(min_size=1, max_size=40), data=st.data())
def test_the_bytes_of_tokens_add_up_to_the_bytes_of_the_content(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    offsets = list(itertools.pairwise([0, *cuts, len(text)]))
    # A byte-level vocabulary splits a character: several tokens then report the same characters.
    doubled = [pair for pair in offsets for _ in range(data.draw(st.integers(1, 3)))]
    is_content = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    assert sum(token_sizes(text, doubled)) == len(text.encode())
    sizes = token_sizes(text, doubled, is_content)
    content = "".join(itertools.compress(text, is_content))
    assert sum(sizes) == len(content.encode())
    assert min(sizes) >= 0


TALKS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text("aß ", min_size=1)}),
    min_size=1,
    max_size=4,
)


def template(content):
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
    return BOS + "".join(f"[{message['role']}] {message['content'].strip()}{EOS}\n" for message in messages)


@settings(max_examples=60)
@given(talks=st.lists(TALKS, min_size=1, max_size=4), length=st.integers(4, 30))
def test_of_a_conversation_what_was_said_is_text_and_its_template_is_context(talks, length):
    tokenizer, beginning, _ = TOKENIZERS["begins with one token"]
    windows = cut(tokenizer, [rendered(template, talk) for talk in talks], length)
    said = "".join(message["content"].strip() for talk in talks for message in talk)
    found = windows.tokens[windows.is_text].tolist()
    assert found == bytes_of(tokenizer, said)[: len(found)]
    for ids in windows.tokens.tolist():
        assert ids[:1] == beginning
        assert ids[1] != BOS_ID  # what begins a text is not doubled


def test_where_a_template_changes_what_was_said_all_but_special_tokens_is_text():
    tokenizer = TOKENIZERS["begins with one token"][0]
    windows = cut(tokenizer, [rendered(lambda text: f"{BOS}{text.upper()}{EOS}", "ab cd")], 7)
    assert windows.tokens[windows.is_text].tolist() == bytes_of(tokenizer, "AB CD")
    assert int(windows.token_bytes.sum()) == 5


def test_a_vocabulary_without_a_line_break_has_nothing_between_documents():
    vocabulary = {"<unk>": 0, "a": 1, "b": 2}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    assert Framing.of(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")).separator == ()


def pairs_tokenizer():
    """As the byte-level one that begins a text, but with tokens for pairs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("a", "a"), ("Ã", "Ł"), ("Ġ", "a"), ("a", "Ċ")]  # the second is all of ß
    vocabulary = {name: at for at, name in enumerate([BOS, EOS, *alphabet, *map("".join, pairs)])}
    core = Tokenizer(models.BPE(vocabulary, pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS)


@settings(max_examples=100)
@given(documents=DOCUMENTS, length=st.integers(4, 20), finer=st.booleans())
def test_the_same_stretches_of_text_in_the_tokens_of_another_tokenizer_are_the_same_text(documents, length, finer):
    ways = [TOKENIZERS["begins with one token"][0], pairs_tokenizer()]
    one, other = reversed(ways) if finer else ways
    windows = cut(one, documents, length)
    again = pack(other, documents, 10**9, lambda: None).windows_between(windows.spans) if len(windows.tokens) else None
    if again is None:
        return
    whole = list(itertools.chain.from_iterable(bytes_of(other, document) for document in documents))
    found = again.tokens[again.is_text].tolist()
    assert found == whole[: len(found)], "no token is lost, none is there twice"
    assert again.tokens[:, 0].tolist() == [BOS_ID] * len(windows.tokens)
    longest = 2 if finer else 3  # of the tokens that may reach over the end of a window
    for before, after in zip(windows.token_bytes.sum(1).tolist(), again.token_bytes.sum(1).tolist(), strict=True):
        assert abs(before - after) <= 2 * longest
    total = abs(int(windows.token_bytes.sum()) - int(again.token_bytes.sum()))
    assert total <= longest, "differences of single windows make up for each other"
    for ids, is_text in zip(again.tokens.tolist(), again.is_text.tolist(), strict=True):
        filled = len(is_text) - is_text[::-1].index(True)  # what fills a window up lies behind its text
        assert BOS_ID not in ids[1:filled]


def test_text_again_in_the_same_tokens_is_the_same():
    tokenizer = TOKENIZERS["begins with one token"][0]
    documents = ["aß字", "🌲🌲 a", "a" * 30, "ß"]
    windows = cut(tokenizer, documents, 7)
    again = pack(tokenizer, documents, 10**9, lambda: None).windows_between(windows.spans)
    assert torch.equal(again.tokens, windows.tokens)
    assert torch.equal(again.token_bytes, windows.token_bytes)
    assert again.spans == windows.spans
