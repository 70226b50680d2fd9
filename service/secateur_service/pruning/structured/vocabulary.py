"""Chooses the rows of a vocabulary to keep: closed under merges, at a stated cost in tokens per language.

The last merge of a token of byte-pair encoding joins two others, its *parents*. If the kept set contains the parents of
each of its tokens, and the merges among kept tokens keep their order, every text whose tokens are all kept is encoded
as before: no merge crosses the borders of its tokens, all merges inside them remain, and removing others changes no
choice. Its hidden states are bit-identical, and its loss cannot rise, because the softmax has fewer rows.

Other text takes more tokens: one more for each occurrence of a dropped token, which its parents replace. So tokens are
dropped leaf by leaf (a leaf is no kept token's parent), the cheapest first, and the occurrences of a dropped token are
added to those of its parents (leaf pruning: Purason et al. 2025, arXiv 2512.03989; here with a count per language, of
which the highest decides, or for a given number of rows their sum at a price for each language).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

ROWS_MULTIPLE = 64
"""Servers pad a vocabulary to a multiple of this, and clients fail on rows without a token, so real tokens fill it."""

_ROUNDS = 8
_HALVINGS = 6
_STEP = 0.5
_LEAST_CHANGE = 0.1


def rounded_rows(rows: int) -> int:
    """How many rows are kept where so many are asked for: the next multiple."""
    return -(-rows // ROWS_MULTIPLE) * ROWS_MULTIPLE


@dataclass(frozen=True)
class Rows:
    """The rows to keep.

    Attributes:
        kept: token ids in ascending order.
        extra_tokens: additional tokens expected per language, as a share of the tokens that its text takes now.
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
    weights: Mapping[str, float] = {},
    multiple: int = ROWS_MULTIPLE,
    check: Callable[[], None] = lambda: None,
) -> Rows:
    """Drop the tokens that cost the languages least.

    Args:
        frequencies: by language, the frequency of each token by its id; they sum to one.
        parents: the parents of each token by its id; tokens that are not listed are dropped, and parents are listed.
        mandatory: tokens that are always kept, with their ancestors.
        extra_tokens: drop tokens as long as no language takes a larger share of additional tokens; or
        rows: keep this many, rounded up to the multiple, so that the language that takes most takes as few as possible.
        weights: what the share of a language is multiplied by before it is compared, 1 where nothing else is said.
        multiple: the number of kept rows is a multiple of this, reached by restoring the tokens dropped last.
        check: called often; raises to stop.
    """
    scale = {name: weights.get(name, 1.0) for name in frequencies}
    dear = {name: [scale[name] * share for share in shares] for name, shares in frequencies.items()}
    if rows is None:
        found = _drop(dear, parents, mandatory, max, extra_tokens, 0, multiple, check)
    else:
        found = _drop_evenly(dear, parents, mandatory, -(-rows // multiple) * multiple, multiple, check)
    return Rows(found.kept, {name: share / scale[name] for name, share in found.extra_tokens.items()})


def _drop_evenly(
    frequencies: Mapping[str, Sequence[float]],
    parents: Mapping[int, Collection[int]],
    mandatory: Collection[int],
    target: int,
    multiple: int,
    check: Callable[[], None],
) -> Rows:
    """Drop tokens until `target` are left, so that the largest share of additional tokens is small.

    By the largest cost, or by the sum of the costs, each times its language's price; the prices rise, round by round,
    where a language takes a larger share than others do (multiplicative weights, as in `pruning.minimax`). At last, the
    smallest limit on all shares is looked for within which enough tokens can go at these prices: where many are equally
    dear, prices alone cannot choose between them.
    """
    names = list(frequencies)
    prices = [1.0] * len(names)

    def drop(prices: Sequence[float], limit: float | None) -> Rows:
        def dear(cost: Sequence[float]) -> float:
            return sum(price * share for price, share in zip(prices, cost, strict=True))

        return _drop(frequencies, parents, mandatory, dear, limit, target, multiple, check)

    best, at = _drop(frequencies, parents, mandatory, max, None, target, multiple, check), prices
    if len(names) == 1:
        return best
    for _ in range(_ROUNDS):
        found = drop(prices, None)
        if max(found.extra_tokens.values()) < max(best.extra_tokens.values()):
            best, at = found, prices
        shares = [found.extra_tokens[name] for name in names]
        mean = sum(shares) / len(shares)
        if not mean:
            return best
        changes = [max(share / mean, _LEAST_CHANGE) ** _STEP for share in shares]
        prices = [price * change for price, change in zip(prices, changes, strict=True)]
    low, high = 0.0, max(best.extra_tokens.values())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = drop(at, middle)
        if len(found.kept) > len(best.kept):
            low = middle
        else:
            best, high = found, max(found.extra_tokens.values())
    return best


def _drop(
    frequencies: Mapping[str, Sequence[float]],
    parents: Mapping[int, Collection[int]],
    mandatory: Collection[int],
    dear: Callable[[Sequence[float]], float],
    extra_tokens: float | None,
    target: int,
    multiple: int,
    check: Callable[[], None],
) -> Rows:
    """Drop tokens until `target` are left, the least dear first.

    Args:
        frequencies: as for `choose_rows`, and so are the next two.
        parents: likewise.
        mandatory: likewise.
        dear: how dear a token is by what it costs each language.
        extra_tokens: the share of additional tokens that no language may exceed; None for no limit.
        target: the number of rows.
        multiple: as for `choose_rows`.
        check: called often; raises to stop.
    """
    names = list(frequencies)
    by_token = {token: [frequencies[name][token] for name in names] for token in parents}
    made_of_it = dict.fromkeys(parents, 0)
    for pieces in parents.values():
        for piece in set(pieces):
            made_of_it[piece] += 1
    required = frozenset(mandatory)
    # Of two that are as dear, the last token goes first.
    leaves = [(dear(by_token[token]), -token) for token, count in made_of_it.items() if not count]
    leaves = [leaf for leaf in leaves if -leaf[1] not in required]
    heapq.heapify(leaves)
    spent = [0.0] * len(names)
    dropped: list[int] = []
    left = len(parents)
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
                heapq.heappush(leaves, (dear(by_token[piece]), -piece))
    fill = min(-left % multiple, len(dropped))
    for token in reversed(dropped[len(dropped) - fill :]):
        # What was credited to its parents was counted among their costs only if they were dropped later: they are back.
        spent = [was - less for was, less in zip(spent, by_token[token], strict=True)]
    gone = frozenset(dropped[: len(dropped) - fill])
    kept = tuple(sorted(token for token in parents if token not in gone))
    return Rows(kept, dict(zip(names, [max(share, 0.0) for share in spent], strict=True)))
