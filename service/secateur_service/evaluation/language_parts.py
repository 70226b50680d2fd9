"""The parts of a report that say what languages share: the affinity with the calibration mix, and language neurons."""

from __future__ import annotations

from pydantic import Field

from secateur_service.evaluation.parts import Interval, Part, Share


class LanguageAffinityPart(Part):
    """How alike an evaluation language and the calibration mix are."""

    estimate: Share = Field(
        description="exp(−s), s the standard deviation over the channels of the logarithm of the ratio of their root "
        "mean squares in the language and in the mix, averaged over the inputs of the first block's layers: 1 if alike"
    )
    interval: Interval = Field(description="with 95 % confidence, from the parts of its text")


class AffinityPart(Part):
    """How well the calibration mix covers the evaluation languages, measured in the dense model before the pruning."""

    tokens: int = Field(ge=1, description="of each language, that were looked at")
    of_mix: Share = Field(description="mean affinity of parts of the mix's own text with the rest of it")
    spread: float = Field(ge=0, description="standard deviation of these parts")
    threshold: float = Field(
        description="below it a language is poorly covered; of evaluations on text like the mix's, at most 2.5 % would "
        "say so"
    )
    languages: dict[str, LanguageAffinityPart]


class LanguageSurvivalPart(Part):
    """What became of the neurons that belong to one language."""

    language: str
    neurons: int = Field(description="that the dense model has")
    kept: int = Field(description="those of them that the output has: fewer if channels or blocks were removed")
    in_output: int = Field(
        description="that the output has by its own measure, whether the dense model has them or not"
    )
    found_again: Share | None = Field(
        description="share of those found on one half of the text that the dense model has on the other half too: what "
        "the sample allows; null if there are none"
    )
    survived: Share | None = Field(description="share of the same that the output has on the other half")
    weights_kept: Share | None = Field(description="share of the weights of those that are kept that are not zero")


class LanguageNeuronsPart(Part):
    """Neurons of gated feed-forward layers that belong to a language (LAPE, 2402.16438), on the evaluation text."""

    neurons: int = Field(description="of the dense model, of all kinds")
    kept: int = Field(description="those of them that the output has")
    weights_kept: Share | None = Field(description="share of the weights of all of these that are not zero")
    languages: tuple[LanguageSurvivalPart, ...]
