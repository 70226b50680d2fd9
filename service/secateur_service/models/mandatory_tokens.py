"""The tokens that a trimmed vocabulary keeps whatever they cost.

Without some a text could not be encoded, or a conversation not begin. Others cost few rows and are in every language:
ASCII characters, numbers, and the punctuation and white space of code.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from secateur_service.calibration.templates import render_conversation
from secateur_service.calibration.tokenizing import tokenize
from secateur_service.models.token_graph import TokenGraph
from secateur_service.models.trimmed_tokenizer import named_tokens

# A character of ASCII, a number of up to three digits, one or two signs, or an indentation of up to 16.
_COMMON = re.compile(r" ?(?:[\x20-\x7E]|[0-9]{1,3}|[!-/:-@\[-`{-~]{1,2})|[ \t\r]{1,16}|[\n\r]{1,2}[ \t]{0,16}")
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"place": "Kyiv"}}}
_QUESTION, _ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
_CONVERSATIONS: Sequence[tuple[Sequence[dict[str, Any]], dict[str, Any]]] = (
    ([_QUESTION], {"add_generation_prompt": True}),
    ([_QUESTION], {"add_generation_prompt": True, "enable_thinking": False}),
    ([{"role": "system", "content": "Be brief."}, _QUESTION, _ANSWER, _QUESTION], {}),
    ([_QUESTION, _ANSWER], {"tools": [_TOOL]}),
    (
        [_QUESTION, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, {"role": "tool", "content": "{}"}],
        {"tools": [_TOOL]},
    ),
)


def mandatory_tokens(
    tokenizer: Any,
    graph: TokenGraph,
    folder: Path,
    names: Collection[str],
    config: Mapping[str, Any],
    texts: Sequence[str] = (),
) -> set[int]:
    """The ids of the tokens that are always kept.

    Args:
        tokenizer: a fast tokenizer of transformers.
        graph: its tokens.
        folder: where the model's files lie.
        names: of them.
        config: content of config.json.
        texts: whose tokens are kept.
    """
    found = graph.required() | named_tokens(folder, names, config, graph)
    found |= {number for number in graph.tokens if _COMMON.fullmatch(graph.text(number))}
    template = tokenizer.chat_template and str(tokenizer.get_chat_template())
    if template:
        found |= {number for number, content in graph.added.items() if content in template}
    for tokens in tokenize(tokenizer, [*_rendered(tokenizer, template), *texts, ""])["input_ids"]:
        found.update(tokens)
    return found


def _rendered(tokenizer: Any, template: str | None) -> Iterator[str]:
    """Conversations of every kind that the chat template accepts."""
    for messages, options in _CONVERSATIONS if template else ():
        with contextlib.suppress(TemplateError, TypeError, ValueError, KeyError):
            yield render_conversation(tokenizer, messages, **options)
