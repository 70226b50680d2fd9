"""Files of tokenizers that cannot be used are refused by name, and so are tokens without a row in the embedding."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur_service.calibration.tokenizing import TokenizerFailedError, tokenize
from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.tokenizer import TOKENIZER_BYTES, check_ids, load_tokenizer

ROWS = 258


@pytest.fixture
def folder(tmp_path):
    save_byte_tokenizer(tmp_path, max_length=64)
    return tmp_path


def edit(folder, name="tokenizer.json", **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BROKEN_CORES = {
    "a model of the future": {"model": {"type": "FutureModel"}},
    "a pre-tokenizer of the future": {"pre_tokenizer": {"type": "FutureSplit"}},
    "a bad expression": {"normalizer": {"type": "Replace", "pattern": {"Regex": "(?<!"}, "content": "x"}},
    "a decoder that is none": {"decoder": 7},
    "a merge of absent tokens": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "zz"]]}},
    "an id that is none": {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
    "added tokens that are none": {"added_tokens": [{"id": "x"}]},
    "another version": {"version": "9.9"},
}


@pytest.mark.parametrize("case", BROKEN_CORES)
def test_a_core_that_tokenizers_refuses_is_called_by_its_file(folder, case):
    edit(folder, **BROKEN_CORES[case])
    with pytest.raises(ModelRefusedError, match=r"^tokenizer\.json cannot be used \("):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("tokenizer.json", b'{"version": "1.0", "trunc', r"tokenizer\.json, which is not valid JSON"),
        ("tokenizer.json", b"", r"tokenizer\.json, which is not valid JSON"),
        ("tokenizer.json", b"[]", r"tokenizer\.json, which is not a JSON object"),
        ("tokenizer_config.json", b"{", r"tokenizer_config\.json, which is not valid JSON"),
        ("tokenizer_config.json", b'"x"', r"tokenizer_config\.json, which is not a JSON object"),
        ("tokenizer_config.json", b'{"eos_token": [1]}', r"tokenizer_config\.json cannot be used"),
        (
            "tokenizer_config.json",
            b'{"model_max_length": {}}',
            r"cannot take every text .* correct tokenizer\.json or tokenizer_config\.json",
        ),
    ],
)
def test_what_is_no_file_of_a_tokenizer_is_called_that(folder, name, content, complaint):
    (folder / name).write_bytes(content)
    with pytest.raises(ModelRefusedError, match=complaint):
        load_tokenizer(folder)


def test_a_missing_tokenizer_is_missed_by_its_name(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelRefusedError, match=r"there is no tokenizer\.json, and what there is"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", TOKENIZER_BYTES)
def test_a_file_that_is_larger_than_any_tokenizer_is_not_read(folder, name):
    with (folder / name).open("ab") as file:
        file.truncate(TOKENIZER_BYTES[name] + 1)
    with pytest.raises(ModelRefusedError, match=f"{name} is larger than {TOKENIZER_BYTES[name]} bytes"):
        load_tokenizer(folder)


def words(folder, *, unknown):
    """A tokenizer that knows two words and perhaps what is unknown."""
    vocabulary = {"Hello": 0, "x": 1, **({"<unk>": 2} if unknown else {})}
    core = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>" if unknown else None).save_pretrained(folder)


def test_a_tokenizer_without_a_token_for_the_unknown_is_refused_when_loaded_and_fails_as_one_error(tmp_path):
    words(tmp_path, unknown=False)
    with pytest.raises(ModelRefusedError, match="its tokenizer cannot take every text"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerFailedError, match="UNK"):
        tokenize(AutoTokenizer.from_pretrained(tmp_path), ["Hello y"])
    words(tmp_path, unknown=True)
    assert tokenize(load_tokenizer(tmp_path), ["Hello y"])["input_ids"] == [[0, 2]]


@pytest.mark.parametrize(
    ("token", "is_refused"),
    [
        (AddedToken("<image>", special=True), False),  # as in Gemma: text becomes it only where it spells it
        (AddedToken("plain", special=False), True),
    ],
)
def test_tokens_that_text_can_become_have_a_row(folder, token, is_refused):
    tokenizer = load_tokenizer(folder)
    check_ids(tokenizer, ROWS)
    with pytest.raises(ModelRefusedError, match=r"the id 257, and the embedding has 257 rows"):
        check_ids(tokenizer, ROWS - 1)
    tokenizer.add_tokens([token], special_tokens=token.special)
    tokenizer.save_pretrained(folder)
    if is_refused:
        with pytest.raises(ModelRefusedError, match="'plain' the id 258, and the embedding has 258 rows"):
            check_ids(load_tokenizer(folder), ROWS)
    else:
        check_ids(load_tokenizer(folder), ROWS)


def test_what_a_tokenizer_adds_itself_has_a_row(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"eos_token": "<the end>"})
    with pytest.raises(ModelRefusedError, match="'<the end>' the id 258"):
        check_ids(tokenizer, ROWS)
