"""Whether the corpora of a job have as much text as it draws.

What certainly cannot suffice is refused, all languages at once; what may not, as the number of bytes suggests, is a
warning. Nothing is known of presets of the hub and of text that the model generates; of remote and of large files, only
the size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus
from secateur_service.calibration.demand import Demand, Lack, evaluation_demand, named_amounts, too_little
from secateur_service.calibration.languages import spelling_of
from secateur_service.calibration.splitting import EVALUATION_SHARE, for_evaluation
from secateur_service.calibration.supply import (
    BYTES_PER_TOKEN,
    MOST_BEGINNING_TOKENS,
    SAFE_BYTES_PER_TOKEN,
    ReadBudget,
    Supply,
    supply_of,
    supply_of_sizes,
)
from secateur_service.errors import FieldViolation
from secateur_service.spec import CalibrationSpec, EvaluationSpec

_READ_BYTES = 8 << 20
"""The most that is read of the text of a job: about a second of the budget of an inspection."""


@dataclass(frozen=True)
class CorpusText:
    """The files of a corpus, by the languages that were looked for and found.

    Attributes:
        uri: the corpus.
        folder: where it is on this machine; None for one that is elsewhere.
        files: names and sizes.
    """

    uri: str
    folder: Path | None
    files: Mapping[str, Sequence[tuple[str, int]]]


@dataclass(frozen=True)
class _Purpose:
    """What one purpose draws from a corpus."""

    demand: Demand
    text: CorpusText
    text_field: str
    languages: Sequence[str]
    fields: Sequence[str]
    shares: bool

    def accepts(self, document: str) -> bool:
        """Whether a document may be drawn for it."""
        return not self.shares or for_evaluation(document) == (self.demand.purpose == "evaluation")

    def supply(self, language: str, budget: ReadBudget) -> Supply:
        """The text of a language."""
        if self.text.folder is None:
            found = supply_of_sizes(self.text.files[language])
        else:
            corpus = FolderCorpus(self.text.folder, self.text_field)
            enough = BYTES_PER_TOKEN * self.demand.tokens
            found = supply_of(corpus, language, self.accepts, enough, budget)
        return found


@dataclass
class _Findings:
    """What a purpose lacks, by language: tokens at the most, and bytes that may be too few."""

    short: dict[str, Supply]
    thin: dict[str, Supply]


def check_text(
    calibration: CalibrationSpec,
    evaluation: EvaluationSpec,
    length: int,
    found: Mapping[str, CorpusText],
    least_sequences: int = 1,
) -> tuple[list[FieldViolation], list[FieldViolation]]:
    """What cannot suffice, and what may not.

    Args:
        calibration: the part of the specification.
        evaluation: likewise.
        length: tokens of a sequence.
        found: the text of those of the two parts whose corpora are files.
        least_sequences: of each language, which what is proposed leaves.
    """
    violations, warnings, lacking = [], [], []
    budget = ReadBudget(_READ_BYTES)
    for purpose in _purposes(calibration, evaluation, length, found, least_sequences):
        lacks, refused = _look(purpose, budget)
        violations += [violation for violation in refused if violation not in violations]
        if lacks.short:
            lacking.append(_lack(purpose, lacks))
        if lacks.thin:
            warnings.append(FieldViolation(purpose.demand.field, _warning(purpose, lacks.thin)))
    violations += [FieldViolation(field, told) for field, told in too_little(lacking).items()]
    return violations, warnings


def _purposes(
    calibration: CalibrationSpec,
    evaluation: EvaluationSpec,
    length: int,
    found: Mapping[str, CorpusText],
    least_sequences: int,
) -> list[_Purpose]:
    """Those whose text can be counted: a chat template adds to it, and a model that generates text makes its own."""
    mix = [entry.language for entry in calibration.languages]
    mix_fields = [f"calibration.languages[{position}].language" for position in range(len(mix))]
    scored, scored_fields = mix, mix_fields
    if evaluation.languages:
        scored = list(evaluation.languages)
        scored_fields = [f"evaluation.languages[{position}]" for position in range(len(scored))]
    fitted_text = found.get("calibration")
    scored_text = found.get("evaluation") or (None if evaluation.corpus else fitted_text)
    talks = calibration.chat_template if evaluation.chat_template is None else evaluation.chat_template
    shares = fitted_text is not None and scored_text is not None and _place(fitted_text) == _place(scored_text)
    purposes = []
    if scored_text is not None and not talks:
        demand = evaluation_demand(evaluation.tokens_per_language, evaluation.least_tokens, len(scored), length)
        field = evaluation.text_field or calibration.text_field
        purposes.append(_Purpose(demand, scored_text, field, scored, scored_fields, shares))
    if fitted_text is not None and not calibration.chat_template and calibration.generation is None:
        demand = Demand("calibration", len(mix), calibration.samples_per_language, length, least_sequences)
        purposes.append(_Purpose(demand, fitted_text, calibration.text_field, mix, mix_fields, shares))
    return purposes


def _place(text: CorpusText) -> str:
    return text.uri if text.folder is None else str(text.folder.resolve())


def _look(purpose: _Purpose, budget: ReadBudget) -> tuple[_Findings, list[FieldViolation]]:
    lacks, refused = _Findings({}, {}), []
    demand = purpose.demand
    least = demand.sequences * (demand.length - MOST_BEGINNING_TOKENS)
    for field, language in zip(purpose.fields, purpose.languages, strict=True):
        if language not in purpose.text.files:
            continue  # refused already
        try:
            supply = purpose.supply(language, budget)
        except CorpusRefusedError as error:
            refused.append(FieldViolation(field, f"{spelling_of(language)!r}: the corpus: {error}"))
            continue
        if supply.most_tokens is not None and supply.most_tokens < least:
            lacks.short[language] = supply
        elif supply.size_bytes < demand.tokens * (BYTES_PER_TOKEN if supply.most_tokens is not None else 1):
            lacks.thin[language] = supply
    return lacks, refused


def _lack(purpose: _Purpose, lacks: _Findings) -> Lack:
    """What is lacking. A language that may have too little can have less than one that certainly has."""
    sizes = [
        supply.size_bytes // (1 if supply.is_read or not purpose.shares else 2 * EVALUATION_SHARE)
        for supply in (*lacks.short.values(), *lacks.thin.values())
    ]
    return Lack(
        purpose.demand,
        {language: supply.most_tokens or 0 for language, supply in lacks.short.items()},
        min(sizes) // SAFE_BYTES_PER_TOKEN,
        bound="at most ",
        share=_share(purpose),
        split=purpose.shares,
    )


def _warning(purpose: _Purpose, thin: Mapping[str, Supply]) -> str:
    demand = purpose.demand
    amounts = named_amounts({language: supply.size_bytes for language, supply in thin.items()}, "bytes")
    return (
        f"there may be too little text: there are {amounts}{_share(purpose)}, and {demand.tokens:,} tokens of each "
        "language are drawn; where it does not suffice, the job fails"
    )


def _share(purpose: _Purpose) -> str:
    if not purpose.shares:
        return ""
    share = 1 if purpose.demand.purpose == "evaluation" else EVALUATION_SHARE - 1
    return f" in about {share} of {EVALUATION_SHARE} documents, as one corpus serves both purposes"
