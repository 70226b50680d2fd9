"""Text to tokens: the border to a library that raises whatever it comes upon, and panics in Rust."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

_SHOWN_CHARACTERS = 300


class TokenizerFailedError(ValueError):
    """A model's tokenizer cannot be loaded or cannot take a text; the message is what its library says."""


def tokenize(tokenizer: Any, texts: Sequence[str], **options: Any) -> Any:
    """The tokens of texts, without those that begin and end them.

    Args:
        tokenizer: a fast one of transformers.
        texts: any number of them.
        options: further arguments of the tokenizer.

    Raises:
        TokenizerFailedError: it cannot take one of them, as where it has no token for what it does not know.
    """
    with tokenizer_failures():
        return tokenizer(texts, add_special_tokens=False, verbose=False, **options)


@contextlib.contextmanager
def tokenizer_failures() -> Iterator[None]:
    """Turn what tokenizers and transformers raise into one error.

    Raises:
        TokenizerFailedError: whatever it was, but for memory that did not suffice.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise _failure(error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, which has no class that could be imported
            raise
        raise _failure(error) from error


def _failure(error: BaseException) -> TokenizerFailedError:
    return TokenizerFailedError(" ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN_CHARACTERS])
