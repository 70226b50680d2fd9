"""How narrowly a job will know the growth of perplexity, before anything is measured.

The width of a confidence interval falls with the square root of the number of documents, and so with that of tokens
where documents are alike. What a single token would leave open differs with model, language and growth.
"""

from __future__ import annotations

import math

# Half the width of the 95 % interval times the square root of the tokens, with sentences: the median over models,
# languages, recipes and numbers of tokens by benchmarks/evaluation_tokens.py, rounded. A growth of 1.01 to 1.02 has
# a third of it, one of 1.2 twice as much.
_OF_ONE_TOKEN = 1.0


def growth_margin(tokens: int) -> float:
    """Half the usual width of the interval of a language's growth of perplexity, as a share of the growth.

    It rests on sentences and other short documents, and on growth below 1.5 times. With longer documents there are
    fewer of them, and the interval is wider.

    Args:
        tokens: of the language's evaluation windows; 0 if there are none, which gives 0.
    """
    return _OF_ONE_TOKEN / math.sqrt(tokens) if tokens else 0.0
