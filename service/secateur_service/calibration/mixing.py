"""The mix: how much each calibration language counts when a layer is solved.

The policy of a job determines the mix:

- `weights`: given explicitly;
- `proportional`: a language counts as much as its share of a training corpus;
- `temperature`: share^(1/T), normalised. T = 1 is `proportional`; with a large T all languages count equally.
  Multilingual pretraining samples its text in the same way: XLM-R and mT5 with the exponent α = 1/T = 0.3 (Conneau et
  al., 1911.02116, section 3; Xue et al., 2010.11934, section 3.2);
- `minimax`: starts from a given mix, and each solve shifts it towards the languages that lose most.

Does not import torch: the API fills in the mix when a job is submitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from secateur_service.calibration.languages import parse_language, without_region

POLICIES = ("weights", "proportional", "temperature", "minimax")
POLICIES_BY_SHARE = ("proportional", "temperature")
DEFAULT_TEMPERATURE = 3.33

# Billions of tokens per language in mC4, the corpus of mT5 (Xue et al., 2010.11934, appendix, table of mC4's
# statistics), counted with mT5's tokenizer. The table's `iw` is `he` here; its undetermined part is omitted.
MC4_TOKENS: Mapping[str, float] = {
    "en": 2733, "ru": 713, "es": 433, "de": 347, "fr": 318, "ja": 164, "it": 162, "pt": 146, "pl": 130, "vi": 116,
    "nl": 73, "tr": 71, "id": 69, "cs": 63, "ar": 57, "fa": 52, "ro": 52, "sv": 45, "el": 43, "uk": 41,
    "zh": 39, "hu": 39, "da": 29, "no": 27, "ko": 26, "fi": 25, "hi": 24, "bg": 22, "sk": 18, "he": 17,
    "mr": 14, "ca": 13, "ms": 13, "th": 11, "lt": 11, "sl": 8.8, "bn": 7.3, "lv": 7, "et": 6.9, "mt": 5.2,
    "cy": 4.9, "az": 4.4, "sr": 4.3, "sq": 4, "ta": 3.4, "ne": 3.2, "kk": 3.1, "ml": 2.7, "is": 2.6, "ka": 2.5,
    "gl": 2.4, "hy": 2.4, "ur": 2.4, "fil": 2.1, "be": 2, "mk": 1.8, "mn": 1.8, "af": 1.7, "sd": 1.6, "eu": 1.4,
    "tg": 1.4, "so": 1.4, "la": 1.3, "te": 1.3, "kn": 1.1, "lb": 1, "ky": 1, "sw": 1, "my": 0.9, "uz": 0.9,
    "ru-Latn": 0.9, "gu": 0.8, "si": 0.8, "eo": 0.7, "km": 0.6, "hi-Latn": 0.6, "pa": 0.6, "ga": 0.5, "fy": 0.4,
    "el-Latn": 0.4, "ps": 0.4, "gd": 0.4, "ku": 0.4, "jv": 0.3, "ja-Latn": 0.3, "am": 0.3, "yi": 0.3, "zu": 0.2,
    "co": 0.2, "zh-Latn": 0.2, "ceb": 0.2, "mg": 0.2, "sn": 0.2, "hmn": 0.2, "ht": 0.2, "ha": 0.2, "su": 0.1,
    "ny": 0.1, "lo": 0.1, "mi": 0.1, "bg-Latn": 0.09, "sm": 0.09, "ig": 0.09, "haw": 0.09, "st": 0.08, "xh": 0.06,
    "yo": 0.05,
}  # fmt: skip


def known_share(language: str) -> float | None:
    """A language's share of mC4 on an arbitrary scale; None where mC4 does not list it.

    Args:
        language: any of its tags. A variant (`pt-BR`, `zh-Hant`) without its own share gets that of its language.
    """
    tag = parse_language(language)
    names = (tag, without_region(tag), tag.partition("-")[0])
    return next((MC4_TOKENS[name] for name in names if name in MC4_TOKENS), None)


def mixing_weights(shares: Mapping[str, float], temperature: float = 1.0) -> dict[str, float]:
    """share^(1/T) of each language, normalised to sum to one; a sum of one up to rounding is left unchanged.

    Args:
        shares: non-negative, at least one positive, on any scale; their sum is finite.
        temperature: T, at least 1.
    """
    smoothed = {language: share ** (1 / temperature) for language, share in shares.items()}
    total = math.fsum(smoothed.values())
    if math.isclose(total, 1.0, rel_tol=1e-12):
        return smoothed
    return {language: share / total for language, share in smoothed.items()}
