"""Which rows of a vocabulary stay: closed under the merges that make tokens, at a stated cost in tokens per language.

A token of byte-pair encoding is made of two others, its *parents*, by its last merge. Let the kept set hold the parents
of each of its tokens, and keep the merges among kept tokens in their order. Then every text whose tokens are all kept
is encoded as before: no merge crosses the borders of its tokens, those inside are all there, and taking others away
changes no choice. Its hidden states are the same bits, and its loss cannot rise, because the softmax runs over fewer
rows.

Other text takes more tokens: one more for each time that a dropped token would have occurred, since its parents stand
in its place. So tokens are dropped leaf by leaf (those that are no kept token's parent), the cheapest first, and what
a dropped token occurred is credited to its parents (leaf pruning: Purason et al. 2025, arXiv 2512.03989; here with one
count per language, the dearest of which decides).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

ROWS_MULTIPLE = 64
"""Servers pad a vocabulary to a multiple of this, and clients fail on rows that are no token; so real ones fill it."""


@dataclass(frozen=True)
class Rows:
    """The rows that stay.

    Attributes:
        kept: token ids in ascending order.
        extra_tokens: by language, how many more tokens its text is expected to take, as a share of those it takes now.
    """

    kept: tuple[int, ...]
    extra_tokens: dict[str, float]


def choose_rows(
    frequencies: Mapping[str, Sequence[float]],
    parents: Mapping[int, Collection[int]],
    mandatory: Collection[int],
    *,
    extra_tokens: float | None = None,
    rows: int | None = None,
    multiple: int = ROWS_MULTIPLE,
    check: Callable[[], None] = lambda: None,
) -> Rows:
    """Drop the tokens that the languages miss least.

    Args:
        frequencies: by language, how often each token occurs, by its id; shares of one.
        parents: what each token that may be kept is made of, by its id; others are dropped. Parents are keys as well.
        mandatory: tokens that stay whatever they cost; with them stay their ancestors.
        extra_tokens: drop as many as leave every language at most this share of further tokens; or
        rows: drop until at most so many are left, rounded up to the multiple.
        multiple: of which the number of kept rows is one; the last to be dropped fill it, as far as there are any.
        check: called often; raises to stop.
    """
    names = list(frequencies)
    by_token = {token: [frequencies[name][token] for name in names] for token in parents}
    made_of_it = dict.fromkeys(parents, 0)
    for pieces in parents.values():
        for piece in set(pieces):
            made_of_it[piece] += 1
    required = frozenset(mandatory)
    # By the cost to the language that it costs most; then the last token goes first.
    leaves = [(max(by_token[token]), -token) for token, count in made_of_it.items() if not count]
    leaves = [leaf for leaf in leaves if -leaf[1] not in required]
    heapq.heapify(leaves)
    spent = [0.0] * len(names)
    dropped: list[int] = []
    left = len(parents)
    target = -(-rows // multiple) * multiple if rows is not None else 0
    while leaves and left > target:
        _, negated = heapq.heappop(leaves)
        token = -negated
        cost = by_token[token]
        after = [was + more for was, more in zip(spent, cost, strict=True)]
        if extra_tokens is not None and max(after) > extra_tokens:
            continue
        spent = after
        dropped.append(token)
        left -= 1
        if not left % 4096:
            check()
        for piece in parents[token]:  # a piece that it is made of twice is credited twice
            mine = by_token[piece]
            for at, more in enumerate(cost):
                mine[at] += more
        for piece in set(parents[token]):
            made_of_it[piece] -= 1
            if not made_of_it[piece] and piece not in required:
                heapq.heappush(leaves, (max(by_token[piece]), -piece))
    fill = min(-left % multiple, len(dropped))
    for token in reversed(dropped[len(dropped) - fill :]):
        # What was credited to its parents was counted among their costs only if they were dropped later: they are back.
        spent = [was - less for was, less in zip(spent, by_token[token], strict=True)]
    gone = frozenset(dropped[: len(dropped) - fill])
    kept = tuple(sorted(token for token in parents if token not in gone))
    return Rows(kept, dict(zip(names, [max(share, 0.0) for share in spent], strict=True)))
