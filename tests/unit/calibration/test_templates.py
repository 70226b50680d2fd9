"""Chat templates and tokenizers give the same text and tokens whatever clock, zone, locale, hashes and chance are."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur_service.calibration import templates
from secateur_service.calibration.templates import TEMPLATE_DATE, render_conversation, strftime_now
from secateur_service.commands.demo.tokenizer import save_byte_tokenizer

DIRECTIVES = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ%"
TALK = [{"role": "user", "content": "Wie geht es?"}, {"role": "assistant", "content": "Gut."}]
FORMATS = [
    "%d %b %Y",
    "%Y-%m-%d",
    "%A, %B %-d, %Y",
    "%c",
    "%x %X",
    "%s",
    "%Z%z",
    "%H:%M:%S.%f",
    "%j%U%V",
    "%-I %p",
    "%%Y",
]
BODY = "{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}"
# What depends on something else than the conversation in some templates of the world, or could.
TEMPLATES = {
    **{f"date {number}": f"{{{{ strftime_now({form!r}) }}}}{BODY}" for number, form in enumerate(FORMATS)},
    "a default": "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}Today Date: {{ date_string }}" + BODY,
    "a macro": "{% macro today() %}{{ strftime_now('%B') }}{% endmacro %}{{ today() }}" + BODY,
    "chance": "{{ range(1000) | list | random }}{{ 'abcdefghij' | random }}" + BODY,
    "chance of nothing": "{{ [] | random }}" + BODY,
    "order of keys": "{{ messages[0].keys() | list }}{{ dict(b=1, a=2).items() | list }}{{ messages | tojson }}",
}

SCRIPT = """
import json, sys
from datetime import datetime, timedelta
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils
from secateur_service.pipeline.job_text import _renderer

class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime(2031, 7, 26, 13, 14, 15) + timedelta(days=int(sys.argv[2]))

chat_template_utils.datetime = Clock
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
said = {}
for name, template in json.loads(sys.argv[3]).items():
    tokenizer.chat_template = template
    render = _renderer(tokenizer)
    said[name] = [render(json.loads(sys.argv[4])), render("Ein Satz.")]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder, max_length=4096)
    return folder


@pytest.fixture
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_every_template_gives_one_text_under_two_clocks_zones_locales_and_hashes(folder):
    surroundings = [
        (0, {"TZ": "UTC", "PYTHONHASHSEED": "1", "LC_ALL": "C"}),
        (1234, {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "LANG": "de_DE.UTF-8"}),
    ]
    said = []
    for days, variables in surroundings:
        arguments = [sys.executable, "-c", SCRIPT, str(folder), str(days), json.dumps(TEMPLATES), json.dumps(TALK)]
        done = subprocess.run(arguments, capture_output=True, check=True, env={**os.environ, **variables})
        said.append(json.loads(done.stdout))
    assert said[0] == said[1]
    assert said[0]["a default"][0].startswith("Today Date: 01 Jan 2025[user]")
    assert all("Gut." in texts[0] for texts in said[0].values())


@pytest.mark.parametrize("flag", ["", "-", "_", "0", "^"])
@pytest.mark.parametrize("directive", DIRECTIVES)
def test_dates_are_written_as_strftime_writes_the_stated_one(directive, flag):
    expected = datetime.fromisoformat(TEMPLATE_DATE).strftime(f"<%{flag}{directive}>")
    if flag and directive in "nt%zZcDFrRTxX":  # what libraries make of these together differs
        return
    assert strftime_now(f"<%{flag}{directive}>") == expected


def test_directives_that_there_are_none_of_stay():
    assert strftime_now("%Q 100% %") == "%Q 100% %"


@pytest.mark.parametrize(
    "template",
    ["{{ messages.index }}", "{{ strftime_now }}", "{{ messages | map('upper') }}", "{{ raise_exception }}"],
)
def test_the_address_of_an_object_is_refused(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(TemplateError, match="the address of an object"):
        render_conversation(tokenizer, TALK)


def test_an_address_that_somebody_speaks_of_is_none(tokenizer):
    tokenizer.chat_template = BODY
    content = "<object at 0x7f00deadbeef>"
    assert content in render_conversation(tokenizer, [{"role": "user", "content": content}])


def test_text_at_random_is_refused(tokenizer):
    tokenizer.chat_template = "{{ lipsum() }}"
    with pytest.raises(TemplateError):
        render_conversation(tokenizer, TALK)


def test_a_tokenizer_that_divides_words_at_random_is_settled(tmp_path):
    from secateur_service.models.tokenizer import load_tokenizer

    letters = {letter: number for number, letter in enumerate("abcdefgh")}
    merges = [("a", "b"), ("c", "d"), ("e", "f"), ("ab", "cd"), ("abcd", "ef")]
    for pair in merges:
        letters["".join(pair)] = len(letters)
    core = Tokenizer(models.BPE(vocab=letters, merges=merges, dropout=0.5))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path)
    text = "abcdef abcdefgh " * 20
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert len({tuple(plain(text)["input_ids"]) for _ in range(9)}) > 1
    settled = load_tokenizer(tmp_path)
    assert len({tuple(settled(text)["input_ids"]) for _ in range(9)}) == 1


def test_the_stated_date_is_documented():
    documentation = (Path(templates.__file__).parents[3] / "docs" / "specification.md").read_text(encoding="utf-8")
    assert TEMPLATE_DATE.partition("T")[0] in documentation
