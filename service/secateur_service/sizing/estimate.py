"""What a job will cost, from the shapes of the model: bytes, memory, disk and floating-point operations.

Operations are counted in `operations`; nothing is loaded and torch is not imported. With T calibration tokens in L
languages, hidden size d, vocabulary V, and layers m×n that share distinct inputs of widths n:

- full second moments take 4·n² bytes each: for one input of a block at a time in order `true_sequential`, for all at
  once in the others, and per language with `minimax`;
- where they are not kept per language, a sample of each language's inputs is held until the layers are judged;
- channels to be removed are chosen with second moments per language and float64 copies of them;
- for experts, inputs that do not fill a tile are held until more arrive, per expert and language;
- a model that is asked which tokens it expects runs over some of the text, and its head twice;
- text that the model generates itself takes 2 operations per parameter and token, and as many to judge it; the whole
  model is then in memory, with keys and values of a batch of texts, and the logits of one;
- continuations of evaluation text take the whole model too, the dense one and then the written one, and 2 operations
  per parameter and token with each;
- requests of tasks run through both models, and the head for what they score;
- the work directory holds four blocks at a time, because finished ones are moved to the store, and in the end the
  tensors outside the blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

from secateur_service.calibration.demand import evaluation_demand
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.configuration import text_configuration
from secateur_service.models.plan import OutputPlan
from secateur_service.models.plan_file import PlanFile
from secateur_service.models.units import adds_to_states, heads_of, inputs_of, unit_count
from secateur_service.pruning.methods import Recipe
from secateur_service.pruning.structured.vocabulary import rounded_rows
from secateur_service.records.blocks import Axis
from secateur_service.records.result import Estimate, Shortage
from secateur_service.sizing.budget import EXPECTED_OVER_TOKENS, HEAP_SLACK_BYTES, written_at_once
from secateur_service.sizing.budget_search import TRIALS, most_removed
from secateur_service.sizing.continuations import Continuing, item_bytes
from secateur_service.sizing.depth import SCORED_EVERY, depth_sequences, search_operations
from secateur_service.sizing.durations import (
    UNKNOWN,
    Amounts,
    Hardware,
    expected_durations,
    largest_block_bytes,
    outer_bytes,
    readings_of,
)
from secateur_service.sizing.margin import growth_margin
from secateur_service.sizing.memory import working_bytes
from secateur_service.sizing.operations import Work, groups_of, mixing_of
from secateur_service.spec import PruneSpec, ShrinkSpec

# Resident memory of a process that has imported everything and run a tiny job, measured with the pinned versions.
_PROCESS_BYTES = 480 << 20
# The harness of tasks and its items, measured with 840 of them.
_HARNESS_BYTES = 160 << 20
_BATCH_TEXTS = 16
# Vocabulary, merges and counts in Python while rows are chosen, per token; measured on Gemma's.
_VOCABULARY_BYTES = 4 << 10
# Tokens of an item of a task that run through the blocks, and those of them that are scored, before they are known:
# a question of a paragraph with four short answers.
_ITEM_TOKENS, _ITEM_ANSWERS = 256, 32
# Waiting for the disk, then for those before them, and being moved to the object store; others are being written.
_BLOCKS_ON_DISK = 4


def estimate_cost(
    checkpoint: Checkpoint,
    spec: PruneSpec,
    *,
    on_device: bool,
    shortages: Collection[Shortage] = (),
    plan: PlanFile | None = None,
    asked: tuple[int, int] | None = None,
    hardware: Hardware = UNKNOWN,
) -> Estimate:
    """Estimate a job.

    Args:
        checkpoint: the model.
        spec: the resolved specification.
        on_device: whether an accelerator computes; its memory is then counted separately from the host's.
        shortages: kinds of memory that the job has to save.
        plan: that of another job, if the specification names it and it was read.
        asked: tokens of the requests of tasks, and those of them that are scored, once they are known; before, each
            name in the specification is taken for one task with as many items as the limit allows.
        hardware: what would run it, for an estimate of the time.
    """
    length = spec.calibration.sequence_length or 1
    vocabulary, hidden = checkpoint.tensors[checkpoint.head_name].shape
    tokens, answers = asked or _expected_questions(spec)
    work = replace(_work_of(checkpoint, spec), asked=tokens, answered=answers)
    flops, solving = 0.0, 0.0
    for index, groups in enumerate(work.blocks):
        flops += (
            work.asking(index)
            + work.evaluating(index)
            + work.calibrating(index)
            + work.narrowing(index)
            + work.following(index)
        )
        flops += work.training(index)
        flops += work.carrying(index) if work.order == "block" or work.asymmetric or work.epochs else 0.0
        flops += sum(work.judging(group) for group in groups)
        solving += sum(work.solving(group) for group in groups)
        if spec.pruning and spec.pruning.allocation.policy != "uniform":
            flops += work.forward(work.calibration, index)
    removed = _most_removed(spec, checkpoint)
    searched, trials = _Search.of(work, removed), 0
    flops += searched.flops + _expecting(work, spec)
    if spec.shrink is not None and spec.shrink.budget is not None:
        trials = TRIALS + 1
        flops += trials * _trial_operations(work, spec)
    device, item = "cuda" if on_device else "cpu", item_bytes(checkpoint, on_device=on_device)
    peaks = {"cpu": 0, "cuda": 0, "disk": 0}
    mixture = checkpoint.architecture.mixture
    copies = max(group.experts for groups in work.blocks for group in groups) if mixture and mixture.scaled else 0
    peaks[device] += working_bytes(work, spec, hidden, device, item, copies, small=Shortage.DEVICE in shortages)
    if spec.calibration.generation is not None:
        written = spec.calibration.generation.resolved(length)
        texts = _BATCH_TEXTS * ((written.prefix_tokens or 0) + (written.new_tokens or 0))
        cached = 2 * texts * hidden * checkpoint.num_blocks * item  # keys and values, as wide as the hidden states
        peaks[device] = max(
            peaks[device], checkpoint.parameters * item + cached + texts // _BATCH_TEXTS * vocabulary * item
        )
        flops += 4.0 * checkpoint.parameters * work.calibration / (1 - written.dropped_share)
    continuing = Continuing.of(checkpoint, spec, on_device=on_device)
    peaks[device] = max(peaks[device], continuing.peak_bytes)
    flops += 2 * continuing.flops
    if spec.shrink is not None and spec.shrink.trims:
        peaks["cpu"] = max(peaks["cpu"], _VOCABULARY_BYTES * vocabulary)
    if spec.evaluation.tasks:
        peaks["cpu"] += _HARNESS_BYTES
    peaks[_place_of_states(device, shortages)] += max(_states_values(work, hidden), searched.values) * item
    largest, outer = largest_block_bytes(checkpoint), outer_bytes(checkpoint)
    output = _output(checkpoint, spec.shrink, plan) if spec.shrink else checkpoint
    budget = spec.shrink.budget if spec.shrink else None
    share = budget.parameters if budget else 1.0
    output_bytes = int(share * output.size_bytes)
    blocks_on_disk = _BLOCKS_ON_DISK + written_at_once(on_device=on_device)
    head = work.head()
    amounts = Amounts.of(
        checkpoint,
        output_bytes,
        passes=flops,
        solving=solving,
        head=head,
        readings=readings_of(spec, removed),
        trials=trials,
    )
    expected = expected_durations(amounts, hardware)
    return Estimate(
        checkpoint_bytes=checkpoint.size_bytes,
        peak_host_bytes=_PROCESS_BYTES
        + HEAP_SLACK_BYTES
        + _blocks_in_transit(on_device=on_device) * largest
        + peaks["cpu"],
        peak_device_bytes=peaks["cuda"],
        disk_bytes=min(checkpoint.size_bytes, blocks_on_disk * largest + outer) + peaks["disk"],
        flops=flops + solving + head,
        parameters=checkpoint.parameters,
        output_parameters=int(share * output.parameters),
        output_bytes=output_bytes,
        seconds={name: found.seconds for name, found in expected.items()},
        bounds={name: found.bound_by for name, found in expected.items()},
        growth_margin=growth_margin(_least_evaluated(spec)),
    )


def _blocks_in_transit(*, on_device: bool) -> int:
    """Blocks in the host's memory: one is read while others are written.

    With a device they are in page-locked memory, which comes in powers of two: up to a third more on published models.
    """
    blocks = 1 + written_at_once(on_device=on_device)
    return blocks + 1 if on_device else blocks


def trial_operations_of(checkpoint: Checkpoint, spec: PruneSpec) -> float:
    """The work of trying a plan for a budget; what the projections lose is found out at about that price."""
    return _trial_operations(_work_of(checkpoint, spec), spec)


def _work_of(checkpoint: Checkpoint, spec: PruneSpec) -> Work:
    """The work of the pass, and of what goes before it."""
    length = spec.calibration.sequence_length or 1
    axes, follows = _solved(spec, checkpoint)
    vocabulary, hidden = checkpoint.tensors[checkpoint.head_name].shape
    asymmetric = bool(spec.pruning and spec.pruning.asymmetric)
    return Work(
        blocks=[list(groups_of(checkpoint, index)) for index in range(checkpoint.num_blocks)],
        mixing=mixing_of(checkpoint),
        hidden=hidden,
        vocabulary=vocabulary,
        length=length,
        calibration=spec.calibration.samples_per_language * len(spec.calibration.languages) * length,
        evaluation=spec.evaluation.tokens_per_language // length * length * len(spec.evaluation.languages),
        languages=len(spec.calibration.languages),
        recipe=spec.recipe,
        order=spec.order,
        minimax=spec.calibration.policy == "minimax",
        layer_snr=spec.evaluation.layer_snr and spec.pruning is not None,
        narrowed=inputs_of(checkpoint, axes),
        follows=(follows or spec.reconstruction is not None or asymmetric) and spec.order != "dense",
        asymmetric=asymmetric,
        shrinks=spec.shrink is not None,
        epochs=spec.reconstruction.epochs if spec.reconstruction else 0,
        scanned=checkpoint.architecture.scanned(text_configuration(checkpoint)),
    )


def _trial_operations(work: Work, spec: PruneSpec) -> float:
    """The work of trying a plan: the pass without pruning, on a part of the calibration text."""
    fitted, scored = _searched_tokens(work)
    kept = len(spec.kept_languages) / max(1, work.languages)
    tried = replace(
        work,
        calibration=fitted,
        evaluation=int(kept * scored),
        recipe=Recipe.of("magnitude"),
        asked=0,
        answered=0,
        layer_snr=False,
        minimax=False,
        asymmetric=False,
        epochs=0,
    )
    blocks = range(len(work.blocks))
    each = (tried.evaluating(at) + tried.narrowing(at) + tried.following(at) + tried.carrying(at) for at in blocks)
    return tried.head() + sum(each)


def _expected_questions(spec: PruneSpec) -> tuple[int, int]:
    """Tokens of the requests of tasks, and those of them that are scored, as far as the specification says."""
    items = len(spec.evaluation.tasks) * (spec.evaluation.task_limit or 0)
    return items * _ITEM_TOKENS, items * _ITEM_ANSWERS


def _expecting(work: Work, spec: PruneSpec) -> float:
    """The work of asking the model which tokens it expects: a pass, and the head twice."""
    asked = spec.shrink and spec.shrink.vocabulary
    if not asked or asked.prior != "model":
        return 0.0
    each = min(work.calibration // max(1, work.languages), max(work.length, EXPECTED_OVER_TOKENS))
    tokens = each * len(spec.kept_languages)
    forward = sum(work.forward(tokens, index) for index in range(len(work.blocks)))
    return forward + 4.0 * tokens * work.vocabulary * work.hidden


def _searched_tokens(work: Work) -> tuple[int, int]:
    """Tokens that something is fitted to before the pass, and tokens that are scored."""
    tokens = min(work.calibration, depth_sequences(work.length, work.languages) * work.length * work.languages)
    scored = tokens // SCORED_EVERY
    return tokens - scored, scored


def _output(checkpoint: Checkpoint, shrink: ShrinkSpec, given: PlanFile | None) -> Checkpoint:
    """The largest model that the job may write."""
    plan = OutputPlan.identity(checkpoint)
    counts: dict[Axis, int] = {}
    if shrink.kv_heads is not None:
        counts["attention"] = heads_of(checkpoint).keys - shrink.kv_heads.remove
    if shrink.feed_forward is not None:
        counts["feed_forward"] = shrink.feed_forward.channels_of(unit_count(checkpoint, "feed_forward"))
    kept: dict[str, dict[int, Sequence[int]]] = {}
    if shrink.vocabulary is not None and shrink.vocabulary.rows is not None:
        rows: Sequence[int] = range(rounded_rows(shrink.vocabulary.rows))
        kept = {name: {0: rows} for name in (checkpoint.embedding_name, checkpoint.head_name)}
    blocks = plan.blocks[shrink.blocks.remove :] if shrink.blocks else plan.blocks
    if given is not None:
        counts = given.counts(checkpoint)
        rows = given.vocabulary.indices if given.vocabulary else ()
        kept = {name: {0: rows} for name in (checkpoint.embedding_name, checkpoint.head_name) if rows}
        blocks = plan.blocks[len(given.removed_blocks) :]
    return replace(plan, narrowed=counts, kept=kept, blocks=blocks).output()


def _least_evaluated(spec: PruneSpec) -> int:
    """Tokens of each language with which an evaluation of short documents ends."""
    evaluation, length = spec.evaluation, spec.calibration.sequence_length or 1
    languages = len(evaluation.languages)
    return evaluation_demand(evaluation.tokens_per_language, evaluation.least_tokens, languages, length).tokens


def _states_values(work: Work, hidden: int) -> int:
    """Number of values in all hidden states that are propagated from block to block."""
    copies = work.needs_data + work.follows
    copies += work.asymmetric and work.shrinks  # the goal besides what it comes from
    return (copies * work.calibration + 2 * (work.evaluation + work.asked)) * hidden


def _solved(spec: PruneSpec, checkpoint: Checkpoint) -> tuple[tuple[Axis, ...], bool]:
    """The axes whose projections are solved anew, and whether blocks follow the dense model.

    With a budget or the plan of another job, which is not looked at here, all that they can ask for.
    """
    if spec.shrink is None:
        return (), False
    axes = spec.shrink.axes
    follows = bool(axes or _most_removed(spec, checkpoint)) and adds_to_states(checkpoint)
    if follows and "feed_forward" not in axes:
        axes = (*axes, "feed_forward")
    return axes, follows


def _most_removed(spec: PruneSpec, checkpoint: Checkpoint) -> int:
    """The number of blocks that are searched for at most; of another job's plan, one, which stands for all of it."""
    shrink = spec.shrink
    if shrink is None:
        return 0
    if shrink.budget is not None:
        parameters = int(shrink.budget.parameters * checkpoint.parameters)
        return most_removed(checkpoint, parameters) if "blocks" in shrink.budget.axes else 0
    return shrink.blocks.remove if shrink.blocks else int(shrink.plan is not None)


@dataclass(frozen=True)
class _Search:
    """The search for removable blocks: its work, and the number of values that wait between two blocks."""

    flops: float = 0.0
    values: int = 0

    @classmethod
    def of(cls, work: Work, removed: int) -> Self:
        if not removed:
            return cls()
        blocks = len(work.blocks)
        fitted, scored = _searched_tokens(work)
        forward = sum(work.forward(1, index) for index in range(blocks)) / blocks
        head = 2.0 * work.vocabulary * work.hidden
        amounts = search_operations(blocks, removed, fitted, scored, forward, head)
        widest = max(groups[-1].width for groups in work.blocks)
        # Two sets of states and of inputs, and a copy of the scored text's states for every block.
        return cls(
            sum(amounts.values()), 2 * (fitted + scored) * (work.hidden + widest) + blocks * scored * work.hidden
        )


def _place_of_states(device: str, shortages: Collection[Shortage]) -> str:
    if device == "cuda" and Shortage.DEVICE not in shortages:
        return "cuda"
    return "disk" if Shortage.HOST in shortages else "cpu"
