"""Look and see: how both models continue the same few texts, with the rates of two ways in which writing goes wrong.

Nothing here is evidence of quality: a few texts, without chance in the choice of tokens, are a look at a model. Greedy
writing repeats itself in good models too, so a rate means something only beside that of the dense model.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field

from secateur_service.calibration.identification import off_language
from secateur_service.evaluation.parts import Part, Share

_REPEATED = 4  # tokens


@dataclass(frozen=True)
class Added:
    """What a model added to a text.

    Attributes:
        text: in words.
        tokens: ids of the model's own vocabulary.
    """

    text: str
    tokens: tuple[int, ...]


class Continuation(Part):
    """A text that both models continued."""

    prompt: str = Field(description="the beginning of a document of the evaluation text")
    dense: str = Field(description="what the dense model added; empty if it ended the text")
    pruned: str = Field(description="what the output model added")


class ContinuedLanguage(Part):
    """Texts of a language that both models continued, each by its most probable token time and again."""

    language: str
    dense_repetition: Share | None = Field(
        description="1 − different / all sequences of four tokens in a continuation (seq-rep-4, Welleck et al. 2019, "
        "1908.04319; rep-4, Su et al. 2022, 2202.06417), mean over the texts; null if none has four tokens"
    )
    pruned_repetition: Share | None = Field(description="likewise; in the output model's own tokens")
    dense_off_language: Share | None = Field(
        description="share of the continuations that do not seem to be in the language: guessed, or by their script "
        "where the language cannot be identified; without those of less than 40 bytes of letters, each word counted "
        "once; null if none is left or if neither can tell"
    )
    pruned_off_language: Share | None
    dense_judged: int = Field(
        description="how many of the dense model's continuations its off-language rate is of; 0 where that is null"
    )
    pruned_judged: int = Field(description="likewise, of the output model's")
    texts: tuple[Continuation, ...]

    @classmethod
    def of(cls, language: str, prompts: Sequence[str], dense: Sequence[Added], pruned: Sequence[Added]) -> Self:
        """Compute the rates.

        Args:
            language: of the prompts.
            prompts: the texts.
            dense: what the dense model added to each.
            pruned: what the output model added to each.
        """
        texts = [
            Continuation(prompt=prompt, dense=before.text, pruned=after.text)
            for prompt, before, after in zip(prompts, dense, pruned, strict=True)
        ]
        (dense_off, dense_judged), (pruned_off, pruned_judged) = (
            off_language(language, [added.text for added in side]) for side in (dense, pruned)
        )
        return cls(
            language=language,
            dense_repetition=_mean(repetition(added.tokens) for added in dense),
            pruned_repetition=_mean(repetition(added.tokens) for added in pruned),
            dense_off_language=dense_off / dense_judged if dense_judged else None,
            pruned_off_language=pruned_off / pruned_judged if pruned_judged else None,
            dense_judged=dense_judged,
            pruned_judged=pruned_judged,
            texts=tuple(texts),
        )


def repetition(tokens: Sequence[int]) -> float | None:
    """The share of sequences of four tokens that occurred before in the text; None if there are no four tokens."""
    found = list(zip(*(tokens[at:] for at in range(_REPEATED)), strict=False))
    return 1 - len(set(found)) / len(found) if found else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
