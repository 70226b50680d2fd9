"""What both models of a pass predict: losses, how like they are, and answers to the requests of tasks.

A slice of the head serves all of it, and both models where the output has the dense model's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from secateur_service.evaluation.perplexity import Likeness, Losses
from secateur_service.models.measurements import Compared, Comparison, TargetScores, TokenLosses
from secateur_service.pipeline.side import Side
from secateur_service.pruning.ranks import ALONE, Ranks
from secateur_service.tasks.requests import Answer


@dataclass(frozen=True)
class Predictions:
    """What is known of both models' predictions.

    Attributes:
        dense: losses of the dense model by evaluation language.
        pruned: those of the output.
        likeness: of the predictions of both, by language; empty where their tokens differ.
        dense_answers: of the dense model, to each request.
        pruned_answers: those of the output.
    """

    dense: Mapping[str, Losses]
    pruned: Mapping[str, Losses]
    likeness: Mapping[str, Likeness] = field(default_factory=dict)
    dense_answers: Sequence[Answer] = ()
    pruned_answers: Sequence[Answer] = ()


def predict_together(
    dense: Side, pruned: Side, on_piece: Callable[[float], None], check: Callable[[], None], ranks: Ranks = ALONE
) -> Predictions:
    """Run the head of two models that have the same, on their states after the last block, which are overwritten.

    Args:
        dense: the dense model.
        pruned: the output.
        on_piece: called with the floating-point operations of every piece of work; may raise to stop.
        check: called when states are dropped.
        ranks: who has the text; all read the head together, and get all of the result but the answers.

    Raises:
        FloatingPointError: a loss or a log-likelihood is not finite.
    """
    asked = dense.questions.scores(dense.asked, check), pruned.questions.scores(pruned.asked, check)
    comparison = Comparison(dense.states, pruned.states, dense.tokens, dense.model.device)
    is_read = _is_read(dense, asked[0], ranks)
    dense.model.head.measure([comparison, *asked[0], *asked[1]], on_piece, is_read=is_read)
    found = ranks.collect(comparison.compared())
    return Predictions(
        _losses(dense, [each.dense for each in found]),
        _losses(pruned, [each.pruned for each in found]),
        _likeness(dense, found),
        dense.questions.answers(asked[0]),
        pruned.questions.answers(asked[1]),
    )


def predict_apart(
    dense: Side, pruned: Side, on_piece: Callable[[float], None], check: Callable[[], None], ranks: Ranks = ALONE
) -> Predictions:
    """The same for two models of different tokens: one head after the other, and no likeness."""
    (first, answers), (second, others) = (_predict(side, on_piece, check, ranks) for side in (dense, pruned))
    return Predictions(first, second, dense_answers=answers, pruned_answers=others)


def _predict(
    side: Side, on_piece: Callable[[float], None], check: Callable[[], None], ranks: Ranks
) -> tuple[dict[str, Losses], list[Answer]]:
    asked = side.questions.scores(side.asked, check)
    losses = TokenLosses(side.states, side.tokens, side.model.device)
    side.model.head.measure([losses, *asked], on_piece, is_read=_is_read(side, asked, ranks))
    return _losses(side, ranks.collect(losses.losses())), side.questions.answers(asked)


def _is_read(side: Side, asked: Sequence[TargetScores], ranks: Ranks) -> bool:
    """Whether others read the head, even if this rank has nothing to measure."""
    return ranks.count > 1 and (bool(side.all_batches) or ranks.share(lambda: bool(asked)))


def _losses(side: Side, nats: Sequence[Tensor]) -> dict[str, Losses]:
    return {name: side.scored(name).losses(parts) for name, parts in side.by_language(nats).items()}


def _likeness(side: Side, found: Sequence[Compared]) -> dict[str, Likeness]:
    divergence = side.by_language([each.divergence for each in found])
    agrees = side.by_language([each.agrees for each in found])
    known = {name: side.scored(name).likeness(divergence[name], agrees[name]) for name in divergence}
    return {name: likeness for name, likeness in known.items() if likeness is not None}
