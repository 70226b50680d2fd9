"""Text whose tokens are all kept is encoded as before, by every kind of tokenizer; all other text stays readable."""

import json
import random

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.token_graph import TokenGraph
from secateur_service.models.trimmed_tokenizer import VOCAB_MAP, named_tokens, trim_files
from secateur_service.pruning.structured.vocabulary import choose_rows
from support.vocabularies import KINDS, LINES, tokenizer_json

READABLE = ("byte-level", "whole words", "byte fallback")


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


class Scene:
    """A tokenizer before and after most of its tokens went, with the text of some lines in mind."""

    def __init__(self, kind, folder):
        self.content = json.loads(tokenizer_json(kind))
        (folder / "tokenizer.json").write_text(tokenizer_json(kind), encoding="utf-8")
        self.before = Tokenizer.from_str(tokenizer_json(kind))
        self.special = {entry["content"] for entry in self.content["added_tokens"] if entry["special"]}
        graph = TokenGraph.open(folder)
        self.size = len(graph.tokens)
        counts = [0] * self.size
        for line in LINES[::30]:
            for token in self.before.encode(line).ids:
                counts[token] += 1
        shares = {"all": [count / sum(counts) for count in counts]}
        mandatory = graph.required() | named_tokens(folder, ["tokenizer.json"], {}, graph)
        self.graph, self.parents = graph, graph.parents()
        self.rows = choose_rows(shares, self.parents, mandatory, extra_tokens=1e-9, multiple=1)
        self.kept = frozenset(self.rows.kept)
        files = trim_files(folder, ["tokenizer.json"], {"vocab_size": self.size}, self.rows.kept, self.size)
        self.files, self.config = files.files, files.config
        self.after = Tokenizer.from_str(files.files["tokenizer.json"].decode())
        self.new = {old: number for number, old in enumerate(self.rows.kept)}


@pytest.fixture(scope="module")
def scene(kind, tmp_path_factory):
    return Scene(kind, tmp_path_factory.mktemp("tokenizer"))


def assert_same_tokens(scene, text):
    """Whether all tokens of a text are kept; those that come out are the same then."""
    before = scene.before.encode(text).ids
    if not scene.kept >= set(before):
        return False
    assert [scene.new[token] for token in before] == scene.after.encode(text).ids
    return True


def test_covered_lines_have_the_same_tokens(scene):
    covered = [assert_same_tokens(scene, line) for line in LINES]
    assert len(LINES[::30]) <= sum(covered) < len(LINES)


def test_covered_pieces_of_text_have_the_same_tokens_however_they_are_joined(scene):
    rng = random.Random(0)
    words = sorted({word for line in LINES for word in line.split()})
    covered = 0
    for _ in range(2000):
        text = "".join(rng.choice(["", " ", "  ", "\n"]) + rng.choice(words) for _ in range(rng.randint(1, 4)))
        covered += assert_same_tokens(scene, text)
    assert covered > 100


def text_of(tokenizer, text):
    return tokenizer.decode(tokenizer.encode(text).ids)


def test_every_line_is_read_as_before(scene):
    for line in LINES:
        assert text_of(scene.after, line) == text_of(scene.before, line)


@settings(max_examples=300)
@given(text=st.text(max_size=40))
@example(text="</s>")
def test_whatever_text_it_is_read_as_before(scene, kind, text):
    # The name of a special token that went is text like any other from then on.
    assume(not any(name in text for name in scene.special - scene.after.get_vocab().keys()))
    before, after = text_of(scene.before, text), text_of(scene.after, text)
    if kind in READABLE:
        assert after == before
    assert_same_tokens(scene, text)


def test_ids_are_dense_and_in_the_old_order(scene):
    vocabulary = scene.after.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(scene.kept)))
    by_id = sorted(vocabulary, key=vocabulary.get)
    old = scene.before.get_vocab()
    assert [old[token] for token in by_id] == sorted(scene.kept)
    assert json.loads(scene.files[VOCAB_MAP])["old_ids"] == sorted(scene.kept)
    assert scene.config == {"vocab_size": len(scene.kept)}


def test_what_begins_a_text_is_where_it_was(scene):
    first = scene.before.token_to_id("<s>")
    assert scene.before.encode("a").ids[0] == first
    assert scene.after.encode("a").ids[0] == scene.new[first] == scene.after.token_to_id("<s>")
    assert scene.after.token_to_id("<unused1>") is None


def test_an_orphan_is_kept_without_parts_and_found_where_words_are_looked_up(tmp_path):
    scene = Scene("whole words", tmp_path)
    orphans = [number for number, pieces in scene.parents.items() if not pieces and len(scene.graph.tokens[number]) > 1]
    used = [number for number in orphans if number in scene.kept and number not in scene.graph.added]
    assert used
    for number in used:
        assert assert_same_tokens(scene, scene.graph.text(number))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"type": "WordPiece"}, "type WordPiece"),
        ({"type": "WordLevel"}, "type WordLevel"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
        ({"continuing_subword_prefix": "##"}, "continuing_subword_prefix"),
    ],
)
def test_a_vocabulary_of_another_kind_is_refused(tmp_path, change, told):
    content = json.loads(tokenizer_json("byte-level"))
    content["model"] |= change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelRefusedError, match=told):
        TokenGraph.open(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"model": 3}, {"model": {"type": "BPE"}, "added_tokens": [3]}])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelRefusedError):
        TokenGraph.open(tmp_path).parents()


def test_every_place_that_holds_an_id_follows(tmp_path):
    """Ids that are named stay, wherever they are named, and are the same tokens afterwards."""
    content = json.loads(tokenizer_json("byte-level"))
    ids = content["model"]["vocab"]
    content["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": ids["<pad>"],
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    rows = len(ids)
    word, other = sorted(ids.values())[-2:]
    files = {
        "tokenizer.json": content,
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "unk_token": {"content": "<unk>"},
            "extra_special_tokens": {"image_token": "<unused0>"},
            "added_tokens_decoder": {str(number): {"content": token} for token, number in list(ids.items())[:6]},
        },
        "generation_config.json": {
            "eos_token_id": [ids["</s>"], word],
            "pad_token_id": ids["<pad>"],
            "suppress_tokens": [ids["<pad>"], ids["<unused1>"]],
            "bad_words_ids": [[other]],
            "forced_decoder_ids": [[1, other]],
            "sequence_bias": [[[other, word], 1.5], [[ids["<unused1>"]], -1.0]],
        },
        "added_tokens.json": {"<pad>": ids["<pad>"], "<unused1>": ids["<unused1>"]},
        "vocab.json": ids,
    }
    for name, each in files.items():
        (tmp_path / name).write_text(json.dumps(each))
    merges = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in content["model"]["merges"])
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    for name in ("tokenizer.model", "o200k.tiktoken", "tekken.json", "vocab.txt", "tokenizer.model.v3"):
        (tmp_path / name).write_bytes(b"x")
    names = sorted(path.name for path in tmp_path.iterdir())
    config = {
        "bos_token_id": ids["<s>"],
        "pad_token_id": -1,
        "text_config": {"vocab_size": rows, "eos_token_id": ids["</s>"]},
        "image_token_index": rows + 7,
        "vocab_size": rows,
        "hidden_size": rows,
    }
    graph = TokenGraph.open(tmp_path)
    named = named_tokens(tmp_path, names, config, graph)
    assert {ids[token] for token in ("<pad>", "<s>", "</s>", "<unk>", "<unused0>")} | {word, other} <= named
    assert ids["<unused1>"] not in named
    mandatory = {number for number in graph.required() | named if number < rows}
    shares = {"all": [1 / rows] * rows}
    chosen = choose_rows(shares, graph.parents(), mandatory, rows=1, multiple=1)
    trimmed = trim_files(tmp_path, names, config, chosen.kept, rows)
    read = {name: json.loads(each) for name, each in trimmed.files.items() if name.endswith(".json")}
    new = read["tokenizer.json"]["model"]["vocab"]
    assert set(trimmed.left_out) == {
        "tokenizer.model", "o200k.tiktoken", "tekken.json", "vocab.txt", "tokenizer.model.v3"
    }  # fmt: skip
    tokens = {number: token for token, number in ids.items()}
    assert read["tokenizer.json"]["padding"]["pad_id"] == new["<pad>"]
    assert read["generation_config.json"] == {
        "eos_token_id": [new["</s>"], new[tokens[word]]],
        "pad_token_id": new["<pad>"],
        "suppress_tokens": [new["<pad>"]],
        "bad_words_ids": [[new[tokens[other]]]],
        "forced_decoder_ids": [[1, new[tokens[other]]]],
        "sequence_bias": [[[new[tokens[other]], new[tokens[word]]], 1.5]],
    }
    kept_added = {token: number for token, number in new.items() if token in list(ids)[:6]}
    decoder = read["tokenizer_config.json"]["added_tokens_decoder"]
    assert {each["content"]: int(number) for number, each in decoder.items()} == kept_added
    assert read["added_tokens.json"] == {"<pad>": new["<pad>"]}
    assert read["vocab.json"] == new
    assert trimmed.files["merges.txt"].decode().splitlines() == [
        "#version: 0.2", *(" ".join(pair) for pair in read["tokenizer.json"]["model"]["merges"])
    ]  # fmt: skip
    assert trimmed.config == {
        "bos_token_id": new["<s>"],
        "pad_token_id": -1,
        "text_config": {"vocab_size": len(new), "eos_token_id": new["</s>"]},
        "image_token_index": rows + 7,
        "vocab_size": len(new),
        "hidden_size": rows,
    }


def test_parts_of_the_tokenizer_that_nobody_reads_are_left_out_where_they_are_something_else(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("byte-level"))
    for name, content in (("vocab.json", b"[1]"), ("added_tokens.json", b'{"a": []}'), ("merges.txt", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
    names = sorted(path.name for path in tmp_path.iterdir())
    trimmed = trim_files(tmp_path, names, {}, range(300), 900)
    assert set(trimmed.left_out) == {"vocab.json", "added_tokens.json", "merges.txt"}
