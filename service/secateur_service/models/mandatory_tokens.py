"""The tokens that a trimmed vocabulary always keeps.

Some are needed to encode any text or to start a conversation. Others take few rows and occur in every language: ASCII
characters, numbers, and the punctuation and white space of code.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from secateur_service.calibration.templates import literals_of
from secateur_service.calibration.tokenizing import TokenizerFailedError, tokenize, tokenizer_failures
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.companions import take_companions
from secateur_service.models.token_graph import TokenGraph
from secateur_service.models.tokenizer import TOKENIZER_BYTES, load_tokenizer
from secateur_service.models.trimmed_tokenizer import named_tokens
from secateur_service.pruning.structured.vocabulary import rounded_rows

# Added tokens that nothing writes.
_SPARE = re.compile(r"unused|reserved", re.IGNORECASE)
TOKEN_FILES = (*TOKENIZER_BYTES, "generation_config.json")
"""The files that name tokens, or that a tokenizer is loaded from."""

_LARGE_BYTES = 20 << 20  # Llama 3's has 17 MB, Gemma's 33
_ROLES = ("system", "user", "assistant", "model", "tool", "function", "developer")


def mandatory_tokens(
    tokenizer: Any,
    graph: TokenGraph,
    folder: Path,
    names: Collection[str],
    config: Mapping[str, Any],
    texts: Sequence[str] = (),
    *,
    is_multimodal: bool = False,
) -> set[int]:
    """The ids of the tokens that are always kept.

    Args:
        tokenizer: a fast tokenizer of transformers.
        graph: its tokens.
        folder: the folder of the model's files.
        names: their names.
        config: content of config.json.
        texts: texts whose tokens are kept.
        is_multimodal: whether a processor writes added tokens into texts, by names that only its code has.
    """
    found = graph.required() | graph.common() | named_tokens(folder, names, config, graph)
    if is_multimodal:
        found |= {number for number, content in graph.added.items() if not _SPARE.search(content)}
    printed = list(_printed(tokenizer))
    found |= {number for number, content in graph.added.items() if any(content in text for text in printed)}
    for tokens in tokenize(tokenizer, [*printed, *texts, ""])["input_ids"]:
        found.update(tokens)
    with tokenizer_failures():
        found.update(tokenizer("", verbose=False)["input_ids"])  # what stands around every text
    return found


def least_rows(checkpoint: Checkpoint, folder: Path, texts: Sequence[str] = ()) -> int:
    """How many rows of a checkpoint's embedding have to stay, rounded up as `choose_rows` does.

    Of a large tokenizer only what its own file says is counted, so that a server's budget of memory suffices.

    Args:
        checkpoint: its configuration and the shapes of its tensors.
        folder: the folder of its files.
        texts: texts whose tokens are kept.

    Raises:
        ModelRefusedError: its tokenizer cannot be used, or vocabularies of its kind cannot be trimmed.
    """
    before = checkpoint.tensors[checkpoint.embedding_name].shape[0]
    names = [name for name in TOKEN_FILES if (folder / name).is_file()]
    if "tokenizer.json" not in names or (folder / "tokenizer.json").stat().st_size > _LARGE_BYTES:
        graph = TokenGraph.open(folder)
        return rounded_rows(sum(number < before for number in graph.required() | graph.common()))
    with tempfile.TemporaryDirectory(prefix="companions-") as place:
        companions = take_companions(folder, names, Path(place), checkpoint.config)
        graph = TokenGraph.open(companions.folder)
        try:
            found = mandatory_tokens(
                load_tokenizer(companions.folder),
                graph,
                companions.folder,
                companions.names,
                checkpoint.config_with_tokens,
                texts,
                is_multimodal=checkpoint.architecture.wrapper is not None,
            )
        except TokenizerFailedError as error:
            raise ModelRefusedError(f"its tokenizer cannot take every text ({error})") from error
    return rounded_rows(sum(number < before for number in graph.with_ancestors(found)))


def _printed(tokenizer: Any) -> Iterator[str]:
    """The literal texts of the model's chat templates, and the names of roles.

    The templates are not run: they are untrusted programs that may never end.
    """
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates] if templates else []:
        with contextlib.suppress(TemplateError, RecursionError):
            yield from literals_of(str(template))
            yield from _ROLES
