"""How much a language lost, in a word: bands of the growth of its perplexity.

=========== ============ =========================================================================================
band        growth       what models that lost so much were found to do
=========== ============ =========================================================================================
kept        below ×1.02  no more than an evaluation of the usual size can tell from nothing (`verdicts.ROUGH`)
slight      below ×1.1
noticeable  below ×1.5   at ×1.5, Llama-3-8B keeps two thirds of its score in MMLU (51 of about 65 per cent)
heavy       below ×3     at ×2, a third to two fifths (38 to 41); at ×2.5, a fifth to a third (33 to 38)
severe      below ×10    at ×4 and more, a tenth (30); of easier questions, cloze to Gemma-3-270M, three fifths at
                         ×3.5 (60 of 84 per cent) and a third at ×5 (33 of 49)
lost        from ×10 on  at ×19 nothing (25); of the cloze questions a quarter at ×15 (38 of 77)
=========== ============ =========================================================================================

A score is what is above chance, 25 per cent in both. MMLU is by the tables of Meng et al. (ALPS, NeurIPS 2024) for
pruning of 50 to 70 % and 2:4, over the perplexity on WikiText-2; cloze by benchmarks/results/tasks-gemma-3-270m.json.
So the words are of the right size for English and for models like these. What a language loses in one task they do not
say: tasks that take knowledge fall first, and no figure of perplexity tells which.

The report of the service and the command line say the same words, beside figures that agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from secateur._text import digits

Band = Literal["kept", "slight", "noticeable", "heavy", "severe", "lost"]
KEPT, SLIGHT, NOTICEABLE, HEAVY, SEVERE = 1.02, 1.1, 1.5, 3.0, 10.0
"""The growth of perplexity below which a loss is called so."""
_BELOW: Mapping[Band, float] = {
    "kept": KEPT,
    "slight": SLIGHT,
    "noticeable": NOTICEABLE,
    "heavy": HEAVY,
    "severe": SEVERE,
}
_IN_WORDS: Mapping[Band, str] = {
    "kept": "next to nothing",
    "slight": "a slight loss",
    "noticeable": "a noticeable loss",
    "heavy": "a heavy loss",
    "severe": "a severe loss",
    "lost": "all but lost",
}
_MOST_DECIMALS = 4
SCALE = "; ".join(f"{band} below ×{end:g}" for band, end in _BELOW.items()) + f"; lost from ×{SEVERE:g} on"
"""The bands in words."""


def band_of(growth: float) -> Band:
    """The band of a growth of perplexity, pruned / dense."""
    return next((band for band, end in _BELOW.items() if growth < end), "lost")


def growth_digits(growth: float, decimals: int = 2) -> str:
    """A growth in `digits`, or in more where those would lie in another band: 1.0996, and not 1.10, is slight."""
    more = [f"{growth:.{places}f}" for places in range(decimals + 1, _MOST_DECIMALS + 1)]
    below = f"{growth - 10**-_MOST_DECIMALS:.{_MOST_DECIMALS}f}"
    texts = (digits(growth, decimals), *more, below)
    return next(text for text in texts if band_of(float(text.replace(",", ""))) == band_of(growth))


def band_in_words(growth: float) -> str:
    """What a growth of perplexity amounts to: `a heavy loss`."""
    return _IN_WORDS[band_of(growth)]
