"""A report.json: plain data, with its figures as typed objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

Interval = tuple[float, float]
_FIGURES = (
    "dense_perplexity",
    "pruned_perplexity",
    "perplexity_ratio",
    "dense_bits_per_byte",
    "pruned_bits_per_byte",
    "bits_per_byte_growth",
    "kl_divergence",
    "agreement",
)
"""What has an interval, in the order of `LanguageReport`."""
_GRAVITY = ("PASS", "CANNOT_TELL", "FAIL")


@dataclass(frozen=True)
class LanguageReport:
    """What pruning cost one language.

    Attributes:
        language: BCP 47 tag.
        in_mix: Whether the job calibrated on it.
        tokens: Scored tokens of the dense model.
        dense_perplexity: Of the dense model.
        pruned_perplexity: Of the output, per token of the dense model.
        perplexity_ratio: Pruned over dense.
        dense_bits_per_byte: Of the dense model.
        pruned_bits_per_byte: Of the output.
        kl_divergence: Mean KL(dense ‖ pruned) of the predictions, nats per token; None if the vocabulary was trimmed.
        agreement: Share of tokens for which both find the same one most probable; likewise.
        intervals: 95 % confidence intervals by the name of the figure, in the order of the figures here, with that of
            `bits_per_byte_growth` after bits per byte. Empty with few documents, and in reports of older releases.
        band: How much the perplexity grew, in a word, from `kept` to `lost`; None in reports of older releases.
        digest: SHA-256 of the token ids of the evaluation text; likewise.
    """

    language: str
    in_mix: bool
    tokens: int
    dense_perplexity: float
    pruned_perplexity: float
    perplexity_ratio: float
    dense_bits_per_byte: float
    pruned_bits_per_byte: float
    kl_divergence: float | None
    agreement: float | None
    intervals: Mapping[str, Interval]
    band: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class TaskReport:
    """What pruning cost in one metric of a task; None is what cannot be computed.

    Attributes:
        task: lm-evaluation-harness' name of it.
        language: BCP 47 tag; None if neither the task nor its name says.
        metric: lm-evaluation-harness' name of it.
        samples: Items, the same for both models.
        dense: Of the dense model.
        pruned: Of the output.
        dense_stderr: Standard error of `dense`.
        pruned_stderr: Standard error of `pruned`.
        difference: Pruned less dense.
        difference_stderr: Its standard error, item by item.
        flips: Share of items that one model has right and the other wrong.
        items: SHA-256 of the items and of what was asked of them, equal where the same was asked; empty if unknown.
        higher_is_better: Of the metric; None if the task does not say, and in reports of older releases.
    """

    task: str
    language: str | None
    metric: str
    samples: int
    dense: float | None
    pruned: float | None
    dense_stderr: float | None
    pruned_stderr: float | None
    difference: float | None
    difference_stderr: float | None
    flips: float | None
    items: str = ""
    higher_is_better: bool | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """From plain data."""
        known = [field.name for field in fields(cls) if field.name in entry or field.default is MISSING]
        return cls(**{name: entry[name] for name in known})


@dataclass(frozen=True)
class Continuation:
    """A text that both models continued.

    Attributes:
        prompt: The beginning of a document of the evaluation text.
        dense: What the dense model added; empty if it ended the text.
        pruned: What the output added.
    """

    prompt: str
    dense: str
    pruned: str


@dataclass(frozen=True)
class ContinuedLanguage:
    """A few texts of a language that both models continued: a look at them, and no evidence of quality.

    Attributes:
        language: BCP 47 tag.
        dense_repetition: Share of sequences of four tokens that occurred before in the continuation, mean over the
            texts; None if none is long enough.
        pruned_repetition: Of the output.
        dense_off_language: Share of the continuations that do not seem to be in the language; None if that cannot be
            told.
        pruned_off_language: Of the output.
        dense_judged: How many continuations could be judged so, and `dense_off_language` is the share of.
        pruned_judged: Of the output.
        texts: The texts.
    """

    language: str
    dense_repetition: float | None
    pruned_repetition: float | None
    dense_off_language: float | None
    pruned_off_language: float | None
    dense_judged: int
    pruned_judged: int
    texts: tuple[Continuation, ...]


@dataclass(frozen=True)
class AffinityReport:
    """How well the calibration mix covers the evaluated languages, measured before the pruning.

    Attributes:
        of_mix: Affinity of the mix's own text with the rest of it, on average.
        spread: Its standard deviation.
        threshold: Below it, a language is poorly covered.
        languages: The affinity of each evaluated language with the mix, from 0 to 1.
        intervals: The same with 95 % confidence.
    """

    of_mix: float
    spread: float
    threshold: float
    languages: Mapping[str, float]
    intervals: Mapping[str, Interval]

    @property
    def poorly_covered(self) -> list[str]:
        """The languages below the threshold, the least covered first."""
        below = [name for name, found in self.languages.items() if found < self.threshold]
        return sorted(below, key=lambda name: self.languages[name])


@dataclass(frozen=True)
class LanguageNeurons:
    """What became of the feed-forward neurons that belong to one language (LAPE).

    Attributes:
        language: BCP 47 tag.
        neurons: That the dense model has.
        kept: Those of them that the output has.
        in_output: That the output has by its own measure.
        found_again: Share of those found on one half of the text that the dense model has on the other half too; None
            if there are none.
        survived: Share of the same that the output has on the other half.
        weights_kept: Share of the weights of those that are kept that are not zero.
    """

    language: str
    neurons: int
    kept: int
    in_output: int
    found_again: float | None
    survived: float | None
    weights_kept: float | None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """From plain data."""
        return cls(**{field.name: entry[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Verdict:
    """What the figures mean.

    Attributes:
        kind: Stable, in upper case.
        language: BCP 47 tag; None where it concerns the model as a whole.
        message: In words.
        evidence: The figure that it rests on: `figure`, `estimate`, `threshold`, perhaps `interval` and `z`.
    """

    kind: str
    language: str | None
    message: str
    evidence: Mapping[str, Any] | None


@dataclass(frozen=True)
class Decision:
    """Whether the result may ship, as far as the limits of its specification say.

    Attributes:
        answer: `PASS`, `FAIL` or `CANNOT_TELL`; None if there are no limits.
        sentence: The answer in words.
        languages: The answer of each language that has a limit.
        tasks: The worst answer of each task's metrics, if tasks have a limit.
    """

    answer: str | None
    sentence: str
    languages: Mapping[str, str]
    tasks: Mapping[str, str]


@dataclass(frozen=True)
class Headline:
    """What the languages lost that the model was pruned for.

    Attributes:
        languages: Those that it is about: evaluated languages of the mix, or all evaluated ones if there are none.
        perplexity_ratio: Geometric mean of their growth.
        band: Of that growth, in a word, from `kept` to `lost`.
        sentence: In words.
        also_measured: The other languages in words; None if there are none.
        caveat: What these figures do not show; None if tasks were measured.
        reservation: Why the figures say little of what was lost; None if nothing is known against them.
    """

    languages: tuple[str, ...]
    perplexity_ratio: float
    band: str
    sentence: str
    also_measured: str | None
    caveat: str | None
    reservation: str | None = None


class Report(dict[str, Any]):
    """report.json as the service published it, with its figures as objects.

    It is the plain data itself: `report["evaluation"]` is what the JSON Schema in docs/report.schema.json describes.
    Its keys are sorted, as in the published file. A number without a fraction is an integer here, so that only a
    download has the file's bytes.
    """

    @property
    def languages(self) -> dict[str, LanguageReport]:
        """The evaluated languages by BCP 47 tag."""
        return {entry["language"]: _language(entry) for entry in self["evaluation"]}

    @property
    def headline(self) -> Headline | None:
        """What the languages of the mix lost; None in reports of older releases."""
        found = self.get("headline")
        if found is None:
            return None
        return Headline(
            tuple(found["languages"]),
            float(found["perplexity_ratio"]),
            found["band"],
            found["sentence"],
            found["also_measured"],
            found["caveat"],
            found.get("reservation"),
        )

    @property
    def tasks(self) -> list[TaskReport]:
        """Every metric of the tasks that the job had, in the report's order."""
        return list(map(TaskReport.of, self.get("tasks") or ()))

    @property
    def continuations(self) -> dict[str, ContinuedLanguage]:
        """How both models continue a few texts, by BCP 47 tag of the language; empty if the job was told not to."""
        return {entry["language"]: _continued(entry) for entry in self.get("continuations") or ()}

    @property
    def affinity(self) -> AffinityReport | None:
        """How well the mix covers the languages; None if no text was used in the blocks, and in older reports."""
        found = self.get("affinity")
        if found is None:
            return None
        languages = found["languages"]
        return AffinityReport(
            float(found["of_mix"]),
            float(found["spread"]),
            float(found["threshold"]),
            {name: float(entry["estimate"]) for name, entry in languages.items()},
            {name: (float(entry["interval"][0]), float(entry["interval"][1])) for name, entry in languages.items()},
        )

    @property
    def language_neurons(self) -> dict[str, LanguageNeurons]:
        """What became of the neurons of each language; empty if the job did not ask for them."""
        found = self.get("language_neurons") or {"languages": ()}
        return {entry["language"]: LanguageNeurons.of(entry) for entry in found["languages"]}

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, the most serious kinds first."""
        return [
            Verdict(entry["kind"], entry["language"], entry["message"], entry.get("evidence"))
            for entry in self["verdicts"]
        ]

    @property
    def decision(self) -> Decision | None:
        """Whether the result may ship; None in reports of older releases."""
        found = self.get("decision")
        if found is None:
            return None
        answers = {entry["language"]: entry["answer"] for entry in found["languages"]}
        of_tasks: dict[str, str] = {}
        for entry in found.get("tasks") or ():
            worst = of_tasks.setdefault(entry["task"], entry["answer"])
            of_tasks[entry["task"]] = max(worst, entry["answer"], key=_GRAVITY.index)
        return Decision(found["answer"], found["sentence"], answers, of_tasks)

    def frame(self) -> Any:
        """The languages as a DataFrame of pandas, one row each.

        Columns are the figures of `LanguageReport`, then the bounds of their intervals as `FIGURE_low` and
        `FIGURE_high`, both in the order of that class.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd  # type: ignore[import-untyped]

        rows = []
        for entry in self.languages.values():
            row = asdict(entry)
            for figure, (low, high) in row.pop("intervals").items():
                row |= {f"{figure}_low": low, f"{figure}_high": high}
            rows.append(row)
        frame = pd.DataFrame(rows).set_index("language")
        bounds = [f"{figure}_{end}" for figure in _FIGURES for end in ("low", "high")]
        return frame[[name for name in frame if name not in bounds] + [name for name in bounds if name in frame]]


def _language(entry: Mapping[str, Any]) -> LanguageReport:
    intervals = entry.get("intervals") or {}
    return LanguageReport(
        language=entry["language"],
        in_mix=entry["in_mix"],
        tokens=int(entry["tokens"]),
        dense_perplexity=float(entry["dense_perplexity"]),
        pruned_perplexity=float(entry["pruned_perplexity"]),
        perplexity_ratio=float(entry["perplexity_ratio"]),
        dense_bits_per_byte=float(entry["dense_bits_per_byte"]),
        pruned_bits_per_byte=float(entry["pruned_bits_per_byte"]),
        kl_divergence=_number(entry.get("kl_divergence")),
        agreement=_number(entry.get("agreement")),
        intervals={
            figure: (float(intervals[figure][0]), float(intervals[figure][1]))
            for figure in _FIGURES
            if intervals.get(figure) is not None
        },
        band=entry.get("band"),
        digest=entry.get("digest"),
    )


def _continued(entry: Mapping[str, Any]) -> ContinuedLanguage:
    texts = tuple(Continuation(text["prompt"], text["dense"], text["pruned"]) for text in entry["texts"])
    rates = (f"{model}_{rate}" for rate in ("repetition", "off_language") for model in ("dense", "pruned"))
    return ContinuedLanguage(
        entry["language"],
        texts=texts,
        dense_judged=int(entry["dense_judged"]),
        pruned_judged=int(entry["pruned_judged"]),
        **{name: _number(entry[name]) for name in rates},
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
