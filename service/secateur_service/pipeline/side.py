"""One of the two models that a pass compares, with the evaluation text on its way through it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from secateur_service.evaluation.scoring import Scored
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.batches import Batch, divide, own_share
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.neuron_watch import Watch
from secateur_service.pipeline.pass_config import PassConfig, Samples
from secateur_service.pipeline.questions import Questions
from secateur_service.pipeline.shared_states import SharedStates
from secateur_service.pruning.ranks import ALONE, Ranks
from secateur_service.sizing.operations import Work
from secateur_service.tasks.requests import Request


@dataclass
class Side:
    """The dense model or the output.

    Attributes:
        model: the model.
        text: evaluation text in its tokens.
        batches: this rank's batches of the same text.
        all_batches: those of all ranks, in order.
        questions: the requests of tasks in its tokens.
        work: the work of a pass through it, counted as if it were the only model.
        states: hidden states B×S×d of every batch, between two blocks.
        asked: those of the requests, of all parts of the branches.
        watch: counts active neurons while the text runs through a block; None where they are not asked for.
    """

    model: StreamedModel
    text: Samples
    batches: Sequence[Batch]
    questions: Questions
    work: Work
    states: list[Tensor] = field(default_factory=list)
    asked: list[Tensor] = field(default_factory=list)
    watch: Watch | None = None
    all_batches: Sequence[Batch] = ()
    _shared: SharedStates | None = None

    @classmethod
    def of(
        cls,
        model: StreamedModel,
        config: PassConfig,
        calibration: Samples,
        evaluation: Samples,
        requests: Sequence[Request],
        sequences: int,
        ranks: Ranks = ALONE,
    ) -> Side:
        """A side before the pass.

        Args:
            model: the model.
            config: what the pass does.
            calibration: calibration text in its tokens.
            evaluation: evaluation text in its tokens.
            requests: of tasks, in its tokens.
            sequences: of a batch, at most.
            ranks: who has the batches; the requests are the first one's.
        """
        questions = Questions.of(requests, model)
        work = config.work(model.checkpoint, calibration, evaluation)
        work = replace(work, asked=questions.tokens, answered=questions.scored)
        batches = divide({name: sample.tokens for name, sample in evaluation.items()}, sequences)
        return cls(model, evaluation, own_share(batches, ranks), questions, work, all_batches=batches)

    @property
    def tokens(self) -> list[Tensor]:
        """The token ids B×S of every batch."""
        return [batch.tokens for batch in self.batches]

    def share(self, shared: SharedStates) -> None:
        """Take over from earlier jobs what blocks make of the states, and keep for later ones what they do not have.

        Called once the model has embedded the text and the requests.
        """
        self._shared = shared
        parts = [part for each in self.questions.branches for part in each.parts]
        counts = self.watch.counts(0) if self.watch else []
        states = [*self.states, *self.asked, *counts]
        shared.begin(states, [*self.tokens, *parts], self.questions.groups, self.model.num_blocks)

    def propagate(self, block: nn.Module, index: int, meter: Meter, check: Callable[[], None]) -> None:
        """Run all states through a block.

        Args:
            block: of the model, in memory.
            index: its position.
            meter: counts the work.
            check: called before every piece of work; raises to stop.
        """
        shared = self._shared
        if shared is not None:
            states = [*self.states, *self.asked, *(self.watch.counts(index) if self.watch else [])]
            if shared.recall(index, states, self.model.put_aside):
                text, count = len(self.states), len(self.states) + len(self.asked)
                self.states, self.asked = states[:text], states[text:count]
                if self.watch is not None:
                    self.watch.recall(index, states[count:])
                meter.skip("evaluate", (self.work.evaluating(index) + self.work.asking(index)) / 2)
                meter.lap()
                return
        with self.watch.counting(block, index) if self.watch else contextlib.nullcontext():
            self._run(block, index, meter, check)
        if shared is not None:
            shared.keep([*self.states, *self.asked, *(self.watch.counts(index) if self.watch else [])])

    def _run(self, block: nn.Module, index: int, meter: Meter, check: Callable[[], None]) -> None:
        own = sum(batch.tokens.numel() for batch in self.batches)
        for position, batch in enumerate(self.batches):
            check()
            self.states[position] = self.model.run_block(block, index, self.states[position])
            share = batch.tokens.numel() / own  # all ranks are done at about the same time
            meter.tick("evaluate", share * self.work.evaluating(index) / 2)

        def tick(tokens: int) -> None:
            check()
            meter.tick("evaluate", tokens / self.work.asked * self.work.asking(index) / 2)

        self.questions.propagate(self.model, block, index, self.asked, tick)

    def by_language(self, values: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """What was found for each batch of all ranks, by language."""
        collected: dict[str, list[Tensor]] = {name: [] for name in self.text}
        for batch, found in zip(self.all_batches, values, strict=True):
            collected[batch.language].append(found)
        return collected

    def scored(self, language: str) -> Scored:
        """Which tokens of a language's text count."""
        sample = self.text[language]
        return Scored(sample.token_bytes, sample.is_text, sample.document_of)


def snr_db(dense: Side, pruned: Side, check: Callable[[], None], ranks: Ranks = ALONE) -> dict[str, float]:
    """10·log10(‖h‖² / ‖h − ĥ‖²) over the evaluation states of each language; omitted where nothing differs.

    Raises:
        FloatingPointError: states that are not finite.
    """
    powers = []
    for clean, noisy in zip(dense.states, pruned.states, strict=True):
        check()
        powers.append((float(clean.float().square().sum()), float((clean - noisy).float().square().sum())))
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for batch, (there, lost) in zip(dense.all_batches, ranks.collect(powers), strict=True):
        signal[batch.language] = signal.get(batch.language, 0.0) + there
        noise[batch.language] = noise.get(batch.language, 0.0) + lost
    for language, power in noise.items():
        if not math.isfinite(power):
            raise FloatingPointError(f"hidden states of language {language} that are not finite")
    return {name: 10 * math.log10(signal[name] / noise[name]) for name in signal if noise[name] > 0}
