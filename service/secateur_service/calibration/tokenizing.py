"""Text to tokens: wraps a library that raises arbitrary exceptions, and panics in Rust."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

_SHOWN_CHARACTERS = 300


class TokenizerFailedError(ValueError):
    """A model's tokenizer cannot be loaded or cannot tokenise a text; the message is its library's."""


def tokenize(tokenizer: Any, texts: Sequence[str], **options: Any) -> Any:
    """The tokens of texts, without those that begin and end them.

    Args:
        tokenizer: a fast tokenizer of transformers.
        texts: any number of them.
        options: further arguments for the tokenizer.

    Raises:
        TokenizerFailedError: it cannot tokenise one of them, for example because it has no token for unknown text.
    """
    with tokenizer_failures():
        return tokenizer(texts, add_special_tokens=False, verbose=False, **options)


@contextlib.contextmanager
def tokenizer_failures() -> Iterator[None]:
    """Turn whatever tokenizers and transformers raise into one error.

    Raises:
        TokenizerFailedError: for any exception except MemoryError.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise _failure(error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's, whose class cannot be imported
            raise
        raise _failure(error) from error


def _failure(error: BaseException) -> TokenizerFailedError:
    return TokenizerFailedError(" ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN_CHARACTERS])
